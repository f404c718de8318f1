//! What waits to go out on one stream: bounded, filled without waiting, drained in batches.
//!
//! Invariants: the order of pushes is the order on the stream; nothing is pushed after the end; a reader that lets too much
//! pile up loses its stream instead of holding up others.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use errors::Error;
use tokio::sync::Notify;

use crate::error::CommunicationError;

/// A batch ends when its items weigh this much, in bytes: far below the largest message that a peer accepts.
const BATCH_WEIGHT: usize = 2 << 20;

/// How much an item adds to a batch.
pub(crate) trait Weigh {
    /// About its size on the wire, in bytes.
    fn weight(&self) -> usize;
}

/// One stream's outgoing items. Cloning is cheap.
#[derive(Debug)]
pub(crate) struct Outbox<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    state: Mutex<State<T>>,
    /// Wakes the one that drains.
    filled: Notify,
    /// Wakes the one that reads the other direction.
    ended: Notify,
    is_open: AtomicBool,
    limit: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// Set once: how the stream ends after the last item.
    end: Option<Result<(), Error>>,
}

/// What one look finds.
enum Taken<T> {
    Nothing,
    Batch(Vec<T>),
    End(Result<(), Error>),
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Weigh> Outbox<T> {
    /// An outbox in which at most `limit` items wait.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State { items: VecDeque::new(), end: None }),
            filled: Notify::new(),
            ended: Notify::new(),
            is_open: AtomicBool::new(true),
            limit,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item; ends the stream where it would be one too many. After the end nothing is added.
    pub(crate) fn push(&self, item: T) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        if state.items.len() >= self.0.limit {
            // What waits will not be read in time; the other side gets it again elsewhere.
            state.items.clear();
            state.end = Some(Err(CommunicationError::TooSlow.into()));
            self.0.is_open.store(false, Ordering::Release);
            drop(state);
            self.0.filled.notify_one();
            self.0.ended.notify_one();
            return;
        }
        state.items.push_back(item);
        let first = state.items.len() == 1;
        drop(state);
        if first {
            self.0.filled.notify_one();
        }
    }

    /// Ends the stream after what waits; only the first end counts.
    pub(crate) fn end(&self, how: Result<(), Error>) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some(how);
            self.0.is_open.store(false, Ordering::Release);
        }
        drop(state);
        self.0.filled.notify_one();
        self.0.ended.notify_one();
    }

    /// May still be pushed to.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_open.load(Ordering::Acquire)
    }

    /// Waits until the stream has been ended. For one waiter; cancel-safe.
    pub(crate) async fn ended(&self) {
        while self.is_open() {
            self.0.ended.notified().await;
        }
    }

    /// Everything that waits, up to a batch's weight; `None` after the end, whose error comes before. For one waiter;
    /// cancel-safe.
    pub(crate) async fn next(&self) -> Option<Result<Vec<T>, Error>> {
        loop {
            let filled = self.0.filled.notified();
            match self.take() {
                Taken::Nothing => filled.await,
                Taken::Batch(batch) => return Some(Ok(batch)),
                Taken::End(Ok(())) => return None,
                Taken::End(Err(error)) => return Some(Err(error)),
            }
        }
    }

    fn take(&self) -> Taken<T> {
        let mut state = self.lock();
        if state.items.is_empty() {
            // After an error the stream is over.
            return state.end.as_mut().map_or(Taken::Nothing, |end| Taken::End(std::mem::replace(end, Ok(()))));
        }
        let mut weight = 0;
        let mut batch = Vec::with_capacity(state.items.len().min(1_024));
        while let Some(item) = state.items.front() {
            weight += item.weight();
            // One that is larger alone goes alone.
            if weight > BATCH_WEIGHT && !batch.is_empty() {
                break;
            }
            batch.extend(state.items.pop_front());
        }
        if !state.items.is_empty() {
            // A later push wakes nobody while the outbox is not empty.
            self.0.filled.notify_one();
        }
        Taken::Batch(batch)
    }

    /// Everything that waits, at once.
    #[cfg(test)]
    pub(crate) fn drain(&self) -> Vec<T> {
        self.lock().items.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for u32 {
        fn weight(&self) -> usize {
            BATCH_WEIGHT / 2
        }
    }

    #[tokio::test]
    async fn a_batch_ends_at_its_weight_and_the_rest_follows() {
        let outbox = Outbox::new(8);
        (0..3).for_each(|item| outbox.push(item));
        outbox.end(Ok(()));
        outbox.push(9);
        assert_eq!(outbox.next().await.unwrap().unwrap(), [0, 1]);
        assert_eq!(outbox.next().await.unwrap().unwrap(), [2]);
        assert!(outbox.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_loses_the_stream() {
        let outbox = Outbox::new(2);
        (0..3).for_each(|item| outbox.push(item));
        outbox.ended().await;
        assert_eq!(outbox.next().await.unwrap().unwrap_err().reason, "reader_too_slow");
        assert!(outbox.next().await.is_none());
    }
}
