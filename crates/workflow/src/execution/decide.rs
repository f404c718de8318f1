//! Commands into events. Whatever is decided is applied before the next thing is, so that what follows sees it.

use domain::{Payload, SignalId, Timestamp};

use super::{
    Execution,
    apply::{Applier, Cut},
    derived::backoff,
    scope::View,
    state::{End, Phase, Run, State, StepRun},
};
use crate::{
    Ballot, Command, Effect, Event, Failure, Holder, Plan, Purpose, Rejected, Start, StepIndex, TaskKey, Unit, Voter,
    command::MOST_SIGNALS,
    decision::{Question, sound},
    expression,
    plan::{OnFailure, StepKind},
};

/// Signals of all names that an execution keeps.
const MOST_SIGNALS_IN_ALL: usize = 10 * MOST_SIGNALS;

/// What a command made of an execution: the events to commit, and what is to be done once they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transition {
    /// In their order.
    pub events: Vec<Event>,
    /// In their order.
    pub effects: Vec<Effect>,
}

/// One transition in the making.
pub(super) struct Decider<'a> {
    pub(super) state: &'a mut State,
    pub(super) plan: &'a Plan,
    pub(super) now: Timestamp,
    pub(super) events: Vec<Event>,
    pub(super) cut: Cut,
}

impl Execution {
    /// Decides a command and everything that follows from it, and applies the events as they are decided. The shell gives
    /// each the next sequence number. Nothing has happened before they are committed: on a failed commit the shell drops
    /// this state and replays the log.
    pub fn transition(&mut self, command: Command, now: Timestamp) -> Result<Transition, Rejected> {
        let mut decider =
            Decider { state: &mut self.state, plan: &self.plan, now, events: Vec::new(), cut: Cut::default() };
        let decided = decider.command(command).map(|()| decider.settle());
        let Decider { events, cut, .. } = decider;
        expression::forget();
        decided.map(|()| {
            let effects = self.effects(&events, cut);
            Transition { events, effects }
        })
    }
}

impl<'a> Decider<'a> {
    pub(super) fn emit(&mut self, event: Event) {
        Applier::new(self.state, self.plan, self.now, &mut self.cut).apply(&event);
        self.events.push(event);
    }

