//! A bridge and Docker's own process for published ports, which takes each connection in
//! and makes another one to the container. Only from the host itself: outside of it Docker
//! has iptables.

use super::{Path, Town, Way, World, bridge, bridged_packets_pass_iptables};
use crate::{
    clients::{Debian, Packages},
    lab::{Background, Lab, within},
};

struct Proxy {
    town: Town,
    /// `None` where there is no Docker.
    proxy: Option<Background>,
}

pub fn build(lab: &Lab, tag: &str) -> impl World + use<> {
    let host = lab.space(&format!("host-{tag}"));
    let client = lab.space(&format!("client-{tag}"));
    let [web, app] = bridge::containers(lab, tag, &host);
    bridged_packets_pass_iptables(&host, false);
    let packages = Packages::find("docker-proxy in the benchmark", Debian::Own);
    let proxy = packages.map(|packages| {
        let program = packages.program("docker-proxy").display().to_string();
        // It tells dockerd by descriptor 3 that it listens, and closes that.
        let script = format!(
            "exec {program} -proto tcp -host-ip 127.0.0.1 -host-port 8080 \
             -container-ip {} -container-port 80 3>/dev/null",
            bridge::WEB
        );
        let proxy = host.run(&["sh", "-c", &script]).spawn();
        within(std::time::Duration::from_secs(5), "it listens", || {
            let listening = host.run(&["ss", "-Hltn", "sport = :8080"]).ok();
            !listening.is_empty()
        });
        proxy
    });
    Proxy {
        town: Town {
            host,
            client,
            web,
            web_address: bridge::WEB.parse().expect("an address"),
            app,
        },
        proxy,
    }
}

impl World for Proxy {
    fn path(&self, way: Way) -> Option<Path> {
        (way == Way::Loopback && self.proxy.is_some())
            .then(|| self.town.path(way))
            .flatten()
    }
}
