//! Work queues of which tests decide what happens when: what is published is there when the test says so, what is there
//! comes when it says so, and it may say that a connection is lost, with what was on its way or without.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use super::{Bench, Broker, QueueKey};
use crate::{
    app::model::TaskId,
    transport::{Demand, Lot, Parcel, Publishing, WorkQueues, WorkSink},
};

/// The message broker.
#[derive(Default)]
pub(super) struct Server(Mutex<State>);

#[derive(Default)]
struct State {
    is_away: bool,
    /// Tasks that do harm to it.
    unfit: HashSet<String>,
    /// Who published it, in order.
    published: VecDeque<(usize, Parcel)>,
    queues: HashMap<QueueKey, VecDeque<Parcel>>,
    /// By the number of the delivery: to whom it went.
    unsettled: BTreeMap<u64, (usize, Parcel)>,
    demands: HashMap<(usize, QueueKey), Demand>,
    connections: HashMap<usize, u64>,
    tags: u64,
}

/// One replica's side of it.
struct Client {
    server: Arc<Server>,
    replica: usize,
}

impl Server {
    /// A broker that uses it, as a replica of this number.
    pub(super) fn bench(self: &Arc<Self>, replica: usize, queue: usize, deliveries: u32) -> Bench {
        Bench::sharing(queue, deliveries, Some(Arc::new(Client { server: Arc::clone(self), replica })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn set_away(&self, is_away: bool) {
        self.lock().is_away = is_away;
    }

    pub(super) fn set_unfit(&self, id: &str, is_unfit: bool) {
        let mut state = self.lock();
        if is_unfit {
            state.unfit.insert(id.to_owned())
        } else {
            state.unfit.remove(id)
        };
    }

    /// Somebody deletes every queue.
    pub(super) fn delete_queues(&self) {
        self.lock().queues.clear();
    }

    /// Everything that a replica has published is there; it hears so, unless that gets lost.
    pub(super) fn confirm(&self, replica: usize, broker: &mut Broker, is_heard: bool) {
        let ids = self.take_in(replica);
        if is_heard {
            broker.enqueued(&ids);
        } else {
            broker.not_enqueued(&ids);
        }
    }

    /// Everything that a replica has published is lost.
    pub(super) fn refuse(&self, replica: usize, broker: &mut Broker) {
        let mut state = self.lock();
        let (lost, kept) =
            std::mem::take(&mut state.published).into_iter().partition::<VecDeque<_>, _>(|(from, _)| *from == replica);
        state.published = kept;
        drop(state);
        let ids: Vec<_> = lost.into_iter().map(|(_, parcel)| Arc::clone(&parcel.task.id)).collect();
        broker.not_enqueued(&ids);
    }

    fn next(&self, replica: usize) -> Option<(Parcel, Lot)> {
        self.lock().next(replica)
    }

    fn take_in(&self, replica: usize) -> Vec<TaskId> {
        let mut state = self.lock();
        let mut ids = Vec::new();
        for (from, parcel) in std::mem::take(&mut state.published) {
            if from == replica {
                ids.push(Arc::clone(&parcel.task.id));
                state.queues.entry(parcel.queue()).or_default().push_back(parcel);
            } else {
                state.published.push_back((from, parcel));
            }
        }
        ids
    }

    /// Delivers what a replica has credit for; answers with how many.
    pub(super) fn deliver(&self, replica: usize, broker: &mut Broker) -> usize {
        let mut delivered = 0;
        loop {
            let Some((parcel, lot)) = self.next(replica) else { return delivered };
            delivered += 1;
            broker.delivered(parcel, lot);
        }
    }

    /// A replica's connection is lost, or it has ended: what it has not settled goes back, counted.
    pub(super) fn disconnect(&self, replica: usize) {
        let mut state = self.lock();
        *state.connections.entry(replica).or_default() += 1;
        let (lost, kept) = std::mem::take(&mut state.unsettled)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, (holder, _))| *holder == replica);
        state.unsettled = kept;
        for (_, (_, mut parcel)) in lost.into_iter().rev() {
            parcel.redeliveries += 1;
            state.queues.entry(parcel.queue()).or_default().push_front(parcel);
        }
    }

    /// A replica has ended: what it had published is there, or not.
    pub(super) fn end(&self, replica: usize, is_there: bool) {
        if is_there {
            self.take_in(replica);
        }
        self.disconnect(replica);
        let mut state = self.lock();
        state.published.retain(|(from, _)| *from != replica);
        state.demands.retain(|(of, _), _| *of != replica);
    }

    /// The last of every queue is the first.
    pub(super) fn reorder(&self) {
        for queue in self.lock().queues.values_mut() {
            queue.rotate_right(1.min(queue.len()));
        }
    }

    /// Does anything wait in a queue, in nobody's hands?
    pub(super) fn has_any(&self, key: &QueueKey) -> bool {
        self.lock().queues.get(key).is_some_and(|queue| !queue.is_empty())
    }

    /// Tasks in queues, in nobody's hands, in order.
    pub(super) fn waiting(&self) -> Vec<Parcel> {
        self.lock().queues.values().flatten().cloned().collect()
    }

    /// Tasks that were delivered and are not settled.
    pub(super) fn unsettled(&self) -> usize {
        self.lock().unsettled.len()
    }

    /// Is it anywhere in here?
    pub(super) fn knows(&self, id: &str) -> bool {
        let state = self.lock();
        let published = state.published.iter().map(|(_, parcel)| parcel);
        let unsettled = state.unsettled.values().map(|(_, parcel)| parcel);
        let mut all = published.chain(unsettled).chain(state.queues.values().flatten());
        all.any(|parcel| *parcel.task.id == *id)
    }
}

impl State {
    fn next(&mut self, replica: usize) -> Option<(Parcel, Lot)> {
        let demands = || self.demands.iter().filter(|(_, demand)| demand.credit > 0);
        let has_credit = |of: usize, key: &QueueKey, demand: &Demand| {
            let here = self.unsettled.values().filter(|(holder, parcel)| *holder == of && parcel.queue() == *key);
            here.count() < usize::try_from(demand.credit).unwrap()
        };
        // Those that are crowded have what the others leave.
        let is_taken = |key: &QueueKey| {
            let mut others = demands().filter(|((_, other), demand)| other == key && !demand.is_crowded);
            others.any(|((of, _), demand)| has_credit(*of, key, demand))
        };
        let may_take = |key: &&QueueKey| {
            let mut own = demands().filter(|((of, other), _)| *of == replica && other == *key);
            own.any(|(_, demand)| has_credit(replica, key, demand) && !(demand.is_crowded && is_taken(key)))
        };
        let mut filled = self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(key, _)| key);
        let key = filled.find(may_take)?.clone();
        let parcel = self.queues.get_mut(&key)?.pop_front()?;
        self.tags += 1;
        self.unsettled.insert(self.tags, (replica, parcel.clone()));
        let connection = self.connections.get(&replica).copied().unwrap_or_default();
        Some((parcel, Lot { connection, tag: self.tags }))
    }
}

