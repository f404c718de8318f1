//! Scopes that are lost, or ended by a step: withdraw what runs, undo what completed, and end.

use domain::Payload;

use super::{
    decide::{Decider, Report},
    frame::Closing,
    scope::View,
};
use crate::{Carried, Ending, Event, Failure, FrameId, KeptSignal, Purpose, Unit};

/// How many ids of signals the next run remembers, the newest, besides as many as there are signals that nobody took. Each run
/// has all of them in its log, also where it is one signal long.
const SIGNALS_CARRIED: usize = 256;

impl Decider<'_> {
    /// One thing to be done for a scope that is lost, the outermost first; false where all of them wait.
    pub(super) fn advance_closing(&mut self) -> bool {
        if let Some(&(_, unit)) = self.state.undo_retries.first().filter(|(due, _)| *due <= self.now) {
            let attempt = self.state.run(unit).and_then(|run| run.undo.as_ref()).map_or(1, |undo| undo.attempt + 1);
            self.emit(Event::StepScheduled { task: unit.task(Purpose::Undo, attempt), input: None });
            return true;
        }
        let closing: Vec<_> = self.state.closing.iter().copied().collect();
        closing.into_iter().any(|frame| self.close_scope(frame))
    }

    fn close_scope(&mut self, id: FrameId) -> bool {
        let Some(frame) = self.state.frames.get(id) else { return false };
        let Some(closing) = frame.closing.clone() else { return false };
        if let Some(unit) = self.at_work(id) {
            let reason = match (&*closing, frame.parent) {
                (Closing::Failed(_) | Closing::Ended(Ending::Failed(_)), None) => "the execution failed",
                (Closing::Cancelled(_) | Closing::Ended(Ending::Cancelled(_)), None) => "the execution was cancelled",
                (Closing::Ended(_), None) => "the execution ended",
                (_, Some(_)) => "its block failed",
            };
            self.emit(Event::StepCancelled { unit, reason: reason.to_owned() });
            return true;
        }
        let last = frame.undoable.last_key_value().map(|(_, unit)| *unit).filter(|_| !closing.keeps_work());
        let is_undoing = !frame.undoing.is_empty();
        if (is_undoing || last.is_some()) && !frame.compensating && !closing.keeps_work() {
            let failure = closing.failure().cloned();
            self.emit(Event::CompensationStarted { frame: id, failure });
            return true;
        }
        // One after the other; and what a scope inside was undoing comes first.
        if is_undoing {
            return false;
        }
        match last {
            Some(unit) => self.undo(unit),
            None => self.end_scope(id, *closing),
        }
        true
    }

    /// A step of the scope that is at work, or left instances to themselves that are.
    fn at_work(&self, id: FrameId) -> Option<Unit> {
        let mut inside = self.state.active.range(Unit { frame: id, step: 0, index: None }..);
        let active = inside.find(|unit| self.state.is_inside(unit.frame, id)).map(|unit| unit.whole());
        active.or_else(|| self.state.frames.loose().find(|unit| self.state.is_inside(unit.frame, id)))
    }

    fn undo(&mut self, unit: Unit) {
        match self.undo_input(unit) {
            Ok(input) => {
                let attempt = self.state.run(unit).map_or(1, |run| run.undo_attempts + 1);
                self.emit(Event::StepScheduled { task: unit.task(Purpose::Undo, attempt), input: Some(input) });
            }
            Err(failure) => self.emit(Event::CompensationFailed { unit, failure }),
        }
    }

    fn undo_input(&self, unit: Unit) -> Result<Payload, Failure> {
        let compensation = self.step_of(unit).compensate.as_ref();
        if let Some(input) = compensation.and_then(|compensation| compensation.input.as_ref()) {
            return input.evaluate(&View::of_instance(self.state, self.plan, unit));
        }
        let run = self.state.run(unit);
        let input = run.and_then(|run| run.input.as_ref()).map_or("null", Payload::as_str);
        let output = run.and_then(|run| run.output.as_ref()).map_or("null", Payload::as_str);
        let text = format!(r#"{{"input":{input},"output":{output}}}"#);
        Ok(Payload::from_slice(text.as_bytes()).expect("JSON values by quoted names are a JSON object"))
    }

    /// Nothing is left to withdraw or to undo.
    fn end_scope(&mut self, id: FrameId, closing: Closing) {
        if let Some(unit) = self.state.frames.get(id).and_then(|frame| frame.parent) {
            let failure = closing.failure().cloned().unwrap_or_else(|| Failure::fatal("cancelled", "it was cancelled"));
            let attempt = self.state.run(unit).map_or(0, |run| run.attempt);
            let task = unit.task(Purpose::Work, attempt);
            return self.attempt_failed(Report { task, agent_id: None, begun_at: None }, failure);
        }
        match closing {
            Closing::Failed(failure) | Closing::Ended(Ending::Failed(failure)) => self.emit(Event::Failed { failure }),
            Closing::Cancelled(reason) | Closing::Ended(Ending::Cancelled(reason)) => {
                self.emit(Event::Cancelled { reason });
            }
            Closing::Ended(Ending::Completed(output)) => self.emit(Event::Completed { output }),
            Closing::Ended(Ending::Continued(input)) => self.go_on_anew(input),
        }
    }

    fn go_on_anew(&mut self, input: Payload) {
        let kept = self.state.mailboxes.iter().flat_map(|(name, mailbox)| {
            mailbox.kept.iter().map(|payload| KeptSignal { name: name.to_string(), payload: payload.clone() })
        });
        let kept: Vec<_> = kept.collect();
        let forgotten = self.state.signals.len().saturating_sub(kept.len() + SIGNALS_CARRIED);
        let event = Event::Continued {
            input,
            root: self.state.frames.next(),
            deadline: self.plan.timeout.map(|timeout| self.now + timeout),
            kept,
            seen: self.state.signals.iter().copied().skip(forgotten).collect(),
            carried: Some(Carried {
                turn: self.state.turn.as_ref().map(|turn| (turn.lock.name.clone(), turn.lock.limit, turn.since)),
                paused: self.state.paused,
            }),
        };
        self.emit(event);
    }
}
