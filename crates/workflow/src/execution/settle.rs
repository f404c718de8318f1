//! What follows by itself: everything that is due, ready or over, until nothing is.
//!
//! The work grows with what happens, not with the size of the definition: a step is looked at when its join settles, a
//! timer when it is due, a scope when its last step has ended, and a slot when it is free.

use domain::Payload;

use super::{
    apply::list,
    decide::{Decider, Report},
    scope::View,
    state::StepRun,
};
use crate::{
    Event, Failure, FrameId, Purpose, Unit,
    decision::{Question, tally},
    expression::within_limit,
    plan::{Concurrency, OnTimeout, StepKind, Test},
};

/// Why a voter that had not voted by the deadline is missing.
pub(crate) const DEADLINE: &str = "deadline";
/// Entries that follow from one command: more than the largest `for_each` makes.
const MOST_AT_ONCE: usize = 500_000;

impl Decider<'_> {
    /// Goes on until it is quiet.
    pub(super) fn settle(&mut self) {
        while self.state.head.is_some() && self.state.end.is_none() && self.advance() {
            if self.events.len() > MOST_AT_ONCE && self.state.frames.root().closing.is_none() {
                let message = "it goes round and round, and waits for nothing on the way";
                self.lose(self.state.frames.root_id(), Failure::fatal("runaway", message));
            }
        }
    }

    /// One thing that can be done now; false where there is none.
    fn advance(&mut self) -> bool {
        if self.advance_closing() {
            return true;
        }
        let root = self.state.frames.root_id();
        if self.state.frames.root().closing.is_some() {
            return false;
        }
        if self.state.deadline.is_some_and(|deadline| deadline <= self.now) {
            let timeout = self.plan.timeout.unwrap_or_default();
            let message = format!("the execution did not end within {}", humantime::format_duration(timeout));
            return self.lose(root, Failure::fatal("execution_timeout", message));
        }
        let most = self.plan.max_history;
        if self.state.sequence - self.state.began_at > most {
            let message = format!("its history has more than {most} entries; end it with `continued` before that");
            return self.lose(root, Failure::fatal("history_too_long", message));
        }
        if self.advance_race() || self.advance_timer() {
            return true;
        }
        if let Some(&frame) = self.state.ripe.first() {
            return self.finish(frame);
        }
        self.state.paused.is_none() && !self.state.is_queued() && self.advance_work()
    }

    pub(super) fn lose(&mut self, frame: FrameId, failure: Failure) -> bool {
        self.emit(Event::ScopeFailed { frame, failure });
        true
    }

    /// It waits for its turn before anything begins.
    pub(super) fn take_turn(&mut self) {
        let Some(Concurrency { key, limit }) = &self.plan.concurrency else { return };
        let root = self.state.frames.root_id();
        match key.evaluate_text(&View::of_frame(self.state, self.plan, root)) {
            Ok(key) => self.emit(Event::TurnAwaited { key, limit: *limit }),
            Err(failure) => {
                self.lose(root, failure);
            }
        }
    }

    /// The losers of a race that is over.
    fn advance_race(&mut self) -> bool {
        let Some(&race) = self.state.races.front() else { return false };
        let rest = self.step_of(race).cancel_rest.iter().map(|step| Unit { step: *step, ..race });
        let Some(loser) = rest.into_iter().find(|unit| self.state.phase(*unit).is_open()) else { return false };
        self.emit(Event::StepWithdrawn { unit: loser, by: race.step });
        true
    }

    /// Waits that are over.
    fn advance_timer(&mut self) -> bool {
        let Some(&(_, unit)) = self.state.timers.first().filter(|(due, _)| *due <= self.now) else { return false };
        let step = self.step_of(unit);
        match &step.kind {
            StepKind::Sleep(_) | StepKind::SleepUntil(_) => self.unit_done(unit, Some(Payload::null()), None),
            StepKind::Signal { on_timeout, .. } => self.signal_late(unit, on_timeout),
            StepKind::Decision(_) => self.close_at_deadline(unit),
            StepKind::Block(_) => {
                let Some(inner) = self.state.run(unit).and_then(|run| run.inner) else { return false };
                // The scope is lost as a whole, and its unit fails once everything in it is undone.
                if self.state.frames.get(inner).is_some_and(|frame| frame.closing.is_some()) {
                    return false;
                }
                return self.lose(inner, Failure::timeout(step.timeout.unwrap_or_default()));
            }
            StepKind::Workflow(_) => {
                let Some(run) = self.state.run(unit) else { return false };
                let task = unit.task(Purpose::Work, run.attempt);
                let failure = Failure::timeout(step.timeout.unwrap_or_default());
                self.cut_child(task);
                self.attempt_failed(Report { task, agent_id: None, begun_at: None }, failure);
            }
            // Only waits have timers.
            StepKind::Task { .. } | StepKind::Emit(_) | StepKind::Cancel(_) | StepKind::End(_) => return false,
        }
        true
    }

    fn signal_late(&mut self, unit: Unit, on_timeout: &OnTimeout) {
        let name = self.state.run(unit).and_then(|run| run.signal.clone()).unwrap_or_default();
        match on_timeout {
            OnTimeout::Fail => {
                let message = format!("the signal `{name}` did not come in time");
                self.fail(unit, Failure::fatal("signal_timeout", message), None);
            }
            OnTimeout::Reject => {
                let output = serde_json::json!({ "approved": false, "timed_out": true });
                self.unit_done(unit, Some(Payload::from_value(&output)), None);
            }
            OnTimeout::Continue(output) => match output.evaluate(&View::of_work(self.state, self.plan, unit)) {
                Ok(output) => self.unit_done(unit, Some(output), None),
                Err(failure) => self.fail(unit, failure, None),
            },
        }
    }

    /// Units that can begin, then tasks while there are slots: due retries first, they are older.
    fn advance_work(&mut self) -> bool {
        if let Some(mutex) = self.state.free_mutexes.first().and_then(|key| Some((key, self.state.mutexes.get(key)?))) {
            let (key, mutex) = mutex;
            let next = mutex.waiting.iter().find(|unit| self.state.may_take(mutex, **unit));
            if let Some(&unit) = next {
                let name = key.name.clone();
                self.emit(Event::MutexTaken { unit, name });
                return true;
            }
        }
        if let Some(&unit) = self.state.due.front() {
            self.begin(unit);
            return true;
        }
        if let Some(&(_, unit)) = self.state.reentries.first().filter(|(due, _)| *due <= self.now) {
            self.begin_unit(unit);
            return true;
        }
        if self.state.is_full(self.plan) {
            return false;
        }
        if let Some(&(_, unit)) = self.state.retries.first().filter(|(due, _)| *due <= self.now) {
            let attempt = self.state.run(unit).map_or(1, |run| run.attempt + 1);
            self.emit(Event::StepScheduled { task: unit.task(Purpose::Work, attempt), input: None });
            return true;
        }
        if let Some(&unit) = self.state.queue.front() {
            self.begin(unit);
            return true;
        }
        false
    }

    /// A unit's work is done, for this iteration: what comes next?
    pub(super) fn unit_done(&mut self, unit: Unit, output: Option<Payload>, report: Option<Report>) {
        match self.goes_on(unit, output.as_ref()) {
            Ok(true) => return self.emit(Event::StepRepeated { unit, output }),
            Ok(false) => {}
            Err(failure) => return self.fail(unit, failure, None),
        }
        let (agent_id, begun_at) = report.map(|report| (report.agent_id, report.begun_at)).unwrap_or_default();
        self.emit(Event::StepCompleted { unit, output, agent_id, begun_at });
        if unit.index.is_some() {
            self.instance_done(unit);
        }
    }

    /// Does the loop of the unit go on after this output?
    fn goes_on(&self, unit: Unit, output: Option<&Payload>) -> Result<bool, Failure> {
        let Some(repeat) = &self.step_of(unit).repeat else { return Ok(false) };
        // A signal's payload is in its mailbox until the event takes it.
        let run = self.state.run(unit);
        let kept = || {
            let name = run?.signal.as_ref()?;
            self.state.mailboxes.get(&**name)?.kept.front()
        };
        let last = output.or_else(kept);
        let iteration = run.map_or(0, |run| run.iteration);
        let (condition, wanted, at) = match &repeat.test {
            Test::While(condition) => (condition, true, iteration + 1),
            Test::Until(condition) => (condition, false, iteration),
        };
        let view = View::of_test(self.state, self.plan, unit, last, at);
        let goes_on = condition.evaluate(&view)? == wanted;
        if goes_on && iteration + 1 >= repeat.max_iterations {
            let message = format!("the loop did not end within {} iterations", repeat.max_iterations);
            return Err(Failure::fatal("too_many_iterations", message));
        }
        Ok(goes_on)
    }

    /// Is a `for_each` done with this instance?
    pub(super) fn instance_done(&mut self, unit: Unit) {
        let step = unit.whole();
        if !self.state.phase(step).is_open() {
            return;
        }
        let Some(many) = self.state.step(step).and_then(|step| step.many.as_ref()) else { return };
        let results = (many.completed, many.instances.len() as u32);
        let is_over = many.open == 0;
        let condition = self.step_of(step).for_each.as_ref().and_then(|for_each| for_each.complete_when.as_ref());
        let is_enough = match condition.filter(|_| !is_over) {
            None => Ok(is_over),
            Some(condition) => {
                let last = self.state.run(unit).and_then(|run| run.output.as_ref());
                condition.evaluate(&View::of_results(self.state, self.plan, step, last, results))
            }
        };
        match is_enough {
            Ok(true) => self.complete(step, None),
            Ok(false) => {}
            Err(failure) => self.fail(step, failure, None),
        }
    }

    /// A step has ended well as a whole.
    pub(super) fn complete(&mut self, unit: Unit, output: Option<Payload>) {
        self.emit(Event::StepCompleted { unit, output, agent_id: None, begun_at: None });
    }

    /// Nobody waits beyond a decision's deadline: who has not voted is missing.
    fn close_at_deadline(&mut self, unit: Unit) {
        for voter in self.missing_voters(unit) {
            let failure = Failure::fatal(DEADLINE, "no ballot before the deadline");
            self.emit(Event::BallotMissed { unit, voter, failure });
        }
        self.close(unit);
    }

    fn missing_voters(&self, unit: Unit) -> Vec<u32> {
        let instances = self.votes(unit).map(StepRun::instances).unwrap_or_default().iter().enumerate();
        instances.filter(|(_, run)| run.phase.is_open()).map(|(voter, _)| voter as u32).collect()
    }

    fn votes(&self, unit: Unit) -> Option<&StepRun> {
        let inner = self.state.run(unit)?.inner?;
        self.state.step(Unit { frame: inner, step: unit.step, index: None })
    }

    pub(super) fn close_if_complete(&mut self, unit: Unit) {
        let is_complete = self.votes(unit).and_then(|votes| votes.many.as_ref()).is_some_and(|many| many.open == 0);
        if is_complete {
            self.close(unit);
        }
    }

    /// Counts the ballots that are in.
    fn close(&mut self, unit: Unit) {
        let StepKind::Decision(decision) = &self.step_of(unit).kind else { return };
        let input = self.state.run(unit).and_then(|run| run.input.clone()).unwrap_or_else(Payload::null);
        let none = super::state::Many::default();
        let many = self.votes(unit).and_then(|votes| votes.many.as_deref()).unwrap_or(&none);
        let outcome = Question::from_payload(&input).and_then(|question| {
            let late = Failure::fatal(DEADLINE, "no ballot before the deadline");
            let votes = many.voters.iter().zip(&many.ballots).zip(&many.instances);
            let (mut cast, mut missing) = (Vec::new(), Vec::new());
            for ((voter, ballot), run) in votes {
                match ballot {
                    Some(ballot) => cast.push((voter, ballot)),
                    None => missing.push((voter, run.failure.as_deref().unwrap_or(&late))),
                }
            }
            tally(&question, decision.strategy, decision.quorum, &cast, &missing)
        });
        match outcome {
            Ok(record) => self.unit_done(unit, Some(record.to_payload()), None),
            Err(failure) => self.fail(unit, failure, None),
        }
    }

    /// Every step of a scope has ended.
    fn finish(&mut self, id: FrameId) -> bool {
        let output = match self.scope_output(id) {
            Ok(output) => output,
            Err(failure) => return self.lose(id, failure),
        };
        match self.state.frames.get(id).and_then(|frame| frame.parent) {
            Some(unit) => self.unit_done(unit, Some(output), None),
            None => self.emit(Event::Completed { output }),
        }
        true
    }

    fn scope_output(&self, id: FrameId) -> Result<Payload, Failure> {
        let scope = self.state.frames.get(id).and_then(|frame| frame.scope).unwrap_or_default();
        match &self.plan.scopes[scope as usize].output {
            Some(output) => output.evaluate(&View::of_frame(self.state, self.plan, id)),
            None => {
                let output = self.default_output(id);
                within_limit(output.as_str().len()).map(|()| output)
            }
        }
    }

    /// An object with the outputs of the steps that nothing depends on.
    fn default_output(&self, id: FrameId) -> Payload {
        let mut text = String::from("{");
        if let Some(frame) = self.state.frames.get(id) {
            let steps = self.plan.steps[frame.first as usize..].iter().zip(&frame.steps);
            for (plan, step) in steps.filter(|(plan, _)| plan.dependents.is_empty()) {
                if text.len() > 1 {
                    text.push(',');
                }
                text.push_str(&serde_json::Value::from(plan.id.as_str()).to_string());
                text.push(':');
                text.push_str(step.run.output.as_ref().map_or("null", Payload::as_str));
            }
        }
        text.push('}');
        Payload::from_slice(text.as_bytes()).expect("JSON values by quoted names are a JSON object")
    }

    /// The empty list, for a `for_each` over nothing.
    pub(super) fn nothing() -> Payload {
        list(std::iter::empty())
    }

    /// A child execution that is not waited for any more.
    fn cut_child(&mut self, task: crate::TaskKey) {
        if self.step_of(task.unit).detach {
            return;
        }
        if let Some(child) = self.state.child(task) {
            self.cut.children.push((child, "the attempt has timed out"));
        }
    }
}
