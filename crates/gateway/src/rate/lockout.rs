//! How long whoever goes on guessing is locked out: twice as long each time.
//!
//! An address that has used up its bucket of guesses is locked out for a second, and has one guess when that is over. With the next it
//! is locked out for twice as long, up to [`LONGEST`]; an hour without that is forgotten. What it sends meanwhile makes nothing longer,
//! so whoever waits as they are told gets on. Right credentials are looked at before, and always open.
//!
//! Each replica counts for itself, and forgets with its process: what replicas share is the bucket.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::Caller;

/// In microseconds, as all here.
const FIRST: i64 = 1_000_000;
/// However often.
pub(super) const LONGEST: i64 = 15 * 60 * FIRST;
/// Without another one since the last was over.
const FORGOTTEN: i64 = 60 * 60 * FIRST;
/// So many are kept; beyond, those that were not heard of for the longest time are forgotten.
const MOST: u64 = 100_000;

/// Who is locked out.
pub(super) struct Lockouts(moka::sync::Cache<Caller, Arc<Mutex<Lockout>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Lockout {
    times: u32,
    until: i64,
}

impl Lockout {
    /// How long it lasts from now on. Never longer than one can: a clock that was put back keeps nobody out.
    fn remains(self, now: i64) -> Option<i64> {
        Some(self.until.saturating_sub(now).min(LONGEST)).filter(|remains| *remains > 0)
    }

    fn next(self, now: i64, least: i64) -> Self {
        let is_forgotten = now.saturating_sub(self.until) > FORGOTTEN;
        let times = if is_forgotten { 0 } else { self.times };
        let lasts =
            FIRST.checked_shl(times).filter(|lasts| *lasts > 0).map_or(LONGEST, |lasts| lasts.min(LONGEST)).max(least);
        // Where it is the longest it grows no more.
        Self { times: (times + 1).min(30), until: now.saturating_add(lasts) }
    }
}

impl Lockouts {
    pub(super) fn new() -> Self {
        let idle = Duration::from_micros((LONGEST + FORGOTTEN).unsigned_abs());
        let kept = moka::sync::Cache::builder().max_capacity(MOST).time_to_idle(idle);
        Self(kept.eviction_policy(moka::policy::EvictionPolicy::lru()).build())
    }

    /// How long they are locked out still; nothing where they are not.
    pub(super) fn remains(&self, caller: &Caller, now: i64) -> Option<i64> {
        let kept = self.0.get(caller)?;
        let lockout = *kept.lock().unwrap_or_else(PoisonError::into_inner);
        lockout.remains(now)
    }

    /// Locks them out, at least until there would be a token, unless another request of theirs just has; and for how long.
    pub(super) fn lock(&self, caller: &Caller, now: i64, least: i64) -> i64 {
        let kept = self.0.get_with(caller.clone(), Arc::default);
        let mut lockout = kept.lock().unwrap_or_else(PoisonError::into_inner);
        lockout.remains(now).unwrap_or_else(|| {
            *lockout = lockout.next(now, least);
            lockout.until - now
        })
    }
}
