//! Tasks that wait with the message broker instead of here, so that any replica can take them.
//!
//! What no session here fits goes there at once. Where something has waited here all the time for `spill_after`, a queue is
//! crowded: then what has waited for as long goes there too, but only when another replica has agents that wait for such
//! tasks, and nothing is fetched ahead of what is left there. Where all are busy so nothing travels. What comes from there takes
//! the place in line that it has by its age, wherever it has waited, so that nothing is left there while later tasks are done;
//! its delivery is settled when the task is over. While the message broker is away, tasks wait here.
//!
//! - A task that went there is [`remembered`](super::remembered) until its end, so that it is found, or until it is not there.
//! - One that comes twice is one: the second delivery is settled, or stands in for one that a lost connection took.
//! - Hand-overs are counted by the replica that sees them come to nothing, and the count goes with the task. What the message
//!   broker takes back from a replica, which has ended or lost its connection, may never have been handed over, and does not
//!   count: a task does not die of waiting. Only where that happens many times as often does it die, alone: it may be what
//!   ends every replica that touches it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use domain::SessionId;

use super::{
    Broker, OrchestratorId, QueueKey,
    orchestrators::whoever,
    queues::Line,
    remembered::Enqueued,
    tasks::{Entry, State},
};
use crate::{
    app::model::{Reason, TaskId, Update, What},
    metrics,
    transport::{Lot, Parcel, Publishing},
};

/// How often the message broker takes a task back from a replica until that is as suspicious as a hand-over that came to
/// nothing: more often than connections break while something waits.
const REDELIVERIES_AS_BAD: u32 = 10;
/// Tasks of one queue that one look gives away.
const SPILLED_AT_ONCE: usize = 1_000;
/// There may be a million of them to look at.
const TIDIED_EVERY: Duration = Duration::from_mins(1);

impl Broker {
    /// A task that waits goes to the message broker, where that takes it.
    fn enqueue(&mut self, id: &TaskId) -> Publishing {
        let (Some(work), Some(entry)) = (&self.work, self.tasks.get_mut(id)) else { return Publishing::NotNow };
        let State::Queued { place, .. } = entry.state else { return Publishing::NotThis };
        let parcel = Parcel {
            task: Arc::clone(&entry.task),
            replica: Arc::clone(&entry.replica),
            epoch: entry.epoch,
            deliveries: entry.deliveries,
            redeliveries: entry.redeliveries,
            since: entry.since,
        };
        let publishing = work.publish(parcel);
        if publishing == Publishing::Begun {
            entry.state = State::Leaving;
            let key = Arc::clone(&entry.key);
            self.queues.remove(&key, place);
            self.release(id);
        }
        publishing
    }

    /// Where no session here takes from a queue, what waits in it goes to the message broker, in its order.
    pub(super) fn shed(&mut self, key: &QueueKey) {
        if self.work.is_none() || !self.queues.sessions(key).is_empty() {
            return;
        }
        // What it does not take stays in front, and is tried again when time passes.
        let mut left = 0;
        while let Some(id) = self.queues.nth(key, left) {
            match self.enqueue(&id) {
                Publishing::Begun => {}
                Publishing::NotThis => left += 1,
                Publishing::NotNow => return,
            }
        }
    }

    /// What has waited here for too long goes where others can take it.
    pub(super) fn spill(&mut self, now: Instant) {
        if self.work.is_none() {
            return;
        }
        let free: Vec<_> = self.crowded.iter().filter(|key| self.is_free(key)).cloned().collect();
        for key in &free {
            self.uncrowd(key);
        }
        for (key, since) in self.queues.filled() {
            if self.queues.sessions(&key).is_empty() {
                self.shed(&key);
            } else if now.saturating_duration_since(since) >= self.limits.spill_after {
                self.share(&key, now);
            }
        }
    }

    /// What has waited in a queue for long goes to whoever waits for it.
    fn share(&mut self, key: &Arc<QueueKey>, now: Instant) {
        if self.crowded.insert(Arc::clone(key)) {
            // From now on it is looked who that is.
            return self.consume(key);
        }
        let takers = self.work.as_ref().map_or(0, |work| work.takers(key));
        let mut left = usize::try_from(takers).unwrap_or(usize::MAX);
        for id in self.queues.first(key, if left == 0 { 0 } else { SPILLED_AT_ONCE }) {
            let Some(entry) = self.tasks.get(&id) else { continue };
            let State::Queued { since, .. } = entry.state else { continue };
            if now.saturating_duration_since(since) < self.limits.spill_after {
                continue;
            }
            if left == 0 {
                return;
            }
            match self.enqueue(&id) {
                Publishing::Begun => left -= 1,
                Publishing::NotThis => {}
                Publishing::NotNow => return,
            }
        }
    }

