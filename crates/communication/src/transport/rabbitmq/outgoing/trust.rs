//! Which mailboxes may have several messages on their way at once. One that is refused comes after those behind it, which the
//! broker may have taken; so a mailbox is trusted only when it has taken a message over this connection, and has refused none
//! for a while. Of any other one message is on its way, and the rest waits for that, and holds nobody else up. What was refused
//! is tried again now and then.
//!
//! The first refusal of a trusted mailbox may come in the middle of many: then those that are taken behind it come first.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{FULL_FOR, Item, MOST_FULL, State};
use crate::app::Mailbox;

/// Pause before a mailbox that has refused a message is tried again.
pub(super) const AFTER_REFUSAL: Duration = Duration::from_millis(250);

/// What waits for one message of a mailbox that is not trusted.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// When the first is tried again; absent while one is on its way.
    pub(super) due: Option<Instant>,
    pub(super) items: VecDeque<Item>,
}

impl State {
    pub(super) fn hold_back(&mut self, refused: Vec<Item>) {
        let due = Some(Instant::now() + AFTER_REFUSAL);
        let mut new = HashSet::new();
        for item in refused.into_iter().rev() {
            let Item::Message { envelope, .. } = &item else { continue };
            let mailbox = envelope.message.mailbox();
            if !self.parked.contains_key(&mailbox) {
                new.insert(mailbox.clone());
            }
            self.has_not_taken(mailbox.clone());
            let parked = self.parked.entry(mailbox).or_default();
            parked.due = due;
            parked.items.push_front(item);
        }
        self.park(&new);
    }

    /// What waits of mailboxes waits behind what is on its way of them.
    pub(super) fn park(&mut self, mailboxes: &HashSet<Mailbox>) {
        if mailboxes.is_empty() {
            return;
        }
        for item in std::mem::take(&mut self.waiting) {
            let mailbox = item.mailbox().filter(|mailbox| mailboxes.contains(mailbox));
            let parked = mailbox.and_then(|mailbox| self.parked.get_mut(&mailbox));
            parked.map_or(&mut self.waiting, |parked| &mut parked.items).push_back(item);
        }
    }

    /// Is nothing there to be sent, nor will be when what is on its way is taken?
    pub(super) fn is_empty(&self) -> bool {
        let is_next = |(mailbox, parked): (&Mailbox, &Parked)| {
            parked.due.is_none() && !parked.items.is_empty() && !self.has_refused(mailbox)
        };
        self.waiting.is_empty() && !self.parked.iter().any(is_next)
    }

    pub(super) fn has_refused(&self, mailbox: &Mailbox) -> bool {
        !self.refused.is_empty() && self.refused.get(mailbox).is_some_and(|at| at.elapsed() < FULL_FOR)
    }

    /// A mailbox has not taken a message.
    pub(super) fn has_not_taken(&mut self, mailbox: Mailbox) {
        self.trusted.remove(&mailbox);
        if self.refused.len() >= MOST_FULL {
            self.refused.retain(|_, at| at.elapsed() < FULL_FOR);
        }
        if self.refused.len() < MOST_FULL {
            self.refused.insert(mailbox, Instant::now());
        }
    }

    /// A mailbox has taken a message: the others follow, or the next one where it has refused some lately.
    pub(super) fn took(&mut self, mailbox: Mailbox) {
        if self.trusted.contains(&mailbox) {
            return;
        }
        let is_doubtful = self.has_refused(&mailbox);
        if let Some(mut parked) = self.parked.remove(&mailbox) {
            let following = if is_doubtful { parked.items.len().min(1) } else { parked.items.len() };
            for item in parked.items.drain(..following).rev() {
                self.waiting.push_front(item);
            }
            if following > 0 && is_doubtful {
                self.parked.insert(mailbox.clone(), Parked { due: None, ..parked });
            }
        }
        if !is_doubtful {
            self.refused.remove(&mailbox);
            self.trusted.insert(mailbox);
        }
    }

    /// The first of a mailbox is given up: the next is tried soon.
    pub(super) fn try_later(&mut self, mailbox: &Mailbox) {
        match self.parked.get_mut(mailbox) {
            Some(parked) if parked.items.is_empty() => drop(self.parked.remove(mailbox)),
            Some(parked) => parked.due = Some(Instant::now() + AFTER_REFUSAL),
            None => {}
        }
    }

    /// When a mailbox that was held back is tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.parked.values().filter_map(|parked| parked.due).min()
    }

    pub(super) fn try_parked(&mut self) {
        if self.parked.is_empty() {
            return;
        }
        let now = Instant::now();
        for parked in self.parked.values_mut().filter(|parked| parked.due.is_some_and(|due| due <= now)) {
            if let Some(first) = parked.items.pop_front() {
                parked.due = None;
                self.waiting.push_back(first);
            }
        }
    }
}
