//! From a decision to its commit, and what comes after.

use std::time::Duration;

use domain::ExecutionId;
use lifecycle::crash_point;
use workflow::{Command, Effect, Event, Rejected, Transition, Unit, chain, invariant::continues_the_log};

use super::{
    Input, Live,
    batch::{After, Open, Share},
    live::{Out, Search},
    timers::Timer,
    worker::Worker,
    writer::{Job, Outcome},
};
use crate::{
    exchange::{Outgoing, Said},
    metrics, spans,
    store::{Append, NewEvent},
};

/// Before an execution is read again whose commit has failed.
const RELOAD_AFTER_FAILURE: Duration = Duration::from_millis(250);
/// Doubled for each time in a row that the database refused its events, up to this.
const RELOAD_AFTER_FAILURE_AT_MOST: Duration = Duration::from_mins(1);

impl Worker {
    /// Decides a command of an execution in memory; its events go to the open batch.
    pub(super) fn decide(&mut self, id: ExecutionId, command: Command) -> Result<(), Rejected> {
        let now = self.shared.now();
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        let Transition { events, mut effects } = live.execution.transition(command, now)?;
        if events.is_empty() {
            self.arm(id);
            return Ok(());
        }
        Self::warn_of_length(live, &events);
        let share = self.open.shares.entry(id).or_default();
        if share.events.is_empty() {
            live.pending += 1;
            share.span = spans::commit(id, &live.execution);
        }
        self.open.events += events.len();
        let mut sequence = live.execution.last_sequence() - events.len() as u64;
        for event in &events {
            sequence += 1;
            let data = event.encode();
            let hash = chain(&live.hash, sequence, now, &data);
            live.hash = hash;
            self.open.bytes += data.len();
            share.events.push(NewEvent { execution: id, sequence, at: now, data, hash });
            if let Event::StepFailed { unit: unit @ Unit { index: None, .. }, .. } = event
                && let Some(step) = live.compiled.plan.steps.get(unit.step as usize)
            {
                metrics::step_failed(&live.compiled.name, &step.id);
            }
        }
        let is_lock = |effect: &mut Effect| matches!(effect, Effect::Acquire { .. } | Effect::Release { .. });
        let locks: Vec<_> = effects.extract_if(.., is_lock).collect();
        share.effects.append(&mut effects);
        for effect in locks {
            let order = self.note_lock(id, &effect);
            self.open.share(id).locks.extend(order);
        }
        self.arm(id);
        Ok(())
    }

    /// Hands the open batch to the writer where there is a place in flight.
    pub(super) async fn flush(&mut self) {
        if self.open.is_empty() || !self.has_place_in_flight() {
            return;
        }
        let Open { mut shares, events, resumed, .. } = std::mem::take(&mut self.open);
        let mut append = Append { events: Vec::with_capacity(events), ..Append::default() };
        let mut traced = Vec::new();
        for (id, share) in &mut shares {
            if share.events.is_empty() {
                continue;
            }
            share.written =
                share.events.first().zip(share.events.last()).map(|(first, last)| (first.sequence, last.sequence));
            append.events.append(&mut share.events);
            if !share.span.is_disabled() {
                traced.push(share.span.clone());
            }
            if let Some(live) = self.live.get(id) {
                append.summaries.push(live.summary());
                append.claims.insert(live.held.shard, live.held.epoch);
            }
        }
        let after = After { number: self.batch, generation: self.generation, shares };
        if append.events.is_empty() && self.in_flight.is_empty() {
            self.open.resumed = resumed;
            return self.done(after);
        }
        self.batch += 1;
        let job = Job { worker: self.index, generation: self.generation, resumed, append, spans: traced };
        self.in_flight.push_back(after);
        // The writer's queue has a place for every batch in flight; it is closed only when the service ends.
        let _ = self.jobs.send(job).await;
    }

    /// The oldest batch in flight was committed, or not.
    pub(super) fn committed(&mut self, outcome: Outcome) {
        let Some(mut after) = self.in_flight.pop_front() else { return };
        match outcome {
            Outcome::Committed => self.done(after),
            Outcome::Failed => self.failed(after),
            Outcome::Except(refused) => {
                let shares = after.split_off(&refused);
                let number = after.number;
                self.done(after);
                for (id, share) in shares {
                    self.refused(id, number, share);
                }
            }
        }
    }

    fn done(&mut self, after: After) {
        let number = after.number;
        for (id, share) in &after.shares {
            let Some((first, newest)) = share.written else { continue };
            if let Some(live) = self.live.get_mut(id).filter(|live| live.since <= number) {
                self.shared.violations.check(*id, continues_the_log(live.committed, first));
                live.committed = newest;
                live.pending -= 1;
                self.refusals.remove(id);
            }
            self.shared.watchers.committed(*id, newest);
        }
        for (id, share) in after.shares {
            crash_point("orchestrator.answer.before");
            for answer in share.replies {
                answer(true);
            }
            for effect in share.effects {
                crash_point("orchestrator.effect.before");
                self.perform(id, effect);
            }
            self.lock_orders.extend(share.locks);
            for task_id in share.acks {
                crash_point("orchestrator.ack.before");
                self.say(id, Outgoing::Ack { task_id });
            }
            for task in share.voided {
                self.locate(id, task);
            }
            for (task_id, reason) in share.cancels {
                self.say(id, Outgoing::Cancel { task_id, reason });
            }
            if share.written.is_some() {
                self.retire(id);
            }
        }
    }

