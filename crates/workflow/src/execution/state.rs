//! What is remembered of a run: nothing that the log does not say, so that replay gives it back exactly.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use domain::{AgentId, ExecutionId, Namespace, Payload, SignalId, Timestamp, WorkflowId};

use super::{
    Counts, StepState,
    frame::Frames,
    mutex::{Exclusion, Held, MutexKey},
};
use crate::{Ballot, Failure, FrameId, Lock, LockKind, Parent, Plan, StepIndex, TaskKey, Unit, Voter};

/// What the first event says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    pub(super) id: ExecutionId,
    pub(super) namespace: Namespace,
    pub(super) workflow_id: WorkflowId,
    pub(super) workflow_version: u32,
    pub(super) input: Payload,
    pub(super) traceparent: String,
    pub(super) parent: Option<Parent>,
    pub(super) created_at: Timestamp,
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    Completed(Payload),
    Failed,
    Cancelled,
}

/// Where a unit is. The transition table is in the module's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its dependencies have not settled, or it waits for a slot.
    #[default]
    Pending,
    /// It waits for its mutex.
    Locking,
    /// Its task is out: with an agent, or as an errand of the shell.
    Out,
    /// The next attempt is due then.
    Retrying(Timestamp),
    /// It has instances at work.
    Expanded,
    /// Its block is at work; until then.
    Inside(Option<Timestamp>),
    /// Its child execution is at work; until then.
    Child(Option<Timestamp>),
    /// It wants voters, or has them at work; until the deadline.
    Deciding(Option<Timestamp>),
    /// It waits for a signal; until then.
    Awaiting(Option<Timestamp>),
    /// It sleeps until then.
    Sleeping(Timestamp),
    Completed,
    Failed,
    Skipped,
    /// Its scope ended before it did.
    Cancelled,
    /// Another step withdrew it.
    Withdrawn,
    Compensated,
}

impl Phase {
    pub(super) fn state(self) -> StepState {
        match self {
            Self::Pending => StepState::Pending,
            Self::Out => StepState::Scheduled,
            Self::Retrying(_) => StepState::Retrying,
            Self::Expanded | Self::Inside(_) | Self::Child(_) | Self::Deciding(_) => StepState::Running,
            Self::Locking | Self::Awaiting(_) | Self::Sleeping(_) => StepState::Waiting,
            Self::Completed => StepState::Completed,
            Self::Failed => StepState::Failed,
            Self::Skipped => StepState::Skipped,
            Self::Cancelled | Self::Withdrawn => StepState::Cancelled,
            Self::Compensated => StepState::Compensated,
        }
    }

    /// Has it begun and not ended?
    pub(super) fn is_active(self) -> bool {
        match self {
            Self::Locking
            | Self::Out
            | Self::Retrying(_)
            | Self::Expanded
            | Self::Inside(_)
            | Self::Child(_)
            | Self::Deciding(_)
            | Self::Awaiting(_)
            | Self::Sleeping(_) => true,
            Self::Pending
            | Self::Completed
            | Self::Failed
            | Self::Skipped
            | Self::Cancelled
            | Self::Withdrawn
            | Self::Compensated => false,
        }
    }

    /// Has it not ended?
    pub(super) fn is_open(self) -> bool {
        self == Self::Pending || self.is_active()
    }

    /// When the unit itself (not a retry) has something due.
    pub(super) fn due(self) -> Option<Timestamp> {
        match self {
            Self::Inside(until) | Self::Child(until) | Self::Deciding(until) | Self::Awaiting(until) => until,
            Self::Sleeping(until) => Some(until),
            Self::Pending
            | Self::Locking
            | Self::Out
            | Self::Retrying(_)
            | Self::Expanded
            | Self::Completed
            | Self::Failed
            | Self::Skipped
            | Self::Cancelled
            | Self::Withdrawn
            | Self::Compensated => None,
        }
    }
}

/// The life of a step, an instance or a voter.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    pub(super) phase: Phase,
    /// The present or last attempt; counts on through iterations and retries of the execution, so that no task id comes twice.
    pub(super) attempt: u32,
    /// Attempts that no longer count against `max_attempts`: of earlier iterations, and before the execution was retried.
    pub(super) attempts_before: u32,
    /// Of its loop, from 0.
    pub(super) iteration: u32,
    /// The frame of its block or of its voters.
    pub(super) inner: Option<FrameId>,
    /// The step that withdrew it.
    pub(super) withdrawn_by: Option<StepIndex>,
    pub(super) agent_id: Option<AgentId>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
    pub(super) input: Option<Payload>,
    pub(super) output: Option<Payload>,
    /// The output of the iteration before.
    pub(super) last: Option<Payload>,
    pub(super) failure: Option<Box<Failure>>,
    /// The signal that it waits for, or waited for last.
    pub(super) signal: Option<Box<str>>,
    /// The mutex that it has, or waits for.
    pub(super) mutex: Option<Box<Held>>,
    /// Attempts of earlier undos of it: those of a later one count on.
    pub(super) undo_attempts: u32,
    /// Its undo, while that is at work.
    pub(super) undo: Option<Box<Run>>,
}

