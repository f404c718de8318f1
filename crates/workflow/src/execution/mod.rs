//! The state of one run of a plan.
//!
//! A command is *decided*, which gives events, and each event is *applied* before the next is decided. Replay is applying
//! alone: it evaluates no expression and draws no number, since events hold every result of both. Whatever changes the state
//! is in [`apply`]; whatever chooses an event is in [`decide`] (commands) and [`settle`] (what follows by itself).
//!
//! | a step goes from | to | by |
//! | --- | --- | --- |
//! | pending | out | `StepScheduled` (a slot is free) |
//! | pending | expanded, deciding, awaiting, sleeping | `StepExpanded`, `DecisionOpened`, `SignalAwaited`, `SleepStarted` |
//! | pending | skipped | `StepSkipped` (by its `when`, or its join cannot be met any more) |
//! | out | retrying | `StepRetrying` |
//! | retrying | out | `StepScheduled` (due, and a slot is free) |
//! | pending and all that is active | completed, failed, cancelled | `StepCompleted`, `StepFailed`, `StepCancelled` |
//! | completed | compensated | `StepCompensated` |
//! | failed, cancelled | pending, expanded | `Retried` |
//!
//! Instances of a `for_each` and voters go the same ways between pending, out, retrying and an end.
//!
//! Rules that are nowhere else:
//! - A failure that no `on_failure` catches, a cancel and the execution's deadline withdraw everything at work, undo what
//!   completed and has a `compensate` (one after the other, the last first), and then end the execution.
//! - A slot (`config.max_parallel`) is held by every task that is out, a voter's as well, and by no wait, retry or undo.
//! - A plain task's `when` is evaluated when a slot is free for it; every other `when` as soon as the join has settled.
//! - While paused nothing begins, no retry either. Results and signals count, and waits that have begun run out.
//! - A decision waits for every voter or for its deadline, even where the outcome could not change any more: the record says
//!   what everybody thought.
//! - A result is used where its attempt is the one that is out. Any other is dropped, also after the end.

mod apply;
mod decide;
mod effects;
mod explain;
mod invariants;
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
    apply::Applier,
    state::{End, State},
};
pub use self::{
    explain::{Explanation, Overlay, TaskPlace, Wait, WaitKind},
    view::{Counts, StepState, StepView},
};
use crate::{Failure, Plan, Recorded, TaskKey};

/// Where an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
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
            Self::Running | Self::Paused | Self::Compensating => false,
        }
    }
}

/// One run of a plan: small, rebuilt by replaying its events.
#[derive(Clone, Debug)]
pub struct Execution {
    plan: Arc<Plan>,
    state: State,
}

impl Execution {
    /// Before its first event.
    pub fn new(plan: Arc<Plan>) -> Self {
        let state = State::new(&plan);
        Self { plan, state }
    }

    /// Applies one event of the log: replay.
    pub fn apply(&mut self, recorded: &Recorded) {
        Applier { state: &mut self.state, plan: &self.plan, at: recorded.at }.apply(&recorded.event);
    }

    /// Where it is.
    pub fn status(&self) -> Status {
        match &self.state.end {
            Some((End::Completed(_), _)) => Status::Completed,
            Some((End::Failed, _)) => Status::Failed,
            Some((End::Cancelled, _)) => Status::Cancelled,
            None if self.state.compensating => Status::Compensating,
            None if self.state.paused.is_some() => Status::Paused,
            None => Status::Running,
        }
    }

    /// When [`crate::Command::Tick`] has something to do next.
    pub fn next_due(&self) -> Option<Timestamp> {
        if self.state.end.is_some() {
            return None;
        }
        // A retry that a pause or a lack of slots holds back waits for those to end, not for time.
        let is_held = !self.state.compensating
            && (self.state.paused.is_some() || self.state.work_out() >= self.plan.max_parallel as usize);
        let retry = self.state.retries.first().map(|(due, _)| *due).filter(|_| !is_held);
        let wait = self.state.timers.first().map(|(due, _)| *due);
        [retry, wait, self.state.deadline].into_iter().flatten().min()
    }

    /// Is this the attempt that is out, whose result counts?
    pub fn is_current(&self, task: TaskKey) -> bool {
        self.state.out.contains(&task)
    }

    /// The tasks that are out, undos included.
    pub fn tasks_out(&self) -> Vec<TaskKey> {
        self.state.out.iter().copied().collect()
    }

    /// How many things could wake it: tasks out, waits, retries, voters wanted, a pause. An execution that has not ended has
    /// at least one (I7). Its deadline does not count: it would hide that nothing else will.
    pub fn wakeups(&self) -> usize {
        if self.state.end.is_some() {
            return 0;
        }
        let waits = self.state.active.iter().filter(|step| self.waits_outside(**step)).count();
        let retries = self.state.retries.len();
        // Undos do not heed a pause, and its end would not wake them.
        let pause = usize::from(self.state.paused.is_some() && !self.state.compensating);
        self.state.out.len() + waits + retries + pause
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

    /// Its output, where it completed.
    pub fn output(&self) -> Option<&Payload> {
        match &self.state.end {
            Some((End::Completed(output), _)) => Some(output),
            Some((End::Failed | End::Cancelled, _)) | None => None,
        }
    }

    /// Why it failed, or is being compensated.
    pub fn failure(&self) -> Option<&Failure> {
        self.state.failure.as_ref()
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
