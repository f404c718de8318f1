//! Where messages and dead letters are recorded.

#[cfg(test)]
pub(crate) mod gated;
mod postgres;
mod rows;
mod sqlite;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, future::Future, io, sync::Arc, time::Duration};

use ::store::{Database, Migrations, OpenError, Page};
use async_trait::async_trait;
use domain::{AgentId, DeadLetterId, Namespace, Timestamp};
use sqlx::migrate::Migrator;
use tokio::time::timeout;

use self::{postgres::PostgresStore, sqlite::SqliteStore};
use crate::app::{DeadLetter, Envelope, Kind, Mailbox, Message, Status};

static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite/communication");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres/communication");
/// What `troupe migrate` applies.
pub static MIGRATIONS: Migrations = Migrations { service: "communication", sqlite: &SQLITE, postgres: &POSTGRES };

/// Opens the database that the settings name.
pub(crate) async fn open(settings: &settings::Database) -> Result<Arc<dyn Store>, OpenError> {
    Ok(match Database::open(settings, &MIGRATIONS).await? {
        Database::Sqlite(sqlite) => {
            let place = settings.path.display().to_string();
            let store = SqliteStore::new(sqlite).await;
            Arc::new(store.map_err(|source| OpenError::Connect { place, source })?)
        }
        Database::Postgres(postgres) => {
            let place = "its PostgreSQL database".to_owned();
            let store = PostgresStore::new(postgres).await;
            Arc::new(store.map_err(|source| OpenError::Connect { place, source })?)
        }
    })
}

/// What a database answers, unless it is silent for too long: PostgreSQL bounds its statements itself, but nothing comes of
/// that over a connection that has lost the other end. Whether something was written is not known then.
pub(crate) async fn in_time<T>(
    patience: Duration,
    answer: impl Future<Output = sqlx::Result<T>> + Send,
) -> sqlx::Result<T> {
    timeout(patience, answer).await.unwrap_or_else(|_| {
        let silent = format!("the database did not answer within {patience:?}");
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, silent)))
    })
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Messages to record; one whose id is taken in its namespace is left out.
    pub(crate) inserts: Vec<Arc<Envelope>>,
    /// At most one per message.
    pub(crate) updates: Vec<MessageUpdate>,
    pub(crate) letters: Vec<DeadLetter>,
}

/// What became of a message since the last commit.
#[derive(Debug, PartialEq)]
pub(crate) struct MessageUpdate {
    pub(crate) sequence: i64,
    /// When the message was accepted: where its row is.
    pub(crate) created_at: Timestamp,
    pub(crate) status: Status,
    pub(crate) deliveries: u32,
    /// It ends whatever hand-overs others have recorded meanwhile: its agent has dealt with it, nobody else can have it, or there
    /// is no agent any more.
    pub(crate) is_final: bool,
    /// When it was last handed over, if it was.
    pub(crate) delivered_at: Option<Timestamp>,
    pub(crate) acked_at: Option<Timestamp>,
    /// The dead letter of its death: where that is recorded already, this was written before, and it may live again.
    pub(crate) letter: Option<DeadLetterId>,
    /// Lines to append.
    pub(crate) history: Vec<HistoryEvent>,
}

/// One entry of a message's history.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HistoryEvent {
    pub(crate) status: Status,
    pub(crate) at: Timestamp,
    pub(crate) detail: String,
}

/// A message with what became of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) sequence: i64,
    pub(crate) message: Message,
    pub(crate) status: Status,
    pub(crate) deliveries: u32,
    pub(crate) delivered_at: Option<Timestamp>,
    pub(crate) acked_at: Option<Timestamp>,
    /// Oldest first.
    pub(crate) history: Vec<HistoryEvent>,
}

/// Which messages; absent means any.
#[derive(Clone, Debug, Default)]
pub(crate) struct MessageFilter {
    pub(crate) namespace: Namespace,
    pub(crate) agent: Option<AgentId>,
    pub(crate) status: Option<Status>,
    pub(crate) correlation_id: Option<String>,
    /// Only those accepted before.
    pub(crate) before: Option<i64>,
}

