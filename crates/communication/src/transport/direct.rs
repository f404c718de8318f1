//! The `direct` transport: mailboxes in memory, refilled from the database after a restart.
//!
//! A mailbox is ordered by priority, then by acceptance; a message that comes back takes its old place, so the order holds
//! over redeliveries. A delayed message steps aside, lets others pass, and takes its old place when its delay is over.
//!
//! What is in the mailbox of an instance from which nobody takes goes into its agent's after a while.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use domain::Timestamp;

use super::{
    Delivery, Full, LINGER, Settlement, Sink, Transport, Wanted,
    rooms::{MailboxLimits, Rooms},
};
use crate::app::{Envelope, MAX_PRIORITY, Mailbox, Message, Reason};

/// Mailboxes in memory.
pub(crate) struct Direct {
    sink: OnceLock<Weak<dyn Sink>>,
    limits: MailboxLimits,
    /// How long answers wait for an instance from whose mailbox nobody takes; absent where that is somebody else's business.
    answer_wait: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rooms: Rooms,
    mailboxes: HashMap<Mailbox, Contents>,
    /// By due time, then sequence.
    delayed: BTreeMap<(Instant, i64), Delivery>,
    /// Of everything that is not held.
    expiries: BTreeSet<(Timestamp, i64, Mailbox)>,
    /// Mailboxes of instances from which somebody takes.
    attended: HashSet<Mailbox>,
    /// Others in which something waits, and since when.
    left: HashMap<Mailbox, Instant>,
    /// Whose agents are gone, since when.
    deleted: HashMap<Mailbox, Instant>,
}

/// The more urgent first, then by acceptance.
type Place = (u8, i64);

#[derive(Default)]
struct Contents {
    waiting: BTreeMap<Place, Delivery>,
    /// The replies among them.
    replies: BTreeSet<Place>,
    /// Sequences of what is handed over or delayed.
    away: HashMap<i64, Away>,
}

enum Away {
    Held,
    Delayed(Instant),
}

fn place(envelope: &Envelope) -> Place {
    (MAX_PRIORITY.saturating_sub(envelope.message.priority), envelope.sequence)
}

impl Direct {
    pub(crate) fn new(limits: MailboxLimits, answer_wait: Option<Duration>) -> Self {
        Self { sink: OnceLock::new(), limits, answer_wait, state: Mutex::default() }
    }

    /// What stays away from its mailbox for a while, by sequence.
    pub(super) fn delayed(&self) -> HashMap<Mailbox, Vec<i64>> {
        let mut delayed: HashMap<_, Vec<_>> = HashMap::new();
        for delivery in self.lock().delayed.values() {
            delayed.entry(delivery.envelope.message.mailbox()).or_default().push(delivery.envelope.sequence);
        }
        delayed
    }

    /// Does a mailbox have less than its limits?
    pub(super) fn has_room(&self, mailbox: &Mailbox) -> bool {
        let mut state = self.lock();
        let has_room = state.rooms.reserve(mailbox, 0, self.limits).is_ok();
        if has_room {
            state.rooms.release(mailbox, 0);
        }
        has_room
    }

    /// Takes everything out of one mailbox that nobody holds.
    pub(super) fn clear(&self, mailbox: &Mailbox) -> Vec<Delivery> {
        self.lock().clear(mailbox)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sink(&self) -> Option<Arc<dyn Sink>> {
        self.sink.get().and_then(Weak::upgrade)
    }

    fn put(&self, envelope: Arc<Envelope>, deliveries: u32) {
        let mailbox = envelope.message.mailbox();
        self.lock().put(Delivery { envelope, count: deliveries });
        if let Some(sink) = self.sink() {
            sink.arrived(&mailbox);
        }
    }
}

impl Contents {
    fn put(&mut self, delivery: Delivery) {
        let place = place(&delivery.envelope);
        if delivery.envelope.message.is_reply() {
            self.replies.insert(place);
        }
        self.waiting.insert(place, delivery);
    }

    fn remove(&mut self, place: Place) -> Option<Delivery> {
        self.replies.remove(&place);
        self.waiting.remove(&place)
    }

