//! Pins of maps and programs that others removed, made anew: what they named is still
//! held by this daemon and by the programs that hang.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapInfo};
use netbpf_common::names;

use super::{Datapath, Result, load::chain, pins, types::DatapathError};

/// The kernel's numbers of our maps.
pub(super) type MapIds = HashMap<&'static str, u32>;

/// As they are pinned at the start.
pub(super) fn map_ids(bpffs: &Path) -> Result<MapIds> {
    let id = |name: &'static str| {
        let info = MapInfo::from_pin(pins::map(bpffs, name));
        let info = info.map_err(|e| DatapathError::other(format!("read map {name}"), chain(&e)))?;
        Ok((name, info.id()))
    };
    names::MAPS.iter().map(|&name| id(name)).collect()
}

impl Datapath {
    /// The kernel's number of a map.
    pub(super) fn map_id(&self, name: &str) -> Result<u32> {
        let id = self.map_ids.get(name).copied();
        id.ok_or_else(|| DatapathError::other("look for a map", format!("no map {name}")))
    }

    /// Makes these pins, as far as they are of maps and programs of ours.
    pub fn repin(&self, missing: &[PathBuf]) -> Result<()> {
        pins::make_directories(&self.bpffs)?;
        let failed = |path: &Path, error: String| {
            DatapathError::other(format!("pin {}", path.display()), error)
        };
        for (name, id) in &self.map_ids {
            let path = pins::map(&self.bpffs, name);
            if missing.contains(&path) {
                let map = MapData::from_id(*id).map_err(|e| failed(&path, chain(&e)))?;
                map.pin(&path).map_err(|e| failed(&path, chain(&e)))?;
            }
        }
        let ebpf = &mut self.inner().ebpf;
        for name in names::PROGRAMS.iter().chain(names::HOST_PROGRAMS) {
            let path = pins::program(&self.bpffs, name);
            if let Some(program) = ebpf.program_mut(name)
                && missing.contains(&path)
            {
                program.pin(&path).map_err(|e| failed(&path, chain(&e)))?;
            }
        }
        Ok(())
    }
}
