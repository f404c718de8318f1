//! What must hold of every log, checked by somebody who knows nothing but the log and the plan.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use domain::{Payload, Timestamp};
use serde_json::Value;
use workflow::{Effect, Event, Plan, Purpose, StepIndex, TaskKey, TaskOrder, plan::StepKind};

use crate::timekeeper::Timekeeper;

type Unit = (StepIndex, Option<u32>);

/// What the log has said so far.
#[derive(Default)]
pub(crate) struct Observer {
    scheduled: BTreeSet<TaskKey>,
    pub(crate) out: BTreeSet<TaskKey>,
    attempts: BTreeMap<(Unit, bool), u32>,
    completed: BTreeSet<Unit>,
    undoable: Vec<Unit>,
    undo: Option<Unit>,
    tokens: BTreeSet<u64>,
    orders: BTreeMap<TaskKey, TaskOrder>,
    /// Signals that came in and were not used, by name.
    signals: BTreeMap<String, VecDeque<Value>>,
    /// What the instances of a `for_each` gave.
    instances: BTreeMap<Unit, Value>,
    /// Outputs that the log leaves to the state.
    pub(crate) outputs: BTreeMap<StepIndex, Value>,
    pub(crate) is_paused: bool,
    is_over: bool,
    time: Timekeeper,
}

/// The number that the simulated agents put into their results.
fn token(value: &serde_json::Value) -> Option<u64> {
    value.get("token")?.as_u64()
}

