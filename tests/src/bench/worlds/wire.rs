//! A veth between client and server: the limit that nothing on it can beat.

use std::net::SocketAddr;

use super::{Path, Way, World, host};
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
        (way != Way::Sibling).then(|| Path {
            client: self.client.clone(),
            server: self.server.clone(),
            listen: SocketAddr::from(([0, 0, 0, 0], 80)),
            connect: SocketAddr::from((host(), 80)),
        })
    }
}
