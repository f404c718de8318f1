//! The state of one run of a plan.
//!
//! A command is *decided*, which gives events, and each event is *applied* before the next is decided. Replay is applying
//! alone: it evaluates no expression and draws no number, since events hold every result of both. Whatever changes the state
//! is in [`apply`]; whatever chooses an event is in [`decide`] (commands) and [`settle`] (what follows by itself).
//!
//! What there is to schedule is a *unit*: a step, an instance of its `for_each`, or a voter, in a *frame*, one activation of a
//! scope. Every layer that a step may have is done once, for every kind of work, in this order: condition, instances, mutex,
//! loop, attempts, work. That is why everything composes with everything.
//!
//! | a unit goes from | to | by |
//! | --- | --- | --- |
//! | pending | out, child | `StepScheduled` (of an agent's task: a slot is free) |
//! | pending | expanded, inside, deciding, awaiting, sleeping | `StepExpanded`, `BlockEntered`, `DecisionOpened`, `SignalAwaited`, `SleepStarted` |
//! | pending | skipped | `StepSkipped` (by its `when`, or its join cannot be met any more) |
//! | pending | locking, and pending again | `MutexAwaited`, `MutexTaken` |
//! | out, child, inside | retrying | `StepRetrying` |
//! | retrying | out, child, inside | `StepScheduled`, `BlockEntered` (due, and a slot is free where one is needed) |
//! | all that is active | pending | `StepRepeated` (the next iteration) |
//! | pending and all that is active | completed, failed, cancelled, withdrawn | `StepCompleted`, `StepFailed`, `StepCancelled`, `StepWithdrawn` |
//! | completed | compensated | `StepCompensated` |
//! | failed, cancelled | pending, expanded | `Retried` |
//!
//! | a frame goes from | to | by |
//! | --- | --- | --- |
//! | | running | `Accepted`, `Continued`; `BlockEntered`; `DecisionOpened` |
//! | running | closing | `StepFailed` without a fallback, `ScopeFailed`, `CancelRequested`, `EndRequested` |
//! | closing | compensating | `CompensationStarted` (all that ran is withdrawn, and something can be undone) |
//! | running, closing, compensating | over | `Completed`, `Failed`, `Cancelled`; of a block what its unit does next |
//!
//! Rules that are nowhere else:
//! - A scope that is lost withdraws everything at work in it, undoes what completed in it and has a `compensate` (one after the
//!   other, the last first), and then fails: the execution, or the unit whose block it is. A unit that is withdrawn from
//!   outside leaves what completed in its block to the scope around it.
//! - A slot (`config.max_parallel`) is held by every task that is with an agent, a voter's as well, and by no wait, retry,
//!   child or undo.
//! - A plain task's `when` is evaluated when a slot is free for it; every other `when` as soon as the join has settled.
//! - While paused nothing begins, no retry either. Results and signals count, and waits that have begun run out.
//! - A decision waits for every voter or for its deadline, even where the outcome could not change any more: the record says
//!   what everybody thought.
//! - A result is used where its attempt is the one that is out. Any other is dropped, also after the end.

mod apply;
mod begin;
mod closing;
mod decide;
mod derived;
mod effects;
mod explain;
mod frame;
mod invariants;
mod mutex;
mod scope;
mod settle;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use domain::{ExecutionId, Namespace, Payload, Timestamp, WorkflowId};
use serde::{Deserialize, Serialize};

use self::{
    apply::{Applier, Cut},
    state::{End, State},
};
pub use self::{
    decide::Transition,
    explain::{Explanation, Overlay, TaskPlace, Wait, WaitKind},
    view::{Counts, StepState, StepView},
};
use crate::{Failure, Plan, Recorded, TaskKey};

/// Where an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for its turn among those with its `concurrency_key`.
    Queued,
    /// Steps run or wait.
    Running,
    /// Nothing new starts.
    Paused,
    /// It is lost, and what completed is being undone.
    Compensating,
    /// Ended well.
    Completed,
    /// Ended by a failure.
    Failed,
    /// Ended by a cancel.
    Cancelled,
}

impl Status {
    /// Has it ended?
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Cancelled => true,
            Self::Queued | Self::Running | Self::Paused | Self::Compensating => false,
        }
    }
}

/// One run of a plan: small, rebuilt by replaying its events.
#[derive(Clone, Debug)]
pub struct Execution {
    plan: Arc<Plan>,
    /// Apart, since executions are moved about.
    state: Box<State>,
}

impl Execution {
    /// Before its first event.
    pub fn new(plan: Arc<Plan>) -> Self {
        let state = Box::new(State::new(&plan));
        Self { plan, state }
    }

    /// Applies one event of the log: replay.
    pub fn apply(&mut self, recorded: &Recorded) {
        Applier::new(&mut self.state, &self.plan, recorded.at, &mut Cut::default()).apply(&recorded.event);
        // Where a log is read from the entry with which it was continued, numbers are missing before that.
        self.state.sequence = recorded.sequence;
        if matches!(recorded.event, crate::Event::Continued { .. }) {
            self.state.began_at = recorded.sequence;
            self.state.snapshot_at = recorded.event.is_snapshot().then_some(recorded.sequence);
        }
    }

