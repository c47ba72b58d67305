//! TC egress of a host-side veth: what the host's own stack sends to the
//! container. Packets that we deliver do not come by here.
//!
//! what is forwarded: parse → answer to what was handed to the host

use aya_ebpf::{macros::classifier, programs::TcContext};
use netbpf_common::{drop::DropReason, maps::flows::ARRIVAL_HOST, packet::eth};

use super::{Parsed, parse};
use crate::{
    ctx::Skb,
    emit,
    family::{Family, V4, V6},
    stage::{handed, local},
};

#[classifier]
pub fn to_container(ctx: TcContext) -> i32 {
    let skb = &Skb::new(&ctx);
    let endpoint = local::of_veth(skb.ifindex(), |veth| veth.endpoint).unwrap_or(0);
    // Something beside us made the host a router: nobody asked it to forward into our
    // networks, past their policy, but for answers to what our containers have asked the
    // host for, and others translate.
    if skb.ingress_ifindex() != 0 && !is_answer(skb, endpoint) {
        return emit::dropped(skb, eth::LEN, DropReason::KernelForwarded as u32, endpoint);
    }
    // The device of one that is gone is nobody's.
    if endpoint != 0 {
        emit::received(skb, endpoint);
    }
    emit::NEXT
}

#[inline(always)]
fn is_answer(skb: &Skb, endpoint: u32) -> bool {
    match skb.protocol() {
        eth::TYPE_IPV4 => answers::<V4>(skb, endpoint),
        eth::TYPE_IPV6 => answers::<V6>(skb, endpoint),
        _ => false,
    }
}

#[inline(always)]
fn answers<F: Family>(skb: &Skb, endpoint: u32) -> bool {
    endpoint != handed::UNTRANSLATED
        && parse::<F>(skb, eth::LEN, ARRIVAL_HOST) == Parsed::Whole
        && handed::is_answer::<F>(skb, endpoint) != 0
}
