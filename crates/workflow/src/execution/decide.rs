//! Commands into events. Whatever is decided is applied before the next thing is, so that what follows sees it.

use domain::{Payload, SignalId, Timestamp};

use super::{
    Execution,
    apply::Applier,
    scope::View,
    state::{Phase, State, Unit},
};
use crate::{
    Ballot, Command, Event, Failure, Plan, Purpose, Rejected, Start, StepIndex, TaskKey, Voter,
    command::MOST_SIGNALS,
    decision::{Question, sound},
    expression,
    plan::{OnFailure, StepKind},
};

/// One transition in the making.
pub(super) struct Decider<'a> {
    pub(super) state: &'a mut State,
    pub(super) plan: &'a Plan,
    pub(super) now: Timestamp,
    pub(super) events: Vec<Event>,
}

impl Execution {
    /// Decides a command and everything that follows from it, and applies the events as they are decided. The shell gives
    /// each the next sequence number. Nothing has happened before they are committed: on a failed commit the shell drops
    /// this state and replays the log.
    pub fn transition(&mut self, command: Command, now: Timestamp) -> Result<Vec<Event>, Rejected> {
        let mut decider = Decider { state: &mut self.state, plan: &self.plan, now, events: Vec::new() };
        let decided = decider.command(command).map(|()| decider.settle());
        let events = decider.events;
        expression::forget();
        decided.map(|()| events)
    }
}

