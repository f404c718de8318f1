//! What waits to be written: messages to record and what became of messages and tasks, in order.
//!
//! Filled without waiting, written in batches by one writer (`workers::writer`). It is bounded: when much waits, sends are
//! refused, and the broker stops handing messages over, which is what makes further entries.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use domain::Timestamp;
use tokio::sync::{Notify, oneshot};

use super::model::{DeadLetter, Envelope, Message, Status, Task};
use crate::error::CommunicationError;

/// What became of a message that was to be recorded: its status now.
pub(crate) type Recorded = Result<Status, CommunicationError>;

/// One thing to write.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Record this; its room in the mailbox is reserved.
    Send { message: Message, reply: oneshot::Sender<Recorded> },
    /// A message's state changed.
    Change(Change),
    /// A task died; its orchestrator is told after the commit.
    DeadTask { task: Arc<Task>, letter: DeadLetter },
}

/// A change of a message's state.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) status: Status,
    pub(crate) at: Timestamp,
    /// Hand-overs so far.
    pub(crate) deliveries: u32,
    /// For people.
    pub(crate) detail: String,
    /// Where the message died.
    pub(crate) letter: Option<DeadLetter>,
}

impl Entry {
    /// The same without what people have said, which a database may refuse; none where nothing was said.
    pub(crate) fn plain(self) -> Option<Self> {
        /// Instead of it.
        const UNSAID: &str = "what was said of it cannot be recorded";
        let replace = |said: &mut String| {
            let is_said = !said.is_empty() && said != UNSAID;
            if is_said {
                UNSAID.clone_into(said);
            }
            is_said
        };
        match self {
            Self::Send { .. } => None,
            Self::Change(mut change) => {
                let is_said = change.letter.as_mut().is_some_and(|letter| replace(&mut letter.detail));
                (replace(&mut change.detail) | is_said).then_some(Self::Change(change))
            }
            Self::DeadTask { task, mut letter } => {
                let is_said = replace(&mut letter.detail);
                is_said.then_some(Self::DeadTask { task, letter })
            }
        }
    }
}

/// The entries that wait.
#[derive(Debug)]
pub(crate) struct Journal {
    entries: Mutex<Vec<Entry>>,
    filled: Notify,
    closed: AtomicBool,
    limit: usize,
}

impl Journal {
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: Mutex::default(), filled: Notify::new(), closed: AtomicBool::new(false), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message to be recorded.
    pub(crate) fn send(&self, message: Message) -> Result<oneshot::Receiver<Recorded>, CommunicationError> {
        let (reply, recorded) = oneshot::channel();
        let mut entries = self.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(CommunicationError::Stopping);
        }
        if entries.len() >= self.limit {
            return Err(CommunicationError::Congested);
        }
        entries.push(Entry::Send { message, reply });
        drop(entries);
        self.filled.notify_one();
        Ok(recorded)
    }

    /// Notes what has happened; never refused, since it has.
    pub(crate) fn note(&self, entry: Entry) {
        self.lock().push(entry);
        self.filled.notify_one();
    }

    /// May things be started that make further entries?
    pub(crate) fn has_room(&self) -> bool {
        self.lock().len() < self.limit
    }

    /// Everything that waits, as soon as there is something. For one writer; cancel-safe.
    pub(crate) async fn take(&self) -> Vec<Entry> {
        loop {
            let filled = self.filled.notified();
            let entries = self.take_now();
            if !entries.is_empty() {
                return entries;
            }
            filled.await;
        }
    }

    /// Everything that waits.
    pub(crate) fn take_now(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.lock())
    }

    /// Puts entries back in front that could not be written.
    pub(crate) fn put_back(&self, mut entries: Vec<Entry>) {
        let mut waiting = self.lock();
        entries.append(&mut waiting);
        *waiting = entries;
        drop(waiting);
        self.filled.notify_one();
    }

    /// Refuses further sends; true where nothing waits any more.
    pub(crate) fn close(&self) -> bool {
        let entries = self.lock();
        self.closed.store(true, Ordering::Release);
        entries.is_empty()
    }
}
