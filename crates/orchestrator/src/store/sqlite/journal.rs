//! The journal: what is committed and not yet put in its place.
//!
//! A commit is one insert at the end of one table (the idea of every log-structured store), and so costs about as much as its
//! flush. Its events and summaries are put in their place later, many commits at once: an execution that runs for a moment is
//! written there once, not once per commit. Whoever reads has what was committed before put in its place first.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use domain::{ExecutionId, Timestamp};
use futures::TryStreamExt as _;
use lifecycle::crash_point;
use prost::Message as _;
use sqlx::Row as _;
use store::Sqlite;

use super::place;
use crate::{
    hash::HashMap,
    store::{
        Append, AppendError, Arrears, Summary, counts_list, key,
        pack::{self, Part},
        unreadable,
    },
};

/// What is put in its place at once: larger, and commits wait longer meanwhile; smaller, and an execution is written more often.
const EVENTS_AT_ONCE: usize = 1_024;
const BYTES_AT_ONCE: usize = 4 << 20;
/// How much more than that may wait while the database does not take it; beyond, nothing is committed either.
const MOST: usize = 64;

/// One row, where the shards are held by the owner under the epochs that are claimed, and each log ends before its first event.
const INSERT: &str = "INSERT INTO journal (data) SELECT ?1 WHERE \
    (SELECT count(*) FROM json_each(?2) AS claimed JOIN shards ON shards.id = claimed.key AND shards.epoch = claimed.value \
     WHERE shards.owner = ?3) = ?4 \
    AND NOT EXISTS (SELECT 1 FROM json_each(?5) AS first LEFT JOIN executions ON executions.id = unhex(first.key) \
                    WHERE COALESCE(last_sequence, 0) <> first.value - 1)";

/// Was it for the shards that nothing was inserted?
const HELD: &str = "SELECT count(*) FROM json_each(?1) AS claimed JOIN shards ON shards.id = claimed.key \
                    AND shards.epoch = claimed.value WHERE shards.owner = ?2";

/// A row of the journal.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Commit {
    #[prost(message, repeated, tag = "1")]
    parts: Vec<Part>,
    #[prost(message, repeated, tag = "2")]
    pub(super) summaries: Vec<Row>,
}

/// A summary, as its table has it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Row {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(uint32, tag = "3")]
    pub(super) shard: u32,
    #[prost(string, tag = "4")]
    pub(super) workflow_id: String,
    #[prost(string, tag = "5")]
    pub(super) workflow_name: String,
    #[prost(uint32, tag = "6")]
    pub(super) workflow_version: u32,
    #[prost(int64, tag = "7")]
    pub(super) created_at: i64,
    #[prost(string, tag = "8")]
    pub(super) status: String,
    #[prost(string, tag = "9")]
    pub(super) counts: String,
    #[prost(string, optional, tag = "10")]
    pub(super) failure: Option<String>,
    #[prost(int64, optional, tag = "11")]
    pub(super) ended_at: Option<i64>,
    #[prost(int64, tag = "12")]
    pub(super) last_sequence: i64,
    #[prost(bytes = "vec", tag = "13")]
    pub(super) last_hash: Vec<u8>,
}

impl From<&Summary> for Row {
    fn from(summary: &Summary) -> Self {
        Self {
            id: key(summary.id),
            namespace: summary.namespace.as_str().to_owned(),
            shard: summary.shard,
            workflow_id: summary.workflow_id.to_string(),
            workflow_name: summary.workflow_name.to_string(),
            workflow_version: summary.workflow_version,
            created_at: summary.created_at.as_micros(),
            status: crate::app::status_text(summary.status).to_owned(),
            counts: serde_json::to_string(&counts_list(summary.counts)).unwrap_or_default(),
            failure: summary.failure.as_ref().and_then(|failure| serde_json::to_string(failure).ok()),
            ended_at: summary.ended_at.map(Timestamp::as_micros),
            last_sequence: summary.last_sequence as i64,
            last_hash: summary.last_hash.clone(),
        }
    }
}

/// The journal of a database.
pub(super) struct Journal {
    sqlite: Sqlite,
    /// Commits and what puts them in their place take turns.
    turn: tokio::sync::Mutex<()>,
    waiting: Mutex<Waiting>,
}

