//! Takes everything away that the daemon made. Networks stay in the store.

use std::{fs, path::Path, sync::Arc};

use super::{
    Inner,
    apply::Apply,
    detach, overlay,
    plan::{self, Heirs, Wanted},
    portset::PortSet,
    recover, reserved,
    state::State,
};
use netbpf_common::names;

use crate::{
    datapath::{Copies, Datapath},
    error::{Code, Error, Result},
    settings::Settings,
    store::{Meta, Place, Store},
    sys::{
        bpffs::{self, Prepared},
        lock::{DirectoryLock, NamespaceLock},
        netlink::{Link, Netlink},
        sysctl::Sysctls,
    },
};

/// With a running daemon, which is to end then.
pub fn online(inner: &Inner, state: &mut State, purge: bool) -> Result<()> {
    state.closed = true;
    inner.reaper.wait_for_all();
    // While there is a way for what clients are to hear.
    let endpoints = recover::wanted(state, inner.ipv6).endpoints;
    let steps = detach::last_words(state, &endpoints);
    for error in inner.apply(&mut state.host).run_to_end(&steps) {
        tracing::warn!(%error, "connections of published ports go on");
    }
    for uplink in &state.uplinks {
        if let Err(error) = inner.datapath.detach(&uplink.entry.device) {
            tracing::warn!(%error, device = uplink.entry.device.name, "programs stay on it");
        }
    }
    let errors = everything(
        &inner.settings(),
        Some(&inner.store),
        state,
        inner.ipv6,
        inner.bpffs,
    );
    // What could not be taken away is tried again, by the node that it is of.
    if purge && errors.is_empty() {
        overlay::leave(inner);
    } else {
        overlay::give_back(inner, state);
    }
    let done = finish(&inner.settings(), errors, purge);
    if done.is_err() {
        let note =
            "a teardown did not finish: containers have no network; `netbpf teardown` tries again";
        state.notes.retain(|n| n != note);
        state.notes.push(note.into());
    }
    done
}

/// After a first start that failed.
pub fn undo_start(inner: &Inner, state: &mut State) {
    let store = Some(&*inner.store);
    for error in everything(&inner.settings(), store, state, inner.ipv6, inner.bpffs) {
        tracing::warn!(%error, "not taken back");
    }
}

/// Without one, from the store and what is found. Where there is no store, what
/// bears our marks and the pins go all the same: nobody else's daemon runs here.
pub fn offline(settings: &Settings, purge: bool) -> Result<()> {
    let _namespace = NamespaceLock::take()?;
    let place = recover::here()?;
    let (state_dir, run_dir) = (&settings.state_dir, &settings.run_dir);
    let has_files = Store::is_there(state_dir, run_dir, &place.boot);
    // Of a store without files the kernel's copies say what is reserved; where they are
    // damaged, the rest is taken away all the same.
    let copies = || match recover::copies(settings, &place) {
        Err(_) if purge && !has_files => Ok(Copies::default()),
        copies => copies,
    };
    let store = Store::open_existing(state_dir, run_dir, &place.boot, &copies)?;
    store.iter().for_each(recover::say_restored);
    let _pins = match bpffs::is_bpffs(&settings.bpffs) {
        true => Some(DirectoryLock::take(&settings.bpffs)?),
        false => None,
    };
    let mut state = State::new(Netlink::open()?, Arc::new(Sysctls::open()?), 0);
    if store.is_none() && !settings.bpffs.join(names::CONFIG).exists() {
        return refuse_strangers(settings, &mut state);
    }
    let mut bpffs = Prepared::Found;
    if let Some(store) = &store {
        check_place(store, &place, state_dir)?;
        for network in store.networks()? {
            state.add_network(network);
        }
        for endpoint in store.endpoints()? {
            state.put_endpoint(endpoint);
        }
        state.reserved = store.meta(Meta::ReservedPorts)?.unwrap_or_default();
        let known: Option<(std::path::PathBuf, Prepared)> = store.meta(Meta::Bpffs)?;
        if let Some((path, how)) = known
            && path == settings.bpffs
        {
            bpffs = how;
        }
    }
    let ipv6 = state.sysctls.has_ipv6();
    let errors = everything(settings, store.as_ref(), &mut state, ipv6, bpffs);
    if purge && let Some(store) = &store {
        overlay::say_stays_offline(store);
    }
    // What could not be taken away needs its records.
    if purge && let Some(store) = store.filter(|_| !has_files && errors.is_empty()) {
        store.discard_made();
    }
    // Without a store of before it is somebody else's directory.
    finish(settings, errors, purge && has_files)
}

