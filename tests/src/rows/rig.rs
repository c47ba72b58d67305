//! The surroundings of a row: a namespace with veths and an uplink, the real
//! object loaded and its maps filled as the daemon fills them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Pod,
    maps::{Array, Map, MapData},
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use ipnet::{Ipv4Net, Ipv6Net};
use netbpf::datapath::{
    Datapath, Device, EndpointEntry, GATEWAY_MAC, LocalEntry, NetworkFlags, Options, Service,
    ServiceAt, ServiceBackend, Sizes, SubnetEntry, UplinkEntry,
};
use netbpf_common::{
    maps::{Config, Pool},
    names::{CONFIG, EARLY_DROP, TO_UPLINK},
};

use crate::packets::Way;

use crate::lab::{
    Family, Host, Lab, Namespace,
    names::{self, BACK, FRONT, Net},
};

/// Offsets in `struct __sk_buff`, and enough bytes to hold them.
const CTX_INGRESS_IFINDEX: usize = 36;
const CTX_IFINDEX: usize = 40;
const CTX_SIZE: usize = 192;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_OK: u32 = 0;
/// The verdict of a drop.
pub const TC_ACT_SHOT: u32 = 2;

/// Room that a program may add to a packet.
const GROWTH: usize = 256;

/// A container as a row sees it.
#[derive(Clone, Debug)]
pub struct Member {
    pub entry: EndpointEntry,
}

impl Member {
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ipv4().into(),
            Family::V6 => self.ipv6().into(),
        }
    }

    pub fn ipv4(&self) -> Ipv4Addr {
        self.entry.ipv4.expect("dual-stack").addr()
    }

    pub fn ipv6(&self) -> Ipv6Addr {
        self.entry.ipv6.expect("dual-stack").addr()
    }

    pub fn mac(&self) -> [u8; 6] {
        self.entry.mac
    }

    pub fn ifindex(&self) -> u32 {
        self.entry.device.ifindex
    }
}

/// The uplink as a row sees it.
#[derive(Clone, Debug)]
pub struct Uplink {
    pub entry: UplinkEntry,
    pub mac: [u8; 6],
    /// MAC of the neighbour at its other end.
    pub neighbour: [u8; 6],
}

/// Programs and maps in a namespace of their own:
///
/// ```text
///   web 10.10.1.2  ── front ┐
///   app 10.10.1.3  ── front ┼ host ── up0 192.0.2.1 ──── 192.0.2.2 client
///   other 10.10.2.2 ── back ┘
/// ```
pub struct Rig {
    pub datapath: Datapath,
    pub web: Member,
    pub app: Member,
    pub other: Member,
    pub uplink: Uplink,
    pub client: Namespace,
    host: Host,
    options: Options,
}

/// Both networks as most rows want them.
pub const OPEN: NetworkFlags = NetworkFlags {
    icc: true,
    internal: false,
    masquerade: true,
    overlay: None,
};

/// Makes a rig and runs rows in its namespace.
#[track_caller]
pub fn with_rig(test: &str, rows: impl FnOnce(&Rig) + Send) {
    with_rig_of(test, OPTIONS, rows);
}

/// What a rig may be told.
#[derive(Clone, Copy)]
pub struct RigOptions {
    pub max_flows: u32,
    /// New flows of a client by published ports, in a window of `CLIENT_WINDOW_SHIFT`.
    pub client_rate: u32,
}

/// As rigs are.
pub const OPTIONS: RigOptions = RigOptions {
    max_flows: 1024,
    client_rate: 0,
};

/// With tables for many flows.
pub const ROOMY: RigOptions = RigOptions {
    max_flows: 65_536,
    ..OPTIONS
};

/// The same with other options.
#[track_caller]
pub fn with_rig_of(test: &str, told: RigOptions, rows: impl FnOnce(&Rig) + Send) {
    let lab = Lab::new(test);
    let host = lab.host("rig");
    let client = lab.space("client");
    lab.wire(
        (&host, "up0", &names::HOST_WIRE),
        (&client, "eth0", &names::CLIENT_WIRE),
    );
    let space = (*host).clone();
    let host = &host;
    let lab = &lab;
    space.enter(move || rows(&Rig::make(lab, host, client, told)));
}

