//! What is remembered of a run: nothing that the log does not say, so that replay gives it back exactly.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use domain::{AgentId, ExecutionId, Namespace, Payload, SignalId, Timestamp, WorkflowId};

use super::{Counts, StepState};
use crate::{
    Ballot, Failure, Plan, Purpose, StepIndex, TaskKey, Voter,
    plan::{Step, StepKind},
};

/// What the first event says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    pub(super) id: ExecutionId,
    pub(super) namespace: Namespace,
    pub(super) workflow_id: WorkflowId,
    pub(super) workflow_version: u32,
    pub(super) input: Payload,
    pub(super) traceparent: String,
    pub(super) created_at: Timestamp,
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    Completed(Payload),
    Failed,
    Cancelled,
}

/// A step, or an instance of it: what there is to schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit {
    pub(super) step: StepIndex,
    /// The instance or voter; absent for the step itself.
    pub(super) index: Option<u32>,
}

impl Unit {
    pub(super) fn of(task: TaskKey) -> Self {
        Self { step: task.step, index: task.index }
    }

    pub(super) fn task(self, purpose: Purpose, attempt: u32) -> TaskKey {
        TaskKey { step: self.step, index: self.index, purpose, attempt }
    }
}

/// Where a step or an instance is. The transition table is in the module's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its dependencies have not settled, or it waits for a slot.
    #[default]
    Pending,
    /// Its task is out.
    Out,
    /// The next attempt is due then.
    Retrying(Timestamp),
    /// It has instances at work.
    Expanded,
    /// It wants voters, or has them at work; until the deadline.
    Deciding(Option<Timestamp>),
    /// It waits for a signal; until then.
    Awaiting(Option<Timestamp>),
    /// It sleeps until then.
    Sleeping(Timestamp),
    Completed,
    Failed,
    Skipped,
    Cancelled,
    Compensated,
}

impl Phase {
    pub(super) fn state(self) -> StepState {
        match self {
            Self::Pending => StepState::Pending,
            Self::Out => StepState::Scheduled,
            Self::Retrying(_) => StepState::Retrying,
            Self::Expanded | Self::Deciding(_) => StepState::Running,
            Self::Awaiting(_) | Self::Sleeping(_) => StepState::Waiting,
            Self::Completed => StepState::Completed,
            Self::Failed => StepState::Failed,
            Self::Skipped => StepState::Skipped,
            Self::Cancelled => StepState::Cancelled,
            Self::Compensated => StepState::Compensated,
        }
    }

    /// Has it begun and not ended?
    pub(super) fn is_active(self) -> bool {
        match self {
            Self::Out
            | Self::Retrying(_)
            | Self::Expanded
            | Self::Deciding(_)
            | Self::Awaiting(_)
            | Self::Sleeping(_) => true,
            Self::Pending | Self::Completed | Self::Failed | Self::Skipped | Self::Cancelled | Self::Compensated => {
                false
            }
        }
    }

    /// When the step itself (not a retry) has something due.
    pub(super) fn due(self) -> Option<Timestamp> {
        match self {
            Self::Deciding(until) | Self::Awaiting(until) => until,
            Self::Sleeping(until) => Some(until),
            Self::Pending
            | Self::Out
            | Self::Retrying(_)
            | Self::Expanded
            | Self::Completed
            | Self::Failed
            | Self::Skipped
            | Self::Cancelled
            | Self::Compensated => None,
        }
    }
}

/// The life of a step, an instance or a voter.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    pub(super) phase: Phase,
    /// The present or last attempt; counts on when a failed execution is retried, so that no task id comes twice.
    pub(super) attempt: u32,
    /// Attempts before the execution was last retried: those that no longer count against `max_attempts`.
    pub(super) attempts_before: u32,
    /// It ended while its task was out, so the task is to be withdrawn.
    pub(super) withdrawn: bool,
    pub(super) input: Option<Payload>,
    pub(super) output: Option<Payload>,
    pub(super) failure: Option<Failure>,
    pub(super) agent_id: Option<AgentId>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
}

impl Run {
    /// Attempts that count against `max_attempts`.
    pub(super) fn attempts(&self) -> u32 {
        self.attempt - self.attempts_before
    }

    /// Begins afresh, with attempts that count on.
    pub(super) fn reset(&mut self) {
        *self =
            Self { attempt: self.attempt, attempts_before: self.attempt, input: self.input.take(), ..Self::default() };
    }
}

/// A step and what hangs on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct StepRun {
    pub(super) run: Run,
    /// Dependencies that have completed, or count as if.
    pub(super) done: u32,
    /// Dependencies whose skip spreads.
    pub(super) skipped: u32,
    /// Its join has settled: it is queued, or was.
    pub(super) settled: bool,
    /// The instances of a `for_each`, or the voters of a decision.
    pub(super) instances: Vec<Run>,
    /// The items of a `for_each`.
    pub(super) items: Vec<Payload>,
    /// Instances that were queued for a slot, from the first on.
    pub(super) queued: u32,
    /// Instances that were queued and have not ended.
    pub(super) working: u32,
    /// Instances or voters that have not ended.
    pub(super) open: u32,
    /// Instances whose work still stands: completed, with a `compensate`, and not undone.
    pub(super) to_undo: u32,
    pub(super) voters: Vec<Voter>,
    pub(super) ballots: Vec<Option<Ballot>>,
}