    /// A session has credit left, and nothing waits for it here: its queues are not crowded any more.
    pub(super) fn relieve(&mut self, id: SessionId) {
        if self.crowded.is_empty() {
            return;
        }
        let Some(session) = self.sessions.get(&id) else { return };
        let fits = session.fits.iter().filter(|key| self.crowded.contains(*key) && self.is_free(key));
        let free: Vec<_> = fits.cloned().collect();
        for key in &free {
            self.uncrowd(key);
        }
    }

    /// Would the next of a queue be taken at once?
    fn is_free(&self, key: &QueueKey) -> bool {
        self.queues.len(key) == 0 && self.pick(key).is_some()
    }

    fn uncrowd(&mut self, key: &Arc<QueueKey>) {
        self.crowded.remove(key);
        self.consume(key);
    }

    /// No task goes to the message broker any more: the replica stops.
    pub(crate) fn enqueue_nothing(&self) {
        if let Some(work) = &self.work {
            work.close();
        }
    }

    /// Is a task on its way to the message broker?
    pub(crate) fn is_anything_leaving(&self) -> bool {
        self.tasks.values().any(|entry| matches!(entry.state, State::Leaving))
    }

    /// Tasks are with the message broker.
    pub(crate) fn enqueued(&mut self, ids: &[TaskId]) {
        for id in ids {
            // Cancelled, ended, or back already.
            if !self.tasks.get(id).is_some_and(|entry| matches!(entry.state, State::Leaving)) {
                continue;
            }
            let Some(entry) = self.forget(id) else { continue };
            let update = Update::new(Arc::clone(id), None, What::Enqueued);
            self.orchestrators.tell(Some(&entry.replica), update);
            ::metrics::counter!(metrics::TASKS_ENQUEUED).increment(1);
            self.remember(id, &entry);
        }
    }

    /// Tasks did not get there: they wait here.
    pub(crate) fn not_enqueued(&mut self, ids: &[TaskId]) {
        // The first is to be in front of the others.
        for id in ids.iter().rev() {
            if self.tasks.get(id).is_some_and(|entry| matches!(entry.state, State::Leaving)) {
                self.place(id, Line::Front);
            }
        }
    }

    /// A task has come from the message broker.
    pub(crate) fn delivered(&mut self, parcel: Parcel, lot: Lot) {
        let id = Arc::clone(&parcel.task.id);
        if self.merge(&parcel, lot) || self.keep_with_result(&parcel, lot) {
            return;
        }
        let known = self.enqueued.remove(&id);
        let withdrawn_at = known.as_ref().and_then(|known| known.withdrawn_at);
        if withdrawn_at.is_some_and(|at| parcel.since <= at) {
            return self.settle(lot);
        }
        let deliveries = known.as_ref().map_or(0, |known| known.deliveries).max(parcel.deliveries);
        let (replica, epoch) = match known {
            // It was taken over meanwhile, or disowned.
            Some(known) if known.epoch >= parcel.epoch => (known.replica, known.epoch),
            Some(_) | None => (parcel.replica, parcel.epoch),
        };
        let returns = parcel.redeliveries / REDELIVERIES_AS_BAD;
        let key = Arc::new(QueueKey { namespace: parcel.task.namespace.clone(), target: parcel.task.target.clone() });
        let mut entry = Entry {
            task: parcel.task,
            key,
            replica,
            epoch,
            deliveries,
            redeliveries: parcel.redeliveries,
            since: parcel.since,
            // What others had before may be what ended them.
            lost: deliveries.saturating_add(returns),
            hand_overs: Vec::new(),
            lot: Some(lot),
            state: State::Leaving,
        };
        let is_poison = deliveries.max(returns) >= self.limits.deliveries;
        if is_poison {
            // As many as there may have been: its letter tells of them.
            entry.deliveries = deliveries.max(entry.redeliveries);
        }
        self.tasks.insert(Arc::clone(&id), entry);
        if is_poison {
            self.bury(&id, Reason::DeliveryLimit, "whoever had it has ended");
        } else {
            self.place(&id, Line::Since(parcel.since));
        }
    }

    /// A delivery of a task that is here already; false where it is not.
    fn merge(&mut self, parcel: &Parcel, lot: Lot) -> bool {
        let Some(entry) = self.tasks.get_mut(&parcel.task.id) else { return false };
        let is_back = matches!(entry.state, State::Leaving);
        let is_newer = parcel.epoch > entry.epoch;
        entry.deliveries = entry.deliveries.max(parcel.deliveries);
        entry.redeliveries = entry.redeliveries.max(parcel.redeliveries);
        match entry.lot {
            Some(_) if !is_back => self.settle(lot),
            old => {
                entry.lot = Some(lot);
                if let Some(old) = old {
                    self.settle(old);
                }
            }
        }
        if is_newer {
            // Two copies are there, and whoever dispatched this one has the execution.
            self.take_over(&parcel.replica, &parcel.task.id, parcel.epoch, true);
        }
        if is_back {
            // It was faster than the confirmation that it has gone.
            self.place(&parcel.task.id, Line::Since(parcel.since));
        }
        true
    }

