//! Sockets of the host that may have a tuple.

use aya_ebpf::{
    bindings::BPF_F_CURRENT_NETNS,
    helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use netbpf_common::packet::{IPPROTO_TCP, IPPROTO_UDP};

use crate::{
    ctx::Skb,
    family::{Family, Room},
};

/// `TCP_LISTEN` of `net/tcp_states.h`.
const TCP_LISTEN: u32 = 10;

/// `TCP_ESTABLISHED`, which UDP sockets have as well once they have a peer.
const CONNECTED: u32 = 1;

/// Has a UDP socket of the host this tuple, and this peer alone?
#[inline(always)]
pub fn is_peer_of_host<F: Family>(
    skb: &Skb,
    room: &mut Room<F::Addr>,
    remote: (F::Addr, u16),
    local: (F::Addr, u16),
) -> bool {
    let netns = BPF_F_CURRENT_NETNS as u64;
    F::socket_set(&mut room.socket, remote, local);
    let tuple = &raw mut room.socket;
    // SAFETY: as in `host_has`, of which this is no part: the kernel takes no load of the
    // state that is of a socket's common part on one way and of a whole one on another.
    unsafe {
        let socket = bpf_sk_lookup_udp(skb.as_ptr(), tuple, F::SOCKET_TUPLE, netns, 0);
        if socket.is_null() {
            return false;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state == CONNECTED
    }
}

/// Has a socket of the host this tuple, or (`listeners`) the port for itself?
#[inline(always)]
pub fn host_has<F: Family>(
    skb: &Skb,
    room: &mut Room<F::Addr>,
    remote: (F::Addr, u16),
    local: (F::Addr, u16),
    protocol: u8,
    listeners: bool,
) -> bool {
    let netns = BPF_F_CURRENT_NETNS as u64;
    F::socket_set(&mut room.socket, remote, local);
    let tuple = &raw mut room.socket;
    // SAFETY: the tuple is as long as said; a socket found is released.
    unsafe {
        let socket = match protocol {
            IPPROTO_TCP => bpf_skc_lookup_tcp(skb.as_ptr(), tuple, F::SOCKET_TUPLE, netns, 0),
            IPPROTO_UDP => bpf_sk_lookup_udp(skb.as_ptr(), tuple, F::SOCKET_TUPLE, netns, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        let listens = protocol == IPPROTO_TCP && (*socket).state == TCP_LISTEN;
        bpf_sk_release(socket.cast());
        listeners || !listens
    }
}
