//! Tasks: dispatch, hand-over, their way back, and their end.

use std::{sync::Arc, time::Duration};

use contracts::communication::v1::{
    self as proto, CancelTask, ResultAck, TaskBegun, TaskDelivery, TaskHandedOver, TaskRefused, TaskRequeued,
    TaskResult, TaskWaiting, server_event, task_result::Outcome, task_update::Update,
};
use domain::{DeadLetterId, SessionId};

use super::state::{Delayed, Place, Rank, Route, State, Target, TaskEntry};
use crate::{
    app::record::{DeadLetter, DeadReason, DeadTask, Id, Kind, Record},
    metrics,
};

/// Results without their task that are kept at most; what is more comes again with the agent's next session.
const STRAYS: usize = 100_000;
/// A nack without a delay: so that a task which nobody takes does not use up its deliveries in a moment.
pub(super) const LEAST_DELAY: Duration = Duration::from_millis(100);

impl State {
    /// An orchestrator wants a task done.
    pub(super) fn dispatch(&mut self, owner: &Id, task: proto::Task) {
        let id: Id = task.id.as_str().into();
        if self.tasks.contains_key(&id) {
            self.dispatch_again(owner, &id);
            return;
        }
        let Some(route) = Route::of(&task) else { return };
        let free = self.choose(&route);
        if free.is_none() && self.queues.get(&route).is_some_and(|queue| queue.len() >= self.limits.queue_limit) {
            let reason = format!("the queue of {} is full", route.text());
            self.report(owner, &id, &Id::default(), Update::Refused(TaskRefused { reason }));
            return;
        }
        let rank = Rank::new(task.priority, self.next());
        let entry = TaskEntry {
            task,
            route,
            rank,
            owner: Arc::clone(owner),
            agent_id: Id::default(),
            deliveries: 0,
            place: Place::Queued,
        };
        self.tasks.insert(Arc::clone(&id), entry);
        match free {
            Some(session) => self.hand_over(session, &id),
            None => self.queue(&id),
        }
    }

    /// A no-op, but that another replica may have taken the execution over: it is told where its task is.
    fn dispatch_again(&mut self, owner: &Id, id: &Id) {
        let Some(entry) = self.tasks.get_mut(id) else { return };
        if entry.owner == *owner {
            return;
        }
        entry.owner = Arc::clone(owner);
        let agent_id = Arc::clone(&entry.agent_id);
        let update = match &entry.place {
            Place::Queued | Place::Delayed => return,
            Place::Held(session) => {
                Update::HandedOver(TaskHandedOver { session_id: session.to_string(), delivery: entry.deliveries })
            }
            Place::Done(_, result) => Update::Result(result.clone()),
        };
        self.report(owner, id, &agent_id, update);
    }

    /// The fitting session with free credit that has the least to do.
    fn choose(&self, route: &Route) -> Option<SessionId> {
        let fitting = self.fits.get(route)?.iter().filter_map(|id| Some((*id, self.sessions.get(id)?)));
        let load = |used: usize, credits: u32| used as f64 / f64::from(credits.max(1));
        fitting
            .filter(|(_, session)| session.has_credit())
            .min_by(|(_, a), (_, b)| load(a.used(), a.identity.credits).total_cmp(&load(b.used(), b.identity.credits)))
            .map(|(id, _)| id)
    }

    /// Puts a task into its queue, at its rank.
    pub(super) fn queue(&mut self, id: &Id) {
        let Some(entry) = self.tasks.get_mut(id) else { return };
        entry.place = Place::Queued;
        let (route, rank, owner) = (entry.route.clone(), entry.rank, Arc::clone(&entry.owner));
        let fits = self.fits.contains_key(&route);
        self.queues.entry(route).or_default().insert(rank, Arc::clone(id));
        if !fits {
            self.report(&owner, id, &Id::default(), Update::Waiting(TaskWaiting {}));
        }
    }

    /// To a session with credit, else into the queue.
    pub(super) fn place(&mut self, id: &Id) {
        let Some(route) = self.tasks.get(id).map(|entry| entry.route.clone()) else { return };
        match self.choose(&route) {
            Some(session) => self.hand_over(session, id),
            None => self.queue(id),
        }
    }

