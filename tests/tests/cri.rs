//! Pods of a real containerd, by the calls that kubelet makes.
//!
//! ```text
//!   host (netbpf, containerd)  up0 ──── eth0  client
//!     web  a pod with a web server on :80, hostPort 8080
//! ```

use std::{net::IpAddr, path::PathBuf};

use netbpf_tests::{
    clients::{
        cri::{Cri, PortMapping},
        image,
    },
    lab::{
        Family, cgroups, firewall,
        names::{CLIENT, HOST},
        street,
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
    assert!(cri.pods().is_empty());
    assert!(namespaces(&cri).is_empty());
    assert_eq!(cgroups(&cgroup), Vec::<PathBuf>::new());
    drop(cri);
    assert_eq!(cgroups(&room), Vec::<PathBuf>::new());
}
