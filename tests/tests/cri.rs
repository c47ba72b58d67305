//! Pods of a real containerd, by the calls that kubelet makes.
//!
//! ```text
//!   host (netbpf, containerd)  up0 ──── eth0  client
//!     web  a pod with a web server on :80, hostPort 8080
//! ```

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, thread, time::Duration};

use netbpf::model::{EndpointInfo, Engine};
use netbpf_tests::{
    clients::{
        Debian,
        cri::{Cri, Pod, PortMapping},
        image, plugins,
    },
    lab::{
        Family, Http, Street, cgroups, firewall, has_tools,
        names::{CLIENT, HOST},
        street, url, within,
    },
};

/// The plugins that every runtime is tried with, as containerd's documentation chains
/// them. What they note of addresses lies in `data`.
fn reference_conflist(data: &str) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "reference",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": data,
                    "ranges": [[{"subnet": "10.10.9.0/24"}], [{"subnet": "fd10:9::/64"}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

/// The namespaces of pods: those of the room, which has a `/run` of its own.
#[track_caller]
fn namespaces(cri: &Cri) -> Vec<String> {
    let names = cri.shell("ls /run/netns").ok();
    names.lines().map(str::to_owned).collect()
}

#[track_caller]
fn nothing_is_left(cri: &Cri) {
    assert!(cri.pods().is_empty());
    assert!(namespaces(cri).is_empty());
}

/// What the tests of netbpf's own plugin stand on: containerd, its calls and the way
/// from the client hold with plugins that are known to work.
#[test]
fn reference_plugins_serve_a_pod() {
    let test = "reference_plugins_serve_a_pod";
    let street = street(test);
    let data = street.lab.dir().join("host-local");
    let conflist = reference_conflist(&data.display().to_string());
    let Some(cri) = Cri::start(test, &street.lab, &street.host, &conflist) else {
        return;
    };

    let pod = cri.pod("web", &[PortMapping::tcp(8080, 80)]);
    pod.serve();
    assert!(pod.is_ready());
    let expected: [IpAddr; 2] = ["10.10.9.2", "fd10:9::2"].map(|ip| ip.parse().unwrap());
    assert_eq!(pod.addresses(), expected);
    assert_eq!(namespaces(&cri).len(), 1);
    for family in Family::BOTH {
        let seen = image::ask(&street.client, family.ip(HOST), 8080);
        assert_eq!(seen, family.ip(CLIENT));
    }
    assert!(street.host.endpoints().is_empty(), "netbpf has no part");
    // Nobody says that the port is taken: the first pod goes on having it.
    let second = cri.pod("second", &[PortMapping::tcp(8080, 80)]);
    second.remove().expect("remove");
    // A program of the host loses its port to a pod.
    let program = Http::start(&street.host, 8081);
    street.client.fetch(Family::V4.ip(HOST), 8081);
    let third = cri.pod("third", &[PortMapping::tcp(8081, 80)]);
    third.serve();
    image::ask(&street.client, Family::V4.ip(HOST), 8081);
    third.remove().expect("remove");
    drop(program);

    let room = cri.cgroup_name();
    let cgroup = format!("{room}/{}", pod.id());
    assert!(!cgroups(&cgroup).is_empty(), "{cgroup}");
    pod.stop().expect("stop");
    assert!(!pod.is_ready());
    assert!(pod.addresses().is_empty());
    assert!(!firewall(&street.host).contains("8080"));
    let bridged = street.host.ip_json("link show master cni0");
    assert_eq!(bridged, serde_json::json!([]));
    for family in Family::BOTH {
        street.client.is_refused(family.ip(HOST), 8080);
    }

    pod.remove().expect("remove");
    nothing_is_left(&cri);
    assert_eq!(cgroups(&cgroup), Vec::<PathBuf>::new());
    drop(cri);
    assert_eq!(cgroups(&room), Vec::<PathBuf>::new());
}

/// The endpoint of the pod that is called `web`.
#[track_caller]
fn endpoint(street: &Street) -> EndpointInfo {
    street.host.json(&["inspect", "web.default"])
}

/// Asserts that this is the pod's endpoint, with the addresses that containerd knows.
#[track_caller]
fn is_of(endpoint: &EndpointInfo, pod: &Pod) {
    assert_eq!(endpoint.container_id.as_deref(), Some(pod.id()));
    assert_eq!(
        (endpoint.network.as_str(), endpoint.engine),
        (plugins::NETWORK, Some(Engine::Cni))
    );
    let of = |net: &Option<String>| -> IpAddr {
        let net: ipnet::IpNet = net.as_deref().expect("there").parse().expect("a net");
        net.addr()
    };
    assert_eq!(pod.addresses(), [of(&endpoint.ipv4), of(&endpoint.ipv6)]);
}

/// Asks the pod's server by the port of the host: it sees who asks, from outside and from
/// the host itself.
#[track_caller]
fn is_reached(street: &Street) {
    for family in Family::BOTH {
        let seen = image::ask(&street.client, family.ip(HOST), 8080);
        assert_eq!(seen, family.ip(CLIENT));
        let seen = image::ask(&street.host, family.ip(HOST), 8080);
        assert_eq!(seen, family.ip(HOST));
    }
}

/// A pod by netbpf, by the configuration that we give to users: whatever ends and comes
/// back around it, it is reached under its client's own address and reaches out.
#[test]
fn netbpf_serves_a_pod() {
    let test = "netbpf_serves_a_pod";
    let street = street(test);
    let Some(cri) = Cri::start(test, &street.lab, &street.host, plugins::CONFLIST) else {
        return;
    };
    let outside = Http::start(&street.client, 80);
    let pod = cri.pod("web", &[PortMapping::tcp(8080, 80)]);
    pod.serve();
    let web = endpoint(&street);
    is_of(&web, &pod);
    is_reached(&street);
    let netns = format!("--net={}", web.netns);
    for family in Family::BOTH {
        let page = url(family.ip(CLIENT), 80, "");
        cri.shell(&format!("nsenter {netns} curl -sfg --max-time 5 '{page}'"))
            .ok();
    }
    assert_eq!(
        outside.peers(),
        [HOST[0], HOST[1]].map(|ip| ip.parse::<IpAddr>().unwrap())
    );

    // A port that is taken is said, and nothing of the pod stays.
    let refused = cri.try_pod("other", &[PortMapping::tcp(8080, 80)]);
    let message = refused.err().expect("the port is taken").to_string();
    assert!(
        message.contains("8080/tcp") && message.contains("web.default"),
        "{message}"
    );
    let program = Http::start(&street.host, 8081);
    let refused = cri.try_pod("other", &[PortMapping::tcp(8081, 80)]);
    let message = refused.err().expect("a program has the port").to_string();
    assert!(message.contains("8081/tcp"), "{message}");
    street.client.fetch(Family::V4.ip(HOST), 8081);
    drop(program);
    assert_eq!(street.host.endpoints().len(), 1);
    assert_eq!(namespaces(&cri).len(), 1);

    // There are no rules, and whoever flushes them changes nothing.
    assert!(!firewall(&street.host).contains("8080"));
    if has_tools("netbpf_serves_a_pod, flushing rules", &["nft"]) {
        street.host.run(&["nft", "flush", "ruleset"]).ok();
    }
    is_reached(&street);

    // Engine and daemon end and come back.
    cri.kill_and_start();
    is_reached(&street);
    street.host.kill();
    for family in Family::BOTH {
        image::ask(&street.client, family.ip(HOST), 8080);
    }
    let refused = cri.try_pod("later", &[]).err().expect("nobody attaches");
    assert!(
        refused.to_string().contains("no daemon answers"),
        "{refused}"
    );
    street.host.start(&[]);
    is_reached(&street);
    let now = endpoint(&street).host_ifindex;
    assert_eq!(now, web.host_ifindex, "untouched");

    // The pod anew: what kubelet does when its sandbox is gone.
    pod.stop().expect("stop");
    pod.stop().expect("stop twice");
    pod.remove().expect("remove");
    assert!(street.host.endpoints().is_empty());
    let again = cri.pod("web", &[PortMapping::tcp(8080, 80)]);
    again.serve();
    is_reached(&street);

    // A daemon that is away keeps no pod from being removed.
    street.host.kill();
    again.remove().expect("remove without a daemon");
    street.host.start(&[]);
    within(Duration::from_secs(5), "it is cleaned up", || {
        street.host.endpoints().is_empty()
    });
    assert!(namespaces(&cri).is_empty());
}

/// A pod by a containerd 2, in the version of CNI that it knows besides: there the plug-in
/// tells it whether pods can have a network.
#[test]
fn a_newer_containerd_serves_a_pod_by_cni_1_1() {
    let test = "a_newer_containerd_serves_a_pod_by_cni_1_1";
    let street = street(test);
    let conflist = plugins::CONFLIST.replace("1.0.0", "1.1.0");
    let Some(cri) = Cri::of(Debian::Forky, test, &street.lab, &street.host, &conflist) else {
        return;
    };
    let version = cri.shell("containerd --version").ok();
    assert!(version.contains("containerd/v2"), "{version}");
    let pod = cri.pod("web", &[PortMapping::tcp(8080, 80)]);
    pod.serve();
    let web = endpoint(&street);
    is_of(&web, &pod);
    is_reached(&street);

    // STATUS: pods are held back while nobody attaches them; what runs goes on.
    street.host.kill();
    let network = cri.condition("NetworkReady").expect("it answers");
    assert!(!network.status, "{network:?}");
    assert!(network.message.contains("no daemon answers"), "{network:?}");
    is_reached(&street);
    street.host.start(&[]);
    let network = cri.condition("NetworkReady").expect("it answers");
    assert!(network.status, "{network:?}");
    cri.kill_and_start();
    is_reached(&street);
    let now = endpoint(&street).host_ifindex;
    assert_eq!(now, web.host_ifindex, "untouched");

    let room = cri.cgroup_name();
    let cgroup = format!("{room}/{}", pod.id());
    assert!(!cgroups(&cgroup).is_empty(), "{cgroup}");
    pod.stop().expect("stop");
    assert!(street.host.endpoints().is_empty());
    for family in Family::BOTH {
        street.client.is_refused(family.ip(HOST), 8080);
    }
    pod.remove().expect("remove");
    nothing_is_left(&cri);
    assert_eq!(cgroups(&cgroup), Vec::<PathBuf>::new());
    drop(cri);
    assert_eq!(cgroups(&room), Vec::<PathBuf>::new());
}

/// Fifty pods at once; each is reached by its own port, and nothing of them stays.
#[test]
fn fifty_pods_at_once() {
    let test = "fifty_pods_at_once";
    let street = street(test);
    let Some(cri) = Cri::start(test, &street.lab, &street.host, plugins::CONFLIST) else {
        return;
    };
    let start = &|i: u16| cri.pod(&format!("p{i}"), &[PortMapping::tcp(9000 + i, 80)]);
    let pods: Vec<Pod> = thread::scope(|scope| {
        let threads: Vec<_> = (0..50).map(|i| scope.spawn(move || start(i))).collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a pod"))
            .collect()
    });
    assert_eq!(street.host.endpoints().len(), 50);
    let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(Pod::addresses).collect();
    assert_eq!(addresses.len(), 100);
    for i in [0, 23, 49] {
        pods[i].serve();
        let seen = image::ask(&street.client, Family::V4.ip(HOST), 9000 + i as u16);
        assert_eq!(seen, Family::V4.ip(CLIENT));
    }
    thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(move || pod.remove().expect("remove"));
        }
    });
    nothing_is_left(&cri);
    assert!(street.host.endpoints().is_empty());
    let ports: Vec<serde_json::Value> = street.host.json(&["port"]);
    assert!(ports.is_empty(), "{ports:?}");
}