impl Rig {
    fn make(lab: &Lab, host: &Host, client: Namespace, told: RigOptions) -> Rig {
        let options = Options {
            timeouts: netbpf_common::flow::Timeouts::DEFAULT,
            bpffs: host.bpffs(),
            sizes: Sizes {
                endpoints: 64,
                flows: told.max_flows,
            },
            masquerade_ports: std::iter::once(1024..=32_767).collect(),
            as_kernel: None,
            client_rate: told.client_rate,
            netns_cookie: 0,
        };
        let datapath = Datapath::open(&options).unwrap_or_else(|e| panic!("open: {e}"));
        let web = member(lab, host, 1, 1, &FRONT, 2);
        let app = member(lab, host, 2, 1, &FRONT, 3);
        let other = member(lab, host, 3, 2, &BACK, 2);
        let uplink = Uplink {
            entry: UplinkEntry {
                device: device(host, "up0"),
                mtu: 1500,
                ethernet: true,
                xdp: false,
                ipv4: names::HOST[0].parse().ok(),
                ipv6: names::HOST[1].parse().ok(),
            },
            mac: host.mac("up0"),
            neighbour: client.mac("eth0"),
        };
        let rig = Rig {
            datapath,
            web,
            app,
            other,
            uplink,
            client,
            host: host.clone(),
            options,
        };
        rig.fill();
        rig
    }

    /// A daemon's view of the same programs and maps, as when one starts again.
    #[track_caller]
    pub fn another_daemon(&self) -> Datapath {
        Datapath::open(&self.options).unwrap_or_else(|e| panic!("open again: {e}"))
    }

    /// An array of the datapath, as others see it.
    #[track_caller]
    pub fn pinned_array<V: Pod>(&self, name: &str) -> Array<MapData, V> {
        pinned_array(&self.bpffs(), name)
    }

    /// Takes all marks of these bit maps away.
    #[track_caller]
    pub fn clear_marks(&self, name: &str) {
        let mut maps = self.pinned_array::<Pool>(name);
        for index in 0..maps.len() {
            maps.set(index, Pool::EMPTY, 0).expect("no marks");
        }
    }

    /// As after programs of a version that set no such marks.
    #[track_caller]
    pub fn forget_marks(&self, name: &str) {
        self.clear_marks(name);
        let mut config = self.pinned_array::<Config>(CONFIG);
        let value = config.get(&0, 0).expect("the config");
        let value = Config { marked: 0, ..value };
        config.set(0, value, 0).expect("the config");
    }

    fn fill(&self) {
        let datapath = &self.datapath;
        datapath
            .attach_uplink(&self.uplink.entry)
            .and_then(|_| datapath.attach_way_out(&self.uplink.entry))
            .unwrap_or_else(|e| panic!("uplink: {e}"));
        for member in [&self.web, &self.app, &self.other] {
            datapath
                .attach_veth(&member.entry.device)
                .and_then(|()| datapath.set_endpoint(&member.entry))
                .unwrap_or_else(|e| panic!("endpoint: {e}"));
        }
        self.set_network_flags(OPEN);
        let local = |text: &str, gateway_of| LocalEntry {
            addr: text.parse().expect("an address"),
            gateway_of,
        };
        let mut locals: Vec<LocalEntry> = names::HOST.map(|ip| local(ip, None)).into();
        locals.extend(FRONT.gateways.map(|ip| local(ip, Some(1))));
        locals.extend(BACK.gateways.map(|ip| local(ip, Some(2))));
        datapath
            .set_locals(&locals)
            .and_then(|()| datapath.trust_marks())
            .unwrap_or_else(|e| panic!("locals: {e}"));
    }

    /// Gives both networks other properties.
    #[track_caller]
    pub fn set_network_flags(&self, flags: NetworkFlags) {
        let mut subnets = Vec::new();
        for (network, net) in [(1, &FRONT), (2, &BACK)] {
            subnets.extend(net.subnets.map(|subnet| SubnetEntry {
                subnet: subnet.parse().expect("a subnet"),
                network,
                flags,
            }));
        }
        self.datapath
            .set_subnets(&subnets)
            .unwrap_or_else(|e| panic!("subnets: {e}"));
        for member in [&self.web, &self.app, &self.other] {
            let entry = EndpointEntry {
                flags,
                ..member.entry.clone()
            };
            self.datapath
                .set_endpoint(&entry)
                .unwrap_or_else(|e| panic!("endpoint: {e}"));
        }
    }

