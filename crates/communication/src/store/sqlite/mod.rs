//! Messages and dead letters in SQLite. One statement per table and commit: multi-row inserts and updates, in chunks that
//! stay below SQLite's bound on variables.

mod rows;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use domain::{DeadLetterId, Namespace, Timestamp};
use futures::StreamExt as _;
use sqlx::{AssertSqlSafe, QueryBuilder, SqliteConnection};
use store::{Page, Sqlite};
use tracing::Instrument as _;

use super::{
    Batch, LetterFilter, MessageFilter, MessageUpdate, Record, Span, Store,
    rows::{history_lines, parsed, replayed, task_text},
};
use crate::app::{DeadLetter, Envelope, Mailbox, Status};

/// Rows of one statement: with 13 columns far below the 32,766 variables that a statement may have.
const CHUNK: usize = 500;

/// A SQLite file, for one process.
pub(super) struct SqliteStore {
    database: Sqlite,
    /// The highest sequence that was given.
    sequence: AtomicI64,
}

impl SqliteStore {
    /// Reads how far sequences have come.
    pub(super) async fn new(database: Sqlite) -> sqlx::Result<Self> {
        let sequence =
            sqlx::query_scalar("SELECT COALESCE(MAX(sequence), 0) FROM messages").fetch_one(&database.reader).await?;
        Ok(Self { database, sequence: AtomicI64::new(sequence) })
    }
}

/// Ids as a JSON list.
fn list(ids: &[DeadLetterId]) -> String {
    serde_json::to_string(ids).unwrap_or_default()
}

fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_micros)
}

async fn insert(connection: &mut SqliteConnection, envelopes: &[Arc<Envelope>]) -> sqlx::Result<HashSet<i64>> {
    let mut inserted = HashSet::with_capacity(envelopes.len());
    for chunk in envelopes.chunks(CHUNK) {
        let mut query = QueryBuilder::new(
            "INSERT INTO messages (sequence, namespace, id, agent_id, sender, kind, payload, correlation_id, reply_to, \
             priority, traceparent, created_at, expires_at, status) ",
        );
        query.push_values(chunk, |mut row, envelope| {
            let message = &envelope.message;
            row.push_bind(envelope.sequence)
                .push_bind(message.namespace.as_str())
                .push_bind(message.id.to_string())
                .push_bind(message.agent.to_string())
                .push_bind(message.sender.map(|id| id.to_string()).unwrap_or_default())
                .push_bind(message.kind.as_str())
                .push_bind(message.payload.as_ref())
                .push_bind(message.correlation_id.as_str())
                .push_bind(message.reply_to.map(|id| id.to_string()).unwrap_or_default())
                .push_bind(message.priority)
                .push_bind(message.traceparent.as_str())
                .push_bind(message.created_at.as_micros())
                .push_bind(micros(message.expires_at))
                .push("'accepted'");
        });
        query.push(" ON CONFLICT (namespace, id) DO NOTHING RETURNING sequence");
        let sequences: Vec<i64> = query.build_query_scalar().persistent(false).fetch_all(&mut *connection).await?;
        inserted.extend(sequences);
    }
    Ok(inserted)
}