/// One for each signal that the plan waits for; no other signal is taken.
fn mailboxes(plan: &Plan) -> HashMap<String, Mailbox> {
    let name = |step: &Step| match &step.kind {
        StepKind::Signal { name, .. } => Some((name.clone(), Mailbox::default())),
        StepKind::Task { .. } | StepKind::Decision(_) | StepKind::Sleep(_) => None,
    };
    plan.steps.iter().filter_map(name).collect()
}

/// Signals of one name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mailbox {
    /// Came in, and no step has taken it.
    pub(super) kept: VecDeque<Payload>,
    /// Steps that wait, the first first.
    pub(super) waiting: VecDeque<StepIndex>,
}

/// The undo that is at work.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Undo {
    pub(super) unit: Unit,
    pub(super) run: Run,
}

/// Everything but the plan.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) head: Option<Head>,
    pub(super) sequence: u64,
    pub(super) steps: Vec<StepRun>,
    pub(super) counts: Counts,
    /// Steps that have not ended.
    pub(super) open: u32,
    /// Steps that have begun and not ended.
    pub(super) active: BTreeSet<StepIndex>,
    /// Tasks of agents at work, undos included: what a result may be for.
    pub(super) out: BTreeSet<TaskKey>,
    /// Steps whose join has settled and that need no slot to begin.
    pub(super) due: VecDeque<StepIndex>,
    /// Steps, instances and voters that wait for a slot.
    pub(super) queue: VecDeque<Unit>,
    /// Ends of waits; retries are apart since a pause or a lack of slots holds them back.
    pub(super) timers: BTreeSet<(Timestamp, StepIndex)>,
    pub(super) retries: BTreeSet<(Timestamp, Unit)>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) mailboxes: HashMap<String, Mailbox>,
    pub(super) signals: HashSet<SignalId>,
    /// Since when nothing new starts.
    pub(super) paused: Option<Timestamp>,
    pub(super) cancel: Option<String>,
    /// Why it is lost.
    pub(super) failure: Option<Failure>,
    /// Completed work that can be undone, in the order of completion.
    pub(super) undoable: Vec<Unit>,
    pub(super) compensating: bool,
    /// Completed work was undone, or would have been: there is nothing to go on from.
    pub(super) was_compensated: bool,
    pub(super) undo: Option<Undo>,
    pub(super) end: Option<(End, Timestamp)>,
}

impl State {
    pub(super) fn new(plan: &Plan) -> Self {
        let steps = vec![StepRun::default(); plan.steps.len()];
        let open = steps.len() as u32;
        Self {
            head: None,
            sequence: 0,
            counts: Counts { pending: open, ..Counts::default() },
            steps,
            open,
            active: BTreeSet::new(),
            out: BTreeSet::new(),
            due: VecDeque::new(),
            queue: VecDeque::new(),
            timers: BTreeSet::new(),
            retries: BTreeSet::new(),
            deadline: None,
            mailboxes: mailboxes(plan),
            signals: HashSet::new(),
            paused: None,
            cancel: None,
            failure: None,
            undoable: Vec::new(),
            compensating: false,
            was_compensated: false,
            undo: None,
            end: None,
        }
    }

    pub(super) fn run(&self, unit: Unit) -> Option<&Run> {
        let step = self.steps.get(unit.step as usize)?;
        match unit.index {
            None => Some(&step.run),
            Some(index) => step.instances.get(index as usize),
        }
    }

    /// How many tasks of the step's work are out.
    pub(super) fn work_out(&self) -> usize {
        self.out.len() - usize::from(self.undo.as_ref().is_some_and(|undo| undo.run.phase == Phase::Out))
    }
}

/// When the attempt after `attempts` is due: exponential, capped, and spread between half and the whole of itself by a hash
/// of the task, so that replays and replicas agree and crowds do not retry in step.
pub(super) fn backoff(retry: &crate::plan::Retry, execution: ExecutionId, task: TaskKey, attempts: u32) -> Duration {
    let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    let longest = retry.max_interval.as_secs_f64();
    let whole = (retry.initial_interval.as_secs_f64() * retry.backoff.powi(exponent)).min(longest);
    let share = if retry.jitter { 0.5 + 0.5 * fraction(execution, task) } else { 1.0 };
    Duration::try_from_secs_f64(whole * share).unwrap_or(retry.max_interval)
}

/// From 0 to 1, evenly spread over tasks.
fn fraction(execution: ExecutionId, task: TaskKey) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(execution.to_string().as_bytes());
    for number in [task.step, task.index.map_or(0, |index| index + 1), task.purpose as u32, task.attempt] {
        hasher.update(&number.to_le_bytes());
    }
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..4]);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
