//! Messages and dead letters in PostgreSQL. One statement per table and commit, with a list for each column.

mod rows;

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{DeadLetterId, Namespace, Timestamp};
use futures::StreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, QueryBuilder, Row as _, error::DatabaseError};
use store::{Page, Postgres};
use tracing::Instrument as _;

use super::{
    Batch, LetterFilter, MessageFilter, MessageUpdate, Record, Span, Store,
    rows::{history_lines, parsed, replayed, task_text},
};
use crate::app::{DeadLetter, Envelope, Mailbox, Message, Status};

/// A schema in PostgreSQL.
pub(super) struct PostgresStore(Postgres);

impl PostgresStore {
    /// Makes the partitions of the coming days.
    pub(super) async fn new(postgres: Postgres) -> sqlx::Result<Self> {
        let store = Self(postgres);
        store.keep_days().await?;
        Ok(store)
    }

    /// Makes the partitions of the coming days, and drops empty old ones. One replica at a time: making what another makes just
    /// then fails, also where it says `IF NOT EXISTS`.
    async fn keep_days(&self) -> sqlx::Result<()> {
        let mut transaction = self.0.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('keep_message_days'))").execute(&mut *transaction).await?;
        sqlx::query("SELECT keep_message_days((now() AT TIME ZONE 'UTC')::date)").execute(&mut *transaction).await?;
        transaction.commit().await
    }
}

fn texts(ids: &[DeadLetterId]) -> Vec<String> {
    ids.iter().map(DeadLetterId::to_string).collect()
}

fn time(at: Option<Timestamp>) -> Option<DateTime<Utc>> {
    at.map(Timestamp::to_datetime)
}

async fn insert(connection: &mut PgConnection, envelopes: &[Arc<Envelope>]) -> sqlx::Result<HashSet<i64>> {
    const INSERT: &str = "WITH given AS (SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], \
        $6::text[], $7::bytea[], $8::text[], $9::text[], $10::int[], $11::text[], $12::timestamptz[], $13::timestamptz[]) \
        AS given (sequence, namespace, id, agent_id, sender, kind, payload, correlation_id, reply_to, priority, traceparent, \
                  created_at, expires_at)), \
        fresh AS (INSERT INTO message_ids (namespace, id, sequence, created_at) \
                  SELECT namespace, id, sequence, created_at FROM given ON CONFLICT (namespace, id) DO NOTHING \
                  RETURNING sequence AS fresh_sequence) \
        INSERT INTO messages (sequence, namespace, id, agent_id, sender, kind, payload, correlation_id, reply_to, priority, \
                              traceparent, created_at, expires_at, status) \
        SELECT given.*, 'accepted' FROM given JOIN fresh ON fresh_sequence = sequence RETURNING sequence";
    fn column<'a, T>(envelopes: &'a [Arc<Envelope>], value: impl Fn(&'a Message) -> T) -> Vec<T> {
        envelopes.iter().map(|envelope| value(&envelope.message)).collect()
    }
    if envelopes.is_empty() {
        return Ok(HashSet::new());
    }
    let sequences: Vec<i64> = sqlx::query_scalar(INSERT)
        .bind(envelopes.iter().map(|envelope| envelope.sequence).collect::<Vec<_>>())
        .bind(column(envelopes, |message| message.namespace.as_str()))
        .bind(column(envelopes, |message| message.id.to_string()))
        .bind(column(envelopes, |message| message.agent.to_string()))
        .bind(column(envelopes, |message| message.sender.map(|id| id.to_string()).unwrap_or_default()))
        .bind(column(envelopes, |message| message.kind.as_str()))
        .bind(column(envelopes, |message| message.payload.as_ref()))
        .bind(column(envelopes, |message| message.correlation_id.as_str()))
        .bind(column(envelopes, |message| message.reply_to.map(|id| id.to_string()).unwrap_or_default()))
        .bind(column(envelopes, |message| i32::from(message.priority)))
        .bind(column(envelopes, |message| message.traceparent.as_str()))
        .bind(column(envelopes, |message| message.created_at.to_datetime()))
        .bind(column(envelopes, |message| time(message.expires_at)))
        .fetch_all(connection)
        .await?;
    Ok(sequences.into_iter().collect())
}