/// Which dead letters; absent means any.
#[derive(Clone, Debug, Default)]
pub(crate) struct LetterFilter {
    pub(crate) namespace: Namespace,
    pub(crate) kind: Option<Kind>,
    pub(crate) reason: Option<String>,
    pub(crate) target: Option<String>,
    /// Only these; where there are none, any.
    pub(crate) ids: Vec<DeadLetterId>,
    pub(crate) include_replayed: bool,
}

/// Some of the letters that a filter names, by their ids, neither end included.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Span {
    /// Newest first, those before this one.
    NewestBefore(Option<DeadLetterId>),
    /// Oldest first, those after the first and not after the second.
    OldestWithin(Option<DeadLetterId>, DeadLetterId),
}

/// A database of messages and dead letters.
#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Writes a batch in one transaction; answers with the sequences of the messages that were inserted.
    async fn write(&self, batch: &Batch) -> sqlx::Result<HashSet<i64>>;
    /// That many sequences, ascending: higher than all that were given before, by whomever.
    async fn next_sequences(&self, count: usize) -> sqlx::Result<Vec<i64>>;
    /// What is neither acked nor dead, in the order of acceptance, after a sequence, with the number of deliveries.
    async fn unfinished(&self, after: i64, limit: usize) -> sqlx::Result<Page<(Envelope, u32, Status)>>;
    /// The same of one agent, and of its instances, at most `limit`.
    async fn unfinished_of(&self, mailbox: &Mailbox, limit: usize) -> sqlx::Result<Vec<(Envelope, u32, Status)>>;
    /// What was accepted or replayed before a time, and is not yet known to be with the broker, in the order of acceptance,
    /// after a sequence; and when it was last replayed, where it had died.
    async fn unrelayed(
        &self,
        before: Timestamp,
        after: i64,
        limit: usize,
    ) -> sqlx::Result<Page<(Envelope, Option<Timestamp>)>>;
    /// What expired before a time and is in nobody's hands, with the number of deliveries, at most `limit`.
    async fn expired(&self, before: Timestamp, limit: usize) -> sqlx::Result<Vec<(Envelope, u32)>>;
    /// What expired before a time and was handed over, but of whose holder nothing was heard since another, with the number of
    /// deliveries, at most `limit`.
    async fn unheard(&self, before: Timestamp, since: Timestamp, limit: usize) -> sqlx::Result<Vec<(Envelope, u32)>>;
    /// Somebody still holds these.
    async fn hold(&self, sequences: &[i64], now: Timestamp) -> sqlx::Result<()>;
    /// The messages of these sequences that there are, in no order.
    async fn by_sequence(&self, sequences: &[i64]) -> sqlx::Result<Vec<(Envelope, u32, Status)>>;
    /// One message with its history.
    async fn message(&self, namespace: &Namespace, id: &str) -> sqlx::Result<Option<Record>>;
    /// Messages without histories, newest first.
    async fn messages(&self, filter: &MessageFilter, limit: usize) -> sqlx::Result<Page<Record>>;
    /// One dead letter.
    async fn letter(&self, namespace: &Namespace, id: &str) -> sqlx::Result<Option<DeadLetter>>;
    /// Dead letters.
    async fn letters(&self, filter: &LetterFilter, span: Span, limit: usize) -> sqlx::Result<Page<DeadLetter>>;
    /// Marks dead letters of messages as replayed and their messages as accepted; answers with those of which both was so, in the
    /// order of acceptance. Nothing of the others changes: they were replayed before, or their messages are not dead.
    async fn replay(
        &self,
        namespace: &Namespace,
        ids: &[DeadLetterId],
        now: Timestamp,
    ) -> sqlx::Result<Vec<(DeadLetterId, Envelope)>>;
    /// Marks a task's dead letter as replayed, where that has not been done before.
    async fn mark_replayed(&self, namespace: &Namespace, id: &str, now: Timestamp) -> sqlx::Result<()>;
    /// Removes dead letters; their messages are left to retention. Answers with how many there were.
    async fn purge(&self, namespace: &Namespace, ids: &[DeadLetterId], now: Timestamp) -> sqlx::Result<u64>;
    /// Removes at most `limit` messages that ended, and dead letters made, before their times; answers with how many rows.
    async fn clean(&self, messages: Timestamp, letters: Timestamp, limit: i64) -> sqlx::Result<u64>;
    /// Does it answer?
    async fn ping(&self) -> sqlx::Result<()>;
    /// Closes after the last statement.
    async fn close(&self);
}
