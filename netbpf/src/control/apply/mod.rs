//! Takes the steps of a plan, in order, and takes them back in reverse when one
//! fails.

mod connections;
mod container;
mod services;

pub use connections::end_of_host;

use std::{
    collections::{BTreeSet, HashMap},
    fmt::{self, Write as _},
    net::IpAddr,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use self::container::{Container, open};
use super::plan::{self, Endpoint, Found, Heirs, Step};
use crate::{
    datapath::{Datapath, Device, EndpointEntry, GATEWAY_MAC, Service},
    error::{Code, Error, Result},
    store::EndpointRecord,
    sys::{
        fault,
        netlink::{AddressKind, Netlink, Route, RouteKind, RouteTarget, VethPair},
        netns::NamespaceId,
        sock_diag::Connection,
        sysctl::Sysctls,
    },
};

/// Ifindex of `lo` in every namespace.
const LOOPBACK: u32 = 1;

/// The lowest preference a route can have and still be more than none: any real
/// route to the subnet beats it.
const UNREACHABLE_METRIC: u32 = 4_278_198_272;

const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Means and results of a run of steps.
pub struct Apply<'a> {
    host: &'a mut Netlink,
    sysctls: &'a Sysctls,
    /// `None` where the maps and programs go as a whole.
    datapath: Option<&'a Datapath>,
    ipv6: bool,
    containers: HashMap<NamespaceId, Container>,
    /// Host-side devices made on the way, by endpoint.
    devices: HashMap<u32, Device>,
    /// Who was given a default route on the way.
    handed: Heirs,
    /// A namespace whose path leads elsewhere is taken for gone.
    trust_paths: bool,
    /// Connections of the host's programs that a reset is on its way to.
    hearing: Vec<Connection>,
}

