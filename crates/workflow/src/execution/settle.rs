//! What follows by itself: everything that is due, ready or over, until nothing is.
//!
//! The work grows with what happens, not with the size of the definition: a step is looked at when its join settles, a
//! timer when it is due, and a slot when it is free.

use domain::Payload;

use super::{
    apply::{join_outcome, list},
    decide::Decider,
    scope::View,
    state::{Phase, Unit},
};
use crate::{
    Event, Failure, Purpose, SkipReason, StepIndex, Voter,
    decision::{Question, tally},
    expression::within_limit,
    plan::{Decision, OnTimeout, StepKind, Voters},
};

/// Why a voter that had not voted by the deadline is missing.
pub(crate) const DEADLINE: &str = "deadline";

impl Decider<'_> {
    /// Goes on until it is quiet.
    pub(super) fn settle(&mut self) {
        while self.state.head.is_some() && self.state.end.is_none() && self.advance() {}
    }

    /// One thing that can be done now; false where there is none.
    fn advance(&mut self) -> bool {
        if self.state.compensating {
            return self.advance_undo();
        }
        if self.state.cancel.is_some() || self.state.failure.is_some() {
            return self.wind_down();
        }
        if self.state.deadline.is_some_and(|deadline| deadline <= self.now) {
            let timeout = self.plan.timeout.unwrap_or_default();
            let message = format!("the execution did not end within {}", humantime::format_duration(timeout));
            return self.lose(Failure::fatal("execution_timeout", message));
        }
        if self.advance_timer() {
            return true;
        }
        if self.state.open == 0 {
            return self.finish();
        }
        self.state.paused.is_none() && self.advance_work()
    }

    /// Waits that are over.
    fn advance_timer(&mut self) -> bool {
        let Some(&(_, step)) = self.state.timers.first().filter(|(due, _)| *due <= self.now) else { return false };
        match &self.plan.steps[step as usize].kind {
            StepKind::Sleep(_) => self.complete(step, Some(Payload::null())),
            StepKind::Signal { name, on_timeout, .. } => match on_timeout {
                OnTimeout::Fail => {
                    let message = format!("the signal `{name}` did not come in time");
                    self.fail(step, Failure::fatal("signal_timeout", message), None);
                }
                OnTimeout::Reject => {
                    let output = serde_json::json!({ "approved": false, "timed_out": true });
                    self.complete(step, Some(Payload::from_value(&output)));
                }
                OnTimeout::Continue(output) => match output.evaluate(&View::of_step(self.state, step)) {
                    Ok(output) => self.complete(step, Some(output)),
                    Err(failure) => self.fail(step, failure, None),
                },
            },
            StepKind::Decision(_) => self.close_at_deadline(step),
            // Only waits have timers.
            StepKind::Task { .. } => return false,
        }
        true
    }

    /// Steps that can begin, then tasks while there are slots: due retries first, they are older.
    fn advance_work(&mut self) -> bool {
        if let Some(&step) = self.state.due.front() {
            self.begin(step);
            return true;
        }
        if self.state.work_out() >= self.plan.max_parallel as usize {
            return false;
        }
        if let Some(&(_, unit)) = self.state.retries.first().filter(|(due, _)| *due <= self.now) {
            let attempt = self.state.run(unit).map_or(1, |run| run.attempt + 1);
            self.emit(Event::StepScheduled { task: unit.task(Purpose::Work, attempt), input: None });
            return true;
        }
        if let Some(&unit) = self.state.queue.front() {
            self.begin_task(unit);
            return true;
        }
        false
    }

    /// Whether a step that needs no slot starts, and what it starts with.
    fn begin(&mut self, step: StepIndex) {
        if join_outcome(self.plan, self.state, step) == Some(false) {
            return self.emit(Event::StepSkipped { step, reason: SkipReason::Dependency });
        }
        if !self.may_start(step) {
            return;
        }
        let plan = self.plan;
        let now = self.now;
        match &plan.steps[step as usize].kind {
            StepKind::Sleep(duration) => self.emit(Event::SleepStarted { step, until: now + *duration }),
            StepKind::Signal { name, timeout, .. } => {
                let until = timeout.map(|timeout| now + timeout);
                self.emit(Event::SignalAwaited { step, name: name.clone(), until });
                let is_kept = self.state.mailboxes.get(name).is_some_and(|mailbox| !mailbox.kept.is_empty());
                if is_kept {
                    self.complete(step, None);
                }
            }
            StepKind::Decision(decision) => self.open(step, decision),
            StepKind::Task { .. } => self.expand(step),
        }
    }

    /// Evaluates `when`; a step that may not start has ended with that.
    fn may_start(&mut self, step: StepIndex) -> bool {
        let Some(condition) = &self.plan.steps[step as usize].when else { return true };
        match condition.evaluate(&View::of_step(self.state, step)) {
            Ok(true) => true,
            Ok(false) => {
                self.emit(Event::StepSkipped { step, reason: SkipReason::Condition });
                false
            }
            Err(failure) => {
                self.fail(step, failure, None);
                false
            }
        }
    }

    fn expand(&mut self, step: StepIndex) {
        let Some(for_each) = &self.plan.steps[step as usize].for_each else { return };
        match for_each.items.evaluate_list(&View::of_step(self.state, step)) {
            Ok(items) => {
                let is_empty = items.is_empty();
                self.emit(Event::StepExpanded { step, items });
                if is_empty {
                    self.complete(step, Some(list(std::iter::empty())));
                }
            }
            Err(failure) => self.fail(step, failure, None),
        }
    }

    /// The first attempt of a step, an instance or a voter.
    fn begin_task(&mut self, unit: Unit) {
        let Some(run) = self.state.run(unit) else { return };
        let (attempt, is_first) = (run.attempt + 1, run.input.is_none());
        if unit.index.is_none() && !self.may_start(unit.step) {
            return;
        }
        let task = unit.task(Purpose::Work, attempt);
        let input = match &self.plan.steps[unit.step as usize].kind {
            StepKind::Task { input, .. } if is_first => match input.evaluate(&View::of_unit(self.state, unit)) {
                Ok(input) => Some(input),
                Err(failure) => return self.fail_unit(unit, failure),
            },
            // A voter's input is the decision's; and what was evaluated once is not again.
            _ => None,
        };
        self.emit(Event::StepScheduled { task, input });
    }

    fn fail_unit(&mut self, unit: Unit, failure: Failure) {
        if unit.index.is_some() {
            let (step, index) = (unit.step, unit.index);
            self.emit(Event::StepFailed { step, index, failure: failure.clone(), agent_id: None, fallback: None });
        }
        self.fail(unit.step, failure, None);
    }

    fn open(&mut self, step: StepIndex, decision: &Decision) {
        let input = match decision.voter_input(&View::of_step(self.state, step)) {
            Ok(input) => input,
            Err(failure) => return self.fail(step, failure, None),
        };
        let deadline = decision.deadline.map(|deadline| self.now + deadline);
        self.emit(Event::DecisionOpened { step, input, deadline });
        if let Voters::These(agents) = &decision.voters {
            let voter = |agent: &domain::AgentId| Voter { agent_id: *agent, name: agent.to_string(), weight: 1.0 };
            self.emit(Event::VotersChosen { step, voters: agents.iter().map(voter).collect() });
        }
    }

    /// Nobody waits beyond a decision's deadline: who has not voted is missing.
    fn close_at_deadline(&mut self, step: StepIndex) {
        let missing = |(voter, run): (usize, &super::state::Run)| {
            (run.phase.is_active() || run.phase == Phase::Pending).then_some(voter as u32)
        };
        let instances = self.state.steps[step as usize].instances.iter().enumerate();
        let missing: Vec<_> = instances.filter_map(missing).collect();
        for voter in missing {
            let failure = Failure::fatal(DEADLINE, "no ballot before the deadline");
            self.emit(Event::BallotMissed { step, voter, failure });
        }
        self.close(step);
    }

    pub(super) fn close_if_complete(&mut self, step: StepIndex) {
        if self.state.steps[step as usize].open == 0 {
            self.close(step);
        }
    }

    /// Counts the ballots that are in.
    fn close(&mut self, step: StepIndex) {
        let StepKind::Decision(decision) = &self.plan.steps[step as usize].kind else { return };
        let run = &self.state.steps[step as usize];
        let input = run.run.input.clone().unwrap_or_else(Payload::null);
        let outcome = Question::from_payload(&input).and_then(|question| {
            let late = Failure::fatal(DEADLINE, "no ballot before the deadline");
            let cast =
                run.voters.iter().zip(&run.ballots).filter_map(|(voter, ballot)| Some((voter, ballot.as_ref()?)));
            let missing = run.voters.iter().zip(&run.ballots).zip(&run.instances);
            let missing = missing.filter(|((_, ballot), _)| ballot.is_none());
            let missing: Vec<_> =
                missing.map(|((voter, _), run)| (voter, run.failure.as_ref().unwrap_or(&late))).collect();
            tally(&question, decision.strategy, decision.quorum, &cast.collect::<Vec<_>>(), &missing)
        });
        match outcome {
            Ok(record) => self.complete(step, Some(record.to_payload())),
            Err(failure) => self.fail(step, failure, None),
        }
    }

    /// Every step has ended.
    fn finish(&mut self) -> bool {
        let output = match &self.plan.output {
            Some(output) => output.evaluate(&View::of_execution(self.state)),
            None => {
                let output = self.default_output();
                within_limit(output.as_str().len()).map(|()| output)
            }
        };
        match output {
            Ok(output) => self.emit(Event::Completed { output }),
            Err(failure) => return self.lose(failure),
        }
        true
    }

    /// An object with the outputs of the steps that nothing depends on.
    fn default_output(&self) -> Payload {
        let steps = self.plan.steps.iter().zip(&self.state.steps);
        let last = steps.filter(|(plan, _)| plan.dependents.is_empty());
        let mut text = String::from("{");
        for (plan, step) in last {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(plan.id.as_str()).to_string());
            text.push(':');
            text.push_str(step.run.output.as_ref().map_or("null", Payload::as_str));
        }
        text.push('}');
        Payload::from_slice(text.as_bytes()).expect("JSON values by quoted names are a JSON object")
    }

    /// It cannot go on, for the reason that the state has.
    fn wind_down(&mut self) -> bool {
        match self.state.failure.clone() {
            Some(failure) => self.lose(failure),
            None => self.withdraw_and_undo(None),
        }
    }

    fn lose(&mut self, failure: Failure) -> bool {
        self.withdraw_and_undo(Some(failure))
    }

    /// Withdraws what is at work; then undoes what completed, where anything can be undone; then ends.
    fn withdraw_and_undo(&mut self, failure: Option<Failure>) -> bool {
        let reason = if failure.is_some() { "the execution failed" } else { "the execution was cancelled" };
        while let Some(&step) = self.state.active.first() {
            self.emit(Event::StepCancelled { step, index: None, reason: reason.to_owned() });
        }
        if self.state.undoable.is_empty() {
            self.end(failure);
        } else {
            self.emit(Event::CompensationStarted { failure });
        }
        true
    }

    fn end(&mut self, failure: Option<Failure>) {
        match failure {
            Some(failure) => self.emit(Event::Failed { failure }),
            None => {
                let reason = self.state.cancel.clone().unwrap_or_default();
                self.emit(Event::Cancelled { reason });
            }
        }
    }

    /// One undo after the other, the last work first.
    fn advance_undo(&mut self) -> bool {
        if let Some(undo) = &self.state.undo {
            let Phase::Retrying(due) = undo.run.phase else { return false };
            let task = undo.unit.task(Purpose::Undo, undo.run.attempt + 1);
            if due > self.now {
                return false;
            }
            self.emit(Event::StepScheduled { task, input: None });
            return true;
        }
        let Some(&unit) = self.state.undoable.last() else {
            self.end(self.state.failure.clone());
            return true;
        };
        match self.undo_input(unit) {
            Ok(input) => self.emit(Event::StepScheduled { task: unit.task(Purpose::Undo, 1), input: Some(input) }),
            Err(failure) => {
                self.emit(Event::CompensationFailed { step: unit.step, index: unit.index, failure });
            }
        }
        true
    }

    fn undo_input(&self, unit: Unit) -> Result<Payload, Failure> {
        let compensation = self.plan.steps[unit.step as usize].compensate.as_ref();
        if let Some(input) = compensation.and_then(|compensation| compensation.input.as_ref()) {
            return input.evaluate(&View::of_unit(self.state, unit));
        }
        let run = self.state.run(unit);
        let input = run.and_then(|run| run.input.as_ref()).map_or("null", Payload::as_str);
        let output = run.and_then(|run| run.output.as_ref()).map_or("null", Payload::as_str);
        let text = format!(r#"{{"input":{input},"output":{output}}}"#);
        Ok(Payload::from_slice(text.as_bytes()).expect("JSON values by quoted names are a JSON object"))
    }
}
