//! What a client may ask for at a time: requests that are worked on, requests
//! that wait, and changes in a second. What is too much is refused at once, by
//! 429 and a time after which to ask again, so that nobody's flood becomes the
//! daemon's memory.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::Method;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::Instant,
};

/// What is granted. The defaults are out of the way of who starts hundreds of
/// containers at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, with one request each; more wait to be accepted.
    pub connections: usize,
    /// Requests that are worked on at a time; more wait.
    pub running: u32,
    /// Requests that wait at most.
    pub waiting: u32,
    /// Changes (all but GET) that may come at once.
    pub burst: u32,
    /// Changes in a second in the long run; a change takes the daemon some
    /// milliseconds.
    pub per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 512,
            running: 256,
            waiting: 1024,
            burst: 2000,
            per_second: 500,
        }
    }
}

/// Too much: to be asked again after that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    pub what: &'static str,
    pub retry_after: Duration,
}

/// The requests of this moment; cheap to clone.
#[derive(Clone)]
pub struct Busy {
    limits: Limits,
    /// Running or waiting.
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    changes: Arc<Mutex<Bucket>>,
}

/// A place among those that were let in.
pub struct Admitted {
    _place: OwnedSemaphorePermit,
    running: Arc<Semaphore>,
}

impl Busy {
    pub fn new(limits: Limits) -> Self {
        let all = limits.running as usize + limits.waiting as usize;
        Busy {
            limits,
            admitted: Arc::new(Semaphore::new(all)),
            running: Arc::new(Semaphore::new(limits.running as usize)),
            changes: Arc::new(Mutex::new(Bucket::full(limits, Instant::now()))),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Lets a request in, or says when to come again.
    pub fn admit(&self, method: &Method) -> Result<Admitted, TooMany> {
        let place = match self.admitted.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                return Err(TooMany {
                    what: "requests wait for an answer",
                    retry_after: Duration::from_secs(1),
                });
            }
        };
        if method != Method::GET && method != Method::HEAD {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            changes
                .take(Instant::now())
                .map_err(|retry_after| TooMany {
                    what: "changes were asked for in a second",
                    retry_after,
                })?;
        }
        Ok(Admitted {
            _place: place,
            running: self.running.clone(),
        })
    }

    /// How many more would be let in.
    #[cfg(test)]
    pub fn places(&self) -> usize {
        self.admitted.available_permits()
    }

    /// Waits until no request is there any more, also none whose client is gone;
    /// false when `limit` passes before.
    pub async fn idle(&self, limit: Duration) -> bool {
        let all = self.limits.running.saturating_add(self.limits.waiting);
        let all = self.admitted.acquire_many(all);
        tokio::time::timeout(limit, all).await.is_ok()
    }
}

impl Admitted {
    /// Waits for its turn and does the work.
    pub async fn run<T>(self, work: impl Future<Output = T>) -> T {
        // Never closed, so it is always granted in the end.
        let _turn = self.running.acquire().await;
        work.await
    }
}

/// A bucket of tokens that fills with time.
struct Bucket {
    limits: Limits,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(limits: Limits, now: Instant) -> Self {
        Bucket {
            limits,
            tokens: limits.burst.into(),
            at: now,
        }
    }

    /// Takes a token, or says when there will be one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(self.limits.per_second.max(1));
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(self.limits.burst.into());
        self.at = now;
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / rate));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections: 1,
        running: 1,
        waiting: 1,
        burst: 3,
        per_second: 10,
    };

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(LIMITS, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        let wait = bucket.take(start).unwrap_err();
        assert!(wait > Duration::from_millis(99) && wait <= Duration::from_millis(100));
        let later = start + Duration::from_millis(101);
        assert_eq!(bucket.take(later), Ok(()));
        assert!(bucket.take(later).is_err());
        // It holds no more than its burst, however long nobody came.
        let much_later = later + Duration::from_secs(3600);
        let taken = (0..10).filter(|_| bucket.take(much_later).is_ok());
        assert_eq!(taken.count(), 3);
    }

    #[tokio::test]
    async fn who_waits_has_a_place_and_more_are_refused() {
        let busy = Busy::new(LIMITS);
        let first = busy.admit(&Method::GET).unwrap();
        let second = busy.admit(&Method::GET).unwrap();
        assert!(busy.admit(&Method::GET).is_err());
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(first.run(async {
            ended.await.unwrap();
        }));
        assert!(!busy.idle(Duration::from_millis(20)).await);
        end.send(()).unwrap();
        running.await.unwrap();
        second.run(async {}).await;
        assert!(busy.idle(Duration::from_secs(5)).await);
        assert!(busy.admit(&Method::GET).is_ok());
    }

    #[test]
    fn what_is_refused_holds_no_place() {
        let busy = Busy::new(LIMITS);
        for _ in 0..3 {
            busy.admit(&Method::POST).map(drop).unwrap();
        }
        for _ in 0..5 {
            assert!(busy.admit(&Method::DELETE).is_err());
        }
        // Looking is no change.
        assert!(busy.admit(&Method::GET).is_ok());
    }
}
