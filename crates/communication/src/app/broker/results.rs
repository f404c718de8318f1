//! How tasks end: results are kept until the orchestrator has committed them, and offered again until then.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use domain::SessionId;
use lifecycle::crash_point;

use super::{
    Broker, OrchestratorId,
    tasks::{Entry, State},
};
use crate::{
    app::model::{Mailbox, Outcome, Task, TaskId, ToAgent, Update, What},
    metrics,
    transport::Lot,
};

/// The result of a task that is not known here: dispatched in an earlier life of this process, or ended long ago. Which of
/// the two, the orchestrator knows.
#[derive(Debug)]
pub(super) struct Foreign {
    /// Who says so: only the task's owner knows whether it is of the task's namespace.
    pub(super) from: Mailbox,
    owed: Vec<SessionId>,
    outcome: Outcome,
    /// The message broker's delivery of the task, where that came after the result.
    pub(super) lot: Option<Lot>,
}

/// Bytes of all results of unknown tasks together.
const FOREIGN_BYTES: usize = 256 << 20;

impl Foreign {
    fn update(&self, id: &TaskId) -> Update {
        let what = What::Ended(self.outcome.clone());
        Update {
            namespace: Some(self.from.namespace.clone()),
            ..Update::new(Arc::clone(id), Some(self.from.agent), what)
        }
    }
}

impl Broker {
    /// A session says how a task ended. The first result of an attempt counts, whoever holds the task by now: a result
    /// may come over the agent's next session.
    pub(crate) fn result(&mut self, from: SessionId, id: &str, outcome: Outcome) {
        let outcome = outcome.within(self.limits.output);
        let Some(session) = self.sessions.get_mut(&from) else { return };
        let (agent, mailbox) = (session.agent(), session.mailbox.clone());
        let Some((id, entry)) = self.tasks.get_key_value(id) else {
            return self.foreign_result(from, mailbox, id, outcome);
        };
        let id = Arc::clone(id);
        // A fence: what another namespace's agent says does not exist.
        if entry.task.namespace != mailbox.namespace {
            return;
        }
        let holder = match entry.state {
            State::Held { session: holder, since, .. } => {
                if holder == from {
                    let labels =
                        [("agent_type", ::metrics::SharedString::from_shared(Arc::clone(&session.agent_type)))];
                    ::metrics::histogram!(metrics::PROCESSING_SECONDS, &labels).record(since.elapsed().as_secs_f64());
                }
                Some(holder)
            }
            State::Queued { place, .. } => {
                let key = Arc::clone(&entry.key);
                self.queues.remove(&key, place);
                None
            }
            State::Delayed { due } => {
                self.delayed.remove(&due);
                None
            }
            State::Leaving => None,
            State::Ended { .. } => return self.owe_again(from, &id),
            State::Dying { .. } => {
                session.outbox.push(ToAgent::ResultAck(id));
                return;
            }
        };
        if holder == Some(from) {
            session.tasks.remove(&id);
        }
        session.owed += 1;
        crash_point("communication.result.received");
        if let Some(other) = holder.filter(|holder| *holder != from) {
            self.withdraw(other, &id, "another session had the result first");
            self.pump(other);
        }
        if let Some(entry) = self.tasks.get_mut(&id) {
            let since = Instant::now();
            entry.state = State::Ended { agent, owed: vec![from], outcome: outcome.clone(), since };
            let update = Update::new(Arc::clone(&id), Some(agent), What::Ended(outcome));
            self.orchestrators.tell(Some(&entry.replica), update);
        }
        self.release(&id);
        self.pump(from);
    }

    /// A result that is here already is acknowledged to this session too.
    fn owe_again(&mut self, from: SessionId, id: &TaskId) {
        let owed = match self.tasks.get_mut(id).map(|entry| &mut entry.state) {
            Some(State::Ended { owed, .. }) => Some(owed),
            Some(
                State::Queued { .. }
                | State::Delayed { .. }
                | State::Leaving
                | State::Held { .. }
                | State::Dying { .. },
            ) => None,
            None => self.foreign.get_mut(id).map(|foreign| &mut foreign.owed),
        };
        if let (Some(owed), Some(session)) = (owed, self.sessions.get_mut(&from))
            && !owed.contains(&from)
        {
            owed.push(from);
            session.owed += 1;
        }
    }