impl<'a> Apply<'a> {
    pub fn new(
        host: &'a mut Netlink,
        sysctls: &'a Sysctls,
        datapath: Option<&'a Datapath>,
        ipv6: bool,
    ) -> Apply<'a> {
        Apply {
            host,
            sysctls,
            datapath,
            ipv6,
            containers: HashMap::new(),
            devices: HashMap::new(),
            handed: Heirs::default(),
            trust_paths: false,
            hearing: Vec::new(),
        }
    }

    /// Has no namespace looked for among those of all processes.
    pub fn trust_paths(&mut self) {
        self.trust_paths = true;
    }

    /// Who was given a default route.
    pub fn handed(&self) -> &Heirs {
        &self.handed
    }

    /// The host-side device that was made for an endpoint.
    pub fn device(&self, endpoint: u32) -> Option<&Device> {
        self.devices.get(&endpoint)
    }

    /// All or nothing: what was done is undone in reverse when a step fails.
    pub fn run(&mut self, steps: &[Step]) -> Result<()> {
        let done = self.all_or_nothing(steps);
        if let Err(error) = self.end_hearing() {
            tracing::warn!(%error, "connections of the host go on");
        }
        done
    }

    fn all_or_nothing(&mut self, steps: &[Step]) -> Result<()> {
        for (done, step) in steps.iter().enumerate() {
            let Err(mut error) = self.timed(step) else {
                continue;
            };
            // The failed step may be half-done, its undo is idempotent.
            for undo in steps[..=done].iter().rev().filter_map(Step::undo) {
                if let Err(e) = self.timed(&undo) {
                    error.message += &format!("; while taking it back: {}", e.message);
                }
            }
            return Err(error);
        }
        Ok(())
    }

    /// As far as it goes: every step is tried, errors are gathered.
    pub fn run_to_end(&mut self, steps: &[Step]) -> Vec<Error> {
        let mut errors: Vec<Error> = steps.iter().filter_map(|s| self.timed(s).err()).collect();
        errors.extend(self.end_hearing().err());
        errors
    }

    fn timed(&mut self, step: &Step) -> Result<()> {
        let start = Instant::now();
        fault::point("before", || name(step));
        let done = self.take(step);
        fault::point("after", || name(step));
        let micros = start.elapsed().as_micros() as u64;
        match &done {
            Ok(()) => tracing::debug!(micros, step = %name(step), "step done"),
            Err(error) => tracing::debug!(micros, step = %name(step), %error, "step failed"),
        }
        done
    }

    fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::AddGateway(address) => {
                let net = IpNet::from(*address);
                self.host.add_address(LOOPBACK, net, AddressKind::Gateway)?;
                if let IpAddr::V6(address) = address {
                    self.host.wait_local(*address, READY_TIMEOUT)?;
                }
            }
            Step::RemoveGateway(address) => {
                self.host.delete_address(LOOPBACK, IpNet::from(*address))?;
            }
            Step::HoldSubnet(subnet) => self
                .host
                .set_route(&Route::unreachable(*subnet, UNREACHABLE_METRIC))?,
            Step::ReleaseSubnet(subnet) => self
                .host
                .delete_route(&Route::unreachable(*subnet, UNREACHABLE_METRIC))?,
            Step::MakeVeth(endpoint) => self.make_veth(&endpoint.record)?,
            Step::RemoveVeth(endpoint) => self.remove_veth(&endpoint.record)?,
            Step::SetUpHostEnd(endpoint) => self.set_up_host_end(&endpoint.record)?,
            Step::SetUpContainer(endpoint) => self.set_up_container(&endpoint.record)?,
            Step::LeaveContainer { endpoint, heirs } => {
                self.leave_container(&endpoint.record, heirs)?;
            }
            Step::AddHostRoutes(endpoint) if endpoint.is_shadowed() => {
                self.set_host_neighbours(&endpoint.record)?;
            }
            Step::AddHostRoutes(endpoint) => self.add_host_routes(&endpoint.record)?,
            Step::SetHostNeighbours(endpoint) => self.set_host_neighbours(&endpoint.record)?,
            Step::RemoveHostRoutes(endpoint) => self.remove_host_routes(&endpoint.record)?,
            Step::WaitRunning(endpoint) => {
                let device = self.host_device(&endpoint.record)?;
                self.host.wait_running(device.ifindex, READY_TIMEOUT)?;
            }
            Step::SetEndpoint(endpoint) => {
                let entry = self.entry(endpoint);
                self.on_datapath(|d| d.set_endpoint(&entry))?;
            }
            Step::RemoveEndpoint(endpoint) => {
                let entry = self.entry(endpoint);
                self.on_datapath(|d| d.remove_endpoint(&entry))?;
            }
            Step::SetMtu(endpoint) => self.set_mtu(&endpoint.record)?,
            Step::AttachPrograms(endpoint) => {
                let device = self.host_device(&endpoint.record)?;
                if let Some(datapath) = self.datapath
                    && !datapath.is_hung_on_veth(self.host, &device)?
                {
                    datapath.attach_veth(&device)?;
                }
            }
            Step::DetachPrograms(endpoint) => {
                // Without a device nothing was ever hung up.
                if let Ok(device) = self.host_device(&endpoint.record) {
                    self.on_datapath(|d| d.detach(&device))?;
                }
            }
            Step::SetService {
                before,
                after,
                leave,
            } => self.set_service(before.as_deref(), after.as_deref(), *leave)?,
            Step::Drain(service) => {
                let service = self.service(service);
                self.on_datapath(|d| d.drain(&service))?;
            }
            Step::EndSockets(ports) => {
                let ended = self.end_sockets(ports);
                ended.and(self.end_hearing())?;
            }
            Step::EndSlots(slots) => self.end_slots(slots)?,
            Step::RemoveStrayVeth { ifindex, name } => {
                self.host.delete_link(*ifindex)?;
                let device = Device {
                    name: name.clone(),
                    ifindex: *ifindex,
                };
                self.on_datapath(|d| d.detach(&device))?;
            }
            Step::RemoveStrayRoute {
                destination,
                ifindex,
            } => self.remove_host_route(*destination, *ifindex)?,
        }
        Ok(())
    }

    /// What `work` makes of the datapath, where maps and programs are changed one by
    /// one.
    fn on_datapath<T>(
        &self,
        work: impl FnOnce(&Datapath) -> crate::datapath::Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.datapath.map(work).transpose()?)
    }

    fn host_device(&self, record: &EndpointRecord) -> Result<Device> {
        if let Some(device) = self.devices.get(&record.index) {
            return Ok(device.clone());
        }
        if record.host_ifindex == 0 {
            return Err(Error::internal(format!(
                "endpoint {:?} on network {:?} has no device {} yet",
                record.name, record.network, record.host_ifname
            )));
        }
        Ok(Device {
            name: record.host_ifname.clone(),
            ifindex: record.host_ifindex,
        })
    }

    fn make_veth(&mut self, record: &EndpointRecord) -> Result<()> {
        let container = open(&mut self.containers, record, self.trust_paths)?;
        let made = self.host.add_veth(&VethPair {
            name: &record.host_ifname,
            mac: GATEWAY_MAC,
            peer_name: &record.ifname,
            peer_mac: record.mac,
            peer_namespace: container.namespace.as_fd(),
            mtu: record.mtu,
        });
        if let Err(e) = made {
            let code = match e.is_exists() {
                true => Code::InterfaceExists,
                false => Code::Internal,
            };
            return Err(Error::new(code, e.to_string()));
        }
        let link = self.host.link(&record.host_ifname)?.ok_or_else(|| {
            Error::internal(format!("device {} went as it came", record.host_ifname))
        })?;
        let device = Device {
            name: link.name,
            ifindex: link.ifindex,
        };
        self.devices.insert(record.index, device);
        Ok(())
    }

    fn remove_veth(&mut self, record: &EndpointRecord) -> Result<()> {
        // By name: an attach that was cut short has not stored the number, and a
        // number may by now be another device's.
        if let Some(link) = self.host.link(&record.host_ifname)? {
            self.host.delete_link(link.ifindex)?;
        }
        Ok(())
    }

    /// The devices of several endpoints, at the cost of one.
    pub fn remove_veths(&mut self, endpoints: &[Arc<Endpoint>]) -> Result<()> {
        let mut ifindexes = Vec::new();
        for endpoint in endpoints {
            let link = self.host.link(&endpoint.record.host_ifname)?;
            ifindexes.extend(link.map(|l| l.ifindex));
        }
        match ifindexes.is_empty() {
            true => Ok(()),
            false => Ok(self.host.delete_links(&ifindexes)?),
        }
    }

    fn set_up_host_end(&mut self, record: &EndpointRecord) -> Result<()> {
        let device = self.host_device(record)?;
        let alias = plan::alias(record);
        // Without forwarding on the device `bpf_fib_lookup` refuses packets from
        // it. The host does not become a router: the setting is this device's.
        let forwarding = ["conf", &device.name, "forwarding"];
        self.sysctls.ipv4.write(&forwarding, "1")?;
        let ipv6 = self.sysctls.ipv6.as_ref().filter(|_| self.ipv6);
        if let Some(ipv6) = ipv6 {
            ipv6.enable_ipv6(&device.name)?;
            ipv6.write(&forwarding, "1")?;
        }
        // At a start it is all that already, and a change would be told to everybody.
        let link = self.host.link_by_index(device.ifindex)?;
        if link.is_some_and(|l| l.up && l.alias.as_deref() == Some(alias.as_str())) {
            return Ok(());
        }
        self.host
            .mark_host_end(device.ifindex, &alias, ipv6.is_some())?;
        Ok(self.host.set_up(device.ifindex)?)
    }

    fn add_host_routes(&mut self, record: &EndpointRecord) -> Result<()> {
        let device = self.host_device(record)?;
        self.set_host_neighbours(record)?;
        for (address, gateway) in record.addresses() {
            let target = RouteTarget {
                ifindex: device.ifindex,
                gateway: None,
                source: Some(gateway),
            };
            self.host
                .set_route(&Route::via_device(IpNet::from(address.addr()), target))?;
        }
        Ok(())
    }

    fn set_host_neighbours(&mut self, record: &EndpointRecord) -> Result<()> {
        let device = self.host_device(record)?;
        for (address, _) in record.addresses() {
            self.host
                .set_neighbour(device.ifindex, address.addr(), record.mac)?;
        }
        Ok(())
    }

    fn remove_host_routes(&mut self, record: &EndpointRecord) -> Result<()> {
        if record.host_ifindex == 0 {
            return Ok(());
        }
        for (address, _) in record.addresses() {
            self.remove_host_route(IpNet::from(address.addr()), record.host_ifindex)?;
        }
        Ok(())
    }

    fn remove_host_route(&mut self, destination: IpNet, ifindex: u32) -> Result<()> {
        let target = RouteTarget {
            ifindex,
            ..Default::default()
        };
        self.host
            .delete_route(&Route::via_device(destination, target))?;
        Ok(())
    }

    fn entry(&self, endpoint: &Endpoint) -> EndpointEntry {
        let device = self.host_device(&endpoint.record).unwrap_or(Device {
            name: endpoint.record.host_ifname.clone(),
            ifindex: 0,
        });
        entry(endpoint, device)
    }

    /// What the maps are to have of endpoints and ports.
    pub fn entries(&self, wanted: &plan::Wanted) -> (Vec<EndpointEntry>, Vec<Service>) {
        let endpoints = wanted.endpoints.iter().map(|e| self.entry(e));
        let services = wanted.services.iter().map(|s| self.service(s));
        (endpoints.collect(), services.collect())
    }

    /// The devices of all endpoints at once.
    pub fn remove_all_veths(&mut self) -> Result<()> {
        Ok(self.host.delete_our_links()?)
    }

    /// What of ours is in the host's namespace.
    pub fn look_around(&mut self) -> Result<Found> {
        let mut found = Found::default();
        for link in self.host.links()? {
            if plan::is_host_ifname(&link.name) {
                if !link.up {
                    found.down.insert(link.ifindex);
                }
                if !link.forwards4 || self.ipv6 && !link.forwards6 {
                    found.not_forwarding.insert(link.ifindex);
                }
                found.veths.push((link.ifindex, link.name, link.alias));
            }
        }
        for neighbour in self.host.permanent_neighbours()? {
            let key = (neighbour.address, neighbour.ifindex);
            found.neighbours.insert(key, neighbour.mac);
        }
        for address in self.host.addresses()? {
            if address.ifindex == LOOPBACK {
                found.addresses.insert(address.address, address.ours);
            }
        }
        for route in self.host.routes()?.into_iter().filter(|r| r.ours) {
            match route.kind {
                RouteKind::Unreachable => drop(found.held.insert(route.destination)),
                RouteKind::Unicast(target) => {
                    found
                        .host_routes
                        .insert((route.destination, target.ifindex), target.source);
                }
                RouteKind::Other => {}
            }
        }
        Ok(found)
    }
}