    /// The first that is wanted and has not expired: those that have are passed over, `advance` reports them soon.
    fn first(&self, wanted: Wanted, now: Timestamp) -> Option<Place> {
        let is_live = |delivery: &Delivery| delivery.envelope.message.expires_at.is_none_or(|at| at > now);
        match wanted {
            Wanted::Any => self.waiting.iter().find(|(_, delivery)| is_live(delivery)).map(|(place, _)| *place),
            Wanted::Reply => self.replies.iter().find(|place| self.waiting.get(place).is_some_and(is_live)).copied(),
        }
    }
}

impl State {
    /// Puts something into its place among those that wait.
    fn put(&mut self, delivery: Delivery) {
        let mailbox = delivery.envelope.message.mailbox();
        if let Some(at) = delivery.envelope.message.expires_at {
            self.expiries.insert((at, delivery.envelope.sequence, mailbox.clone()));
        }
        if mailbox.instance.is_some() && !self.attended.contains(&mailbox) {
            self.left.entry(mailbox.clone()).or_insert_with(Instant::now);
        }
        self.mailboxes.entry(mailbox).or_default().put(delivery);
    }

    /// A message is gone.
    fn give_back(&mut self, mailbox: &Mailbox, bytes: usize) {
        self.rooms.release(mailbox, bytes);
        if self.mailboxes.get(mailbox).is_some_and(|contents| contents.waiting.is_empty() && contents.away.is_empty()) {
            self.mailboxes.remove(mailbox);
            self.left.remove(mailbox);
        }
    }

    fn clear(&mut self, mailbox: &Mailbox) -> Vec<Delivery> {
        let Some(contents) = self.mailboxes.get_mut(mailbox) else { return Vec::new() };
        contents.replies.clear();
        let mut found: Vec<_> = std::mem::take(&mut contents.waiting).into_values().collect();
        // What is held stays known, so that it can come back.
        let mut delayed = Vec::new();
        contents.away.retain(|sequence, away| match away {
            Away::Held => true,
            Away::Delayed(due) => {
                delayed.push((*due, *sequence));
                false
            }
        });
        found.extend(delayed.iter().filter_map(|due| self.delayed.remove(due)));
        for delivery in &found {
            if let Some(at) = delivery.envelope.message.expires_at {
                self.expiries.remove(&(at, delivery.envelope.sequence, mailbox.clone()));
            }
            self.give_back(mailbox, delivery.envelope.message.payload.len());
        }
        found
    }

    /// Puts what instances have left that are gone into the mailboxes of their agents; answers with these.
    fn inherit(&mut self, before: Instant) -> BTreeSet<Mailbox> {
        let gone: Vec<_> =
            self.left.iter().filter(|(_, since)| **since <= before).map(|(left, _)| left.clone()).collect();
        let mut woken = BTreeSet::new();
        for mailbox in gone {
            self.left.remove(&mailbox);
            for Delivery { envelope, count } in self.clear(&mailbox) {
                let message = Message { instance: None, ..envelope.message.clone() };
                self.rooms.take(&message.mailbox(), message.payload.len());
                self.put(Delivery { envelope: Arc::new(Envelope { message, ..*envelope }), count });
            }
            woken.insert(mailbox.agents());
        }
        woken
    }

    /// Takes out what has expired.
    fn expire(&mut self, now: Timestamp) -> Vec<Delivery> {
        let mut expired = Vec::new();
        while self.expiries.first().is_some_and(|(at, ..)| *at <= now)
            && let Some((_, sequence, mailbox)) = self.expiries.pop_first()
        {
            let Some(contents) = self.mailboxes.get_mut(&mailbox) else { continue };
            let found = match contents.away.get(&sequence) {
                Some(Away::Held) => continue,
                Some(Away::Delayed(due)) => {
                    let due = *due;
                    contents.away.remove(&sequence);
                    self.delayed.remove(&(due, sequence))
                }
                None => {
                    let mut places = (0..=MAX_PRIORITY).map(|rank| (rank, sequence));
                    places.find_map(|place| contents.remove(place))
                }
            };
            if let Some(delivery) = found {
                self.give_back(&mailbox, delivery.envelope.message.payload.len());
                expired.push(delivery);
            }
        }
        expired
    }

    /// Puts back whose delay is over; answers with their mailboxes.
    fn undelay(&mut self, now: Instant) -> BTreeSet<Mailbox> {
        let mut woken = BTreeSet::new();
        while self.delayed.first_key_value().is_some_and(|((due, _), _)| *due <= now)
            && let Some((_, delivery)) = self.delayed.pop_first()
        {
            let mailbox = delivery.envelope.message.mailbox();
            if let Some(contents) = self.mailboxes.get_mut(&mailbox) {
                contents.away.remove(&delivery.envelope.sequence);
            }
            self.put(delivery);
            woken.insert(mailbox);
        }
        woken
    }
}

impl Transport for Direct {
    fn start(&self, sink: Weak<dyn Sink>) {
        // A second start would change nothing: there is one hub per transport.
        let _ = self.sink.set(sink);
    }

