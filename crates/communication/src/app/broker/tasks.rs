//! What happens to tasks on their way to a session and back.

use std::{sync::Arc, time::Instant};

use domain::{AgentId, DeadLetterId, SessionId, Timestamp};
use lifecycle::crash_point;

use super::{
    Attachment, Broker, OrchestratorId,
    orchestrators::whoever,
    queues::{Line, Place, QueueKey},
    suspects::{Next, company},
};
use crate::{
    app::model::{HandOver, Outcome, Reason, Task, TaskId, ToAgent, Update, What},
    metrics,
    transport::Lot,
};

/// A task that is known here.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) task: Arc<Task>,
    pub(super) key: Arc<QueueKey>,
    /// Who dispatched it last.
    pub(super) replica: OrchestratorId,
    /// Under which it did.
    pub(super) epoch: i64,
    /// When it was dispatched, to whichever replica.
    pub(super) since: Timestamp,
    /// Hand-overs so far.
    pub(super) deliveries: u32,
    /// How often the message broker took it back, from a replica that ended or did not want it any more: each may have been a
    /// hand-over too, or none.
    pub(super) redeliveries: u32,
    /// Sessions that were lost while they held it. It may be what ended them, so it gets less and less company.
    pub(super) lost: u32,
    /// Deliveries that came to nothing, for the dead letter that it may become.
    pub(super) hand_overs: Vec<HandOver>,
    /// The message broker's delivery of it, where it came from there.
    pub(super) lot: Option<Lot>,
    pub(super) state: State,
}

