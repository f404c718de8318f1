//! What the outside world owes to the state.

use super::{
    Execution,
    settle::DEADLINE,
    state::{Phase, Run, Unit},
};
use crate::{
    Effect, Event, Purpose, StepIndex, Target, TaskKey, TaskOrder,
    decision::VOTE,
    plan::{StepKind, Voters},
};

impl Execution {
    /// What must be done after `event` is committed. Asked once the whole transition is applied: a task that was lost again
    /// within it is not dispatched.
    pub fn effects(&self, event: &Event) -> Vec<Effect> {
        match event {
            Event::StepScheduled { task, .. } => self.task_order(*task).map(Effect::Dispatch).into_iter().collect(),
            Event::DecisionOpened { step, .. } => self.voters_wanted(*step).into_iter().collect(),
            Event::StepCancelled { step, .. } => self.withdrawn(*step, "the step was cancelled"),
            Event::StepFailed { step, index: None, .. } => self.withdrawn(*step, "another instance failed"),
            Event::BallotMissed { step, voter, failure } if failure.code == DEADLINE => {
                let unit = Unit { step: *step, index: Some(*voter) };
                let run = self.state.run(unit).filter(|run| run.withdrawn);
                run.map(|run| withdraw(unit, run, "the deadline of the decision has passed")).into_iter().collect()
            }
            Event::Completed { .. } | Event::Failed { .. } | Event::Cancelled { .. } => vec![Effect::Ended],
            Event::Accepted { .. }
            | Event::StepExpanded { .. }
            | Event::StepRetrying { .. }
            | Event::SignalAwaited { .. }
            | Event::SleepStarted { .. }
            | Event::VotersChosen { .. }
            | Event::BallotCast { .. }
            | Event::BallotMissed { .. }
            | Event::StepCompleted { .. }
            | Event::StepFailed { .. }
            | Event::StepSkipped { .. }
            | Event::SignalReceived { .. }
            | Event::Paused
            | Event::Resumed
            | Event::CancelRequested { .. }
            | Event::CompensationStarted { .. }
            | Event::StepCompensated { .. }
            | Event::CompensationFailed { .. }
            | Event::Retried { .. } => Vec::new(),
        }
    }

    /// Everything that is owed now: what a shell does after it has rebuilt the state from the log.
    pub fn outstanding(&self) -> Vec<Effect> {
        let orders = self.state.out.iter().filter_map(|task| self.task_order(*task));
        let mut effects: Vec<_> = orders.map(Effect::Dispatch).collect();
        effects.extend(self.searches());
        effects
    }

    /// The [`Effect::FindVoters`] among what is owed now.
    pub fn searches(&self) -> impl Iterator<Item = Effect> {
        self.state.active.iter().filter_map(|step| self.voters_wanted(*step))
    }

    /// The task as it is to be dispatched, where it is out.
    pub fn task_order(&self, task: TaskKey) -> Option<TaskOrder> {
        if !self.state.out.contains(&task) {
            return None;
        }
        let step = self.plan.steps.get(task.step as usize)?;
        let run = self.state.steps.get(task.step as usize)?;
        let (target, action, input) = match (task.purpose, &step.kind) {
            (Purpose::Undo, _) => {
                let undo = self.state.undo.as_ref()?;
                let compensation = step.compensate.as_ref()?;
                (compensation.target.clone(), compensation.action.clone(), undo.run.input.clone()?)
            }
            (Purpose::Work, StepKind::Decision(_)) => {
                let voter = run.voters.get(task.index? as usize)?;
                (Target::AgentId(voter.agent_id), VOTE.to_owned(), run.run.input.clone()?)
            }
            (Purpose::Work, StepKind::Task { target, action, .. }) => {
                (target.clone(), action.clone(), self.state.run(Unit::of(task))?.input.clone()?)
            }
            (Purpose::Work, StepKind::Signal { .. } | StepKind::Sleep(_)) => return None,
        };
        let (priority, timeout, heartbeat_timeout) = (step.priority, step.timeout, step.heartbeat_timeout);
        Some(TaskOrder { task, target, action, input, priority, timeout, heartbeat_timeout })
    }

    /// What a decision that wants voters wants; none where it has them, or has ended, and for any other step.
    pub fn voters_wanted(&self, step: StepIndex) -> Option<Effect> {
        let run = self.state.steps.get(step as usize)?;
        let StepKind::Decision(decision) = &self.plan.steps.get(step as usize)?.kind else { return None };
        let Voters::Any { target, count } = &decision.voters else { return None };
        let is_wanted = matches!(run.run.phase, Phase::Deciding(_)) && run.voters.is_empty();
        let (voters, count, quorum) = (target.clone(), *count, decision.quorum);
        is_wanted.then_some(Effect::FindVoters { step, voters, count, quorum })
    }

    fn withdrawn(&self, step: StepIndex, reason: &'static str) -> Vec<Effect> {
        let run = &self.state.steps[step as usize];
        let instances = run.instances.iter().enumerate();
        let instances = instances.map(|(index, run)| (Unit { step, index: Some(index as u32) }, run));
        let units = std::iter::once((Unit { step, index: None }, &run.run)).chain(instances);
        let cut_off = units.filter(|(_, run)| run.withdrawn && run.phase == Phase::Cancelled);
        cut_off.map(|(unit, run)| withdraw(unit, run, reason)).collect()
    }
}

fn withdraw(unit: Unit, run: &Run, reason: &'static str) -> Effect {
    Effect::Withdraw { task: unit.task(Purpose::Work, run.attempt), reason }
}
