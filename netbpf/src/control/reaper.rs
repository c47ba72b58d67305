//! Frees the devices of detached endpoints. The kernel takes 14–28 ms for each,
//! which no detach waits for; until it is done the endpoint's record stays in the
//! store as `detaching`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    thread::{Builder, JoinHandle},
};

use super::{apply::Apply, plan};
use crate::{
    datapath::Datapath,
    error::{Error, Result},
    store::Store,
    sys::{netlink::Netlink, netns::NamespaceId, sysctl::Sysctls},
};

pub struct Reaper {
    /// `None` when it is to end.
    jobs: Option<Sender<Arc<plan::Endpoint>>>,
    pending: Arc<Pending>,
    thread: Option<JoinHandle<()>>,
}

/// Endpoints whose devices are still to be removed, and their namespaces.
#[derive(Default)]
struct Pending {
    endpoints: Mutex<HashMap<u32, NamespaceId>>,
    changed: Condvar,
}

impl Pending {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, NamespaceId>> {
        // The map is whole whatever panicked beside it.
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reaper {
    pub fn start(
        store: Arc<Store>,
        datapath: Arc<Datapath>,
        sysctls: Arc<Sysctls>,
        ipv6: bool,
    ) -> Result<Reaper> {
        let (jobs, queue) = channel::<Arc<plan::Endpoint>>();
        let pending = Arc::new(Pending::default());
        let mut netlink = Netlink::open()?;
        let done = pending.clone();
        let thread = Builder::new()
            .name("reaper".into())
            .spawn(move || {
                while let Ok(first) = queue.recv() {
                    let batch: Vec<_> = [first].into_iter().chain(queue.try_iter()).collect();
                    let mut apply = Apply::new(&mut netlink, &sysctls, Some(&datapath), ipv6);
                    if let Err(error) = apply.remove_veths(&batch) {
                        tracing::warn!(%error, "devices not removed at once");
                    }
                    for endpoint in batch {
                        // Finds no device any more, but its pins.
                        for error in apply.run_to_end(&plan::remove_device(&endpoint)) {
                            let endpoint = &endpoint.record.name;
                            tracing::warn!(endpoint, %error, "device not removed cleanly");
                        }
                        if let Err(error) = store.remove_endpoint(endpoint.record.index) {
                            tracing::error!(%error, "record of a detached endpoint stays");
                        }
                        done.lock().remove(&endpoint.record.index);
                        done.changed.notify_all();
                    }
                }
            })
            .map_err(|e| Error::internal(format!("start a thread: {e}")))?;
        Ok(Reaper {
            jobs: Some(jobs),
            pending,
            thread: Some(thread),
        })
    }

    /// Has an endpoint's device removed, soon.
    pub fn remove(&self, endpoint: Arc<plan::Endpoint>) {
        let record = &endpoint.record;
        self.pending.lock().insert(record.index, record.namespace);
        if let Some(jobs) = &self.jobs {
            // The thread ends after the sender only.
            let _ = jobs.send(endpoint);
        }
    }

    /// Whether an endpoint's number is still in use.
    pub fn is_pending(&self, index: u32) -> bool {
        self.pending.lock().contains_key(&index)
    }

    /// Whether a device of a namespace is on its way out.
    pub fn is_busy(&self, namespace: NamespaceId) -> bool {
        self.pending.lock().values().any(|n| *n == namespace)
    }

    /// Waits until no device of a namespace is on its way out, so that its name
    /// is free in there.
    pub fn wait_for(&self, namespace: NamespaceId) {
        self.wait_while(|pending| pending.values().any(|n| *n == namespace));
    }

    pub fn wait_for_all(&self) {
        self.wait_while(|pending| !pending.is_empty());
    }

    fn wait_while(&self, mut condition: impl FnMut(&HashMap<u32, NamespaceId>) -> bool) {
        let pending = self.pending.lock();
        let _done = self
            .pending
            .changed
            .wait_while(pending, |p| condition(p))
            .unwrap_or_else(PoisonError::into_inner);
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