    pub(super) fn step_of(&self, unit: Unit) -> &'a crate::plan::Step {
        &self.plan.steps[unit.step as usize]
    }

    fn command(&mut self, command: Command) -> Result<(), Rejected> {
        if let Command::Start(start) = command {
            return self.start(start);
        }
        if self.state.head.is_none() {
            return Err(Rejected::AlreadyStarted);
        }
        match command {
            Command::Start(_) | Command::Tick => {}
            Command::TaskEnded { task, agent_id, begun_at, outcome } => {
                if self.state.out.contains(&task) || self.state.errands.contains_key(&task) {
                    self.task_ended(Report { task, agent_id, begun_at }, outcome);
                }
            }
            Command::VotersFound { unit, voters } => self.voters_found(unit, voters),
            Command::Granted { holder } => self.granted(holder),
            Command::Signal { id, name, payload, sender } => return self.signal(id, &name, payload, sender),
            Command::Cancel { reason } => return self.cancel(reason),
            Command::Pause => return self.pause(),
            Command::Resume => return self.resume(),
            Command::Retry { lost } => return self.retry(lost.as_deref()),
        }
        Ok(())
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
            parent: start.parent,
        });
        self.take_turn();
        Ok(())
    }

    fn task_ended(&mut self, report: Report, outcome: Result<Payload, Failure>) {
        let unit = report.task.unit;
        let is_vote = self.state.frames.get(unit.frame).is_some_and(|frame| frame.scope.is_none());
        match (report.task.purpose, outcome) {
            (Purpose::Undo, Ok(_)) => self.emit(Event::StepCompensated { unit }),
            (Purpose::Undo, Err(failure)) => self.undo_failed(report, failure),
            (Purpose::Work, outcome) if is_vote => self.voted(report, outcome),
            (Purpose::Work, Ok(output)) => self.unit_done(unit, Some(output), Some(report)),
            (Purpose::Work, Err(failure)) => self.attempt_failed(report, failure),
        }
    }

    fn voted(&mut self, report: Report, outcome: Result<Payload, Failure>) {
        let vote = report.task.unit;
        let Some(unit) = self.state.frames.get(vote.frame).and_then(|frame| frame.parent) else { return };
        let voter = vote.index.unwrap_or_default();
        match outcome.and_then(|result| self.read_ballot(unit, &result)) {
            Ok(ballot) => self.emit(Event::BallotCast { unit, voter, ballot }),
            Err(failure) => match self.next_attempt(report.task, &failure) {
                Some(at) => {
                    let Report { task, agent_id, .. } = report;
                    return self.emit(Event::StepRetrying { task, failure, at, agent_id });
                }
                None => self.emit(Event::BallotMissed { unit, voter, failure }),
            },
        }
        self.close_if_complete(unit);
    }

    fn read_ballot(&self, unit: Unit, result: &Payload) -> Result<Ballot, Failure> {
        let StepKind::Decision(decision) = &self.step_of(unit).kind else {
            return Err(Failure::fatal("invalid_ballot", "the step is no decision"));
        };
        let input = self.state.run(unit).and_then(|run| run.input.clone()).unwrap_or_else(Payload::null);
        let question = Question::from_payload(&input)?;
        Ballot::from_payload(result, &question.options, decision.strategy)
    }

    /// When the next attempt is due, where there is one.
    fn next_attempt(&self, task: TaskKey, failure: &Failure) -> Option<Timestamp> {
        let step = self.step_of(task.unit);
        let run = self.state.run(task.unit)?;
        let attempts = match task.purpose {
            Purpose::Undo => run.undo.as_ref()?.attempts(),
            Purpose::Work => run.attempts(),
        };
        // A group that is to be tried again is, whatever failed in it.
        let is_group = matches!(step.kind, StepKind::Block(_) | StepKind::Workflow(_));
        let may_help = failure.retryable || (is_group && task.purpose == Purpose::Work);
        let head = self.state.head.as_ref()?;
        (may_help && attempts < step.retry.max_attempts)
            .then(|| self.now + backoff(&step.retry, head.id, task, attempts))
    }

    pub(super) fn attempt_failed(&mut self, report: Report, failure: Failure) {
        let Report { task, agent_id, .. } = report;
        match self.next_attempt(task, &failure) {
            Some(at) => self.emit(Event::StepRetrying { task, failure, at, agent_id }),
            None => self.fail(task.unit, failure, agent_id),
        }
    }

    fn undo_failed(&mut self, report: Report, failure: Failure) {
        let Report { task, agent_id, .. } = report;
        match self.next_attempt(task, &failure) {
            Some(at) => self.emit(Event::StepRetrying { task, failure, at, agent_id }),
            None => self.emit(Event::CompensationFailed { unit: task.unit, failure }),
        }
    }

    /// A unit has failed for good; with an instance its step has.
    pub(super) fn fail(&mut self, unit: Unit, failure: Failure, agent_id: Option<domain::AgentId>) {
        if unit.index.is_none() {
            return self.fail_step(unit, failure, agent_id);
        }
        self.emit(Event::StepFailed { unit, failure: failure.clone(), agent_id, fallback: None });
        let step = unit.whole();
        if self.state.phase(step).is_open() {
            self.fail_step(step, failure, None);
        } else if matches!(self.step_of(step).on_failure, OnFailure::Fail) {
            // The step has ended already and left the instance to itself.
            let step_id = failure.step_id.clone().or_else(|| Some(self.step_of(step).id.clone()));
            let frame = self.state.home(unit.frame);
            self.emit(Event::ScopeFailed { frame, failure: Failure { step_id, ..failure } });
        }
    }

    /// A step has failed for good: `on_failure` says what that means.
    fn fail_step(&mut self, unit: Unit, failure: Failure, agent_id: Option<domain::AgentId>) {
        let evaluated = match &self.step_of(unit).on_failure {
            OnFailure::Fail => Ok(None),
            OnFailure::Continue(output) => {
                output.evaluate(&View::of_frame(self.state, self.plan, unit.frame)).map(Some)
            }
        };
        let (failure, fallback) = match evaluated {
            Ok(fallback) => (failure, fallback),
            // What should have saved it failed too, and that is what somebody has to mend.
            Err(failure) => (failure, None),
        };
        self.emit(Event::StepFailed { unit, failure, agent_id, fallback });
    }

    fn voters_found(&mut self, unit: Unit, voters: Vec<Voter>) {
        if self.state.wants_voters(unit) && !voters.is_empty() {
            // JSON has no NaN and no infinity: a log with one would not read back.
            let voters = voters.into_iter().map(|voter| Voter { weight: sound(voter.weight), ..voter }).collect();
            self.emit(Event::VotersChosen { unit, voters });
        }
    }

    fn granted(&mut self, holder: Holder) {
        match holder {
            Holder::Execution if self.state.is_queued() => self.emit(Event::TurnTaken),
            Holder::Execution => {}
            Holder::Unit(unit) => {
                let run = self.state.run(unit);
                let held = run.filter(|run| run.phase == Phase::Locking).and_then(|run| run.mutex.as_ref());
                let name = held.filter(|held| held.is_outside() && !held.taken).map(|held| held.key.name.clone());
                if let Some(name) = name {
                    self.emit(Event::MutexTaken { unit, name });
                }
            }
        }
    }

    fn signal(&mut self, id: SignalId, name: &str, payload: Payload, sender: String) -> Result<(), Rejected> {
        if self.state.signals.contains(&id) {
            return Ok(());
        }
        if self.state.end.is_some() || self.state.frames.root().closing.is_some() {
            return Err(Rejected::Ended);
        }
        let Some(keeps) = self.plan.keeps_signal(name) else { return Err(Rejected::UnknownSignal) };
        let mailbox = self.state.mailboxes.get(name);
        let waiting = mailbox.and_then(|mailbox| mailbox.waiting.front().copied());
        // They live as long as the execution: a client in a loop must not fill memory and log.
        let kept = mailbox.map_or(0, |mailbox| mailbox.kept.len());
        let kept_in_all = || self.state.mailboxes.values().map(|mailbox| mailbox.kept.len()).sum::<usize>();
        if waiting.is_none() && keeps && (kept >= MOST_SIGNALS || kept_in_all() >= MOST_SIGNALS_IN_ALL) {
            return Err(Rejected::TooManySignals);
        }
        let dropped = waiting.is_none() && !keeps;
        self.emit(Event::SignalReceived { id, name: name.to_owned(), payload, sender, dropped });
        // Whoever fails over it (its loop has gone on for too long) leaves it to the next.
        while let Some(mailbox) = self.state.mailboxes.get(name).filter(|mailbox| mailbox.kept.len() > kept) {
            let Some(&unit) = mailbox.waiting.front() else { break };
            self.unit_done(unit, None, None);
        }
        Ok(())
    }

    fn cancel(&mut self, reason: String) -> Result<(), Rejected> {
        if self.state.end.is_some() {
            return Err(Rejected::Ended);
        }
        // Once it is lost its end is settled, and asking twice is asking once.
        if self.state.frames.root().closing.is_none() {
            self.emit(Event::CancelRequested { reason });
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<(), Rejected> {
        if self.state.end.is_some() || self.state.is_compensating() {
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
        if matches!(self.state.end, Some((End::Failed | End::Cancelled, _))) && !self.state.not_undone.is_empty() {
            self.emit(Event::CompensationResumed);
            return Ok(());
        }
        if !matches!(self.state.end, Some((End::Failed, _))) {
            return Err(Rejected::NotFailed);
        }
        if self.state.was_compensated {
            return Err(Rejected::Compensated);
        }
        // A failed step with an output went on with its fallback.
        let is_lost = |step: &StepRun| match step.run.phase {
            Phase::Failed => step.run.output.is_none(),
            Phase::Cancelled => true,
            // It left instances to themselves, and not all of them completed.
            Phase::Completed => {
                let left = |run: &Run| matches!(run.phase, Phase::Cancelled | Phase::Failed);
                step.instances().iter().any(left) && step.run.output.as_ref().is_some_and(Payload::is_null)
            }
            _ => false,
        };
        let root = self.state.frames.root();
        let steps = root.steps.iter().enumerate().filter(|(_, step)| is_lost(step));
        let steps = steps.map(|(place, _)| root.first + place as StepIndex).collect();
        let deadline = self.plan.timeout.map(|timeout| self.now + timeout);
        self.emit(Event::Retried { steps, deadline });
        self.take_turn();
        Ok(())
    }

    /// Has the step of this task begun afresh since? Attempts count on, so those before the last retry are known.
    fn was_retried_since(&self, task: &str) -> bool {
        let Some((execution, task)) = self.plan.parse_task_id(task) else { return false };
        let is_ours = self.state.head.as_ref().is_some_and(|head| head.id == execution);
        let unit = task.unit;
        let root = self.state.frames.root_id();
        // What is inside a block or a vote begins in another frame, so that its old one is over.
        let is_over = unit.frame != root && self.state.run(unit).is_none_or(|run| !run.phase.is_open());
        let began_after = |unit| self.state.run(unit).is_some_and(|run| run.attempts_before >= task.attempt);
        let is_running = self.state.end.is_none();
        is_ours && task.purpose == Purpose::Work && (began_after(unit) || (is_over && is_running))
    }
}

/// Who ended which task.
#[derive(Clone, Copy)]
pub(super) struct Report {
    pub(super) task: TaskKey,
    pub(super) agent_id: Option<domain::AgentId>,
    pub(super) begun_at: Option<Timestamp>,
}