impl WorkQueues for Client {
    fn start(&self, _: Weak<dyn WorkSink>) {}

    fn publish(&self, parcel: Parcel) -> Publishing {
        let mut state = self.server.lock();
        if state.is_away {
            return Publishing::NotNow;
        }
        if state.unfit.contains(&*parcel.task.id) {
            return Publishing::NotThis;
        }
        state.published.push_back((self.replica, parcel));
        Publishing::Begun
    }

    fn close(&self) {}

    fn consume(&self, queue: &Arc<QueueKey>, demand: Demand) {
        self.server.lock().demands.insert((self.replica, (**queue).clone()), demand);
    }

    fn takers(&self, queue: &QueueKey) -> u32 {
        let state = self.server.lock();
        let others = state.demands.iter().filter(|((of, key), _)| *of != self.replica && key == queue);
        let free = others.filter(|(_, demand)| !demand.is_crowded).map(|(_, demand)| demand.credit);
        if state.queues.get(queue).is_none_or(VecDeque::is_empty) { free.sum() } else { 0 }
    }

    fn settle(&self, lot: Lot) {
        let mut state = self.server.lock();
        if state.connections.get(&self.replica).copied().unwrap_or_default() == lot.connection {
            state.unsettled.remove(&lot.tag);
        }
    }
}