    pub(super) fn hand_over(&mut self, session_id: SessionId, id: &Id) {
        let (Some(session), Some(entry)) = (self.sessions.get_mut(&session_id), self.tasks.get_mut(id)) else { return };
        entry.deliveries += 1;
        entry.place = Place::Held(session_id);
        entry.agent_id = Arc::clone(&session.identity.agent_id);
        session.tasks.insert(Arc::clone(id));
        let delivery = entry.deliveries;
        let (owner, agent_id) = (Arc::clone(&entry.owner), Arc::clone(&entry.agent_id));
        let task = entry.task.clone();
        ::metrics::counter!(metrics::TASKS_DELIVERED).increment(1);
        let handed_over = TaskHandedOver { session_id: session_id.to_string(), delivery };
        self.report(&owner, id, &agent_id, Update::HandedOver(handed_over));
        self.tell(session_id, server_event::Event::Task(TaskDelivery { task: Some(task), delivery }));
    }

    /// A session gives a task back, or is gone.
    pub(super) fn requeue(&mut self, id: &Id, reason: &str, delay: Duration) {
        let Some(entry) = self.tasks.get_mut(id) else { return };
        if entry.deliveries >= self.limits.delivery_limit {
            self.kill_task(id, DeadReason::DeliveryLimit, reason);
            return;
        }
        if !self.exchanges.contains_key(&entry.owner) {
            // Nobody waits for it: its orchestrator dispatches it again when it is back.
            self.tasks.remove(id);
            return;
        }
        entry.place = Place::Delayed;
        let (owner, agent_id) = (Arc::clone(&entry.owner), std::mem::take(&mut entry.agent_id));
        ::metrics::counter!(metrics::TASKS_REQUEUED).increment(1);
        self.report(&owner, id, &agent_id, Update::Requeued(TaskRequeued { reason: reason.to_owned() }));
        if delay.is_zero() {
            self.place(id);
        } else {
            let key = (self.now.instant + delay, self.next());
            self.delayed.insert(key, Delayed::Task(Arc::clone(id)));
        }
    }

    /// A delay is over.
    pub(super) fn ripe_task(&mut self, id: &Id) {
        if matches!(self.tasks.get(id), Some(TaskEntry { place: Place::Delayed, .. })) {
            self.place(id);
        }
    }

    pub(super) fn kill_task(&mut self, id: &Id, reason: DeadReason, detail: &str) {
        let Some(entry) = self.tasks.remove(id) else { return };
        let letter = DeadLetter {
            id: DeadLetterId::generate(&domain::ManualClock::at(self.now.at)),
            namespace: entry.route.namespace.to_string(),
            kind: Kind::Task,
            subject_id: id.to_string(),
            target: entry.route.text(),
            reason: reason.as_str().to_owned(),
            detail: detail.to_owned(),
            deliveries: entry.deliveries,
            payload: entry.task.input,
            created_at: self.now.at,
            replayed_at: None,
        };
        let task = DeadTask { owner: entry.owner, agent_id: entry.agent_id };
        self.journal.push(Record::Died(Box::new(letter), Some(task)));
    }

    /// An orchestrator does not want a task any more.
    pub(super) fn cancel(&mut self, id: &str, reason: String) {
        let Some((id, entry)) = self.tasks.remove_entry(id) else { return };
        match entry.place {
            Place::Queued => self.unqueue(&entry.route, entry.rank),
            Place::Delayed => {}
            Place::Held(session) => {
                let task_id = id.to_string();
                self.tell(session, server_event::Event::Cancel(CancelTask { task_id, reason }));
                self.release_task(session, &id);
            }
            Place::Done(session, _) => self.forget_result(session, &id),
        }
    }

    pub(super) fn unqueue(&mut self, route: &Route, rank: Rank) {
        if let Some(queue) = self.queues.get_mut(route) {
            queue.remove(&rank);
            if queue.is_empty() {
                self.queues.remove(route);
            }
        }
    }

    /// Frees the credit that a task took.
    pub(super) fn release_task(&mut self, session: SessionId, id: &Id) {
        if self.sessions.get_mut(&session).is_some_and(|session| session.tasks.remove(id)) {
            self.pull(session);
        }
    }

    /// An agent has begun, still works, or shows something: to its orchestrator, where the session holds the task.
    pub(super) fn progress(&mut self, session: SessionId, id: &str, update: Update) {
        let Some((id, entry)) = self.tasks.get_key_value(id) else { return };
        if !matches!(entry.place, Place::Held(holder) if holder == session) {
            return;
        }
        match update {
            Update::Begun(TaskBegun {}) => {
                let (id, owner, agent) = (Arc::clone(id), Arc::clone(&entry.owner), Arc::clone(&entry.agent_id));
                self.report(&owner, &id, &agent, update);
            }
            other => self.hint(&entry.owner, id, &entry.agent_id, other),
        }
    }