async fn update(connection: &mut SqliteConnection, updates: &[MessageUpdate]) -> sqlx::Result<()> {
    for chunk in updates.chunks(CHUNK) {
        let mut query = QueryBuilder::new(
            "WITH changes (sequence, status, deliveries, delivered_at, acked_at, history, is_final, letter) AS (",
        );
        query.push_values(chunk, |mut row, update| {
            row.push_bind(update.sequence)
                .push_bind(update.status.as_str())
                .push_bind(update.deliveries)
                .push_bind(micros(update.delivered_at))
                .push_bind(micros(update.acked_at))
                .push_bind(history_lines(&update.history))
                .push_bind(update.is_final)
                .push_bind(update.letter.map(|id| id.to_string()));
        });
        // The first hand-over and the end are kept; history only grows. What is over stays so, whatever comes late, and what
        // was handed over again is not taken back by whoever held it before, nor published again. That the broker has it tells
        // nothing of its hand-overs. A death that was recorded before, unheard, is not recorded again: the message may have been
        // replayed.
        query.push(
            ") UPDATE messages SET status = changes.status, \
             deliveries = MAX(messages.deliveries, changes.deliveries), \
             delivered_at = COALESCE(messages.delivered_at, changes.delivered_at), \
             held_at = COALESCE(changes.delivered_at, messages.held_at), \
             acked_at = COALESCE(messages.acked_at, changes.acked_at), \
             ended_at = COALESCE(messages.ended_at, changes.acked_at), \
             history = messages.history || changes.history \
             FROM changes WHERE messages.sequence = changes.sequence AND messages.status NOT IN ('acked', 'dead') \
             AND (changes.letter IS NULL OR NOT EXISTS (SELECT 1 FROM dead_letters WHERE id = changes.letter)) \
             AND CASE WHEN changes.is_final THEN TRUE \
             WHEN changes.status = 'accepted' \
                 THEN messages.status <> 'accepted' AND messages.deliveries = changes.deliveries \
             WHEN changes.status = 'queued' AND changes.deliveries = 0 THEN messages.status = 'accepted' \
             ELSE messages.deliveries <= changes.deliveries END",
        );
        query.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn bury(connection: &mut SqliteConnection, letters: &[DeadLetter]) -> sqlx::Result<()> {
    for chunk in letters.chunks(CHUNK) {
        let mut query = QueryBuilder::new(
            "WITH letters (id, namespace, kind, subject_id, target, reason, detail, deliveries, payload, created_at, task) \
             AS (",
        );
        query.push_values(chunk, |mut row, letter| {
            row.push_bind(letter.id.to_string())
                .push_bind(letter.namespace.as_str())
                .push_bind(letter.kind.as_str())
                .push_bind(letter.subject_id.as_str())
                .push_bind(letter.target.as_str())
                .push_bind(letter.reason.as_str())
                .push_bind(letter.detail.as_str())
                .push_bind(letter.deliveries)
                .push_bind(letter.payload.as_ref())
                .push_bind(letter.created_at.as_micros())
                .push_bind(task_text(letter.task.as_ref()));
        });
        // After a commit whose outcome was lost the same comes again; and several may see a message die. One that lived on
        // elsewhere is not dead, and has no letter.
        query.push(
            ") INSERT INTO dead_letters (id, namespace, kind, subject_id, target, reason, detail, deliveries, payload, \
             created_at, task) SELECT * FROM letters WHERE kind <> 'message' OR EXISTS (SELECT 1 FROM messages \
             WHERE messages.namespace = letters.namespace AND messages.id = letters.subject_id \
             AND messages.status = 'dead') ON CONFLICT DO NOTHING",
        );
        query.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Leaves dead messages to retention whose letters are gone: nothing can replay them any more. One that was replayed and
/// died again has another letter, and stays with that.
async fn give_up(connection: &mut SqliteConnection, messages: &[(String, String)], at: Timestamp) -> sqlx::Result<()> {
    let messages = serde_json::to_string(messages).unwrap_or_default();
    let query = "UPDATE messages SET ended_at = ? WHERE status = 'dead' \
                 AND (namespace, id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?)) \
                 AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE dead_letters.subject_id = messages.id \
                 AND dead_letters.namespace = messages.namespace AND dead_letters.kind = 'message' AND replayed_at IS NULL)";
    sqlx::query(query).bind(at.as_micros()).bind(messages).execute(connection).await?;
    Ok(())
}

#[async_trait]
impl Store for SqliteStore {
    async fn write(&self, batch: &Batch) -> sqlx::Result<HashSet<i64>> {
        let written = async {
            let mut transaction = self.database.writer.begin().await?;
            let inserted = insert(&mut transaction, &batch.inserts).await?;
            update(&mut transaction, &batch.updates).await?;
            bury(&mut transaction, &batch.letters).await?;
            transaction.commit().await?;
            Ok(inserted)
        };
        written.instrument(self.database.span("INSERT", "messages")).await
    }

    async fn next_sequences(&self, count: usize) -> sqlx::Result<Vec<i64>> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let last = self.sequence.fetch_add(count, Ordering::Relaxed);
        Ok((last + 1..=last + count).collect())
    }

    async fn unfinished(&self, after: i64, limit: usize) -> sqlx::Result<Page<(Envelope, u32, Status)>> {
        let query = format!(
            "SELECT {}, status FROM messages WHERE status IN ('accepted', 'queued', 'delivered') AND sequence > ? \
             ORDER BY sequence LIMIT ?",
            rows::ENVELOPE
        );
        let found = sqlx::query(AssertSqlSafe(query)).bind(after).bind(limit as i64 + 1).fetch(&self.database.reader);
        Page::read(found.boxed(), limit, rows::found, |(envelope, ..)| envelope.message.payload.len()).await
    }

    async fn unfinished_of(&self, mailbox: &Mailbox, limit: usize) -> sqlx::Result<Vec<(Envelope, u32, Status)>> {
        let query = format!(
            "SELECT {}, status FROM messages WHERE status IN ('accepted', 'queued', 'delivered') AND namespace = ? \
             AND agent_id = ? ORDER BY sequence LIMIT ?",
            rows::ENVELOPE
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(mailbox.namespace.as_str().to_owned());
        let found = query.bind(mailbox.agent.to_string()).bind(limit as i64).fetch(&self.database.reader).boxed();
        Ok(Page::read(found, limit, rows::found, |(envelope, ..)| envelope.message.payload.len()).await?.rows)
    }

    async fn unrelayed(
        &self,
        before: Timestamp,
        after: i64,
        limit: usize,
    ) -> sqlx::Result<Page<(Envelope, Option<Timestamp>)>> {
        let query = format!(
            "SELECT {}, revived_at FROM messages WHERE status = 'accepted' \
             AND COALESCE(revived_at, created_at) < ? AND sequence > ? \
             ORDER BY sequence LIMIT ?",
            rows::ENVELOPE
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(before.as_micros()).bind(after).bind(limit as i64 + 1);
        let found = query.fetch(&self.database.reader);
        Page::read(found.boxed(), limit, rows::relayed, |(envelope, _)| envelope.message.payload.len()).await
    }

    async fn expired(&self, before: Timestamp, limit: usize) -> sqlx::Result<Vec<(Envelope, u32)>> {
        let query = format!(
            "SELECT {} FROM messages WHERE status IN ('accepted', 'queued') AND expires_at < ? LIMIT ?",
            rows::ENVELOPE
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(before.as_micros()).bind(limit as i64);
        let found = query.fetch(&self.database.reader).boxed();
        let page = Page::read(found, limit, rows::envelope, |(envelope, _)| envelope.message.payload.len());
        Ok(page.await?.rows)
    }

    async fn unheard(&self, before: Timestamp, since: Timestamp, limit: usize) -> sqlx::Result<Vec<(Envelope, u32)>> {
        let query = format!(
            "SELECT {} FROM messages WHERE status = 'delivered' AND expires_at < ? \
             AND COALESCE(held_at, delivered_at, created_at) < ? LIMIT ?",
            rows::ENVELOPE
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(before.as_micros()).bind(since.as_micros());
        let found = query.bind(limit as i64).fetch(&self.database.reader).boxed();
        let page = Page::read(found, limit, rows::envelope, |(envelope, _)| envelope.message.payload.len());
        Ok(page.await?.rows)
    }

    async fn hold(&self, sequences: &[i64], now: Timestamp) -> sqlx::Result<()> {
        const HOLD: &str = "UPDATE messages SET held_at = ? WHERE sequence IN (SELECT value FROM json_each(?)) \
                            AND status = 'delivered'";
        let sequences = serde_json::to_string(sequences).unwrap_or_default();
        let query = sqlx::query(HOLD).bind(now.as_micros()).bind(sequences);
        query.execute(&self.database.writer).await?;
        Ok(())
    }

    async fn by_sequence(&self, sequences: &[i64]) -> sqlx::Result<Vec<(Envelope, u32, Status)>> {
        let query = format!(
            "SELECT {}, status FROM messages WHERE sequence IN (SELECT value FROM json_each(?))",
            rows::ENVELOPE
        );
        let sequences = serde_json::to_string(sequences).unwrap_or_default();
        let found = sqlx::query(AssertSqlSafe(query)).bind(sequences).fetch_all(&self.database.reader).await?;
        found.iter().map(rows::found).collect()
    }

    async fn message(&self, namespace: &Namespace, id: &str) -> sqlx::Result<Option<Record>> {
        let query = format!("SELECT {}, {} FROM messages WHERE namespace = ? AND id = ?", rows::ENVELOPE, rows::RECORD);
        let query = sqlx::query(AssertSqlSafe(query)).bind(namespace.as_str().to_owned()).bind(id.to_owned());
        query.fetch_optional(&self.database.reader).await?.as_ref().map(rows::record).transpose()
    }

    async fn messages(&self, filter: &MessageFilter, limit: usize) -> sqlx::Result<Page<Record>> {
        let mut query = QueryBuilder::new(format!(
            "SELECT {}, status, delivered_at, acked_at, '' AS history FROM messages WHERE namespace = ",
            rows::ENVELOPE
        ));
        query.push_bind(filter.namespace.as_str().to_owned());
        if let Some(agent) = filter.agent {
            query.push(" AND agent_id = ").push_bind(agent.to_string());
        }
        if let Some(status) = filter.status {
            query.push(" AND status = ").push_bind(status.as_str());
        }
        if let Some(id) = &filter.correlation_id {
            // The index holds only those that have one.
            query.push(" AND correlation_id <> '' AND correlation_id = ").push_bind(id.clone());
        }
        if let Some(before) = filter.before {
            query.push(" AND sequence < ").push_bind(before);
        }
        query.push(" ORDER BY sequence DESC LIMIT ").push_bind(limit as i64 + 1);
        let found = query.build().fetch(&self.database.reader);
        let decode = |row: &_| rows::record(row).map(|record| Record { history: Vec::new(), ..record });
        Page::read(found.boxed(), limit, decode, |record| record.message.payload.len()).await
    }

    async fn letter(&self, namespace: &Namespace, id: &str) -> sqlx::Result<Option<DeadLetter>> {
        let query = sqlx::query("SELECT * FROM dead_letters WHERE namespace = ? AND id = ?")
            .bind(namespace.as_str().to_owned())
            .bind(id.to_owned());
        query.fetch_optional(&self.database.reader).await?.as_ref().map(rows::letter).transpose()
    }

    async fn letters(&self, filter: &LetterFilter, span: Span, limit: usize) -> sqlx::Result<Page<DeadLetter>> {
        let mut query = QueryBuilder::new("SELECT * FROM dead_letters WHERE namespace = ");
        query.push_bind(filter.namespace.as_str().to_owned());
        if let Some(kind) = filter.kind {
            query.push(" AND kind = ").push_bind(kind.as_str());
        }
        if let Some(reason) = &filter.reason {
            query.push(" AND reason = ").push_bind(reason.clone());
        }
        if let Some(target) = &filter.target {
            query.push(" AND target = ").push_bind(target.clone());
        }
        if !filter.ids.is_empty() {
            query.push(" AND id IN (SELECT value FROM json_each(").push_bind(list(&filter.ids)).push("))");
        }
        if !filter.include_replayed {
            query.push(" AND replayed_at IS NULL");
        }
        match span {
            Span::NewestBefore(before) => {
                if let Some(before) = before {
                    query.push(" AND id < ").push_bind(before.to_string());
                }
                query.push(" ORDER BY id DESC");
            }
            Span::OldestWithin(after, until) => {
                if let Some(after) = after {
                    query.push(" AND id > ").push_bind(after.to_string());
                }
                query.push(" AND id <= ").push_bind(until.to_string()).push(" ORDER BY id");
            }
        }
        query.push(" LIMIT ").push_bind(limit as i64 + 1);
        let found = query.build().fetch(&self.database.reader);
        Page::read(found.boxed(), limit, rows::letter, |letter| letter.payload.len()).await
    }

    async fn replay(
        &self,
        namespace: &Namespace,
        ids: &[DeadLetterId],
        now: Timestamp,
    ) -> sqlx::Result<Vec<(DeadLetterId, Envelope)>> {
        const MARK: &str = "UPDATE dead_letters SET replayed_at = ? WHERE namespace = ? AND kind = 'message' \
            AND replayed_at IS NULL AND id IN (SELECT value FROM json_each(?)) AND EXISTS (SELECT 1 FROM messages \
                WHERE messages.namespace = dead_letters.namespace AND messages.id = subject_id AND status = 'dead') \
            RETURNING id, subject_id";
        let mut transaction = self.database.writer.begin().await?;
        let marked: Vec<(String, String)> = sqlx::query_as(MARK)
            .bind(now.as_micros())
            .bind(namespace.as_str().to_owned())
            .bind(list(ids))
            .fetch_all(&mut *transaction)
            .await?;
        let mut letters = HashMap::with_capacity(marked.len());
        for (letter, message) in marked {
            letters.insert(message, parsed::<DeadLetterId>(&letter)?);
        }
        let lines: HashMap<_, _> =
            letters.iter().map(|(message, letter)| (message, history_lines(&[replayed(*letter, now)]))).collect();
        let query = format!(
            "UPDATE messages SET status = 'accepted', deliveries = 0, revived_at = ?, expires_at = NULL, ended_at = NULL, \
             history = history || line.value FROM json_each(?) AS line WHERE namespace = ? AND messages.id = line.key \
             RETURNING {}",
            rows::ENVELOPE
        );
        let revived = sqlx::query(AssertSqlSafe(query))
            .bind(now.as_micros())
            .bind(serde_json::to_string(&lines).unwrap_or_default())
            .bind(namespace.as_str().to_owned())
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let mut found = Vec::with_capacity(revived.len());
        for row in &revived {
            let (envelope, _) = rows::envelope(row)?;
            if let Some(letter) = letters.get(&envelope.message.id.to_string()) {
                found.push((*letter, envelope));
            }
        }
        found.sort_by_key(|(_, envelope)| envelope.sequence);
        Ok(found)
    }

    async fn mark_replayed(&self, namespace: &Namespace, id: &str, now: Timestamp) -> sqlx::Result<()> {
        let query = "UPDATE dead_letters SET replayed_at = ? WHERE namespace = ? AND id = ? AND kind = 'task' \
                     AND replayed_at IS NULL";
        let query = sqlx::query(query).bind(now.as_micros()).bind(namespace.as_str().to_owned()).bind(id.to_owned());
        query.execute(&self.database.writer).await?;
        Ok(())
    }

    async fn purge(&self, namespace: &Namespace, ids: &[DeadLetterId], now: Timestamp) -> sqlx::Result<u64> {
        let mut transaction = self.database.writer.begin().await?;
        let query = "DELETE FROM dead_letters WHERE namespace = ? AND id IN (SELECT value FROM json_each(?)) \
                     RETURNING namespace, subject_id";
        let purged: Vec<(String, String)> = sqlx::query_as(query)
            .bind(namespace.as_str().to_owned())
            .bind(list(ids))
            .fetch_all(&mut *transaction)
            .await?;
        give_up(&mut transaction, &purged, now).await?;
        transaction.commit().await?;
        Ok(purged.len() as u64)
    }

    async fn clean(&self, messages: Timestamp, letters: Timestamp, limit: i64) -> sqlx::Result<u64> {
        let mut transaction = self.database.writer.begin().await?;
        let query = "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE created_at < ? \
                     ORDER BY created_at, id LIMIT ?) RETURNING namespace, subject_id";
        let old: Vec<(String, String)> =
            sqlx::query_as(query).bind(letters.as_micros()).bind(limit).fetch_all(&mut *transaction).await?;
        give_up(&mut transaction, &old, letters).await?;
        let query = "DELETE FROM messages WHERE sequence IN (SELECT sequence FROM messages WHERE ended_at < ? LIMIT ?)";
        let ended = sqlx::query(query).bind(messages.as_micros()).bind(limit).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(old.len() as u64 + ended.rows_affected())
    }

    async fn ping(&self) -> sqlx::Result<()> {
        self.database.ping().await
    }

    async fn close(&self) {
        self.database.close().await;
    }
}
