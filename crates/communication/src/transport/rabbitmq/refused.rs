//! Queues that the broker does not let us use: each is left alone for a while, so that it holds no other up.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How long one is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// What queues are known by, and until when they are left alone. It outlives connections: the broker may close one over a
/// queue.
pub(super) struct Refused<K>(HashMap<K, Instant>);

impl<K: Eq + Hash> Refused<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    pub(super) fn add(&mut self, key: K) {
        self.0.insert(key, Instant::now() + PAUSE);
    }

    pub(super) fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Forgets those that were left alone for long enough; true where there were any.
    pub(super) fn forgive(&mut self) -> bool {
        let (before, now) = (self.0.len(), Instant::now());
        self.0.retain(|_, until| *until > now);
        self.0.len() < before
    }
}
