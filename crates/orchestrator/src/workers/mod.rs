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
mod commands;
mod commit;
mod lease;
mod live;
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
use tokio::sync::{mpsc, oneshot, watch};
use workflow::{Command, Execution, Explanation, Status, StepIndex, Voter};

pub(crate) use self::writer::Fenced;
use self::{live::Live, worker::Worker};
use crate::{
    Settings,
    app::{Compiled, Loaded, Plans, Snapshot},
    error::OrchestratorError,
    exchange::{Outgoing, TaskUpdate},
    store::Store,
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
    /// Did the caller choose the id? Then it may have been started before.
    pub(crate) is_id_chosen: bool,
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
        task_id: String,
    },
    Voters {
        id: ExecutionId,
        step: StepIndex,
        found: Vec<Voter>,
    },
    /// The stream to communication is open, and knows nothing yet.
    Attached,
    /// The stream is lost.
    Detached,
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

/// What a worker finds among its executions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    pub(crate) live: usize,
    pub(crate) stuck: Vec<ExecutionId>,
    /// Known to the database, and not in memory. They may just have ended.
    pub(crate) missing: Vec<ExecutionId>,
}

/// How memory and log compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Same,
    Different,
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
    /// The epoch of each shard.
    pub(crate) epochs: Vec<i64>,
    /// Executions that have not ended.
    pub(crate) live: AtomicUsize,
    pub(crate) repaired: AtomicU64,
    /// Has another replica taken the shards? Then nothing can be written any more, and nothing may be said to the outside
    /// either: tasks and results are the other's now.
    pub(crate) fenced: watch::Sender<bool>,
}

impl Shared {
    /// The shard of an execution.
    pub(crate) fn shard(&self, id: ExecutionId) -> u32 {
        // FNV-1a: fixed for ever, since it decides who may write.
        let hash = id.to_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        (hash % self.epochs.len().max(1) as u64) as u32
    }

    pub(crate) fn is_fenced(&self) -> bool {
        *self.fenced.borrow()
    }

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

/// The ends that the exchange holds.
pub(crate) struct ExchangeEnds {
    pub(crate) outgoing: mpsc::Receiver<Vec<Outgoing>>,
}

impl Workers {
    /// Starts writer, workers, lease, sweeper and the search for voters. `recovered` is what the log says has not ended.
    pub(crate) fn spawn(
        shared: &Arc<Shared>,
        recovered: Vec<(ExecutionId, Loaded)>,
        registry: Link,
        tasks: &Tasks,
    ) -> (Self, ExchangeEnds) {
        /// Frames for the exchange that may wait; beyond it workers keep what they have to say.
        const FRAMES: usize = 16;
        let count = shared.settings.workers.min(shared.epochs.len()).max(1);
        let (frames, outgoing) = mpsc::channel(FRAMES);
        let (jobs, jobs_in) = mpsc::channel(count * (MAX_IN_FLIGHT + 1));
        let (searches, searches_in) = mpsc::channel(voters::QUEUE);
        let (mut inputs, mut committed, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let (input, input_in) = mpsc::channel(shared.settings.queue);
            let (done, done_in) = mpsc::channel(MAX_IN_FLIGHT + 1);
            inputs.push(input);
            committed.push(done);
            ends.push((input_in, done_in));
        }
        let workers = Self { shared: Arc::clone(shared), inputs: inputs.into(), shutdown: tasks.shutdown().clone() };
        let mut shares: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        for (id, loaded) in recovered {
            shares[workers.index(id)].push((id, loaded));
        }
        tasks.spawn("log writer", OnExit::StopService, writer::run(Arc::clone(shared), jobs_in, committed));
        for (index, ((input, done), share)) in ends.into_iter().zip(shares).enumerate() {
            let ends = worker::Ends {
                inputs: input,
                jobs: jobs.clone(),
                committed: done,
                frames: frames.clone(),
                searches: searches.clone(),
            };
            let worker = Worker::new(index, Arc::clone(shared), ends, share);
            tasks.spawn("shard worker", OnExit::StopService, worker.run(tasks.shutdown().clone()));
        }
        let shutdown = tasks.shutdown();
        tasks.spawn("lease", OnExit::StopService, lease::run(Arc::clone(shared), shutdown.clone()));
        tasks.spawn("sweeper", OnExit::StopService, sweep::run(workers.clone(), shutdown.clone()));
        let finder = voters::run(workers.clone(), registry, searches_in, shutdown.clone());
        tasks.spawn("voter search", OnExit::StopService, finder);
        (workers, ExchangeEnds { outgoing })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn index(&self, id: ExecutionId) -> usize {
        self.shared.shard(id) as usize % self.inputs.len()
    }

    /// A command or question of a caller: refused where too many wait.
    pub(crate) fn call(&self, id: ExecutionId, input: Input) -> Result<(), OrchestratorError> {
        if self.shared.is_fenced() {
            return Err(OrchestratorError::NotCommitted);
        }
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
