//! The buckets that this process keeps by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use moka::policy::EvictionPolicy;

use super::{
    Caller, Class,
    bucket::{Bucket, Taken},
};

/// So many are kept, some 200 bytes each; beyond, those that were not used for the longest time are forgotten, and count as full.
const MOST: u64 = 100_000;

/// Buckets by class and caller.
pub(super) struct Local(moka::sync::Cache<(Class, Caller), Arc<Kept>>);

/// The time at which a bucket is full again, in microseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Kept(AtomicI64);

impl Local {
    /// `longest` is how long the slowest bucket takes to fill: one that was not used meanwhile is full.
    pub(super) fn new(longest: Duration) -> Self {
        let kept = moka::sync::Cache::builder().max_capacity(MOST).eviction_policy(EvictionPolicy::lru());
        Self(kept.time_to_idle(longest.max(Duration::from_secs(1))).build())
    }

    /// The bucket of a caller; a full one where none is kept.
    pub(super) fn kept(&self, class: Class, caller: &Caller) -> Arc<Kept> {
        self.0.get_with((class, caller.clone()), || Arc::new(Kept::full()))
    }

    /// The bucket of a caller, where one is kept.
    pub(super) fn seen(&self, class: Class, caller: &Caller) -> Option<Arc<Kept>> {
        self.0.get(&(class, caller.clone()))
    }
}

impl Kept {
    pub(super) const fn full() -> Self {
        Self(AtomicI64::new(0))
    }

    /// Takes a token.
    pub(super) fn take(&self, bucket: Bucket, now: i64) -> Taken {
        let next = |full| {
            let taken = bucket.take(bucket.owed(full, now));
            taken.is_admitted.then(|| now.saturating_add(taken.owed))
        };
        // Either way it is what was kept before.
        let (Ok(full) | Err(full)) = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        bucket.take(bucket.owed(full, now))
    }

    /// What a wish for a token would get.
    pub(super) fn look(&self, bucket: Bucket, now: i64) -> Taken {
        bucket.take(bucket.owed(self.0.load(Ordering::Relaxed), now))
    }

    /// What the shared bucket says, as of `now`. What is later than it is a request that is on its way there, unless it has refused:
    /// then no token was taken here either.
    pub(super) fn note(&self, taken: Taken, now: i64) {
        let full = now.saturating_add(taken.owed);
        if taken.is_admitted {
            self.0.fetch_max(full, Ordering::Relaxed);
        } else {
            self.0.store(full, Ordering::Relaxed);
        }
    }
}