impl Run {
    /// Attempts that count against `max_attempts`.
    pub(super) fn attempts(&self) -> u32 {
        self.attempt - self.attempts_before
    }

    /// Has it its mutex?
    pub(super) fn has_mutex(&self) -> bool {
        self.mutex.as_ref().is_some_and(|held| held.taken)
    }

    /// Begins afresh, with attempts that count on. What was evaluated once is not again.
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
    /// What a `for_each` has expanded to, or who votes.
    pub(super) many: Option<Box<Many>>,
}

impl StepRun {
    /// Has it left instances to themselves that have not ended?
    pub(super) fn is_loose(&self) -> bool {
        self.many.as_ref().is_some_and(|many| many.loose)
    }

    pub(super) fn instances(&self) -> &[Run] {
        self.many.as_ref().map(|many| many.instances.as_slice()).unwrap_or_default()
    }
}

/// The instances of a `for_each`, or the voters of a decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Many {
    pub(super) instances: Vec<Run>,
    /// The items of a `for_each`.
    pub(super) items: Vec<Payload>,
    /// Instances that were queued, from the first on.
    pub(super) queued: u32,
    /// Instances that were queued and have not ended.
    pub(super) working: u32,
    /// Instances or voters that have not ended.
    pub(super) open: u32,
    /// Instances that completed.
    pub(super) completed: u32,
    /// Instances whose work still stands: completed, with a `compensate`, and not undone.
    pub(super) to_undo: u32,
    /// The step has ended and left those that have not to themselves.
    pub(super) loose: bool,
    pub(super) voters: Vec<Voter>,
    pub(super) ballots: Vec<Option<Ballot>>,
}

/// Signals of one name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mailbox {
    /// Came in, and no step has taken it.
    pub(super) kept: VecDeque<Payload>,
    /// Units that wait, the first first.
    pub(super) waiting: VecDeque<Unit>,
}

/// Its turn among those with the same `concurrency_key`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turn {
    pub(super) lock: Lock,
    /// Since when it waits.
    pub(super) since: Timestamp,
    pub(super) taken: bool,
}

impl Turn {
    /// What an execution that was continued had.
    pub(super) fn carried((key, limit, since): &(String, u32, Timestamp)) -> Self {
        let lock = Lock { kind: LockKind::Turn, name: key.clone(), limit: *limit };
        Self { lock, since: *since, taken: true }
    }
}

/// Everything but the plan.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) head: Option<Head>,
    pub(super) sequence: u64,
    /// The event with which it was accepted, or continued.
    pub(super) began_at: u64,
    /// The event from which replay may go on after the first: the one with which it was continued, where that has all that goes on.
    /// What earlier releases wrote has not.
    pub(super) snapshot_at: Option<u64>,
    /// When it was continued, the last time.
    pub(super) continued_at: Option<Timestamp>,
    pub(super) frames: Frames,
    /// Of the steps of the definition; those of blocks count with their block.
    pub(super) counts: Counts,
    /// Units that have begun and not ended.
    pub(super) active: BTreeSet<Unit>,
    /// Those of them that wait for something outside, and have no task out: a signal, time, a lock, voters.
    pub(super) waiting: BTreeSet<Unit>,
    /// Tasks of agents at work, undos included.
    pub(super) out: BTreeSet<TaskKey>,
    /// How many of them are no undos.
    pub(super) work_out: u32,
    /// Tasks of the shell: child executions, and what is told to the outside; since when.
    pub(super) errands: BTreeMap<TaskKey, Timestamp>,
    /// Units that are ready and need no slot to begin.
    pub(super) due: VecDeque<Unit>,
    /// Units that wait for a slot.
    pub(super) queue: VecDeque<Unit>,
    /// Steps with `cancel_rest` whose race is over, and whose losers are not withdrawn yet.
    pub(super) races: VecDeque<Unit>,
    /// Ends of waits; retries are apart since a pause or a lack of slots holds them back.
    pub(super) timers: BTreeSet<(Timestamp, Unit)>,
    /// Next attempts that need a slot.
    pub(super) retries: BTreeSet<(Timestamp, Unit)>,
    /// Next attempts that need none.
    pub(super) reentries: BTreeSet<(Timestamp, Unit)>,
    /// Next attempts of undos.
    pub(super) undo_retries: BTreeSet<(Timestamp, Unit)>,
    /// Scopes all of whose steps have ended.
    pub(super) ripe: BTreeSet<FrameId>,
    /// Scopes that are lost, or ended by a step.
    pub(super) closing: BTreeSet<FrameId>,
    pub(super) deadline: Option<Timestamp>,
    /// A node of the map has room for eleven, and most executions wait for one at a time.
    pub(super) mailboxes: BTreeMap<Box<str>, Box<Mailbox>>,
    /// Signals that count once, and have counted; of many the newest.
    pub(super) signals: BTreeSet<SignalId>,
    pub(super) mutexes: BTreeMap<MutexKey, Exclusion>,
    /// Mutexes that are free, and wanted.
    pub(super) free_mutexes: BTreeSet<MutexKey>,
    pub(super) turn: Option<Turn>,
    /// Since when nothing new starts.
    pub(super) paused: Option<Timestamp>,
    pub(super) cancel: Option<String>,
    /// Why it is lost.
    pub(super) failure: Option<Box<Failure>>,
    /// Completed work was undone, or would have been: there is nothing to go on from.
    pub(super) was_compensated: bool,
    /// Completed work whose undo failed for good.
    pub(super) not_undone: Vec<Unit>,
    pub(super) end: Option<(End, Timestamp)>,
}

