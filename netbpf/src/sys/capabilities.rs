//! Capabilities of this process (capabilities(7)).

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};

use super::{Result, SysError};

/// A capability, and what it is for.
#[derive(Clone, Copy, Debug)]
struct Use {
    name: &'static str,
    set: CapabilitySet,
    purpose: &'static str,
    /// Nothing goes without it.
    needed: bool,
}

/// All that a daemon ever uses; docs/capabilities.md has them, too.
const USES: [Use; 6] = [
    Use {
        name: "CAP_NET_ADMIN",
        set: CapabilitySet::NET_ADMIN,
        purpose: "change devices, addresses and routes",
        needed: true,
    },
    Use {
        name: "CAP_SYS_ADMIN",
        set: CapabilitySet::SYS_ADMIN,
        purpose: "enter the namespaces of containers and load programs",
        needed: true,
    },
    Use {
        name: "CAP_SYS_PTRACE",
        set: CapabilitySet::SYS_PTRACE,
        purpose: "open the namespaces of processes with other capabilities",
        needed: false,
    },
    Use {
        name: "CAP_CHOWN",
        set: CapabilitySet::CHOWN,
        purpose: "give the socket to its group",
        needed: false,
    },
    Use {
        name: "CAP_NET_BIND_SERVICE",
        set: CapabilitySet::NET_BIND_SERVICE,
        purpose: "serve metrics at a port below 1024",
        needed: false,
    },
    Use {
        name: "CAP_DAC_OVERRIDE",
        set: CapabilitySet::DAC_OVERRIDE,
        purpose: "use directories and namespace files of others than root",
        needed: false,
    },
];

/// Gives up, for this process and all that it might start, whatever else there is. To be
/// called before there are threads.
pub fn drop_others() -> Result<()> {
    let failed = |e: rustix::io::Errno| SysError::io("drop capabilities", e);
    let used = USES
        .iter()
        .fold(CapabilitySet::empty(), |all, one| all | one.set);
    let had = capabilities(None).map_err(failed)?;
    // A kernel of before has none to clear.
    let _ = clear_ambient_capability_set();
    set_no_new_privs(true).map_err(failed)?;
    let kept = CapabilitySets {
        effective: had.effective & used,
        permitted: had.permitted & used,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept).map_err(failed)
}

/// Fails with the name of the first capability that is missing.
pub fn check() -> Result<()> {
    match missing()?.first() {
        Some(&(capability, purpose)) => Err(SysError::MissingCapability {
            capability,
            purpose,
        }),
        None => Ok(()),
    }
}

/// The capabilities that are needed and not there, and what for.
pub fn missing() -> Result<Vec<(&'static str, &'static str)>> {
    let had = effective()?;
    let needed = USES.iter().filter(|one| one.needed);
    let missing = needed.filter(|one| !had.contains(one.set));
    Ok(missing.map(|one| (one.name, one.purpose)).collect())
}

/// Whether the namespaces of processes with other capabilities can be opened; `false`
/// where that cannot be known.
pub fn has_ptrace() -> bool {
    effective().is_ok_and(|had| had.contains(CapabilitySet::SYS_PTRACE))
}

/// Of this thread.
fn effective() -> Result<CapabilitySet> {
    let sets = capabilities(None);
    let sets = sets.map_err(|e| SysError::io("read the process's capabilities", e))?;
    Ok(sets.effective)
}
