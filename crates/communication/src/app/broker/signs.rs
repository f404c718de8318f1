//! Signs of life that sessions give of the tasks they hold.

use std::sync::Arc;

use bytes::Bytes;
use domain::{AgentId, SessionId};

use super::{
    Broker,
    tasks::{Entry, State},
};
use crate::app::{
    model::{Update, What},
    progress::Shown,
};

impl Broker {
    /// The agent has begun with a task that its session holds.
    pub(crate) fn begun(&self, session: SessionId, id: &str) {
        self.tell_of_held(session, id, What::Begun);
    }

    /// The agent still works on it.
    pub(crate) fn alive(&self, session: SessionId, id: &str) {
        self.tell_of_held(session, id, What::Alive);
    }

    /// The agent shows how far it is. Answers with what others may hear about it; none where the task is not this session's.
    pub(crate) fn shown(&self, session: SessionId, id: &str, detail: Bytes) -> Option<Shown> {
        let (agent, entry) = self.tell_of_held(session, id, What::Shown(detail.clone()))?;
        Some(Shown {
            namespace: entry.task.namespace.clone(),
            execution_id: entry.task.execution_id.clone(),
            task: Arc::clone(&entry.task.id),
            agent,
            detail,
            at: self.clock.now(),
        })
    }

    /// Tells the orchestrator of a task that a session holds; answers with who that is.
    fn tell_of_held(&self, session: SessionId, id: &str, what: What) -> Option<(AgentId, &Entry)> {
        let (id, entry) = self.tasks.get_key_value(id)?;
        let State::Held { session: holder, agent, .. } = entry.state else { return None };
        if holder != session {
            return None;
        }
        self.orchestrators.tell(Some(&entry.replica), Update::new(Arc::clone(id), Some(agent), what));
        Some((agent, entry))
    }
}
