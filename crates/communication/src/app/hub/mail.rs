//! Mailboxes: messages that are recorded and wait for their agent.

use std::{sync::Arc, time::Duration};

use contracts::communication::v1::{MessageDelivery, server_event};
use domain::{DeadLetterId, SessionId};

use super::state::{Delayed, Mail, Mailbox, Rank, Route, State, Target};
use crate::{
    app::record::{DeadLetter, DeadReason, Id, Kind, Letter, Record, Status, Transition},
    metrics,
};

/// Records that may wait for the database before deliveries of messages pause.
pub(super) const MOST_UNWRITTEN: usize = 20_000;

impl State {
    /// Promises a place in a mailbox; false where it is full.
    pub(super) fn reserve(&mut self, agent: &Id) -> bool {
        let limit = self.limits.mailbox_limit;
        let mailbox = self.mailboxes.entry(Arc::clone(agent)).or_default();
        let free = mailbox.size < limit;
        if free {
            mailbox.size += 1;
        }
        free
    }

    /// Gives a place back.
    pub(super) fn release_place(&mut self, agent: &Id) {
        if let Some(mailbox) = self.mailboxes.get_mut(agent) {
            mailbox.size = mailbox.size.saturating_sub(1);
            if mailbox.size == 0 {
                self.mailboxes.remove(agent);
            }
        }
    }

    /// Puts a recorded message into its mailbox, where a place was promised.
    pub(super) fn post(&mut self, letter: Letter, deliveries: u32) {
        if self.mails.contains_key(&letter.id) {
            self.release_place(&letter.agent_id);
            return;
        }
        let sequence = self.next();
        let mail = Mail {
            rank: Rank::new(letter.message.priority.unwrap_or(5), sequence),
            message: letter.message,
            agent_id: letter.agent_id,
            deliveries,
            expires_at: letter.expires_at,
            holder: None,
            delayed: false,
        };
        if let Some(at) = mail.expires_at {
            self.expiring.insert((at, sequence), Arc::clone(&letter.id));
        }
        self.mails.insert(Arc::clone(&letter.id), mail);
        self.offer(&letter.id, "");
    }

    /// Into the mailbox's order, and out to a session that has room.
    fn offer(&mut self, id: &Id, detail: &str) {
        let now = self.now.at;
        let Some(mail) = self.mails.get_mut(id) else { return };
        if mail.expires_at.is_some_and(|at| at <= now) {
            self.kill_mail(id, DeadReason::Expired, "it was not delivered in time");
            return;
        }
        mail.holder = None;
        mail.delayed = false;
        let (rank, agent, is_reply) = (mail.rank, Arc::clone(&mail.agent_id), mail.is_reply());
        let namespace: Id = mail.message.namespace.as_str().into();
        let mailbox = self.mailboxes.entry(Arc::clone(&agent)).or_default();
        let queue = if is_reply { &mut mailbox.replies } else { &mut mailbox.ready };
        queue.insert(rank, Arc::clone(id));
        self.moved(id, Status::Queued, detail.to_owned());
        let route = Route { namespace, target: Target::Agent(agent) };
        let sessions = self.fits.get(&route).into_iter().flatten();
        let session = sessions
            .filter_map(|id| Some((*id, self.sessions.get(id)?)))
            .filter(|(_, session)| is_reply || session.has_credit())
            .min_by_key(|(_, session)| session.used());
        if let Some((session, _)) = session {
            self.pull(session);
        }
    }

    /// Writes an entry of the message's history.
    fn moved(&mut self, id: &Id, status: Status, detail: String) {
        let deliveries = self.mails.get(id).map_or(0, |mail| mail.deliveries);
        let transition = Transition { message_id: Arc::clone(id), status, deliveries, at: self.now.at, detail };
        self.journal.push(Record::Moved(transition));
    }

