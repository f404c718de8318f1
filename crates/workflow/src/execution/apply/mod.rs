//! Events into state: the only place that changes it, and all that replay needs. No event is refused here; whether it may
//! happen was decided before it was logged.

mod ends;
mod tasks;

use domain::{AgentId, Payload, SignalId, Timestamp};

use super::{
    Counts,
    state::{End, Head, Phase, Run, State, StepRun, Unit},
};
use crate::{
    Event, Failure, Plan, StepIndex,
    plan::{Join, StepKind},
};

/// What a new event is applied to.
pub(super) struct Applier<'a> {
    pub(super) state: &'a mut State,
    pub(super) plan: &'a Plan,
    pub(super) at: Timestamp,
}

impl Applier<'_> {
    pub(super) fn apply(&mut self, event: &Event) {
        self.state.sequence += 1;
        match event {
            Event::Accepted { .. } => self.accepted(event),
            Event::StepExpanded { step, items } => self.expanded(*step, items),
            Event::StepScheduled { task, input } => self.scheduled(*task, input.as_ref()),
            Event::StepRetrying { task, failure, at, agent_id } => self.retrying(*task, failure, *at, *agent_id),
            Event::SignalAwaited { step, name, until } => self.awaited(*step, name, *until),
            Event::SleepStarted { step, until } => self.begin(*step, Phase::Sleeping(*until)),
            Event::DecisionOpened { step, input, deadline } => self.opened(*step, input, *deadline),
            Event::VotersChosen { step, voters } => self.voters_chosen(*step, voters),
            Event::BallotCast { step, voter, ballot } => self.ballot_cast(*step, *voter, ballot),
            Event::BallotMissed { step, voter, failure } => self.ballot_missed(*step, *voter, failure),
            Event::StepCompleted { step, index, output, agent_id, begun_at } => {
                let unit = Unit { step: *step, index: *index };
                self.done_by(unit, *agent_id, *begun_at);
                self.completed(unit, output.as_ref());
            }
            Event::StepFailed { step, index, failure, agent_id, fallback } => {
                let unit = Unit { step: *step, index: *index };
                self.done_by(unit, *agent_id, None);
                self.failed(unit, failure, fallback.as_ref());
            }
            Event::StepSkipped { step, reason: _ } => self.skipped(*step),
            Event::StepCancelled { step, index: _, reason: _ } => {
                self.end_step(*step, Phase::Cancelled);
                self.end_instances(*step);
            }
            Event::SignalReceived { id, name, payload, sender: _ } => self.signalled(*id, name, payload),
            Event::Paused => self.state.paused = Some(self.at),
            Event::Resumed => self.state.paused = None,
            Event::CancelRequested { reason } => self.state.cancel = Some(reason.clone()),
            Event::CompensationStarted { failure } => self.compensates(failure.as_ref()),
            Event::StepCompensated { step, index } => self.undone(Unit { step: *step, index: *index }, None),
            Event::CompensationFailed { step, index, failure } => {
                self.undone(Unit { step: *step, index: *index }, Some(failure));
            }
            Event::Completed { output } => self.end(End::Completed(output.clone())),
            Event::Failed { failure } => {
                self.state.failure = Some(failure.clone());
                self.end(End::Failed);
            }
            Event::Cancelled { reason } => {
                self.state.cancel = Some(reason.clone());
                self.end(End::Cancelled);
            }
            Event::Retried { steps, deadline } => self.retried(steps, *deadline),
        }
    }

    fn step(&mut self, step: StepIndex) -> &mut StepRun {
        &mut self.state.steps[step as usize]
    }

    fn run(&mut self, unit: Unit) -> Option<&mut Run> {
        let step = self.state.steps.get_mut(unit.step as usize)?;
        match unit.index {
            None => Some(&mut step.run),
            Some(index) => step.instances.get_mut(index as usize),
        }
    }

    fn accepted(&mut self, event: &Event) {
        let Event::Accepted {
            execution_id,
            namespace,
            workflow_id,
            workflow_version,
            input,
            deadline,
            traceparent,
            ..
        } = event
        else {
            return;
        };
        self.state.head = Some(Head {
            id: *execution_id,
            namespace: namespace.clone(),
            workflow_id: *workflow_id,
            workflow_version: *workflow_version,
            input: input.clone(),
            traceparent: traceparent.clone(),
            created_at: self.at,
        });
        self.state.deadline = *deadline;
        for step in 0..self.plan.steps.len() as StepIndex {
            self.settle(step);
        }
    }

    fn opened(&mut self, step: StepIndex, input: &Payload, deadline: Option<Timestamp>) {
        self.begin(step, Phase::Deciding(deadline));
        self.step(step).run.input = Some(input.clone());
    }

    fn signalled(&mut self, id: SignalId, name: &str, payload: &Payload) {
        self.state.signals.insert(id);
        if let Some(mailbox) = self.state.mailboxes.get_mut(name) {
            mailbox.kept.push_back(payload.clone());
        }
    }

    fn compensates(&mut self, failure: Option<&Failure>) {
        self.state.failure = failure.cloned();
        self.state.compensating = true;
        self.state.was_compensated = true;
        self.state.deadline = None;
    }

    fn awaited(&mut self, step: StepIndex, name: &str, until: Option<Timestamp>) {
        self.begin(step, Phase::Awaiting(until));
        if let Some(mailbox) = self.state.mailboxes.get_mut(name) {
            mailbox.waiting.push_back(step);
        }
    }

    /// Who ended an attempt, and since when it was at it, where that is known.
    fn done_by(&mut self, unit: Unit, agent_id: Option<AgentId>, begun_at: Option<Timestamp>) {
        if let Some(run) = self.run(unit) {
            run.agent_id = agent_id.or(run.agent_id);
            run.started_at = begun_at.or(run.started_at);
        }
    }

    /// Queues a step whose join has settled, one way or the other: once.
    fn settle(&mut self, step: StepIndex) {
        let run = &self.state.steps[step as usize];
        if run.settled || run.run.phase != Phase::Pending {
            return;
        }
        let Some(starts) = join_outcome(self.plan, self.state, step) else { return };
        self.state.steps[step as usize].settled = true;
        self.enqueue(step, starts);
    }

    /// A plain task queues for a slot; everything else begins (or is skipped) without one.
    fn enqueue(&mut self, step: StepIndex, starts: bool) {
        let plan = &self.plan.steps[step as usize];
        let takes_slot = starts && plan.for_each.is_none() && matches!(plan.kind, StepKind::Task { .. });
        if takes_slot {
            self.state.queue.push_back(Unit { step, index: None });
        } else {
            self.state.due.push_back(step);
        }
    }

    /// Out of the queues: what begins is nearly always the first.
    fn dequeue(&mut self, unit: Unit) {
        if self.state.queue.front() == Some(&unit) {
            self.state.queue.pop_front();
        } else if unit.index.is_none() && self.state.due.front() == Some(&unit.step) {
            self.state.due.pop_front();
        } else {
            self.state.queue.retain(|queued| *queued != unit);
            if unit.index.is_none() {
                self.state.due.retain(|queued| *queued != unit.step);
            }
        }
    }

    /// Moves a step to another phase: counts, timers and the set of active steps follow.
    fn enter(&mut self, step: StepIndex, phase: Phase) {
        let run = &mut self.state.steps[step as usize].run;
        let before = std::mem::replace(&mut run.phase, phase);
        run.started_at = run.started_at.or(phase.is_active().then_some(self.at));
        self.state.counts.moved(before.state(), phase.state());
        if let Some(due) = before.due() {
            self.state.timers.remove(&(due, step));
        }
        if let Some(due) = phase.due() {
            self.state.timers.insert((due, step));
        }
        match (before.is_active(), phase.is_active()) {
            (false, true) => {
                self.state.active.insert(step);
            }
            (true, false) => {
                self.state.active.remove(&step);
            }
            (true, true) | (false, false) => {}
        }
    }

    fn begin(&mut self, step: StepIndex, phase: Phase) {
        self.dequeue(Unit { step, index: None });
        self.enter(step, phase);
    }

    fn end(&mut self, end: End) {
        self.state.end = Some((end, self.at));
        self.state.compensating = false;
        self.state.deadline = None;
    }

    fn retried(&mut self, steps: &[StepIndex], deadline: Option<Timestamp>) {
        self.state.end = None;
        self.state.failure = None;
        self.state.paused = None;
        self.state.deadline = deadline;
        self.state.open += steps.len() as u32;
        for &step in steps {
            self.reset(step);
        }
        self.state.counts = Counts::default();
        for step in &self.state.steps {
            *self.state.counts.of(step.run.phase.state()) += 1;
        }
        for &step in steps {
            if self.step(step).instances.is_empty() || self.plan.steps[step as usize].for_each.is_none() {
                self.enqueue(step, true);
            } else {
                self.enter(step, Phase::Expanded);
                self.queue_instances(step);
            }
        }
    }

    /// Back to the beginning, but for instances that completed.
    fn reset(&mut self, step: StepIndex) {
        let is_decision = matches!(self.plan.steps[step as usize].kind, StepKind::Decision(_));
        let run = self.step(step);
        run.run.reset();
        // A decision opens anew: it may find other voters.
        if is_decision {
            // Whatever its voters had as their last attempt, the next begin after it: no task id comes twice.
            let attempt = run.instances.iter().map(|voter| voter.attempt).fold(run.run.attempt, u32::max);
            let run_afresh = Run { attempt, attempts_before: attempt, ..Run::default() };
            *run =
                StepRun { run: run_afresh, done: run.done, skipped: run.skipped, settled: true, ..StepRun::default() };
            return;
        }
        (run.queued, run.working) = (0, 0);
        for instance in run.instances.iter_mut().filter(|instance| instance.phase != Phase::Completed) {
            instance.reset();
        }
        run.open = run.instances.iter().filter(|instance| instance.phase == Phase::Pending).count() as u32;
    }
}

/// Whether a step may start: `None` while its dependencies have not settled it, then whether it starts or is skipped.
pub(super) fn join_outcome(plan: &Plan, state: &State, step: StepIndex) -> Option<bool> {
    let run = &state.steps[step as usize];
    let step = &plan.steps[step as usize];
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