    /// The end of a task, from an agent. The first result counts, whoever holds the task by then.
    pub(super) fn result(&mut self, session: SessionId, mut result: TaskResult) {
        let Some(identity) = self.sessions.get(&session).map(|session| &session.identity) else { return };
        let (agent_id, namespace) = (Arc::clone(&identity.agent_id), Arc::clone(&identity.namespace));
        limit_output(&mut result, self.limits.max_output);
        let id: Id = result.task_id.as_str().into();
        let Some(entry) = self.tasks.get_mut(&id) else {
            self.stray(session, &id, &namespace, &agent_id, result);
            return;
        };
        if entry.route.namespace != namespace {
            return;
        }
        if let Place::Done(told, _) = &mut entry.place {
            // Told again over a newer session: the acknowledgement goes there.
            *told = session;
            self.note_result(session, &id);
            return;
        }
        let before = std::mem::replace(&mut entry.place, Place::Done(session, result.clone()));
        entry.agent_id = Arc::clone(&agent_id);
        let (owner, route, rank) = (Arc::clone(&entry.owner), entry.route.clone(), entry.rank);
        self.note_result(session, &id);
        self.report(&owner, &id, &agent_id, Update::Result(result));
        match before {
            Place::Queued => self.unqueue(&route, rank),
            Place::Delayed | Place::Done(..) => {}
            Place::Held(holder) => {
                if holder != session {
                    let reason = "another agent was faster".to_owned();
                    self.tell(holder, server_event::Event::Cancel(CancelTask { task_id: id.to_string(), reason }));
                }
                self.release_task(holder, &id);
            }
        }
    }

    /// A result without its task: communication was restarted, or the task is over. Whoever is attached knows.
    fn stray(&mut self, session: SessionId, id: &Id, namespace: &Id, agent_id: &Id, result: TaskResult) {
        if self.tasks.len() >= STRAYS {
            return;
        }
        let owners: Vec<Id> = self.exchanges.keys().cloned().collect();
        for owner in &owners {
            self.report(owner, id, agent_id, Update::Result(result.clone()));
        }
        let route = Route { namespace: Arc::clone(namespace), target: Target::Agent(Arc::clone(agent_id)) };
        let entry = TaskEntry {
            task: proto::Task::default(),
            route,
            rank: Rank::new(0, self.next()),
            owner: Id::default(),
            agent_id: Arc::clone(agent_id),
            deliveries: 0,
            place: Place::Done(session, result),
        };
        self.tasks.insert(Arc::clone(id), entry);
        self.note_result(session, id);
    }

    fn note_result(&mut self, session: SessionId, id: &Id) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.results.insert(Arc::clone(id));
        }
    }

    /// The result is committed, or not wanted.
    pub(super) fn ack_result(&mut self, id: &str) {
        let Some(TaskEntry { place: Place::Done(session, _), .. }) = self.tasks.get(id) else { return };
        let session = *session;
        if let Some((id, _)) = self.tasks.remove_entry(id) {
            self.forget_result(session, &id);
        }
    }

    /// Ends the agent's duty to keep a result.
    fn forget_result(&mut self, session_id: SessionId, id: &Id) {
        self.tell(session_id, server_event::Event::ResultAck(ResultAck { task_id: id.to_string() }));
        if let Some(session) = self.sessions.get_mut(&session_id) {
            session.results.remove(id);
            self.end_drained(session_id);
        }
    }

    /// Tells of every task of a queue that nobody fits any more.
    pub(super) fn say_waiting(&mut self, route: &Route) {
        let Some(queue) = self.queues.get(route) else { return };
        for id in queue.values().cloned().collect::<Vec<_>>() {
            if let Some(owner) = self.tasks.get(&id).map(|entry| Arc::clone(&entry.owner)) {
                self.report(&owner, &id, &Id::default(), Update::Waiting(TaskWaiting {}));
            }
        }
    }
}

/// A result that does not fit into a frame upwards would end the orchestrator's stream again and again.
fn limit_output(result: &mut TaskResult, most: usize) {
    let size = match &result.outcome {
        Some(Outcome::Output(output)) => output.len(),
        Some(Outcome::Failure(failure)) => failure.details.len() + failure.message.len(),
        None => 0,
    };
    if size > most {
        let message = format!("the result has {size} bytes; at most {most} are allowed");
        let failure = proto::TaskFailure { code: "output_too_large".to_owned(), message, ..Default::default() };
        result.outcome = Some(Outcome::Failure(failure));
    }
}
