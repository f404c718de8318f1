//! Phases and queues of units, joins, and mutexes.

use domain::Payload;

use super::{Applier, join_outcome};
use crate::{
    FrameId, Holder, Purpose, Unit,
    execution::{
        mutex::{Held, MutexKey, global_mutex},
        state::{Many, Phase, Run},
    },
    plan::{Step, StepKind},
};

/// Does the work of the step wait for a slot?
pub(in crate::execution) fn takes_slot(step: &Step) -> bool {
    matches!(step.kind, StepKind::Task { .. })
}

impl Applier<'_> {
    /// Moves a unit to another phase: counts, timers and the sets of what is at work follow.
    pub(super) fn enter(&mut self, unit: Unit, phase: Phase) {
        let at = self.at;
        let run = self.run(unit);
        let before = std::mem::replace(&mut run.phase, phase);
        run.started_at = run.started_at.or(phase.is_active().then_some(at));
        let waits = match phase {
            Phase::Awaiting(_) | Phase::Sleeping(_) | Phase::Deciding(_) => true,
            Phase::Locking => run.mutex.as_ref().is_some_and(|held| held.is_outside()),
            _ => false,
        };
        if unit.index.is_none() && unit.frame == self.state.frames.root_id() {
            self.state.counts.moved(before.state(), phase.state());
        }
        if let Some(due) = before.due() {
            self.state.timers.remove(&(due, unit));
        }
        if let Some(due) = phase.due() {
            self.state.timers.insert((due, unit));
        }
        if before.is_active() && !phase.is_active() {
            self.state.active.remove(&unit);
        } else if phase.is_active() && !before.is_active() {
            self.state.active.insert(unit);
        }
        if waits {
            self.state.waiting.insert(unit);
        } else if before.is_active() {
            self.state.waiting.remove(&unit);
        }
    }

    /// Out of the queues, or of the wait for the next attempt, and to work.
    pub(super) fn begin(&mut self, unit: Unit, phase: Phase) {
        self.leave(unit, false);
        self.enter(unit, phase);
    }

    /// Ends a unit: it gives back whatever it has, and leaves whatever it waits for.
    pub(super) fn end_unit(&mut self, unit: Unit, phase: Phase, cut_off: bool) {
        self.leave(unit, cut_off);
        self.release(unit);
        self.run(unit).ended_at = Some(self.at);
        self.enter(unit, phase);
    }

    /// Whatever the unit waits for or has at work, it does no more. What is `cut_off` has to be withdrawn; anything else has
    /// ended by itself.
    pub(super) fn leave(&mut self, unit: Unit, cut_off: bool) {
        let run = self.run(unit);
        let (phase, inner) = (run.phase, run.inner);
        let task = unit.task(Purpose::Work, run.attempt);
        match phase {
            // The queues of a scope that is lost are empty.
            Phase::Pending if self.frame(unit.frame).closing.is_some() => {}
            Phase::Pending => self.dequeue(unit),
            Phase::Out => {
                if self.state.out.remove(&task) {
                    self.state.work_out -= 1;
                    if cut_off {
                        self.cut.tasks.push((task, self.reason));
                    }
                } else {
                    self.state.errands.remove(&task);
                }
            }
            Phase::Child(_) => {
                self.state.errands.remove(&task);
                if cut_off && !self.plan_of(unit).detach {
                    self.cut_child(task);
                }
            }
            Phase::Retrying(at) => {
                self.state.retries.remove(&(at, unit));
                self.state.reentries.remove(&(at, unit));
            }
            Phase::Awaiting(_) => self.leave_mailbox(unit),
            Phase::Inside(_) => {
                if let Some(inner) = inner {
                    self.leave_block(unit, inner, cut_off);
                }
            }
            Phase::Deciding(_) => {
                if let Some(inner) = inner.filter(|_| cut_off) {
                    self.abandon(inner);
                }
            }
            Phase::Locking
            | Phase::Expanded
            | Phase::Sleeping(_)
            | Phase::Completed
            | Phase::Failed
            | Phase::Skipped
            | Phase::Cancelled
            | Phase::Withdrawn
            | Phase::Compensated => {}
        }
    }

    fn cut_child(&mut self, task: crate::TaskKey) {
        if let Some(child) = self.state.child(task) {
            self.cut.children.push((child, self.reason));
        }
    }

    fn leave_mailbox(&mut self, unit: Unit) {
        let Some(name) = self.run(unit).signal.clone() else { return };
        let Some(mailbox) = self.state.mailboxes.get_mut(&*name) else { return };
        mailbox.waiting.retain(|waiting| *waiting != unit);
        if mailbox.waiting.is_empty() && mailbox.kept.is_empty() {
            self.state.mailboxes.remove(&*name);
        }
    }

    /// Queues a step whose join has settled, one way or the other: once.
    pub(super) fn settle(&mut self, unit: Unit) {
        let run = self.step(unit);
        if run.settled || run.run.phase != Phase::Pending {
            return;
        }
        let Some(starts) = join_outcome(self.plan, self.state, unit) else { return };
        self.step(unit).settled = true;
        let rest = &self.plan_of(unit).cancel_rest;
        let is_left = |step: &u32| self.state.phase(Unit { step: *step, ..unit }).is_open();
        if starts && rest.iter().any(is_left) {
            self.state.races.push_back(unit);
        }
        self.enqueue(unit, starts);
    }

    /// What takes a slot queues for one; everything else begins (or is skipped) without.
    pub(super) fn enqueue(&mut self, unit: Unit, starts: bool) {
        if self.state.frames.get(unit.frame).is_none_or(|frame| frame.closing.is_some()) {
            return;
        }
        let step = self.plan_of(unit);
        let is_vote = self.state.frames.get(unit.frame).is_some_and(|frame| frame.scope.is_none());
        let expands = step.for_each.is_some() && unit.index.is_none();
        let locks = step.mutex.is_some() && !self.run(unit).has_mutex();
        if is_vote || (starts && takes_slot(step) && !expands && !locks) {
            self.state.queue.push_back(unit);
        } else {
            self.state.due.push_back(unit);
        }
    }

    /// Out of the queues: what begins is nearly always the first.
    fn dequeue(&mut self, unit: Unit) {
        if self.state.queue.front() == Some(&unit) {
            self.state.queue.pop_front();
        } else if self.state.due.front() == Some(&unit) {
            self.state.due.pop_front();
        } else {
            self.state.queue.retain(|queued| *queued != unit);
            self.state.due.retain(|queued| *queued != unit);
        }
    }

    /// Nothing of this frame begins any more. What waited for its slot with a mutex gives that back.
    pub(super) fn clear_queues(&mut self, frame: FrameId) {
        let queued = self.state.queue.iter().chain(&self.state.due).filter(|queued| queued.frame == frame);
        let with_mutex = |unit: &&Unit| self.state.run(**unit).is_some_and(Run::has_mutex);
        let locked: Vec<_> = queued.filter(with_mutex).copied().collect();
        for unit in locked {
            self.release(unit);
        }
        self.state.queue.retain(|queued| queued.frame != frame);
        self.state.due.retain(|queued| queued.frame != frame);
        self.state.races.retain(|queued| queued.frame != frame);
    }

    pub(super) fn expanded(&mut self, unit: Unit, items: &[Payload]) {
        self.begin(unit, Phase::Expanded);
        self.step(unit).many = Some(Box::new(Many {
            items: items.to_vec(),
            instances: vec![Run::default(); items.len()],
            open: items.len() as u32,
            ..Many::default()
        }));
        self.queue_instances(unit);
    }

    /// Queues as many instances as `max_parallel` allows.
    pub(super) fn queue_instances(&mut self, step: Unit) {
        let is_vote = self.frame(step.frame).scope.is_none();
        let for_each = self.plan_of(step).for_each.as_ref().filter(|_| !is_vote);
        let limit = for_each.map_or(u32::MAX, |for_each| for_each.max_parallel);
        loop {
            let many = self.many(step);
            if many.queued as usize >= many.instances.len() || many.working >= limit {
                return;
            }
            let index = many.queued;
            many.queued += 1;
            // After a retry of the execution some have completed already.
            if many.instances[index as usize].phase == Phase::Pending {
                many.working += 1;
                self.enqueue(step.instance(index), true);
            }
        }
    }

    fn mutex_key(&self, unit: Unit, name: &str) -> MutexKey {
        let global = self.plan_of(unit).mutex.as_ref().is_some_and(|mutex| mutex.global);
        MutexKey { global, name: name.to_owned() }
    }

    pub(super) fn mutex_awaited(&mut self, unit: Unit, name: &str) {
        self.dequeue(unit);
        let key = self.mutex_key(unit, name);
        let held = Held { nested: self.state.is_nested(&key, unit), taken: false, key };
        if !held.is_outside() {
            self.state.mutexes.entry(held.key.clone()).or_default().waiting.push_back(unit);
        }
        self.run(unit).mutex = Some(Box::new(held));
        self.enter(unit, Phase::Locking);
    }

    pub(super) fn mutex_taken(&mut self, unit: Unit, name: &str) {
        self.dequeue(unit);
        let key = self.mutex_key(unit, name);
        let nested = self.state.is_nested(&key, unit);
        let mutex = self.state.mutexes.entry(key.clone()).or_default();
        mutex.waiting.retain(|waiting| *waiting != unit);
        mutex.holders.push(unit);
        if key.global && !nested && mutex.kept_for.is_none() {
            mutex.kept_for = Some(unit);
        }
        self.state.free_mutexes.remove(&key);
        let held = self.run(unit).mutex.get_or_insert_with(|| Box::new(Held { key, nested, taken: false }));
        held.taken = true;
        self.enter(unit, Phase::Pending);
        self.enqueue(unit, true);
    }

    pub(super) fn release(&mut self, unit: Unit) {
        let Some(held) = self.run(unit).mutex.take() else { return };
        if held.is_outside() && !held.taken {
            // It gives up its place in the queue of the shell.
            self.cut.locks.push((Holder::Unit(unit), global_mutex(&held.key.name)));
        }
        let Some(mutex) = self.state.mutexes.get_mut(&held.key) else { return };
        mutex.waiting.retain(|waiting| *waiting != unit);
        mutex.holders.retain(|holder| *holder != unit);
        if mutex.waiting.is_empty() && mutex.holders.is_empty() {
            if let Some(kept_for) = mutex.kept_for {
                self.cut.locks.push((Holder::Unit(kept_for), global_mutex(&held.key.name)));
            }
            self.state.mutexes.remove(&held.key);
            self.state.free_mutexes.remove(&held.key);
            return;
        }
        let mutex = &self.state.mutexes[&held.key];
        if mutex.waiting.iter().any(|waiting| self.state.may_take(mutex, *waiting)) {
            self.state.free_mutexes.insert(held.key);
        } else {
            self.state.free_mutexes.remove(&held.key);
        }
    }
}
