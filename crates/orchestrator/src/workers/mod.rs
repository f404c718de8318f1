//! Who writes executions: a few workers that decide, and one log writer that commits for all of them.
//!
//! Every shard belongs to one worker, which is the only one that touches its executions: there is no lock on the way. A worker
//! takes everything that waits, decides it in memory, and hands the events to the writer as one batch; it goes on deciding
//! while up to [`MAX_IN_FLIGHT`] of its batches are being committed. The writer merges the batches of all workers into one
//! transaction. Only after the commit are effects performed, callers answered, results acknowledged and watchers told (I1,
//! I3). Batches of a worker are committed in their order; when one fails, those after it fail as well, and the worker drops
//! the executions that they touch and rebuilds them from the log. Where the database refuses the events of one execution, the
//! others are committed without it.

mod batch;
#[cfg(test)]
mod bench;
mod chores;
mod commands;
mod commit;
mod errands;
mod holdings;
#[cfg(test)]
mod invariants;
mod keeper;
mod leaving;
mod live;
mod lock_keeper;
mod locks;
mod outside;
mod pruning;
mod runner;
mod settling;
mod sweep;
mod timers;
mod updates;
mod voters;
mod worker;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use contracts::Link;
use domain::{Clock, ExecutionId, Namespace, Timestamp};
use lifecycle::{OnExit, Tasks};
use tokio::sync::{mpsc, oneshot};
use workflow::{Breach, Command, Execution, Explanation, Holder, Status, TaskKey, Unit, Voter};

pub(crate) use self::{
    chores::{Chore, Lanes},
    errands::{cancelled_child, failed_child},
    holdings::Holdings,
    keeper::Keeper,
    runner::{Outside, run as run_errands},
    writer::Fenced,
};
use self::{live::Live, runner::Answer, worker::Worker};
use crate::{
    Settings,
    app::{ChildReport, Compiled, Loaded, Plans, Snapshot},
    error::OrchestratorError,
    exchange::{Said, TaskUpdate},
    store::{Held, LockRow, Store},
    violations::Violations,
    watch::Watchers,
};

/// Batches of one worker that may wait for their commit.
const MAX_IN_FLIGHT: usize = 4;

/// Answers of a worker.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, OrchestratorError>>;

/// A start, checked.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) start: workflow::Start,
    /// Was the id made for this start? Otherwise it may have been started before.
    pub(crate) is_fresh: bool,
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) reply: Reply<Snapshot>,
    /// Who waits for the end.
    pub(crate) ended: Option<oneshot::Sender<Snapshot>>,
}

/// What a worker can be told.
#[derive(Debug)]
pub(crate) enum Input {
    Start(Box<Starting>),
    Command {
        id: ExecutionId,
        namespace: Namespace,
        command: Command,
        reply: Reply<Snapshot>,
    },
    Get {
        id: ExecutionId,
        namespace: Namespace,
        with_steps: bool,
        reply: Reply<Snapshot>,
    },
    Explain {
        id: ExecutionId,
        namespace: Namespace,
        /// Its places in the queues of locks.
        places: Vec<(Holder, u32)>,
        reply: Reply<(Status, Explanation)>,
    },
    /// Whoever waited for the end of an execution that had to be loaded again.
    Await {
        id: ExecutionId,
        ended: oneshot::Sender<Snapshot>,
    },
    Update(TaskUpdate),
    /// A result of the execution may have lost its acknowledgement in a commit that failed.
    Settle {
        id: ExecutionId,
        task_id: String,
    },
    Voters {
        id: ExecutionId,
        unit: Unit,
        found: Vec<Voter>,
    },
    /// What came of an errand.
    Errand {
        id: ExecutionId,
        task: TaskKey,
        answer: Answer,
    },
    /// An errand is to be done again.
    Again {
        id: ExecutionId,
        task: TaskKey,
    },
    /// A child of an execution has ended, or asks whether it is still wanted.
    Child {
        report: ChildReport,
        reply: Reply<bool>,
    },
    /// The parent of an execution does not want it any more.
    Unwanted {
        id: ExecutionId,
    },
    /// An execution may have got a lock that it waits for.
    Review {
        id: ExecutionId,
    },
    /// A wait for a lock is over.
    Granted {
        id: ExecutionId,
        holder: Holder,
        number: u64,
    },
    /// What the database has of locks.
    Locks {
        rows: Vec<LockRow>,
    },
    /// What was to be said of tasks for a while was not: it is to be said anew.
    Anew,
    /// These shards are held, and these are their executions that have not ended.
    Adopt {
        held: Vec<Held>,
        recovered: Vec<(ExecutionId, Loaded)>,
    },
    /// These shards are not to be written any more; answered when nothing of them is under way. `is_lost`: another writes them
    /// already.
    GiveUp {
        shards: Arc<[u32]>,
        is_lost: bool,
        done: oneshot::Sender<()>,
    },
    /// Look for what nothing will wake, and repair it. `known`: all that the database says has not ended.
    Sweep {
        known: Option<Vec<ExecutionId>>,
    },
    Census {
        known: Vec<ExecutionId>,
        reply: oneshot::Sender<Census>,
    },
    Compare {
        replayed: Box<Execution>,
        reply: oneshot::Sender<Comparison>,
    },
}

