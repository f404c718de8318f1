//! The run as people look at it.

use domain::{AgentId, Payload, Timestamp};

use super::{
    Execution,
    apply::join_outcome,
    state::{Phase, Run, Unit},
};
use crate::{Failure, Purpose, StepIndex, TaskKey};

/// Where a step, an instance or a voter is, as far as the log knows. Whether an agent has its task is known only to the
/// shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Its dependencies have not ended, or it waits for a slot.
    Pending,
    /// Its task is out.
    Scheduled,
    /// Of a step with instances or voters: some are at work.
    Running,
    /// An attempt failed; the next one is due later.
    Retrying,
    /// It waits for a signal or for time.
    Waiting,
    /// Ended well.
    Completed,
    /// Ended by a failure.
    Failed,
    /// Never started.
    Skipped,
    /// Withdrawn.
    Cancelled,
    /// Its undo is at work.
    Compensating,
    /// Undone.
    Compensated,
}

/// How many steps are in each state; instances and voters do not count on their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by StepState")]
pub struct Counts {
    pub pending: u32,
    pub scheduled: u32,
    pub running: u32,
    pub retrying: u32,
    pub waiting: u32,
    pub completed: u32,
    pub failed: u32,
    pub skipped: u32,
    pub cancelled: u32,
    pub compensated: u32,
}

impl Counts {
    pub(super) fn of(&mut self, state: StepState) -> &mut u32 {
        match state {
            StepState::Pending => &mut self.pending,
            StepState::Scheduled => &mut self.scheduled,
            StepState::Running => &mut self.running,
            StepState::Retrying => &mut self.retrying,
            StepState::Waiting => &mut self.waiting,
            StepState::Completed => &mut self.completed,
            StepState::Failed => &mut self.failed,
            StepState::Skipped => &mut self.skipped,
            StepState::Cancelled => &mut self.cancelled,
            StepState::Compensating | StepState::Compensated => &mut self.compensated,
        }
    }

    pub(super) fn moved(&mut self, from: StepState, to: StepState) {
        *self.of(from) -= 1;
        *self.of(to) += 1;
    }
}

/// A step, an instance or a voter, to be shown.
#[derive(Clone, Debug)]
pub struct StepView {
    /// The step's id in the definition.
    pub step_id: String,
    /// The instance or voter; absent for the step itself.
    pub index: Option<u32>,
    /// Where it is.
    pub state: StepState,
    /// The present or last attempt; 0 before the first.
    pub attempt: u32,
    /// The agent that had the last attempt that ended, or the voter.
    pub agent_id: Option<AgentId>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// What came out.
    pub output: Option<Payload>,
    /// Why the last attempt failed, or why it was skipped or cancelled.
    pub failure: Option<Failure>,
    /// Its task that is out: the shell knows who has it.
    pub task: Option<TaskKey>,
    /// The instances of a `for_each`, or the voters of a decision.
    pub instances: Vec<StepView>,
}

impl Execution {
    /// All steps, in the order of the definition.
    pub fn steps(&self) -> Vec<StepView> {
        (0..self.plan.steps.len() as StepIndex).map(|step| self.step_view(step)).collect()
    }

    fn step_view(&self, step: StepIndex) -> StepView {
        let run = &self.state.steps[step as usize];
        let mut view = self.view(Unit { step, index: None }, &run.run);
        let mut instances = Vec::with_capacity(run.instances.len());
        for (index, instance) in run.instances.iter().enumerate() {
            let mut instance = self.view(Unit { step, index: Some(index as u32) }, instance);
            if let Some(voter) = run.voters.get(index) {
                instance.agent_id = Some(voter.agent_id);
            }
            instances.push(instance);
        }
        view.instances = instances;
        view
    }

    fn view(&self, unit: Unit, run: &Run) -> StepView {
        let undo = self.state.undo.as_ref().filter(|undo| undo.unit == unit);
        let task = match undo {
            Some(undo) => unit.task(Purpose::Undo, undo.run.attempt),
            None => unit.task(Purpose::Work, run.attempt),
        };
        StepView {
            step_id: self.plan.steps[unit.step as usize].id.clone(),
            index: unit.index,
            state: if undo.is_some() { StepState::Compensating } else { run.phase.state() },
            attempt: run.attempt,
            agent_id: run.agent_id,
            started_at: run.started_at,
            ended_at: run.ended_at,
            output: run.output.clone(),
            failure: self.reason(unit, run),
            task: self.state.out.contains(&task).then_some(task),
            instances: Vec::new(),
        }
    }

    /// Why it stands where it does. What the rest of the state says already is not kept a second time.
    fn reason(&self, unit: Unit, run: &Run) -> Option<Failure> {
        let step = &self.state.steps[unit.step as usize].run;
        let (code, message) = match run.phase {
            Phase::Skipped if join_outcome(&self.plan, &self.state, unit.step) == Some(false) => {
                ("skipped", "what it depends on was skipped")
            }
            Phase::Skipped => ("skipped", "its `when` was false"),
            Phase::Cancelled if unit.index.is_some() && step.phase == Phase::Failed => {
                ("cancelled", "another instance failed")
            }
            Phase::Cancelled if self.state.failure.is_some() => ("cancelled", "the execution failed"),
            Phase::Cancelled => ("cancelled", "the execution was cancelled"),
            Phase::Pending
            | Phase::Out
            | Phase::Retrying(_)
            | Phase::Expanded
            | Phase::Deciding(_)
            | Phase::Awaiting(_)
            | Phase::Sleeping(_)
            | Phase::Completed
            | Phase::Failed
            | Phase::Compensated => return run.failure.clone(),
        };
        Some(Failure::fatal(code, message))
    }

    /// Does the step wait for something that is no task: a signal, time, or voters?
    pub(super) fn waits_outside(&self, step: StepIndex) -> bool {
        let run = &self.state.steps[step as usize];
        match run.run.phase {
            Phase::Awaiting(_) | Phase::Sleeping(_) => true,
            Phase::Deciding(until) => run.voters.is_empty() || until.is_some(),
            Phase::Pending
            | Phase::Out
            | Phase::Retrying(_)
            | Phase::Expanded
            | Phase::Completed
            | Phase::Failed
            | Phase::Skipped
            | Phase::Cancelled
            | Phase::Compensated => false,
        }
    }
}