async fn update(connection: &mut PgConnection, updates: &[MessageUpdate]) -> sqlx::Result<()> {
    // The first hand-over and the end are kept; history only grows. What is over stays so, whatever comes late, and what was
    // handed over again is not taken back by whoever held it before, nor published again. That the broker has it tells nothing
    // of its hand-overs. A death that was recorded before, unheard, is not recorded again: the message may have been replayed.
    const UPDATE: &str = "UPDATE messages SET status = changes.status, \
        deliveries = GREATEST(messages.deliveries, changes.deliveries), \
        delivered_at = COALESCE(messages.delivered_at, changes.delivered_at), \
        held_at = COALESCE(changes.delivered_at, messages.held_at), \
        acked_at = COALESCE(messages.acked_at, changes.acked_at), ended_at = COALESCE(messages.ended_at, changes.acked_at), \
        history = messages.history || changes.history \
        FROM unnest($1::bigint[], $2::timestamptz[], $3::text[], $4::int[], $5::timestamptz[], $6::timestamptz[], $7::text[], \
                         $8::boolean[], $9::text[]) \
             AS changes (sequence, created_at, status, deliveries, delivered_at, acked_at, history, is_final, letter) \
        WHERE messages.sequence = changes.sequence AND messages.created_at = changes.created_at \
              AND messages.status NOT IN ('acked', 'dead') \
              AND (changes.letter IS NULL OR NOT EXISTS (SELECT 1 FROM dead_letters WHERE id = changes.letter)) AND CASE \
                  WHEN changes.is_final THEN TRUE \
                  WHEN changes.status = 'accepted' \
                      THEN messages.status <> 'accepted' AND messages.deliveries = changes.deliveries \
                  WHEN changes.status = 'queued' AND changes.deliveries = 0 THEN messages.status = 'accepted' \
                  ELSE messages.deliveries <= changes.deliveries END";
    fn column<T>(updates: &[MessageUpdate], value: impl Fn(&MessageUpdate) -> T) -> Vec<T> {
        updates.iter().map(value).collect()
    }
    // Replicas that change the same messages take them in the same order: none waits for one that waits for it.
    const LOCK: &str = "SELECT 1 FROM messages \
        JOIN unnest($1::bigint[], $2::timestamptz[]) AS changes (sequence, created_at) USING (sequence, created_at) \
        ORDER BY sequence FOR NO KEY UPDATE OF messages";
    if updates.is_empty() {
        return Ok(());
    }
    if updates.len() > 1 {
        sqlx::query(LOCK)
            .bind(column(updates, |update| update.sequence))
            .bind(column(updates, |update| update.created_at.to_datetime()))
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(UPDATE)
        .bind(column(updates, |update| update.sequence))
        .bind(column(updates, |update| update.created_at.to_datetime()))
        .bind(column(updates, |update| update.status.as_str()))
        .bind(column(updates, |update| i32::try_from(update.deliveries).unwrap_or(i32::MAX)))
        .bind(column(updates, |update| time(update.delivered_at)))
        .bind(column(updates, |update| time(update.acked_at)))
        .bind(column(updates, |update| history_lines(&update.history)))
        .bind(column(updates, |update| update.is_final))
        .bind(column(updates, |update| update.letter.map(|id| id.to_string())))
        .execute(connection)
        .await?;
    Ok(())
}

async fn bury(connection: &mut PgConnection, letters: &[DeadLetter]) -> sqlx::Result<()> {
    // After a commit whose outcome was lost the same comes again; and several replicas may see a message die. One that lived on
    // elsewhere is not dead, and has no letter.
    const INSERT: &str = "INSERT INTO dead_letters (id, namespace, kind, subject_id, target, reason, detail, deliveries, \
        payload, created_at, task) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], \
        $6::text[], $7::text[], $8::int[], $9::bytea[], $10::timestamptz[], $11::text[]) \
        AS letters (id, namespace, kind, subject_id, target, reason, detail, deliveries, payload, created_at, task) \
        WHERE kind <> 'message' OR EXISTS (SELECT 1 FROM messages JOIN message_ids USING (sequence, created_at) \
            WHERE message_ids.namespace = letters.namespace AND message_ids.id = letters.subject_id \
              AND messages.status = 'dead') ON CONFLICT DO NOTHING";
    fn column<'a, T>(letters: &'a [DeadLetter], value: impl Fn(&'a DeadLetter) -> T) -> Vec<T> {
        letters.iter().map(value).collect()
    }
    if letters.is_empty() {
        return Ok(());
    }
    sqlx::query(INSERT)
        .bind(column(letters, |letter| letter.id.to_string()))
        .bind(column(letters, |letter| letter.namespace.as_str()))
        .bind(column(letters, |letter| letter.kind.as_str()))
        .bind(column(letters, |letter| letter.subject_id.as_str()))
        .bind(column(letters, |letter| letter.target.as_str()))
        .bind(column(letters, |letter| letter.reason.as_str()))
        .bind(column(letters, |letter| letter.detail.as_str()))
        .bind(column(letters, |letter| i32::try_from(letter.deliveries).unwrap_or(i32::MAX)))
        .bind(column(letters, |letter| letter.payload.as_ref()))
        .bind(column(letters, |letter| letter.created_at.to_datetime()))
        .bind(column(letters, |letter| task_text(letter.task.as_ref())))
        .execute(connection)
        .await?;
    Ok(())
}

/// Leaves dead messages to retention whose letters are gone: nothing can replay them any more. One that was replayed and
/// died again has another letter, and stays with that.
async fn give_up(connection: &mut PgConnection, messages: &[(String, String)], at: Timestamp) -> sqlx::Result<()> {
    const UPDATE: &str = "UPDATE messages SET ended_at = $1 FROM unnest($2::text[], $3::text[]) AS gone (namespace, id) \
        JOIN message_ids ON message_ids.namespace = gone.namespace AND message_ids.id = gone.id \
        WHERE messages.sequence = message_ids.sequence AND messages.created_at = message_ids.created_at \
          AND messages.status = 'dead' AND NOT EXISTS (SELECT 1 FROM dead_letters \
              WHERE dead_letters.subject_id = messages.id AND dead_letters.namespace = messages.namespace \
                AND kind = 'message' AND replayed_at IS NULL)";
    if messages.is_empty() {
        return Ok(());
    }
    let (namespaces, ids): (Vec<_>, Vec<_>) = messages.iter().cloned().unzip();
    sqlx::query(UPDATE).bind(at.to_datetime()).bind(namespaces).bind(ids).execute(connection).await?;
    Ok(())
}

async fn write_once(pool: &PgPool, batch: &Batch) -> sqlx::Result<HashSet<i64>> {
    let mut transaction = pool.begin().await?;
    let inserted = insert(&mut transaction, &batch.inserts).await?;
    update(&mut transaction, &batch.updates).await?;
    bury(&mut transaction, &batch.letters).await?;
    transaction.commit().await?;
    Ok(inserted)
}

/// SQLSTATE 40P01, `deadlock_detected`.
fn is_deadlock(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "40P01")
}

