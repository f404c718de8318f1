//! What happens to tasks on their way to a session and back.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use domain::{AgentId, DeadLetterId, SessionId};

use super::{Attachment, Broker, Replica, Session, What, queues::Place, queues::QueueKey};
use crate::{
    app::{
        journal,
        model::{DeadLetter, Kind, Outcome, Reason, Task, TaskId, ToAgent, Update},
    },
    metrics,
};

/// A task that is known here.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) task: Arc<Task>,
    pub(super) key: Arc<QueueKey>,
    /// Who dispatched it last.
    pub(super) replica: Replica,
    /// Under which it did.
    pub(super) epoch: i64,
    pub(super) deliveries: u32,
    pub(super) state: State,
}

/// Where a task is.
#[derive(Debug)]
pub(super) enum State {
    Queued {
        place: Place,
        told_waiting: bool,
    },
    Delayed {
        due: (Instant, u64),
    },
    Held {
        session: SessionId,
        agent: AgentId,
        turn: u64,
        since: Instant,
    },
    /// Kept until the orchestrator has committed it; then all of `owed` are acknowledged.
    Ended {
        agent: AgentId,
        owed: Vec<SessionId>,
        outcome: Outcome,
        since: Instant,
    },
    /// Its dead letter is being recorded.
    Dying {
        agent: Option<AgentId>,
        letter: DeadLetterId,
        reason: Reason,
    },
}

impl Broker {
    /// Gives a task to a session, or queues it. A task that is here already stays as it is.
    pub(crate) fn dispatch(&mut self, from: &Attachment, task: Task) {
        let replica = &from.replica;
        if !self.orchestrators.is_current(from) || self.is_known(replica, &task) || self.claim_foreign(replica, &task) {
            return;
        }
        let key = Arc::new(QueueKey { namespace: task.namespace.clone(), target: task.target.clone() });
        let id = Arc::clone(&task.id);
        if self.queues.len(&key) >= self.limits.queue {
            ::metrics::counter!(metrics::TASKS_REFUSED).increment(1);
            let refused = What::Refused(format!("the queue of {} is full", task.target));
            self.orchestrators.tell(Some(replica), Update::new(id, None, refused));
            return;
        }
        let place = self.queues.push(&key, task.priority, false, Arc::clone(&id));
        let state = State::Queued { place, told_waiting: false };
        let entry = Entry {
            epoch: task.epoch,
            task: Arc::new(task),
            key: Arc::clone(&key),
            replica: Arc::clone(replica),
            deliveries: 0,
            state,
        };
        self.tasks.insert(Arc::clone(&id), entry);
        self.serve(&key);
        self.tell_if_waiting(&id);
    }

    /// In which trace a task is that is known here.
    pub(crate) fn trace_of(&self, id: &str) -> Option<&str> {
        self.tasks.get(id).map(|entry| entry.task.traceparent.as_str())
    }

    /// Does somebody who has lost the execution speak of its task?
    pub(crate) fn is_outdated(&self, id: &str, epoch: i64) -> bool {
        self.tasks.get(id).is_some_and(|entry| epoch < entry.epoch)
    }

    /// A repeated dispatch: nothing happens, but a new dispatcher takes the task over and is told where it is.
    fn is_known(&mut self, replica: &Replica, task: &Task) -> bool {
        self.take_over(replica, &task.id, task.epoch)
    }

    /// Answers where a task is, to whoever is to hear of it from now on.
    pub(crate) fn locate(&mut self, from: &Attachment, id: &str, epoch: i64) {
        if self.orchestrators.is_current(from) && !self.take_over(&from.replica, id, epoch) {
            self.orchestrators.tell(Some(&from.replica), Update::new(id.into(), None, What::Unknown));
        }
    }

