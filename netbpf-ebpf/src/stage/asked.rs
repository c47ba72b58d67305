//! Services of the host that a container asks by UDP at an address other than its
//! gateway's. A program that has all addresses leaves the source of its answer to the
//! kernel, whose route to the container says the gateway's; `host_sendmsg` makes it the
//! address that was asked last (RFC 1122 section 4.1.3.5).

use netbpf_common::{
    maps::{Asked, AskedKey, Veth},
    packet::IPPROTO_UDP,
};

use super::sockets::host_has;
use crate::{
    ctx::{Skb, now},
    family::{Family, scratch},
    maps::HOST_ASKED,
};

/// Notes where the host is asked by the packet that is worked on. What no socket of the
/// host is there for leaves no trace.
#[inline(never)]
pub fn note<F: Family>(skb: &Skb, veth: &Veth) -> u32 {
    let Ok((p, room)) = scratch::<F>() else {
        return 0;
    };
    let (ip, t) = (&p.ip, &p.t);
    if ip.protocol != IPPROTO_UDP || ip.later_fragment {
        return 0;
    }
    let key = AskedKey {
        addr: F::mapped(ip.src),
        port: t.sport,
        host_port: t.dport,
    };
    let asked = Asked {
        addr: F::mapped(ip.dst),
        seen: now(),
    };
    let known = HOST_ASKED.get_ptr_mut(&key);
    if ip.dst == F::gateway(veth) {
        // What the kernel chooses is right again.
        if known.is_some() {
            let _ = HOST_ASKED.remove(&key);
        }
        return 0;
    }
    if let Some(known) = known {
        // SAFETY: readable as long as the program runs; should it have become another's
        // meanwhile, that one lasts a little longer.
        let known = unsafe { &mut *known };
        if known.addr == asked.addr {
            known.seen = asked.seen;
            return 0;
        }
    }
    let (client, service) = ((ip.src, t.sport), (ip.dst, t.dport));
    if host_has::<F>(skb, room, client, service, IPPROTO_UDP, true) {
        // Where there is no room, the answer comes from the gateway.
        let _ = HOST_ASKED.insert(&key, &asked, 0);
    }
    0
}
