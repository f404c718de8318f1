//! Messages and dead letters in SQLite.
//!
//! A transaction takes as few statements as its rows allow: rows go in statements of 2^n rows each, so a commit of any size
//! takes a handful of statements that are all prepared already.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use domain::{DeadLetterId, Namespace, Timestamp};
use prost::Message as _;
use sqlx::{AssertSqlSafe, QueryBuilder, Row as _, Sqlite as Driver, SqliteConnection};
use store::Sqlite;

use super::{DeadLetterFilter, MessageFilter, Store, rows};
use crate::app::record::{DeadLetter, Letter, MessageRow, Record, Status, Transition};

/// Rows of the largest statement; SQLite takes 32,766 parameters, a dead letter has 10.
const LARGEST: usize = 512;
const MESSAGE: &str = "SELECT sequence, id, namespace, agent_id, status, deliveries, body, expires_at, created_at, \
                       delivered_at, acked_at FROM messages";
const DEAD_LETTER: &str = "SELECT id, namespace, kind, subject_id, target, reason, detail, deliveries, payload, \
                           created_at, replayed_at FROM dead_letters";

/// A SQLite file.
pub(crate) struct SqliteStore(Sqlite);

impl SqliteStore {
    pub(crate) const fn new(sqlite: Sqlite) -> Self {
        Self(sqlite)
    }
}

/// `(?,?,…),(?,?,…)`
fn places(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    vec![row; rows].join(",")
}

/// Cuts into pieces of 2^n rows.
fn pieces<T>(mut rest: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = if rest.len() >= LARGEST { LARGEST } else { 1 << rest.len().checked_ilog2()? };
        let (now, later) = rest.split_at(size);
        rest = later;
        Some(now)
    })
}

async fn insert_letters(connection: &mut SqliteConnection, letters: &[&Letter]) -> sqlx::Result<HashSet<String>> {
    let mut new = HashSet::with_capacity(letters.len());
    for now in pieces(letters) {
        let text = format!(
            "INSERT INTO messages (id, namespace, agent_id, status, correlation_id, body, expires_at, created_at) \
             VALUES {} ON CONFLICT (id) DO NOTHING RETURNING id",
            places(now.len(), 8)
        );
        // Only the number of placeholders varies; the same below.
        let mut query = sqlx::query(AssertSqlSafe(text));
        for letter in now {
            query = query
                .bind(letter.id.to_string())
                .bind(letter.message.namespace.as_str())
                .bind(letter.agent_id.to_string())
                .bind(Status::Accepted.as_str())
                .bind(letter.message.correlation_id.as_str())
                .bind(letter.message.encode_to_vec())
                .bind(letter.expires_at.map(Timestamp::as_micros))
                .bind(letter.created_at.as_micros());
        }
        for row in query.fetch_all(&mut *connection).await? {
            new.insert(row.try_get("id")?);
        }
    }
    Ok(new)
}

