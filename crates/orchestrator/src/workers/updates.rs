//! News of tasks and voters.

use std::time::Duration;

use domain::{ExecutionId, Timestamp};
use workflow::{Command, Target, TaskKey, TaskPlace, Unit, Voter};

use super::{Input, Live, live::Out, timers::Timer, voters::Wanted, worker::Worker};
use crate::{
    exchange::{News, Outgoing, TaskUpdate},
    spans,
};

/// Between two looks for voters.
const SEARCH_AGAIN: Duration = Duration::from_millis(500);
/// Before a refused task is dispatched again, doubled each time, up to the longest.
const DISPATCH_AGAIN: Duration = Duration::from_millis(100);
const DISPATCH_AGAIN_AT_MOST: Duration = Duration::from_secs(10);

impl Out {
    /// Takes news in, and sets when its timers are due.
    fn see(&mut self, update: TaskUpdate, now: Timestamp) {
        let heartbeat_at = self.heartbeat_timeout.map(|timeout| now + timeout);
        match update.news {
            News::Waiting => {
                if !matches!(self.place, TaskPlace::WaitingForAgent { .. }) {
                    self.place = TaskPlace::WaitingForAgent { since: now };
                }
            }
            // After a new stream, what was handed over before it is told again: no reason for another timeout.
            News::HandedOver(delivery) if self.delivery.as_ref() == Some(&delivery) => self.heartbeat_at = heartbeat_at,
            News::HandedOver(delivery) => {
                self.delivery = Some(delivery);
                self.agent_id = update.agent_id;
                self.place = TaskPlace::HandedOver { agent_id: update.agent_id, since: now };
                self.refusals = 0;
                self.timeout_at = self.timeout.map(|timeout| now + timeout);
                self.heartbeat_at = heartbeat_at;
            }
            // Its agent may go on all the same.
            News::Unheard => self.heartbeat_at = None,
            News::Begun => {
                self.begun_at = Some(now);
                self.heartbeat_at = heartbeat_at;
            }
            News::Alive => self.heartbeat_at = heartbeat_at,
            News::Shown(progress) => {
                self.progress = Some(progress);
                self.heartbeat_at = heartbeat_at;
            }
            News::Requeued => self.returned(TaskPlace::Queued),
            News::Lost => self.returned(TaskPlace::Unknown),
            News::Refused => {
                let factor = 2_u32.saturating_pow(self.refusals.min(16));
                self.refusals += 1;
                self.place = TaskPlace::Queued;
                self.again_at = Some(now + DISPATCH_AGAIN.saturating_mul(factor).min(DISPATCH_AGAIN_AT_MOST));
            }
            // The end of a task is for the log; the rest says nothing that is shown.
            News::Ended(_) | News::Enqueued | News::Unknown => {}
        }
    }

    /// No agent has it any more.
    fn returned(&mut self, place: TaskPlace) {
        self.place = place;
        self.agent_id = None;
        self.delivery = None;
        self.begun_at = None;
        (self.timeout_at, self.heartbeat_at, self.again_at) = (None, None, None);
    }
}

/// Was a named agent asked, and another answers? A ballot is its voter's own.
fn is_anothers(live: &Live, task: TaskKey, update: &TaskUpdate) -> bool {
    let (News::Ended(_), Some(from)) = (&update.news, update.agent_id) else { return false };
    let order = live.execution.task_order(task);
    order.is_some_and(|order| matches!(order.target, Target::AgentId(asked) if asked != from))
}

impl Worker {
    pub(super) fn update(&mut self, update: TaskUpdate) {
        let id = update.execution;
        if self.loading.contains_key(&id) {
            return self.load(id, Some(Input::Update(update)));
        }
        // All that have not ended are in memory, so what is not has ended: its results are stale.
        let Some(live) = self.live.get(&id) else {
            self.release(&update);
            return self.acknowledge_now(&update);
        };
        // A fence: for an agent of another namespace this task does not exist.
        let is_fenced_off = !update.namespace.is_empty()
            && live.execution.namespace().is_some_and(|namespace| namespace.as_str() != update.namespace);
        let task = live.compiled.plan.parse_task_id(&update.task_id).map(|(_, task)| task);
        let is_current = |task: &TaskKey| live.execution.is_current(*task);
        match task.filter(is_current) {
            Some(task) if is_fenced_off || is_anothers(live, task, &update) => self.void(task, update),
            Some(task) => self.current(id, task, update),
            // What made it stale may not be committed yet.
            None => {
                self.release(&update);
                self.acknowledge(update);
            }
        }
    }

