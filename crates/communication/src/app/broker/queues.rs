//! Work queues: who may take from them, and what waits in them.
//!
//! Invariant (kept by the broker): where something waits in a queue, no session that may take it has free credit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use domain::{Namespace, SessionId};

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
    position: i64,
}

#[derive(Debug, Default)]
struct Queue {
    sessions: Vec<SessionId>,
    waiting: BTreeMap<Place, TaskId>,
}

/// All queues.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: HashMap<Arc<QueueKey>, Queue>,
    /// Positions at the back grow from zero, those in front fall below it.
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

    /// Those in which something waits.
    pub(crate) fn filled(&self) -> Vec<Arc<QueueKey>> {
        if self.waiting == 0 {
            return Vec::new();
        }
        self.queues.iter().filter(|(_, queue)| !queue.waiting.is_empty()).map(|(key, _)| Arc::clone(key)).collect()
    }

    /// Those from which a session may take.
    pub(crate) fn served(&self) -> impl Iterator<Item = &Arc<QueueKey>> {
        self.queues.iter().filter(|(_, queue)| !queue.sessions.is_empty()).map(|(key, _)| key)
    }

    /// Adds behind (or before) all of the same priority.
    pub(crate) fn push(&mut self, key: &Arc<QueueKey>, priority: u8, in_front: bool, task: TaskId) -> Place {
        let position = if in_front {
            self.front -= 1;
            self.front
        } else {
            self.back += 1;
            self.back
        };
        let place = Place { rank: MAX_PRIORITY.saturating_sub(priority), position };
        self.queues.entry(Arc::clone(key)).or_default().waiting.insert(place, task);
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

    /// The place that is first in line.
    pub(crate) fn head(&self, key: &QueueKey) -> Option<Place> {
        self.queues.get(key)?.waiting.first_key_value().map(|(place, _)| *place)
    }

    /// Takes out the first in line.
    pub(crate) fn pop(&mut self, key: &QueueKey) -> Option<TaskId> {
        let (_, task) = self.queues.get_mut(key)?.waiting.pop_first()?;
        self.waiting -= 1;
        self.tidy(key);
        Some(task)
    }

    fn tidy(&mut self, key: &QueueKey) {
        if self.queues.get(key).is_some_and(|queue| queue.sessions.is_empty() && queue.waiting.is_empty()) {
            self.queues.remove(key);
        }
    }
}
