//! What the maps have of our subnets.

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use ipnet::IpNet;
use netbpf_common::{
    maps::{
        Pool,
        subnets::{AREA_BITS4, AREA_BITS6, AREAS, area_index, area4, area6},
    },
    names,
};

use super::{
    Datapath, Result,
    load::chain,
    tables::{self, Written},
    types::{DatapathError, SubnetEntry},
};

/// `areas`: how the addresses of subnets begin.
pub(super) struct Areas(Array<MapData, Pool>);

impl Areas {
    pub fn open(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Areas(tables::take(ebpf, names::AREAS)?))
    }

    fn at(&self, is_v6: bool) -> Result<Pool> {
        let held = self.0.get(&area_index(is_v6), 0);
        held.map_err(|e| DatapathError::other("read map areas", chain(&e)))
    }

    fn write(&mut self, areas: &[Pool; 2]) -> Result<()> {
        for (is_v6, wanted) in [false, true].into_iter().zip(areas) {
            if self.at(is_v6)? != *wanted {
                let written = self.0.set(area_index(is_v6), wanted, 0);
                written.written(names::AREAS, AREAS)?;
            }
        }
        Ok(())
    }

    /// A subnet whose mark is missing.
    pub fn unmarked<'a>(&self, subnets: &'a [SubnetEntry]) -> Result<Option<&'a SubnetEntry>> {
        let held = [self.at(false)?, self.at(true)?];
        let has_all = |wanted: &[Pool; 2]| wanted.iter().zip(&held).all(|(w, h)| h.includes(w));
        let is_missing = |subnet: &&SubnetEntry| !has_all(&of([subnet.subnet]));
        Ok(subnets.iter().find(is_missing))
    }
}

/// The marks of subnets, by family.
fn of(subnets: impl IntoIterator<Item = IpNet>) -> [Pool; 2] {
    let [mut v4, mut v6] = [Pool::EMPTY; 2];
    for subnet in subnets {
        match subnet {
            IpNet::V4(net) => {
                let first = area4(net.network().octets());
                let more = AREA_BITS4.saturating_sub(net.prefix_len());
                let last = first | ((1_u32 << more) - 1) as u16;
                (first..=last).for_each(|area| v4.put(area, true));
            }
            IpNet::V6(net) if net.prefix_len() >= AREA_BITS6 => {
                v6.put(area6(net.network().octets()), true);
            }
            // Where its addresses' marks are, only each of them could tell.
            IpNet::V6(_) => v6 = Pool::FULL,
        }
    }
    [v4, v6]
}

impl Datapath {
    /// Makes the table of our subnets just this.
    pub fn set_subnets(&self, subnets: &[SubnetEntry]) -> Result<()> {
        let wanted: Vec<_> = subnets.iter().map(tables::subnet).collect();
        let tables = &mut self.inner().tables;
        // In this order no subnet is ever without its mark.
        let held = tables.subnets.keys().flatten();
        let held = held.map(|key| tables::subnet_of(&key));
        let all = subnets.iter().map(|subnet| subnet.subnet).chain(held);
        tables.areas.write(&of(all))?;
        tables::replace_all(names::SUBNETS, &mut tables.subnets, &wanted)?;
        tables.areas.write(&of(subnets.iter().map(|s| s.subnet)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(subnets: &[&str]) -> [usize; 2] {
        let subnets = subnets.iter().map(|net| net.parse().expect("a subnet"));
        of(subnets).map(|pool| (0..=u16::MAX).filter(|bit| pool.has(*bit)).count())
    }

    #[test]
    fn each_address_of_a_subnet_has_its_mark() {
        assert_eq!(
            marks(&["10.1.0.0/16", "10.1.2.0/24", "fd00:1:2::/64"]),
            [1, 1]
        );
        assert_eq!(marks(&["172.16.0.0/12"]), [16, 0]);
        assert_eq!(marks(&["0.0.0.0/0"]), [65_536, 0]);
        assert_eq!(marks(&["fd00::/8"]), [0, 65_536]);
        let [v4, _] = of(["172.16.0.0/12".parse().expect("a subnet")]);
        assert!(v4.has(area4([172, 31, 255, 255])) && !v4.has(area4([172, 32, 0, 0])));
        let [_, v6] = of(["fd12:3456:789a::/48".parse().expect("a subnet")]);
        let inside: std::net::Ipv6Addr = "fd12:3456:789a:ffff::1".parse().expect("an address");
        assert!(v6.has(area6(inside.octets())));
    }
}