    fn foreign_result(&mut self, session: SessionId, from: Mailbox, id: &str, outcome: Outcome) {
        let id: TaskId = id.into();
        if self.foreign.contains_key(&id) {
            return self.owe_again(session, &id);
        }
        // Without an acknowledgement the agent keeps it, and sends it again over its next session.
        let bytes = self.foreign_bytes + outcome.size();
        if self.foreign.len() >= self.limits.foreign_results || bytes > FOREIGN_BYTES {
            return;
        }
        self.foreign_bytes = bytes;
        let foreign = Foreign { from, owed: Vec::new(), outcome, lot: None };
        self.orchestrators.tell(None, foreign.update(&id));
        self.foreign.insert(Arc::clone(&id), foreign);
        self.owe_again(session, &id);
    }

    /// A dispatch of a task whose result came before: the dispatcher gets the result instead.
    pub(super) fn claim_foreign(&mut self, replica: &OrchestratorId, task: &Task) -> bool {
        let Some((id, foreign)) = self.foreign.get_key_value(&task.id) else { return false };
        if foreign.from.namespace != task.namespace {
            return false;
        }
        self.orchestrators.tell(Some(replica), foreign.update(id));
        true
    }

    /// Tells of a result whose task is not known here; false where there is none.
    pub(super) fn tell_foreign(&self, replica: &OrchestratorId, id: &str) -> bool {
        let Some((id, foreign)) = self.foreign.get_key_value(id) else { return false };
        self.orchestrators.tell(Some(replica), foreign.update(id));
        true
    }

    /// A result is committed, or not wanted: everybody who waits for its acknowledgement gets it.
    pub(crate) fn acknowledge(&mut self, id: &str) {
        let owed = match self.tasks.get(id).map(|entry| &entry.state) {
            Some(State::Ended { .. }) => match self.forget(id) {
                Some(Entry { state: State::Ended { owed, .. }, .. }) => owed,
                Some(_) | None => return,
            },
            Some(
                State::Queued { .. }
                | State::Delayed { .. }
                | State::Leaving
                | State::Held { .. }
                | State::Dying { .. },
            ) => return,
            None => match self.foreign.remove(id) {
                Some(foreign) => {
                    self.foreign_bytes -= foreign.outcome.size();
                    foreign.lot.into_iter().for_each(|lot| self.settle(lot));
                    // Where it waits with the message broker, it is there in vain.
                    self.withdraw_enqueued(id);
                    foreign.owed
                }
                // It has ended elsewhere.
                None => {
                    self.enqueued.remove(id);
                    return;
                }
            },
        };
        crash_point("communication.result.acknowledged");
        for session in owed {
            self.pay(session, ToAgent::ResultAck(id.into()));
        }
    }

    /// Offers to all what nobody has acknowledged for long: whoever was told may have lost the execution since.
    pub(crate) fn offer_again(&self, now: Instant) {
        /// Far longer than a commit takes.
        const LONG: Duration = Duration::from_secs(5);
        for (id, entry) in &self.tasks {
            if let State::Ended { agent, outcome, since, .. } = &entry.state
                && now.saturating_duration_since(*since) >= LONG
            {
                self.orchestrators.tell(None, Update::new(Arc::clone(id), Some(*agent), What::Ended(outcome.clone())));
            }
        }
        for (id, foreign) in &self.foreign {
            self.orchestrators.tell(None, foreign.update(id));
        }
    }

    /// Offers a replica what waits for it: its own results, those whose replica is away, and the unknown ones.
    pub(super) fn offer_results(&mut self, replica: &OrchestratorId) {
        let orchestrators = &self.orchestrators;
        for (id, entry) in &mut self.tasks {
            let State::Ended { agent, outcome, .. } = &entry.state else { continue };
            if entry.replica == *replica || !orchestrators.is_attached(&entry.replica) {
                entry.replica = Arc::clone(replica);
                let what = What::Ended(outcome.clone());
                orchestrators.tell(Some(replica), Update::new(Arc::clone(id), Some(*agent), what));
            }
        }
        for (id, foreign) in &self.foreign {
            orchestrators.tell(Some(replica), foreign.update(id));
        }
    }
}
