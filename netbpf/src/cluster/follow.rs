//! Takes over what changes in etcd, event by event.

use std::{sync::atomic::Ordering, time::Duration};

use etcd_client::{EventType, WatchResponse, WatchResponseStream};

use super::{
    View,
    keys::Key,
    session::{End, SILENCE},
    shared::Shared,
};

/// Never ends but with a reason.
pub async fn follow(shared: &Shared, url: &str, mut watch: WatchResponseStream) -> End {
    loop {
        let next = tokio::time::timeout(SILENCE, watch.message()).await;
        let response = match next {
            Ok(Ok(Some(response))) => response,
            Ok(Ok(None)) => return End::Lost(format!("{url} has ended the watch")),
            Ok(Err(error)) => return End::Lost(format!("{url}: {error}")),
            // Progress was asked for all the time.
            Err(_) => return End::Lost(silent(url, SILENCE)),
        };
        if response.canceled() {
            let why = match response.compact_revision() {
                0 => response.cancel_reason().to_owned(),
                _ => "etcd has compacted what was to be followed".to_owned(),
            };
            return End::Again(why);
        }
        if !response.events().is_empty() {
            take(shared, &response);
        }
    }
}

pub fn silent(url: &str, time: Duration) -> String {
    format!("{url} has said nothing for {} s", time.as_secs_f32())
}

fn take(shared: &Shared, response: &WatchResponse) {
    let old = shared.view();
    let mut view = View::clone(&old);
    let mut concerns = false;
    let mut keys = Vec::new();
    for event in response.events() {
        let Some(entry) = event.kv() else { continue };
        let key = match event.event_type() {
            EventType::Put => shared.take(&mut view, entry),
            EventType::Delete => {
                let key = shared.keys.parse(entry.key());
                view.no_longer_passed_over(&String::from_utf8_lossy(entry.key()));
                if let Some(key) = &key {
                    view.delete(key);
                }
                key
            }
        };
        match &key {
            Some(Key::Node(name) | Key::Alive(name)) if *name == shared.name => {
                shared.register.store(true, Ordering::Relaxed);
                concerns = true;
            }
            Some(key) => concerns |= old.is_own(key) || view.is_own(key),
            None => {}
        }
        keys.extend(key);
        view.revision = view.revision.max(entry.mod_revision());
    }
    shared.publish(view, Some(keys));
    if concerns || shared.unsettled.load(Ordering::Relaxed) {
        shared.wake.notify_one();
    }
}