/// What is not in its place. Before an append it is noted what it touches, so that nothing is missed where that is cancelled.
#[derive(Default)]
struct Waiting {
    events: usize,
    bytes: usize,
    executions: HashMap<ExecutionId, Option<Last>>,
}

/// Of an execution, the newest.
#[derive(Clone, Copy)]
struct Last {
    sequence: u64,
    row: i64,
}

/// What was put in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    /// The last row of it.
    to: i64,
    /// The newest row that there was.
    newest: i64,
}

impl Settled {
    /// Was it everything?
    const fn is_all(self) -> bool {
        self.to == self.newest
    }
}

impl Waiting {
    /// Is it more than so many times what is done at once?
    const fn is_beyond(&self, times: usize) -> bool {
        self.events >= times * EVENTS_AT_ONCE || self.bytes >= times * BYTES_AT_ONCE
    }
}

impl Journal {
    /// With everything in its place that was left.
    pub(super) async fn open(sqlite: Sqlite) -> sqlx::Result<Self> {
        let journal = Self { sqlite, turn: tokio::sync::Mutex::default(), waiting: Mutex::default() };
        journal.settle_all().await?;
        Ok(journal)
    }

    /// Puts in its place what was committed before this call, by whomever. What comes meanwhile is not waited for.
    pub(super) async fn settle_all(&self) -> sqlx::Result<()> {
        let mut settled = self.settle_some().await?;
        let newest = settled.newest;
        // Row numbers begin anew once the journal is empty.
        while settled.to < newest && !settled.is_all() {
            settled = self.settle_some().await?;
        }
        Ok(())
    }

    pub(super) fn arrears(&self) -> Arrears {
        let waiting = self.waiting();
        match waiting.is_beyond(1) {
            true => Arrears::Due,
            false if waiting.executions.is_empty() => Arrears::None,
            false => Arrears::Some,
        }
    }

    /// One commit.
    pub(super) async fn append(&self, owner: &str, append: &Append) -> Result<(), AppendError> {
        let is_too_much = self.waiting().is_beyond(MOST);
        if is_too_much {
            self.settle_some().await?;
        }
        let claims = append.held();
        let claimed: BTreeMap<_, _> = claims.iter().map(|held| (held.shard, held.epoch)).collect();
        let claimed = json(&claimed);
        let data =
            Commit { parts: pack::parts(&append.events), summaries: append.summaries.iter().map(Row::from).collect() };
        let data = data.encode_to_vec();
        let bytes = data.len();
        let _turn = self.turn.lock().await;
        let mut row = None;
        if let Some(first) = self.note(append) {
            let query = sqlx::query(INSERT).bind(data).bind(claimed.clone()).bind(owner.to_owned());
            let inserted = query.bind(claims.len() as i64).bind(json(&first)).execute(&self.sqlite.writer).await?;
            row = (inserted.rows_affected() > 0).then(|| inserted.last_insert_rowid());
        }
        let Some(row) = row else {
            let query = sqlx::query_scalar(HELD).bind(claimed).bind(owner.to_owned());
            let held: i64 = query.fetch_one(&self.sqlite.writer).await?;
            return Err(if held == claims.len() as i64 { AppendError::Diverged } else { AppendError::Fenced });
        };
        let mut waiting = self.waiting();
        waiting.events += append.events.len();
        waiting.bytes += bytes;
        for event in &append.events {
            waiting.executions.insert(event.execution, Some(Last { sequence: event.sequence, row }));
        }
        Ok(())
    }

    /// Notes what an append touches; answers with the first event of each execution of which only its table knows where it ends.
    /// `None`: one of them ends elsewhere.
    fn note(&self, append: &Append) -> Option<BTreeMap<String, u64>> {
        let mut waiting = self.waiting();
        let mut first = BTreeMap::new();
        let mut before = None;
        for event in &append.events {
            if before == Some(event.execution) {
                continue;
            }
            before = Some(event.execution);
            match waiting.executions.entry(event.execution).or_insert(None) {
                Some(last) if last.sequence + 1 != event.sequence => return None,
                Some(_) => {}
                None => {
                    first.entry(hex(event.execution)).or_insert(event.sequence);
                }
            }
        }
        Some(first)
    }

