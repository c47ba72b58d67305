//! What the task and the callers share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use etcd_client::KeyValue;
use tokio::sync::{Notify, watch};

use super::{
    ClusterState, Link, Me, Mine, Options, Refusal, View,
    etcd::{Etcd, Failure},
    keys::{Key, Keys},
    log::{Changed, Log},
    mine::Held,
    records::Unreadable,
};

pub struct Shared {
    pub options: Options,
    pub keys: Keys,
    /// This node's.
    pub name: String,
    me: Mutex<Me>,
    pub held: Mutex<Held>,
    view: Mutex<Arc<View>>,
    state: Mutex<ClusterState>,
    live: Mutex<Option<Live>>,
    changes: watch::Sender<u64>,
    log: Mutex<Log>,
    /// What etcd has of this node may have to be put right.
    pub wake: Notify,
    /// Something of this node is not in etcd as it should be.
    pub unsettled: AtomicBool,
    /// This node's entry among the nodes may not be as it should.
    pub register: AtomicBool,
}

/// A connection over which things can be claimed.
#[derive(Clone)]
pub struct Live {
    pub etcd: Etcd,
    /// This node's registration stands under it: whoever claims compares that.
    pub lease: i64,
}

/// A panic elsewhere has left nothing half-done here: values are put as a whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(options: Options, me: Me) -> Shared {
        Shared {
            keys: Keys::new(&options.prefix),
            options,
            name: me.name.clone(),
            view: Mutex::new(Arc::new(View::new(&me.name))),
            me: Mutex::new(me),
            held: Mutex::default(),
            state: Mutex::default(),
            live: Mutex::default(),
            changes: watch::Sender::new(0),
            log: Mutex::default(),
            wake: Notify::new(),
            unsettled: AtomicBool::new(false),
            register: AtomicBool::new(false),
        }
    }

    pub fn view(&self) -> Arc<View> {
        lock(&self.view).clone()
    }

    pub fn has_picture(&self) -> bool {
        lock(&self.view).revision > 0
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn state(&self) -> ClusterState {
        lock(&self.state).clone()
    }

    pub fn me(&self) -> Me {
        lock(&self.me).clone()
    }

    pub fn set_me(&self, me: Me) {
        let mut own = lock(&self.me);
        *own = Me {
            name: own.name.clone(),
            id: own.id.clone(),
            ..me
        };
        drop(own);
        self.register.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub fn set_mine(&self, mine: Mine) {
        lock(&self.held).tell(mine);
        self.wake.notify_one();
    }

    /// The connection, if there is one.
    pub fn live(&self) -> Result<Live, Refusal> {
        if let Some(live) = lock(&self.live).clone() {
            return Ok(live);
        }
        let state = self.state();
        match state.link {
            Link::Conflict { id, .. } => Err(Refusal::Conflict {
                node: self.name.clone(),
                id,
            }),
            _ => Err(Refusal::Away(match state.last_error {
                Some(error) => error,
                None => "it has not answered yet".into(),
            })),
        }
    }

    /// This node is connected and registered.
    pub fn up(&self, live: Live) {
        *lock(&self.live) = Some(live);
        self.change(|state| {
            if !state.is_connected() {
                state.link = Link::Connected {
                    since: SystemTime::now(),
                };
            }
        });
    }

    /// Another daemon is registered under the name of this node.
    pub fn taken(&self, id: String) {
        *lock(&self.live) = None;
        self.change(|state| {
            if !matches!(&state.link, Link::Conflict { id: known, .. } if *known == id) {
                state.link = Link::Conflict {
                    since: SystemTime::now(),
                    id,
                };
            }
        });
    }

    /// There is no connection any more, or no new one.
    pub fn away(&self, why: &str) {
        *lock(&self.live) = None;
        self.change(|state| {
            state.last_error = Some(why.into());
            if !matches!(state.link, Link::Away { .. }) {
                state.link = Link::Away {
                    since: SystemTime::now(),
                };
            }
        });
    }

    pub fn change(&self, change: impl FnOnce(&mut ClusterState)) {
        change(&mut lock(&self.state));
        self.changes.send_modify(|count| *count += 1);
    }

    /// The next picture, and in which keys it differs from the one before, if that is
    /// known.
    pub fn publish(&self, view: View, keys: Option<Vec<Key>>) {
        let (revision, unreadable) = (view.revision, view.unreadable());
        // Together, for who asks for both.
        let mut log = lock(&self.log);
        match keys {
            Some(keys) => log.add(keys),
            None => log.restart(),
        }
        *lock(&self.view) = Arc::new(view);
        drop(log);
        self.change(|state| {
            state.revision = revision;
            state.unreadable = unreadable;
        });
    }

    pub fn changed_since(&self, seen: u64) -> Changed {
        let log = lock(&self.log);
        Changed {
            view: self.view(),
            seen: log.end(),
            keys: log.since(seen),
        }
    }

    /// The picture that a listing gives, page by page: two of all would take much room.
    pub async fn list(&self, etcd: &Etcd, at: Option<i64>) -> Result<View, Failure> {
        let old = self.view();
        let mut view = View::new(&self.name);
        let all = self.keys.all();
        let scanned = etcd.scan(&all, at, |entry| {
            let key = self.keys.parse(entry.key());
            let raw = String::from_utf8_lossy(entry.key());
            if let Err(why) = put(&mut view, key.as_ref(), &entry) {
                if let Some(key) = &key {
                    view.keep_from(&old, key);
                }
                pass_over(&mut view, &old, &raw, entry.mod_revision(), &why);
            }
        });
        view.revision = scanned.await?;
        Ok(view)
    }

    /// Takes an event's entry over, or notes that it cannot be read; the key, if it is of a
    /// known kind.
    pub fn take(&self, view: &mut View, entry: &KeyValue) -> Option<Key> {
        let key = self.keys.parse(entry.key());
        let raw = String::from_utf8_lossy(entry.key());
        match put(view, key.as_ref(), entry) {
            Ok(()) => view.no_longer_passed_over(&raw),
            Err(why) => {
                let before = view.clone();
                pass_over(view, &before, &raw, entry.mod_revision(), &why);
            }
        }
        key
    }
}

fn put(view: &mut View, key: Option<&Key>, entry: &KeyValue) -> Result<(), Unreadable> {
    match key {
        Some(key) => view.put(key, entry.value(), entry.mod_revision()),
        None => Err(Unreadable::Key),
    }
}

/// Says it once of each write.
fn pass_over(view: &mut View, old: &View, raw: &str, revision: i64, why: &Unreadable) {
    if !old.is_passed_over(raw, revision) {
        tracing::warn!(key = %raw, %why, "a key in etcd is passed over");
    }
    view.pass_over(raw, revision);
}
