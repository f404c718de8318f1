//! Tasks that wait with the message broker instead of here, as far as is known here: without their payloads, so that each is
//! found, and dropped where it comes when nobody wants it any more.
//!
//! What is remembered of a queue that has been empty for a while is not there: somebody else has it, or the message broker has
//! lost it, with the queue or with its data. Which of the two, whoever dispatched it finds out by asking every replica.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use domain::Timestamp;

use super::{Broker, OrchestratorId, QueueKey};
use crate::{
    app::model::{TaskId, Update, What},
    metrics,
};

/// How long what was withdrawn is remembered, so that it is dropped when it comes.
const WITHDRAWN_FOR: Duration = Duration::from_mins(10);
/// How long a task is remembered whose orchestrator is away: whoever has taken over the execution has asked by then.
const ORPHANED_FOR: Duration = Duration::from_hours(1);
/// Withdrawn tasks that are remembered: without, an agent begins with what its orchestrator then withdraws.
const MOST_WITHDRAWN: usize = 100_000;
/// Tasks of one queue that are given up at once: each is asked for everywhere.
const GIVEN_UP_AT_ONCE: usize = 5_000;

/// A task that waits with the message broker.
#[derive(Debug)]
pub(super) struct Enqueued {
    pub(super) key: Arc<QueueKey>,
    /// Who dispatched it last.
    pub(super) replica: OrchestratorId,
    /// Under which it did.
    pub(super) epoch: i64,
    /// Hand-overs that are known here, of which the message broker may not have heard.
    pub(super) deliveries: u32,
    pub(super) since: Instant,
    /// When nobody wanted it any more. What was dispatched again since is another copy.
    pub(super) withdrawn_at: Option<Timestamp>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    tasks: HashMap<TaskId, Enqueued>,
    /// Those that are wanted still, by their queues.
    queues: HashMap<Arc<QueueKey>, HashSet<TaskId>>,
}

impl Remembered {
    pub(super) fn insert(&mut self, id: &TaskId, enqueued: Enqueued) {
        self.remove(id);
        self.queues.entry(Arc::clone(&enqueued.key)).or_default().insert(Arc::clone(id));
        self.tasks.insert(Arc::clone(id), enqueued);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Enqueued> {
        let enqueued = self.tasks.remove(id)?;
        leave(&mut self.queues, &enqueued.key, id);
        Some(enqueued)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Enqueued> {
        self.tasks.get(id)
    }

    /// One that was not withdrawn.
    pub(super) fn wanted(&mut self, id: &str) -> Option<(TaskId, &mut Enqueued)> {
        let id = Arc::clone(self.tasks.get_key_value(id)?.0);
        let enqueued = self.tasks.get_mut(&id).filter(|enqueued| enqueued.withdrawn_at.is_none())?;
        Some((id, enqueued))
    }

    fn withdraw(&mut self, id: &str, at: Timestamp) {
        let Some((_, enqueued)) = self.wanted(id) else { return };
        enqueued.withdrawn_at = Some(at);
        enqueued.since = Instant::now();
        let key = Arc::clone(&enqueued.key);
        leave(&mut self.queues, &key, id);
    }

    /// Takes out some that a queue has had since before a time.
    fn take_older(&mut self, key: &QueueKey, than: Instant) -> Vec<(TaskId, Enqueued)> {
        let of_queue = self.queues.get(key).into_iter().flatten();
        let is_older = |id: &&TaskId| self.tasks.get(*id).is_some_and(|enqueued| enqueued.since < than);
        let older: Vec<_> = of_queue.filter(is_older).take(GIVEN_UP_AT_ONCE).cloned().collect();
        older.into_iter().filter_map(|id| self.remove(&id).map(|enqueued| (id, enqueued))).collect()
    }

    fn retain(&mut self, mut is_kept: impl FnMut(&Enqueued) -> bool) {
        let Self { tasks, queues } = self;
        tasks.retain(|id, enqueued| {
            let is_kept = is_kept(enqueued);
            if !is_kept {
                leave(queues, &enqueued.key, id);
            }
            is_kept
        });
    }
}

fn leave(queues: &mut HashMap<Arc<QueueKey>, HashSet<TaskId>>, key: &QueueKey, id: &str) {
    if let Some(tasks) = queues.get_mut(key) {
        tasks.remove(id);
        if tasks.is_empty() {
            queues.remove(key);
        }
    }
}

impl Broker {
    /// The queues of which tasks are remembered.
    pub(crate) fn remembered(&self) -> Vec<Arc<QueueKey>> {
        self.enqueued.queues.keys().cloned().collect()
    }

    /// A queue is empty, and was at this time, or is not there: what was put there before is forgotten, and whoever wants it
    /// hears so.
    pub(crate) fn emptied(&mut self, key: &QueueKey, before: Instant) {
        for (id, enqueued) in self.enqueued.take_older(key, before) {
            ::metrics::counter!(metrics::TASKS_ASKED_FOR).increment(1);
            self.orchestrators.tell(Some(&enqueued.replica), Update::new(id, None, What::Unknown));
        }
    }

    /// A task is not wanted any more, and may come from the message broker still.
    pub(super) fn withdraw_enqueued(&mut self, id: &str) {
        self.enqueued.withdraw(id, self.clock.now());
    }

    /// Forgets what nobody will ask for. Called now and then.
    pub(super) fn tidy_enqueued(&mut self, now: Instant) {
        let orchestrators = &self.orchestrators;
        let mut withdrawn = 0;
        self.enqueued.retain(|enqueued| {
            let age = now.saturating_duration_since(enqueued.since);
            if enqueued.withdrawn_at.is_some() {
                withdrawn += 1;
                return age < WITHDRAWN_FOR && withdrawn <= MOST_WITHDRAWN;
            }
            orchestrators.is_attached(&enqueued.replica) || age < ORPHANED_FOR
        });
    }
}
