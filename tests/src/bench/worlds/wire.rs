//! A veth between client and server: the limit that nothing on it can beat.

use std::net::SocketAddr;

use super::{Path, Way, World, host, outside};
use crate::lab::{
    Lab, Namespace,
    names::{CLIENT_WIRE, HOST_WIRE},
};

struct Wire {
    server: Namespace,
    client: Namespace,
}

pub fn build(lab: &Lab, tag: &str) -> impl World + use<> {
    let server = lab.space(&format!("server-{tag}"));
    let client = lab.space(&format!("client-{tag}"));
    lab.wire(
        (&server, "eth0", &HOST_WIRE),
        (&client, "eth0", &CLIENT_WIRE),
    );
    Wire { server, client }
}

impl World for Wire {
    fn path(&self, way: Way) -> Option<Path> {
        // Outward it is the same wire, but other ports of another client.
        let (client, server, address) = match way {
            Way::Published | Way::Overlay | Way::Host | Way::Loopback => {
                (&self.client, &self.server, host())
            }
            Way::Masquerade => (&self.server, &self.client, outside()),
            Way::Sibling | Way::Crowded => return None,
        };
        Some(Path {
            client: client.clone(),
            server: server.clone(),
            listen: SocketAddr::from(([0, 0, 0, 0], 80)),
            connect: SocketAddr::from((address, 80)),
            wire: vec![(self.server.clone(), "eth0"), (self.client.clone(), "eth0")],
        })
    }
}
