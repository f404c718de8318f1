//! An execution in memory, and what only the shell knows of it.

use std::{sync::Arc, time::Duration};

use domain::{AgentId, ExecutionId, Payload, Timestamp};
use tokio::sync::oneshot;
use workflow::{Execution, Holder, Overlay, Target, TaskKey, TaskOrder, TaskPlace, Unit};

use super::{errands::Doing, locks::Waiting};
use crate::{
    app::{Compiled, Loaded, Shown, Snapshot, summary_of},
    exchange::Delivery,
    hash::HashMap,
    store::{Held, LockKey, Summary},
};

/// A task that was dispatched: volatile, and made anew after a restart.
#[derive(Clone, Debug)]
pub(super) struct Out {
    pub(super) place: TaskPlace,
    pub(super) agent_id: Option<AgentId>,
    /// The hand-over that the timeouts run from.
    pub(super) delivery: Option<Delivery>,
    pub(super) begun_at: Option<Timestamp>,
    pub(super) progress: Option<Payload>,
    pub(super) timeout: Option<Duration>,
    pub(super) heartbeat_timeout: Option<Duration>,
    /// Armed timers, so that they can be found again.
    pub(super) timeout_at: Option<Timestamp>,
    pub(super) heartbeat_at: Option<Timestamp>,
    pub(super) again_at: Option<Timestamp>,
    /// How often communication refused it in a row.
    pub(super) refusals: u32,
}

impl Out {
    pub(super) fn new(order: &TaskOrder) -> Self {
        Self {
            place: TaskPlace::Unknown,
            agent_id: None,
            delivery: None,
            begun_at: None,
            progress: None,
            timeout: order.timeout,
            heartbeat_timeout: order.heartbeat_timeout,
            timeout_at: None,
            heartbeat_at: None,
            again_at: None,
            refusals: 0,
        }
    }
}

/// A look for voters that has not found enough.
#[derive(Clone, Debug)]
pub(super) struct Search {
    pub(super) target: Target,
    pub(super) count: u32,
    pub(super) quorum: u32,
    pub(super) since: Timestamp,
    pub(super) again_at: Option<Timestamp>,
}

/// An execution in memory.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) execution: Execution,
    /// The last event that is known to be committed.
    pub(super) committed: u64,
    /// Of the last event decided.
    pub(super) hash: [u8; 32],
    pub(super) compiled: Arc<Compiled>,
    /// Its shard, under the epoch at which it came into memory.
    pub(super) held: Held,
    /// Batches with events of it that are not committed yet, the open one included.
    pub(super) pending: u32,
    /// The number of the batch that was open when it came into memory; what older ones say is of another life.
    pub(super) since: u64,
    pub(super) due: Option<Timestamp>,
    /// When the log of its earlier runs is looked at next.
    pub(super) prune_at: Timestamp,
    pub(super) tasks: HashMap<TaskKey, Out>,
    pub(super) searches: HashMap<Unit, Search>,
    pub(super) errands: HashMap<TaskKey, Doing>,
    /// Locks that are asked for.
    pub(super) locks: HashMap<Holder, Waiting>,
    /// Its places in the queues of locks, where somebody asked.
    pub(super) places: HashMap<Holder, u32>,
    /// Callers that wait for its end.
    pub(super) waiting: Vec<oneshot::Sender<Snapshot>>,
}

impl Live {
    pub(super) fn new(loaded: Loaded, held: Held, since: u64) -> Self {
        let Loaded { execution, hash, compiled, .. } = loaded;
        Self {
            committed: execution.last_sequence(),
            execution,
            hash,
            compiled,
            held,
            pending: 0,
            since,
            due: None,
            prune_at: Timestamp::EPOCH,
            tasks: HashMap::default(),
            searches: HashMap::default(),
            errands: HashMap::default(),
            locks: HashMap::default(),
            places: HashMap::default(),
            waiting: Vec::new(),
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.execution.status().is_terminal()
    }

    pub(super) fn namespace(&self) -> String {
        self.execution.namespace().map(ToString::to_string).unwrap_or_default()
    }

    /// Does it have this lock, or wait for it?
    pub(super) fn wants(&self, holder: Holder, key: LockKey) -> bool {
        let lock = self.execution.lock_of(holder);
        let namespace = self.execution.namespace();
        lock.zip(namespace).is_some_and(|(lock, namespace)| LockKey::new(namespace, &lock) == key)
    }

    pub(super) fn summary(&self) -> Summary {
        summary_of(&self.execution, self.hash, self.held.shard, &self.compiled)
    }

    pub(super) fn snapshot(&self, with_steps: bool) -> Snapshot {
        let mut snapshot = Snapshot::of(&self.execution, self.hash, self.held.shard, &self.compiled);
        if with_steps {
            let shown =
                |out: &Out| Shown { place: out.place.clone(), agent_id: out.agent_id, progress: out.progress.clone() };
            snapshot.steps = self.execution.steps();
            snapshot.tasks = self.tasks.iter().map(|(task, out)| (*task, shown(out))).collect();
            let steps = &self.compiled.plan.steps;
            let names = self.searches.keys().filter_map(|unit| steps.get(unit.step as usize));
            snapshot.seeking = names.map(|step| step.id.clone()).collect();
        }
        snapshot
    }

    /// The id of a task as the outside knows it.
    pub(super) fn task_id(&self, id: ExecutionId, task: TaskKey) -> String {
        self.compiled.plan.task_id(id, task)
    }
}

impl Overlay for Live {
    fn task(&self, task: TaskKey) -> TaskPlace {
        self.tasks.get(&task).map_or(TaskPlace::Unknown, |out| out.place.clone())
    }

    fn place(&self, holder: Holder) -> Option<u32> {
        self.places.get(&holder).copied()
    }

    fn trouble(&self, task: TaskKey) -> Option<&str> {
        self.errands.get(&task)?.trouble.as_deref()
    }
}
