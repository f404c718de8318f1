//! Who listens in this process. Every implementation gives what it hears to the hall, which hands it to all whom it concerns.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use domain::{Namespace, TopicPattern};
use tokio::sync::watch;

use super::{Feed, LiveError, LiveLimits, LiveMessage, feed::Buffer};
use crate::metrics;

/// All subscriptions of a process.
pub(super) struct Hall {
    limits: LiveLimits,
    seats: Mutex<Seats>,
    state: watch::Sender<State>,
}

/// Does anybody want to hear something, and is it heard?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    is_wanted: bool,
    is_heard: bool,
}

#[derive(Default)]
struct Seats {
    by_namespace: HashMap<Namespace, Vec<Seat>>,
    /// Numbers seats.
    last: u64,
    taken: usize,
    is_heard: bool,
}

struct Seat {
    id: u64,
    patterns: Vec<TopicPattern>,
    buffer: Arc<Buffer>,
    /// Has it heard anything so far? Only then there can be a gap.
    is_heard: bool,
}

impl Hall {
    pub(super) fn new(limits: LiveLimits) -> Self {
        Self { limits, seats: Mutex::default(), state: watch::channel(State::default()).0 }
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known outside of the lock, while it is held, so that it cannot be told out of order.
    fn tell(&self, seats: &Seats) {
        let state = State { is_wanted: seats.taken > 0, is_heard: seats.is_heard };
        self.state.send_if_modified(|old| std::mem::replace(old, state) != state);
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        namespace: Namespace,
        patterns: Vec<TopicPattern>,
    ) -> Result<Feed, LiveError> {
        let mut seats = self.lock();
        if seats.taken >= self.limits.subscriptions {
            return Err(LiveError::TooMany);
        }
        seats.taken += 1;
        seats.last += 1;
        let (id, buffer) = (seats.last, Arc::new(Buffer::new(self.limits.feed)));
        let seat = Seat { id, patterns, buffer: Arc::clone(&buffer), is_heard: seats.is_heard };
        seats.by_namespace.entry(namespace).or_default().push(seat);
        self.tell(&seats);
        drop(seats);
        ::metrics::gauge!(metrics::LIVE_SUBSCRIPTIONS).increment(1.0);
        Ok(Feed { hall: Arc::clone(self), id, buffer })
    }

    pub(super) fn leave(&self, id: u64) {
        let mut seats = self.lock();
        seats.by_namespace.retain(|_, seats| {
            seats.retain(|seat| seat.id != id);
            !seats.is_empty()
        });
        seats.taken -= 1;
        self.tell(&seats);
        drop(seats);
        ::metrics::gauge!(metrics::LIVE_SUBSCRIPTIONS).decrement(1.0);
    }

    /// Does anybody listen in this namespace?
    pub(super) fn is_wanted(&self, namespace: &Namespace) -> bool {
        self.lock().by_namespace.contains_key(namespace)
    }

    /// Hands a message to everybody whom it concerns, once each.
    pub(super) fn deliver(&self, message: &Arc<LiveMessage>) {
        let seats = self.lock();
        let Some(seats) = seats.by_namespace.get(&message.namespace) else { return };
        let words = message.topic.words();
        for seat in seats {
            if seat.patterns.iter().any(|pattern| pattern.fits(&words)) {
                seat.buffer.push(message);
            }
        }
    }

    /// From now on everything is heard (again). Whoever listened before may have missed something.
    pub(super) fn begun(&self) {
        let mut seats = self.lock();
        seats.is_heard = true;
        for seat in seats.by_namespace.values_mut().flatten() {
            if std::mem::replace(&mut seat.is_heard, true) {
                seat.buffer.push_gap();
            }
        }
        self.tell(&seats);
    }

    /// Nothing is heard any more, unless somebody wants to hear something: then it goes on.
    pub(super) fn over(&self) -> bool {
        let mut seats = self.lock();
        let is_over = seats.taken == 0;
        if is_over {
            seats.is_heard = false;
            self.tell(&seats);
        }
        is_over
    }

    /// Waits until somebody wants to hear something, or nobody does. Cancel-safe.
    pub(super) async fn wanted(&self, wanted: bool) {
        // The sender lives as long as `self`.
        let _ = self.state.subscribe().wait_for(|state| state.is_wanted == wanted).await;
    }

    /// Waits until everything is heard. Cancel-safe.
    pub(super) async fn heard(&self) {
        let _ = self.state.subscribe().wait_for(|state| state.is_heard).await;
    }
}
