//! What must hold of every log, checked by somebody who knows nothing but the log and the plan.

mod leaving;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use domain::{Payload, Timestamp};
use serde_json::Value;
use workflow::{
    Effect, Event, FrameId, Holder, Plan, Purpose, TaskKey, TaskOrder, Unit,
    plan::{Step, StepKind},
};

use crate::timekeeper::Timekeeper;

/// What the log has said so far.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that the log has said, or not")]
#[derive(Default)]
pub(crate) struct Observer {
    root: FrameId,
    /// Whose block or vote each frame is.
    parents: BTreeMap<FrameId, Unit>,
    scheduled: BTreeSet<TaskKey>,
    /// Tasks with agents.
    pub(crate) out: BTreeSet<TaskKey>,
    /// Tasks of the shell.
    pub(crate) errands: BTreeSet<TaskKey>,
    attempts: BTreeMap<(Unit, Purpose), u32>,
    completed: BTreeSet<Unit>,
    /// Steps and instances that failed, and steps that were cut off with all of their instances.
    over: BTreeSet<Unit>,
    /// Completed work that can be undone, the last last.
    undoable: Vec<Unit>,
    undoing: BTreeSet<Unit>,
    pub(crate) not_undone: Vec<Unit>,
    compensating: Vec<FrameId>,
    pub(crate) was_compensated: bool,
    tokens: BTreeSet<u64>,
    orders: BTreeMap<TaskKey, TaskOrder>,
    /// Signals that came in and were not used, by name.
    signals: BTreeMap<String, VecDeque<Value>>,
    /// The signal that a unit waits for.
    awaited: BTreeMap<Unit, String>,
    /// What the instances of a `for_each` gave.
    instances: BTreeMap<Unit, Value>,
    /// Outputs of steps that the log leaves to the state.
    pub(crate) outputs: BTreeMap<Unit, Value>,
    mutexes: BTreeMap<Unit, String>,
    /// Holders of locks that executions share, or who waits for them.
    pub(crate) locks: BTreeSet<Holder>,
    pub(crate) is_paused: bool,
    pub(crate) is_queued: bool,
    /// Its end is settled.
    pub(crate) is_lost: bool,
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
        let known = self.out.clone();
        for event in events {
            let seen = self.event(plan, event).and_then(|()| self.time.see(plan, event, now));
            seen.map_err(|fault| format!("{fault}: {event:?}"))?;
            self.time.is_lost |= self.is_lost;
        }
        self.time.check(now)?;
        let withdrawn: Vec<_> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Withdraw { task, .. } => Some(*task),
                _ => None,
            })
            .collect();
        let gone: BTreeSet<_> = known.difference(&self.out).copied().filter(|task| Some(*task) != answered).collect();
        if withdrawn.len() != gone.len() || !withdrawn.iter().all(|task| gone.contains(task)) {
            return Err(format!("these tasks are not wanted any more: {gone:?}; withdrawn were {withdrawn:?}"));
        }
        for effect in effects {
            match effect {
                Effect::Acquire { holder, .. } => drop(self.locks.insert(*holder)),
                Effect::Release { holder, .. } if !self.locks.remove(holder) => {
                    return Err(format!("{holder:?} gives back what it has not"));
                }
                _ => {}
            }
        }
        if self.is_over && !self.locks.is_empty() {
            return Err(format!("it ended with locks: {:?}", self.locks));
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

    /// Is a unit part of another: the same, an instance of it, or inside its block?
    fn is_part(&self, mut unit: Unit, whole: Unit) -> bool {
        loop {
            let is_same = unit.frame == whole.frame && unit.step == whole.step;
            if is_same && (whole.index.is_none() || whole.index == unit.index) {
                return true;
            }
            match self.parents.get(&unit.frame) {
                Some(parent) => unit = *parent,
                None => return false,
            }
        }
    }

    /// Is a frame another, or inside it?
    fn is_within(&self, mut frame: FrameId, outer: FrameId) -> bool {
        while frame != outer {
            match self.parents.get(&frame) {
                Some(parent) => frame = parent.frame,
                None => return false,
            }
        }
        true
    }

    fn event(&mut self, plan: &Plan, event: &Event) -> Result<(), String> {
        if self.is_over && !matches!(event, Event::Retried { .. } | Event::CompensationResumed) {
            return Err("something happened after the end".into());
        }
        if (self.is_paused || self.is_queued) && begins(event) {
            return Err("something began that has to wait".into());
        }
        match event {
            Event::StepScheduled { task, .. } => self.scheduled(plan, *task)?,
            Event::StepRetrying { task, .. } => {
                self.out.remove(task);
                self.errands.remove(task);
            }
            Event::StepCompleted { unit, output, .. } => self.completed(plan, *unit, output.as_ref(), true)?,
            Event::StepRepeated { unit, output } => {
                self.completed(plan, *unit, output.as_ref(), false)?;
                self.attempts.remove(&(*unit, Purpose::Work));
            }
            Event::BlockEntered { unit, inner, .. } => {
                let attempts = self.attempts.entry((*unit, Purpose::Work)).or_default();
                *attempts += 1;
                if *attempts > plan.steps[unit.step as usize].retry.max_attempts {
                    return Err(format!("attempt {attempts} of a block"));
                }
                self.begin_frame(*inner, *unit)?;
            }
            Event::DecisionOpened { unit, inner, .. } => self.begin_frame(*inner, *unit)?,
            Event::BallotCast { unit, voter, ballot } => {
                self.leave_vote(*unit, *voter);
                self.used(ballot.rationale.parse().ok())?;
            }
            Event::BallotMissed { unit, voter, .. } => self.leave_vote(*unit, *voter),
            Event::StepFailed { unit, fallback, .. } => {
                self.over.insert(*unit);
                self.cut(*unit);
                if unit.index.is_none() && fallback.is_none() {
                    self.let_go(unit.frame);
                }
                self.is_lost |= unit.index.is_none() && fallback.is_none() && unit.frame == self.root;
            }
            Event::StepCancelled { unit, .. } | Event::StepWithdrawn { unit, .. } => {
                self.over.insert(*unit);
                self.cut(*unit);
            }
            Event::MutexTaken { unit, name } => self.locked(plan, *unit, name)?,
            Event::StepCompensated { unit } => self.undone(*unit)?,
            Event::CompensationFailed { unit, .. } => {
                self.undone(*unit)?;
                self.not_undone.push(*unit);
            }
            Event::CompensationStarted { frame, .. } => {
                self.compensating.push(*frame);
                self.was_compensated |= *frame == self.root;
            }
            Event::CompensationResumed => self.resumed(),
            Event::SignalAwaited { unit, name, .. } => drop(self.awaited.insert(*unit, name.clone())),
            Event::SignalReceived { name, payload, dropped, .. } => {
                if !dropped {
                    self.signals.entry(name.clone()).or_default().push_back(payload.to_value());
                }
            }
            Event::TurnAwaited { .. } => self.is_queued = true,
            Event::TurnTaken => self.is_queued = false,
            Event::Paused => self.is_paused = true,
            Event::Resumed => self.is_paused = false,
            Event::CancelRequested { .. } | Event::EndRequested { .. } => self.is_lost = true,
            Event::ScopeFailed { frame, .. } => {
                self.let_go(*frame);
                self.is_lost |= *frame == self.root;
            }
            Event::Retried { .. } => {
                (self.is_over, self.is_paused, self.is_lost) = (false, false, false);
                self.attempts.clear();
                self.over.clear();
                self.compensating.clear();
            }
            Event::Continued { root, .. } => self.continued(*root)?,
            Event::Completed { .. } => self.end()?,
            Event::Failed { .. } | Event::Cancelled { .. } => self.lost()?,
            Event::Accepted { .. }
            | Event::StepExpanded { .. }
            | Event::MutexAwaited { .. }
            | Event::SleepStarted { .. }
            | Event::VotersChosen { .. }
            | Event::StepSkipped { .. } => {}
        }
        Ok(())
    }

    fn begin_frame(&mut self, inner: FrameId, unit: Unit) -> Result<(), String> {
        match self.parents.insert(inner, unit) {
            None if inner > self.root => Ok(()),
            _ => Err("a frame began twice".into()),
        }
    }

    fn scheduled(&mut self, plan: &Plan, task: TaskKey) -> Result<(), String> {
        let step = &plan.steps[task.unit.step as usize];
        if !self.scheduled.insert(task) {
            return Err("a task id came twice".into());
        }
        let attempts = self.attempts.entry((task.unit, task.purpose)).or_default();
        *attempts += 1;
        if *attempts > step.retry.max_attempts {
            return Err(format!("attempt {attempts} of {}", step.retry.max_attempts));
        }
        if task.purpose == Purpose::Undo {
            self.out.insert(task);
            return self.undo_scheduled(task.unit);
        }
        if matches!(step.kind, StepKind::Workflow(_) | StepKind::Emit(_)) {
            self.errands.insert(task);
            return Ok(());
        }
        self.out.insert(task);
        let work = self.out.iter().filter(|task| task.purpose == Purpose::Work);
        if work.clone().count() > plan.max_parallel as usize {
            return Err(format!("more than {} tasks are out", plan.max_parallel));
        }
        let is_vote = matches!(step.kind, StepKind::Decision(_));
        let limit = step.for_each.as_ref().filter(|_| !is_vote).map_or(u32::MAX, |each| each.max_parallel);
        let same = |other: &&TaskKey| other.unit.whole() == task.unit.whole();
        if work.filter(same).count() > limit as usize {
            return Err(format!("more than {limit} instances are out"));
        }
        Ok(())
    }

    /// The last work is undone first, and one at a time, in each scope that is lost.
    fn undo_scheduled(&mut self, unit: Unit) -> Result<(), String> {
        if self.undoing.contains(&unit) {
            return Ok(());
        }
        let is_last = |frame: &FrameId| {
            let inside = |unit: &&Unit| self.is_within(unit.frame, *frame);
            self.undoable.iter().rfind(inside) == Some(&unit) && !self.undoing.iter().any(|unit| inside(&unit))
        };
        if !self.compensating.iter().any(is_last) {
            return Err(format!("an undo is out of order: {:?} in {:?}", self.undoable, self.compensating));
        }
        self.undoable.retain(|undoable| *undoable != unit);
        self.undoing.insert(unit);
        Ok(())
    }

    fn undone(&mut self, unit: Unit) -> Result<(), String> {
        self.out.retain(|task| task.purpose == Purpose::Work || task.unit != unit);
        // An undo whose input could not be made never began.
        if self.undoing.remove(&unit) {
            return Ok(());
        }
        let known = self.undoable.len();
        self.undoable.retain(|undoable| *undoable != unit);
        if self.undoable.len() < known { Ok(()) } else { Err("what was undone had not completed".into()) }
    }

    fn resumed(&mut self) {
        self.is_over = false;
        let root = self.root;
        self.compensating.push(root);
        // In the order in which they failed.
        self.attempts.retain(|(_, purpose), _| *purpose == Purpose::Work);
        self.undoable = std::mem::take(&mut self.not_undone);
        self.undoable.reverse();
    }

    fn completed(&mut self, plan: &Plan, unit: Unit, output: Option<&Payload>, is_end: bool) -> Result<(), String> {
        let step = &plan.steps[unit.step as usize];
        let is_whole = step.for_each.is_some() && unit.index.is_none();
        if is_whole {
            if !step.detach {
                self.cut_instances(unit);
            }
        } else {
            self.leave(unit);
        }
        if is_end {
            if !self.completed.insert(unit) {
                return Err("it completed twice".into());
            }
            self.mutexes.remove(&unit);
        }
        let value = output.map(Payload::to_value);
        if value.is_none() {
            let own = self.own_output(step, unit).ok_or("its output is nowhere")?;
            if is_end && unit.index.is_none() {
                self.outputs.insert(unit, own.clone());
            }
            if is_end && unit.index.is_some() {
                self.instances.insert(unit, own);
            }
        } else if is_end && unit.index.is_some() {
            self.instances.insert(unit, value.clone().unwrap_or_default());
        }
        if is_end && !is_whole && step.compensate.is_some() {
            let mut undoable = std::mem::take(&mut self.undoable);
            // The undo of a block takes the place of those in it.
            undoable.retain(|inner| !self.is_covered(plan, *inner, unit));
            self.undoable = undoable;
            self.undoable.push(unit);
        }
        // A loop that was not begun has no result of an agent.
        let is_empty = value.as_ref().is_some_and(Value::is_null) && step.repeat.is_some();
        let is_result = !is_whole && !is_empty && matches!(step.kind, StepKind::Task { .. });
        if is_result { self.used(value.as_ref().and_then(token)) } else { Ok(()) }
    }

    /// The next signal of the name, each once; or what the instances gave, in the order of the items.
    fn own_output(&mut self, step: &Step, unit: Unit) -> Option<Value> {
        if step.for_each.is_some() && unit.index.is_none() {
            let range = unit.instance(0)..=unit.instance(u32::MAX);
            let given: BTreeMap<_, _> = self.instances.range(range).map(|(unit, value)| (unit.index, value)).collect();
            // Instances that did not complete are `null`; how many there are behind the last one only the state knows.
            let last = given.keys().last().copied().flatten()?;
            let outputs = (0..=last).map(|index| given.get(&Some(index)).map_or(Value::Null, |value| (*value).clone()));
            return Some(outputs.collect());
        }
        let name = self.awaited.get(&unit)?;
        self.signals.get_mut(name)?.pop_front()
    }

    /// Is a completed unit inside the block of another, and nothing between them still at work, left to itself?
    fn is_covered(&self, plan: &Plan, mut inner: Unit, block: Unit) -> bool {
        while let Some(parent) = self.parents.get(&inner.frame) {
            if *parent == block {
                return true;
            }
            let whole = parent.whole();
            let is_over = self.completed.contains(parent) || self.over.contains(parent) || self.over.contains(&whole);
            if plan.steps[parent.step as usize].detach && !is_over {
                return false;
            }
            inner = *parent;
        }
        false
    }

    fn used(&mut self, token: Option<u64>) -> Result<(), String> {
        match token {
            Some(token) if self.tokens.insert(token) => Ok(()),
            Some(token) => Err(format!("the result {token} was used twice")),
            None => Err("a result that no agent gave".into()),
        }
    }

    fn locked(&mut self, plan: &Plan, unit: Unit, name: &str) -> Result<(), String> {
        let is_global = plan.steps[unit.step as usize].mutex.as_ref().is_some_and(|mutex| mutex.global);
        if is_global {
            return Ok(());
        }
        let is_outside = |holder: &Unit| !self.is_part(unit, *holder);
        if let Some((other, _)) = self.mutexes.iter().find(|(holder, held)| *held == name && is_outside(holder)) {
            return Err(format!("{other:?} has the mutex"));
        }
        self.mutexes.insert(unit, name.to_owned());
        Ok(())
    }

    /// The instance of a step that a unit is part of.
    fn instance_around(&self, mut unit: Unit, step: Unit) -> Option<Unit> {
        while unit.whole() != step {
            unit = *self.parents.get(&unit.frame)?;
        }
        Some(unit)
    }

    fn continued(&mut self, root: FrameId) -> Result<(), String> {
        if !self.out.is_empty() || !self.errands.is_empty() || !self.undoing.is_empty() {
            return Err("it was continued with something at work".into());
        }
        self.root = root;
        self.is_lost = false;
        self.undoable.clear();
        self.not_undone.clear();
        self.compensating.clear();
        self.was_compensated = false;
        self.outputs.clear();
        self.mutexes.clear();
        Ok(())
    }

    fn lost(&mut self) -> Result<(), String> {
        if !self.undoable.is_empty() || !self.undoing.is_empty() {
            return Err(format!("it ended before these were undone: {:?} {:?}", self.undoable, self.undoing));
        }
        self.end()
    }

    fn end(&mut self) -> Result<(), String> {
        (self.is_over, self.is_lost, self.is_queued) = (true, true, false);
        if self.out.is_empty() && self.errands.is_empty() {
            Ok(())
        } else {
            Err(format!("it ended with these out: {:?} {:?}", self.out, self.errands))
        }
    }
}

/// Does new work begin with this event?
fn begins(event: &Event) -> bool {
    match event {
        Event::StepScheduled { task, .. } => task.purpose == Purpose::Work,
        Event::StepExpanded { .. }
        | Event::BlockEntered { .. }
        | Event::SignalAwaited { .. }
        | Event::SleepStarted { .. }
        | Event::DecisionOpened { .. } => true,
        _ => false,
    }
}