    /// Nothing of this batch is known to have happened. What builds on it is dropped, and read from the log again.
    fn failed(&mut self, after: After) {
        let mut acks = Vec::new();
        let mut undo = |id: ExecutionId, share: Share| {
            spans::fail(&share.span);
            share.replies.into_iter().for_each(|answer| answer(false));
            acks.extend(share.acks.into_iter().map(|task_id| (id, task_id)));
        };
        for (id, share) in after.shares {
            undo(id, share);
        }
        if after.generation == self.generation {
            self.generation += 1;
            // The open batch builds on the failed one as well.
            for (id, share) in std::mem::take(&mut self.open.shares) {
                undo(id, share);
            }
            (self.open.events, self.open.bytes) = (0, 0);
            let dropped: Vec<_> = self.live.iter().filter(|(_, live)| live.pending > 0).map(|(id, _)| *id).collect();
            for id in dropped {
                self.read_again(id, RELOAD_AFTER_FAILURE);
            }
        }
        for (id, task_id) in acks {
            self.settle(id, task_id);
        }
    }

    /// The database takes the events of everybody but this execution. It is read again, later and later, so that what is
    /// wrong with it holds nobody else up.
    fn refused(&mut self, id: ExecutionId, number: u64, share: Share) {
        spans::fail(&share.span);
        share.replies.into_iter().for_each(|answer| answer(false));
        let mut acks = share.acks;
        if self.live.get(&id).is_some_and(|live| live.since <= number) {
            if let Some(open) = self.open.take(id) {
                open.replies.into_iter().for_each(|answer| answer(false));
                acks.extend(open.acks);
            }
            let refusals = self.refusals.entry(id).or_default();
            *refusals += 1;
            let pause = RELOAD_AFTER_FAILURE.saturating_mul(2_u32.saturating_pow(*refusals - 1));
            tracing::error!(execution.id = %id, refusals, "the database refuses the events of an execution; it is read again");
            self.open.resumed.push(id);
            self.read_again(id, pause.min(RELOAD_AFTER_FAILURE_AT_MOST));
        }
        for task_id in acks {
            self.settle(id, task_id);
        }
    }

    /// Drops what memory has of an execution, and reads its log after a pause: not at once, since what has failed now would
    /// fail again as fast as it can be read.
    fn read_again(&mut self, id: ExecutionId, pause: Duration) {
        let Some(live) = self.remove(id) else { return };
        if !self.writes(id) {
            // Whoever has the shard now goes on with it.
            return;
        }
        self.load_after(id, pause);
        for ended in live.waiting {
            self.load(id, Some(Input::Await { id, ended }));
        }
    }

    /// A result whose acknowledgement was lost with a batch: communication keeps it. Where it still counts, it comes again
    /// when the task is located; where it does not, it is acknowledged.
    pub(super) fn settle(&mut self, id: ExecutionId, task_id: String) {
        if self.loading.contains_key(&id) {
            return self.load(id, Some(Input::Settle { id, task_id }));
        }
        let counts = self.live.get(&id).is_some_and(|live| {
            let task = live.compiled.plan.parse_task_id(&task_id).map(|(_, task)| task);
            task.is_some_and(|task| live.execution.is_current(task))
        });
        if !counts {
            self.say(id, Outgoing::Ack { task_id });
        }
    }

    /// Does what a committed event asks for. It may be done more than once (I3).
    pub(super) fn perform(&mut self, id: ExecutionId, effect: Effect) {
        let now = self.shared.now();
        let Some(live) = self.live.get_mut(&id) else { return };
        match effect {
            Effect::Dispatch(order) => {
                if live.execution.is_current(order.task) {
                    live.tasks.insert(order.task, Out::new(&order));
                    let outgoing = dispatch(id, live, order);
                    self.say(id, outgoing);
                }
            }
            Effect::Withdraw { task, reason } => {
                let task_id = live.task_id(id, task);
                self.forget(id, task);
                self.say(id, Outgoing::Cancel { task_id, reason });
            }
            Effect::FindVoters { unit, voters, count, quorum } => {
                let search = Search { target: voters, count, quorum, since: now, again_at: None };
                live.searches.entry(unit).or_insert(search);
                self.search(id, unit);
            }
            Effect::Run(errand) => self.begin_errand(id, errand),
            Effect::CancelChild { child, reason } => self.cancel_child(id, child, reason),
            Effect::Acquire { .. } | Effect::Release { .. } => {
                let order = self.note_lock(id, &effect);
                self.lock_orders.extend(order);
            }
            Effect::Ended => {
                let took = now.since(live.execution.created_at().unwrap_or(now));
                metrics::ended(&live.compiled.name, live.execution.status(), took);
                self.report_end(id);
            }
        }
    }