    /// False where the task is not here.
    fn take_over(&mut self, replica: &Replica, id: &str, epoch: i64) -> bool {
        let Some((id, _)) = self.tasks.get_key_value(id) else { return false };
        let id = &Arc::clone(id);
        let Some(entry) = self.tasks.get_mut(id) else { return false };
        if epoch < entry.epoch {
            return true;
        }
        let is_new = entry.replica != *replica;
        entry.replica = Arc::clone(replica);
        entry.epoch = epoch;
        let (agent, what) = match &entry.state {
            State::Ended { agent, outcome, .. } => (Some(*agent), What::Ended(outcome.clone())),
            // Told again in any case: what was told over an earlier stream may have been lost with it.
            State::Held { session, agent, .. } => {
                (Some(*agent), What::HandedOver { session: *session, delivery: entry.deliveries })
            }
            State::Queued { told_waiting: true, .. } if is_new => (None, What::Waiting),
            State::Queued { .. } | State::Delayed { .. } | State::Dying { .. } => return true,
        };
        self.orchestrators.tell(Some(replica), Update::new(Arc::clone(id), agent, what));
        true
    }

    /// Tells a replica what sessions hold of its tasks: what it has withdrawn meanwhile it withdraws again.
    pub(super) fn tell_held(&self, replica: &Replica) {
        for (id, entry) in self.tasks.iter().filter(|(_, entry)| entry.replica == *replica) {
            if let State::Held { session, agent, .. } = &entry.state {
                let what = What::HandedOver { session: *session, delivery: entry.deliveries };
                self.orchestrators.tell(Some(replica), Update::new(Arc::clone(id), Some(*agent), what));
            }
        }
    }

    /// Withdraws a task: takes it from its queue, or tells the session that holds it. A result that waits stays until it
    /// is acknowledged.
    pub(crate) fn cancel(&mut self, id: &str, reason: &str) {
        let Some(entry) = self.tasks.get(id) else { return };
        match entry.state {
            State::Queued { place, .. } => {
                let key = Arc::clone(&entry.key);
                self.queues.remove(&key, place);
                self.tasks.remove(id);
            }
            State::Delayed { due } => {
                self.delayed.remove(&due);
                self.tasks.remove(id);
            }
            State::Held { session, .. } => {
                self.tasks.remove(id);
                self.withdraw(session, id, reason);
                self.pump(session);
            }
            State::Ended { .. } | State::Dying { .. } => {}
        }
    }

    /// Takes a task from a session that holds it.
    pub(super) fn withdraw(&mut self, session: SessionId, id: &str, reason: &str) {
        if let Some(session) = self.sessions.get_mut(&session)
            && let Some(task) = session.tasks.take(id)
        {
            session.outbox.push(ToAgent::Cancel { task, reason: reason.to_owned() });
        }
    }

    /// The agent has begun with a task that its session holds.
    pub(crate) fn begun(&self, session: SessionId, id: &str) {
        self.tell_of_held(session, id, What::Begun);
    }

    /// The agent still works on it.
    pub(crate) fn alive(&self, session: SessionId, id: &str) {
        self.tell_of_held(session, id, What::Alive);
    }

    /// The agent shows how far it is.
    pub(crate) fn shown(&self, session: SessionId, id: &str, detail: Bytes) {
        self.tell_of_held(session, id, What::Shown(detail));
    }

    fn tell_of_held(&self, session: SessionId, id: &str, what: What) {
        let Some((id, entry)) = self.tasks.get_key_value(id) else { return };
        if let State::Held { session: holder, agent, .. } = entry.state
            && holder == session
        {
            let update = Update::new(Arc::clone(id), Some(agent), what);
            self.orchestrators.tell(Some(&entry.replica), update);
        }
    }

