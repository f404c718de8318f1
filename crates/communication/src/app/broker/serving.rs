//! For whom there are sessions here: orchestrators hear of it, so that they give tasks to where they find somebody, and the
//! message broker, so that it delivers no more than is taken.

use std::sync::Arc;

use domain::SessionId;

use super::{Broker, QueueKey, Session};
use crate::{
    app::model::{Served, ToOrchestrator},
    transport::Demand,
};

impl Broker {
    /// A session takes from a queue from now on.
    pub(super) fn enter(&mut self, key: &Arc<QueueKey>, session: SessionId) {
        self.queues.enter(key, session);
        self.capacity_changed(key);
    }

    /// A session takes from a queue no more.
    pub(super) fn leave(&mut self, key: &Arc<QueueKey>, session: SessionId) {
        self.queues.leave(key, session);
        if self.queues.sessions(key).is_empty() {
            self.crowded.remove(key);
        }
        self.capacity_changed(key);
    }

    fn capacity_changed(&self, key: &Arc<QueueKey>) {
        self.orchestrators.tell_all(&ToOrchestrator::Serving(vec![self.served(key)]));
        self.consume(key);
    }

    /// Lets the message broker deliver what the sessions of a queue can hold together.
    pub(super) fn consume(&self, key: &Arc<QueueKey>) {
        if let Some(work) = &self.work {
            work.consume(key, Demand { credit: self.capacity(key), is_crowded: self.crowded.contains(key) });
        }
    }

    /// How many tasks of a queue the sessions wait for.
    pub(crate) fn spare(&self, key: &QueueKey) -> u32 {
        if self.queues.len(key) > 0 {
            return 0;
        }
        let sessions = self.queues.sessions(key).iter().filter_map(|id| self.sessions.get(id));
        let spare: usize = sessions.filter(|session| session.has_room()).map(Session::spare).sum();
        u32::try_from(spare).unwrap_or(u32::MAX)
    }

    /// Everybody who is served.
    pub(super) fn all_served(&self) -> Vec<Served> {
        self.queues.served().map(|key| self.served(key)).collect()
    }

    fn served(&self, key: &QueueKey) -> Served {
        Served { namespace: key.namespace.clone(), target: key.target.clone(), capacity: self.capacity(key) }
    }

    fn capacity(&self, key: &QueueKey) -> u32 {
        let sessions = self.queues.sessions(key).iter().filter_map(|id| self.sessions.get(id));
        let credits: usize = sessions.map(|session| session.credits).sum();
        u32::try_from(credits).unwrap_or(u32::MAX)
    }
}