    /// Does again what the log says was done: tasks may be out already.
    pub(super) fn perform_again(&mut self, id: ExecutionId, effect: Effect) {
        match effect {
            Effect::Dispatch(order) => {
                if let Some(live) = self.live.get_mut(&id) {
                    live.tasks.insert(order.task, Out::new(&order));
                    self.locate(id, order.task);
                }
            }
            Effect::Withdraw { .. }
            | Effect::FindVoters { .. }
            | Effect::Run(_)
            | Effect::CancelChild { .. }
            | Effect::Acquire { .. }
            | Effect::Release { .. }
            | Effect::Ended => self.perform(id, effect),
        }
    }

    /// Tells communication. A replica that lost the shard is silent, or communication would take it for the owner of the tasks.
    pub(super) fn say(&mut self, id: ExecutionId, outgoing: Outgoing) {
        if let Some(epoch) = self.shared.holdings.may_speak_of(id) {
            self.outbox.push_back(Said { epoch, outgoing });
        }
    }

    /// Moves an execution whose end is committed out of the way, and answers who waited for it.
    pub(super) fn retire(&mut self, id: ExecutionId) {
        if !self.live.get(&id).is_some_and(|live| live.pending == 0 && live.is_ended()) {
            return;
        }
        let Some(mut live) = self.remove(id) else { return };
        self.shared.violations.check(id, live.execution.rests());
        for ended in std::mem::take(&mut live.waiting) {
            let _ = ended.send(live.snapshot(false));
        }
        live.tasks.clear();
        live.searches.clear();
        live.errands.clear();
        live.locks.clear();
        if self.ended.insert(id, live).is_none() {
            self.ended_order.push_back(id);
        }
        while self.ended_order.len() > self.shared.settings.ended_kept {
            if let Some(oldest) = self.ended_order.pop_front() {
                self.ended.remove(&oldest);
            }
        }
    }

    /// Takes an execution back that has ended.
    pub(super) fn unretire(&mut self, id: ExecutionId) -> Option<Live> {
        let live = self.ended.remove(&id)?;
        self.ended_order.retain(|kept| *kept != id);
        Some(live)
    }

    /// Finds out where everything is that is out.
    pub(super) fn locate_all(&mut self) {
        let tasks = |(id, live): (&ExecutionId, &Live)| live.tasks.keys().map(|task| (*id, *task)).collect::<Vec<_>>();
        let out: Vec<_> = self.live.iter().flat_map(tasks).collect();
        for (id, task) in out {
            self.locate(id, task);
        }
    }

    /// Finds out where a task is that may be out; where it is nowhere it is dispatched.
    fn locate(&mut self, id: ExecutionId, task: workflow::TaskKey) {
        let Some(live) = self.live.get(&id) else { return };
        let Some(order) = live.execution.task_order(task) else { return };
        let namespace = live.execution.namespace().map(ToString::to_string).unwrap_or_default();
        let task_id = live.task_id(id, task);
        self.say(id, Outgoing::Locate { task_id, execution: id, namespace, target: order.target });
    }

    /// Dispatches a task again that communication refused or lost.
    pub(super) fn dispatch_again(&mut self, id: ExecutionId, task: workflow::TaskKey) {
        let Some(live) = self.live.get(&id) else { return };
        let Some(order) = live.execution.task_order(task) else { return };
        let outgoing = dispatch(id, live, order);
        self.say(id, outgoing);
    }

    /// The task is not out any more.
    pub(super) fn forget(&mut self, id: ExecutionId, task: workflow::TaskKey) {
        let Some(out) = self.live.get_mut(&id).and_then(|live| live.tasks.remove(&task)) else { return };
        let armed = [
            (out.timeout_at, Timer::Timeout(task)),
            (out.heartbeat_at, Timer::Heartbeat(task)),
            (out.again_at, Timer::Dispatch(task)),
        ];
        for (at, timer) in armed {
            if let Some(at) = at {
                self.timers.remove(&(at, id, timer));
            }
        }
    }
}

fn dispatch(id: ExecutionId, live: &Live, order: workflow::TaskOrder) -> Outgoing {
    let step_id =
        live.compiled.plan.steps.get(order.task.unit.step as usize).map(|step| step.id.clone()).unwrap_or_default();
    let traceparent = spans::dispatch(id, &live.execution, &step_id, &order);
    Outgoing::Dispatch {
        task_id: live.task_id(id, order.task),
        execution: id,
        namespace: live.execution.namespace().map(ToString::to_string).unwrap_or_default(),
        step_id,
        traceparent,
        order,
    }
}
