//! How units begin, each layer once: condition, instances, mutex, loop, work.

use domain::{Payload, Timestamp};

use super::{
    apply::join_outcome,
    decide::Decider,
    mutex::MutexKey,
    scope::View,
    state::{Run, StepRun},
};
use crate::{
    Ending, Event, Failure, Purpose, SkipReason, StepIndex, Telling, Unit, Voter,
    command::MOST_DEPTH,
    plan::{Decision, Emission, End, Mutex, Recipient, StepKind, Test, Voters},
};

impl Decider<'_> {
    /// The first in a queue: a step whose join has settled, an instance, a voter, or the next iteration of any of them.
    pub(super) fn begin(&mut self, unit: Unit) {
        if self.state.frames.get(unit.frame).is_some_and(|frame| frame.scope.is_none()) {
            return self.begin_attempt(unit, None);
        }
        let step = self.step_of(unit);
        let is_first = self.state.run(unit).is_some_and(|run| run.iteration == 0 && !run.has_mutex());
        if unit.index.is_none() && is_first {
            if join_outcome(self.plan, self.state, unit) == Some(false) {
                return self.emit(Event::StepSkipped { unit, reason: SkipReason::Dependency });
            }
            if !self.may_start(unit) {
                return;
            }
            if step.for_each.is_some() {
                return self.expand(unit);
            }
        }
        if let Some(mutex) = step.mutex.as_ref().filter(|_| !self.state.run(unit).is_some_and(Run::has_mutex)) {
            return self.lock(unit, mutex);
        }
        let is_first = self.state.run(unit).is_some_and(|run| run.iteration == 0);
        if let Some(Test::While(condition)) = step.repeat.as_ref().map(|repeat| &repeat.test)
            && is_first
        {
            match condition.evaluate(&View::of_test(self.state, self.plan, unit, None, 0)) {
                Ok(true) => {}
                Ok(false) => return self.complete_unit(unit, Payload::null()),
                Err(failure) => return self.fail(unit, failure, None),
            }
        }
        self.begin_unit(unit);
    }

    /// A unit that ends without having begun.
    fn complete_unit(&mut self, unit: Unit, output: Payload) {
        self.complete(unit, Some(output));
        if unit.index.is_some() {
            self.instance_done(unit);
        }
    }

    /// Evaluates `when`; a step that may not start has ended with that.
    fn may_start(&mut self, unit: Unit) -> bool {
        let Some(condition) = &self.step_of(unit).when else { return true };
        match condition.evaluate(&View::of_frame(self.state, self.plan, unit.frame)) {
            Ok(true) => true,
            Ok(false) => {
                self.emit(Event::StepSkipped { unit, reason: SkipReason::Condition });
                false
            }
            Err(failure) => {
                self.fail(unit, failure, None);
                false
            }
        }
    }

    fn expand(&mut self, unit: Unit) {
        let step = self.step_of(unit);
        let Some(for_each) = &step.for_each else { return };
        match for_each.items.evaluate_list(&View::of_frame(self.state, self.plan, unit.frame)) {
            Ok(items) => {
                let is_empty = items.is_empty();
                self.emit(Event::StepExpanded { unit, items });
                if is_empty {
                    self.complete(unit, Some(Self::nothing()));
                } else if step.detach && for_each.complete_when.is_none() && !matches!(step.kind, StepKind::Workflow(_))
                {
                    self.complete(unit, Some(Payload::null()));
                }
            }
            Err(failure) => self.fail(unit, failure, None),
        }
    }

    fn lock(&mut self, unit: Unit, mutex: &Mutex) {
        let name = match mutex.name.evaluate_text(&View::of_instance(self.state, self.plan, unit)) {
            Ok(name) => name,
            Err(failure) => return self.fail(unit, failure, None),
        };
        let key = MutexKey { global: mutex.global, name };
        let known = self.state.mutexes.get(&key);
        let is_nested = self.state.is_nested(&key, unit);
        let is_free = known.is_none_or(|mutex| self.state.may_take(mutex, unit));
        if is_free && (is_nested || !key.global) {
            return self.emit(Event::MutexTaken { unit, name: key.name });
        }
        if (is_nested || !key.global) && self.state.would_deadlock(&key, unit) {
            let message =
                format!("whoever has the mutex `{}` waits for one that a block around this step has", key.name);
            return self.fail(unit, Failure::fatal("deadlock", message), None);
        }
        self.emit(Event::MutexAwaited { unit, name: key.name });
    }

    /// Its work, of an iteration or once more.
    pub(super) fn begin_unit(&mut self, unit: Unit) {
        let begun = match &self.step_of(unit).kind {
            StepKind::Task { input, .. } => {
                // What was evaluated once is not again.
                let is_known = self.state.run(unit).is_some_and(|run| run.input.is_some());
                let view = View::of_work(self.state, self.plan, unit);
                let input = if is_known { Ok(None) } else { input.evaluate(&view).map(Some) };
                input.map(|input| self.begin_attempt(unit, input))
            }
            StepKind::Decision(decision) => self.open(unit, decision),
            StepKind::Signal { name, timeout, transient, .. } => {
                let name = name.evaluate_text(&View::of_work(self.state, self.plan, unit));
                name.map(|name| self.wait_for(unit, name, *timeout, *transient))
            }
            StepKind::Sleep(duration) => {
                let until = self.now + *duration;
                self.emit(Event::SleepStarted { unit, until });
                Ok(())
            }
            StepKind::SleepUntil(time) => time
                .evaluate_text(&View::of_work(self.state, self.plan, unit))
                .and_then(|text| read_time(&text))
                .map(|until| self.emit(Event::SleepStarted { unit, until })),
            StepKind::Block(_) => {
                let attempt = self.next_attempt_number(unit);
                let until = self.step_of(unit).timeout.map(|timeout| self.now + timeout);
                let inner = self.state.frames.next();
                self.emit(Event::BlockEntered { unit, attempt, inner, until });
                Ok(())
            }
            StepKind::Workflow(child) => {
                let input = child.input.evaluate(&View::of_work(self.state, self.plan, unit));
                let input = self.within_depth().and(input);
                input.map(|input| self.begin_attempt(unit, Some(input)))
            }
            StepKind::Emit(emission) => {
                self.telling(unit, emission).map(|telling| self.begin_attempt(unit, Some(telling)))
            }
            StepKind::Cancel(steps) => {
                self.withdraw(unit, steps);
                Ok(())
            }
            StepKind::End(end) => self.ending(unit, end).map(|end| self.emit(Event::EndRequested { unit, end })),
        };
        if let Err(failure) = begun {
            self.fail(unit, failure, None);
        }
    }

    fn next_attempt_number(&self, unit: Unit) -> u32 {
        self.state.run(unit).map_or(1, |run| run.attempt + 1)
    }

    fn begin_attempt(&mut self, unit: Unit, input: Option<Payload>) {
        let task = unit.task(Purpose::Work, self.next_attempt_number(unit));
        self.emit(Event::StepScheduled { task, input });
    }

    fn wait_for(&mut self, unit: Unit, name: String, timeout: Option<std::time::Duration>, transient: bool) {
        let until = timeout.map(|timeout| self.now + timeout);
        let is_kept = self.state.mailboxes.get(name.as_str()).is_some_and(|mailbox| !mailbox.kept.is_empty());
        self.emit(Event::SignalAwaited { unit, name, until });
        if is_kept && !transient {
            self.unit_done(unit, None, None);
        }
    }

    fn open(&mut self, unit: Unit, decision: &Decision) -> Result<(), Failure> {
        let input = decision.voter_input(&View::of_work(self.state, self.plan, unit))?;
        let deadline = decision.deadline.map(|deadline| self.now + deadline);
        let inner = self.state.frames.next();
        self.emit(Event::DecisionOpened { unit, inner, input, deadline });
        if let Voters::These(agents) = &decision.voters {
            let voter = |agent: &domain::AgentId| Voter { agent_id: *agent, name: agent.to_string(), weight: 1.0 };
            self.emit(Event::VotersChosen { unit, voters: agents.iter().map(voter).collect() });
        }
        Ok(())
    }

    fn within_depth(&self) -> Result<(), Failure> {
        let depth = self.state.head.as_ref().and_then(|head| head.parent.as_ref()).map_or(0, |parent| parent.depth);
        if depth < MOST_DEPTH {
            return Ok(());
        }
        let message = format!("executions are nested at most {MOST_DEPTH} deep; this one cannot start a child");
        Err(Failure::fatal("nested_too_deep", message))
    }

    /// Whom to tell, and what: the input of the errand.
    fn telling(&self, unit: Unit, emission: &Emission) -> Result<Payload, Failure> {
        let view = View::of_work(self.state, self.plan, unit);
        let to = match &emission.to {
            Recipient::Topic(topic) => Telling::Topic(topic.evaluate_text(&view)?),
            Recipient::Agent(agent) => Telling::Agent(agent.evaluate_text(&view)?),
            Recipient::Signal { execution, name } => {
                Telling::Signal { execution: execution.evaluate_text(&view)?, name: name.evaluate_text(&view)? }
            }
        };
        let payload = emission.payload.evaluate(&view)?;
        let to = serde_json::to_string(&to).expect("an enum of texts has a JSON form");
        let text = format!(r#"{{"to":{to},"payload":{}}}"#, payload.as_str());
        Ok(Payload::from_slice(text.as_bytes()).expect("JSON values by quoted names are a JSON object"))
    }

    /// Withdraws steps of its scope, or of one around it; what has ended stays as it is.
    fn withdraw(&mut self, by: Unit, steps: &[StepIndex]) {
        // First its own end: it may be inside what it withdraws.
        self.complete(by, Some(Payload::null()));
        for &step in steps {
            let Some(frame) = self.frame_with(by, step) else { continue };
            let unit = Unit { frame, step, index: None };
            let is_loose = self.state.step(unit).is_some_and(StepRun::is_loose);
            if self.state.phase(unit).is_open() || is_loose {
                self.emit(Event::StepWithdrawn { unit, by: by.step });
            }
        }
    }

    /// The frame around a unit, or its own, in which a step is.
    fn frame_with(&self, unit: Unit, step: StepIndex) -> Option<u32> {
        let scope = self.plan.steps[step as usize].scope;
        let mut frame = unit.frame;
        loop {
            let found = self.state.frames.get(frame)?;
            if found.scope == Some(scope) {
                return Some(frame);
            }
            frame = found.parent?.frame;
        }
    }

    fn ending(&self, unit: Unit, end: &End) -> Result<Ending, Failure> {
        let view = View::of_work(self.state, self.plan, unit);
        Ok(match end {
            End::Completed(output) => Ending::Completed(output.evaluate(&view)?),
            End::Failed { code, message } => Ending::Failed(Failure::fatal(code, message.evaluate_words(&view)?)),
            End::Cancelled(reason) => Ending::Cancelled(reason.evaluate_words(&view)?),
            End::Continued(input) => Ending::Continued(input.evaluate(&view)?),
        })
    }
}

/// A point in time as RFC 3339 writes it.
fn read_time(text: &str) -> Result<Timestamp, Failure> {
    text.trim().parse::<Timestamp>().map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        Failure::fatal("expression", format!("a time such as 2026-03-01T08:00:00Z is wanted here, not {shown:?}"))
    })
}
