//! One agent session as the broker sees it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use domain::{AgentId, MessageId, SessionId};

use super::queues::QueueKey;
use crate::{
    app::{
        model::{Mailbox, TaskId, ToAgent},
        outbox::{Outbox, Weigh},
    },
    transport::Delivery,
};

/// An open session.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that is so, or not, whatever the others are")]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) mailbox: Mailbox,
    /// The mailbox of its instance, once that has asked something.
    pub(crate) answers: Option<Mailbox>,
    /// The queues that it takes from: its agent's, its type's, its capabilities'.
    pub(crate) fits: Vec<Arc<QueueKey>>,
    pub(crate) credits: usize,
    pub(crate) tasks: HashSet<TaskId>,
    pub(crate) messages: HashMap<MessageId, Delivery>,
    /// How many of the messages are replies: they take no credit, so that an agent whose tasks all wait for answers gets
    /// them. They have an allowance of their own, as large as the credit.
    pub(crate) replies: usize,
    /// For the metrics.
    pub(crate) agent_type: Arc<str>,
    pub(crate) outbox: Outbox<ToAgent>,
    /// Takes nothing new, and ends when it holds and is owed nothing.
    pub(crate) draining: bool,
    /// It takes from its mailboxes.
    pub(crate) takes_mail: bool,
    /// Questions that it has sent and that are not answered: an answer that never comes counts until its end.
    pub(crate) questions: usize,
    /// There may be something in one of them.
    pub(crate) mail: bool,
    /// Whose turn it is, so that neither tasks nor messages starve.
    pub(crate) mail_turn: bool,
    /// Acknowledgements of results and receipts of sends that it waits for.
    pub(crate) owed: usize,
    /// Tasks that sessions were lost with before, and how much it may hold together with each.
    pub(crate) suspects: Vec<(TaskId, usize)>,
    /// Such a task in line that it is kept free for, and how much it may hold together with it.
    pub(crate) awaits: Option<(TaskId, usize)>,
    /// When it last got something, as a count: among equally loaded ones the idlest is next.
    pub(crate) last_turn: u64,
}

impl Session {
    pub(crate) const fn agent(&self) -> AgentId {
        self.mailbox.agent
    }

    /// Those that it has: what only it waits for comes first.
    pub(crate) fn mailboxes(&self) -> impl Iterator<Item = &Mailbox> {
        self.answers.iter().chain([&self.mailbox])
    }

    /// Deliveries that it holds.
    pub(crate) fn load(&self) -> usize {
        self.tasks.len() + self.messages.len()
    }

    /// May it be given something?
    pub(crate) fn has_room(&self) -> bool {
        self.awaits.is_none() && self.could_take()
    }

    /// May it be given a message? While it is kept free, only as long as its tasks alone are too many.
    pub(crate) fn has_room_for_mail(&self) -> bool {
        self.awaits.as_ref().is_none_or(|(_, company)| self.tasks.len() >= *company) && self.could_take()
    }

    /// May it, if it is not kept free?
    pub(crate) fn could_take(&self) -> bool {
        !self.draining
            && self.spare() > 0
            && self.load() < self.company()
            && self.owed < self.owed_at_most()
            && self.has_room_for_replies()
    }

    /// Credit that is left.
    pub(crate) fn spare(&self) -> usize {
        (self.credits + self.replies).saturating_sub(self.load())
    }

    /// What it may hold in all, for the sake of the suspects that it holds.
    fn company(&self) -> usize {
        let held = self.suspects.iter().filter(|(task, _)| self.tasks.contains(task));
        held.map(|(_, company)| *company).min().unwrap_or(usize::MAX)
    }

    /// Would a task that may have so much company be in too much of it here?
    pub(crate) fn is_crowded_for(&self, company: usize) -> bool {
        self.load() >= company
    }

    /// Keeps a task that is handed over.
    pub(crate) fn hold_task(&mut self, task: TaskId, company: usize) {
        if company < usize::MAX {
            self.suspects.retain(|(suspect, _)| self.tasks.contains(suspect));
            self.suspects.push((Arc::clone(&task), company));
        }
        self.tasks.insert(task);
    }

    /// What may wait to be committed before it is given more: while the database stalls, an agent must not pile up results.
    pub(crate) fn owed_at_most(&self) -> usize {
        const LEAST: usize = 1_024;
        self.credits.max(LEAST)
    }

    /// May it be given a reply? Also while it drains, for what it still works on.
    pub(crate) fn has_room_for_replies(&self) -> bool {
        self.replies < self.credits && self.outbox.is_open() && (!self.draining || self.load() > 0)
    }

    /// Has it something to expect from its mailboxes? One that drains has not, but for answers: others of its agent, perhaps on
    /// another replica, are not to wait for its end.
    pub(crate) const fn wants_mail(&self) -> bool {
        !self.draining || self.questions > 0
    }

    /// Keeps a message that is handed over.
    pub(crate) fn hold(&mut self, delivery: Delivery) {
        let is_reply = delivery.envelope.message.is_reply();
        self.replies += usize::from(is_reply);
        self.questions = self.questions.saturating_sub(usize::from(is_reply && delivery.count == 1));
        self.messages.insert(delivery.envelope.message.id, delivery);
    }

    /// Takes back a message that it holds.
    pub(crate) fn unhold(&mut self, message: MessageId) -> Option<Delivery> {
        let delivery = self.messages.remove(&message)?;
        self.replies -= usize::from(delivery.envelope.message.is_reply());
        Some(delivery)
    }

    /// Ends the stream of a draining session that has nothing left.
    pub(crate) fn end_if_finished(&self) {
        if self.draining && self.load() == 0 && self.owed == 0 {
            self.outbox.end(Ok(()));
        }
    }
}

impl Weigh for ToAgent {
    fn weight(&self) -> usize {
        let payload = match self {
            Self::Task { task, .. } => task.input.len(),
            Self::Message { envelope, .. } => envelope.message.payload.len(),
            Self::Welcome(welcome) => welcome.config.len(),
            Self::Cancel { .. } | Self::ResultAck(_) | Self::Receipt { .. } | Self::Drain(_) => 0,
        };
        payload + 256
    }
}