    /// Puts in its place what this process had committed before this call.
    pub(super) async fn settle(&self) -> sqlx::Result<()> {
        if self.arrears() == Arrears::None { Ok(()) } else { self.settle_all().await }
    }

    /// The same, where something of this execution is not.
    pub(super) async fn settle_of(&self, id: ExecutionId) -> sqlx::Result<()> {
        let is_waiting = self.waiting().executions.contains_key(&id);
        if is_waiting { self.settle().await } else { Ok(()) }
    }

    /// The same, after shards were taken from another process, which may have gone on with what this one remembers of them.
    pub(super) async fn take_over(&self) -> sqlx::Result<()> {
        let turn = self.turn.lock().await;
        let mut settled = self.settle_in(&turn).await?;
        let newest = settled.newest;
        while settled.to < newest && !settled.is_all() {
            settled = self.settle_in(&turn).await?;
        }
        // All that this process has committed is in its place, and it commits nothing meanwhile.
        *self.waiting() = Waiting::default();
        Ok(())
    }

    /// Puts the oldest in its place, as much as is done at once.
    pub(super) async fn settle_some(&self) -> sqlx::Result<Settled> {
        let turn = self.turn.lock().await;
        self.settle_in(&turn).await
    }

    async fn settle_in(&self, _: &tokio::sync::MutexGuard<'_, ()>) -> sqlx::Result<Settled> {
        let mut transaction = self.sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
        let (mut parts, mut summaries) = (Vec::new(), BTreeMap::new());
        let (mut events, mut bytes, mut to, mut is_all) = (0, 0, None, true);
        let mut rows = sqlx::query("SELECT number, data FROM journal ORDER BY number").fetch(&mut *transaction);
        while let Some(row) = rows.try_next().await? {
            if events >= EVENTS_AT_ONCE || bytes >= BYTES_AT_ONCE {
                is_all = false;
                break;
            }
            let data: &[u8] = row.try_get(1)?;
            let commit = Commit::decode(data).map_err(|_| unreadable("data"))?;
            bytes += data.len();
            to = Some(row.try_get(0)?);
            events += commit.parts.iter().map(Part::events).sum::<usize>();
            parts.extend(commit.parts);
            // The later summary of an execution replaces the earlier.
            summaries.extend(commit.summaries.into_iter().map(|summary| (summary.id.clone(), summary)));
        }
        drop(rows);
        let Some(to) = to else {
            *self.waiting() = Waiting::default();
            return Ok(Settled { to: 0, newest: 0 });
        };
        let newest = sqlx::query_scalar("SELECT max(number) FROM journal").fetch_one(&mut *transaction).await?;
        // In the order of its table: neighbours are in one row, or one page at least.
        parts.sort_by(|one: &Part, other| (&one.execution, one.sequence).cmp(&(&other.execution, other.sequence)));
        parts.dedup_by(|next, one| one.absorb(next));
        place::events(&mut transaction, parts).await?;
        place::summaries(&mut transaction, summaries.into_values().collect()).await?;
        sqlx::query("DELETE FROM journal WHERE number <= ?").bind(to).execute(&mut *transaction).await?;
        crash_point("orchestrator.settle.before");
        transaction.commit().await?;
        crash_point("orchestrator.settle.after");
        self.settled(to, events, bytes, is_all);
        Ok(Settled { to, newest })
    }

    fn settled(&self, to: i64, events: usize, bytes: usize, is_all: bool) {
        let mut waiting = self.waiting();
        if is_all {
            *waiting = Waiting::default();
            return;
        }
        waiting.events = waiting.events.saturating_sub(events);
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        waiting.executions.retain(|_, last| last.is_none_or(|last| last.row > to));
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json<K: Ord + serde::Serialize, V: serde::Serialize>(map: &BTreeMap<K, V>) -> String {
    serde_json::to_string(map).unwrap_or_default()
}

fn hex(id: ExecutionId) -> String {
    format!("{:032x}", u128::from_be_bytes(id.to_bytes()))
}
