//! What waits for one subscriber: bounded, filled without waiting. A subscriber that is too slow loses the oldest of it and is
//! told how much that was; it holds up nobody.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{LiveMessage, hall::Hall};
use crate::metrics;

/// What a subscriber hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Something was published.
    Message(Arc<LiveMessage>),
    /// So many messages were dropped here, since they were not read in time.
    Lost(u64),
    /// There was a time in which nothing could be heard: something may have been missed.
    Gap,
}

/// How much may wait for one subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeedLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// One subscription; it ends when it is dropped.
pub(crate) struct Feed {
    pub(super) hall: Arc<Hall>,
    pub(super) id: u64,
    pub(super) buffer: Arc<Buffer>,
}

/// The part of a feed that is filled.
pub(super) struct Buffer {
    limits: FeedLimits,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Notice>,
    bytes: usize,
    /// What was dropped in front of all that waits.
    lost: u64,
    gap: bool,
}

impl Feed {
    /// Everything that waits, at least one, in order. Waits for as long as it takes. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Vec<Notice> {
        loop {
            let filled = self.buffer.filled.notified();
            let found = self.buffer.lock().take();
            if !found.is_empty() {
                return found;
            }
            filled.await;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.hall.leave(self.id);
    }
}

impl Buffer {
    pub(super) fn new(limits: FeedLimits) -> Self {
        Self { limits, waiting: Mutex::default(), filled: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, message: &Arc<LiveMessage>) {
        self.lock().push(Arc::clone(message), self.limits);
        self.filled.notify_one();
    }

    pub(super) fn push_gap(&self) {
        let mut waiting = self.lock();
        // One tells as much as two, and a connection that comes and goes must not fill the buffer.
        if waiting.items.back() != Some(&Notice::Gap) {
            waiting.items.push_back(Notice::Gap);
        }
        drop(waiting);
        self.filled.notify_one();
    }
}

impl Waiting {
    fn push(&mut self, message: Arc<LiveMessage>, limits: FeedLimits) {
        let weight = message.weight();
        while !self.items.is_empty() && (self.items.len() >= limits.messages || self.bytes + weight > limits.bytes) {
            self.drop_first();
        }
        self.bytes += weight;
        self.items.push_back(Notice::Message(message));
    }

    fn drop_first(&mut self) {
        match self.items.pop_front() {
            Some(Notice::Message(message)) => {
                self.bytes -= message.weight();
                self.lost += 1;
                ::metrics::counter!(metrics::LIVE_LOST).increment(1);
            }
            Some(Notice::Gap) => self.gap = true,
            Some(Notice::Lost(_)) | None => {}
        }
    }

    fn take(&mut self) -> Vec<Notice> {
        let mut found = Vec::with_capacity(self.items.len() + 2);
        if mem::take(&mut self.gap) {
            found.push(Notice::Gap);
        }
        match mem::take(&mut self.lost) {
            0 => {}
            lost => found.push(Notice::Lost(lost)),
        }
        self.bytes = 0;
        found.extend(self.items.drain(..));
        found
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use domain::Namespace;

    use super::*;

    fn message(text: &'static str) -> Arc<LiveMessage> {
        let payload = Bytes::from_static(text.as_bytes());
        Arc::new(LiveMessage { namespace: Namespace::default(), topic: "a".parse().unwrap(), payload })
    }

    #[test]
    fn the_oldest_is_dropped_and_told_in_its_place() {
        let limits = FeedLimits { messages: 3, bytes: usize::MAX };
        let mut waiting = Waiting::default();
        waiting.push(message("1"), limits);
        waiting.items.push_back(Notice::Gap);
        for text in ["2", "3", "4"] {
            waiting.push(message(text), limits);
        }
        let rest = ["2", "3", "4"].map(|text| Notice::Message(message(text)));
        assert_eq!(waiting.take(), [&[Notice::Gap, Notice::Lost(1)], rest.as_slice()].concat());
        assert_eq!(waiting.take(), []);
    }

    #[test]
    fn bytes_are_bounded_too_but_one_message_always_fits() {
        let limits = FeedLimits { messages: 100, bytes: message("12").weight() };
        let mut waiting = Waiting::default();
        for text in ["1", "1234", "5"] {
            waiting.push(message(text), limits);
        }
        assert_eq!(waiting.take(), [Notice::Lost(2), Notice::Message(message("5"))]);
    }
}
