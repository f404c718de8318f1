//! Tasks that sessions were lost with: each may be what ended them, so it gets less and less company, and waits for a session
//! that holds little enough.
//!
//! Such a session does not come by itself where its other queues and its mailbox never run dry. So one is kept free for the task
//! when its turn comes: it is given no other task until it holds little enough, and no message once those are what it waits for.
//! What waits behind the task goes to others meanwhile, and so does the task itself where another session is ready for it first.
//!
//! Invariant: `awaited` and the sessions' `awaits` say the same, of tasks in line and of sessions that may take them.

use std::sync::Arc;

use domain::SessionId;

use super::{
    Broker,
    queues::{Place, QueueKey},
    tasks::State,
};
use crate::app::model::TaskId;

/// What a session would take from a queue.
#[derive(Debug)]
pub(super) enum Next {
    /// This, now.
    Task(Place, TaskId),
    /// This, when it holds less, and no other session is kept free for it.
    Suspect(Place, TaskId),
}

impl Next {
    pub(super) const fn place(&self) -> Place {
        match self {
            Self::Task(place, _) | Self::Suspect(place, _) => *place,
        }
    }
}

impl Broker {
    /// The first of a queue that a session may take, or has to be kept free for.
    pub(super) fn next_for(&self, key: &QueueKey, session: SessionId) -> Option<Next> {
        for (place, id) in self.queues.in_line(key) {
            if self.may_join(id, session) {
                return Some(Next::Task(place, Arc::clone(id)));
            }
            if !self.awaited.contains_key(id) {
                return Some(Next::Suspect(place, Arc::clone(id)));
            }
        }
        None
    }

    /// Does a session hold little enough for a task?
    pub(super) fn may_join(&self, id: &str, session: SessionId) -> bool {
        let Some(company) = self.company_of(id, session) else { return false };
        self.sessions.get(&session).is_some_and(|session| !session.is_crowded_for(company))
    }

    /// How much a session may hold together with a task.
    fn company_of(&self, id: &str, session: SessionId) -> Option<usize> {
        let lost = self.tasks.get(id).map_or(0, |entry| entry.lost);
        self.sessions.get(&session).map(|session| company(lost, session.credits, self.limits.deliveries))
    }

    /// A session is given no other task until it holds little enough for a task in line.
    pub(super) fn keep_free(&mut self, session: SessionId, id: &TaskId) {
        if let Some(company) = self.company_of(id, session)
            && let Some(kept) = self.sessions.get_mut(&session)
        {
            kept.awaits = Some((Arc::clone(id), company));
            self.awaited.insert(Arc::clone(id), session);
        }
    }

    /// Gives a session the task that it is kept free for, once it holds little enough.
    pub(super) fn redeem(&mut self, session: SessionId) {
        let Some(kept) = self.sessions.get(&session).filter(|session| session.could_take()) else { return };
        if let Some((id, _)) = kept.awaits.clone()
            && self.may_join(&id, session)
            && let Some(entry) = self.tasks.get(&id)
            && let State::Queued { place, .. } = entry.state
        {
            let key = Arc::clone(&entry.key);
            self.queues.remove(&key, place);
            self.hand_over(&id, session);
        }
    }

    /// A task is in line no more: the session that was kept free for it goes on.
    pub(super) fn release(&mut self, id: &str) {
        if let Some(session) = self.awaited.remove(id)
            && let Some(kept) = self.sessions.get_mut(&session)
        {
            kept.awaits = None;
            self.pump(session);
        }
    }

    /// A session may not take the task any more that it is kept free for: another has to.
    pub(super) fn wait_no_more(&mut self, session: SessionId) {
        if let Some((id, _)) = self.sessions.get_mut(&session).and_then(|session| session.awaits.take()) {
            self.pass_on(&id);
        }
    }

    /// Nobody is kept free any more for a task in line.
    pub(super) fn pass_on(&mut self, id: &TaskId) {
        self.awaited.remove(id);
        if let Some(entry) = self.tasks.get(id) {
            let key = Arc::clone(&entry.key);
            self.serve(&key);
        }
    }
}

/// How much a session holds at most, a task included that other sessions were lost with. Connections break, so the first loss
/// means nothing; with each further one it is a sixteenth of what it was, and at the last delivery the task is alone. What ends
/// its process over and over again so ends alone, and does not use up the deliveries of what was held with it.
pub(super) fn company(lost: u32, credits: usize, limit: u32) -> usize {
    match lost {
        0 => usize::MAX,
        _ if lost + 1 >= limit => 1,
        1 => usize::MAX,
        _ => credits.checked_shr((lost - 1) * 4).unwrap_or_default().max(1),
    }
}