impl Observer {
    /// Takes in the events of one transition. `answered` is the task whose result it was about.
    pub(crate) fn see(
        &mut self,
        plan: &Plan,
        events: &[Event],
        effects: &[Effect],
        answered: Option<TaskKey>,
        now: Timestamp,
    ) -> Result<(), String> {
        // What begins and is lost in one transition was never sent, and withdrawing it does no harm.
        let known = self.out.clone();
        let mut before = known.clone();
        before.extend(events.iter().filter_map(|event| match event {
            Event::StepScheduled { task, .. } => Some(*task),
            _ => None,
        }));
        for event in events {
            let seen = self.event(plan, event).and_then(|()| self.time.see(plan, event, now));
            seen.map_err(|fault| format!("{fault}: {event:?}"))?;
        }
        self.time.check(now)?;
        let withdrawn: Vec<_> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Withdraw { task, .. } => Some(*task),
                Effect::Dispatch(_) | Effect::FindVoters { .. } | Effect::Ended => None,
            })
            .collect();
        let gone: BTreeSet<_> = before.difference(&self.out).copied().filter(|task| Some(*task) != answered).collect();
        if withdrawn.len() != gone.len() || !withdrawn.iter().all(|task| gone.contains(task)) {
            return Err(format!("these tasks are not wanted any more: {gone:?}; withdrawn were {withdrawn:?}"));
        }
        let began: BTreeSet<_> = self.out.difference(&known).copied().collect();
        self.dispatched(effects, &began)
    }

    /// Exactly these tasks are sent, and one id is one task, however often it is.
    pub(crate) fn dispatched(&mut self, effects: &[Effect], expected: &BTreeSet<TaskKey>) -> Result<(), String> {
        let mut sent = BTreeSet::new();
        for effect in effects {
            let Effect::Dispatch(order) = effect else { continue };
            let known = self.orders.entry(order.task).or_insert_with(|| order.clone());
            if known != order {
                return Err(format!("one id for two tasks: {known:?} and {order:?}"));
            }
            sent.insert(order.task);
        }
        if sent == *expected { Ok(()) } else { Err(format!("these are to be sent: {expected:?}; sent were {sent:?}")) }
    }

    /// Every task there ever was.
    pub(crate) fn tasks(&self) -> Vec<TaskKey> {
        self.orders.keys().copied().collect()
    }

    /// Did a signal of this name come in that no step has used?
    pub(crate) fn has_unused(&self, name: &str) -> bool {
        self.signals.get(name).is_some_and(|kept| !kept.is_empty())
    }

    fn event(&mut self, plan: &Plan, event: &Event) -> Result<(), String> {
        if self.is_over && !matches!(event, Event::Retried { .. }) {
            return Err("something happened after the end".into());
        }
        if self.is_paused && begins(event) {
            return Err("something began during a pause".into());
        }
        match event {
            Event::StepScheduled { task, .. } => self.scheduled(plan, *task)?,
            Event::StepRetrying { task, .. } => drop(self.out.remove(task)),
            Event::StepCompleted { step, index, output, .. } => {
                self.completed(plan, (*step, *index), output.as_ref())?;
            }
            Event::BallotCast { step, voter, ballot } => {
                self.leave((*step, Some(*voter)));
                self.used(ballot.rationale.parse().ok())?;
            }
            Event::BallotMissed { step, voter, .. } => self.leave((*step, Some(*voter))),
            Event::StepFailed { step, index: Some(index), .. } => self.leave((*step, Some(*index))),
            Event::StepFailed { step, index: None, .. } | Event::StepCancelled { step, .. } => {
                self.out.retain(|task| task.step != *step);
            }
            Event::StepCompensated { step, index } | Event::CompensationFailed { step, index, .. } => {
                self.undone((*step, *index))?;
            }
            Event::SignalReceived { name, payload, .. } => {
                self.signals.entry(name.clone()).or_default().push_back(payload.to_value());
            }
            Event::Paused => self.is_paused = true,
            Event::Resumed => self.is_paused = false,
            Event::Retried { .. } => {
                (self.is_over, self.is_paused) = (false, false);
                self.attempts.clear();
            }
            Event::Completed { .. } => self.end()?,
            Event::Failed { .. } | Event::Cancelled { .. } => self.lost()?,
            Event::Accepted { .. }
            | Event::StepExpanded { .. }
            | Event::SignalAwaited { .. }
            | Event::SleepStarted { .. }
            | Event::DecisionOpened { .. }
            | Event::VotersChosen { .. }
            | Event::StepSkipped { .. }
            | Event::CancelRequested { .. }
            | Event::CompensationStarted { .. } => {}
        }
        Ok(())
    }

    fn scheduled(&mut self, plan: &Plan, task: TaskKey) -> Result<(), String> {
        let unit = (task.step, task.index);
        let step = &plan.steps[task.step as usize];
        if !self.scheduled.insert(task) {
            return Err("a task id came twice".into());
        }
        self.out.insert(task);
        let attempts = self.attempts.entry((unit, task.purpose == Purpose::Undo)).or_default();
        *attempts += 1;
        if *attempts > step.retry.max_attempts {
            return Err(format!("attempt {attempts} of {}", step.retry.max_attempts));
        }
        if task.purpose == Purpose::Undo {
            return self.undo_scheduled(unit);
        }
        let work = self.out.iter().filter(|task| task.purpose == Purpose::Work);
        if work.clone().count() > plan.max_parallel as usize {
            return Err(format!("more than {} tasks are out", plan.max_parallel));
        }
        let limit = step.for_each.as_ref().map_or(u32::MAX, |each| each.max_parallel);
        if work.filter(|other| other.step == task.step).count() > limit as usize {
            return Err(format!("more than {limit} instances are out"));
        }
        Ok(())
    }

    /// The last work is undone first, and one at a time.
    fn undo_scheduled(&mut self, unit: Unit) -> Result<(), String> {
        if self.undo == Some(unit) {
            return Ok(());
        }
        if self.undo.is_some() || self.undoable.pop() != Some(unit) {
            return Err("an undo is out of order".into());
        }
        self.undo = Some(unit);
        Ok(())
    }

    fn undone(&mut self, unit: Unit) -> Result<(), String> {
        self.out.retain(|task| (task.step, task.index) != unit);
        let began = self.undo.take();
        // An undo whose input could not be made never began.
        let expected = began.or_else(|| self.undoable.pop());
        if expected == Some(unit) { Ok(()) } else { Err(format!("the undo at work was {expected:?}")) }
    }

    fn completed(&mut self, plan: &Plan, unit: Unit, output: Option<&Payload>) -> Result<(), String> {
        self.leave(unit);
        if !self.completed.insert(unit) {
            return Err("it completed twice".into());
        }
        let step = &plan.steps[unit.0 as usize];
        let value = output.map(Payload::to_value);
        if unit.1.is_none() && value.is_none() {
            let own = self.own_output(&step.kind, unit.0).ok_or("its output is nowhere")?;
            self.outputs.insert(unit.0, own);
        }
        let is_work = unit.1.is_some() || step.for_each.is_none();
        if is_work && step.compensate.is_some() {
            self.undoable.push(unit);
        }
        let token = value.as_ref().and_then(token);
        if unit.1.is_some() {
            self.instances.insert(unit, value.unwrap_or_default());
        }
        if is_work && matches!(step.kind, StepKind::Task { .. }) { self.used(token) } else { Ok(()) }
    }

    /// The next signal of the name, each once; or what the instances gave, in the order of the items.
    fn own_output(&mut self, kind: &StepKind, step: StepIndex) -> Option<Value> {
        match kind {
            StepKind::Signal { name, .. } => self.signals.get_mut(name)?.pop_front(),
            StepKind::Task { .. } => {
                let instances = self.instances.range((step, Some(0))..(step + 1, None));
                Some(instances.map(|(_, output)| output.clone()).collect())
            }
            StepKind::Decision(_) | StepKind::Sleep(_) => None,
        }
    }

    fn used(&mut self, token: Option<u64>) -> Result<(), String> {
        match token {
            Some(token) if self.tokens.insert(token) => Ok(()),
            Some(token) => Err(format!("the result {token} was used twice")),
            None => Err("a result that no agent gave".into()),
        }
    }

    fn leave(&mut self, unit: Unit) {
        self.out.retain(|task| (task.step, task.index) != unit);
    }

    fn lost(&mut self) -> Result<(), String> {
        if !self.undoable.is_empty() || self.undo.is_some() {
            return Err(format!("it ended before these were undone: {:?}", self.undoable));
        }
        self.end()
    }

    fn end(&mut self) -> Result<(), String> {
        self.is_over = true;
        if self.out.is_empty() { Ok(()) } else { Err(format!("it ended with these out: {:?}", self.out)) }
    }
}

/// Does new work begin with this event?
fn begins(event: &Event) -> bool {
    match event {
        Event::StepScheduled { task, .. } => task.purpose == Purpose::Work,
        Event::StepExpanded { .. }
        | Event::SignalAwaited { .. }
        | Event::SleepStarted { .. }
        | Event::DecisionOpened { .. } => true,
        _ => false,
    }
}
