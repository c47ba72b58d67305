//! One connection to one member of etcd, with a deadline on whatever is asked.
//!
//! The client could spread its calls over all members by itself; then nobody would
//! know which of them is silent. So it knows one, and another connection is made when
//! that one does not answer.

use std::{error::Error as _, future::Future, time::Duration};

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, KeyValue, LeaseKeepAliveStream,
    LeaseKeeper, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchStream,
};
use futures_util::FutureExt as _;

use super::{Options, state::Member};

/// In which etcd has to answer.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// Keys in one answer of a listing.
const PAGE: i64 = 1000;

/// Bytes of a message at most: etcd may send many events at once.
const LONGEST: usize = 64 << 20;

/// etcd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{url} has not answered within {} s", DEADLINE.as_secs())]
    Silent { url: String },
    #[error("{url}: {}", reason(error))]
    Etcd { url: String, error: Error },
    #[error("{0}")]
    Options(String),
}

impl Failure {
    /// Whether etcd has forgotten the revision that was asked for.
    pub fn is_compacted(&self) -> bool {
        matches!(self, Failure::Etcd { error: Error::GRpcStatus(status), .. }
            if status.message().contains("revision has been compacted"))
    }

    /// Whether etcd does not know the lease.
    pub fn is_lease_gone(&self) -> bool {
        match self {
            Failure::Etcd {
                error: Error::LeaseKeepAliveError(_),
                ..
            } => true,
            Failure::Etcd {
                error: Error::GRpcStatus(status),
                ..
            } => status.message().contains("lease not found"),
            _ => false,
        }
    }
}

/// With the causes that the message itself does not have.
fn reason(error: &Error) -> String {
    let (text, mut cause) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        Error::TransportError(error) => (error.to_string(), error.source()),
        other => (other.to_string(), None),
    };
    let mut reasons = vec![text];
    while let Some(error) = cause {
        let more = error.to_string();
        if !reasons.iter().any(|known| known.contains(&more)) {
            reasons.push(more);
        }
        cause = error.source();
    }
    // It says no more than that there are reasons.
    if reasons.len() > 1 {
        reasons.retain(|reason| reason != "transport error");
    }
    reasons.join(": ")
}

#[derive(Clone)]
pub struct Etcd {
    client: Client,
    pub url: String,
}

/// What stood below a prefix at a revision.
pub struct Listing {
    pub revision: i64,
    pub entries: Vec<KeyValue>,
}

/// What came of a transaction.
pub struct Outcome {
    pub done: bool,
    /// The first entry that each of the reads found.
    pub found: Vec<Option<KeyValue>>,
}

impl Etcd {
    /// Also shows user and password, if there are any.
    pub async fn connect(options: &Options, url: &str) -> Result<Etcd, Failure> {
        let connect = options.connect(url).map_err(Failure::Options)?;
        let client = answer(url, Client::connect([url], Some(connect))).await?;
        Ok(Etcd {
            client,
            url: url.into(),
        })
    }

    /// What is wrong with certificates and files, without asking etcd. It needs a runtime
    /// around it.
    pub fn check(options: &Options) -> Result<(), String> {
        for url in &options.endpoints {
            options.connect(url)?;
            let anonymous = Options {
                user: None,
                password_file: None,
                ..options.clone()
            };
            // Nothing is sent before there is something to ask.
            let connected = Client::connect([url], Some(anonymous.connect(url)?)).now_or_never();
            if let Some(Err(error)) = connected {
                return Err(format!("etcd {url:?}: {}", reason(&error)));
            }
        }
        Ok(())
    }

