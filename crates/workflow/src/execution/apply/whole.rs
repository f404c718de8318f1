//! The execution as a whole: its beginning, signals, retries, and its end.

use domain::{Payload, SignalId, Timestamp};

use super::Applier;
use crate::{
    Carried, Ending, Event, Holder, Lock, LockKind, StepIndex, Unit,
    execution::{
        frame::Closing,
        state::{End, Head, Phase, State, StepRun, Turn},
    },
    plan::StepKind,
};

/// How many ids of signals a run remembers: a signal that is sent again counts once as long as no more have come meanwhile.
const SIGNALS_REMEMBERED: usize = 10_000;

impl Applier<'_> {
    pub(super) fn accepted(&mut self, event: &Event) {
        let Event::Accepted {
            execution_id,
            namespace,
            workflow_id,
            workflow_name: _,
            workflow_version,
            input,
            deadline,
            traceparent,
            parent,
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
            parent: parent.clone(),
            created_at: self.at,
        });
        self.state.deadline = *deadline;
        self.settle_all(self.state.frames.root_id());
    }

    pub(super) fn turn_awaited(&mut self, key: &str, limit: u32) {
        let lock = Lock { kind: LockKind::Turn, name: key.to_owned(), limit };
        self.state.turn = Some(Turn { lock, since: self.at, taken: false });
    }

    pub(super) fn turn_taken(&mut self) {
        if let Some(turn) = &mut self.state.turn {
            turn.taken = true;
        }
    }

    pub(super) fn awaited(&mut self, unit: Unit, name: &str, until: Option<Timestamp>) {
        self.begin(unit, Phase::Awaiting(until));
        self.run(unit).signal = Some(name.into());
        self.state.mailboxes.entry(name.into()).or_default().waiting.push_back(unit);
    }

    pub(super) fn signalled(&mut self, id: SignalId, kept: Option<(&String, &Payload)>) {
        self.state.signals.insert(id);
        if self.state.signals.len() > SIGNALS_REMEMBERED {
            self.state.signals.pop_first();
        }
        if let Some((name, payload)) = kept {
            self.keep(name, payload);
        }
    }

    fn keep(&mut self, name: &str, payload: &Payload) {
        self.state.mailboxes.entry(name.into()).or_default().kept.push_back(payload.clone());
    }

    pub(super) fn cancel_requested(&mut self, reason: &str) {
        self.state.cancel = Some(reason.to_owned());
        self.lose(self.state.frames.root_id(), Closing::Cancelled(reason.to_owned()));
    }

    pub(super) fn end_requested(&mut self, unit: Unit, end: &Ending) {
        if let Ending::Cancelled(reason) = end {
            self.state.cancel = Some(reason.clone());
        }
        let end = match end {
            Ending::Failed(failure) => {
                let step_id = Some(self.plan_of(unit).id.clone());
                Ending::Failed(crate::Failure { step_id, ..failure.clone() })
            }
            other => other.clone(),
        };
        self.lose(self.state.frames.root_id(), Closing::Ended(end));
    }

    pub(super) fn ended(&mut self, event: &Event) {
        let end = match event {
            Event::Completed { output } => End::Completed(output.clone()),
            Event::Failed { failure } => {
                self.state.failure = Some(Box::new(failure.clone()));
                End::Failed
            }
            Event::Cancelled { reason } => {
                self.state.cancel = Some(reason.clone());
                End::Cancelled
            }
            _ => return,
        };
        self.state.end = Some((end, self.at));
        self.state.deadline = None;
        let root = self.state.frames.root_id();
        self.state.closing.remove(&root);
        self.state.ripe.remove(&root);
        if let Some(turn) = self.state.turn.take() {
            self.cut.locks.push((Holder::Execution, turn.lock));
        }
    }

    /// As if it had just been accepted, but for signals that nobody took, its turn, and whether it is paused.
    pub(super) fn continued(&mut self, event: &Event) {
        let Event::Continued { input, root, deadline, kept, seen, carried } = event else { return };
        let old = std::mem::replace(self.state, State::new(self.plan));
        self.state.head = old.head.map(|head| Head { input: input.clone(), ..head });
        (self.state.sequence, self.state.began_at) = (old.sequence, old.sequence);
        self.state.snapshot_at = carried.as_ref().map(|_| old.sequence);
        (self.state.turn, self.state.paused) = match carried {
            Some(Carried { turn, paused }) => (turn.as_ref().map(Turn::carried), *paused),
            None => (old.turn, old.paused),
        };
        self.state.continued_at = Some(self.at);
        self.state.deadline = *deadline;
        self.state.signals = seen.iter().copied().collect();
        for signal in kept {
            self.keep(&signal.name, &signal.payload);
        }
        self.state.frames.restart(*root, self.plan);
        self.settle_all(*root);
    }

    pub(super) fn retried(&mut self, steps: &[StepIndex], deadline: Option<Timestamp>) {
        let root = self.state.frames.root_id();
        self.state.end = None;
        self.state.failure = None;
        self.state.paused = None;
        self.state.deadline = deadline;
        self.state.turn = None;
        let frame = self.frame(root);
        frame.closing = None;
        frame.compensating = false;
        for &step in steps {
            self.reset(Unit { frame: root, step, index: None });
        }
        // Whatever was ready when it was lost is ready again.
        for step in 0..self.frame(root).steps.len() as StepIndex {
            let unit = Unit { frame: root, step, index: None };
            let step = self.step(unit);
            let is_loose = step.is_loose();
            match step.run.phase {
                Phase::Pending if step.settled => {
                    let starts = super::join_outcome(self.plan, self.state, unit) == Some(true);
                    self.enqueue(unit, starts);
                }
                Phase::Expanded => self.queue_instances(unit),
                Phase::Completed if is_loose => self.queue_instances(unit),
                _ => {}
            }
        }
        self.ripen(root);
    }

    /// Back to the beginning, but for instances that completed.
    fn reset(&mut self, unit: Unit) {
        let is_over = self.step(unit).run.phase == Phase::Completed;
        let expands = self.plan_of(unit).for_each.is_some() && self.step(unit).many.is_some();
        let is_decision = matches!(self.plan_of(unit).kind, StepKind::Decision(_));
        if !is_over {
            self.frame(unit.frame).open += 1;
            self.drop_frame(unit);
            let before = self.step(unit).run.phase;
            self.state.counts.moved(before.state(), Phase::Pending.state());
            let step = self.step(unit);
            step.run.reset();
            if is_decision {
                // It opens anew, and may ask something else.
                step.run.input = None;
            }
            if !expands {
                let run = std::mem::take(&mut step.run);
                let (done, skipped) = (step.done, step.skipped);
                *step = StepRun { run, done, skipped, settled: true, many: None };
                return;
            }
            self.enter(unit, Phase::Expanded);
        }
        let many = self.many(unit);
        (many.queued, many.working) = (0, 0);
        for instance in many.instances.iter_mut().filter(|instance| instance.phase != Phase::Completed) {
            instance.reset();
            if is_decision {
                instance.input = None;
            }
        }
        many.open = many.instances.iter().filter(|instance| instance.phase == Phase::Pending).count() as u32;
        if is_over && many.open > 0 && !std::mem::replace(&mut many.loose, true) {
            self.frame(unit.frame).loose += 1;
        }
    }
}
