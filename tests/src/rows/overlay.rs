//! An overlay of which the client of a [`Rig`] is another node.

use netbpf::datapath::{NetworkFlags, NodeEntry, Overlay, OverlayAt, OverlayNetwork, TunnelEntry};

use super::OPEN;
use crate::lab::{
    Family,
    names::{CLIENT, HOST},
};

pub const VNI: u32 = 0x01_02_03;
/// UDP port of VXLAN.
pub const PORT: u16 = 4789;
/// Destination of frames for the other node.
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// Of a network that is an overlay.
pub fn flags() -> NetworkFlags {
    NetworkFlags {
        overlay: Some(OverlayAt {
            vni: VNI,
            scope: 7,
            shadowed: false,
        }),
        ..OPEN
    }
}

/// What the programs are told of a network with the other node by VTEPs of that family,
/// which has these blocks.
pub fn overlay(network: u32, outer: Family, blocks: &[&str]) -> Overlay {
    let tunnels = blocks.iter().map(|block| TunnelEntry {
        network,
        block: block.parse().expect("a block"),
        node: Some(outer.ip(CLIENT)),
    });
    Overlay {
        vtep: Some(outer.ip(HOST)),
        port: PORT,
        shared: false,
        nodes: vec![NodeEntry {
            vtep: outer.ip(CLIENT),
            mac: NODE_MAC,
            port: PORT,
        }],
        networks: vec![OverlayNetwork {
            network,
            flags: flags(),
        }],
        tunnels: tunnels.collect(),
    }
}