/// Neither store nor pins: nothing of a daemon with these directories is left.
/// Devices that are here are another's, and without its directories half of what
/// it made would stay.
fn refuse_strangers(settings: &Settings, state: &mut State) -> Result<()> {
    let links = state.host.links()?;
    let ours = |link: &&Link| {
        let alias = link.alias.as_deref();
        alias.is_some_and(|alias| alias.starts_with(plan::ALIAS_PREFIX))
    };
    match links.iter().find(ours) {
        None => Ok(()),
        Some(link) => Err(Error::new(
            Code::Conflict,
            format!(
                "device {} is of a netbpf daemon with other directories than {} and {}: \
                 name its --state-dir, --run-dir and --bpffs",
                link.name,
                settings.state_dir.display(),
                settings.bpffs.display()
            ),
        )),
    }
}

/// Devices, addresses and routes are in the namespace in which the daemon was: of
/// another one, ours would be the wrong ones.
fn check_place(store: &Store, here: &Place, state_dir: &Path) -> Result<()> {
    let was: Option<Place> = store.meta(Meta::Place)?;
    match was {
        Some(was) if was.boot == here.boot && was.namespace != here.namespace => Err(Error::new(
            Code::Conflict,
            format!(
                "the daemon of {} ran in another network namespace (net:[{}]), this one is net:[{}]: tear down in that one (nsenter --net=… netbpf teardown …)",
                state_dir.display(),
                was.namespace.inode,
                here.namespace.inode
            ),
        )),
        _ => Ok(()),
    }
}

/// Everything, as far as it goes; errors are gathered.
fn everything(
    settings: &Settings,
    store: Option<&Store>,
    state: &mut State,
    ipv6: bool,
    bpffs: Prepared,
) -> Vec<Error> {
    let mut errors = Vec::new();
    let all = recover::wanted(state, ipv6);
    // Maps and programs go as a whole, below.
    let mut apply = Apply::new(&mut state.host, &state.sysctls, None, ipv6);
    for endpoint in &all.endpoints {
        errors.extend(apply.run_to_end(&plan::detach(endpoint, Heirs::default())));
    }
    // At once; what is not in the group yet, of an attach cut short, one by one.
    errors.extend(apply.remove_all_veths().err());
    for endpoint in &all.endpoints {
        errors.extend(apply.run_to_end(&plan::remove_device(endpoint)));
        let removed = store.map_or(Ok(()), |s| s.remove_endpoint(endpoint.record.index));
        errors.extend(removed.err().map(Into::into));
    }
    for network in &all.networks {
        errors.extend(apply.run_to_end(&plan::network_down(network)));
    }
    match apply.look_around() {
        Ok(found) => {
            let strays = plan::strays(&Wanted::default(), &found);
            errors.extend(apply.run_to_end(&strays));
        }
        Err(e) => errors.push(e),
    }
    errors.extend(Datapath::teardown(&settings.bpffs).err().map(Into::into));
    errors.extend(bpffs::release(&settings.bpffs, bpffs).err().map(Into::into));
    match reserved::release(&state.sysctls, &state.reserved) {
        Ok(()) => {
            let none = PortSet::default();
            let noted = store.map_or(Ok(()), |s| s.put_meta(Meta::ReservedPorts, &none));
            errors.extend(noted.err().map(Into::into));
        }
        Err(e) => errors.push(e),
    }
    errors
}

fn finish(settings: &Settings, mut errors: Vec<Error>, purge: bool) -> Result<()> {
    if purge {
        errors.extend(empty(&settings.state_dir).err());
        remove_endpoint_files(&settings.run_dir);
    }
    if errors.is_empty() {
        tracing::info!(purge, "everything of ours is removed");
        return Ok(());
    }
    let messages: Vec<String> = errors.into_iter().map(|e| e.message).collect();
    Err(Error::new(
        Code::Internal,
        format!("not all could be removed: {}", messages.join("; ")),
    ))
}

/// Removes what is in a directory, not the directory itself.
fn empty(dir: &Path) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::new(
            Code::StoreUnavailable,
            format!("empty {}: {e}", dir.display()),
        )
    };
    let entries = match fs::read_dir(dir) {
        // Somebody was quicker.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let removed = match entry.file_type().map_err(failed)?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        removed.map_err(failed)?;
    }
    Ok(())
}

fn remove_endpoint_files(run_dir: &Path) {
    for entry in fs::read_dir(run_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("endpoints-") && name.contains(".redb") {
            let _ = fs::remove_file(entry.path());
        }
    }
}