impl Decider<'_> {
    pub(super) fn emit(&mut self, event: Event) {
        Applier { state: self.state, plan: self.plan, at: self.now }.apply(&event);
        self.events.push(event);
    }

    fn command(&mut self, command: Command) -> Result<(), Rejected> {
        if let Command::Start(start) = command {
            return self.start(start);
        }
        if self.state.head.is_none() {
            return Err(Rejected::AlreadyStarted);
        }
        match command {
            Command::Start(_) | Command::Tick => Ok(()),
            Command::TaskEnded { task, agent_id, begun_at, outcome } => {
                if self.state.out.contains(&task) {
                    let report = Report { task, agent_id, begun_at };
                    self.task_ended(report, outcome);
                }
                Ok(())
            }
            Command::VotersFound { step, voters } => {
                self.voters_found(step, voters);
                Ok(())
            }
            Command::Signal { id, name, payload, sender } => self.signal(id, name, payload, sender),
            Command::Cancel { reason } => self.cancel(reason),
            Command::Pause => self.pause(),
            Command::Resume => self.resume(),
            Command::Retry { lost } => self.retry(lost.as_deref()),
        }
    }

    fn start(&mut self, start: Start) -> Result<(), Rejected> {
        if self.state.head.is_some() {
            return Err(Rejected::AlreadyStarted);
        }
        self.emit(Event::Accepted {
            execution_id: start.execution_id,
            namespace: start.namespace,
            workflow_id: start.workflow_id,
            workflow_name: self.plan.name.clone(),
            workflow_version: start.workflow_version,
            input: start.input,
            deadline: self.plan.timeout.map(|timeout| self.now + timeout),
            traceparent: start.traceparent,
        });
        Ok(())
    }

    fn task_ended(&mut self, report: Report, outcome: Result<Payload, Failure>) {
        let Report { task, agent_id, begun_at } = report;
        let unit = Unit::of(task);
        let is_vote = matches!(self.plan.steps[task.step as usize].kind, StepKind::Decision(_));
        match (task.purpose, outcome) {
            (Purpose::Undo, Ok(_)) => self.emit(Event::StepCompensated { step: task.step, index: task.index }),
            (Purpose::Work, Ok(result)) if is_vote => match self.read_ballot(task, &result) {
                Ok(ballot) => {
                    let voter = task.index.unwrap_or_default();
                    self.emit(Event::BallotCast { step: task.step, voter, ballot });
                    self.close_if_complete(task.step);
                }
                Err(failure) => self.attempt_failed(report, failure),
            },
            (Purpose::Work, Ok(output)) => {
                let (step, index) = (unit.step, unit.index);
                self.emit(Event::StepCompleted { step, index, output: Some(output), agent_id, begun_at });
                if index.is_some() && self.state.steps[step as usize].open == 0 {
                    self.complete(step, None);
                }
            }
            (Purpose::Work | Purpose::Undo, Err(failure)) => self.attempt_failed(report, failure),
        }
    }

    pub(super) fn complete(&mut self, step: StepIndex, output: Option<Payload>) {
        self.emit(Event::StepCompleted { step, index: None, output, agent_id: None, begun_at: None });
    }

    fn attempt_failed(&mut self, report: Report, failure: Failure) {
        let Report { task, agent_id, .. } = report;
        let retry = &self.plan.steps[task.step as usize].retry;
        let attempts = match (&self.state.undo, task.purpose) {
            (Some(undo), Purpose::Undo) => undo.run.attempts(),
            _ => self.state.run(Unit::of(task)).map_or(u32::MAX, super::state::Run::attempts),
        };
        let Some(head) = self.state.head.as_ref() else { return };
        if failure.retryable && attempts < retry.max_attempts {
            let at = self.now + super::state::backoff(retry, head.id, task, attempts);
            return self.emit(Event::StepRetrying { task, failure, at, agent_id });
        }
        let (step, index) = (task.step, task.index);
        match (task.purpose, &self.plan.steps[step as usize].kind, index) {
            (Purpose::Undo, _, _) => self.emit(Event::CompensationFailed { step, index, failure }),
            (Purpose::Work, StepKind::Decision(_), Some(voter)) => {
                self.emit(Event::BallotMissed { step, voter, failure });
                self.close_if_complete(step);
            }
            (Purpose::Work, _, Some(_)) => {
                self.emit(Event::StepFailed { step, index, failure: failure.clone(), agent_id, fallback: None });
                self.fail(step, failure, None);
            }
            (Purpose::Work, _, None) => self.fail(step, failure, agent_id),
        }
    }

    /// A step has failed for good: `on_failure` says what that means.
    pub(super) fn fail(&mut self, step: StepIndex, failure: Failure, agent_id: Option<domain::AgentId>) {
        let evaluated = match &self.plan.steps[step as usize].on_failure {
            OnFailure::Fail => Ok(None),
            OnFailure::Continue(output) => output.evaluate(&View::of_step(self.state, step)).map(Some),
        };
        let (failure, fallback) = match evaluated {
            Ok(fallback) => (failure, fallback),
            // What should have saved it failed too, and that is what somebody has to mend.
            Err(failure) => (failure, None),
        };
        self.emit(Event::StepFailed { step, index: None, failure, agent_id, fallback });
    }

    fn read_ballot(&self, task: TaskKey, result: &Payload) -> Result<Ballot, Failure> {
        let StepKind::Decision(decision) = &self.plan.steps[task.step as usize].kind else {
            return Err(Failure::fatal("invalid_ballot", "the step is no decision"));
        };
        let input = self.state.steps[task.step as usize].run.input.clone().unwrap_or_else(Payload::null);
        let question = Question::from_payload(&input)?;
        Ballot::from_payload(result, &question.options, decision.strategy)
    }

    fn voters_found(&mut self, step: StepIndex, voters: Vec<Voter>) {
        let Some(run) = self.state.steps.get(step as usize) else { return };
        let wants_voters = matches!(run.run.phase, Phase::Deciding(_)) && run.voters.is_empty();
        if wants_voters && !voters.is_empty() {
            // JSON has no NaN and no infinity: a log with one would not read back.
            let voters = voters.into_iter().map(|voter| Voter { weight: sound(voter.weight), ..voter }).collect();
            self.emit(Event::VotersChosen { step, voters });
        }
    }

    fn signal(&mut self, id: SignalId, name: String, payload: Payload, sender: String) -> Result<(), Rejected> {
        if self.state.signals.contains(&id) {
            return Ok(());
        }
        if self.state.end.is_some() || self.state.compensating {
            return Err(Rejected::Ended);
        }
        let Some(mailbox) = self.state.mailboxes.get(&name) else { return Err(Rejected::UnknownSignal) };
        let waiting = mailbox.waiting.front().copied();
        // They live as long as the execution: a client in a loop must not fill memory and log.
        if waiting.is_none() && mailbox.kept.len() >= MOST_SIGNALS {
            return Err(Rejected::TooManySignals);
        }
        self.emit(Event::SignalReceived { id, name, payload, sender });
        if let Some(step) = waiting {
            self.complete(step, None);
        }
        Ok(())
    }

    fn cancel(&mut self, reason: String) -> Result<(), Rejected> {
        if self.state.end.is_some() {
            return Err(Rejected::Ended);
        }
        // Once it is being undone its end is settled, and asking twice is asking once.
        if !self.state.compensating && self.state.cancel.is_none() {
            self.emit(Event::CancelRequested { reason });
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<(), Rejected> {
        if self.state.end.is_some() || self.state.compensating {
            return Err(Rejected::Ended);
        }
        if self.state.paused.is_none() {
            self.emit(Event::Paused);
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Rejected> {
        if self.state.end.is_some() {
            return Err(Rejected::Ended);
        }
        if self.state.paused.is_some() {
            self.emit(Event::Resumed);
        }
        Ok(())
    }

    fn retry(&mut self, lost: Option<&str>) -> Result<(), Rejected> {
        if lost.is_some_and(|task| self.was_retried_since(task)) {
            return Ok(());
        }
        if !matches!(self.state.end, Some((super::state::End::Failed, _))) {
            return Err(Rejected::NotFailed);
        }
        if self.state.was_compensated {
            return Err(Rejected::Compensated);
        }
        // A failed step with an output went on with its fallback.
        let lost = |run: &super::state::StepRun| match run.run.phase {
            Phase::Failed => run.run.output.is_none(),
            Phase::Cancelled => true,
            _ => false,
        };
        let steps = self.state.steps.iter().enumerate().filter(|(_, run)| lost(run)).map(|(step, _)| step as StepIndex);
        let deadline = self.plan.timeout.map(|timeout| self.now + timeout);
        let event = Event::Retried { steps: steps.collect(), deadline };
        self.emit(event);
        Ok(())
    }

    /// Has the step of this task begun afresh since? Attempts count on, so those before the last retry are known.
    fn was_retried_since(&self, task: &str) -> bool {
        let Some((execution, task)) = self.plan.parse_task_id(task) else { return false };
        let is_ours = self.state.head.as_ref().is_some_and(|head| head.id == execution);
        // A decision that opens anew forgets its voters, and counts on from their attempts.
        let units = [Unit::of(task), Unit { step: task.step, index: None }];
        let began_after = |unit| self.state.run(unit).is_some_and(|run| run.attempts_before >= task.attempt);
        is_ours && task.purpose == Purpose::Work && units.into_iter().any(began_after)
    }
}

/// Who ended which task.
#[derive(Clone, Copy)]
struct Report {
    task: TaskKey,
    agent_id: Option<domain::AgentId>,
    begun_at: Option<Timestamp>,
}
