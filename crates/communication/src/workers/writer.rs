//! The one writer: everything that waits to be recorded becomes one transaction, and what follows from the commit is done
//! after it: senders are answered, messages go to the transport, which hears of ends too, and orchestrators hear of dead tasks.
//! What the database refuses to write is found by halves, and tried again without what people have said of it, which may be no
//! text for a database; then it is left out, or it would be refused again, and all the others with it.
//!
//! Invariant: messages are published in the order of their sequences, which is the order in which they were submitted.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ::store::Pace;
use lifecycle::{Shutdown, crash_point};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::{
    app::{Change, DeadLetter, Entry, Envelope, Hub, Journal, Message, Reason, Recorded, Status, Task},
    error::CommunicationError,
    metrics, spans,
    store::{Batch, HistoryEvent, MessageUpdate, Store, in_time},
    transport::Transport,
};

/// Pause after a commit that failed, so that a database that is away is not hammered.
const PAUSE: Duration = Duration::from_millis(250);
/// Messages that are remembered of commits of which nobody knows whether they came about.
const MOST_UNKNOWN: usize = 65_536;
/// Commits that a stop tries for what is left, before it gives up.
const LAST_TRIES: u32 = 8;

/// What the writer works with.
pub(crate) struct Writer {
    pub(crate) journal: Arc<Journal>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) pace: Pace,
    /// How long the database may be silent.
    pub(crate) patience: Duration,
    /// What was in commits of which nobody knows whether they came about.
    pub(crate) unknown: Unknown,
}

/// Messages whose senders heard that they are not recorded, and which may be.
#[derive(Default)]
pub(crate) struct Unknown(Mutex<Vec<Arc<Envelope>>>);

impl Unknown {
    /// With more than [`MOST_UNKNOWN`] there, those that are may be found after a restart only.
    fn add<'a>(&self, sent: impl Iterator<Item = &'a Sent>) {
        let mut unknown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST_UNKNOWN.saturating_sub(unknown.len());
        unknown.extend(sent.take(room).map(|sent| Arc::clone(&sent.envelope)));
    }

    fn take(&self) -> Vec<Arc<Envelope>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A message that is to be recorded, and who waits for it.
type Send = (Message, oneshot::Sender<Recorded>);

/// The same, with its place in the order.
struct Sent {
    envelope: Arc<Envelope>,
    reply: oneshot::Sender<Recorded>,
}

/// A batch in the making.
#[derive(Default)]
struct Work {
    batch: Batch,
    sent: Vec<Sent>,
    /// What is not a send: it is written again where the commit fails.
    kept: Vec<Entry>,
    /// Where in `batch.updates` a message is.
    places: HashMap<i64, usize>,
}

/// What a commit has not written, and why.
struct Unwritten {
    error: sqlx::Error,
    /// Sends first; each kind in its order.
    entries: Vec<Entry>,
}

