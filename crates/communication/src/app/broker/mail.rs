//! What happens to messages between mailbox and session. The transport keeps the mailboxes; the broker decides who takes,
//! and what becomes of a message that comes back.

use std::{sync::Arc, time::Instant};

use domain::{Clock, DeadLetterId, InstanceId, MessageId, SessionId};
use lifecycle::crash_point;

use super::{Broker, QueueKey, Session, cool_down};
use crate::{
    app::{
        journal::{Change, Entry},
        model::{DeadLetter, Envelope, Kind, Mailbox, Reason, Status, Target, ToAgent},
    },
    metrics,
    transport::{Delivery, Settlement, Wanted},
};

impl Broker {
    /// A message has come to its mailbox.
    pub(crate) fn queued_message(&self, envelope: &Arc<Envelope>) {
        let delivery = Delivery { envelope: Arc::clone(envelope), count: 0 };
        self.journal.note(change(&*self.clock, &delivery, Status::Queued, String::new()));
    }

    /// Is there room for what happens to be recorded?
    pub(crate) fn has_room(&self) -> bool {
        self.journal.has_room()
    }

    /// A session takes from its mailboxes, or does so no more, as it has something to expect from there. What it holds it keeps.
    pub(super) fn tend_mailbox(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.takes_mail != session.wants_mail())
        else {
            return;
        };
        session.takes_mail = session.wants_mail();
        let (takes_mail, mailboxes) = (session.takes_mail, session.mailboxes().cloned().collect::<Vec<_>>());
        for mailbox in &mailboxes {
            if takes_mail {
                self.begin_to_take(mailbox, id);
            } else {
                self.take_no_more(mailbox, id);
                self.close_unused(mailbox);
            }
        }
    }

    fn begin_to_take(&mut self, mailbox: &Mailbox, id: SessionId) {
        let takers = self.mailboxes.entry(mailbox.clone()).or_default();
        takers.push(id);
        if takers.len() == 1 {
            self.transport.open(mailbox);
        }
    }

    pub(super) fn take_no_more(&mut self, mailbox: &Mailbox, id: SessionId) {
        if let Some(takers) = self.mailboxes.get_mut(mailbox) {
            takers.retain(|one| *one != id);
        }
    }

    /// A session takes from the mailbox of its instance too, from its first question on.
    pub(super) fn take_answers(&mut self, id: SessionId, asker: Option<InstanceId>) {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.answers.is_none()) else { return };
        let Some(instance) = asker else { return };
        let mailbox = Mailbox { instance: Some(instance), ..session.mailbox.clone() };
        session.answers = Some(mailbox.clone());
        if session.takes_mail {
            self.begin_to_take(&mailbox, id);
            self.wake_mailbox(&mailbox);
        }
    }

    /// Gives up a mailbox from which no session here takes, with what of it is in nobody's hands.
    pub(super) fn close_unused(&mut self, mailbox: &Mailbox) {
        if self.mailboxes.get(mailbox).is_none_or(Vec::is_empty) {
            self.mailboxes.remove(mailbox);
            self.transport.close(mailbox);
        }
    }

    /// There may be something in a mailbox: the agent's sessions take it, as far as they have credit.
    pub(crate) fn wake_mailbox(&mut self, mailbox: &Mailbox) {
        let key = QueueKey { namespace: mailbox.namespace.clone(), target: Target::Agent(mailbox.agent) };
        let Some(ids) = self.mailboxes.get(mailbox).cloned() else { return };
        for id in &ids {
            if let Some(session) = self.sessions.get_mut(id) {
                session.mail = true;
            }
        }
        // One message at a time to the least loaded, so that it is shared out. Answers to one instance are not.
        while mailbox.instance.is_none()
            && let Some(id) = self.pick_with(&key, Session::has_room_for_mail)
            && self.pull_message(id, Wanted::Any)
        {}
        for id in ids {
            self.pull_replies(id);
        }
    }

    /// The journal has room again: mailboxes go on.
    pub(crate) fn wake_all_mailboxes(&mut self) {
        let waiting: Vec<_> = self.sessions.values().filter(|session| session.mail).map(|session| session.id).collect();
        for id in waiting {
            self.pump(id);
        }
    }

    /// Gives a session the next message of its mailboxes; false where there is none, or where too much waits to be recorded.
    pub(super) fn pull_message(&mut self, id: SessionId, wanted: Wanted) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        if !session.mail || !self.journal.has_room() {
            return false;
        }
        let now = self.clock.now();
        let found = session.mailboxes().find_map(|mailbox| self.transport.take(mailbox, wanted, now));
        let Some(delivery) = found else {
            // Without a reply there may still be others.
            session.mail &= wanted == Wanted::Reply;
            return false;
        };
        self.turns += 1;
        session.last_turn = self.turns;
        let event = ToAgent::Message { envelope: Arc::clone(&delivery.envelope), delivery: delivery.count };
        session.outbox.push(event);
        crash_point("communication.message.delivered");
        ::metrics::counter!(metrics::MESSAGE_DELIVERIES).increment(1);
        self.journal.note(change(&*self.clock, &delivery, Status::Delivered, format!("session {id}")));
        session.hold(delivery);
        self.tend_mailbox(id);
        true
    }

    /// Gives a session the replies that wait for it, beyond its credit.
    pub(super) fn pull_replies(&mut self, id: SessionId) {
        while self.sessions.get(&id).is_some_and(Session::has_room_for_replies) && self.pull_message(id, Wanted::Reply)
        {
        }
    }

    /// The agent has dealt with a message.
    pub(crate) fn message_acked(&mut self, id: SessionId, message: MessageId) {
        let Some(delivery) = self.unhold(id, message) else { return };
        crash_point("communication.message.acked");
        self.transport.settle(&delivery, Settlement::Done);
        ::metrics::counter!(metrics::MESSAGES_ACKED).increment(1);
        self.journal.note(change(&*self.clock, &delivery, Status::Acked, String::new()));
        self.pump(id);
    }

    pub(super) fn nack_message(
        &mut self,
        id: SessionId,
        message: MessageId,
        reason: &str,
        not_before: Option<Instant>,
    ) {
        let Some(delivery) = self.unhold(id, message) else { return };
        let not_before = not_before.or_else(|| Instant::now().checked_add(cool_down(delivery.count)));
        self.return_message(&delivery, reason, not_before);
        let mailbox = delivery.envelope.message.mailbox();
        self.close_unused(&mailbox);
        self.wake_mailbox(&mailbox);
        self.pump(id);
    }

    pub(super) fn reject_message(&mut self, id: SessionId, message: MessageId, reason: &str) {
        let Some(delivery) = self.unhold(id, message) else { return };
        self.transport.settle(&delivery, Settlement::Done);
        self.bury_message(&delivery, Reason::Rejected, reason);
        self.pump(id);
    }

    fn unhold(&mut self, id: SessionId, message: MessageId) -> Option<Delivery> {
        self.sessions.get_mut(&id)?.unhold(message)
    }

    /// What a lost session held goes back to its place in the mailbox.
    pub(super) fn return_messages(&self, session: &Session, why: &str) {
        session.messages.values().for_each(|delivery| self.return_message(delivery, why, None));
    }

    fn return_message(&self, delivery: &Delivery, why: &str, not_before: Option<Instant>) {
        if delivery.count >= self.limits.deliveries {
            self.transport.settle(delivery, Settlement::Done);
            self.bury_message(delivery, Reason::DeliveryLimit, why);
            return;
        }
        self.journal.note(change(&*self.clock, delivery, Status::Queued, why.to_owned()));
        self.transport.settle(delivery, Settlement::Return { not_before });
    }

    /// Makes a message a dead letter; the transport has forgotten it.
    pub(crate) fn bury_message(&self, delivery: &Delivery, reason: Reason, detail: &str) {
        crash_point("communication.message.dies");
        let message = &delivery.envelope.message;
        let letter = DeadLetter {
            id: DeadLetterId::generate(&*self.clock),
            namespace: message.namespace.clone(),
            kind: Kind::Message,
            subject_id: message.id.to_string(),
            target: message.agent.to_string(),
            reason: reason.as_str().to_owned(),
            detail: detail.to_owned(),
            deliveries: delivery.count,
            payload: message.payload.clone(),
            created_at: self.clock.now(),
            replayed_at: None,
            task: None,
        };
        let text =
            if detail.is_empty() { reason.as_str().to_owned() } else { format!("{}: {detail}", reason.as_str()) };
        let mut entry = change(&*self.clock, delivery, Status::Dead, text);
        if let Entry::Change(change) = &mut entry {
            change.letter = Some(letter);
        }
        self.journal.note(entry);
    }
}

fn change(clock: &dyn Clock, delivery: &Delivery, status: Status, detail: String) -> Entry {
    Entry::Change(Change {
        envelope: Arc::clone(&delivery.envelope),
        status,
        at: clock.now(),
        deliveries: delivery.count,
        detail,
        letter: None,
    })
}
