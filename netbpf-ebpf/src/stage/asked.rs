//! Services of the host that a container asks by UDP at an address other than its
//! gateway's. A program that has all addresses leaves the source of its answer to the
//! kernel, whose route to the container says the gateway's; `host_sendmsg` makes it the
//! address that was asked (RFC 1122 section 4.1.3.5).

use netbpf_common::{
    maps::{AskedKey, Veth},
    packet::IPPROTO_UDP,
};

use crate::{
    family::{Family, scratch},
    maps::HOST_ASKED,
};

/// Notes where the host is asked by the packet that is worked on.
#[inline(never)]
pub fn note<F: Family>(veth: &Veth) -> u32 {
    let Ok((p, _)) = scratch::<F>() else {
        return 0;
    };
    if p.ip.protocol != IPPROTO_UDP || p.ip.later_fragment {
        return 0;
    }
    let key = AskedKey {
        addr: F::mapped(p.ip.src),
        port: p.t.sport,
        host_port: p.t.dport,
    };
    let asked = F::mapped(p.ip.dst);
    // SAFETY: read once; what another CPU writes meanwhile is of the same container.
    let known = unsafe { HOST_ASKED.get(&key) };
    if p.ip.dst == F::gateway(veth) {
        // What the kernel chooses is right again.
        if known.is_some() {
            let _ = HOST_ASKED.remove(&key);
        }
    } else if known.is_none_or(|known| *known != asked) {
        // Where there is no room, the answer comes from the gateway.
        let _ = HOST_ASKED.insert(&key, &asked, 0);
    }
    0
}