impl Writer {
    /// Until the drain; then once more for all that waits.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), sqlx::Error> {
        loop {
            // Both arms are cancel-safe.
            let mut entries = tokio::select! {
                entries = self.journal.take() => entries,
                () = shutdown.draining() => break,
            };
            self.pace.gather(entries.len(), 1).await;
            entries.append(&mut self.journal.take_now());
            self.pace.begin(entries.len());
            if self.write(entries).await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let mut tries = 0;
        while !self.journal.close() {
            match self.write(self.journal.take_now()).await {
                Ok(()) => {}
                Err(error) if tries >= LAST_TRIES => return Err(error),
                Err(_) => {
                    tries += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        Ok(())
    }

    /// Writes all that can be written. Where the database fails, what is left waits again, or its senders hear so.
    async fn write(&self, entries: Vec<Entry>) -> Result<(), sqlx::Error> {
        let mut parts = vec![entries];
        while let Some(part) = parts.pop() {
            let Err(Unwritten { error, mut entries }) = self.write_part(part).await else { continue };
            if !::store::is_refused(&error) {
                let left: Vec<_> = entries.into_iter().chain(parts.into_iter().rev().flatten()).collect();
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    entries = left.len(),
                    "cannot record messages"
                );
                self.failed(left);
                return Err(error);
            }
            if entries.len() > 1 {
                let second = entries.split_off(entries.len() / 2);
                parts.extend([second, entries]);
            } else if let Some(culprit) = entries.pop() {
                self.refused(culprit, error);
            }
        }
        Ok(())
    }

    async fn write_part(&self, entries: Vec<Entry>) -> Result<(), Unwritten> {
        let (count, begun) = (entries.len(), Instant::now());
        let mut work = Work::default();
        let mut sends = Vec::new();
        for entry in entries {
            match entry {
                Entry::Send { message, reply } => sends.push((message, reply)),
                Entry::Change(change) => {
                    work.change(&change, self.is_final(&change));
                    work.kept.push(Entry::Change(change));
                }
                Entry::DeadTask { task, letter } => {
                    work.batch.letters.push(letter.clone());
                    work.kept.push(Entry::DeadTask { task, letter });
                }
            }
        }
        crash_point("communication.commit.before");
        match self.commit(&mut work, &mut sends).await {
            Ok(inserted) => {
                crash_point("communication.commit.after");
                ::metrics::histogram!(metrics::COMMIT_ENTRIES).record(count as f64);
                ::metrics::histogram!(metrics::COMMIT_SECONDS).record(begun.elapsed().as_secs_f64());
                self.committed(work, &inserted).await;
                self.look_for_unknown().await;
                Ok(())
            }
            Err(error) => {
                if !::store::is_refused(&error) {
                    self.unknown.add(work.sent.iter());
                }
                let sent = work.sent.into_iter().map(|Sent { envelope, reply }| (envelope.message.clone(), reply));
                let sends = sent.chain(sends).map(|(message, reply)| Entry::Send { message, reply });
                Err(Unwritten { error, entries: sends.chain(work.kept).collect() })
            }
        }
    }

    /// Is it over with that, whatever others have recorded? What an agent has dealt with is. A death is where nobody else can
    /// have the message: of one that came to others meanwhile, since the connection over which it came here is lost, these
    /// know more. Hand-overs are never final: what is said late of them, over a lost connection, must take back nothing.
    fn is_final(&self, change: &Change) -> bool {
        let is_gone = |letter: &DeadLetter| letter.reason == Reason::AgentDeleted.as_str();
        match change.status {
            Status::Acked => true,
            Status::Dead => change.letter.as_ref().is_some_and(is_gone) || self.transport.has_alone(&change.envelope),
            Status::Accepted | Status::Queued | Status::Delivered => false,
        }
    }

    /// Gives the messages their sequences, and writes all.
    async fn commit(&self, work: &mut Work, sends: &mut Vec<Send>) -> Result<HashSet<i64>, sqlx::Error> {
        if !sends.is_empty() {
            let sequences = in_time(self.patience, self.store.next_sequences(sends.len())).await?;
            crash_point("communication.sequences.taken");
            for (sequence, (message, reply)) in sequences.into_iter().zip(sends.drain(..)) {
                let envelope = Arc::new(Envelope { sequence, message });
                work.batch.inserts.push(Arc::clone(&envelope));
                work.sent.push(Sent { envelope, reply });
            }
        }
        let written = async {
            let store = &self.store;
            in_time(self.patience, store.write(&work.batch)).await
        };
        written.instrument(spans::commit(&work.batch.inserts)).await
    }

    async fn committed(&self, work: Work, inserted: &HashSet<i64>) {
        for letter in &work.batch.letters {
            let labels = [("kind", letter.kind.as_str().to_owned()), ("reason", letter.reason.clone())];
            ::metrics::counter!(metrics::DEAD_LETTERS, &labels).increment(1);
        }
        for entry in &work.kept {
            match entry {
                Entry::Change(Change { envelope, status: Status::Acked | Status::Dead, letter, .. }) => {
                    // The broker hears of the end only now.
                    crash_point("communication.end.recorded");
                    if work.is_final(envelope) {
                        let letter = letter.as_ref().filter(|letter| work.is_letter_of(envelope, letter));
                        self.transport.recorded(envelope, letter);
                    } else {
                        self.transport.doubted(envelope);
                    }
                }
                Entry::DeadTask { task, letter } => self.died(task, letter),
                Entry::Change(_) | Entry::Send { .. } => {}
            }
        }
        ::metrics::counter!(metrics::MESSAGES_ACCEPTED).increment(inserted.len() as u64);
        for sent in work.sent {
            if inserted.contains(&sent.envelope.sequence) {
                // A sender that does not wait any more has its message recorded all the same.
                let _ = sent.reply.send(Ok(Status::Accepted));
                crash_point("communication.publish.before");
                self.transport.publish(sent.envelope);
                crash_point("communication.publish.after");
            } else {
                self.repeated(sent).await;
            }
        }
    }

    /// After a commit, which SQLite makes in turn: what earlier ones have recorded all the same goes to its mailbox, or nobody would
    /// see it before a restart.
    async fn look_for_unknown(&self) {
        let unknown = self.unknown.take();
        if unknown.is_empty() {
            return;
        }
        let sequences: Vec<_> = unknown.iter().map(|envelope| envelope.sequence).collect();
        match in_time(self.patience, self.store.by_sequence(&sequences)).await {
            Ok(found) => {
                for (envelope, count, _) in found.into_iter().filter(|(.., status)| *status == Status::Accepted) {
                    self.transport.readmit(Arc::new(envelope), count);
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for what may be recorded");
                let mut kept = self.unknown.0.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(unknown);
            }
        }
    }

    /// A message whose id was recorded before: the sender hears how that one is.
    async fn repeated(&self, sent: Sent) {
        let message = &sent.envelope.message;
        self.transport.release(&message.mailbox(), message.payload.len());
        let id = message.id.to_string();
        let found = in_time(self.patience, self.store.message(&message.namespace, &id)).await;
        let status = match found {
            Ok(Some(record)) => Ok(record.status),
            // Retention took it in between: it was dealt with.
            Ok(None) => Ok(Status::Acked),
            Err(error) => Err(CommunicationError::Database(error)),
        };
        // Nobody has to listen.
        let _ = sent.reply.send(status);
    }

    /// The database does not answer now.
    fn failed(&self, entries: Vec<Entry>) {
        let mut kept = Vec::new();
        for entry in entries {
            match entry {
                Entry::Send { message, reply } => self.not_sent(&message, reply, CommunicationError::NotRecorded),
                Entry::Change(_) | Entry::DeadTask { .. } => kept.push(entry),
            }
        }
        self.journal.put_back(kept);
    }

    /// The database refuses this one. It is tried once more without what was said of it. Then a change is as if it had not been,
    /// so the message comes again after a restart; and a task is dead all the same, since somebody waits for its end.
    fn refused(&self, culprit: Entry, error: sqlx::Error) {
        let what = match &culprit {
            Entry::Send { message, .. } => message.id.to_string(),
            Entry::Change(change) => change.envelope.message.id.to_string(),
            Entry::DeadTask { task, .. } => task.id.to_string(),
        };
        tracing::error!(error = &error as &dyn std::error::Error, what, "the database refuses to record something");
        match culprit {
            Entry::Send { message, reply } => self.not_sent(&message, reply, CommunicationError::Database(error)),
            Entry::Change(_) => self.journal.put_back(culprit.plain().into_iter().collect()),
            Entry::DeadTask { task, letter } => {
                let refused = Entry::DeadTask { task: Arc::clone(&task), letter: letter.clone() };
                match refused.plain() {
                    Some(plain) => self.journal.put_back(vec![plain]),
                    None => self.died(&task, &letter),
                }
            }
        }
    }

    /// It is known that a task is dead: there is a copy of it with the message broker, and its orchestrator hears so.
    fn died(&self, task: &Arc<Task>, letter: &DeadLetter) {
        self.transport.task_died(task, letter);
        self.hub.broker().buried(&task.id);
    }

    fn not_sent(&self, message: &Message, reply: oneshot::Sender<Recorded>, error: CommunicationError) {
        self.transport.release(&message.mailbox(), message.payload.len());
        // Nobody has to listen.
        let _ = reply.send(Err(error));
    }
}

impl Work {
    /// Merges a change into the one update that its message gets.
    fn change(&mut self, change: &Change, is_final: bool) {
        let sequence = change.envelope.sequence;
        let place = *self.places.entry(sequence).or_insert_with(|| {
            self.batch.updates.push(MessageUpdate {
                sequence,
                created_at: change.envelope.message.created_at,
                status: change.status,
                deliveries: change.deliveries,
                is_final: false,
                delivered_at: None,
                acked_at: None,
                letter: change.letter.as_ref().map(|letter| letter.id),
                history: Vec::new(),
            });
            self.batch.updates.len() - 1
        });
        let update = &mut self.batch.updates[place];
        // What is over stays so, unless that was in doubt, and others know more.
        let is_over = matches!(update.status, Status::Acked | Status::Dead)
            && (update.is_final || !is_final && change.deliveries <= update.deliveries);
        // The broker may say late that it has a message, which was handed over since.
        let is_late = change.status == Status::Queued && change.deliveries < update.deliveries;
        if !is_over && !is_late {
            update.status = change.status;
            update.deliveries = change.deliveries;
            update.letter = change.letter.as_ref().map(|letter| letter.id);
        }
        update.is_final |= is_final;
        match change.status {
            Status::Delivered => update.delivered_at = update.delivered_at.or(Some(change.at)),
            Status::Acked if !is_over => update.acked_at = Some(change.at),
            Status::Accepted | Status::Queued | Status::Acked | Status::Dead => {}
        }
        update.history.push(HistoryEvent { status: change.status, at: change.at, detail: change.detail.clone() });
        self.batch.letters.extend(change.letter.clone());
    }

    /// Has a message died, with this letter, as far as this batch knows?
    fn is_letter_of(&self, envelope: &Envelope, letter: &DeadLetter) -> bool {
        self.places.get(&envelope.sequence).is_some_and(|place| self.batch.updates[*place].letter == Some(letter.id))
    }

    /// Was a message to end whatever others have recorded of it?
    fn is_final(&self, envelope: &Envelope) -> bool {
        self.places.get(&envelope.sequence).is_some_and(|place| self.batch.updates[*place].is_final)
    }
}
