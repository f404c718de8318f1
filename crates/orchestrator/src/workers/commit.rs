//! From a decision to its commit, and what comes after.

use std::time::Duration;

use domain::ExecutionId;
use workflow::{Command, Effect, Event, Rejected, chain};

use super::{
    Input, Live,
    live::{Out, Search},
    timers::Timer,
    worker::Worker,
    writer::Job,
};
use crate::{
    exchange::Outgoing,
    metrics,
    store::{Append, NewEvent},
};

/// Before an execution is read again whose commit has failed.
const RELOAD_AFTER_FAILURE: Duration = Duration::from_millis(250);

/// Answers a caller, knowing whether its events are committed.
type Answer = Box<dyn FnOnce(bool) + Send>;

/// What waits for a commit.
#[derive(Default)]
pub(super) struct After {
    generation: u64,
    pub(super) replies: Vec<Answer>,
    effects: Vec<(ExecutionId, Effect)>,
    /// Results to acknowledge.
    pub(super) acks: Vec<String>,
    /// Tasks that time took from their agents.
    pub(super) cancels: Vec<(String, &'static str)>,
    /// Executions with events in the batch, and their newest.
    touched: Vec<(ExecutionId, u64)>,
}

/// The batch that is being filled.
#[derive(Default)]
pub(super) struct Open {
    pub(super) append: Append,
    pub(super) after: After,
    touched: Vec<ExecutionId>,
}

impl Open {
    pub(super) fn is_empty(&self) -> bool {
        self.append.events.is_empty()
            && self.after.replies.is_empty()
            && self.after.acks.is_empty()
            && self.after.cancels.is_empty()
    }
}

impl Worker {
    /// Decides a command of an execution in memory; its events go to the open batch.
    pub(super) fn decide(&mut self, id: ExecutionId, command: Command) -> Result<(), Rejected> {
        let now = self.shared.now();
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        let events = live.execution.transition(command, now)?;
        if events.is_empty() {
            self.arm(id);
            return Ok(());
        }
        if !live.in_open {
            live.in_open = true;
            live.pending += 1;
            self.open.touched.push(id);
        }
        let mut sequence = live.execution.last_sequence() - events.len() as u64;
        for event in &events {
            sequence += 1;
            let data = event.encode();
            let hash = chain(&live.hash, sequence, now, &data);
            live.hash = hash;
            self.open.append.events.push(NewEvent { execution: id, sequence, at: now, data, hash });
            self.open.after.effects.extend(live.execution.effects(event).into_iter().map(|effect| (id, effect)));
            if let Event::StepFailed { step, index: None, .. } = event
                && let Some(step) = live.compiled.plan.steps.get(*step as usize)
            {
                metrics::step_failed(&live.compiled.name, &step.id);
            }
        }
        self.arm(id);
        Ok(())
    }

    /// Hands the open batch to the writer where there is a place in flight.
    pub(super) async fn flush(&mut self) {
        if self.open.is_empty() || !self.has_place_in_flight() {
            return;
        }
        let Open { mut append, mut after, touched } = std::mem::take(&mut self.open);
        after.generation = self.generation;
        for id in touched {
            let Some(live) = self.live.get_mut(&id) else { continue };
            live.in_open = false;
            after.touched.push((id, live.execution.last_sequence()));
            append.summaries.push(live.summary());
        }
        if append.events.is_empty() && self.in_flight.is_empty() {
            return self.done(after);
        }
        let job = Job { worker: self.index, generation: self.generation, append };
        self.in_flight.push_back(after);
        // The writer's queue has a place for every batch in flight; it is closed only when the service ends.
        let _ = self.jobs.send(job).await;
    }

    /// The oldest batch in flight was committed, or not.
    pub(super) fn committed(&mut self, is_committed: bool) {
        let Some(after) = self.in_flight.pop_front() else { return };
        if is_committed {
            self.done(after);
        } else {
            self.failed(after);
        }
    }

    fn done(&mut self, after: After) {
        for (id, sequence) in &after.touched {
            if let Some(live) = self.live.get_mut(id) {
                live.pending -= 1;
            }
            self.shared.watchers.committed(*id, *sequence);
        }
        for answer in after.replies {
            answer(true);
        }
        for (id, effect) in after.effects {
            self.perform(id, effect);
        }
        for task_id in after.acks {
            self.say(Outgoing::Ack { task_id });
        }
        for (task_id, reason) in after.cancels {
            self.say(Outgoing::Cancel { task_id, reason });
        }
        for (id, _) in after.touched {
            self.retire(id);
        }
    }

