//! The control code against a real kernel. Each test runs in a process of its own
//! in network and mount namespaces of its own, which end with it:
//!
//! ```text
//!   host (namespace of the process)        containers (namespaces of `sleep`)
//!   lo   gateways                          eth0 … the endpoints
//!   up0  198.51.100.1/24, the uplink
//!   nb…  host ends of the endpoints  ─────
//! ```

use std::{
    io::Write as _,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use netbpf::{
    control::Control,
    error::Code,
    model::{
        AttachSpec, EndpointFilter, EndpointInfo, NetnsRef, NetworkSpec, PublishSpec, UnpublishSpec,
    },
    settings::Settings,
};
use serde_json::Value;

const UNDER_TEST: &str = "NETBPF_TEST_HOST";

/// Says that a test is left out; not captured by the harness.
fn skipped(test: &str, why: &str) {
    _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// True in the process that is the host; else that process is started, and its
/// outcome is the test's.
fn on_a_host_of_its_own(test: &str) -> bool {
    if std::env::var_os(UNDER_TEST).is_some() {
        sh("ip link set lo up");
        wire("up0", "198.51.100.1/24");
        sh("ip addr add 2001:db8:1::1/64 dev up0 nodad && ip link set up0 mtu 1450");
        return true;
    }
    if !is_root() {
        skipped(test, "not root");
        return false;
    }
    // Its own result line would be counted beside this test's.
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(UNDER_TEST, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{test} failed on its host:\n{}",
        String::from_utf8_lossy(&said)
    );
    false
}

/// A device that is up; what is sent by it is heard by nobody.
fn wire(name: &str, address: &str) {
    sh(&format!(
        "ip link add {name} type veth peer name {name}w && \
         ip link set {name}w addrgenmode none up && ip link set {name} addrgenmode none up && \
         ip addr add {address} dev {name}"
    ));
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(command: &str) -> Value {
    let output = sh(command);
    serde_json::from_str(&output).unwrap_or_else(|_| Value::Array(vec![]))
}

/// A namespace with a process in it, which ends with this.
struct Container(Child);

impl Container {
    fn new() -> Container {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "60"]).stdout(Stdio::null());
        // Ends with the test also when the test ends badly.
        let mut command = {
            let mut outer = Command::new("setpriv");
            outer.args(["--pdeathsig", "KILL", "--"]);
            outer.arg(command.get_program()).args(command.get_args());
            outer
        };
        command.process_group(0);
        let child = command.spawn().unwrap();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        while std::fs::read_link(&path).ok().is_none_or(|ns| ns == own) {
            std::thread::yield_now();
        }
        Container(child)
    }

    fn netns(&self) -> NetnsRef {
        NetnsRef::Pid(self.0.id() as i32)
    }

    fn json(&self, command: &str) -> Value {
        json(&format!(
            "nsenter --net=/proc/{}/ns/net {command}",
            self.0.id()
        ))
    }

    fn attach(&self, name: &str) -> AttachSpec {
        AttachSpec::new(name, self.netns())
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end();
    }
}

struct Host {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Host {
    fn new() -> Host {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Host {
            dir: tempfile::tempdir().unwrap(),
            runtime,
        }
    }

    fn settings(&self) -> Settings {
        let path = |name: &str| -> PathBuf { self.dir.path().join(name) };
        Settings {
            state_dir: path("state"),
            run_dir: path("run"),
            bpffs: path("bpf"),
            ..Settings::default()
        }
    }

    fn start(&self) -> Control {
        self.runtime
            .block_on(Control::start(self.settings()))
            .unwrap()
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let bpffs = self.dir.path().join("bpf");
        let _ = Command::new("umount").arg("-lq").arg(bpffs).status();
    }
}

fn network(name: &str) -> NetworkSpec {
    NetworkSpec {
        name: name.into(),
        icc: true,
        masquerade: true,
        ..NetworkSpec::default()
    }
}

/// Everything of a namespace that the control code may change.
fn everything() -> String {
    sh("ip -o link | sed 's/^[0-9]*: //' | sort; ip -o addr | sort; ip route show table all | sort; \
        ip -6 route show table all | sort; ip rule; ip -6 rule; sysctl -a 2>/dev/null | \
        grep -E '^net.ipv[46].(conf.(all|default|lo|up0).(forwarding|rp_filter|disable_ipv6)|ip_forward|ip_local_reserved)'")
        .lines()
        // Lifetimes tick, multicast routes come in their own time.
        .map(|l| l.split(" valid_lft").next().unwrap_or(l).to_owned() + "\n")
        .filter(|l| !l.contains("multicast"))
        .collect()
}

fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn default_routes(container: &Container, family: &str) -> Vec<String> {
    let routes = container.json(&format!("ip {family} -j route show default"));
    let routes = routes.as_array().unwrap();
    routes
        .iter()
        .map(|r| {
            format!(
                "{} {}",
                r["gateway"].as_str().unwrap(),
                r["dev"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
fn an_endpoint_from_attach_to_teardown() {
    if !on_a_host_of_its_own("an_endpoint_from_attach_to_teardown") {
        return;
    }
    let host = Host::new();
    let before = everything();
    let control = host.start();
    let web = Container::new();

    let default = host.run(control.network("default")).unwrap();
    assert_eq!(default.subnets.len(), 2, "{default:?}");
    assert_eq!(default.mtu, 1450);
    assert_eq!(default.subnets[0].subnet.to_string(), "172.20.0.0/20");
    let held = sh("ip route show type unreachable; ip -6 route show type unreachable");
    assert!(
        held.contains("172.20.0.0/20") && held.contains("proto 142"),
        "{held}"
    );

    let spec = AttachSpec {
        publish: vec!["8080:80".into(), "40000-40002:90-92/udp".into()],
        ..web.attach("web")
    };
    let info = host.run(control.attach(spec)).unwrap();
    assert_eq!(info.ipv4.as_deref(), Some("172.20.0.2/20"));
    assert_eq!(info.mac, "02:42:ac:14:00:02");
    assert_eq!(info.ifname, "eth0");
    assert_eq!(info.ports[0].host_ip, "*");
    assert_eq!(info.ports[1].host_port_end, Some(40002));
    check_device(&web, &info);
    assert_eq!(
        sh("cat /proc/sys/net/ipv4/ip_local_reserved_ports").trim(),
        "40000-40002"
    );
    // The first packet works, in both families, from the host's gateway address.
    ping(&info);

    let error = host.run(control.attach(web.attach("web"))).unwrap_err();
    assert_eq!(error.code, Code::AlreadyExists);
    assert!(error.message.contains("\"web\"") && error.message.contains("\"default\""));

    assert_eq!(host.run(control.detach("web", None)).unwrap().len(), 1);
    assert_eq!(host.run(control.detach("web", None)).unwrap().len(), 0);
    // The same name, interface and address again, at once.
    let spec = AttachSpec {
        ifname: Some("eth0".into()),
        ips: vec!["172.20.0.2".parse().unwrap()],
        ..web.attach("web")
    };
    let again = host.run(control.attach(spec)).unwrap();
    assert_eq!(again.ipv4, info.ipv4);
    ping(&again);

    host.run(control.teardown(false)).unwrap();
    drop(control);
    assert_eq!(everything(), before);
    let links = web.json("ip -j link");
    assert_eq!(links.as_array().unwrap().len(), 1, "{links}");
}

fn check_device(container: &Container, info: &EndpointInfo) {
    let links = container.json("ip -j link show eth0");
    assert_eq!(links[0]["address"], info.mac.as_str());
    assert_eq!(links[0]["mtu"], info.mtu);
    assert_eq!(links[0]["operstate"], "UP");
    let addresses = container.json("ip -j addr show eth0 scope global");
    let found: Vec<String> = addresses[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|a| Some(format!("{}/{}", a["local"].as_str()?, a["prefixlen"])))
        .collect();
    assert_eq!(
        found,
        [info.ipv4.clone().unwrap(), info.ipv6.clone().unwrap()]
    );
    let host = json(&format!("ip -j link show {}", info.host_ifname));
    assert_eq!(host[0]["ifindex"], info.host_ifindex);
    assert_eq!(
        host[0]["ifalias"],
        format!("netbpf {} {}", info.name, info.network)
    );
    assert_eq!(host[0]["address"], "02:6e:65:74:62:70");
    let addresses = json(&format!("ip -j addr show {}", info.host_ifname));
    assert_eq!(addresses[0]["addr_info"], Value::Array(vec![]));
}

fn ping(info: &EndpointInfo) {
    for address in [&info.ipv4, &info.ipv6] {
        let address = address.as_ref().unwrap();
        let bare = address.split('/').next().unwrap();
        sh(&format!("ping -q -n -c1 -W1 {bare}"));
    }
}

#[test]
fn several_networks_share_the_default_route() {
    if !on_a_host_of_its_own("several_networks_share_the_default_route") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let web = Container::new();
    let spec = NetworkSpec {
        subnets: vec!["10.7.0.0/24".parse().unwrap()],
        ..network("back")
    };
    host.run(control.network_create(spec)).unwrap();
    let spec = NetworkSpec {
        internal: true,
        ..network("inner")
    };
    host.run(control.network_create(spec)).unwrap();
    let on = |network: &str| AttachSpec {
        network: Some(network.into()),
        ..web.attach("web")
    };
    let inner = host.run(control.attach(on("inner"))).unwrap();
    assert_eq!(inner.ifname, "eth0");
    assert!(default_routes(&web, "-4").is_empty());
    let first = host.run(control.attach(on("default"))).unwrap();
    let second = host.run(control.attach(on("back"))).unwrap();
    assert_eq!(
        (first.ifname.as_str(), second.ifname.as_str()),
        ("eth1", "eth2")
    );
    assert_eq!(default_routes(&web, "-4"), ["172.20.0.1 eth1"]);
    assert_eq!(default_routes(&web, "-6").len(), 1);
    let rules = web.json("ip -j rule").to_string();
    // Of both, so that each answers by its own network, and not by the other's interface.
    assert!(
        rules.contains("10.7.0.2") && rules.contains("172.20.0.2"),
        "{rules}"
    );

    // A command without a network means the one with the default route.
    let spec = PublishSpec {
        network: None,
        publish: vec!["8080:80".into()],
        share: false,
    };
    let published = host.run(control.publish("web", spec)).unwrap();
    assert_eq!(published.network, "default");
    let refused = host.run(control.publish(
        "web",
        PublishSpec {
            network: Some("inner".into()),
            publish: vec!["81:80".into()],
            share: false,
        },
    ));
    assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);

    host.run(control.detach("web", Some("default"))).unwrap();
    assert_eq!(default_routes(&web, "-4"), ["10.7.0.1 eth2"]);
    let rules = web.json("ip -j rule").to_string();
    assert!(!rules.contains("172.20.0.2"), "{rules}");
    host.run(control.detach("web", Some("back"))).unwrap();
    let rules = web.json("ip -j rule").to_string();
    assert!(!rules.contains("10.7.0.2"), "{rules}");
    let error = host.run(control.network_remove("inner")).unwrap_err();
    assert_eq!(error.code, Code::NetworkInUse);
    assert!(error.message.contains("web"), "{}", error.message);
    host.run(control.detach("web", None)).unwrap();
    let mut pruned = host.run(control.network_prune()).unwrap();
    pruned.sort();
    assert_eq!(pruned, ["back", "inner"]);
    host.run(control.teardown(true)).unwrap();
    assert_eq!(
        std::fs::read_dir(host.dir.path().join("state"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_restart_finds_all_as_it_was_and_clears_the_rest() {
    if !on_a_host_of_its_own("a_restart_finds_all_as_it_was_and_clears_the_rest") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let (web, mut gone) = (Container::new(), Container::new());
    let spec = AttachSpec {
        publish: vec!["8080:80".into()],
        ..web.attach("web")
    };
    let before = host.run(control.attach(spec)).unwrap();
    host.run(control.attach(gone.attach("gone"))).unwrap();
    let second = host.run(Control::start(host.settings()));
    assert_eq!(second.err().map(|e| e.code), Some(Code::Conflict));
    host.run(control.shutdown()).unwrap();
    drop(control);
    gone.end();
    // What somebody broke or left meanwhile.
    sh(&format!(
        "ip route del {}",
        before.ipv4.as_ref().unwrap().replace("/20", "/32")
    ));
    sh("ip addr del 172.20.0.1/32 dev lo");
    sh(
        "ip link add nb0000beef type veth peer name x && ip link set nb0000beef alias 'netbpf old net'",
    );
    sh("ip route add unreachable 10.99.0.0/24 proto 142 metric 4278198272");
    wait_until("death of a namespace", Duration::from_secs(5), || {
        !sh("ip -o link").contains("netbpf gone")
    });

    let control = host.start();
    let after = host
        .run(control.endpoints(EndpointFilter::default()))
        .unwrap();
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].ports, before.ports);
    assert_eq!(after[0].host_ifindex, before.host_ifindex);
    ping(&after[0]);
    let all = everything();
    assert!(
        !all.contains("nb0000beef") && !all.contains("10.99.0.0"),
        "{all}"
    );
    host.run(control.shutdown()).unwrap();
    drop(control);
    host.run(Control::teardown_offline(&host.settings(), false))
        .unwrap();
    let all = everything();
    assert!(!all.contains("172.20."), "{all}");
}

#[test]
fn a_namespace_that_dies_is_noticed() {
    if !on_a_host_of_its_own("a_namespace_that_dies_is_noticed") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let mut web = Container::new();
    let spec = AttachSpec {
        publish: vec!["8080:80".into()],
        ..web.attach("web")
    };
    host.run(control.attach(spec)).unwrap();
    web.end();
    wait_until("detach", Duration::from_secs(5), || {
        host.run(control.endpoints(EndpointFilter::default()))
            .unwrap()
            .is_empty()
    });
    assert!(host.run(control.ports(None)).unwrap().is_empty());
    host.run(control.teardown(true)).unwrap();
}

#[test]
fn refusals_name_what_is_in_the_way() {
    if !on_a_host_of_its_own("refusals_name_what_is_in_the_way") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let (web, other) = (Container::new(), Container::new());
    let listener = std::net::TcpListener::bind("127.0.0.1:8081").unwrap();
    let spec = AttachSpec {
        publish: vec!["8080:80".into()],
        ..web.attach("web")
    };
    host.run(control.attach(spec)).unwrap();
    let refused = |change: &dyn Fn(&mut AttachSpec)| {
        let mut spec = other.attach("other");
        change(&mut spec);
        let before = everything();
        let error = host.run(control.attach(spec)).unwrap_err();
        assert_eq!(everything(), before, "something is left of: {error}");
        (error.code, error.message)
    };
    let (code, message) = refused(&|s| s.publish = vec!["8080:80".into()]);
    assert_eq!(code, Code::PortInUse);
    assert_eq!(
        message,
        "port 8080/tcp on 0.0.0.0 is already published by endpoint \"web\" on network \"default\""
    );
    let (code, message) = refused(&|s| s.publish = vec!["8090:80".into(), "8090:81".into()]);
    assert_eq!(code, Code::PortInUse);
    assert!(
        message.contains("asked for twice for endpoint \"other\""),
        "{message}"
    );
    let (code, message) = refused(&|s| s.publish = vec!["2001:db8::1:84:84".into()]);
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("brackets: [2001:db8::1]"), "{message}");
    let (code, message) = refused(&|s| s.publish = vec!["8081:80".into()]);
    assert_eq!(code, Code::PortInUse);
    assert!(
        message.starts_with("port 8081/tcp on 0.0.0.0 is in use by a program of this host"),
        "{message}"
    );
    let (code, message) = refused(&|s| s.ips = vec!["172.20.0.2".parse().unwrap()]);
    assert_eq!(code, Code::AddressInUse);
    assert!(message.contains("\"web\""), "{message}");
    let (code, _) = refused(&|s| s.ips = vec!["172.20.0.1".parse().unwrap()]);
    assert_eq!(code, Code::AddressInUse);
    let (code, _) = refused(&|s| s.ips = vec!["10.0.0.1".parse().unwrap()]);
    assert_eq!(code, Code::AddressNotInSubnet);
    let (code, _) = refused(&|s| s.ifname = Some("lo".into()));
    assert_eq!(code, Code::InterfaceExists);
    let (code, _) = refused(&|s| s.ifname = Some("a/b".into()));
    assert_eq!(code, Code::InvalidArgument);
    let (code, _) = refused(&|s| s.netns = NetnsRef::Netns("nobody".into()));
    assert_eq!(code, Code::NotFound);
    let (code, _) = refused(&|s| s.netns = NetnsRef::Netns("/dev/null".into()));
    assert_eq!(code, Code::InvalidArgument);
    let (code, _) = refused(&|s| s.netns = NetnsRef::Netns("/proc/self/ns/net".into()));
    assert_eq!(code, Code::InvalidArgument);
    let (code, _) = refused(&|s| s.publish = vec!["192.0.2.77:80:80".into()]);
    assert_eq!(code, Code::InvalidArgument);
    let (code, _) = refused(&|s| s.network = Some("nowhere".into()));
    assert_eq!(code, Code::NotFound);

    let overlap = |subnet: &str| {
        let spec = NetworkSpec {
            subnets: vec![subnet.parse().unwrap()],
            ..network("x")
        };
        host.run(control.network_create(spec)).unwrap_err()
    };
    let error = overlap("172.20.5.0/24");
    assert_eq!(error.code, Code::SubnetOverlap);
    assert!(error.message.contains("\"default\""), "{}", error.message);
    let error = overlap("198.51.100.128/25");
    assert_eq!(error.code, Code::SubnetOverlap);

    drop(listener);
    let spec = AttachSpec {
        publish: vec!["8081:80".into(), "127.0.0.1::9000".into()],
        publish_all: true,
        expose: vec!["80/tcp".into(), "53/udp".into()],
        ..other.attach("other")
    };
    let info = host.run(control.attach(spec)).unwrap();
    assert_eq!(info.ports.len(), 3, "{:?}", info.ports);
    let spec = UnpublishSpec {
        network: None,
        publish: vec!["8081:80".into()],
        drain: None,
    };
    let after = host.run(control.unpublish("other", spec.clone())).unwrap();
    assert_eq!(after.ports.len(), 2);
    let error = host.run(control.unpublish("other", spec)).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    let status = host.run(control.status()).unwrap();
    assert_eq!(status.uplinks[0].name, "up0");
    assert_eq!((status.networks, status.endpoints), (1, 2));
    host.run(control.teardown(true)).unwrap();
}

#[test]
fn uplinks_are_followed() {
    if !on_a_host_of_its_own("uplinks_are_followed") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let names = || -> Vec<String> {
        let status = host.run(control.status()).unwrap();
        status.uplinks.into_iter().map(|u| u.name).collect()
    };
    assert_eq!(names(), ["up0"]);
    wire("up1", "192.0.2.1/24");
    wait_until("a new uplink", Duration::from_secs(1), || {
        names() == ["up0", "up1"]
    });
    sh("ip link set up0 down");
    wait_until("an uplink that is down", Duration::from_secs(1), || {
        names() == ["up1"]
    });
    sh("ip link del up1");
    wait_until("an uplink that is gone", Duration::from_secs(1), || {
        names().is_empty()
    });
    host.run(control.teardown(true)).unwrap();
}

#[test]
fn one_daemon_has_the_network_namespace() {
    if !on_a_host_of_its_own("one_daemon_has_the_network_namespace") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let web = Container::new();
    let info = host.run(control.attach(web.attach("web"))).unwrap();
    let before = everything();

    let elsewhere = Host::new();
    let refused = [
        host.run(Control::start(elsewhere.settings())).err(),
        host.run(Control::teardown_offline(&elsewhere.settings(), true))
            .err(),
        host.run(Control::teardown_offline(&host.settings(), true))
            .err(),
    ];
    for error in refused {
        let error = error.expect("a daemon runs");
        assert_eq!(error.code, Code::Conflict);
        assert!(error.message.contains("another netbpf daemon"), "{error}");
    }
    assert_eq!(everything(), before);
    assert!(!elsewhere.settings().state_dir.exists());
    ping(&info);

    // Of another namespace, the same directories are no better.
    host.run(control.shutdown()).unwrap();
    drop(control);
    let settings = host.settings();
    let error = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.build().unwrap();
            runtime.block_on(Control::teardown_offline(&settings, false))
        });
        thread.join().unwrap().unwrap_err()
    });
    assert_eq!(error.code, Code::Conflict);
    assert!(
        error.message.contains("another network namespace"),
        "{error}"
    );
    assert_eq!(everything(), before);

    // Nor are directories with which nothing here was made.
    let precious = elsewhere.settings().state_dir.join("precious");
    std::fs::create_dir(precious.parent().unwrap()).unwrap();
    std::fs::write(&precious, "").unwrap();
    let error = host
        .run(Control::teardown_offline(&elsewhere.settings(), true))
        .unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    assert!(error.message.contains("other directories"), "{error}");
    assert_eq!(everything(), before);

    // The pins are enough, where the store is gone.
    let without_store = Settings {
        bpffs: host.settings().bpffs,
        ..elsewhere.settings()
    };
    host.run(Control::teardown_offline(&without_store, true))
        .unwrap();
    assert!(precious.exists(), "no store was there");
    assert!(!everything().contains("netbpf web"));
    host.run(Control::teardown_offline(&host.settings(), true))
        .unwrap();
}

#[test]
fn the_users_reserved_ports_are_kept_however_many() {
    if !on_a_host_of_its_own("the_users_reserved_ports_are_kept_however_many") {
        return;
    }
    let file = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let read = || {
        sh(&format!("dd if={file} bs=1M count=1 status=none"))
            .trim()
            .to_owned()
    };
    let users: Vec<String> = (0..5000).map(|n| (10_000 + 3 * n).to_string()).collect();
    let users = users.join(",");
    std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", &users).unwrap();
    assert_eq!(read(), users);
    let host = Host::new();
    let control = host.start();
    let web = Container::new();
    let spec = AttachSpec {
        publish: vec!["40000:80".into(), "40001".into()],
        ..web.attach("web")
    };
    host.run(control.attach(spec)).unwrap();
    let with_ours = read();
    let has = |port: &str| with_ours.split(',').any(|p| p == port);
    assert!(has("10000") && has("24997") && has("40000"), "{with_ours}");
    host.run(control.detach("web", None)).unwrap();
    assert_eq!(read(), users);

    // What an earlier daemon reserved is given back by one that reserves nothing.
    let spec = AttachSpec {
        publish: vec!["40000:80".into()],
        ..web.attach("web")
    };
    host.run(control.attach(spec)).unwrap();
    assert!(read().ends_with(",40000"));
    host.run(control.shutdown()).unwrap();
    drop(control);
    let settings = Settings {
        reserve_ports: false,
        ..host.settings()
    };
    let control = host.run(Control::start(settings)).unwrap();
    assert_eq!(read(), users);
    host.run(control.teardown(true)).unwrap();
    assert_eq!(read(), users);
}

#[test]
fn a_port_that_changed_hands_before_a_kill_is_its_new_owners() {
    if !on_a_host_of_its_own("a_port_that_changed_hands_before_a_kill_is_its_new_owners") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let web = Container::new();
    let spec = AttachSpec {
        publish: vec!["8080:80".into()],
        ..web.attach("web")
    };
    host.run(control.attach(spec)).unwrap();
    host.run(control.shutdown()).unwrap();
    drop(control);
    // As if the one before had still been on its way out.
    let settings = host.settings();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let store =
        netbpf::store::Store::open(&settings.state_dir, &settings.run_dir, boot.trim(), &|| {
            Ok(netbpf::datapath::Copies::default())
        })
        .unwrap();
    let mut old = store.endpoints().unwrap().remove(0);
    old.index += 1;
    old.name = "old".into();
    old.state = netbpf::store::EndpointState::Detaching;
    old.host_ifname = "nb00000bad".into();
    old.host_ifindex = 4_000_000;
    old.ipv4 = Some("172.20.0.99/20".parse().unwrap());
    store.put_endpoint(&old).unwrap();
    drop(store);

    if Command::new("bpftool").arg("version").output().is_err() {
        return skipped("ports after a restart", "bpftool is not installed");
    }
    let pins = settings.bpffs.join("ports");
    let dump = || sh(&format!("bpftool -j map dump pinned {}", pins.display()));
    let before = dump();
    assert!(before.contains("8080") || before.contains("1f"), "{before}");
    let control = host.start();
    assert_eq!(dump(), before, "published as it was, with its generation");
    assert_eq!(
        host.run(control.endpoints(EndpointFilter::default()))
            .unwrap()
            .len(),
        1
    );
    host.run(control.teardown(true)).unwrap();
}

#[test]
fn the_default_route_is_inherited_at_start() {
    if !on_a_host_of_its_own("the_default_route_is_inherited_at_start") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let spec = NetworkSpec {
        subnets: vec!["10.7.0.0/24".parse().unwrap()],
        ..network("back")
    };
    host.run(control.network_create(spec)).unwrap();
    let web = Container::new();
    let first = host.run(control.attach(web.attach("web"))).unwrap();
    let spec = AttachSpec {
        network: Some("back".into()),
        ..web.attach("web")
    };
    host.run(control.attach(spec)).unwrap();
    assert_eq!(default_routes(&web, "-4"), ["172.20.0.1 eth0"]);
    host.run(control.shutdown()).unwrap();
    drop(control);
    sh(&format!("ip link del {}", first.host_ifname));
    assert!(default_routes(&web, "-4").is_empty());

    let control = host.start();
    assert_eq!(default_routes(&web, "-4"), ["10.7.0.1 eth1"]);
    assert_eq!(
        host.run(control.endpoints(EndpointFilter::default()))
            .unwrap()
            .len(),
        1
    );
    host.run(control.teardown(true)).unwrap();
}

#[test]
fn a_teardown_that_failed_can_be_tried_again() {
    if !on_a_host_of_its_own("a_teardown_that_failed_can_be_tried_again") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let web = Container::new();
    host.run(control.attach(web.attach("web"))).unwrap();
    let busy = host.settings().state_dir.join("busy");
    std::fs::create_dir(&busy).unwrap();
    sh(&format!("mount -t tmpfs none {}", busy.display()));
    let error = host.run(control.teardown(true)).unwrap_err();
    assert!(
        error.message.contains("not all could be removed"),
        "{error}"
    );

    let status = host.run(control.status()).unwrap();
    assert!(status.notes.iter().any(|n| n.contains("did not finish")));
    host.run(control.endpoints(EndpointFilter::default()))
        .unwrap();
    let error = host.run(control.attach(web.attach("app"))).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    sh(&format!("umount {}", busy.display()));
    host.run(control.teardown(true)).unwrap();
}

#[test]
fn a_container_that_is_started_again_at_once_has_its_own_again() {
    if !on_a_host_of_its_own("a_container_that_is_started_again_at_once_has_its_own_again") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let spec = |container: &Container| AttachSpec {
        ips: vec!["172.20.0.77".parse().unwrap()],
        publish: vec!["8080:80".into()],
        ..container.attach("web")
    };
    let mut web = Container::new();
    for round in 0..5 {
        host.run(control.attach(spec(&web))).unwrap();
        let next = Container::new();
        let error = host.run(control.attach(spec(&next))).unwrap_err();
        assert_eq!(error.code, Code::AlreadyExists, "it lives");
        // The kernel lets go of the sockets that were used in there a little later
        // (RCU), and of the namespace after that.
        std::thread::sleep(Duration::from_millis(300));
        web.end();
        web = next;
        if round % 2 == 1 {
            let other = AttachSpec {
                ips: vec![],
                ..spec(&web)
            };
            let other = AttachSpec {
                name: format!("other{round}"),
                ..other
            };
            host.run(control.attach(other.clone())).unwrap();
            host.run(control.detach(&other.name, None)).unwrap();
        }
    }
    host.run(control.teardown(true)).unwrap();
}

#[test]
fn many_that_die_together_are_cleared_away_together() {
    if !on_a_host_of_its_own("many_that_die_together_are_cleared_away_together") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let spec = NetworkSpec {
        subnets: vec!["10.7.0.0/24".parse().unwrap()],
        ..network("back")
    };
    host.run(control.network_create(spec)).unwrap();
    let mut containers: Vec<Container> = (0..20).map(|_| Container::new()).collect();
    for (n, container) in containers.iter().enumerate() {
        for net in ["default", "back"] {
            let spec = AttachSpec {
                network: Some(net.into()),
                ..container.attach(&format!("c{n}"))
            };
            host.run(control.attach(spec)).unwrap();
        }
    }
    containers.iter_mut().skip(10).for_each(Container::end);
    wait_until("half are gone", Duration::from_secs(5), || {
        host.run(control.endpoints(EndpointFilter::default()))
            .unwrap()
            .len()
            == 20
    });
    let began = Instant::now();
    for n in 0..10 {
        host.run(control.detach(&format!("c{n}"), None)).unwrap();
    }
    // The names in there are free again.
    for (n, container) in containers.iter().take(10).enumerate() {
        let info = host.run(control.attach(container.attach(&format!("c{n}"))));
        assert_eq!(info.unwrap().ifname, "eth0");
    }
    println!("detached and attached: {:?}", began.elapsed());
    host.run(control.teardown(true)).unwrap();
    assert!(!sh("ip -o link").contains("nb"));
}

#[test]
fn what_nobody_can_have_is_refused() {
    if !on_a_host_of_its_own("what_nobody_can_have_is_refused") {
        return;
    }
    let host = Host::new();
    let control = host.start();
    let web = Container::new();
    let refused = |change: &dyn Fn(&mut AttachSpec)| {
        let mut spec = web.attach("web");
        change(&mut spec);
        let began = Instant::now();
        let error = host.run(control.attach(spec)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(2), "{error}");
        (error.code, error.message)
    };
    for ifname in ["eth%d", "all", "default"] {
        let (code, message) = refused(&|s| s.ifname = Some(ifname.into()));
        assert_eq!(code, Code::InvalidArgument);
        assert!(message.contains(ifname), "{message}");
    }
    let (code, _) = refused(&|s| s.mac = Some("02:6e:65:74:62:70".into()));
    assert_eq!(code, Code::InvalidArgument);
    let (code, message) = refused(&|s| s.publish = vec!["1-65535".into()]);
    assert_eq!(code, Code::InvalidArgument, "{message}");
    let (code, _) = refused(&|s| {
        s.publish_all = true;
        s.expose = vec!["1-65535".into()];
    });
    assert_eq!(code, Code::InvalidArgument);
    // All of the free ports, and then one more.
    let long = host.run(control.attach(AttachSpec {
        publish: vec!["1-28000".into()],
        ..web.attach("web")
    }));
    assert_eq!(long.unwrap().ports[0].host_port_end, Some(32_768 + 27_999));
    let (code, _) = refused(&|s| {
        s.name = "other".into();
        s.publish = vec!["1-28000".into()];
    });
    assert_eq!(code, Code::PortInUse);

    sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let (code, message) = refused(&|s| s.name = "other".into());
    assert_eq!(code, Code::Conflict);
    assert!(
        message.contains("net.ipv6.conf.all.disable_ipv6=1"),
        "{message}"
    );
    host.run(control.teardown(true)).unwrap();
}

#[test]
fn without_ipv6_on_lo_networks_have_ipv4_alone() {
    if !on_a_host_of_its_own("without_ipv6_on_lo_networks_have_ipv4_alone") {
        return;
    }
    sh("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
    let host = Host::new();
    let control = host.start();
    let status = host.run(control.status()).unwrap();
    let named = |n: &String| n.contains("net.ipv6.conf.lo.disable_ipv6=1");
    assert!(status.notes.iter().any(named), "{:?}", status.notes);
    let web = Container::new();
    let info = host.run(control.attach(web.attach("web"))).unwrap();
    assert_eq!(info.ipv6, None);
    sh(&format!(
        "ping -q -n -c1 -W1 {}",
        info.ipv4.unwrap().split('/').next().unwrap()
    ));
    host.run(control.teardown(true)).unwrap();
}
