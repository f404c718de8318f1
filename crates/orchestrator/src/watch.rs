//! Who wants to hear of new events.
//!
//! A watcher is told the sequence number of the newest committed event, and reads the log itself: numbers that it misses
//! while it is slow are merged, so it never holds anybody up and never loses an event.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use crate::hash::HashMap;
use domain::ExecutionId;
use tokio::sync::watch;

/// All watchers of a replica.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// How many executions are watched: commits look no further where it is zero.
    count: AtomicUsize,
    watched: Mutex<HashMap<ExecutionId, watch::Sender<u64>>>,
}

/// One watcher; it leaves when it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    watchers: Arc<Watchers>,
    id: ExecutionId,
    newest: watch::Receiver<u64>,
}

impl Watchers {
    pub(crate) fn join(self: &Arc<Self>, id: ExecutionId) -> Watcher {
        let mut watched = self.watched();
        let newest = watched.entry(id).or_insert_with(|| watch::Sender::new(0)).subscribe();
        self.count.store(watched.len(), Ordering::SeqCst);
        Watcher { watchers: Arc::clone(self), id, newest }
    }

    /// Events up to `sequence` are committed.
    pub(crate) fn committed(&self, id: ExecutionId, sequence: u64) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(newest) = self.watched().get(&id) {
            newest.send_replace(sequence);
        }
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, HashMap<ExecutionId, watch::Sender<u64>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// Waits until there is something that was not there when this was last called. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        // It cannot fail: the sender is kept as long as this watcher is here.
        let _ = self.newest.changed().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watched = self.watchers.watched();
        if watched.get(&self.id).is_some_and(|newest| newest.receiver_count() <= 1) {
            watched.remove(&self.id);
        }
        self.watchers.count.store(watched.len(), Ordering::SeqCst);
    }
}