#[async_trait]
impl Store for PostgresStore {
    async fn write(&self, batch: &Batch) -> sqlx::Result<HashSet<i64>> {
        /// Far more than ever come in a row.
        const MOST_DEADLOCKS: u32 = 10;
        let written = async {
            let mut deadlocks = 0;
            loop {
                match write_once(&self.0.pool, batch).await {
                    // What is locked in an order nobody chose, as indexes are: the database has undone this one, not the other.
                    Err(error) if is_deadlock(&error) && deadlocks < MOST_DEADLOCKS => deadlocks += 1,
                    written => return written,
                }
            }
        };
        written.instrument(self.0.span("INSERT", "messages")).await
    }

    async fn next_sequences(&self, count: usize) -> sqlx::Result<Vec<i64>> {
        let query = "SELECT nextval('messages_sequence') FROM generate_series(1, $1)";
        sqlx::query_scalar(query).bind(count as i64).fetch_all(&self.0.pool).await
    }

    async fn unfinished(&self, after: i64, limit: usize) -> sqlx::Result<Page<(Envelope, u32, Status)>> {
        let query = format!(
            "SELECT {}, status FROM messages WHERE status IN ('accepted', 'queued', 'delivered') AND sequence > $1 \
             ORDER BY sequence LIMIT $2",
            rows::ENVELOPE
        );
        let found = sqlx::query(AssertSqlSafe(query)).bind(after).bind(limit as i64 + 1).fetch(&self.0.pool);
        Page::read(found.boxed(), limit, rows::found, |(envelope, ..)| envelope.message.payload.len()).await
    }