    /// Frees whoever has a task that is not wanted any more: that was told so, but perhaps over a stream that was lost.
    fn release(&mut self, update: &TaskUpdate) {
        if update.news.is_of_what_is_there(false) {
            let reason = "the task is not wanted any more";
            self.say(update.execution, Outgoing::Cancel { task_id: update.task_id.clone(), reason });
        }
    }

    /// What is said by whom it does not concern. With the acknowledgement of a result communication forgets the task, which is
    /// wanted all the same.
    fn void(&mut self, task: TaskKey, update: TaskUpdate) {
        if update.needs_ack {
            self.open.share(update.execution).voided.push(task);
        }
        self.acknowledge(update);
    }

    fn current(&mut self, id: ExecutionId, task: TaskKey, update: TaskUpdate) {
        let now = self.shared.now();
        let News::Ended(_) = &update.news else { return self.show(id, task, update) };
        let live = self.live.get(&id);
        let _entered = live.map(|live| spans::result(&live.execution, &update).entered());
        let begun_at = live.and_then(|live| live.tasks.get(&task)).and_then(|out| out.begun_at);
        self.forget(id, task);
        let TaskUpdate { task_id, agent_id, news, needs_ack, .. } = update;
        if let News::Ended(outcome) = news {
            let begun_at = begun_at.filter(|begun| *begun <= now);
            // The end of a task is never refused, only dropped.
            let _ = self.decide(id, Command::TaskEnded { task, agent_id, begun_at, outcome });
        }
        if needs_ack {
            self.open.share(id).acks.push(task_id);
        }
    }

    /// What is seen, and not in the log.
    fn show(&mut self, id: ExecutionId, task: TaskKey, update: TaskUpdate) {
        let now = self.shared.now();
        let Some(out) = self.live.get_mut(&id).and_then(|live| live.tasks.get_mut(&task)) else { return };
        let (timeout_at, heartbeat_at, again_at) = (out.timeout_at, out.heartbeat_at, out.again_at);
        let is_lost = matches!(update.news, News::Lost);
        out.see(update, now);
        let moved = [
            (timeout_at, out.timeout_at, Timer::Timeout(task)),
            (heartbeat_at, out.heartbeat_at, Timer::Heartbeat(task)),
            (again_at, out.again_at, Timer::Dispatch(task)),
        ];
        for (old, new, timer) in moved {
            if old != new {
                self.rearm(id, old, new, timer);
            }
        }
        if is_lost {
            self.dispatch_again(id, task);
        }
    }

    /// Acknowledges with the next commit: after everything that was decided before.
    fn acknowledge(&mut self, update: TaskUpdate) {
        if update.needs_ack {
            self.open.share(update.execution).acks.push(update.task_id);
        }
    }

    pub(super) fn acknowledge_now(&mut self, update: &TaskUpdate) {
        if update.needs_ack {
            self.say(update.execution, Outgoing::Ack { task_id: update.task_id.clone() });
        }
    }

    /// Asks for voters.
    pub(super) fn search(&mut self, id: ExecutionId, unit: Unit) {
        let now = self.shared.now();
        let Some(live) = self.live.get_mut(&id) else { return };
        let namespace = live.execution.namespace().map(ToString::to_string).unwrap_or_default();
        let Some(search) = live.searches.get_mut(&unit) else { return };
        let wanted = Wanted { id, unit, namespace, target: search.target.clone(), count: search.count };
        if self.searches.try_send(wanted).is_err() {
            // Too many look already: later.
            let at = now + SEARCH_AGAIN;
            let old = search.again_at.replace(at);
            self.rearm(id, old, Some(at), Timer::Voters(unit));
        }
    }

    /// The registry has answered.
    pub(super) fn voters(&mut self, id: ExecutionId, unit: Unit, found: Vec<Voter>) {
        let now = self.shared.now();
        let grace = self.shared.settings.voter_grace;
        let Some(live) = self.live.get_mut(&id) else { return };
        let Some(search) = live.searches.get_mut(&unit) else { return };
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        let is_enough = count >= search.count || (count >= search.quorum.max(1) && now.since(search.since) >= grace);
        if is_enough {
            live.searches.remove(&unit);
            // Voters that nobody wants any more are dropped.
            let _ = self.decide(id, Command::VotersFound { unit, voters: found });
            return;
        }
        let is_wanted = live.execution.voters_wanted(unit).is_some();
        if !is_wanted {
            live.searches.remove(&unit);
            return;
        }
        let at = now + SEARCH_AGAIN;
        let old = search.again_at.replace(at);
        self.rearm(id, old, Some(at), Timer::Voters(unit));
    }
}
