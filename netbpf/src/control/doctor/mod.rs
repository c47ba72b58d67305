//! `netbpf doctor`: looks at all that can be wrong, and changes nothing.
//!
//! Each check is a pure function over what was found, in a file by what it is about;
//! [`look`] gathers that with a running daemon, [`alone`] without one. Whether host and
//! store agree is said by the plan that would put it right, whether the maps do by the
//! datapath.

mod alone;
mod conflicts;
mod findings;
mod host;
mod look;
mod machine;
mod maps;
mod programs;
mod settings;

use std::{cmp::Reverse, path::Path, sync::Arc};

use self::{findings::Findings, machine::Machine};
use super::{Inner, blocking};
use crate::{
    error::Result,
    model::{Check, Finding},
    settings::Settings,
};

/// All findings, the most serious first.
pub async fn with_daemon(inner: &Arc<Inner>) -> Result<Vec<Finding>> {
    let mut all = Inner::change(inner.clone(), look::still).await?;
    let looking = inner.clone();
    all.extend(blocking(move || look::moving(&looking, &looking.seen())).await?);
    let looking = inner.clone();
    all.extend(blocking(move || Ok(Machine::look(&looking.settings(), true).check())).await?);
    all.extend(answers());
    Ok(sorted(all))
}

/// The same without a daemon, as far as it goes; `why` there is none.
pub fn without_daemon(settings: &Settings, socket: &Path, why: &str) -> Vec<Finding> {
    sorted(alone::look(settings, socket, why))
}

fn answers() -> Vec<Finding> {
    let mut found = Findings::of(Check::Daemon);
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    found.ok("daemon", format!("version {version} answers, pid {pid}"));
    found.all()
}

fn sorted(mut all: Vec<Finding>) -> Vec<Finding> {
    all.sort_by_key(|finding| (Reverse(finding.severity), finding.check));
    all
}

#[cfg(test)]
mod tests {
    use super::{findings::tests::short, *};
    use crate::model::Severity::{Error, Ok, Warning};

    #[test]
    fn the_most_serious_comes_first() {
        let mut store = Findings::of(Check::Store);
        store.ok("store", "x");
        store.error("store", "x", "y");
        let mut daemon = Findings::of(Check::Daemon);
        daemon.warning("daemon", "x", "y");
        daemon.ok("daemon", "x");
        let all = sorted([store.all(), daemon.all()].concat());
        let expected = [
            (Error, "store"),
            (Warning, "daemon"),
            (Ok, "daemon"),
            (Ok, "store"),
        ];
        assert_eq!(short(&all), expected);
    }
}