/// Where a task is.
#[derive(Debug)]
pub(super) enum State {
    Queued {
        place: Place,
        told_waiting: bool,
        since: Instant,
    },
    /// On its way to the message broker, or to its place here: in nobody's hands.
    Leaving,
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
        let since = self.clock.now();
        let place = self.queues.push(&key, task.priority, Line::Since(since), Arc::clone(&id));
        let state = State::queued(place);
        let entry = Entry {
            epoch: task.epoch,
            since,
            task: Arc::new(task),
            key: Arc::clone(&key),
            replica: Arc::clone(replica),
            deliveries: 0,
            redeliveries: 0,
            lost: 0,
            hand_overs: Vec::new(),
            lot: None,
            state,
        };
        self.tasks.insert(Arc::clone(&id), entry);
        crash_point("communication.task.received");
        self.serve(&key);
        self.tell_if_waiting(&id);
        self.shed(&key);
    }

    /// In which trace a task is that is known here.
    pub(crate) fn trace_of(&self, id: &str) -> Option<&str> {
        self.tasks.get(id).map(|entry| entry.task.traceparent.as_str())
    }

    /// Does somebody who has lost the execution speak of its task?
    pub(crate) fn is_outdated(&self, id: &str, epoch: i64) -> bool {
        let known = self.tasks.get(id).map(|entry| entry.epoch).or_else(|| self.enqueued_epoch(id));
        known.is_some_and(|known| epoch < known)
    }

    /// A repeated dispatch: nothing happens, but a new dispatcher takes the task over and is told where it is.
    fn is_known(&mut self, replica: &OrchestratorId, task: &Task) -> bool {
        self.take_over(replica, &task.id, task.epoch, false) || self.take_over_enqueued(replica, &task.id, task.epoch)
    }

    /// Answers where a task is, to whoever is to hear of it from now on: as something that happens to it, now or soon. One
    /// that waits with the message broker is `enqueued`, also where it has come from there; one that waits here only is
    /// `waiting` or `requeued`.
    pub(crate) fn locate(&mut self, from: &Attachment, id: &str, epoch: i64) {
        let replica = &from.replica;
        let is_here = !self.orchestrators.is_current(from)
            || self.take_over(replica, id, epoch, true)
            || self.tell_foreign(replica, id)
            || self.take_over_enqueued(replica, id, epoch);
        if !is_here {
            self.orchestrators.tell(Some(replica), Update::new(id.into(), None, What::Unknown));
        }
    }

    /// A replica was told of a task whose execution it does not write: from now on everybody is, and first where it is.
    pub(crate) fn disown(&mut self, from: &Attachment, id: &str) {
        self.disown_enqueued(&from.replica, id);
        let Some((id, _)) = self.tasks.get_key_value(id) else { return };
        let id = &Arc::clone(id);
        let Some(entry) = self.tasks.get_mut(id).filter(|entry| entry.replica == from.replica) else { return };
        entry.replica = whoever();
        if let Some((agent, what)) = entry.whereabouts() {
            self.orchestrators.tell(None, Update::new(Arc::clone(id), agent, what));
        }
    }

    /// False where the task is not here.
    pub(super) fn take_over(&mut self, replica: &OrchestratorId, id: &str, epoch: i64, is_asked: bool) -> bool {
        let Some((id, _)) = self.tasks.get_key_value(id) else { return false };
        let id = &Arc::clone(id);
        let Some(entry) = self.tasks.get_mut(id) else { return false };
        if epoch < entry.epoch {
            return true;
        }
        let is_new = entry.replica != *replica;
        entry.replica = Arc::clone(replica);
        entry.epoch = epoch;
        let is_told = match entry.state {
            State::Queued { told_waiting: true, .. } => is_new || is_asked,
            State::Queued { .. } | State::Delayed { .. } => is_asked,
            // Told again in any case: what was told over an earlier stream may have been lost with it.
            State::Ended { .. } | State::Held { .. } | State::Leaving | State::Dying { .. } => true,
        };
        if let Some((agent, what)) = entry.whereabouts().filter(|_| is_told) {
            self.orchestrators.tell(Some(replica), Update::new(Arc::clone(id), agent, what));
        }
        true
    }

    /// Tells a replica, or where it has gone all others, what sessions hold of its tasks and of those of nobody who is there: what
    /// it has withdrawn meanwhile it withdraws again.
    pub(super) fn tell_held(&self, replica: &OrchestratorId) {
        let is_theirs = |entry: &Entry| entry.replica == *replica || !self.orchestrators.is_attached(&entry.replica);
        for (id, entry) in self.tasks.iter().filter(|(_, entry)| is_theirs(entry)) {
            if let State::Held { session, agent, .. } = &entry.state {
                let what = What::HandedOver { session: *session, delivery: entry.number() };
                self.orchestrators.tell(Some(replica), Update::new(Arc::clone(id), Some(*agent), what));
            }
        }
    }

    /// Withdraws a task: takes it from its queue, or tells the session that holds it. A result that waits stays until it
    /// is acknowledged.
    pub(crate) fn cancel(&mut self, id: &str, reason: &str) {
        self.withdraw_enqueued(id);
        let Some(entry) = self.tasks.get(id) else { return };
        match entry.state {
            State::Queued { .. } | State::Delayed { .. } => {
                self.take_out(id);
                self.release(id);
            }
            State::Leaving => self.cancel_leaving(id),
            State::Held { session, .. } => {
                self.forget(id);
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

    /// Queues a task that is in no queue, and gives it away where that is possible.
    pub(super) fn place(&mut self, id: &TaskId, line: Line) {
        let Some(entry) = self.tasks.get_mut(id) else { return };
        let key = Arc::clone(&entry.key);
        if self.queues.len(&key) == 0
            && let Some(session) = self.pick(&key)
            && self.may_join(id, session)
        {
            self.hand_over(id, session);
            return;
        }
        if let Some(entry) = self.tasks.get_mut(id) {
            let place = self.queues.push(&key, entry.task.priority, line, Arc::clone(id));
            entry.state = State::queued(place);
        }
        self.serve(&key);
        self.tell_if_waiting(id);
        self.shed(&key);
    }

    /// Gives what waits in a queue to the sessions that may take it, while they have credit.
    pub(super) fn serve(&mut self, key: &QueueKey) {
        while self.queues.len(key) > 0
            && let Some(session) = self.pick(key)
            && let Some(next) = self.next_for(key, session)
        {
            self.give(key, next, session);
        }
    }

    /// Gives a session the first in line of all its queues; false where it gets nothing.
    pub(super) fn pull_task(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        let heads = session.fits.iter().filter_map(|key| Some((self.next_for(key, id)?, key)));
        let Some((next, key)) = heads.min_by_key(|(next, _)| next.place()) else { return false };
        let key = Arc::clone(key);
        let is_task = matches!(next, Next::Task(..));
        self.give(&key, next, id);
        if !is_task {
            // Others have room for what is behind it.
            self.serve(&key);
        }
        is_task
    }

    fn give(&mut self, key: &QueueKey, next: Next, session: SessionId) {
        match next {
            Next::Task(place, id) => {
                self.queues.remove(key, place);
                self.hand_over(&id, session);
            }
            Next::Suspect(_, id) => self.keep_free(session, &id),
        }
    }

    /// The task is in no queue any more, the session has free credit.
    pub(super) fn hand_over(&mut self, id: &TaskId, to: SessionId) {
        let (Some(entry), Some(session)) = (self.tasks.get_mut(id), self.sessions.get_mut(&to)) else { return };
        let company = company(entry.lost, session.credits, self.limits.deliveries);
        self.turns += 1;
        entry.deliveries += 1;
        entry.state = State::Held { session: to, agent: session.agent(), turn: self.turns, since: Instant::now() };
        session.last_turn = self.turns;
        session.hold_task(Arc::clone(id), company);
        session.outbox.push(ToAgent::Task { task: Arc::clone(&entry.task), delivery: entry.number() });
        crash_point("communication.task.handed_over");
        ::metrics::counter!(metrics::TASK_DELIVERIES).increment(1);
        let what = What::HandedOver { session: to, delivery: entry.number() };
        let update = Update::new(Arc::clone(id), Some(session.agent()), what);
        self.orchestrators.tell(Some(&entry.replica), update);
        self.release(id);
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

    /// Forgets an orchestrator's tasks that nobody holds: it dispatches them again. What is with the message broker, or has
    /// come from there, stays.
    pub(super) fn forget_unheld(&mut self, replica: &OrchestratorId) {
        let is_unheld = |entry: &Entry| entry.replica == *replica && entry.lot.is_none() && entry.state.is_in_line();
        let ids: Vec<_> =
            self.tasks.iter().filter(|(_, entry)| is_unheld(entry)).map(|(id, _)| Arc::clone(id)).collect();
        for id in &ids {
            self.take_out(id);
        }
        for id in &ids {
            self.release(id);
        }
    }
}

impl Entry {
    /// Where it is, and with whom; nothing where that is told soon in any case.
    fn whereabouts(&self) -> Option<(Option<AgentId>, What)> {
        let told = match &self.state {
            State::Ended { agent, outcome, .. } => (Some(*agent), What::Ended(outcome.clone())),
            State::Held { session, agent, .. } => {
                (Some(*agent), What::HandedOver { session: *session, delivery: self.number() })
            }
            State::Queued { .. } | State::Delayed { .. } if self.lot.is_some() => (None, What::Enqueued),
            State::Queued { told_waiting: true, .. } => (None, What::Waiting),
            State::Queued { .. } | State::Delayed { .. } => {
                (None, What::Requeued("it waits for a session with credit".to_owned()))
            }
            State::Leaving | State::Dying { .. } => return None,
        };
        Some(told)
    }

    /// The number of the last hand-over, as agents hear it: at least as high as it is, so that 1 means the first.
    pub(super) const fn number(&self) -> u32 {
        self.deliveries.saturating_add(self.redeliveries)
    }
}

impl State {
    pub(super) fn queued(place: Place) -> Self {
        Self::Queued { place, told_waiting: false, since: Instant::now() }
    }

    pub(super) const fn holder(&self) -> Option<AgentId> {
        match self {
            Self::Held { agent, .. } | Self::Ended { agent, .. } => Some(*agent),
            Self::Dying { agent, .. } => *agent,
            Self::Queued { .. } | Self::Delayed { .. } | Self::Leaving => None,
        }
    }

    pub(super) const fn is_in_line(&self) -> bool {
        match self {
            Self::Queued { .. } | Self::Delayed { .. } => true,
            Self::Leaving | Self::Held { .. } | Self::Ended { .. } | Self::Dying { .. } => false,
        }
    }
}