    /// Where it is.
    pub fn status(&self) -> Status {
        match &self.state.end {
            Some((End::Completed(_), _)) => Status::Completed,
            Some((End::Failed, _)) => Status::Failed,
            Some((End::Cancelled, _)) => Status::Cancelled,
            None if self.state.is_compensating() => Status::Compensating,
            None if self.state.paused.is_some() => Status::Paused,
            None if self.state.is_queued() => Status::Queued,
            None => Status::Running,
        }
    }

    /// When [`crate::Command::Tick`] has something to do next.
    pub fn next_due(&self) -> Option<Timestamp> {
        let state = &self.state;
        if state.end.is_some() {
            return None;
        }
        // A retry that a pause or a lack of slots holds back waits for those to end, not for time.
        let is_held = state.paused.is_some();
        let is_full = state.is_full(&self.plan);
        let first = |set: &std::collections::BTreeSet<(Timestamp, crate::Unit)>| set.first().map(|(due, _)| *due);
        let retry = first(&state.retries).filter(|_| !is_held && !is_full);
        let reentry = first(&state.reentries).filter(|_| !is_held);
        let wait = first(&state.timers).filter(|_| state.frames.root().closing.is_none());
        [retry, reentry, first(&state.undo_retries), wait, state.deadline].into_iter().flatten().min()
    }

    /// Is this the attempt that is out, whose result counts?
    pub fn is_current(&self, task: TaskKey) -> bool {
        self.state.out.contains(&task) || self.state.errands.contains_key(&task)
    }

    /// The tasks that are out with agents, undos included.
    pub fn tasks_out(&self) -> Vec<TaskKey> {
        self.state.out.iter().copied().collect()
    }

    /// How many things could wake it: tasks out, waits, retries, a pause. An execution that has not ended has at least one
    /// (I7). Its deadline does not count: it would hide that nothing else will.
    pub fn wakeups(&self) -> usize {
        let state = &self.state;
        if state.end.is_some() {
            return 0;
        }
        let retries = state.retries.len() + state.reentries.len() + state.undo_retries.len();
        // What is lost does not heed a pause, and its end would not wake it.
        let pause = usize::from(state.paused.is_some() && state.frames.root().closing.is_none());
        state.out.len() + state.errands.len() + state.waiting.len() + retries + pause + usize::from(state.is_queued())
    }

    /// The execution whose step it is.
    pub fn parent(&self) -> Option<&crate::Parent> {
        self.state.head.as_ref().and_then(|head| head.parent.as_ref())
    }

    /// Its id, after the first event.
    pub fn id(&self) -> Option<ExecutionId> {
        self.state.head.as_ref().map(|head| head.id)
    }

    /// Its namespace, after the first event.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.state.head.as_ref().map(|head| &head.namespace)
    }

    /// Its workflow, after the first event.
    pub fn workflow_id(&self) -> Option<WorkflowId> {
        self.state.head.as_ref().map(|head| head.workflow_id)
    }

    /// The version of its workflow; 0 before the first event.
    pub fn workflow_version(&self) -> u32 {
        self.state.head.as_ref().map_or(0, |head| head.workflow_version)
    }

    /// Its input, after the first event.
    pub fn input(&self) -> Option<&Payload> {
        self.state.head.as_ref().map(|head| &head.input)
    }

    /// The W3C trace context that it was started with, or empty.
    pub fn traceparent(&self) -> &str {
        self.state.head.as_ref().map_or("", |head| &head.traceparent)
    }

    /// When it was accepted.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.state.head.as_ref().map(|head| head.created_at)
    }

    /// When it ended.
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.state.end.as_ref().map(|(_, at)| *at)
    }

    /// The sequence number of the newest event applied.
    pub fn last_sequence(&self) -> u64 {
        self.state.sequence
    }

    /// The number of the entry with which its present run began: the first, or the one with which it was continued.
    pub fn began_at(&self) -> u64 {
        self.state.began_at
    }

    /// The number of the entry from which replay may go on after the first, where there is one: what is between need not be kept.
    pub fn snapshot_at(&self) -> Option<u64> {
        self.state.snapshot_at
    }

    /// When it was continued, the last time.
    pub fn continued_at(&self) -> Option<Timestamp> {
        self.state.continued_at
    }

    /// Entries in the log since its present run began.
    pub fn history(&self) -> u64 {
        self.state.sequence.saturating_sub(self.state.began_at)
    }

    /// Its output, where it completed.
    pub fn output(&self) -> Option<&Payload> {
        match &self.state.end {
            Some((End::Completed(output), _)) => Some(output),
            Some((End::Failed | End::Cancelled, _)) | None => None,
        }
    }

    /// Why it failed, or is being compensated.
    pub fn failure(&self) -> Option<&Failure> {
        self.state.failure.as_deref()
    }

    /// Why it was cancelled, where it was.
    pub fn cancel_reason(&self) -> Option<&str> {
        self.state.cancel.as_deref()
    }

    /// How many steps are in each state.
    pub fn counts(&self) -> Counts {
        self.state.counts
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Is this the same state (I5)? Of the plan only the identity of the version counts, not the value.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.state == other.state
    }
}
