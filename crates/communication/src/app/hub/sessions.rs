//! Agent sessions: opening, what they pull, what they give back, closing.

use std::{collections::HashSet, sync::Arc, time::Duration};

use contracts::communication::v1::{Drain, ServerEvent, server_event};
use domain::SessionId;
use errors::Error;

use super::{
    mail::MOST_UNWRITTEN,
    state::{Identity, Rank, Route, Session, State, Target},
    tasks::LEAST_DELAY,
};
use crate::{
    app::{
        outgoing::Outgoing,
        record::{DeadReason, Id},
    },
    error::CommunicationError,
    metrics,
};

/// What a session could take next.
enum Next {
    Reply(Rank),
    Message(Rank),
    Task(Route, Rank),
}

impl State {
    pub(super) fn open(&mut self, id: SessionId, identity: Identity, outgoing: Outgoing<ServerEvent>) {
        let route = |target| Route { namespace: Arc::clone(&identity.namespace), target };
        let mut routes = vec![
            route(Target::Agent(Arc::clone(&identity.agent_id))),
            route(Target::AgentType(Arc::clone(&identity.agent_type))),
        ];
        routes.extend(identity.capabilities.iter().map(|name| route(Target::Capability(Arc::clone(name)))));
        for route in &routes {
            self.fits.entry(route.clone()).or_default().insert(id);
        }
        let session = Session {
            identity,
            outgoing,
            routes,
            tasks: HashSet::new(),
            messages: HashSet::new(),
            results: HashSet::new(),
            beyond: 0,
            heard: self.now.instant,
            draining: false,
        };
        self.sessions.insert(id, session);
        ::metrics::gauge!(metrics::SESSIONS).set(self.sessions.len() as f64);
        self.pull(id);
    }

    /// Hands over what waits, most urgent first, as long as the session has credit.
    pub(super) fn pull(&mut self, id: SessionId) {
        while let Some(next) = self.next_for(id) {
            match next {
                Next::Reply(rank) => self.deliver_mail(id, rank, true),
                Next::Message(rank) => self.deliver_mail(id, rank, false),
                Next::Task(route, rank) => {
                    let task = self.queues.get(&route).and_then(|queue| queue.get(&rank)).cloned();
                    self.unqueue(&route, rank);
                    if let Some(task) = task {
                        self.hand_over(id, &task);
                    }
                }
            }
        }
        self.end_drained(id);
    }

    fn next_for(&self, id: SessionId) -> Option<Next> {
        let session = self.sessions.get(&id)?;
        if session.draining || self.slow_sessions.contains(&id) {
            return None;
        }
        let mailbox = self.mailboxes.get(&session.identity.agent_id).filter(|_| self.journal.len() < MOST_UNWRITTEN);
        if let Some((rank, _)) = mailbox.and_then(|mailbox| mailbox.replies.first_key_value()) {
            return Some(Next::Reply(*rank));
        }
        if !session.has_credit() {
            return None;
        }
        let message = mailbox.and_then(|mailbox| mailbox.ready.first_key_value()).map(|(rank, _)| *rank);
        let task = session
            .routes
            .iter()
            .filter_map(|route| Some((route, *self.queues.get(route)?.first_key_value()?.0)))
            .min_by_key(|(_, rank)| *rank);
        // The older goes first where both are as urgent: neither kind can starve the other.
        match (message, task) {
            (Some(message), Some((_, task))) if message < task => Some(Next::Message(message)),
            (_, Some((route, task))) => Some(Next::Task(route.clone(), task)),
            (Some(message), None) => Some(Next::Message(message)),
            (None, None) => None,
        }
    }

    /// The agent takes no more.
    pub(super) fn drain(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.draining = true;
        let routes = session.routes.clone();
        self.unfit(id, &routes);
        self.end_drained(id);
    }

    /// Closes a session that takes nothing more and has given back everything.
    pub(super) fn end_drained(&mut self, id: SessionId) {
        if self.sessions.get(&id).is_some_and(|session| session.draining && session.holds_nothing()) {
            self.close(id, None);
        }
    }

    fn unfit(&mut self, id: SessionId, routes: &[Route]) {
        for route in routes {
            let Some(fitting) = self.fits.get_mut(route) else { continue };
            fitting.remove(&id);
            if fitting.is_empty() {
                self.fits.remove(route);
                self.say_waiting(route);
            }
        }
    }

    /// Ends a session: everything that it holds goes back to its queue at once.
    pub(super) fn close(&mut self, id: SessionId, error: Option<Error>) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.unfit(id, &session.routes);
        let Session { identity, outgoing, tasks, messages, .. } = session;
        match error {
            Some(error) => outgoing.fail(error),
            None => drop(outgoing),
        }
        ::metrics::gauge!(metrics::SESSIONS).set(self.sessions.len() as f64);
        self.closed.push_back((id, identity));
        for task in by_rank(tasks, |id| self.tasks.get(id).map(|entry| entry.rank)) {
            self.requeue(&task, "its session is gone", Duration::ZERO);
        }
        for message in by_rank(messages, |id| self.mails.get(id).map(|mail| mail.rank)) {
            self.return_mail(&message, "its session is gone", Duration::ZERO);
        }
    }

    /// Not now.
    pub(super) fn nack(&mut self, session: SessionId, id: &str, reason: &str, delay: Duration) {
        let delay = delay.max(LEAST_DELAY);
        if let Some(task) = self.sessions.get_mut(&session).and_then(|session| session.tasks.take(id)) {
            self.requeue(&task, reason, delay);
        } else if let Some(message) = self.take_mail(session, id) {
            self.return_mail(&message, reason, delay);
        }
        self.pull(session);
    }

    /// Never.
    pub(super) fn reject(&mut self, session: SessionId, id: &str, reason: &str) {
        if let Some(task) = self.sessions.get_mut(&session).and_then(|session| session.tasks.take(id)) {
            self.kill_task(&task, DeadReason::Rejected, reason);
        } else if let Some(message) = self.take_mail(session, id) {
            self.kill_mail(&message, DeadReason::Rejected, reason);
        }
        self.pull(session);
    }

    /// Ends the sessions that were not heard of within their lease.
    pub(super) fn end_leases(&mut self) {
        let (now, lease) = (self.now.instant, self.limits.lease);
        let silent = self.sessions.iter().filter(|(_, session)| now.duration_since(session.heard) > lease);
        for id in silent.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close(id, Some(CommunicationError::LeaseLost.into()));
        }
    }

    /// The server goes away: sessions are told, and end after what waits. What they hold stays with the agents, whose
    /// results come over their next session.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            let drain = Drain { reason: "the server is stopping".to_owned() };
            self.tell(id, server_event::Event::Drain(drain));
        }
        self.fits.clear();
        self.exchanges.clear();
        for (id, session) in std::mem::take(&mut self.sessions) {
            self.closed.push_back((id, session.identity));
        }
    }
}

fn by_rank(ids: HashSet<Id>, rank: impl Fn(&Id) -> Option<Rank>) -> Vec<Id> {
    let mut ids: Vec<Id> = ids.into_iter().collect();
    ids.sort_by_key(|id| rank(id));
    ids
}