    /// Hands out all below a prefix, as it is at that revision or, without one, now; the
    /// revision.
    pub async fn scan(
        &self,
        prefix: &str,
        at: Option<i64>,
        mut each: impl FnMut(KeyValue),
    ) -> Result<i64, Failure> {
        let end = end_of(prefix);
        let mut from = prefix.as_bytes().to_vec();
        let mut revision = at;
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            if let Some(revision) = revision {
                options = options.with_revision(revision);
            }
            let mut kv = self.client.kv_client().max_decoding_message_size(LONGEST);
            let mut page = self.answer(kv.get(from, Some(options))).await?;
            // The pages are of one revision: that of the first.
            let of_page = page.header().map_or(0, |header| header.revision());
            let revision = *revision.get_or_insert(of_page);
            let entries = page.take_kvs();
            match entries.last() {
                Some(last) if page.more() => from = [last.key(), &[0]].concat(),
                _ => {
                    entries.into_iter().for_each(each);
                    return Ok(revision);
                }
            }
            entries.into_iter().for_each(&mut each);
        }
    }

    /// The same at once.
    pub async fn list(&self, prefix: &str, at: Option<i64>) -> Result<Listing, Failure> {
        let mut entries = Vec::new();
        let revision = self.scan(prefix, at, |entry| entries.push(entry)).await?;
        Ok(Listing { revision, entries })
    }

    pub async fn get(&self, key: String) -> Result<Option<KeyValue>, Failure> {
        let mut kv = self.client.kv_client();
        let mut found = self.answer(kv.get(key, None)).await?;
        Ok(found.take_kvs().pop())
    }

    /// Does it if all comparisons hold, and reads these keys if not.
    pub async fn transact(
        &self,
        when: Vec<Compare>,
        then: Vec<TxnOp>,
        or_read: Vec<String>,
    ) -> Result<Outcome, Failure> {
        let reads = or_read.into_iter().map(|key| TxnOp::get(key, None));
        let txn = Txn::new().when(when).and_then(then);
        let txn = txn.or_else(reads.collect::<Vec<_>>());
        let mut kv = self.client.kv_client();
        let answer = self.answer(kv.txn(txn)).await?;
        let found = answer.op_responses().into_iter().filter_map(|op| match op {
            TxnOpResponse::Get(mut found) => Some(found.take_kvs().into_iter().next()),
            _ => None,
        });
        Ok(Outcome {
            done: answer.succeeded(),
            found: found.collect(),
        })
    }

    pub async fn grant_lease(&self, ttl: Duration) -> Result<i64, Failure> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let mut leases = self.client.lease_client();
        let granted = self.answer(leases.grant(seconds, None)).await?;
        Ok(granted.id())
    }

    /// Ends a lease, and removes what is under it.
    pub async fn revoke_lease(&self, lease: i64) -> Result<(), Failure> {
        let mut leases = self.client.lease_client();
        self.answer(leases.revoke(lease)).await.map(|_| ())
    }

    /// Renews a lease once, and hands out what renews it further.
    pub async fn keep_lease(
        &self,
        lease: i64,
    ) -> Result<(LeaseKeeper, LeaseKeepAliveStream), Failure> {
        let mut leases = self.client.lease_client();
        self.answer(leases.keep_alive(lease)).await
    }

    pub async fn watch(&self, prefix: &str, from: i64) -> Result<WatchStream, Failure> {
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let watch = self.client.watch_client();
        let mut watch = watch.max_decoding_message_size(LONGEST);
        self.answer(watch.watch(prefix, Some(options))).await
    }

    /// The members, and which of them leads.
    pub async fn members(&self) -> Result<Vec<Member>, Failure> {
        let mut cluster = self.client.cluster_client();
        let listed = self.answer(cluster.member_list()).await?;
        let mut maintenance = self.client.maintenance_client();
        let leader = self.answer(maintenance.status()).await?.leader();
        let members = listed.members().iter().map(|member| Member {
            name: member.name().into(),
            urls: member.client_urls().to_vec(),
            leader: member.id() == leader,
        });
        Ok(members.collect())
    }

    async fn answer<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        answer(&self.url, asked).await
    }
}

async fn answer<T>(url: &str, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let url = || url.to_owned();
    match tokio::time::timeout(DEADLINE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::Etcd { url: url(), error }),
        Err(_) => Err(Failure::Silent { url: url() }),
    }
}

/// The first key behind all that begin with this prefix, which ends with a slash.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

pub fn absent(key: &str) -> Compare {
    Compare::version(key, CompareOp::Equal, 0)
}

pub fn present(key: &str) -> Compare {
    Compare::version(key, CompareOp::Greater, 0)
}

/// The key is as it was written then, or absent with revision 0.
pub fn unchanged(key: &str, revision: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, revision)
}

/// Nothing is below the prefix: a comparison of a range holds if it does for all keys
/// that are there.
pub fn empty(prefix: &str) -> Compare {
    Compare::version(prefix, CompareOp::Equal, 0).with_prefix()
}

/// Nothing that is below the prefix was written after that revision.
pub fn none_newer(prefix: &str, revision: i64) -> Compare {
    Compare::mod_revision(prefix, CompareOp::Less, revision + 1).with_prefix()
}

/// The key stands under this lease.
pub fn under_lease(key: &str, lease: i64) -> Compare {
    Compare::lease(key, CompareOp::Equal, lease)
}

pub fn put(key: &str, value: Vec<u8>) -> TxnOp {
    TxnOp::put(key, value, None)
}

pub fn put_under(key: &str, value: Vec<u8>, lease: i64) -> TxnOp {
    TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)))
}

pub fn delete_all(prefix: &str) -> TxnOp {
    TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix()))
}

pub fn delete(key: &str) -> TxnOp {
    TxnOp::delete(key, None)
}
