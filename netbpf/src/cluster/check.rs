//! Compares the picture with etcd now and then: whatever goes wrong with the following of
//! changes, here or there, is found and put right.

use std::time::Duration;

use tokio::time::sleep;

use super::{View, etcd::Etcd, session::End, shared::Shared};

/// Between two comparisons.
const EVERY: Duration = Duration::from_secs(60);

/// Also asks who the members of etcd are, for people.
pub async fn check(shared: &Shared, etcd: &Etcd) -> End {
    loop {
        match etcd.members().await {
            Ok(members) => {
                if shared.state().members != members {
                    shared.change(|state| state.members = members);
                }
            }
            // A user of etcd may not be allowed to know.
            Err(failure) => tracing::debug!(%failure, "the members of etcd are not known"),
        }
        sleep(EVERY).await;
        match compare(shared, etcd).await {
            Ok(0) => {}
            Ok(entries) => return End::Drift(entries),
            Err(end) => return end,
        }
    }
}

/// Entries in which the picture differs from what etcd had at the picture's revision.
async fn compare(shared: &Shared, etcd: &Etcd) -> Result<usize, End> {
    let view = shared.view();
    match shared.list(etcd, Some(view.revision)).await {
        Ok(fresh) => Ok(view.differences(&fresh)),
        Err(failure) if failure.is_compacted() => {
            Ok(missed(&view, &shared.list(etcd, None).await?))
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Entries that a picture should have, since it claims to be of a later revision than
/// they are. What it has and should not have is not seen in a newer one.
pub fn missed(old: &View, new: &View) -> usize {
    if old.revision == 0 {
        return 0;
    }
    if new.revision < old.revision {
        let (from, to) = (old.revision, new.revision);
        tracing::warn!(
            from,
            to,
            "etcd has gone back: it was restored from a copy, or is another"
        );
        return 0;
    }
    new.not_in(old)
}
