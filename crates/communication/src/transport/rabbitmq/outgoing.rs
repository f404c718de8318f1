//! What waits to be published: bounded for each mailbox and as a whole, in order.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    app::{DeadLetter, Envelope, Mailbox},
    transport::{Full, MailboxLimits, rooms::Rooms},
};

/// Bytes that one wave has about.
const WAVE_BYTES: usize = 4 << 20;
/// Messages of all mailboxes together.
const MOST: usize = 200_000;
/// Copies of dead letters that wait while the broker is away; what comes later is in the record only.
const MOST_LETTERS: usize = 10_000;
/// For how long a mailbox is full after the broker has said so.
const FULL_FOR: Duration = Duration::from_secs(5);

/// A broker refuses what its queue has no room for, and also what comes while the queue elects its leader.
const MOST_REFUSALS: u32 = 8;

/// One thing to publish.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Into its mailbox; it may have been there before, and died.
    Message { envelope: Arc<Envelope>, is_revived: bool, refusals: u32 },
    /// A copy into the dead-letter queue.
    Letter(Arc<DeadLetter>),
}

/// What waits, and what is on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    state: Mutex<State>,
    filled: Notify,
    limits: MailboxLimits,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Item>,
    /// Sequences of messages that wait or are on their way.
    known: HashSet<i64>,
    letters: usize,
    rooms: Rooms,
    reserved: usize,
    full: HashMap<Mailbox, Instant>,
}

impl Outgoing {
    pub(super) fn new(limits: MailboxLimits) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), limits }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reserve(&self, mailbox: &Mailbox, bytes: usize) -> Result<(), Full> {
        let mut state = self.lock();
        if state.reserved >= MOST || state.full.get(mailbox).is_some_and(|since| since.elapsed() < FULL_FOR) {
            return Err(Full);
        }
        state.full.remove(mailbox);
        state.rooms.reserve(mailbox, bytes, self.limits)?;
        state.reserved += 1;
        Ok(())
    }

    pub(super) fn release(&self, mailbox: &Mailbox, bytes: usize) {
        self.lock().release(mailbox, bytes);
    }

    /// Publishes a message whose room is reserved.
    pub(super) fn push(&self, envelope: Arc<Envelope>) {
        let mut state = self.lock();
        state.known.insert(envelope.sequence);
        state.waiting.push_back(Item::Message { envelope, is_revived: false, refusals: 0 });
        drop(state);
        self.filled.notify_one();
    }

    /// Publishes a message that was accepted in another life, unless it is about to be.
    pub(super) fn push_again(&self, envelope: Arc<Envelope>, is_revived: bool) {
        let mut state = self.lock();
        if !state.known.insert(envelope.sequence) {
            return;
        }
        state.rooms.take(&envelope.message.mailbox(), envelope.message.payload.len());
        state.reserved += 1;
        state.waiting.push_back(Item::Message { envelope, is_revived, refusals: 0 });
        drop(state);
        self.filled.notify_one();
    }

    /// Publishes a copy of a dead letter, where there is room for it.
    pub(super) fn push_letter(&self, letter: DeadLetter) {
        let mut state = self.lock();
        if state.letters >= MOST_LETTERS {
            return;
        }
        state.letters += 1;
        state.waiting.push_back(Item::Letter(Arc::new(letter)));
        drop(state);
        self.filled.notify_one();
    }

    /// Does nothing wait?
    pub(super) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// The next at most `most`, as soon as there is something. For one publisher; cancel-safe.
    pub(super) async fn next(&self, most: usize) -> Vec<Item> {
        loop {
            let filled = self.filled.notified();
            let wave = self.lock().wave(most);
            if !wave.is_empty() {
                return wave;
            }
            filled.await;
        }
    }

    /// Puts back what was not published, in front.
    pub(super) fn put_back(&self, wave: Vec<Item>) {
        let mut state = self.lock();
        for item in wave.into_iter().rev() {
            state.waiting.push_front(item);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// It is with the broker, or need not be.
    pub(super) fn done(&self, item: &Item) {
        let mut state = self.lock();
        match item {
            Item::Message { envelope, .. } => {
                state.known.remove(&envelope.sequence);
                state.release(&envelope.message.mailbox(), envelope.message.payload.len());
            }
            Item::Letter(_) => state.letters = state.letters.saturating_sub(1),
        }
    }

    /// The broker does not take it: the item, where that is to be tried again. One that was refused often is left to the
    /// relay, and senders are refused for a while, since its mailbox is full there.
    pub(super) fn refused(&self, mut item: Item) -> Option<Item> {
        if let Item::Message { envelope, refusals, .. } = &mut item {
            *refusals += 1;
            if *refusals < MOST_REFUSALS {
                return Some(item);
            }
            self.lock().full.insert(envelope.message.mailbox(), Instant::now());
        }
        self.done(&item);
        None
    }
}

impl State {
    fn release(&mut self, mailbox: &Mailbox, bytes: usize) {
        self.rooms.release(mailbox, bytes);
        self.reserved = self.reserved.saturating_sub(1);
    }

    fn wave(&mut self, most: usize) -> Vec<Item> {
        let mut bytes = 0;
        let mut wave = Vec::with_capacity(self.waiting.len().min(most));
        while wave.len() < most
            && bytes < WAVE_BYTES
            && let Some(item) = self.waiting.pop_front()
        {
            bytes += match &item {
                Item::Message { envelope, .. } => envelope.message.payload.len(),
                Item::Letter(letter) => letter.payload.len(),
            };
            wave.push(item);
        }
        wave
    }
}