    /// A delivery of a task whose result came before: it is settled with that.
    fn keep_with_result(&mut self, parcel: &Parcel, lot: Lot) -> bool {
        let Some(foreign) = self.foreign.get_mut(&parcel.task.id) else { return false };
        if foreign.from.namespace != parcel.task.namespace {
            return false;
        }
        if let Some(old) = foreign.lot.replace(lot) {
            self.settle(old);
        }
        true
    }

    /// The connection is lost: what nobody here has begun comes again, here or elsewhere; what sessions hold they keep.
    pub(crate) fn disconnected(&mut self) {
        let mut waiting = Vec::new();
        for (id, entry) in &mut self.tasks {
            if entry.lot.take().is_some() && entry.state.is_in_line() {
                waiting.push(Arc::clone(id));
            }
        }
        for id in &waiting {
            if let Some(entry) = self.take_out(id) {
                self.remember(id, &entry);
            }
        }
        for id in &waiting {
            self.release(id);
        }
        self.foreign.values_mut().for_each(|foreign| foreign.lot = None);
    }

    fn remember(&mut self, id: &TaskId, entry: &Entry) {
        let enqueued = Enqueued {
            key: Arc::clone(&entry.key),
            replica: Arc::clone(&entry.replica),
            epoch: entry.epoch,
            deliveries: entry.deliveries,
            since: Instant::now(),
            withdrawn_at: None,
        };
        self.enqueued.insert(id, enqueued);
    }

    /// Whoever speaks of a task with the message broker hears where it is; false where it is not there, or was withdrawn: its copy
    /// there may have been used up.
    pub(super) fn take_over_enqueued(&mut self, replica: &OrchestratorId, id: &str, epoch: i64) -> bool {
        let Some((id, enqueued)) = self.enqueued.wanted(id) else { return false };
        if epoch >= enqueued.epoch {
            enqueued.replica = Arc::clone(replica);
            enqueued.epoch = epoch;
            self.orchestrators.tell(Some(replica), Update::new(id, None, What::Enqueued));
        }
        true
    }

    /// The same, of a task that is with the message broker.
    pub(super) fn disown_enqueued(&mut self, replica: &OrchestratorId, id: &str) {
        if let Some((id, enqueued)) = self.enqueued.wanted(id).filter(|(_, one)| one.replica == *replica) {
            enqueued.replica = whoever();
            enqueued.since = Instant::now();
            self.orchestrators.tell(None, Update::new(id, None, What::Enqueued));
        }
    }

    /// The epoch of a task that is with the message broker.
    pub(super) fn enqueued_epoch(&self, id: &str) -> Option<i64> {
        self.enqueued.get(id).map(|enqueued| enqueued.epoch)
    }

    /// A task is not wanted any more that is on its way to the message broker.
    pub(super) fn cancel_leaving(&mut self, id: &str) {
        if let Some(entry) = self.forget(id) {
            self.remember(&Arc::clone(&entry.task.id), &entry);
            self.withdraw_enqueued(id);
        }
    }

    /// Forgets what nobody will ask for. Called now and then.
    pub(crate) fn tidy(&mut self, now: Instant) {
        if now.saturating_duration_since(self.tidied) < TIDIED_EVERY {
            return;
        }
        self.tidied = now;
        self.tidy_enqueued(now);
    }

    /// A delivery stands for nothing here any more.
    pub(super) fn settle(&self, lot: Lot) {
        if let Some(work) = &self.work {
            work.settle(lot);
        }
    }

    /// A task is not here any more, and its delivery is settled.
    pub(super) fn forget(&mut self, id: &str) -> Option<Entry> {
        let entry = self.tasks.remove(id)?;
        entry.lot.into_iter().for_each(|lot| self.settle(lot));
        Some(entry)
    }

    /// The same, for one that waits; a session may be kept free for it still.
    pub(super) fn take_out(&mut self, id: &str) -> Option<Entry> {
        match self.tasks.get(id)?.state {
            State::Queued { place, .. } => {
                let key = Arc::clone(&self.tasks.get(id)?.key);
                self.queues.remove(&key, place);
            }
            State::Delayed { due } => {
                self.delayed.remove(&due);
            }
            State::Leaving | State::Held { .. } | State::Ended { .. } | State::Dying { .. } => {}
        }
        self.forget(id)
    }
}
