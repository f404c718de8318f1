//! Work queues as the replica's own tasks see them: what is wanted of the broker, and what it is to be told. Nothing here
//! waits; [`super::work_consumer`] does what is wanted.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
};

use tokio::sync::Notify;

use super::{RabbitMq, held::Verdict, lock};
use crate::{
    app::{QueueKey, TaskId},
    transport::{Lot, Parcel, WorkQueues, WorkSink},
};

/// Queues of which it is asked at once whether others take from them.
const MOST_ASKED: usize = 256;

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
    /// How much may be here of what comes from them.
    wanted: HashMap<Arc<QueueKey>, u32>,
    /// Numbers connections.
    connection: u64,
    /// What has come over the present connection and is not settled, and from where.
    unsettled: HashMap<u64, Arc<QueueKey>>,
    counts: HashMap<Arc<QueueKey>, u32>,
    verdicts: Vec<(u64, Verdict)>,
    /// Other replicas take from them.
    shared: HashSet<Arc<QueueKey>>,
    /// Somebody wants to know whether others do.
    asked: HashSet<Arc<QueueKey>>,
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
        state.shared.clear();
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

    /// How much of which queue is wanted.
    pub(super) fn wanted(&self) -> HashMap<Arc<QueueKey>, u32> {
        self.lock().wanted.clone()
    }

    /// How much of a queue is here unsettled.
    pub(super) fn unsettled(&self, key: &QueueKey) -> u32 {
        self.lock().counts.get(key).copied().unwrap_or_default()
    }

    /// The queues of which somebody wants to know.
    pub(super) fn take_asked(&self) -> HashSet<Arc<QueueKey>> {
        std::mem::take(&mut self.lock().asked)
    }

    /// Others take from a queue, or nobody else does.
    pub(super) fn set_shared(&self, key: Arc<QueueKey>, is_shared: bool) {
        let mut state = self.lock();
        if is_shared && state.wanted.contains_key(&key) {
            state.shared.insert(key);
        } else {
            state.shared.remove(&key);
        }
    }
}

impl WorkQueues for RabbitMq {
    fn start(&self, sink: Weak<dyn WorkSink>) {
        // A second start would change nothing: there is one hub per transport.
        let _ = self.work.sink.set(sink);
    }

    fn publish(&self, parcel: Parcel) -> bool {
        self.outgoing.push_task(parcel)
    }

    fn consume(&self, queue: &Arc<QueueKey>, credit: u32) {
        let mut state = self.work.lock();
        if credit == 0 {
            state.wanted.remove(queue);
            state.shared.remove(queue);
        } else {
            state.wanted.insert(Arc::clone(queue), credit.min(self.settings.task_prefetch.into()));
        }
        drop(state);
        self.work.changed.notify_one();
    }

    fn is_shared(&self, queue: &Arc<QueueKey>) -> bool {
        let mut state = self.work.lock();
        if state.asked.len() < MOST_ASKED && !state.asked.contains(queue) {
            state.asked.insert(Arc::clone(queue));
        }
        state.shared.contains(queue)
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