    fn reserve(&self, mailbox: &Mailbox, bytes: usize) -> Result<(), Full> {
        self.lock().rooms.reserve(mailbox, bytes, self.limits)
    }

    fn release(&self, mailbox: &Mailbox, bytes: usize) {
        self.lock().rooms.release(mailbox, bytes);
    }

    fn publish(&self, envelope: Arc<Envelope>) {
        let sink = self.sink();
        if let Some(sink) = &sink {
            sink.queued(&envelope);
        }
        let mailbox = envelope.message.mailbox();
        let delivery = Delivery { envelope, count: 0 };
        let mut state = self.lock();
        if state.deleted.contains_key(&mailbox.agents()) {
            // It was accepted while its agent went.
            state.give_back(&mailbox, delivery.envelope.message.payload.len());
            drop(state);
            if let Some(sink) = sink {
                sink.dead(delivery, Reason::AgentDeleted);
            }
        } else {
            state.put(delivery);
            drop(state);
            if let Some(sink) = sink {
                sink.arrived(&mailbox);
            }
        }
    }

    fn readmit(&self, envelope: Arc<Envelope>, deliveries: u32) {
        self.lock().rooms.take(&envelope.message.mailbox(), envelope.message.payload.len());
        self.put(envelope, deliveries);
    }

    fn revive(&self, envelope: Arc<Envelope>, _at: Timestamp) {
        self.lock().rooms.take(&envelope.message.mailbox(), envelope.message.payload.len());
        self.publish(envelope);
    }

    fn open(&self, mailbox: &Mailbox) {
        if mailbox.instance.is_some() {
            let mut state = self.lock();
            state.left.remove(mailbox);
            state.attended.insert(mailbox.clone());
        }
    }

    fn close(&self, mailbox: &Mailbox) {
        let mut state = self.lock();
        if state.attended.remove(mailbox) && state.mailboxes.contains_key(mailbox) {
            state.left.insert(mailbox.clone(), Instant::now());
        }
    }

    fn take(&self, mailbox: &Mailbox, wanted: Wanted, now: Timestamp) -> Option<Delivery> {
        let mut state = self.lock();
        let contents = state.mailboxes.get_mut(mailbox)?;
        let place = contents.first(wanted, now)?;
        let mut delivery = contents.remove(place)?;
        delivery.count += 1;
        contents.away.insert(delivery.envelope.sequence, Away::Held);
        if let Some(at) = delivery.envelope.message.expires_at {
            state.expiries.remove(&(at, delivery.envelope.sequence, mailbox.clone()));
        }
        Some(delivery)
    }

    fn settle(&self, delivery: &Delivery, settlement: Settlement) {
        let (mailbox, sequence) = (delivery.envelope.message.mailbox(), delivery.envelope.sequence);
        let mut state = self.lock();
        let held = state.mailboxes.get_mut(&mailbox).and_then(|contents| contents.away.remove(&sequence));
        if held.is_none() {
            return;
        }
        match settlement {
            Settlement::Done => state.give_back(&mailbox, delivery.envelope.message.payload.len()),
            Settlement::Return { not_before: None } => state.put(delivery.clone()),
            Settlement::Return { not_before: Some(due) } => {
                if let Some(at) = delivery.envelope.message.expires_at {
                    state.expiries.insert((at, sequence, mailbox.clone()));
                }
                state.mailboxes.entry(mailbox).or_default().away.insert(sequence, Away::Delayed(due));
                state.delayed.insert((due, sequence), delivery.clone());
            }
        }
    }

    fn empty(&self, mailbox: &Mailbox) -> Vec<Delivery> {
        let mut state = self.lock();
        state.deleted.insert(mailbox.clone(), Instant::now());
        let all: Vec<_> = state.mailboxes.keys().filter(|one| one.agents() == *mailbox).cloned().collect();
        all.iter().flat_map(|mailbox| state.clear(mailbox)).collect()
    }

    fn advance(&self, now: Timestamp, instant: Instant) {
        let mut state = self.lock();
        let expired = state.expire(now);
        state.deleted.retain(|_, since| instant.saturating_duration_since(*since) < LINGER);
        let mut woken = state.undelay(instant);
        if let Some(before) = self.answer_wait.and_then(|wait| instant.checked_sub(wait)) {
            woken.append(&mut state.inherit(before));
        }
        drop(state);
        let Some(sink) = self.sink() else { return };
        for delivery in expired {
            sink.dead(delivery, Reason::Expired);
        }
        for mailbox in &woken {
            sink.arrived(mailbox);
        }
    }
}
