//! What waits to be published: bounded for each mailbox and as a whole, in order.
//!
//! A mailbox that refuses messages holds nobody else up, and keeps its order ([`trust`]).
//!
//! Messages wait here as long as it takes, since they are recorded. Tasks do only while the broker takes them: before and
//! after they wait with whoever dispatched them, where a session may take them meanwhile.

mod item;
#[cfg(test)]
mod tests;
mod trust;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

pub(super) use self::item::{Item, Original};
use self::trust::Parked;
use super::{held::Life, link, properties::Identity};
use crate::{
    app::{DeadLetter, Envelope, Mailbox, TaskId},
    transport::{Full, MailboxLimits, Parcel, Publishing, rooms::Rooms},
};

/// Bytes that one wave has about.
const WAVE_BYTES: usize = 4 << 20;
/// Messages of all mailboxes together.
const MOST: usize = 200_000;
/// Tasks that wait or are on their way.
const MOST_TASKS: usize = 20_000;
/// Copies of dead letters that wait while the broker is away; what comes later is in the record only.
const MOST_LETTERS: usize = 10_000;
/// For how long a queue is full, and a mailbox not trusted, after the broker has refused something.
const FULL_FOR: Duration = Duration::from_secs(5);
/// Full queues, and mailboxes that have refused something, that are remembered.
const MOST_FULL: usize = 10_000;

/// A broker refuses what its queue has no room for, and also what comes while the queue elects its leader.
const MOST_REFUSALS: u32 = 8;

/// Pauses before what ends the connection is tried again: the first and the longest.
const OUTCAST_FOR: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(10)];
/// Such things that are remembered.
const MOST_OUTCASTS: usize = 10_000;

/// What waits, and what is on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    state: Mutex<State>,
    filled: Notify,
    /// Nothing waits any more.
    emptied: Notify,
    limits: MailboxLimits,
    /// Bytes of everything together.
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Item>,
    /// Sequences of messages that wait or are on their way.
    known: HashSet<i64>,
    letters: usize,
    tasks: usize,
    /// Does the broker take something?
    is_open: bool,
    /// No task is taken any more, whatever the broker takes.
    is_over: bool,
    rooms: Rooms,
    reserved: usize,
    bytes: usize,
    /// By the names of queues.
    full: HashMap<String, Instant>,
    trusted: HashSet<Mailbox>,
    /// When mailboxes have last refused a message.
    refused: HashMap<Mailbox, Instant>,
    parked: HashMap<Mailbox, Parked>,
    /// What ends the connection: until when it is left alone, and for how long that is.
    outcasts: HashMap<Identity, (Instant, Duration)>,
}

