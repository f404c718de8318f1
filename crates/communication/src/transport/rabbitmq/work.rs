//! Work queues as the replica's own tasks see them: what is wanted of the broker, and what it is to be told. Nothing here
//! waits; [`super::work_consumer`] does what is wanted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    time::Instant,
};

use tokio::sync::Notify;

use super::{RabbitMq, held::Verdict, lock};
use crate::{
    app::{QueueKey, TaskId},
    transport::{Demand, Lot, Parcel, Publishing, WorkQueues, WorkSink},
};

/// Queues that are looked at, or asked about, at once.
const MOST_AT_ONCE: usize = 32;

/// The work queues that somebody here takes from.
#[derive(Default)]
pub(super) struct Work {
    sink: OnceLock<Weak<dyn WorkSink>>,
    state: Mutex<State>,
    /// What is wanted has changed.
    pub(super) changed: Notify,
    /// There is something to tell the broker.
    pub(super) settled: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: HashMap<Arc<QueueKey>, Wanted>,
    turns: u64,
    /// Numbers connections.
    connection: u64,
    /// What has come over the present connection and is not settled, and from where.
    unsettled: HashMap<u64, Arc<QueueKey>>,
    counts: HashMap<Arc<QueueKey>, u32>,
    verdicts: Vec<(u64, Verdict)>,
}

/// What is wanted of a queue, and what was seen of it.
#[derive(Debug)]
struct Wanted {
    demand: Demand,
    /// It is crowded here, but something waits in it that nobody takes: it is taken here, until that is no longer so.
    has_left: bool,
    /// Tasks that others have agents for.
    offered: u32,
    /// When it was last looked at, and asked about, as counts.
    looked: u64,
    asked: u64,
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn sink(&self) -> Option<Arc<dyn WorkSink>> {
        self.sink.get().and_then(Weak::upgrade)
    }

    pub(super) fn enqueued(&self, tasks: &[TaskId]) {
        if let Some(sink) = self.sink().filter(|_| !tasks.is_empty()) {
            sink.enqueued(tasks);
        }
    }

    pub(super) fn not_enqueued(&self, tasks: &[TaskId]) {
        if let Some(sink) = self.sink().filter(|_| !tasks.is_empty()) {
            sink.not_enqueued(tasks);
        }
    }

    /// A new connection: what comes over it stands for deliveries that can be settled.
    pub(super) fn disconnected(&self) {
        let mut state = self.lock();
        state.connection += 1;
        state.unsettled.clear();
        state.counts.clear();
        state.verdicts.clear();
        state.wanted.values_mut().for_each(|wanted| wanted.has_left = false);
        drop(state);
        if let Some(sink) = self.sink() {
            sink.disconnected();
        }
    }

    /// Tasks have come, with the broker's numbers of their deliveries.
    pub(super) fn delivered(&self, arrived: Vec<(Arc<QueueKey>, u64, Parcel)>) {
        let mut state = self.lock();
        let connection = state.connection;
        let parcels = arrived.into_iter().map(|(key, tag, parcel)| {
            *state.counts.entry(Arc::clone(&key)).or_default() += 1;
            state.unsettled.insert(tag, key);
            (parcel, Lot { connection, tag })
        });
        let parcels: Vec<_> = parcels.collect();
        drop(state);
        if let Some(sink) = self.sink().filter(|_| !parcels.is_empty()) {
            sink.delivered(parcels);
        }
    }

    /// A delivery that is no task.
    pub(super) fn reject(&self, tag: u64) {
        self.lock().verdicts.push((tag, Verdict::DeadLetter));
        self.settled.notify_one();
    }

    /// What the broker is to be told, in order.
    pub(super) fn take_verdicts(&self) -> Vec<(u64, Verdict)> {
        std::mem::take(&mut self.lock().verdicts)
    }

    /// How much of which queue is to be taken.
    pub(super) fn wanted(&self) -> HashMap<Arc<QueueKey>, u32> {
        let state = self.lock();
        let taken = state.wanted.iter().filter(|(_, wanted)| wanted.is_taken());
        taken.map(|(key, wanted)| (Arc::clone(key), wanted.demand.credit)).collect()
    }

    /// How much of a queue is here unsettled.
    pub(super) fn unsettled(&self, key: &QueueKey) -> u32 {
        self.lock().counts.get(key).copied().unwrap_or_default()
    }

    /// The crowded queues that are to be looked at now: a few, in turn.
    pub(super) fn next_looks(&self) -> Vec<Arc<QueueKey>> {
        self.lock().next(|wanted| &mut wanted.looked)
    }

