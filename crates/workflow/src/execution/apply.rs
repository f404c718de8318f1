//! Events into state: the only place that changes it, and all that replay needs. No event is refused here; whether it may
//! happen was decided before it was logged.

use domain::{Payload, Timestamp};

use super::state::{End, Head, Phase, Run, State, Undo, Unit};
use crate::{
    Event, Failure, Plan, Purpose, StepIndex, TaskKey,
    plan::{Join, OnSkip, StepKind},
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
            Event::StepRetrying { task, failure, at, agent_id } => {
                let run = self.attempt_over(*task);
                run.failure = Some(failure.clone());
                run.agent_id = *agent_id;
                self.enter_retry(*task, *at);
            }
            Event::SignalAwaited { step, name, until } => {
                self.begin(*step, Phase::Awaiting(*until));
                self.state.mailboxes.entry(name.clone()).or_default().waiting.push_back(*step);
            }
            Event::SleepStarted { step, until } => self.begin(*step, Phase::Sleeping(*until)),
            Event::DecisionOpened { step, input, deadline } => {
                self.begin(*step, Phase::Deciding(*deadline));
                self.step(*step).run.input = Some(input.clone());
            }
            Event::VotersChosen { step, voters } => self.voters_chosen(*step, voters),
            Event::BallotCast { step, voter, ballot } => {
                self.step(*step).ballots[*voter as usize] = Some(ballot.clone());
                self.instance_over(*step, *voter, Phase::Completed, None);
            }
            Event::BallotMissed { step, voter, failure } => {
                self.instance_over(*step, *voter, Phase::Failed, Some(failure));
            }
            Event::StepCompleted { step, index, output, agent_id, begun_at } => {
                if let Some(run) = self.run(Unit { step: *step, index: *index }) {
                    run.agent_id = agent_id.or(run.agent_id);
                    run.started_at = begun_at.or(run.started_at);
                }
                self.completed(Unit { step: *step, index: *index }, output.as_ref());
            }
            Event::StepFailed { step, index: Some(index), failure, agent_id, .. } => {
                self.step(*step).instances[*index as usize].agent_id = *agent_id;
                self.instance_over(*step, *index, Phase::Failed, Some(failure));
            }
            Event::StepFailed { step, index: None, failure, agent_id, fallback } => {
                let run = &mut self.step(*step).run;
                run.agent_id = agent_id.or(run.agent_id);
                self.failed(*step, failure, fallback.as_ref());
            }
            Event::StepSkipped { step, reason: _ } => self.skipped(*step),
            Event::StepCancelled { step, index: _, reason: _ } => {
                self.end_step(*step, Phase::Cancelled);
                self.end_instances(*step);
            }
            Event::SignalReceived { id, name, payload, sender: _ } => {
                self.state.signals.insert(*id);
                self.state.mailboxes.entry(name.clone()).or_default().kept.push_back(payload.clone());
            }
            Event::Paused => self.state.paused = true,
            Event::Resumed => self.state.paused = false,
            Event::CancelRequested { reason } => self.state.cancel = Some(reason.clone()),
            Event::CompensationStarted { failure } => {
                self.state.failure.clone_from(failure);
                self.state.compensating = true;
                self.state.was_compensated = true;
                self.state.deadline = None;
            }
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

    fn step(&mut self, step: StepIndex) -> &mut super::state::StepRun {
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

    fn expanded(&mut self, step: StepIndex, items: &[Payload]) {
        self.begin(step, Phase::Expanded);
        let run = self.step(step);
        run.items = items.to_vec();
        run.instances = vec![Run::default(); items.len()];
        run.open = items.len() as u32;
        self.queue_instances(step);
    }

    /// Queues as many instances as `max_parallel` allows.
    fn queue_instances(&mut self, step: StepIndex) {
        let limit = self.plan.steps[step as usize].for_each.as_ref().map_or(u32::MAX, |for_each| for_each.max_parallel);
        let run = &mut self.state.steps[step as usize];
        while (run.queued as usize) < run.instances.len() && run.working < limit {
            // After a retry of the execution some have completed already.
            if run.instances[run.queued as usize].phase == Phase::Pending {
                self.state.queue.push_back(Unit { step, index: Some(run.queued) });
                run.working += 1;
            }
            run.queued += 1;
        }
    }

    fn voters_chosen(&mut self, step: StepIndex, voters: &[crate::Voter]) {
        let run = self.step(step);
        run.voters = voters.to_vec();
        run.ballots = vec![None; voters.len()];
        // Voters of an earlier round leave their numbers of attempts behind, so that no task id comes twice.
        let earlier = std::mem::take(&mut run.instances);
        run.instances = (0..voters.len())
            .map(|index| {
                let attempt = earlier.get(index).map_or(0, |run| run.attempt);
                Run { attempt, attempts_before: attempt, ..Run::default() }
            })
            .collect();
        run.open = voters.len() as u32;
        (run.queued, run.working) = (0, 0);
        self.queue_instances(step);
    }

    fn scheduled(&mut self, task: TaskKey, input: Option<&Payload>) {
        self.state.out.insert(task);
        let unit = Unit::of(task);
        if task.purpose == Purpose::Undo {
            return self.undo_scheduled(unit, task, input);
        }
        let at = self.at;
        self.leave_queues(unit);
        if unit.index.is_none() {
            self.enter(unit.step, Phase::Out);
        }
        let Some(run) = self.run(unit) else { return };
        run.phase = Phase::Out;
        run.attempt = task.attempt;
        run.started_at = run.started_at.or(Some(at));
        if let Some(input) = input {
            run.input = Some(input.clone());
        }
    }

    fn undo_scheduled(&mut self, unit: Unit, task: TaskKey, input: Option<&Payload>) {
        let at = self.at;
        self.leave_retry(unit);
        if self.state.undo.as_ref().is_none_or(|undo| undo.unit != unit) {
            self.state.undoable.pop();
            self.state.undo = Some(Undo { unit, run: Run { started_at: Some(at), ..Run::default() } });
        }
        if let Some(undo) = &mut self.state.undo {
            undo.run.phase = Phase::Out;
            undo.run.attempt = task.attempt;
            undo.run.input = input.cloned().or(undo.run.input.take());
        }
    }

    /// The task is in no agent's hands any more.
    fn attempt_over(&mut self, task: TaskKey) -> &mut Run {
        self.state.out.remove(&task);
        match (&mut self.state.undo, task.purpose) {
            (Some(undo), Purpose::Undo) => &mut undo.run,
            _ => match task.index {
                None => &mut self.state.steps[task.step as usize].run,
                Some(index) => &mut self.state.steps[task.step as usize].instances[index as usize],
            },
        }
    }

    fn enter_retry(&mut self, task: TaskKey, at: Timestamp) {
        let unit = Unit::of(task);
        self.state.retries.insert((at, unit));
        match (task.purpose, task.index) {
            (Purpose::Work, None) => self.enter(task.step, Phase::Retrying(at)),
            (Purpose::Work, Some(index)) => {
                self.step(task.step).instances[index as usize].phase = Phase::Retrying(at);
            }
            (Purpose::Undo, _) => {
                if let Some(undo) = &mut self.state.undo {
                    undo.run.phase = Phase::Retrying(at);
                }
            }
        }
    }

    /// Whatever it waits for, a slot or the time of its next attempt, it does no more.
    fn leave_queues(&mut self, unit: Unit) {
        match self.state.run(unit).map(|run| run.phase) {
            Some(Phase::Pending) => self.dequeue(unit),
            _ => self.leave_retry(unit),
        }
    }

    fn leave_retry(&mut self, unit: Unit) {
        let undo = self.state.undo.as_ref().filter(|undo| undo.unit == unit).map(|undo| undo.run.phase);
        let work = self.state.run(unit).map(|run| run.phase);
        if let Some(Phase::Retrying(at)) = undo.or(work) {
            self.state.retries.remove(&(at, unit));
        }
    }

    /// An instance or voter has ended: its slot is free, and the next one queues.
    fn instance_over(&mut self, step: StepIndex, index: u32, phase: Phase, failure: Option<&Failure>) {
        let unit = Unit { step, index: Some(index) };
        self.leave_queues(unit);
        let at = self.at;
        let task = unit.task(Purpose::Work, self.step(step).instances[index as usize].attempt);
        let was_out = self.state.out.remove(&task);
        let run = self.step(step);
        run.open -= 1;
        run.working = run.working.saturating_sub(1);
        let instance = &mut run.instances[index as usize];
        instance.failure = failure.cloned().or(instance.failure.take());
        instance.phase = phase;
        instance.ended_at = Some(at);
        instance.withdrawn = was_out && phase == Phase::Failed;
        self.queue_instances(step);
    }

    fn completed(&mut self, unit: Unit, output: Option<&Payload>) {
        let undoable = self.plan.steps[unit.step as usize].compensate.is_some();
        if let Some(index) = unit.index {
            self.instance_over(unit.step, index, Phase::Completed, None);
            self.step(unit.step).instances[index as usize].output = output.cloned();
            if undoable {
                self.step(unit.step).to_undo += 1;
                self.state.undoable.push(unit);
            }
            return;
        }
        let output = output.cloned().or_else(|| self.own_output(unit.step));
        if undoable && self.plan.steps[unit.step as usize].for_each.is_none() {
            self.state.undoable.push(unit);
        }
        self.step(unit.step).run.output = output;
        self.end_step(unit.step, Phase::Completed);
        self.dependency_done(unit.step);
    }

    /// The output that the state has already: the outputs of the instances, or the payload of the signal.
    fn own_output(&mut self, step: StepIndex) -> Option<Payload> {
        let plan = &self.plan.steps[step as usize];
        if let StepKind::Signal { name, .. } = &plan.kind {
            return self.state.mailboxes.get_mut(name).and_then(|mailbox| mailbox.kept.pop_front());
        }
        let outputs = self.state.steps[step as usize].instances.iter().map(|run| run.output.as_ref());
        plan.for_each.is_some().then(|| list(outputs))
    }

    fn failed(&mut self, step: StepIndex, failure: &Failure, fallback: Option<&Payload>) {
        self.step(step).run.failure = Some(failure.clone());
        self.end_step(step, Phase::Failed);
        self.end_instances(step);
        if let Some(fallback) = fallback {
            self.step(step).run.output = Some(fallback.clone());
            self.dependency_done(step);
        } else if self.state.failure.is_none() {
            let step_id = Some(self.plan.steps[step as usize].id.clone());
            self.state.failure = Some(Failure { step_id, ..failure.clone() });
        }
    }

    fn skipped(&mut self, step: StepIndex) {
        self.end_step(step, Phase::Skipped);
        match self.plan.steps[step as usize].on_skip {
            OnSkip::CountAsDone => self.dependency_done(step),
            OnSkip::Spread => {
                let plan = self.plan;
                for &dependent in &plan.steps[step as usize].dependents {
                    self.step(dependent).skipped += 1;
                    self.settle(dependent);
                }
            }
        }
    }

    fn dependency_done(&mut self, step: StepIndex) {
        let plan = self.plan;
        for &dependent in &plan.steps[step as usize].dependents {
            self.step(dependent).done += 1;
            self.settle(dependent);
        }
    }

    fn end_step(&mut self, step: StepIndex, phase: Phase) {
        let unit = Unit { step, index: None };
        self.leave_queues(unit);
        if let StepKind::Signal { name, .. } = &self.plan.steps[step as usize].kind
            && let Some(mailbox) = self.state.mailboxes.get_mut(name)
        {
            mailbox.waiting.retain(|waiting| *waiting != step);
        }
        let task = unit.task(Purpose::Work, self.step(step).run.attempt);
        let was_out = self.state.out.remove(&task);
        let at = self.at;
        let run = &mut self.step(step).run;
        run.ended_at = Some(at);
        // A result ends the attempt with the step; only an attempt that is cut off is withdrawn from its agent.
        run.withdrawn = was_out && phase == Phase::Cancelled;
        self.enter(step, phase);
        self.state.open -= 1;
    }

    /// The step is over, and so is every instance or voter that is not.
    fn end_instances(&mut self, step: StepIndex) {
        let at = self.at;
        for index in 0..self.step(step).instances.len() as u32 {
            let unit = Unit { step, index: Some(index) };
            let instance = &self.state.steps[step as usize].instances[index as usize];
            if !(instance.phase.is_active() || instance.phase == Phase::Pending) {
                continue;
            }
            let task = unit.task(Purpose::Work, instance.attempt);
            self.leave_retry(unit);
            let withdrawn = self.state.out.remove(&task);
            let instance = &mut self.step(step).instances[index as usize];
            *instance = Run { phase: Phase::Cancelled, withdrawn, ended_at: Some(at), ..std::mem::take(instance) };
        }
        let run = self.step(step);
        (run.open, run.working) = (0, 0);
        if !run.instances.is_empty() {
            self.state.queue.retain(|queued| queued.step != step);
        }
    }

    fn undone(&mut self, unit: Unit, failure: Option<&Failure>) {
        self.leave_retry(unit);
        match self.state.undo.take() {
            Some(undo) => {
                self.state.out.remove(&unit.task(Purpose::Undo, undo.run.attempt));
            }
            // Its input could not be made, so it never began.
            None => {
                self.state.undoable.pop();
            }
        }
        let at = self.at;
        let Some(run) = self.run(unit) else { return };
        match failure {
            Some(failure) => run.failure = Some(failure.clone()),
            None => {
                run.ended_at = Some(at);
                if unit.index.is_some() {
                    run.phase = Phase::Compensated;
                }
            }
        }
        let step = self.step(unit.step);
        step.to_undo = step.to_undo.saturating_sub(1);
        if failure.is_none() && step.to_undo == 0 && step.run.phase == Phase::Completed {
            self.enter(unit.step, Phase::Compensated);
        }
    }

    fn end(&mut self, end: End) {
        self.state.end = Some((end, self.at));
        self.state.compensating = false;
        self.state.deadline = None;
    }

    fn retried(&mut self, steps: &[StepIndex], deadline: Option<Timestamp>) {
        self.state.end = None;
        self.state.failure = None;
        self.state.paused = false;
        self.state.deadline = deadline;
        self.state.open += steps.len() as u32;
        for &step in steps {
            self.reset(step);
        }
        self.state.counts = super::Counts::default();
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
            run.run.input = None;
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
