//! TC egress of a host-side veth: what the host's own stack sends to the
//! container. Packets that we deliver do not come by here.

use aya_ebpf::{macros::classifier, programs::TcContext};
use netbpf_common::{drop::DropReason, packet::eth};

use crate::{ctx::Skb, emit, maps::VETHS};

#[classifier]
pub fn to_container(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let ifindex = skb.ifindex();
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    let endpoint = unsafe { VETHS.get(&ifindex) }.map_or(0, |veth| veth.endpoint);
    // Something beside us made the host a router: nobody asked it to forward
    // into our networks, past their policy.
    if skb.ingress_ifindex() != 0 {
        return emit::dropped(&skb, eth::LEN, DropReason::KernelForwarded as u32, endpoint);
    }
    // The device of one that is gone is nobody's.
    if endpoint != 0 {
        emit::received(&skb, endpoint);
    }
    emit::NEXT
}