    /// The crowded queues for which agents are to be asked for now: a few, in turn. What was offered before is over.
    pub(super) fn next_questions(&self) -> Vec<Arc<QueueKey>> {
        let mut state = self.lock();
        let next = state.next(|wanted| &mut wanted.asked);
        for key in &next {
            if let Some(wanted) = state.wanted.get_mut(key) {
                wanted.offered = 0;
            }
        }
        next
    }

    /// Something waits in a queue with the broker, in nobody's hands, or nothing does.
    pub(super) fn looked(&self, key: &QueueKey, has_left: bool) {
        let mut state = self.lock();
        if let Some(wanted) = state.wanted.get_mut(key)
            && std::mem::replace(&mut wanted.has_left, has_left) != has_left
        {
            self.changed.notify_one();
        }
    }

    /// Another replica has agents for so many.
    pub(super) fn offered(&self, key: &QueueKey, credit: u32) {
        if let Some(wanted) = self.lock().wanted.get_mut(key) {
            wanted.offered = wanted.offered.saturating_add(credit);
        }
    }

    /// The queues of which tasks are remembered here.
    pub(super) fn remembered(&self) -> Vec<Arc<QueueKey>> {
        self.sink().map_or_else(Vec::new, |sink| sink.remembered())
    }

    /// A queue is empty, and was at this time.
    pub(super) fn emptied(&self, key: &QueueKey, before: Instant) {
        if let Some(sink) = self.sink() {
            sink.emptied(key, before);
        }
    }

    /// How many tasks of a queue agents here wait for.
    pub(super) fn spare(&self, key: &QueueKey) -> u32 {
        self.sink().map_or(0, |sink| sink.spare(key))
    }
}

impl State {
    fn next(&mut self, turn: impl Fn(&mut Wanted) -> &mut u64) -> Vec<Arc<QueueKey>> {
        let crowded = self.wanted.iter_mut().filter(|(_, wanted)| wanted.demand.is_crowded);
        let mut crowded: Vec<_> = crowded.map(|(key, wanted)| (*turn(wanted), Arc::clone(key))).collect();
        crowded.sort_unstable_by_key(|(turn, _)| *turn);
        crowded.truncate(MOST_AT_ONCE);
        self.turns += 1;
        for (_, key) in &crowded {
            if let Some(wanted) = self.wanted.get_mut(key) {
                *turn(wanted) = self.turns;
            }
        }
        crowded.into_iter().map(|(_, key)| key).collect()
    }
}

impl Wanted {
    const fn is_taken(&self) -> bool {
        !self.demand.is_crowded || self.has_left
    }
}

impl WorkQueues for RabbitMq {
    fn start(&self, sink: Weak<dyn WorkSink>) {
        // A second start would change nothing: there is one hub per transport.
        let _ = self.work.sink.set(sink);
    }

    fn publish(&self, parcel: Parcel) -> Publishing {
        self.outgoing.push_task(parcel)
    }

    fn close(&self) {
        self.outgoing.refuse_tasks();
    }

    fn consume(&self, queue: &Arc<QueueKey>, demand: Demand) {
        let mut state = self.work.lock();
        if demand.credit == 0 {
            state.wanted.remove(queue);
        } else {
            let credit = demand.credit.min(self.settings.task_prefetch.into());
            let demand = Demand { credit, ..demand };
            let new = Wanted { demand, has_left: false, offered: 0, looked: 0, asked: 0 };
            let wanted = state.wanted.entry(Arc::clone(queue)).or_insert(new);
            if !demand.is_crowded {
                (wanted.has_left, wanted.offered) = (false, 0);
            }
            wanted.demand = demand;
        }
        drop(state);
        self.work.changed.notify_one();
    }

    fn takers(&self, queue: &QueueKey) -> u32 {
        let mut state = self.work.lock();
        // What waits there is enough for them.
        let offering = state.wanted.get_mut(queue).filter(|wanted| !wanted.has_left);
        offering.map_or(0, |wanted| std::mem::take(&mut wanted.offered))
    }

    fn settle(&self, lot: Lot) {
        let mut state = self.work.lock();
        if lot.connection != state.connection {
            return;
        }
        if let Some(key) = state.unsettled.remove(&lot.tag)
            && let Some(count) = state.counts.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                state.counts.remove(&key);
            }
        }
        state.verdicts.push((lot.tag, Verdict::Ack));
        drop(state);
        self.work.settled.notify_one();
    }
}
