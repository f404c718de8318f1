//! The streams of orchestrators.

use std::sync::Arc;

use contracts::communication::v1::{TaskUpdate, task_update::Update};

use super::state::{Exchange, Place, State};
use crate::{
    app::{outgoing::Outgoing, record::Id},
    error::CommunicationError,
};

impl State {
    /// A stream begins: it replaces the older one of its replica, and is offered every result that waits for it.
    pub(super) fn attach(&mut self, replica: &Id, outgoing: Outgoing<TaskUpdate>) -> u64 {
        let generation = self.next();
        let older = self.exchanges.insert(Arc::clone(replica), Exchange { generation, outgoing });
        if let Some(older) = older {
            older.outgoing.fail(CommunicationError::Replaced.into());
            self.forget_unheld(replica);
        }
        let mut results: Vec<_> = Vec::new();
        for (id, entry) in &self.tasks {
            if let Place::Done(_, result) = &entry.place
                && (entry.owner == *replica || !self.exchanges.contains_key(&entry.owner))
            {
                results.push((entry.rank.sequence, Arc::clone(id), Arc::clone(&entry.agent_id), result.clone()));
            }
        }
        results.sort_unstable_by_key(|(sequence, ..)| *sequence);
        for (_, id, agent_id, result) in results {
            self.report(replica, &id, &agent_id, Update::Result(result));
        }
        generation
    }

    /// A stream ends, unless a newer one has taken over.
    pub(super) fn detach(&mut self, replica: &Id, generation: u64) {
        if self.exchanges.get(replica).is_some_and(|exchange| exchange.generation == generation) {
            self.exchanges.remove(replica);
            self.forget_unheld(replica);
        }
    }

    /// Forgets the tasks of a replica that no session holds; it dispatches them again.
    pub(super) fn forget_unheld(&mut self, replica: &Id) {
        let unheld = self
            .tasks
            .iter()
            .filter(|(_, entry)| entry.owner == *replica && matches!(entry.place, Place::Queued | Place::Delayed));
        for id in unheld.map(|(id, _)| Arc::clone(id)).collect::<Vec<_>>() {
            if let Some(entry) = self.tasks.remove(&id) {
                self.unqueue(&entry.route, entry.rank);
            }
        }
    }
}
