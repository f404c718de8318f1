//! Who may ask Redis now.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// The first pause after a failure; it doubles with every try that fails as well.
const FIRST_PAUSE: u64 = 100;
/// Nothing has failed.
const CLOSED: u64 = 0;

/// Lets everybody through until a call fails; then nobody for a pause, and after it one call at a time. Without a lock: it is
/// asked before every call.
#[derive(Debug)]
pub(super) struct Breaker {
    begun: Instant,
    max_pause: u64,
    /// Milliseconds after `begun`.
    closed_until: AtomicU64,
    pause: AtomicU64,
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// All is well.
    Free,
    /// It finds out for everybody whether all is well again.
    Probe,
    /// Not now.
    Refused,
}

impl Breaker {
    pub(super) fn new(max_pause: Duration) -> Self {
        let max_pause = u64::try_from(max_pause.as_millis()).unwrap_or(u64::MAX >> 2).max(FIRST_PAUSE);
        let (closed_until, pause) = (AtomicU64::new(CLOSED), AtomicU64::new(FIRST_PAUSE));
        Self { begun: Instant::now(), max_pause, closed_until, pause }
    }

    pub(super) fn enter(&self, now: Instant) -> Permit {
        let until = self.closed_until.load(Ordering::Relaxed);
        if until == CLOSED {
            return Permit::Free;
        }
        let now = self.millis(now);
        // Whoever moves the end of the pause is the one that tries. Where it never comes back, another does after a pause.
        let next = now + self.pause.load(Ordering::Relaxed);
        let is_mine = now >= until
            && self.closed_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_mine { Permit::Probe } else { Permit::Refused }
    }

    pub(super) fn worked(&self) {
        if self.closed_until.load(Ordering::Relaxed) != CLOSED {
            self.closed_until.store(CLOSED, Ordering::Relaxed);
        }
    }

    /// True for the first failure after all was well.
    pub(super) fn failed(&self, permit: Permit, now: Instant) -> bool {
        let now = self.millis(now);
        match permit {
            Permit::Free => {
                self.pause.store(FIRST_PAUSE, Ordering::Relaxed);
                let until = now + FIRST_PAUSE;
                self.closed_until.compare_exchange(CLOSED, until, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            }
            Permit::Probe => {
                let pause = (self.pause.load(Ordering::Relaxed) * 2).min(self.max_pause);
                self.pause.store(pause, Ordering::Relaxed);
                self.closed_until.store(now + pause, Ordering::Relaxed);
                false
            }
            Permit::Refused => false,
        }
    }

    /// At least 1: zero is [`CLOSED`].
    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.begun).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX >> 2).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_one_call_at_a_time_tries_again_after_growing_pauses() {
        let breaker = Breaker::new(Duration::from_millis(300));
        let at = |millis| breaker.begun + Duration::from_millis(millis);
        assert_eq!([breaker.enter(at(1)), breaker.enter(at(1))], [Permit::Free; 2]);
        assert!(breaker.failed(Permit::Free, at(10)));
        assert!(!breaker.failed(Permit::Free, at(10)), "a second failure of the same outage is no news");
        assert_eq!(breaker.enter(at(109)), Permit::Refused);
        assert_eq!([breaker.enter(at(110)), breaker.enter(at(111))], [Permit::Probe, Permit::Refused]);
        breaker.failed(Permit::Probe, at(120));
        assert_eq!([breaker.enter(at(319)), breaker.enter(at(320))], [Permit::Refused, Permit::Probe]);
        breaker.failed(Permit::Probe, at(320));
        assert_eq!([breaker.enter(at(619)), breaker.enter(at(620))], [Permit::Refused, Permit::Probe], "bounded");
        breaker.worked();
        assert_eq!([breaker.enter(at(621)), breaker.enter(at(621))], [Permit::Free; 2]);
    }

    #[test]
    fn a_try_that_never_comes_back_does_not_keep_others_out_for_ever() {
        let breaker = Breaker::new(Duration::from_secs(5));
        let at = |millis| breaker.begun + Duration::from_millis(millis);
        breaker.failed(Permit::Free, at(0));
        assert_eq!(breaker.enter(at(200)), Permit::Probe);
        assert_eq!([breaker.enter(at(299)), breaker.enter(at(300))], [Permit::Refused, Permit::Probe]);
    }
}