impl Input {
    /// The execution that it is about; only the replica that writes its shard takes it.
    pub(crate) fn execution(&self) -> Option<ExecutionId> {
        match self {
            Self::Start(starting) => Some(starting.start.execution_id),
            Self::Command { id, .. }
            | Self::Get { id, .. }
            | Self::Explain { id, .. }
            | Self::Await { id, .. }
            | Self::Settle { id, .. }
            | Self::Voters { id, .. }
            | Self::Errand { id, .. }
            | Self::Again { id, .. }
            | Self::Unwanted { id }
            | Self::Review { id }
            | Self::Granted { id, .. } => Some(*id),
            Self::Child { report, .. } => Some(report.parent),
            Self::Update(update) => Some(update.execution),
            Self::Anew
            | Self::Adopt { .. }
            | Self::GiveUp { .. }
            | Self::Sweep { .. }
            | Self::Locks { .. }
            | Self::Census { .. }
            | Self::Compare { .. } => None,
        }
    }
}

/// What a worker finds among its executions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    pub(crate) live: usize,
    pub(crate) stuck: Vec<ExecutionId>,
    /// Known to the database, and not in memory. They may just have ended.
    pub(crate) missing: Vec<ExecutionId>,
}

/// How memory and log compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Same,
    Different(Breach),
    /// Memory has moved on meanwhile.
    Ahead,
    NotInMemory,
}

/// What all workers of a replica share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) plans: Arc<Plans>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) settings: Settings,
    /// `rep_…`
    pub(crate) owner: String,
    pub(crate) holdings: Holdings,
    /// Is this the only process on its database? Then a start takes the shards at once, and their loss ends it.
    pub(crate) is_alone: bool,
    /// Executions that have not ended.
    pub(crate) live: AtomicUsize,
    pub(crate) repaired: AtomicU64,
    pub(crate) violations: Violations,
}

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// The way to the workers. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    inputs: Arc<[mpsc::Sender<Input>]>,
    shutdown: lifecycle::Shutdown,
}

/// The ends that others hold: the exchange, and who does errands.
pub(crate) struct ExchangeEnds {
    pub(crate) outgoing: mpsc::Receiver<Vec<Said>>,
    pub(crate) chores: Lanes<mpsc::Receiver<Chore>>,
}