impl State {
    pub(super) fn new(plan: &Plan) -> Self {
        let frames = Frames::new(plan);
        let pending = frames.root().steps.len() as u32;
        Self {
            head: None,
            sequence: 0,
            began_at: 0,
            snapshot_at: None,
            continued_at: None,
            frames,
            counts: Counts { pending, ..Counts::default() },
            active: BTreeSet::new(),
            waiting: BTreeSet::new(),
            out: BTreeSet::new(),
            work_out: 0,
            errands: BTreeMap::new(),
            due: VecDeque::new(),
            queue: VecDeque::new(),
            races: VecDeque::new(),
            timers: BTreeSet::new(),
            retries: BTreeSet::new(),
            reentries: BTreeSet::new(),
            undo_retries: BTreeSet::new(),
            ripe: BTreeSet::new(),
            closing: BTreeSet::new(),
            deadline: None,
            mailboxes: BTreeMap::new(),
            signals: BTreeSet::new(),
            mutexes: BTreeMap::new(),
            free_mutexes: BTreeSet::new(),
            turn: None,
            paused: None,
            cancel: None,
            failure: None,
            was_compensated: false,
            not_undone: Vec::new(),
            end: None,
        }
    }

    pub(super) fn step(&self, unit: Unit) -> Option<&StepRun> {
        self.frames.get(unit.frame)?.step(unit.step)
    }

    pub(super) fn run(&self, unit: Unit) -> Option<&Run> {
        let step = self.step(unit)?;
        match unit.index {
            None => Some(&step.run),
            Some(index) => step.instances().get(index as usize),
        }
    }

    /// Is it the execution, or the present run of a block that is at work?
    pub(super) fn is_live(&self, id: FrameId) -> bool {
        match self.frames.get(id).map(|frame| frame.parent) {
            Some(Some(unit)) => {
                let run = self.run(unit);
                run.is_some_and(|run| run.inner == Some(id) && matches!(run.phase, Phase::Inside(_)))
            }
            Some(None) => true,
            None => false,
        }
    }

    /// The scope that answers for what runs in a frame: the frame itself, or, where it is over and has left something to
    /// itself, the nearest around it that is not.
    pub(super) fn home(&self, mut id: FrameId) -> FrameId {
        while !self.is_live(id) {
            match self.frames.get(id).and_then(|frame| frame.parent) {
                Some(parent) => id = parent.frame,
                None => break,
            }
        }
        id
    }

    /// Is a frame this one, or inside it?
    pub(super) fn is_inside(&self, mut id: FrameId, outer: FrameId) -> bool {
        while id > outer {
            match self.frames.get(id).and_then(|frame| frame.parent) {
                Some(parent) => id = parent.frame,
                None => return false,
            }
        }
        id == outer
    }

    /// Is a frame inside the block of a unit, or, where that is a step, of an instance of it?
    pub(super) fn is_part(&self, mut frame: FrameId, unit: Unit) -> bool {
        while let Some(parent) = self.frames.get(frame).and_then(|frame| frame.parent) {
            if parent == unit || parent.whole() == unit {
                return true;
            }
            frame = parent.frame;
        }
        false
    }

    /// Is a unit inside the block of another?
    pub(super) fn is_around(&self, outer: Unit, unit: Unit) -> bool {
        let mut next = self.frames.get(unit.frame).and_then(|frame| frame.parent);
        while let Some(unit) = next.filter(|unit| *unit != outer) {
            next = self.frames.get(unit.frame).and_then(|frame| frame.parent);
        }
        next.is_some()
    }

    pub(super) fn phase(&self, unit: Unit) -> Phase {
        self.run(unit).map_or(Phase::Cancelled, |run| run.phase)
    }

    /// Is it a decision that has no voters yet?
    pub(super) fn wants_voters(&self, unit: Unit) -> bool {
        let run = self.run(unit).filter(|run| matches!(run.phase, Phase::Deciding(_)));
        let vote = run.and_then(|run| run.inner).and_then(|inner| self.frames.get(inner));
        vote.is_some_and(|vote| vote.steps.iter().all(|step| step.many.is_none()))
    }

    /// Is the execution itself being undone?
    pub(super) fn is_compensating(&self) -> bool {
        self.end.is_none() && self.frames.root().compensating
    }

    /// Does it wait for its turn?
    pub(super) fn is_queued(&self) -> bool {
        self.end.is_none() && self.turn.as_ref().is_some_and(|turn| !turn.taken)
    }

    /// Do tasks have to wait for a slot?
    pub(super) fn is_full(&self, plan: &Plan) -> bool {
        self.work_out >= plan.max_parallel
    }
}
