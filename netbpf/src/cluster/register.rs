//! The entry of this node among the nodes, and the one under its lease which says that
//! it is alive.

use super::{
    etcd::{self, Etcd, Failure},
    keys::Key,
    records::{Alive, Me, decode, encode},
    shared::Shared,
};

/// What a daemon knows of its standing from one connection to the next.
#[derive(Debug, Default)]
pub struct Standing {
    pub lease: Option<i64>,
    /// It was registered once. From then on an entry under another lease is another
    /// daemon's, be its id the same: a copy of this machine.
    registered: bool,
    /// What the picture lacks is counted already.
    pub drift_known: bool,
}

/// Whether the name is this daemon's.
#[derive(Debug, PartialEq, Eq)]
pub enum Registered {
    Yes,
    /// It is that of the daemon with this id.
    Taken(String),
}

/// Tries until nobody is in between.
const TRIES: usize = 5;

/// Makes etcd say what this node says of itself. A name under a living lease of another
/// daemon is left alone; one whose lease has ended is free.
pub async fn register(
    etcd: &Etcd,
    shared: &Shared,
    lease: i64,
    standing: &mut Standing,
) -> Result<Registered, Failure> {
    let me = shared.me();
    let node_key = shared.keys.of(&Key::Node(me.name.clone()));
    let alive_key = shared.keys.of(&Key::Alive(me.name.clone()));
    let own = Alive { id: me.id.clone() };
    let broken = |e: serde_json::Error| Failure::Options(e.to_string());
    let (node_value, alive_value) = (encode(&me).map_err(broken)?, encode(&own).map_err(broken)?);
    for _ in 0..TRIES {
        // Never true, so that both are read at once.
        let nothing = vec![etcd::unchanged(&node_key, -1)];
        let reads = vec![node_key.clone(), alive_key.clone()];
        let mut found = etcd
            .transact(nothing, Vec::new(), reads)
            .await?
            .found
            .into_iter();
        let (node, alive) = (found.next().flatten(), found.next().flatten());

        let mut when = Vec::new();
        let mut then = Vec::new();
        match &alive {
            Some(entry) if entry.lease() == lease => {
                when.push(etcd::under_lease(&alive_key, lease))
            }
            Some(entry) => {
                // One that cannot be read is somebody's.
                let id = decode::<Alive>(entry.value()).map(|alive| alive.id);
                let id = id.unwrap_or_default();
                if id != me.id || standing.registered {
                    return Ok(Registered::Taken(id));
                }
                // This daemon's own, from before it was started anew.
                when.push(etcd::unchanged(&alive_key, entry.mod_revision()));
                then.push(etcd::put_under(&alive_key, alive_value.clone(), lease));
            }
            None => {
                when.push(etcd::absent(&alive_key));
                then.push(etcd::put_under(&alive_key, alive_value.clone(), lease));
            }
        }
        let revision = node.as_ref().map_or(0, |entry| entry.mod_revision());
        let known = node
            .as_ref()
            .and_then(|entry| decode::<Me>(entry.value()).ok());
        if known.as_ref() != Some(&me) {
            when.push(etcd::unchanged(&node_key, revision));
            then.push(etcd::put(&node_key, node_value.clone()));
        }
        if then.is_empty() || etcd.transact(when, then, Vec::new()).await?.done {
            standing.registered = true;
            return Ok(Registered::Yes);
        }
    }
    Err(Failure::Options(format!(
        "node {:?} is being registered by others, too",
        me.name
    )))
}
