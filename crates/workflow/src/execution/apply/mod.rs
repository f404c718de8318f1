//! Events into state: the only place that changes it, and all that replay needs. No event is refused here; whether it may
//! happen was decided before it was logged.
//!
//! - [`units`]: phases, queues, joins, mutexes. [`tasks`]: attempts and undos. [`ends`]: what an end frees, and whom it wakes.
//! - [`frames`]: scopes that begin, are lost, and are over. [`whole`]: the execution itself.

mod ends;
mod frames;
mod tasks;
mod units;
mod whole;

use domain::{AgentId, ExecutionId, Payload, Timestamp};

use super::{
    frame::{Closing, Frame},
    state::{Many, Phase, Run, State, StepRun},
};
use crate::{
    Event, FrameId, Holder, Lock, Plan, TaskKey, Unit,
    plan::{Join, Step},
};

/// What an event cuts off, for the shell to withdraw. Replay has no use for it.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) tasks: Vec<(TaskKey, &'static str)>,
    pub(super) children: Vec<(ExecutionId, &'static str)>,
    pub(super) locks: Vec<(Holder, Lock)>,
}

/// What a new event is applied to.
pub(super) struct Applier<'a> {
    pub(super) state: &'a mut State,
    pub(super) plan: &'a Plan,
    pub(super) at: Timestamp,
    pub(super) cut: &'a mut Cut,
    /// Why what this event cuts off is cut off.
    pub(super) reason: &'static str,
}

impl<'a> Applier<'a> {
    pub(super) fn new(state: &'a mut State, plan: &'a Plan, at: Timestamp, cut: &'a mut Cut) -> Self {
        Self { state, plan, at, cut, reason: "the step was cancelled" }
    }

    pub(super) fn apply(mut self, event: &Event) {
        self.state.sequence += 1;
        match event {
            Event::Accepted { .. } => self.accepted(event),
            Event::TurnAwaited { key, limit } => self.turn_awaited(key, *limit),
            Event::TurnTaken => self.turn_taken(),
            Event::StepExpanded { unit, items } => self.expanded(*unit, items),
            Event::MutexAwaited { unit, name } => self.mutex_awaited(*unit, name),
            Event::MutexTaken { unit, name } => self.mutex_taken(*unit, name),
            Event::StepScheduled { task, input } => self.scheduled(*task, input.as_ref()),
            Event::StepRetrying { task, failure, at, agent_id } => self.retrying(*task, failure, *at, *agent_id),
            Event::StepRepeated { unit, output } => self.repeated(*unit, output.as_ref()),
            Event::BlockEntered { unit, attempt, inner, until } => self.entered(*unit, *attempt, *inner, *until),
            Event::SignalAwaited { unit, name, until } => self.awaited(*unit, name, *until),
            Event::SleepStarted { unit, until } => self.begin(*unit, Phase::Sleeping(*until)),
            Event::DecisionOpened { unit, inner, input, deadline } => self.opened(*unit, *inner, input, *deadline),
            Event::VotersChosen { unit, voters } => self.voters_chosen(*unit, voters),
            Event::BallotCast { unit, voter, ballot } => self.ballot_cast(*unit, *voter, ballot),
            Event::BallotMissed { unit, voter, failure } => self.ballot_missed(*unit, *voter, failure),
            Event::StepCompleted { unit, output, agent_id, begun_at } => {
                self.reason = "enough instances have completed";
                self.done_by(*unit, *agent_id, *begun_at);
                self.completed(*unit, output.as_ref());
            }
            Event::StepFailed { unit, failure, agent_id, fallback } => {
                self.reason = "another instance failed";
                self.done_by(*unit, *agent_id, None);
                self.failed(*unit, failure, fallback.as_ref());
            }
            Event::StepSkipped { unit, reason: _ } => self.skipped(*unit),
            Event::StepCancelled { unit, reason: _ } => self.cancelled(*unit),
            Event::StepWithdrawn { unit, by } => {
                self.reason = "another step withdrew it";
                self.withdrawn(*unit, *by);
            }
            Event::SignalReceived { id, name, payload, sender: _, dropped } => {
                self.signalled(*id, (!dropped).then_some((name, payload)));
            }
            Event::Paused => self.state.paused = Some(self.at),
            Event::Resumed => self.state.paused = None,
            Event::CancelRequested { reason } => self.cancel_requested(reason),
            Event::EndRequested { unit, end } => self.end_requested(*unit, end),
            Event::ScopeFailed { frame, failure } => self.lose(*frame, Closing::Failed(failure.clone())),
            Event::CompensationStarted { frame, failure: _ } => self.compensates(*frame),
            Event::StepCompensated { unit } => self.undone(*unit, None),
            Event::CompensationFailed { unit, failure } => self.undone(*unit, Some(failure)),
            Event::CompensationResumed => self.compensates_again(),
            Event::Completed { .. } | Event::Failed { .. } | Event::Cancelled { .. } => self.ended(event),
            Event::Continued { .. } => self.continued(event),
            Event::Retried { steps, deadline } => self.retried(steps, *deadline),
        }
    }

    fn plan_of(&self, unit: Unit) -> &'a Step {
        &self.plan.steps[unit.step as usize]
    }

    /// The frame. Every frame that an event names is there: the events before it made it.
    fn frame(&mut self, id: FrameId) -> &mut Frame {
        self.state.frames.get_mut(id).expect("an event names a frame that has begun")
    }

    fn step(&mut self, unit: Unit) -> &mut StepRun {
        let frame = self.frame(unit.frame);
        let place = (unit.step - frame.first) as usize;
        &mut frame.steps[place]
    }

    fn many(&mut self, unit: Unit) -> &mut Many {
        self.step(unit).many.get_or_insert_default()
    }

    fn run(&mut self, unit: Unit) -> &mut Run {
        match unit.index {
            None => &mut self.step(unit).run,
            Some(index) => &mut self.many(unit).instances[index as usize],
        }
    }

    /// Who ended an attempt, and since when it was at it, where that is known.
    fn done_by(&mut self, unit: Unit, agent_id: Option<AgentId>, begun_at: Option<Timestamp>) {
        let run = self.run(unit);
        run.agent_id = agent_id.or(run.agent_id);
        run.started_at = begun_at.or(run.started_at);
    }
}

/// Whether a step may start: `None` while its dependencies have not settled it, then whether it starts or is skipped.
pub(super) fn join_outcome(plan: &Plan, state: &State, unit: Unit) -> Option<bool> {
    let run = state.step(unit)?;
    let step = &plan.steps[unit.step as usize];
    let all = step.depends_on.len() as u32;
    let wanted = match step.join {
        Join::All => all,
        Join::Any => all.min(1),
        Join::Count(count) => count.min(all),
    };
    if run.done >= wanted {
        Some(true)
    } else if all - run.skipped < wanted {
        Some(false)
    } else {
        None
    }
}

/// A JSON list of values, `null` where there is none.
pub(super) fn list<'a>(values: impl Iterator<Item = Option<&'a Payload>>) -> Payload {
    let mut text = String::from("[");
    for (position, value) in values.enumerate() {
        if position > 0 {
            text.push(',');
        }
        text.push_str(value.map_or("null", Payload::as_str));
    }
    text.push(']');
    Payload::from_slice(text.as_bytes()).expect("JSON values between commas and brackets are a JSON value")
}
