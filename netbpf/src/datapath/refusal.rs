//! What the kernel means when it refuses maps, programs and filters: a capability
//! that this process lacks, a feature that the kernel lacks, or a mistake of ours.

use std::{error::Error as StdError, io};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use super::{load::chain, types::DatapathError};

/// Of the object's maps.
pub(super) fn of_maps(error: &EbpfError) -> DatapathError {
    match (errno(error), error) {
        (Some(libc::EPERM | libc::EACCES), _) => lacks_bpf(),
        (Some(libc::ENOSYS), _) => unsupported("the system call bpf (CONFIG_BPF_SYSCALL)"),
        // Of a kind, or with flags, that it does not know.
        (Some(libc::EINVAL), EbpfError::MapError(MapError::CreateError { name, .. })) => {
            unsupported(&format!("maps of the kind of {name:?}"))
        }
        // Then the sections of constants are left out, and missed.
        (_, EbpfError::RelocationError(_)) if !aya::features().bpf_global_data() => {
            unsupported("global data of eBPF programs")
        }
        _ => DatapathError::other("load the eBPF object", chain(error)),
    }
}

/// Of a program.
pub(super) fn of_program(program: &str, error: &ProgramError) -> DatapathError {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return DatapathError::other(format!("load program {program}"), chain(error));
    };
    let log = verifier_log.to_string();
    match (io_error.raw_os_error(), unknown_helper(&log)) {
        (_, Some(helper)) => unsupported(&format!("the eBPF function {helper} for {program}")),
        (Some(libc::EPERM | libc::EACCES), None) if log.trim().is_empty() => lacks_bpf(),
        (Some(libc::EINVAL), None) if log.trim().is_empty() => {
            unsupported(&format!("programs of the kind of {program}"))
        }
        _ => {
            let from = log.len().saturating_sub(4000);
            let tail = log.get(from..).unwrap_or(&log);
            DatapathError::Verifier {
                program: program.into(),
                message: format!("{io_error}; the verifier's last words:\n{tail}"),
            }
        }
    }
}

/// Of the qdisc that holds filters; nothing where it may be there already.
pub(super) fn of_clsact(error: &dyn StdError) -> Option<DatapathError> {
    match errno(error) {
        Some(libc::ENOENT | libc::EOPNOTSUPP) => {
            Some(unsupported("the qdisc clsact (CONFIG_NET_SCH_INGRESS)"))
        }
        Some(libc::EPERM) => Some(DatapathError::MissingCapability {
            capability: "CAP_NET_ADMIN in the user namespace of this network namespace",
        }),
        _ => None,
    }
}

fn lacks_bpf() -> DatapathError {
    // Root of another user namespace has the capability, but not the kernel's ear.
    DatapathError::MissingCapability {
        capability: "CAP_BPF in the first user namespace, which it needs to load programs: \
                     start it as root, outside of user namespaces",
    }
}

fn unsupported(feature: &str) -> DatapathError {
    DatapathError::UnsupportedKernel {
        feature: feature.into(),
    }
}

/// The helper that the verifier does not know (`invalid func bpf_x#155`), or not
/// for this kind of program.
fn unknown_helper(log: &str) -> Option<&str> {
    let marks = ["invalid func ", "unknown func ", "cannot use helper "];
    log.lines().rev().find_map(|line| {
        let mark = marks.iter().find(|mark| line.contains(**mark))?;
        let (_, rest) = line.split_once(mark)?;
        rest.split_whitespace().next()
    })
}

/// The kernel's error number, wherever it is among the causes.
fn errno(error: &dyn StdError) -> Option<i32> {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_error(errno: i32) -> EbpfError {
        EbpfError::MapError(MapError::CreateError {
            name: "events".into(),
            io_error: io::Error::from_raw_os_error(errno),
        })
    }

    #[test]
    fn refused_maps_are_capabilities_or_features() {
        let of = |errno| of_maps(&map_error(errno));
        assert!(matches!(
            of(libc::EPERM),
            DatapathError::MissingCapability { .. }
        ));
        for errno in [libc::ENOSYS, libc::EINVAL] {
            assert!(matches!(of(errno), DatapathError::UnsupportedKernel { .. }));
        }
        assert!(of(libc::EINVAL).to_string().contains("\"events\""));
        // There is too little memory, which is another thing.
        assert!(matches!(of(libc::ENOMEM), DatapathError::Other { .. }));
    }

    #[test]
    fn helpers_that_the_verifier_does_not_know_are_named() {
        for (log, helper) in [
            (
                "0: R1=ctx()\ninvalid func bpf_redirect_peer#155\nprocessed 1 insns",
                "bpf_redirect_peer#155",
            ),
            ("invalid func unknown#211", "unknown#211"),
            (
                "12: (85) call 69\nunknown func bpf_fib_lookup#69",
                "bpf_fib_lookup#69",
            ),
            ("program of this type cannot use helper bpf_x#7", "bpf_x#7"),
        ] {
            assert_eq!(unknown_helper(log), Some(helper));
        }
        assert_eq!(unknown_helper("R2 invalid mem access 'scalar'"), None);
        assert_eq!(unknown_helper(""), None);
    }
}