    pub(super) fn nack_task(&mut self, id: SessionId, task: &TaskId, reason: &str, not_before: Option<Instant>) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.tasks.remove(task);
        }
        if self.give_back(task, reason) {
            match (not_before, self.tasks.get_mut(task)) {
                (Some(due), Some(entry)) => {
                    self.turns += 1;
                    let due = (due, self.turns);
                    entry.state = State::Delayed { due };
                    self.delayed.insert(due, Arc::clone(task));
                }
                // To another where that is possible; behind the others, since whoever gave it back takes the next.
                (None, _) | (_, None) => self.place(task, false, Some(id)),
            }
        }
        self.pump(id);
    }

    pub(super) fn reject_task(&mut self, id: SessionId, task: &TaskId, reason: &str) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.tasks.remove(task);
        }
        self.bury(task, Reason::Rejected, reason);
        self.pump(id);
    }

    /// Queues what a lost session held: in front, in the order in which it was handed over. Answers with the queues, which
    /// are to be served when everything is back, so that order holds.
    pub(super) fn return_tasks(&mut self, session: &Session, why: &str) -> Vec<Arc<QueueKey>> {
        let turn = |id: &TaskId| match self.tasks.get(id)?.state {
            State::Held { turn, .. } => Some((turn, Arc::clone(id))),
            State::Queued { .. } | State::Delayed { .. } | State::Ended { .. } | State::Dying { .. } => None,
        };
        let mut held: Vec<_> = session.tasks.iter().filter_map(turn).collect();
        held.sort_unstable_by(|left, right| right.cmp(left));
        let mut keys = Vec::new();
        for (_, id) in held {
            if self.give_back(&id, why)
                && let Some(entry) = self.tasks.get_mut(&id)
            {
                let place = self.queues.push(&entry.key, entry.task.priority, true, id);
                entry.state = State::Queued { place, told_waiting: false };
                keys.push(Arc::clone(&entry.key));
            }
        }
        keys
    }

    /// Should a held task be queued again? Tells so, or buries it, or forgets it where its orchestrator is away.
    fn give_back(&mut self, id: &TaskId, why: &str) -> bool {
        let Some(entry) = self.tasks.get(id) else { return false };
        if !self.orchestrators.is_attached(&entry.replica) {
            self.tasks.remove(id);
            return false;
        }
        if entry.deliveries >= self.limits.deliveries {
            self.bury(id, Reason::DeliveryLimit, why);
            return false;
        }
        ::metrics::counter!(metrics::TASKS_REQUEUED).increment(1);
        let agent = entry.state.holder();
        let update = Update::new(Arc::clone(id), agent, What::Requeued(why.to_owned()));
        self.orchestrators.tell(Some(&entry.replica), update);
        true
    }

    /// Makes a task a dead letter; its orchestrator is told when that is recorded.
    fn bury(&mut self, id: &TaskId, reason: Reason, detail: &str) {
        let Some(entry) = self.tasks.get_mut(id) else { return };
        let letter = DeadLetter {
            id: DeadLetterId::generate(&*self.clock),
            namespace: entry.task.namespace.clone(),
            kind: Kind::Task,
            subject_id: entry.task.id.to_string(),
            target: entry.task.target.to_string(),
            reason: reason.as_str().to_owned(),
            detail: detail.to_owned(),
            deliveries: entry.deliveries,
            payload: entry.task.input.clone(),
            created_at: self.clock.now(),
            replayed_at: None,
        };
        entry.state = State::Dying { agent: entry.state.holder(), letter: letter.id, reason };
        self.journal.note(journal::Entry::DeadTask { task: Arc::clone(id), letter });
    }

    /// A task's dead letter is recorded.
    pub(crate) fn buried(&mut self, id: &str) {
        if let Some((id, entry)) = self.tasks.remove_entry(id)
            && let State::Dying { agent, letter, reason } = entry.state
        {
            let what = What::DeadLettered { letter, reason: reason.as_str() };
            self.orchestrators.tell(Some(&entry.replica), Update::new(id, agent, what));
        }
    }

    /// Queues a task that is in no queue, preferably for others than `avoid`, and gives it away where that is possible.
    pub(super) fn place(&mut self, id: &TaskId, in_front: bool, avoid: Option<SessionId>) {
        let Some(entry) = self.tasks.get_mut(id) else { return };
        let key = Arc::clone(&entry.key);
        if self.queues.len(&key) == 0
            && let Some(session) = self.pick(&key, avoid)
        {
            self.hand_over(id, session);
            return;
        }
        if let Some(entry) = self.tasks.get_mut(id) {
            let place = self.queues.push(&key, entry.task.priority, in_front, Arc::clone(id));
            entry.state = State::Queued { place, told_waiting: false };
        }
        self.serve(&key);
        self.tell_if_waiting(id);
    }

    /// Gives what waits in a queue to the sessions that may take it, while they have credit.
    pub(super) fn serve(&mut self, key: &QueueKey) {
        while self.queues.len(key) > 0
            && let Some(session) = self.pick(key, None)
            && let Some(task) = self.queues.pop(key)
        {
            self.hand_over(&task, session);
        }
    }

    /// Gives a session the first in line of all its queues; false where nothing waits.
    pub(super) fn pull_task(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        let heads = session.fits.iter().filter_map(|key| Some((self.queues.head(key)?, key)));
        let Some((_, key)) = heads.min_by_key(|(place, _)| *place) else { return false };
        let key = Arc::clone(key);
        let Some(task) = self.queues.pop(&key) else { return false };
        self.hand_over(&task, id);
        true
    }

    /// The task is in no queue any more, the session has free credit.
    fn hand_over(&mut self, id: &TaskId, to: SessionId) {
        let (Some(entry), Some(session)) = (self.tasks.get_mut(id), self.sessions.get_mut(&to)) else { return };
        self.turns += 1;
        entry.deliveries += 1;
        entry.state = State::Held { session: to, agent: session.agent(), turn: self.turns, since: Instant::now() };
        session.last_turn = self.turns;
        session.tasks.insert(Arc::clone(id));
        session.outbox.push(ToAgent::Task { task: Arc::clone(&entry.task), delivery: entry.deliveries });
        ::metrics::counter!(metrics::TASK_DELIVERIES).increment(1);
        let what = What::HandedOver { session: to, delivery: entry.deliveries };
        let update = Update::new(Arc::clone(id), Some(session.agent()), what);
        self.orchestrators.tell(Some(&entry.replica), update);
    }

    /// Where no session may take from a queue, says so once for everything in it.
    pub(super) fn tell_waiting(&mut self, key: &QueueKey) {
        if !self.queues.sessions(key).is_empty() {
            return;
        }
        self.queues.tasks(key).iter().for_each(|id| self.tell_if_waiting(id));
    }

    /// The same for one task.
    fn tell_if_waiting(&mut self, id: &TaskId) {
        let Some(entry) = self.tasks.get_mut(id) else { return };
        if let State::Queued { told_waiting: told @ false, .. } = &mut entry.state
            && self.queues.sessions(&entry.key).is_empty()
        {
            *told = true;
            let update = Update::new(Arc::clone(id), None, What::Waiting);
            self.orchestrators.tell(Some(&entry.replica), update);
        }
    }

    /// Forgets an orchestrator's tasks that nobody holds: it dispatches them again.
    pub(super) fn forget_unheld(&mut self, replica: &Replica) {
        let is_unheld = |entry: &Entry| entry.replica == *replica && entry.state.is_in_line();
        let ids: Vec<_> =
            self.tasks.iter().filter(|(_, entry)| is_unheld(entry)).map(|(id, _)| Arc::clone(id)).collect();
        for id in &ids {
            self.cancel(id, "");
        }
    }
}

impl State {
    const fn holder(&self) -> Option<AgentId> {
        match self {
            Self::Held { agent, .. } | Self::Ended { agent, .. } => Some(*agent),
            Self::Dying { agent, .. } => *agent,
            Self::Queued { .. } | Self::Delayed { .. } => None,
        }
    }

    const fn is_in_line(&self) -> bool {
        match self {
            Self::Queued { .. } | Self::Delayed { .. } => true,
            Self::Held { .. } | Self::Ended { .. } | Self::Dying { .. } => false,
        }
    }
}
