//! Where messages and dead letters are kept.

mod rows;
mod sqlite;

use async_trait::async_trait;
use domain::{DeadLetterId, Namespace, Timestamp};

pub(crate) use self::sqlite::SqliteStore;
use crate::app::record::{DeadLetter, Kind, Letter, MessageRow, Record, Status, Transition};

/// Which messages to list.
#[derive(Clone, Debug)]
pub(crate) struct MessageFilter {
    pub(crate) namespace: Namespace,
    pub(crate) agent_id: Option<String>,
    pub(crate) status: Option<Status>,
    pub(crate) correlation_id: Option<String>,
    /// Only those before this sequence number.
    pub(crate) before: Option<i64>,
    pub(crate) limit: i64,
}

/// Which dead letters to list.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetterFilter {
    pub(crate) namespace: Namespace,
    pub(crate) kind: Option<Kind>,
    pub(crate) reason: Option<String>,
    pub(crate) include_replayed: bool,
    /// Only those older than this one.
    pub(crate) before: Option<DeadLetterId>,
    pub(crate) limit: i64,
}

/// Durable storage. Every query is fenced by namespace.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// Records messages and what became of others in one transaction. A message whose id is there already is left alone;
    /// answers for each message whether it is new.
    async fn write(&self, letters: &[&Letter], records: &[Record]) -> sqlx::Result<Vec<bool>>;

    /// Messages that are not dealt with, in the order in which they were accepted, after this sequence number; with the
    /// number of each and its deliveries.
    async fn pending(&self, after: i64, limit: i64) -> sqlx::Result<Vec<(i64, Letter, u32)>>;

    /// A message, in whatever namespace.
    async fn message(&self, id: &str) -> sqlx::Result<Option<MessageRow>>;

    /// What became of a message, oldest first.
    async fn history(&self, id: &str) -> sqlx::Result<Vec<Transition>>;

    /// Newest first.
    async fn messages(&self, filter: &MessageFilter) -> sqlx::Result<Vec<MessageRow>>;

    /// A dead letter.
    async fn dead_letter(&self, namespace: &Namespace, id: DeadLetterId) -> sqlx::Result<Option<DeadLetter>>;

    /// Newest first.
    async fn dead_letters(&self, filter: &DeadLetterFilter) -> sqlx::Result<Vec<DeadLetter>>;

    /// Marks a dead message as replayed and queues it again, last in its mailbox, without an expiry: the message, or none
    /// where that has happened before.
    async fn replay(&self, letter: &DeadLetter, at: Timestamp) -> sqlx::Result<Option<Letter>>;

    /// Removes a dead letter; false where there was none.
    async fn purge(&self, namespace: &Namespace, id: DeadLetterId) -> sqlx::Result<bool>;

    /// Removes some messages that were acknowledged, and dead letters that were replayed, before this time: how many.
    async fn sweep(&self, before: Timestamp, limit: i64) -> sqlx::Result<u64>;

    /// Closes the database after its last statement.
    async fn close(&self);
}
