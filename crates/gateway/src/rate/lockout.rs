//! How long whoever goes on guessing is locked out: twice as long each time.
//!
//! An address that has made as many guesses as its bucket holds, however slowly, is locked out for a second, and has one guess when that
//! is over. With that it is locked out for twice as long, up to [`LONGEST`]; an hour without any guess, and all of it is forgotten. What
//! it sends meanwhile makes nothing longer, so whoever waits as they are told gets on. Right credentials are looked at before, and
//! always open.
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
const LONGEST: i64 = 15 * 60 * FIRST;
/// Without a guess since the last lockout was over.
const FORGOTTEN: i64 = 60 * 60 * FIRST;
/// So many are kept; beyond, those that were not heard of for the longest time are forgotten.
const MOST: u64 = 100_000;

/// Who guesses, and who is locked out for it.
pub(super) struct Lockouts(moka::sync::Cache<Caller, Arc<Mutex<Lockout>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Lockout {
    guesses: i64,
    times: u32,
    /// When the last is over, or the last guess was.
    until: i64,
}

impl Lockout {
    /// How long it lasts from now on. Never longer than one can: a clock that was put back keeps nobody out.
    fn remains(self, now: i64) -> Option<i64> {
        Some(self.until.saturating_sub(now).min(LONGEST)).filter(|remains| *remains > 0)
    }

    fn remembered(self, now: i64) -> Self {
        if now.saturating_sub(self.until) > FORGOTTEN { Self::default() } else { self }
    }

    fn locked(self, now: i64, least: i64) -> Self {
        let lasts = (FIRST << self.times).clamp(least.min(LONGEST), LONGEST);
        // Where it is the longest it grows no more.
        Self { times: (self.times + 1).min(30), until: now.saturating_add(lasts), ..self }
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

    /// Counts a guess that was let through. Where there were more than so many it is the last for as long as this says.
    pub(super) fn count(&self, caller: &Caller, now: i64, most: i64) -> Option<i64> {
        self.change(caller, now, |lockout| {
            let guesses = lockout.guesses.saturating_add(1);
            let counted = Lockout { guesses, until: now, ..lockout };
            if guesses > most { counted.locked(now, 0) } else { counted }
        })
    }

    /// Locks them out who have no guess left, at least for as long as they have none.
    pub(super) fn lock(&self, caller: &Caller, now: i64, least: i64) -> Option<i64> {
        self.change(caller, now, |lockout| lockout.locked(now, least))
    }

    /// Changes nothing of who is locked out, as by another request of theirs a moment ago.
    fn change(&self, caller: &Caller, now: i64, change: impl FnOnce(Lockout) -> Lockout) -> Option<i64> {
        let kept = self.0.get_with(caller.clone(), Arc::default);
        let mut lockout = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if lockout.remains(now).is_none() {
            *lockout = change(lockout.remembered(now));
        }
        lockout.remains(now)
    }
}