    async fn unfinished_of(&self, mailbox: &Mailbox, limit: usize) -> sqlx::Result<Vec<(Envelope, u32, Status)>> {
        let query = format!(
            "SELECT {}, status FROM messages WHERE status IN ('accepted', 'queued', 'delivered') AND namespace = $1 \
             AND agent_id = $2 ORDER BY sequence LIMIT $3",
            rows::ENVELOPE
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(mailbox.namespace.as_str().to_owned());
        let found = query.bind(mailbox.agent.to_string()).bind(limit as i64).fetch(&self.0.pool).boxed();
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
             AND COALESCE(revived_at, created_at) < $1 AND sequence > $2 \
             ORDER BY sequence LIMIT $3",
            rows::ENVELOPE
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(before.to_datetime()).bind(after).bind(limit as i64 + 1);
        let found = query.fetch(&self.0.pool);
        Page::read(found.boxed(), limit, rows::relayed, |(envelope, _)| envelope.message.payload.len()).await
    }

    async fn expired(&self, before: Timestamp, limit: usize) -> sqlx::Result<Vec<(Envelope, u32)>> {
        let query = format!(
            "SELECT {} FROM messages WHERE status IN ('accepted', 'queued') AND expires_at < $1 LIMIT $2",
            rows::ENVELOPE
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(before.to_datetime()).bind(limit as i64);
        let found = query.fetch(&self.0.pool).boxed();
        let page = Page::read(found, limit, rows::envelope, |(envelope, _)| envelope.message.payload.len());
        Ok(page.await?.rows)
    }

    async fn unheard(&self, before: Timestamp, since: Timestamp, limit: usize) -> sqlx::Result<Vec<(Envelope, u32)>> {
        let query = format!(
            "SELECT {} FROM messages WHERE status = 'delivered' AND expires_at < $1 \
             AND COALESCE(held_at, delivered_at, created_at) < $2 LIMIT $3",
            rows::ENVELOPE
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(before.to_datetime()).bind(since.to_datetime());
        let found = query.bind(limit as i64).fetch(&self.0.pool).boxed();
        let page = Page::read(found, limit, rows::envelope, |(envelope, _)| envelope.message.payload.len());
        Ok(page.await?.rows)
    }

    async fn hold(&self, sequences: &[i64], now: Timestamp) -> sqlx::Result<()> {
        const HOLD: &str = "UPDATE messages SET held_at = $1 WHERE sequence = ANY($2) AND status = 'delivered'";
        let query = sqlx::query(HOLD).bind(now.to_datetime()).bind(sequences.to_vec());
        query.execute(&self.0.pool).await?;
        Ok(())
    }

    async fn by_sequence(&self, sequences: &[i64]) -> sqlx::Result<Vec<(Envelope, u32, Status)>> {
        let query = format!("SELECT {}, status FROM messages WHERE sequence = ANY($1)", rows::ENVELOPE);
        let found = sqlx::query(AssertSqlSafe(query)).bind(sequences.to_vec()).fetch_all(&self.0.pool).await?;
        found.iter().map(rows::found).collect()
    }

    async fn message(&self, namespace: &Namespace, id: &str) -> sqlx::Result<Option<Record>> {
        let query = format!(
            "SELECT {}, {} FROM messages WHERE (sequence, created_at) = \
             (SELECT sequence, created_at FROM message_ids WHERE namespace = $1 AND id = $2)",
            rows::ENVELOPE,
            rows::RECORD
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(namespace.as_str()).bind(id);
        query.fetch_optional(&self.0.pool).await?.as_ref().map(rows::record).transpose()
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
        let found = query.build().fetch(&self.0.pool);
        let decode = |row: &_| rows::record(row).map(|record| Record { history: Vec::new(), ..record });
        Page::read(found.boxed(), limit, decode, |record| record.message.payload.len()).await
    }

    async fn letter(&self, namespace: &Namespace, id: &str) -> sqlx::Result<Option<DeadLetter>> {
        let query = sqlx::query("SELECT * FROM dead_letters WHERE namespace = $1 AND id = $2");
        let found = query.bind(namespace.as_str()).bind(id).fetch_optional(&self.0.pool).await?;
        found.as_ref().map(rows::letter).transpose()
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
            query.push(" AND id = ANY(").push_bind(texts(&filter.ids)).push(")");
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
        let found = query.build().fetch(&self.0.pool);
        Page::read(found.boxed(), limit, rows::letter, |letter| letter.payload.len()).await
    }

    async fn replay(
        &self,
        namespace: &Namespace,
        ids: &[DeadLetterId],
        now: Timestamp,
    ) -> sqlx::Result<Vec<(DeadLetterId, Envelope)>> {
        // Letters are locked in one order, so that two replays of the same do not wait for each other; the second finds them
        // replayed.
        let query = format!(
            "WITH given AS (SELECT letters.id AS letter, line, at.sequence AS row_sequence, at.created_at AS row_created_at \
                FROM unnest($2::text[], $3::text[]) AS named (id, line) \
                JOIN dead_letters AS letters ON letters.id = named.id \
                JOIN message_ids AS at ON at.namespace = letters.namespace AND at.id = letters.subject_id \
                WHERE letters.namespace = $1 AND letters.kind = 'message' AND letters.replayed_at IS NULL \
                ORDER BY letters.id FOR UPDATE OF letters), \
             revived AS (UPDATE messages SET status = 'accepted', deliveries = 0, revived_at = $4, expires_at = NULL, \
                ended_at = NULL, \
                history = history || given.line FROM given \
                WHERE sequence = row_sequence AND created_at = row_created_at AND status = 'dead' \
                RETURNING letter, {}), \
             marked AS (UPDATE dead_letters SET replayed_at = $4 FROM revived WHERE dead_letters.id = revived.letter) \
             SELECT * FROM revived ORDER BY sequence",
            rows::ENVELOPE
        );
        let found = sqlx::query(AssertSqlSafe(query))
            .bind(namespace.as_str())
            .bind(texts(ids))
            .bind(ids.iter().map(|id| history_lines(&[replayed(*id, now)])).collect::<Vec<_>>())
            .bind(now.to_datetime())
            .fetch_all(&self.0.pool)
            .await?;
        found.iter().map(|row| Ok((parsed(row.try_get("letter")?)?, rows::envelope(row)?.0))).collect()
    }

    async fn mark_replayed(&self, namespace: &Namespace, id: &str, now: Timestamp) -> sqlx::Result<()> {
        const MARK: &str = "UPDATE dead_letters SET replayed_at = $1 WHERE namespace = $2 AND id = $3 AND kind = 'task' \
                            AND replayed_at IS NULL";
        let query = sqlx::query(MARK).bind(now.to_datetime()).bind(namespace.as_str()).bind(id);
        query.execute(&self.0.pool).await?;
        Ok(())
    }

    async fn purge(&self, namespace: &Namespace, ids: &[DeadLetterId], now: Timestamp) -> sqlx::Result<u64> {
        let mut transaction = self.0.pool.begin().await?;
        let query = "DELETE FROM dead_letters WHERE namespace = $1 AND id = ANY($2) RETURNING namespace, subject_id";
        let purged: Vec<(String, String)> =
            sqlx::query_as(query).bind(namespace.as_str()).bind(texts(ids)).fetch_all(&mut *transaction).await?;
        give_up(&mut transaction, &purged, now).await?;
        transaction.commit().await?;
        Ok(purged.len() as u64)
    }

    async fn clean(&self, messages: Timestamp, letters: Timestamp, limit: i64) -> sqlx::Result<u64> {
        // Every replica does this: none waits for what another is removing.
        const LETTERS: &str = "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE created_at < $1 \
                               ORDER BY created_at, id LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING namespace, subject_id";
        const MESSAGES: &str = "WITH ended AS (DELETE FROM messages WHERE (sequence, created_at) IN \
                                (SELECT sequence, created_at FROM messages WHERE ended_at < $1 LIMIT $2 \
                                FOR UPDATE SKIP LOCKED) \
                                RETURNING namespace, id) \
                                DELETE FROM message_ids USING ended WHERE message_ids.namespace = ended.namespace \
                                AND message_ids.id = ended.id";
        let mut transaction = self.0.pool.begin().await?;
        let old: Vec<(String, String)> =
            sqlx::query_as(LETTERS).bind(letters.to_datetime()).bind(limit).fetch_all(&mut *transaction).await?;
        give_up(&mut transaction, &old, letters).await?;
        let ended = sqlx::query(MESSAGES).bind(messages.to_datetime()).bind(limit).execute(&mut *transaction).await?;
        transaction.commit().await?;
        self.keep_days().await?;
        Ok(old.len() as u64 + ended.rows_affected())
    }

    async fn ping(&self) -> sqlx::Result<()> {
        self.0.ping().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