impl Workers {
    /// Starts writer, workers, sweeper and the search for voters. They have no shards before a [`Keeper`] gives them some.
    pub(crate) fn spawn(shared: &Arc<Shared>, registry: Link, tasks: &Tasks) -> (Self, ExchangeEnds) {
        /// Frames for the exchange that may wait; beyond it workers keep what they have to say.
        const FRAMES: usize = 16;
        let count = shared.settings.workers.min(shared.holdings.count()).max(1);
        let (frames, outgoing) = mpsc::channel(FRAMES);
        let (jobs, jobs_in) = mpsc::channel(count * (MAX_IN_FLIGHT + 1));
        let (searches, searches_in) = mpsc::channel(voters::QUEUE);
        let (chores, chores_in) = chores::lanes();
        let (locks, locks_in) = mpsc::channel(lock_keeper::QUEUE);
        let (mut inputs, mut committed, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let (input, input_in) = mpsc::channel(shared.settings.queue);
            let (done, done_in) = mpsc::channel(MAX_IN_FLIGHT + 1);
            inputs.push(input);
            committed.push(done);
            ends.push((input_in, done_in));
        }
        let workers = Self { shared: Arc::clone(shared), inputs: inputs.into(), shutdown: tasks.shutdown().clone() };
        tasks.spawn("log writer", OnExit::StopService, writer::run(Arc::clone(shared), jobs_in, committed));
        for (index, (input, done)) in ends.into_iter().enumerate() {
            let ends = worker::Ends {
                inputs: input,
                jobs: jobs.clone(),
                committed: done,
                frames: frames.clone(),
                searches: searches.clone(),
                chores: chores.clone(),
                locks: locks.clone(),
            };
            let worker = Worker::new(index, Arc::clone(shared), ends);
            tasks.spawn("shard worker", OnExit::StopService, worker.run(tasks.shutdown().clone()));
        }
        // The keeper of locks ends with the last of them.
        drop(locks);
        let shutdown = tasks.shutdown();
        tasks.spawn("sweeper", OnExit::StopService, sweep::run(workers.clone(), shutdown.clone()));
        let keeper = lock_keeper::run(workers.clone(), locks_in, chores.locks, shutdown.clone());
        tasks.spawn("lock keeper", OnExit::StopService, keeper);
        let finder = voters::run(workers.clone(), registry, searches_in, shutdown.clone());
        tasks.spawn("voter search", OnExit::StopService, finder);
        (workers, ExchangeEnds { outgoing, chores: chores_in })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn index(&self, id: ExecutionId) -> usize {
        self.worker_of(self.shared.holdings.shard(id))
    }

    fn worker_of(&self, shard: u32) -> usize {
        shard as usize % self.inputs.len()
    }

    /// A command or question of a caller: refused where too many wait.
    pub(crate) fn call(&self, id: ExecutionId, input: Input) -> Result<(), OrchestratorError> {
        if self.shutdown.is_draining() {
            return Err(OrchestratorError::Stopping);
        }
        self.inputs[self.index(id)].try_send(input).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OrchestratorError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => OrchestratorError::Stopping,
        })
    }

    /// Waits for the answer of a worker.
    pub(crate) async fn answer<T>(
        &self,
        answer: oneshot::Receiver<Result<T, OrchestratorError>>,
    ) -> Result<T, OrchestratorError> {
        let timeout: Duration = self.shared.settings.command_timeout;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(OrchestratorError::Stopping),
            Err(_) => Err(OrchestratorError::TimedOut),
        }
    }

    /// News of the outside; waits while too much waits, which slows the stream down that it comes from.
    pub(crate) async fn tell(&self, id: ExecutionId, input: Input) {
        // A closed channel is a worker that has stopped: the log has what matters.
        let _ = self.inputs[self.index(id)].send(input).await;
    }

    /// Tells every worker.
    pub(crate) async fn tell_all(&self, mut input: impl FnMut() -> Input) {
        for worker in self.inputs.iter() {
            let _ = worker.send(input()).await;
        }
    }

    /// Splits ids by worker and asks each.
    pub(crate) async fn census(&self, known: Vec<ExecutionId>) -> Result<Census, OrchestratorError> {
        let mut total = Census::default();
        for (worker, known) in self.inputs.iter().zip(self.split(known)) {
            let (reply, answer) = oneshot::channel();
            let _ = worker.send(Input::Census { known, reply }).await;
            let timeout = self.shared.settings.command_timeout;
            let census = tokio::time::timeout(timeout, answer).await.map_err(|_| OrchestratorError::TimedOut)?;
            let census = census.map_err(|_| OrchestratorError::Stopping)?;
            total.live += census.live;
            total.stuck.extend(census.stuck);
            total.missing.extend(census.missing);
        }
        Ok(total)
    }

    /// Ids by worker.
    fn split(&self, ids: Vec<ExecutionId>) -> Vec<Vec<ExecutionId>> {
        let mut shares: Vec<Vec<_>> = self.inputs.iter().map(|_| Vec::new()).collect();
        for id in ids {
            shares[self.index(id)].push(id);
        }
        shares
    }
}
