//! The run as people look at it.

use domain::{AgentId, ExecutionId, Payload, Timestamp};

use super::{
    Execution,
    apply::join_outcome,
    frame::Closing,
    state::{Phase, Run},
};
use crate::{Failure, FrameId, Purpose, TaskKey, Unit};

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
    /// Which it is.
    pub unit: Unit,
    /// Where it is.
    pub state: StepState,
    /// The present or last attempt; 0 before the first.
    pub attempt: u32,
    /// The present or last iteration of its loop, from 0.
    pub iteration: u32,
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
    /// Its child execution, the present or last one.
    pub child: Option<ExecutionId>,
    /// The instances of a `for_each`, or the voters of a decision.
    pub instances: Vec<StepView>,
    /// The steps of its block, in its present or last run.
    pub steps: Vec<StepView>,
}

impl Execution {
    /// All steps, in the order of the definition.
    pub fn steps(&self) -> Vec<StepView> {
        self.frame_view(self.state.frames.root_id())
    }

    fn frame_view(&self, id: FrameId) -> Vec<StepView> {
        let Some(frame) = self.state.frames.get(id) else { return Vec::new() };
        let units = (frame.first..).take(frame.steps.len()).map(|step| Unit { frame: id, step, index: None });
        units.map(|unit| self.step_view(unit)).collect()
    }

    fn step_view(&self, unit: Unit) -> StepView {
        let mut view = self.view(unit);
        let count = self.state.step(unit).map_or(0, |step| step.instances().len()) as u32;
        view.instances.extend((0..count).map(|index| self.view(unit.instance(index))));
        view
    }

    fn view(&self, unit: Unit) -> StepView {
        let nothing = Run::default();
        let run = self.state.run(unit).unwrap_or(&nothing);
        let task = match &run.undo {
            Some(undo) => unit.task(Purpose::Undo, undo.attempt),
            None => unit.task(Purpose::Work, run.attempt),
        };
        let inner = run.inner.and_then(|id| Some((id, self.state.frames.get(id)?)));
        let (mut instances, mut steps) = (Vec::new(), Vec::new());
        match inner {
            Some((id, frame)) if frame.scope.is_none() => instances = self.voters(Unit { frame: id, ..unit.whole() }),
            Some((id, _)) => steps = self.frame_view(id),
            None => {}
        }
        StepView {
            step_id: self.plan.steps[unit.step as usize].id.clone(),
            unit,
            state: if run.undo.is_some() { StepState::Compensating } else { run.phase.state() },
            attempt: run.attempt,
            iteration: run.iteration,
            agent_id: run.agent_id,
            started_at: run.started_at,
            ended_at: run.ended_at,
            output: run.output.clone(),
            failure: self.reason(unit, run),
            task: self.is_current(task).then_some(task),
            child: self.child_of(unit, run),
            instances,
            steps,
        }
    }

    fn voters(&self, vote: Unit) -> Vec<StepView> {
        let Some(many) = self.state.step(vote).and_then(|step| step.many.as_ref()) else { return Vec::new() };
        let views = many.voters.iter().enumerate().map(|(index, voter)| StepView {
            agent_id: Some(voter.agent_id),
            ..self.view(vote.instance(index as u32))
        });
        views.collect()
    }

    /// Why it stands where it does. What the rest of the state says already is not kept a second time.
    fn reason(&self, unit: Unit, run: &Run) -> Option<Failure> {
        let closing = self.state.frames.get(unit.frame).and_then(|frame| frame.closing.as_deref());
        let (code, message) = match run.phase {
            Phase::Skipped if join_outcome(&self.plan, &self.state, unit) == Some(false) => {
                ("skipped", "what it depends on was skipped".to_owned())
            }
            Phase::Skipped => ("skipped", "its `when` was false".to_owned()),
            Phase::Withdrawn => {
                let by = run.withdrawn_by.and_then(|by| self.plan.steps.get(by as usize));
                ("withdrawn", format!("step `{}` withdrew it", by.map_or("?", |step| step.id.as_str())))
            }
            Phase::Cancelled if unit.index.is_some() => match self.state.phase(unit.whole()) {
                Phase::Failed => ("cancelled", "another instance failed".to_owned()),
                Phase::Completed => ("cancelled", "enough instances had completed".to_owned()),
                _ => ("cancelled", "its step was cancelled".to_owned()),
            },
            Phase::Cancelled if self.state.failure.is_some() => ("cancelled", "the execution failed".to_owned()),
            Phase::Cancelled => match closing {
                Some(Closing::Failed(_)) => ("cancelled", "its block failed".to_owned()),
                Some(Closing::Ended(_)) => ("cancelled", "the execution ended".to_owned()),
                Some(Closing::Cancelled(_)) | None => ("cancelled", "the execution was cancelled".to_owned()),
            },
            Phase::Pending
            | Phase::Locking
            | Phase::Out
            | Phase::Retrying(_)
            | Phase::Expanded
            | Phase::Inside(_)
            | Phase::Child(_)
            | Phase::Deciding(_)
            | Phase::Awaiting(_)
            | Phase::Sleeping(_)
            | Phase::Completed
            | Phase::Failed
            | Phase::Compensated => return run.failure.as_deref().cloned(),
        };
        Some(Failure::fatal(code, message))
    }
}