    /// Nothing of this batch is known to have happened. What builds on it is dropped, and read from the log again.
    fn failed(&mut self, after: After) {
        let is_first = after.generation == self.generation;
        after.replies.into_iter().for_each(|answer| answer(false));
        if is_first {
            self.generation += 1;
            self.drop_uncommitted();
        }
        for task_id in after.acks {
            self.settle(task_id);
        }
    }

    fn drop_uncommitted(&mut self) {
        // The open batch builds on the failed one as well.
        let open = std::mem::take(&mut self.open);
        open.after.replies.into_iter().for_each(|answer| answer(false));
        let dropped: Vec<_> = self.live.iter().filter(|(_, live)| live.pending > 0).map(|(id, _)| *id).collect();
        let is_fenced = self.shared.is_fenced();
        for id in dropped {
            let Some(live) = self.remove(id) else { continue };
            if is_fenced {
                // Whoever has the shards now goes on with it.
                continue;
            }
            // Not at once: what has failed now would fail again, as fast as it can be read.
            self.load_after(id, RELOAD_AFTER_FAILURE);
            for ended in live.waiting {
                self.load(id, Some(Input::Await { id, ended }));
            }
        }
        for task_id in open.after.acks {
            self.settle(task_id);
        }
    }

    /// A result whose acknowledgement was lost with a batch: communication keeps it. Where it still counts, the repeated
    /// dispatch brings it again; where it does not, it is acknowledged.
    pub(super) fn settle(&mut self, task_id: String) {
        let Some(id) = task_id.split('/').next().and_then(|id| id.parse().ok()) else { return };
        if self.loading.contains_key(&id) {
            return self.load(id, Some(Input::Settle { task_id }));
        }
        let counts = self.live.get(&id).is_some_and(|live| {
            let task = live.compiled.plan.parse_task_id(&task_id).map(|(_, task)| task);
            task.is_some_and(|task| live.execution.is_current(task))
        });
        if !counts {
            self.say(Outgoing::Ack { task_id });
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
                    self.say(outgoing);
                }
            }
            Effect::Withdraw { task, reason } => {
                let task_id = live.task_id(id, task);
                self.forget(id, task);
                self.say(Outgoing::Cancel { task_id, reason });
            }
            Effect::FindVoters { step, voters, count, quorum } => {
                let search = Search { target: voters, count, quorum, since: now, again_at: None };
                live.searches.entry(step).or_insert(search);
                self.search(id, step);
            }
            Effect::Ended => {
                let took = now.since(live.execution.created_at().unwrap_or(now));
                metrics::ended(&live.compiled.name, live.execution.status(), took);
            }
        }
    }

    /// Tells communication, where it listens; what it misses it gets when it is back. A replica that lost its shards is
    /// silent, or communication would take it for the owner of the tasks.
    pub(super) fn say(&mut self, outgoing: Outgoing) {
        if self.is_attached && !self.shared.is_fenced() {
            self.outbox.push_back(outgoing);
        }
    }

    /// Moves an execution whose end is committed out of the way, and answers who waited for it.
    pub(super) fn retire(&mut self, id: ExecutionId) {
        if !self.live.get(&id).is_some_and(|live| live.pending == 0 && live.is_ended()) {
            return;
        }
        let Some(mut live) = self.remove(id) else { return };
        for ended in std::mem::take(&mut live.waiting) {
            let _ = ended.send(live.snapshot(false));
        }
        live.tasks.clear();
        live.searches.clear();
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

    /// The stream to communication is open: it gets everything that is out.
    pub(super) fn attached(&mut self) {
        self.is_attached = true;
        self.outbox.clear();
        if self.shared.is_fenced() {
            return;
        }
        for (id, live) in &self.live {
            for task in live.tasks.keys() {
                if let Some(order) = live.execution.task_order(*task) {
                    self.outbox.push_back(dispatch(*id, live, order));
                }
            }
        }
    }

    /// Dispatches a task again that communication refused or lost.
    pub(super) fn dispatch_again(&mut self, id: ExecutionId, task: workflow::TaskKey) {
        let Some(live) = self.live.get(&id) else { return };
        let Some(order) = live.execution.task_order(task) else { return };
        let outgoing = dispatch(id, live, order);
        self.say(outgoing);
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
    let step_id = live.compiled.plan.steps.get(order.task.step as usize).map(|step| step.id.clone());
    Outgoing::Dispatch {
        task_id: live.task_id(id, order.task),
        execution: id,
        namespace: live.execution.namespace().map(ToString::to_string).unwrap_or_default(),
        step_id: step_id.unwrap_or_default(),
        traceparent: live.execution.traceparent().to_owned(),
        order,
    }
}