    pub(super) fn deliver_mail(&mut self, session_id: SessionId, rank: Rank, reply: bool) {
        let Some(session) = self.sessions.get_mut(&session_id) else { return };
        let Some(mailbox) = self.mailboxes.get_mut(&session.identity.agent_id) else { return };
        let queue = if reply { &mut mailbox.replies } else { &mut mailbox.ready };
        let Some(id) = queue.remove(&rank) else { return };
        let Some(mail) = self.mails.get_mut(&id) else { return };
        mail.holder = Some(session_id);
        mail.deliveries += 1;
        session.messages.insert(Arc::clone(&id));
        session.beyond += usize::from(reply);
        let delivery = MessageDelivery { message: Some(mail.message.clone()), delivery: mail.deliveries };
        ::metrics::counter!(metrics::MESSAGES_DELIVERED).increment(1);
        self.moved(&id, Status::Delivered, format!("to {session_id}"));
        self.tell(session_id, server_event::Event::Message(delivery));
    }

    /// Takes a message from the session that holds it; none where it does not.
    pub(super) fn take_mail(&mut self, session_id: SessionId, id: &str) -> Option<Id> {
        let session = self.sessions.get_mut(&session_id)?;
        let id = session.messages.take(id)?;
        if self.mails.get(&id).is_some_and(Mail::is_reply) {
            session.beyond = session.beyond.saturating_sub(1);
        }
        Some(id)
    }

    /// An agent has dealt with a message.
    pub(super) fn ack_mail(&mut self, session: SessionId, id: &str) {
        let Some(id) = self.take_mail(session, id) else { return };
        self.moved(&id, Status::Acked, String::new());
        ::metrics::counter!(metrics::MESSAGES_ACKED).increment(1);
        self.remove_mail(&id);
        self.pull(session);
    }

    /// A session gives a message back, or is gone.
    pub(super) fn return_mail(&mut self, id: &Id, reason: &str, delay: Duration) {
        let limit = self.limits.delivery_limit;
        let Some(mail) = self.mails.get_mut(id) else { return };
        mail.holder = None;
        if mail.deliveries >= limit {
            self.kill_mail(id, DeadReason::DeliveryLimit, reason);
        } else if delay.is_zero() {
            self.offer(id, reason);
        } else {
            mail.delayed = true;
            let key = (self.now.instant + delay, self.next());
            self.delayed.insert(key, Delayed::Message(Arc::clone(id)));
            self.moved(id, Status::Queued, reason.to_owned());
        }
    }

    /// A delay is over.
    pub(super) fn ripe_mail(&mut self, id: &Id) {
        if self.mails.get(id).is_some_and(|mail| mail.delayed) {
            self.offer(id, "its delay is over");
        }
    }

    /// Moves every message to the dead letters that was not delivered in time; what a session holds is delivered.
    pub(super) fn expire(&mut self) {
        while let Some(entry) = self.expiring.first_entry()
            && entry.key().0 <= self.now.at
        {
            let id = entry.remove();
            if self.mails.get(&id).is_some_and(|mail| mail.holder.is_none()) {
                self.kill_mail(&id, DeadReason::Expired, "it was not delivered in time");
            }
        }
    }

    pub(super) fn kill_mail(&mut self, id: &Id, reason: DeadReason, detail: &str) {
        self.moved(id, Status::Dead, format!("{}: {detail}", reason.as_str()));
        let Some(mail) = self.remove_mail(id) else { return };
        let letter = DeadLetter {
            id: DeadLetterId::generate(&domain::ManualClock::at(self.now.at)),
            namespace: mail.message.namespace,
            kind: Kind::Message,
            subject_id: id.to_string(),
            target: mail.agent_id.to_string(),
            reason: reason.as_str().to_owned(),
            detail: detail.to_owned(),
            deliveries: mail.deliveries,
            payload: mail.message.payload,
            created_at: self.now.at,
            replayed_at: None,
        };
        self.journal.push(Record::Died(Box::new(letter), None));
    }

    fn remove_mail(&mut self, id: &Id) -> Option<Mail> {
        let mail = self.mails.remove(id)?;
        if let Some(Mailbox { ready, replies, .. }) = self.mailboxes.get_mut(&mail.agent_id) {
            ready.remove(&mail.rank);
            replies.remove(&mail.rank);
        }
        if let Some(at) = mail.expires_at {
            self.expiring.remove(&(at, mail.rank.sequence));
        }
        self.release_place(&mail.agent_id);
        Some(mail)
    }
}
