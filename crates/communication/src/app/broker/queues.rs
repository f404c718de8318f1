//! Work queues: who may take from them, and what waits in them.
//!
//! Invariant (kept by the broker): where something waits in a queue, no session that may take it has free credit, but for what
//! sessions were lost with before, for which another is being kept free.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use domain::{Namespace, SessionId, Timestamp};

use crate::app::model::{MAX_PRIORITY, Target, TaskId};

/// A queue's name; queues come and go with what is in them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueueKey {
    pub(crate) namespace: Namespace,
    pub(crate) target: Target,
}

/// A place in a queue: the more urgent first, then the earlier. Places of all queues can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    rank: u8,
    /// Since when it is in line, in microseconds; before everything else what is in front.
    since: i64,
    turn: i64,
}

/// Where in line something is put, among those of the same priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Before all others.
    Front,
    /// Behind those that are in line for longer, wherever they were.
    Since(Timestamp),
}

#[derive(Debug, Default)]
struct Queue {
    sessions: Vec<SessionId>,
    waiting: BTreeMap<Place, TaskId>,
    /// Since when something waits in it all the time.
    filled: Option<Instant>,
}

/// All queues.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: HashMap<Arc<QueueKey>, Queue>,
    /// Turns at the back grow from zero, those in front fall below it.
    back: i64,
    front: i64,
    waiting: usize,
}

impl Queues {
    /// A session that may take from the queue.
    pub(crate) fn enter(&mut self, key: &Arc<QueueKey>, session: SessionId) {
        self.queues.entry(Arc::clone(key)).or_default().sessions.push(session);
    }

    /// A session that may not take any more.
    pub(crate) fn leave(&mut self, key: &QueueKey, session: SessionId) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.sessions.retain(|one| *one != session);
            self.tidy(key);
        }
    }

    /// Those who may take from it.
    pub(crate) fn sessions(&self, key: &QueueKey) -> &[SessionId] {
        self.queues.get(key).map_or(&[], |queue| &queue.sessions)
    }

    /// How many wait in it.
    pub(crate) fn len(&self, key: &QueueKey) -> usize {
        self.queues.get(key).map_or(0, |queue| queue.waiting.len())
    }

    /// How many wait in all of them.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Those that wait in it, in order.
    pub(crate) fn tasks(&self, key: &QueueKey) -> Vec<TaskId> {
        self.queues.get(key).map_or_else(Vec::new, |queue| queue.waiting.values().cloned().collect())
    }

    /// The first that wait in it, at most `most`.
    pub(crate) fn first(&self, key: &QueueKey, most: usize) -> Vec<TaskId> {
        self.queues.get(key).map_or_else(Vec::new, |queue| queue.waiting.values().take(most).cloned().collect())
    }

    /// What waits in it behind so many others.
    pub(crate) fn nth(&self, key: &QueueKey, place: usize) -> Option<TaskId> {
        self.queues.get(key)?.waiting.values().nth(place).cloned()
    }

    /// Those in which something waits, and since when that is so all the time.
    pub(crate) fn filled(&self) -> Vec<(Arc<QueueKey>, Instant)> {
        if self.waiting == 0 {
            return Vec::new();
        }
        self.queues.iter().filter_map(|(key, queue)| Some((Arc::clone(key), queue.filled?))).collect()
    }

    /// Those from which a session may take.
    pub(crate) fn served(&self) -> impl Iterator<Item = &Arc<QueueKey>> {
        self.queues.iter().filter(|(_, queue)| !queue.sessions.is_empty()).map(|(key, _)| key)
    }

    /// Puts a task in line.
    pub(crate) fn push(&mut self, key: &Arc<QueueKey>, priority: u8, line: Line, task: TaskId) -> Place {
        let (since, turn) = match line {
            Line::Front => {
                self.front -= 1;
                (i64::MIN, self.front)
            }
            Line::Since(since) => {
                self.back += 1;
                (since.as_micros(), self.back)
            }
        };
        let place = Place { rank: MAX_PRIORITY.saturating_sub(priority), since, turn };
        let queue = self.queues.entry(Arc::clone(key)).or_default();
        queue.waiting.insert(place, task);
        queue.filled.get_or_insert_with(Instant::now);
        self.waiting += 1;
        place
    }

    /// Takes out what is at a place.
    pub(crate) fn remove(&mut self, key: &QueueKey, place: Place) {
        if let Some(queue) = self.queues.get_mut(key)
            && queue.waiting.remove(&place).is_some()
        {
            self.waiting -= 1;
            self.tidy(key);
        }
    }

    /// Those that wait in it, in order, with their places.
    pub(crate) fn in_line(&self, key: &QueueKey) -> impl Iterator<Item = (Place, &TaskId)> {
        let waiting = self.queues.get(key).into_iter().flat_map(|queue| &queue.waiting);
        waiting.map(|(place, task)| (*place, task))
    }

    fn tidy(&mut self, key: &QueueKey) {
        let Some(queue) = self.queues.get_mut(key).filter(|queue| queue.waiting.is_empty()) else { return };
        queue.filled = None;
        if queue.sessions.is_empty() {
            self.queues.remove(key);
        }
    }
}
