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

    /// What is committed of these is not heard of here any more: who watches them is to ask elsewhere.
    pub(crate) fn end(&self, is_gone: impl Fn(ExecutionId) -> bool) {
        self.watched().retain(|id, _| !is_gone(*id));
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, HashMap<ExecutionId, watch::Sender<u64>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// Waits until there is something that was not there when this was last called; answers `false` where nothing will be
    /// heard of here any more. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> bool {
        self.newest.changed().await.is_ok()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watched = self.watchers.watched();
        // Where it was ended, what is there now is for others.
        let is_own = self.newest.has_changed().is_ok();
        if is_own && watched.get(&self.id).is_some_and(|newest| newest.receiver_count() <= 1) {
            watched.remove(&self.id);
        }
        self.watchers.count.store(watched.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_watcher_whose_execution_moves_hears_of_it_and_leaves_those_that_come_later_alone() {
        let watchers = Arc::new(Watchers::default());
        let (moves, stays) = (ExecutionId::from_parts(1, 1), ExecutionId::from_parts(1, 2));
        let (mut moved, mut stayed) = (watchers.join(moves), watchers.join(stays));
        watchers.end(|id| id == moves);
        assert_eq!(moved.changed().now_or_never(), Some(false));
        assert_eq!(stayed.changed().now_or_never(), None);
        let mut later = watchers.join(moves);
        drop(moved);
        watchers.committed(moves, 7);
        assert_eq!(later.changed().now_or_never(), Some(true));
    }
}