    /// The way of a packet that a member sends, by its gateway.
    pub fn from(&self, member: &Member, to: IpAddr) -> Way {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        Way::new(member.mac(), GATEWAY_MAC, member.ip(family), to)
    }

    /// The way of a packet that reaches a member.
    pub fn into(&self, member: &Member, from: IpAddr) -> Way {
        let family = if from.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        Way::new(GATEWAY_MAC, member.mac(), from, member.ip(family))
    }

    /// The way of a packet that comes by the uplink.
    pub fn by_uplink(&self, from: IpAddr, to: IpAddr) -> Way {
        Way::new(self.uplink.neighbour, self.uplink.mac, from, to)
    }

    /// The way of a packet that leaves by the uplink.
    pub fn out(&self, from: IpAddr, to: IpAddr) -> Way {
        Way::new(self.uplink.mac, self.uplink.neighbour, from, to)
    }

    /// Publishes a port of a member on all addresses of the host.
    #[track_caller]
    pub fn publish(&self, slot: u32, protocol: u8, port: u16, member: &Member, to: u16) {
        self.publish_service(&service(protocol, port, vec![backend(slot, member, to, 1)]));
    }

    #[track_caller]
    pub fn publish_service(&self, service: &Service) {
        self.datapath
            .publish(service)
            .unwrap_or_else(|e| panic!("publish: {e}"));
    }

    /// Runs a packet through a program as if it came by that device, or, of `to_uplink`, as
    /// if a program of the host sent it by that; the code
    /// that it returned, that of TC for what XDP means by its own, and the packet
    /// afterwards.
    #[track_caller]
    pub fn run(&self, program: &str, ifindex: u32, packet: &[u8]) -> (u32, Vec<u8>) {
        // What the host sends has come by no device.
        let came_by = if program == TO_UPLINK { 0 } else { ifindex };
        self.open(program)
            .run(came_by, ifindex, packet)
            .unwrap_or_else(|| panic!("test-run of {program}: the kernel takes no such packet"))
    }

    /// Opens the pinned program, for many a packet.
    #[track_caller]
    pub fn open(&self, program: &str) -> Opened {
        Opened::open(&self.host.bpffs(), program)
    }

    pub fn bpffs(&self) -> PathBuf {
        self.host.bpffs()
    }

    /// Drops by label.
    pub fn drop_counts(&self) -> BTreeMap<&'static str, u64> {
        let drops = self.datapath.drops(None);
        let drops = drops.unwrap_or_else(|e| panic!("drops: {e}"));
        drops.into_iter().map(|(r, n)| (r.label(), n)).collect()
    }
}

/// An array that is pinned.
#[track_caller]
pub fn pinned_array<V: Pod>(bpffs: &Path, name: &str) -> Array<MapData, V> {
    let map = MapData::from_pin(bpffs.join(name)).expect(name);
    Map::Array(map).try_into().expect(name)
}

/// A program that stays open.
pub struct Opened {
    pub name: String,
    loaded: Loaded,
}

impl Opened {
    #[track_caller]
    pub fn open(bpffs: &Path, program: &str) -> Opened {
        let path = bpffs.join("programs").join(program);
        let loaded = if program == EARLY_DROP {
            Xdp::from_pin(&path, XdpAttachType::Interface).map(Loaded::Xdp)
        } else {
            SchedClassifier::from_pin(&path).map(Loaded::Classifier)
        };
        let loaded = loaded.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Opened {
            name: program.into(),
            loaded,
        }
    }

    /// How often it has run, and for how long, while the kernel kept count.
    #[track_caller]
    pub fn spent(&self) -> (u64, Duration) {
        let info = match &self.loaded {
            Loaded::Xdp(xdp) => xdp.info(),
            Loaded::Classifier(classifier) => classifier.info(),
        };
        let info = info.unwrap_or_else(|e| panic!("figures of {}: {e}", self.name));
        (info.run_count(), info.run_time())
    }
}

enum Loaded {
    Xdp(Xdp),
    Classifier(SchedClassifier),
}