async fn insert_history(connection: &mut SqliteConnection, entries: &[&Transition]) -> sqlx::Result<()> {
    for now in pieces(entries) {
        // A message that the retention has removed has no history any more.
        let text = format!(
            "INSERT INTO message_history (message_id, status, at, detail) SELECT column1, column2, column3, column4 \
             FROM (VALUES {}) WHERE column1 IN (SELECT id FROM messages)",
            places(now.len(), 4)
        );
        let mut query = sqlx::query(AssertSqlSafe(text));
        for entry in now {
            query = query
                .bind(entry.message_id.to_string())
                .bind(entry.status.as_str())
                .bind(entry.at.as_micros())
                .bind(entry.detail.as_str());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// What a batch of transitions makes of one message.
#[derive(Default)]
struct Latest {
    status: &'static str,
    deliveries: u32,
    delivered_at: Option<i64>,
    acked_at: Option<i64>,
}

async fn update_messages(connection: &mut SqliteConnection, entries: &[&Transition]) -> sqlx::Result<()> {
    let mut latest: HashMap<&str, Latest> = HashMap::with_capacity(entries.len());
    for entry in entries {
        let row = latest.entry(&entry.message_id).or_default();
        row.status = entry.status.as_str();
        row.deliveries = entry.deliveries;
        match entry.status {
            Status::Delivered => _ = row.delivered_at.get_or_insert(entry.at.as_micros()),
            Status::Acked => row.acked_at = Some(entry.at.as_micros()),
            Status::Accepted | Status::Queued | Status::Dead => {}
        }
    }
    let latest: Vec<_> = latest.into_iter().collect();
    for now in pieces(&latest) {
        let text = format!(
            "WITH moved (id, status, deliveries, delivered_at, acked_at) AS (VALUES {}) \
             UPDATE messages SET status = moved.status, deliveries = moved.deliveries, \
             delivered_at = coalesce(messages.delivered_at, moved.delivered_at), acked_at = moved.acked_at \
             FROM moved WHERE messages.id = moved.id",
            places(now.len(), 5)
        );
        let mut query = sqlx::query(AssertSqlSafe(text));
        for (id, row) in now {
            query = query.bind(*id).bind(row.status).bind(row.deliveries).bind(row.delivered_at).bind(row.acked_at);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn insert_dead(connection: &mut SqliteConnection, dead: &[&DeadLetter]) -> sqlx::Result<()> {
    for now in pieces(dead) {
        let text = format!(
            "INSERT INTO dead_letters (id, namespace, kind, subject_id, target, reason, detail, deliveries, payload, \
             created_at) VALUES {} ON CONFLICT (id) DO NOTHING",
            places(now.len(), 10)
        );
        let mut query = sqlx::query(AssertSqlSafe(text));
        for letter in now {
            query = query
                .bind(letter.id.to_string())
                .bind(letter.namespace.as_str())
                .bind(letter.kind.as_str())
                .bind(letter.subject_id.as_str())
                .bind(letter.target.as_str())
                .bind(letter.reason.as_str())
                .bind(letter.detail.as_str())
                .bind(letter.deliveries)
                .bind(letter.payload.as_ref())
                .bind(letter.created_at.as_micros());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

#[async_trait]
impl Store for SqliteStore {
    async fn write(&self, letters: &[&Letter], records: &[Record]) -> sqlx::Result<Vec<bool>> {
        let mut transaction = self.0.writer.begin().await?;
        let mut new = insert_letters(&mut transaction, letters).await?;
        // Of two messages with one id in a batch the first counts.
        let is_new: Vec<bool> = letters.iter().map(|letter| new.remove(&*letter.id)).collect();
        let accepted: Vec<Transition> =
            letters.iter().zip(&is_new).filter(|(_, new)| **new).map(|(letter, _)| accepted(letter)).collect();
        let moved = records.iter().filter_map(|record| match record {
            Record::Moved(transition) => Some(transition),
            Record::Died(..) => None,
        });
        let moved: Vec<&Transition> = moved.collect();
        let history: Vec<&Transition> = accepted.iter().chain(moved.iter().copied()).collect();
        insert_history(&mut transaction, &history).await?;
        update_messages(&mut transaction, &moved).await?;
        let dead = records.iter().filter_map(|record| match record {
            Record::Died(letter, _) => Some(&**letter),
            Record::Moved(_) => None,
        });
        insert_dead(&mut transaction, &dead.collect::<Vec<_>>()).await?;
        transaction.commit().await?;
        Ok(is_new)
    }

    async fn pending(&self, after: i64, limit: i64) -> sqlx::Result<Vec<(i64, Letter, u32)>> {
        let text = format!(
            "{MESSAGE} WHERE status IN ('accepted', 'queued', 'delivered') AND sequence > ? ORDER BY sequence LIMIT ?"
        );
        let rows = sqlx::query(AssertSqlSafe(text)).bind(after).bind(limit).fetch_all(&self.0.reader).await?;
        rows.iter().map(rows::letter).collect()
    }

    async fn message(&self, id: &str) -> sqlx::Result<Option<MessageRow>> {
        let text = format!("{MESSAGE} WHERE id = ?");
        let row = sqlx::query(AssertSqlSafe(text)).bind(id).fetch_optional(&self.0.reader).await?;
        row.as_ref().map(rows::message).transpose()
    }

    async fn history(&self, id: &str) -> sqlx::Result<Vec<Transition>> {
        let text = "SELECT message_id, status, at, detail FROM message_history WHERE message_id = ? ORDER BY sequence";
        let rows = sqlx::query(text).bind(id).fetch_all(&self.0.reader).await?;
        rows.iter().map(rows::transition).collect()
    }

    async fn messages(&self, filter: &MessageFilter) -> sqlx::Result<Vec<MessageRow>> {
        let mut query: QueryBuilder<Driver> = QueryBuilder::new(MESSAGE);
        query.push(" WHERE namespace = ").push_bind(filter.namespace.as_str());
        if let Some(agent_id) = &filter.agent_id {
            query.push(" AND agent_id = ").push_bind(agent_id.as_str());
        }
        if let Some(status) = filter.status {
            query.push(" AND status = ").push_bind(status.as_str());
        }
        if let Some(correlation_id) = &filter.correlation_id {
            // The second condition lets SQLite use the partial index.
            query.push(" AND correlation_id <> '' AND correlation_id = ").push_bind(correlation_id.as_str());
        }
        if let Some(before) = filter.before {
            query.push(" AND sequence < ").push_bind(before);
        }
        query.push(" ORDER BY sequence DESC LIMIT ").push_bind(filter.limit);
        let rows = query.build().fetch_all(&self.0.reader).await?;
        rows.iter().map(rows::message).collect()
    }

    async fn dead_letter(&self, namespace: &Namespace, id: DeadLetterId) -> sqlx::Result<Option<DeadLetter>> {
        let text = format!("{DEAD_LETTER} WHERE namespace = ? AND id = ?");
        let query = sqlx::query(AssertSqlSafe(text)).bind(namespace.as_str()).bind(id.to_string());
        query.fetch_optional(&self.0.reader).await?.as_ref().map(rows::dead_letter).transpose()
    }

    async fn dead_letters(&self, filter: &DeadLetterFilter) -> sqlx::Result<Vec<DeadLetter>> {
        let mut query: QueryBuilder<Driver> = QueryBuilder::new(DEAD_LETTER);
        query.push(" WHERE namespace = ").push_bind(filter.namespace.as_str());
        if let Some(kind) = filter.kind {
            query.push(" AND kind = ").push_bind(kind.as_str());
        }
        if let Some(reason) = &filter.reason {
            query.push(" AND reason = ").push_bind(reason.as_str());
        }
        if !filter.include_replayed {
            query.push(" AND replayed_at IS NULL");
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before.to_string());
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(filter.limit);
        let rows = query.build().fetch_all(&self.0.reader).await?;
        rows.iter().map(rows::dead_letter).collect()
    }

    async fn replay(&self, letter: &DeadLetter, at: Timestamp) -> sqlx::Result<Option<Letter>> {
        let mut transaction = self.0.writer.begin().await?;
        let text = "UPDATE dead_letters SET replayed_at = ? WHERE id = ? AND replayed_at IS NULL";
        let marked = sqlx::query(text).bind(at.as_micros()).bind(letter.id.to_string());
        if marked.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(None);
        }
        let text = "UPDATE messages SET status = 'accepted', deliveries = 0, delivered_at = NULL, expires_at = NULL, \
                    sequence = (SELECT max(sequence) + 1 FROM messages) WHERE id = ? AND status = 'dead' \
                    RETURNING sequence, id, agent_id, deliveries, body, expires_at, created_at";
        let row = sqlx::query(text).bind(letter.subject_id.as_str()).fetch_optional(&mut *transaction).await?;
        let replayed = row.as_ref().map(rows::letter).transpose()?.map(|(_, letter, _)| letter);
        if let Some(replayed) = &replayed {
            let detail = format!("replayed from {}", letter.id);
            let entry = Transition { at, detail, ..accepted(replayed) };
            insert_history(&mut transaction, &[&entry]).await?;
        }
        transaction.commit().await?;
        Ok(replayed)
    }

    async fn purge(&self, namespace: &Namespace, id: DeadLetterId) -> sqlx::Result<bool> {
        let query = sqlx::query("DELETE FROM dead_letters WHERE namespace = ? AND id = ?");
        let purged = query.bind(namespace.as_str()).bind(id.to_string()).execute(&self.0.writer).await?;
        Ok(purged.rows_affected() > 0)
    }

    async fn sweep(&self, before: Timestamp, limit: i64) -> sqlx::Result<u64> {
        let text = "DELETE FROM messages WHERE sequence IN \
                    (SELECT sequence FROM messages WHERE status = 'acked' AND acked_at < ? LIMIT ?)";
        let swept = sqlx::query(text).bind(before.as_micros()).bind(limit).execute(&self.0.writer).await?;
        let text = "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE replayed_at < ? LIMIT ?)";
        let dead = sqlx::query(text).bind(before.as_micros()).bind(limit).execute(&self.0.writer).await?;
        Ok(swept.rows_affected().max(dead.rows_affected()))
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

fn accepted(letter: &Letter) -> Transition {
    Transition {
        message_id: letter.id.clone(),
        status: Status::Accepted,
        deliveries: 0,
        at: letter.created_at,
        detail: String::new(),
    }
}
