//! Attaches that engines have asked for and that are not done yet. One that waits may be
//! overtaken by the engine's detach, when the engine has given up on it: it must not be
//! done afterwards.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use super::network::DEFAULT;
use crate::model::{AttachSpec, DetachSpec, Engine};

/// All that wait.
#[derive(Default)]
pub struct Attaching(Arc<Mutex<Vec<Arc<Entry>>>>);

struct Entry {
    engine: Engine,
    container_id: String,
    caller: Option<String>,
    network: String,
    /// Unknown where the first free one is asked for.
    ifname: Option<String>,
    given_up: AtomicBool,
}

/// One of them, as long as it is held.
pub struct Ticket {
    entry: Arc<Entry>,
    all: Arc<Mutex<Vec<Arc<Entry>>>>,
}

impl Attaching {
    /// From now on it can be given up; None where no engine asks.
    pub fn enter(&self, spec: &AttachSpec) -> Option<Ticket> {
        let engine = spec.engine.as_ref()?;
        let entry = Arc::new(Entry {
            engine: engine.kind,
            container_id: engine.container_id.clone(),
            caller: engine.caller.clone(),
            network: spec.network.clone().unwrap_or_else(|| DEFAULT.into()),
            ifname: spec.ifname.clone(),
            given_up: AtomicBool::new(false),
        });
        lock(&self.0).push(entry.clone());
        Some(Ticket {
            entry,
            all: self.0.clone(),
        })
    }

    /// Gives up those that a detach means. What is named by exception or by nothing but a
    /// network is not: nobody has given up on it.
    pub fn give_up(&self, spec: &DetachSpec) {
        if spec.container_id.is_none() {
            return;
        }
        for entry in lock(&self.0).iter().filter(|entry| entry.is_meant(spec)) {
            entry.given_up.store(true, Ordering::Relaxed);
        }
    }
}

impl Entry {
    fn is_meant(&self, spec: &DetachSpec) -> bool {
        let same = |said: &Option<String>, ours: &str| said.as_ref().is_none_or(|s| s == ours);
        self.engine == spec.engine
            && same(&spec.container_id, &self.container_id)
            && same(&spec.network, &self.network)
            && self.ifname.as_ref().is_none_or(|i| same(&spec.ifname, i))
            && same_caller(&spec.caller, &self.caller)
    }
}

/// Where one of them is not known, it may be the same.
pub fn same_caller(one: &Option<String>, other: &Option<String>) -> bool {
    one.is_none() || other.is_none() || one == other
}

impl Ticket {
    pub fn is_given_up(&self) -> bool {
        self.entry.given_up.load(Ordering::Relaxed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.all).retain(|entry| !Arc::ptr_eq(entry, &self.entry));
    }
}

fn lock(all: &Mutex<Vec<Arc<Entry>>>) -> std::sync::MutexGuard<'_, Vec<Arc<Entry>>> {
    // The list is whole whatever panicked beside it.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EngineSpec, NetnsRef};

    fn attach(id: &str, ifname: &str) -> AttachSpec {
        AttachSpec {
            ifname: Some(ifname.into()),
            engine: Some(EngineSpec {
                kind: Engine::Cni,
                container_id: id.into(),
                caller: None,
                holds_ports: false,
            }),
            ..AttachSpec::new(id, NetnsRef::Pid(1))
        }
    }

    fn detach(id: Option<&str>, ifname: Option<&str>) -> DetachSpec {
        DetachSpec {
            engine: Engine::Cni,
            container_id: id.map(Into::into),
            ifname: ifname.map(Into::into),
            network: Some(DEFAULT.into()),
            caller: None,
            except: Vec::new(),
        }
    }

    #[test]
    fn what_is_detached_is_given_up() {
        let all = Attaching::default();
        let waits = all.enter(&attach("a", "eth0")).unwrap();
        for other in [
            detach(Some("b"), None),
            detach(Some("a"), Some("eth1")),
            detach(None, None),
        ] {
            all.give_up(&other);
            assert!(!waits.is_given_up());
        }
        all.give_up(&detach(Some("a"), Some("eth0")));
        assert!(waits.is_given_up());
        let again = all.enter(&attach("a", "eth0")).unwrap();
        assert!(!again.is_given_up(), "asked for after the detach");
        drop((waits, again));
        assert!(lock(&all.0).is_empty());
    }
}