impl Outgoing {
    pub(super) fn new(limits: MailboxLimits, most_bytes: usize) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), emptied: Notify::new(), limits, most_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reserve(&self, mailbox: &Mailbox, bytes: usize) -> Result<(), Full> {
        let mut state = self.lock();
        // One always fits where nothing waits, however large.
        let is_over = state.bytes > 0 && state.bytes + bytes > self.most_bytes;
        if state.reserved >= MOST || is_over || state.is_full(|| link::mailbox_queue(mailbox)) {
            return Err(Full);
        }
        state.rooms.reserve(mailbox, bytes, self.limits)?;
        state.reserved += 1;
        state.bytes += bytes;
        Ok(())
    }

    pub(super) fn release(&self, mailbox: &Mailbox, bytes: usize) {
        self.lock().release(mailbox, bytes);
    }

    /// Publishes a message whose room is reserved.
    pub(super) fn push(&self, envelope: Arc<Envelope>) {
        let mut state = self.lock();
        state.known.insert(envelope.sequence);
        state.push(envelope, None);
        drop(state);
        self.filled.notify_one();
    }

    /// Publishes a message that was accepted in another life, unless it is about to be.
    pub(super) fn push_again(&self, envelope: Arc<Envelope>, life: Life) {
        let mut state = self.lock();
        if !state.known.insert(envelope.sequence) {
            return;
        }
        let bytes = envelope.message.payload.len();
        state.rooms.take(&envelope.message.mailbox(), bytes);
        state.reserved += 1;
        state.bytes += bytes;
        state.push(envelope, life);
        drop(state);
        self.filled.notify_one();
    }

    /// Publishes a task, where the broker takes it now, and there is room.
    pub(super) fn push_task(&self, parcel: Parcel) -> Publishing {
        let bytes = parcel.task.input.len();
        let mut state = self.lock();
        if !state.is_open
            || state.is_over
            || state.tasks >= MOST_TASKS
            || (state.bytes > 0 && state.bytes + bytes > self.most_bytes)
            || state.is_full(|| link::work_queue(&parcel.queue()))
        {
            return Publishing::NotNow;
        }
        if state.is_outcast(|| Identity::Task(parcel.task.id.to_string())) {
            return Publishing::NotThis;
        }
        state.tasks += 1;
        state.bytes += bytes;
        state.waiting.push_back(Item::Task(parcel));
        drop(state);
        self.filled.notify_one();
        Publishing::Begun
    }

    /// Publishes a copy of a dead letter, where there is room for it.
    pub(super) fn push_letter(&self, letter: DeadLetter, original: Original) {
        let mut state = self.lock();
        if state.letters >= MOST_LETTERS || state.bytes + letter.payload.len() > self.most_bytes {
            return;
        }
        state.letters += 1;
        state.bytes += letter.payload.len();
        state.waiting.push_back(Item::Letter { letter: Arc::new(letter), original });
        drop(state);
        self.filled.notify_one();
    }

    /// A new connection: no mailbox has taken anything over it yet.
    pub(super) fn begin_anew(&self) {
        self.lock().trusted.clear();
    }

    /// A mailbox had no queue any more: the next one has to show what it takes.
    pub(super) fn distrust(&self, mailbox: &Mailbox) {
        self.lock().trusted.remove(mailbox);
    }

    /// The broker takes what is published.
    pub(super) fn open(&self) {
        self.lock().is_open = true;
    }

    /// The broker takes nothing now: answers with the tasks that wait, which are somebody else's again.
    pub(super) fn close(&self) -> Vec<TaskId> {
        let mut state = self.lock();
        state.is_open = false;
        let (tasks, kept): (VecDeque<_>, _) =
            std::mem::take(&mut state.waiting).into_iter().partition(|item| item.task().is_some());
        state.waiting = kept;
        for item in &tasks {
            state.done(item);
        }
        tasks.iter().filter_map(Item::task).collect()
    }

    /// Takes no task any more; those that are here are published still.
    pub(super) fn refuse_tasks(&self) {
        self.lock().is_over = true;
    }

    /// Does a message wait, or is on its way?
    pub(super) fn knows(&self, sequence: i64) -> bool {
        self.lock().known.contains(&sequence)
    }

    /// Does nothing wait, or soon? For one waiter.
    pub(super) async fn is_empty_within(&self, patience: Duration) -> bool {
        let emptied = async {
            loop {
                let emptied = self.emptied.notified();
                if self.lock().is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        timeout(patience, emptied).await.is_ok()
    }

    /// The next at most `most`, as soon as there is something. For one publisher; cancel-safe.
    pub(super) async fn next(&self, most: usize) -> Vec<Item> {
        loop {
            let filled = self.filled.notified();
            let (wave, is_all, due) = {
                let mut state = self.lock();
                (state.wave(most), state.waiting.is_empty(), state.due())
            };
            if !wave.is_empty() {
                if is_all {
                    self.emptied.notify_one();
                }
                return wave;
            }
            match due {
                // Something may come before: then it is looked again.
                Some(due) => drop(timeout(due.saturating_duration_since(Instant::now()), filled).await),
                None => filled.await,
            }
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
        state.done(item);
        if !state.outcasts.is_empty()
            && let Some(identity) = item.identity()
        {
            state.outcasts.remove(&identity);
        }
        if let Item::Message { envelope, .. } = item {
            state.took(envelope.message.mailbox());
        }
    }

    /// Keeps messages of mailboxes that have refused them, and what comes after them.
    pub(super) fn hold_back(&self, refused: Vec<Item>) {
        if !refused.is_empty() {
            self.lock().hold_back(refused);
        }
    }

    /// It ends the connection whenever it is published: it is left alone, for longer each time.
    pub(super) fn cast_out(&self, item: &Item) {
        let mut state = self.lock();
        state.done(item);
        if let Item::Message { envelope, .. } = item {
            state.try_later(&envelope.message.mailbox());
        }
        let Some(identity) = item.identity() else { return };
        let pause = state.outcasts.get(&identity).map_or(OUTCAST_FOR[0], |(_, pause)| *pause * 2);
        let pause = pause.min(OUTCAST_FOR[1]);
        if state.outcasts.len() < MOST_OUTCASTS || state.outcasts.contains_key(&identity) {
            state.outcasts.insert(identity, (Instant::now() + pause, pause));
        }
    }

    /// Is a message left alone, as it ends the connection?
    pub(super) fn is_outcast(&self, envelope: &Envelope) -> bool {
        self.lock().is_outcast(|| Identity::Message(envelope.sequence))
    }

    /// Would a mailbox take messages now, as far as is known?
    pub(super) fn may_take(&self, mailbox: &Mailbox) -> bool {
        let mut state = self.lock();
        !state.has_refused(mailbox) && !state.is_full(|| link::mailbox_queue(mailbox))
    }

    /// The broker does not take it: the item, where that is to be tried again. A message that was refused often is left to the
    /// relay, and senders are refused for a while, since its mailbox is full there; a task is its dispatcher's again.
    pub(super) fn refused(&self, mut item: Item) -> Option<Item> {
        let queue = match &mut item {
            Item::Message { envelope, refusals, .. } => {
                *refusals += 1;
                if *refusals < MOST_REFUSALS {
                    return Some(item);
                }
                Some(link::mailbox_queue(&envelope.message.mailbox()))
            }
            Item::Task(parcel) => Some(link::work_queue(&parcel.queue())),
            Item::Letter { .. } => None,
        };
        let mut state = self.lock();
        if let Some(queue) = queue {
            state.now_full(queue);
        }
        state.done(&item);
        if let Some(mailbox) = item.mailbox() {
            state.try_later(&mailbox);
            state.has_not_taken(mailbox);
        }
        None
    }
}

impl State {
    fn release(&mut self, mailbox: &Mailbox, bytes: usize) {
        self.rooms.release(mailbox, bytes);
        self.reserved = self.reserved.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn done(&mut self, item: &Item) {
        let bytes = item.bytes();
        match item {
            Item::Message { envelope, .. } => {
                self.known.remove(&envelope.sequence);
                return self.release(&envelope.message.mailbox(), bytes);
            }
            Item::Task(_) => self.tasks = self.tasks.saturating_sub(1),
            Item::Letter { .. } => self.letters = self.letters.saturating_sub(1),
        }
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn push(&mut self, envelope: Arc<Envelope>, life: Life) {
        let parked = if self.parked.is_empty() { None } else { self.parked.get_mut(&envelope.message.mailbox()) };
        let line = parked.map_or(&mut self.waiting, |parked| &mut parked.items);
        line.push_back(Item::Message { envelope, life, refusals: 0 });
    }

    fn is_outcast(&self, identity: impl FnOnce() -> Identity) -> bool {
        !self.outcasts.is_empty() && self.outcasts.get(&identity()).is_some_and(|(until, _)| *until > Instant::now())
    }

    /// `queue` is asked for only where some queue is full.
    fn is_full(&mut self, queue: impl FnOnce() -> String) -> bool {
        if self.full.is_empty() {
            return false;
        }
        let queue = queue();
        let is_full = self.full.get(&queue).is_some_and(|since| since.elapsed() < FULL_FOR);
        if !is_full {
            self.full.remove(&queue);
        }
        is_full
    }

    fn now_full(&mut self, queue: String) {
        if self.full.len() >= MOST_FULL {
            self.full.retain(|_, since| since.elapsed() < FULL_FOR);
        }
        if self.full.len() < MOST_FULL {
            self.full.insert(queue, Instant::now());
        }
    }

    fn wave(&mut self, most: usize) -> Vec<Item> {
        self.try_parked();
        let mut bytes = 0;
        let mut wave = Vec::with_capacity(self.waiting.len().min(most));
        let mut doubtful = HashSet::new();
        while wave.len() < most
            && bytes < WAVE_BYTES
            && let Some(item) = self.waiting.pop_front()
        {
            if let Some(mailbox) = item.mailbox().filter(|mailbox| !self.trusted.contains(mailbox)) {
                if doubtful.contains(&mailbox) {
                    self.parked.entry(mailbox).or_default().items.push_back(item);
                    continue;
                }
                // Of one that was parked before this is the message that is tried.
                if !self.parked.contains_key(&mailbox) {
                    self.parked.insert(mailbox.clone(), Parked::default());
                    doubtful.insert(mailbox);
                }
            }
            bytes += item.bytes();
            wave.push(item);
        }
        self.park(&doubtful);
        wave
    }
}
