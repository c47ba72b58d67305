//! Published ports among the ports that the kernel does not choose by itself
//! (`net.ipv4.ip_local_reserved_ports`), without losing what the user has there.

use super::{Inner, ports::local_port_range, portset::PortSet, state::State};
use crate::{
    error::{Error, Result},
    store::Meta,
    sys::sysctl::Sysctls,
};

/// Below `net.ipv4`.
const NAME: [&str; 1] = ["ip_local_reserved_ports"];

pub fn read(sysctls: &Sysctls) -> Result<PortSet> {
    let list = sysctls.ipv4.read(&NAME)?;
    Ok(PortSet::parse(&list.unwrap_or_default()))
}

/// Writes the list and looks whether it is what the kernel has then: the user's
/// part of it is lost otherwise. The kernel takes long lists in pieces, between
/// which others may write.
fn write(sysctls: &Sysctls, wanted: &PortSet) -> Result<()> {
    // An empty list is a line feed: a write of nothing changes nothing.
    let list = format!("{wanted}\n");
    let mut found = PortSet::default();
    for _ in 0..2 {
        sysctls.ipv4.write(&NAME, &list)?;
        found = read(sysctls)?;
        if found == *wanted {
            return Ok(());
        }
    }
    Err(Error::internal(format!(
        "sysctl net.ipv4.ip_local_reserved_ports has {} ports after {} were written",
        found.len(),
        wanted.len()
    )))
}

/// Makes `ip_local_reserved_ports` what the published ports ask for. What is ours
/// is in the store before it is in the kernel, so that it can be taken back
/// whenever the daemon ends.
pub fn sync(inner: &Inner, state: &mut State) -> Result<()> {
    let published = state.services.ports();
    let wanted = match inner.settings().reserve_ports && !published.is_empty() {
        true => published.within(local_port_range(&state.sysctls)),
        // With `--no-reserve-ports` what an earlier daemon reserved is given back.
        false => PortSet::default(),
    };
    // Nothing to read where nothing is to be kept or taken back.
    if wanted.is_empty() && state.reserved.is_empty() {
        return Ok(());
    }
    let current = read(&state.sysctls)?;
    let merged = merge(&current, &state.reserved, &wanted);
    if current == merged.list && merged.ours == state.reserved {
        return Ok(());
    }
    let stored = state.reserved.union(&merged.ours);
    if stored != state.reserved {
        inner.store.put_meta(Meta::ReservedPorts, &stored)?;
        // Also where the next fails: the kernel may have taken some of it.
        state.reserved = stored.clone();
    }
    write(&state.sysctls, &merged.list)?;
    if stored != merged.ours {
        inner.store.put_meta(Meta::ReservedPorts, &merged.ours)?;
    }
    state.reserved = merged.ours;
    Ok(())
}

/// Takes back all that is ours of `ip_local_reserved_ports`.
pub fn release(sysctls: &Sysctls, ours: &PortSet) -> Result<()> {
    if ours.is_empty() {
        return Ok(());
    }
    let merged = merge(&read(sysctls)?, ours, &PortSet::default());
    write(sysctls, &merged.list)
}

/// What to write, and which of it is ours from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    pub list: PortSet,
    pub ours: PortSet,
}

/// `current` is the kernel's list, `ours` what of it we added before, `wanted`
/// the ports to be reserved now. A port that the user has reserved stays the
/// user's.
pub fn merge(current: &PortSet, ours: &PortSet, wanted: &PortSet) -> Merged {
    let users = current.difference(ours);
    let ours = wanted.difference(&users);
    Merged {
        list: users.union(&ours),
        ours,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(list: &str) -> PortSet {
        PortSet::parse(list)
    }

    #[test]
    fn the_users_ports_stay_whatever_we_do() {
        let users = set("40000-40002,50000");
        let first = merge(&users, &set(""), &set("40001,40003"));
        assert_eq!(first.list, set("40000-40003,50000"));
        assert_eq!(first.ours, set("40003"));
        let gone = merge(&first.list, &first.ours, &set(""));
        assert_eq!(gone.list, users);
        assert!(gone.ours.is_empty());
    }

    proptest! {
        #[test]
        fn taking_back_gives_what_was_there(
            users in proptest::collection::vec(any::<u16>(), 0..20),
            wanted in proptest::collection::vec(
                proptest::collection::vec(any::<u16>(), 0..20), 0..5),
        ) {
            let set = |ports: &[u16]| {
                let mut set = PortSet::default();
                ports.iter().for_each(|&port| set.insert(port..=port));
                set
            };
            let users = set(&users);
            let mut now = Merged { list: users.clone(), ours: PortSet::default() };
            for wanted in wanted {
                let wanted = set(&wanted);
                now = merge(&now.list, &now.ours, &wanted);
                prop_assert!(wanted.difference(&now.list).is_empty());
                prop_assert!(users.difference(&now.list).is_empty());
            }
            prop_assert_eq!(merge(&now.list, &now.ours, &PortSet::default()).list, users);
        }
    }
}
