//! What a start of this binary would do to the datapath that is there: asked beforehand,
//! beside the daemon that runs, and without a change.

use std::{collections::HashMap, fs, path::Path};

use aya::{maps::MapInfo, programs::ProgramInfo};
use netbpf_common::names;

use super::{
    Result,
    kernel::Kernel,
    load::{self, Fit},
    object::Kept,
    pins,
    types::Sizes,
};
use crate::settings::Release;

/// What becomes of a program or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Goes on as it is.
    Kept,
    /// A map that goes on with another size than configured: entries, as it is and as
    /// configured.
    KeptSize(u32, u32),
    /// Another takes its place everywhere, each atomically.
    Replaced,
    /// There is none yet.
    Made,
    /// Another version's, which this one neither uses nor removes.
    Left,
    /// What it holds cannot be read by this version: it would not start; why.
    Refused(String),
}

/// What becomes of all that is pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgrade {
    pub programs: Vec<(String, Fate)>,
    pub maps: Vec<(String, Fate)>,
}

/// Nothing where there is no datapath. `cgroup`: whether there is one to serve.
pub fn check_upgrade(
    bpffs: &Path,
    sizes: Sizes,
    as_kernel: Option<Release>,
    cgroup: bool,
) -> Result<Upgrade> {
    let mut upgrade = Upgrade::default();
    if !names::MAPS
        .iter()
        .any(|name| pins::map(bpffs, name).exists())
    {
        return Ok(upgrade);
    }
    let digest = load::digest(Kernel::new(as_kernel));
    let kept = Kept::find(bpffs, digest).is_some();
    for &name in names::PROGRAMS.iter().chain(names::HOST_PROGRAMS) {
        let fate = match (pins::program(bpffs, name).exists(), kept) {
            (true, true) => Fate::Kept,
            (true, false) => Fate::Replaced,
            // Loaded once something wants it.
            (false, _) if names::AT_NEED.contains(&name) => continue,
            (false, _) if names::HOST_PROGRAMS.contains(&name) && !cgroup => continue,
            (false, _) => Fate::Made,
        };
        upgrade.programs.push((name.into(), fate));
    }
    let mut fates: HashMap<&str, Fate> = load::fits(bpffs, sizes)?
        .into_iter()
        .map(|(name, fit)| {
            let fate = match fit {
                Fit::Missing => Fate::Made,
                Fit::Same => Fate::Kept,
                Fit::Size { found, configured } => Fate::KeptSize(found, configured),
                Fit::Other(error) => Fate::Refused(error.to_string()),
            };
            (name, fate)
        })
        .collect();
    if let Err(error) = load::check_layout(bpffs) {
        fates.insert(names::CONFIG, Fate::Refused(error.to_string()));
    }
    let known = names::MAPS.iter();
    let known = known.filter_map(|&name| Some((name.to_owned(), fates.remove(name)?)));
    upgrade.maps.extend(known);
    upgrade.maps.extend(unknown(bpffs, &[names::MAPS], |pin| {
        MapInfo::from_pin(pin).is_ok()
    }));
    let programs = bpffs.join("programs");
    let known = [names::PROGRAMS, names::HOST_PROGRAMS];
    upgrade.programs.extend(unknown(&programs, &known, |pin| {
        ProgramInfo::from_pin(pin).is_ok()
    }));
    Ok(upgrade)
}

/// Pins in a directory that are of no name that this version knows.
fn unknown(
    directory: &Path,
    known: &[&[&str]],
    is_pin: impl Fn(&Path) -> bool,
) -> Vec<(String, Fate)> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !known.iter().any(|known| known.contains(&name.as_str())))
        .filter(|name| is_pin(&directory.join(name)))
        .collect();
    names.sort();
    names.into_iter().map(|name| (name, Fate::Left)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_pinned_there_is_nothing_to_say() {
        let sizes = Sizes {
            endpoints: 16,
            flows: 64,
        };
        let nowhere = Path::new("/proc/self/fdinfo");
        assert_eq!(
            check_upgrade(nowhere, sizes, None, true).unwrap(),
            Upgrade::default()
        );
    }
}
