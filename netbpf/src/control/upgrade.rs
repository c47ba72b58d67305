//! What a start of this binary would do to the datapath that is there.

use crate::{
    datapath::{self, Fate, Sizes},
    error::Result,
    model::{UpgradeInfo, UpgradeKind, UpgradeOutcome},
    settings::Settings,
    sys::{capabilities, cgroup},
};

/// Asked beside the daemon that runs, or without one; nothing is changed.
pub fn check(settings: &Settings) -> Result<Vec<UpgradeInfo>> {
    capabilities::check()?;
    let sizes = Sizes {
        endpoints: settings.max_endpoints,
        flows: settings.max_flows,
    };
    let has_cgroup = settings.cgroup.is_some() || cgroup::root()?.is_some();
    let found = datapath::check_upgrade(&settings.bpffs, sizes, settings.as_kernel, has_cgroup)?;
    let programs = found.programs.into_iter();
    let programs = programs.map(|(name, fate)| info(UpgradeKind::Program, name, fate));
    let maps = found.maps.into_iter();
    let maps = maps.map(|(name, fate)| info(UpgradeKind::Map, name, fate));
    Ok(programs.chain(maps).collect())
}

fn info(kind: UpgradeKind, name: String, fate: Fate) -> UpgradeInfo {
    let (outcome, reason) = match fate {
        Fate::Kept => (UpgradeOutcome::Kept, None),
        Fate::KeptSize(found, configured) => (
            UpgradeOutcome::Kept,
            Some(format!(
                "with {found} entries until `netbpf teardown`, {configured} are configured"
            )),
        ),
        Fate::Replaced => (UpgradeOutcome::Replaced, None),
        Fate::Made => (UpgradeOutcome::Made, None),
        Fate::Left => (
            UpgradeOutcome::Left,
            Some("of another version, for which it stays".into()),
        ),
        Fate::Refused(why) => (UpgradeOutcome::Refused, Some(why)),
    };
    UpgradeInfo {
        kind,
        name,
        outcome,
        reason,
    }
}
