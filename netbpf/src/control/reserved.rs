//! Published ports among the ports that the kernel does not choose by itself
//! (`net.ipv4.ip_local_reserved_ports`), without losing what the user has there.
//! Pure.

use std::collections::BTreeSet;

/// What to write, and which of it is ours from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    pub list: String,
    pub ours: BTreeSet<u16>,
}

/// `current` is the kernel's list, `ours` what of it we added before, `wanted`
/// the ports to be reserved now. A port that the user has reserved stays the
/// user's.
pub fn merge(current: &str, ours: &BTreeSet<u16>, wanted: &BTreeSet<u16>) -> Merged {
    let users: BTreeSet<u16> = parse(current).difference(ours).copied().collect();
    let ours: BTreeSet<u16> = wanted.difference(&users).copied().collect();
    Merged {
        list: format(users.union(&ours).copied()),
        ours,
    }
}

/// `1-3,7` as the kernel writes it; what makes no sense is passed over.
pub fn parse(list: &str) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for part in list.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse()) {
            ports.extend(first..=last);
        }
    }
    ports
}

fn format(ports: impl Iterator<Item = u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let parts: Vec<String> = ranges
        .into_iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    // An empty list is a line feed: a write of nothing changes nothing.
    parts.join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(ports: &[u16]) -> BTreeSet<u16> {
        ports.iter().copied().collect()
    }

    #[test]
    fn the_users_ports_stay_whatever_we_do() {
        let first = merge("40000-40002,50000", &set(&[]), &set(&[40001, 40003]));
        assert_eq!(first.list, "40000-40003,50000\n");
        assert_eq!(first.ours, set(&[40003]));
        let gone = merge(&first.list, &first.ours, &set(&[]));
        assert_eq!(gone.list, "40000-40002,50000\n");
        assert_eq!(gone.ours, set(&[]));
    }

    proptest! {
        #[test]
        fn taking_back_gives_what_was_there(
            users in proptest::collection::btree_set(any::<u16>(), 0..20),
            wanted in proptest::collection::vec(
                proptest::collection::btree_set(any::<u16>(), 0..20), 0..5),
        ) {
            let before = format(users.iter().copied());
            let mut now = Merged { list: before.clone(), ours: BTreeSet::new() };
            for wanted in wanted {
                now = merge(&now.list, &now.ours, &wanted);
                prop_assert!(wanted.is_subset(&parse(&now.list)));
                prop_assert!(users.is_subset(&parse(&now.list)));
            }
            prop_assert_eq!(merge(&now.list, &now.ours, &BTreeSet::new()).list, before);
        }
    }
}