impl Opened {
    /// As [`Rig::run`]; `came_by` is 0 for what the host sends. `None` where the kernel
    /// makes no packet of it: it is shorter than an Ethernet header, or too long.
    #[track_caller]
    pub fn run(&self, came_by: u32, ifindex: u32, packet: &[u8]) -> Option<(u32, Vec<u8>)> {
        let mut out = vec![0; packet.len() + GROWTH];
        let mut context = [0; CTX_SIZE];
        for (offset, number) in [(CTX_INGRESS_IFINDEX, came_by), (CTX_IFINDEX, ifindex)] {
            context[offset..offset + 4].copy_from_slice(&number.to_ne_bytes());
        }
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = match &self.loaded {
            // Without a context the frame comes by `lo`, which matters to nobody here.
            Loaded::Xdp(xdp) => xdp.test_run(options),
            Loaded::Classifier(classifier) => classifier.test_run(TestRunOptions {
                ctx_in: Some(&context),
                ..options
            }),
        };
        let result = match result {
            Ok(result) => result,
            Err(ProgramError::SyscallError(e))
                if e.io_error.raw_os_error() == Some(libc::EINVAL) =>
            {
                return None;
            }
            Err(e) => panic!("test-run of {}: {e}", self.name),
        };
        out.truncate(result.data_size_out as usize);
        let code = match (&self.loaded, result.return_value) {
            (Loaded::Xdp(_), XDP_DROP) => TC_ACT_SHOT,
            (Loaded::Xdp(_), XDP_PASS) => TC_ACT_OK,
            (_, code) => code,
        };
        Some((code, out))
    }
}

/// What is published at a port of all addresses of the host.
pub fn service(protocol: u8, port: u16, backends: Vec<ServiceBackend>) -> Service {
    Service {
        at: ServiceAt {
            protocol,
            host_ip: None,
            first: port,
            last: port,
        },
        held: true,
        affinity: false,
        allow: Vec::new(),
        backends,
    }
}

/// A member behind a published port.
pub fn backend(slot: u32, member: &Member, to: u16, weight: u32) -> ServiceBackend {
    ServiceBackend {
        slot,
        container_port: to,
        weight,
        endpoint: member.entry.clone(),
    }
}

fn device(host: &Host, name: &str) -> Device {
    let links = host.ip_json(&format!("link show dev {name}"));
    let ifindex = links[0]["ifindex"].as_u64().expect("an ifindex");
    Device {
        name: name.into(),
        ifindex: u32::try_from(ifindex).expect("an ifindex"),
    }
}

fn member(lab: &Lab, host: &Host, index: u32, network: u32, net: &Net, number: u8) -> Member {
    let name = format!("veth{index}");
    let space = lab.space(&format!("m{index}"));
    // Says nothing by itself: what is counted is the row's.
    space.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
    lab.wire((host, &name, &[]), (&space, "eth0", &[]));
    let gateway_mac: Vec<String> = GATEWAY_MAC.iter().map(|b| format!("{b:02x}")).collect();
    host.ip(&format!(
        "link set {name} address {}",
        gateway_mac.join(":")
    ));
    // bpf_fib_lookup refuses on a device that does not forward.
    host.sysctl(&format!("net.ipv4.conf.{name}.forwarding"), "1");
    host.sysctl(&format!("net.ipv6.conf.{name}.forwarding"), "1");
    let [subnet4, subnet6] = net.subnets;
    let (subnet4, subnet6): (Ipv4Net, Ipv6Net) = (
        subnet4.parse().expect("a subnet"),
        subnet6.parse().expect("a subnet"),
    );
    let ipv4 = Ipv4Addr::from_bits(subnet4.addr().to_bits() + u32::from(number));
    let ipv6 = Ipv6Addr::from_bits(subnet6.addr().to_bits() + u128::from(number));
    Member {
        entry: EndpointEntry {
            index,
            network,
            flags: OPEN,
            container: index.into(),
            device: device(host, &name),
            mac: space.mac("eth0"),
            ipv4: Ipv4Net::new(ipv4, subnet4.prefix_len()).ok(),
            ipv6: Ipv6Net::new(ipv6, subnet6.prefix_len()).ok(),
            gateway4: net.gateways[0].parse().ok(),
            gateway6: net.gateways[1].parse().ok(),
            mtu: 1500,
        },
    }
}