/// An endpoint as the datapath sees it.
fn entry(endpoint: &Endpoint, device: Device) -> EndpointEntry {
    let record = &endpoint.record;
    EndpointEntry {
        index: record.index,
        network: record.network_index,
        flags: endpoint.flags,
        container: record.namespace.inode,
        device,
        mac: record.mac,
        ipv4: record.ipv4,
        ipv6: record.ipv6,
        gateway4: record.gateway,
        gateway6: record.gateway6,
        mtu: record.mtu,
    }
}

/// A step's name for the log: how it is written begins with it. What follows may have ten
/// thousand ports, and is not written at all.
fn name(step: &Step) -> String {
    struct First(String);

    impl fmt::Write for First {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let end = text.find(['(', '{', ' ']);
            self.0.push_str(&text[..end.unwrap_or(text.len())]);
            match end {
                None => Ok(()),
                Some(_) => Err(fmt::Error),
            }
        }
    }

    let mut first = First(String::new());
    // It ends with the first character that is of no name.
    _ = write!(first, "{step:?}");
    first.0
}

/// Endpoints whose devices are gone, of those given with their devices.
pub fn without_device(endpoints: &[Arc<Endpoint>], found: &Found) -> BTreeSet<u32> {
    let present: HashMap<u32, &str> = found
        .veths
        .iter()
        .map(|(ifindex, name, _)| (*ifindex, name.as_str()))
        .collect();
    endpoints
        .iter()
        .map(|e| &e.record)
        .filter(|r| present.get(&r.host_ifindex) != Some(&r.host_ifname.as_str()))
        .map(|r| r.index)
        .collect()
}
