//! A container sends under its own MAC and addresses only.

use netbpf_common::{drop::DropReason, maps::Veth, packet::tuple::Ip};

use super::Step;
use crate::family::Family;

#[inline(always)]
pub fn mac(src: [u8; 6], veth: &Veth) -> Step<()> {
    if src == veth.mac {
        Ok(())
    } else {
        Err(DropReason::SpoofedMac)
    }
}

#[inline(always)]
pub fn addr<F: Family>(ip: &Ip<F::Addr>, veth: &Veth) -> Step<()> {
    let own = F::own(veth);
    if ip.src == own && own != F::UNSPECIFIED {
        return Ok(());
    }
    if F::is_link_local(ip.src) {
        return Err(DropReason::LinkLocal);
    }
    if F::is_martian(ip.src) {
        return Err(DropReason::Martian);
    }
    Err(DropReason::SpoofedAddress)
}
