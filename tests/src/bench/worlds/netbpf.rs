//! netbpf as users run it: a dual-stack network, two containers, one published
//! port, the daemon running.

use super::{
    Path, Town, Way, World,
    overlay::{self, Pair},
};
use crate::lab::{
    Container, Family, Host, Lab, Namespace,
    names::{CLIENT_WIRE, FRONT, HOST_WIRE},
};

pub struct Netbpf {
    town: Town,
    pair: Option<Pair>,
    /// Endpoints and daemon live as long as the world.
    containers: Vec<Container>,
    pub host: Host,
}

impl Netbpf {
    /// With another container, which lives as long.
    pub fn with(mut self, container: Container) -> Netbpf {
        self.containers.push(container);
        self
    }
}

/// A world with this netbpf, or with the one under test, and these flags of its
/// daemon.
pub fn build(
    lab: &Lab,
    tag: &str,
    binary: Option<&std::path::Path>,
    flags: &[String],
    with_overlay: bool,
) -> Netbpf {
    let host = lab.host(&format!("host-{tag}"));
    let client = lab.space(&format!("client-{tag}"));
    lab.wire((&host, "up0", &HOST_WIRE), (&client, "eth0", &CLIENT_WIRE));
    if let Some(binary) = binary {
        host.set_binary(binary.into());
    }
    host.start(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    host.network(&FRONT, &[]);
    let on_front = ["--network", FRONT.name];
    let web = host.container(
        lab,
        &format!("web-{tag}"),
        &[&on_front[..], &["-p", "8080:80", "-p", "8080:80/udp"]].concat(),
    );
    let app = host.container(lab, &format!("app-{tag}"), &on_front);
    Netbpf {
        pair: with_overlay
            .then(|| overlay::netbpf(lab, tag, binary, flags))
            .flatten(),
        town: Town {
            host: Namespace::clone(&host),
            client,
            web: Namespace::clone(&web),
            web_address: web.addr(Family::V4),
            app: Namespace::clone(&app),
        },
        containers: vec![web, app],
        host,
    }
}

impl World for Netbpf {
    fn path(&self, way: Way) -> Option<Path> {
        match way {
            Way::Overlay => self.pair.as_ref().map(Pair::path),
            way => self.town.path(way),
        }
    }
}
