//! What is kept, behind one trait: SQLite now, and whatever else passes the same tests.
//!
//! Everything about executions is written by [`Store::append`] alone: events and summaries together, in one transaction that
//! checks the epoch of every shard that it touches (I2).

mod locks;
mod pack;
mod postgres;
mod rows;
mod sqlite;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ::store::{Database, Migrations, OpenError, Page};
use async_trait::async_trait;
use domain::{ExecutionId, Namespace, Timestamp, WorkflowId};
use sqlx::migrate::Migrator;
use workflow::{Counts, Failure, Holder, Status};

pub(crate) use self::locks::{Deed, Granted, LockKey, LockOrder, LockRow};
use self::{
    postgres::PostgresStore,
    rows::{counts_list, counts_of, id_of, key, parsed, unreadable},
    sqlite::SqliteStore,
};
use crate::hash::HashMap;

static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite/orchestrator");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres/orchestrator");
/// What `troupe migrate` applies.
pub static MIGRATIONS: Migrations = Migrations { service: "orchestrator", sqlite: &SQLITE, postgres: &POSTGRES };

/// Events of a log that is short: those of many are read at once.
const SHORT: i64 = 64;

/// Opens the database that the settings name.
pub(crate) async fn open(settings: &settings::Database) -> Result<Arc<dyn Store>, OpenError> {
    Ok(match Database::open(settings, &MIGRATIONS).await? {
        Database::Sqlite(sqlite) => Arc::new(SqliteStore::open(sqlite).await?),
        Database::Postgres(postgres) => Arc::new(PostgresStore::new(postgres)),
    })
}

/// An event to append.
#[derive(Clone, Debug)]
pub(crate) struct NewEvent {
    pub(crate) execution: ExecutionId,
    pub(crate) sequence: u64,
    pub(crate) at: Timestamp,
    pub(crate) data: Vec<u8>,
    pub(crate) hash: [u8; 32],
}

/// An event as it was read. The hash may have any length: who reads it checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventRow {
    pub(crate) sequence: u64,
    pub(crate) at: Timestamp,
    pub(crate) data: Vec<u8>,
    pub(crate) hash: Vec<u8>,
}

/// What was removed of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pruned {
    /// The last event of it. All from the first row to this one are gone.
    pub(crate) to: u64,
    /// Of that event. It may have any length, as that of an [`EventRow`].
    pub(crate) hash: Vec<u8>,
}

/// The summary of an execution.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) id: ExecutionId,
    pub(crate) namespace: Namespace,
    pub(crate) shard: u32,
    pub(crate) workflow_id: WorkflowId,
    pub(crate) workflow_name: Arc<str>,
    pub(crate) workflow_version: u32,
    pub(crate) created_at: Timestamp,
    pub(crate) status: Status,
    pub(crate) counts: Counts,
    pub(crate) failure: Option<Failure>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) last_sequence: u64,
    pub(crate) last_hash: Vec<u8>,
}

/// Everything that one commit writes.
#[derive(Debug, Default)]
pub(crate) struct Append {
    pub(crate) events: Vec<NewEvent>,
    /// Each execution at most once.
    pub(crate) summaries: Vec<Summary>,
    /// The epochs under which the shards of the executions are held; there may be more.
    pub(crate) claims: HashMap<u32, i64>,
}

impl Append {
    /// The shards that it touches, in their order, with their epochs.
    pub(crate) fn held(&self) -> Vec<Held> {
        let shards: BTreeSet<_> = self.summaries.iter().map(|summary| summary.shard).collect();
        shards.into_iter().map(|shard| Held { shard, epoch: self.claims.get(&shard).copied().unwrap_or(0) }).collect()
    }
}

/// Why an append wrote nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// Another replica holds a shard now.
    #[error("a shard belongs to another replica now")]
    Fenced,
    /// The log does not end where the events go on: somebody else has written to it.
    #[error("the log does not end where the events go on")]
    Diverged,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl AppendError {
    /// Is it the fault of some execution in it, so that others could be written without that one?
    pub(crate) fn is_of_one(&self) -> bool {
        match self {
            Self::Fenced | Self::Diverged => true,
            Self::Database(error) => ::store::is_refused(error),
        }
    }
}

/// A version of a workflow with what its workflow says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkflowRow {
    pub(crate) id: WorkflowId,
    pub(crate) namespace: Namespace,
    pub(crate) is_archived: bool,
    /// The newest version; `version` is the one that was asked for.
    pub(crate) newest: u32,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) version: u32,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) definition: String,
    pub(crate) step_count: u32,
}

/// How a workflow is named in a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WorkflowRef {
    /// Archived or not.
    Id(WorkflowId),
    /// Among the active.
    Name(String),
}

/// What became of a write of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// Another active workflow of the namespace has the name.
    NameTaken,
    /// It is not at the version that the write started from.
    Changed,
}

/// Which workflows to list.
#[derive(Clone, Debug)]
pub(crate) struct WorkflowFilter {
    pub(crate) namespace: Namespace,
    pub(crate) include_archived: bool,
    pub(crate) name: Option<String>,
    pub(crate) after: Option<WorkflowId>,
    /// In the reverse order of their ids.
    pub(crate) newest_first: bool,
    pub(crate) limit: usize,
}

/// Which executions to list.
#[derive(Clone, Debug)]
pub(crate) struct ExecutionFilter {
    pub(crate) namespace: Namespace,
    pub(crate) workflow_id: Option<WorkflowId>,
    pub(crate) workflow_name: Option<String>,
    /// Any of these; empty: any.
    pub(crate) statuses: Vec<Status>,
    pub(crate) created_after: Option<Timestamp>,
    pub(crate) created_before: Option<Timestamp>,
    /// The last of the page before.
    pub(crate) after: Option<(Timestamp, ExecutionId)>,
    /// In the order of their creation; newest first otherwise.
    pub(crate) oldest_first: bool,
    pub(crate) limit: i64,
}

/// A shard that a replica may write, and the epoch under which it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Held {
    pub(crate) shard: u32,
    pub(crate) epoch: i64,
}

/// A replica that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    /// `rep_…`
    pub(crate) id: String,
    /// `host:port` of its gRPC; empty where its callers are in its process.
    pub(crate) address: String,
}

/// Who writes a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) shard: u32,
    pub(crate) replica: Replica,
}

/// How much of its appends a store has put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrears {
    None,
    /// Some, for when there is nothing else to do.
    Some,
    /// So much that a part is to be done now.
    Due,
}

/// Where everything is kept. Every call sees what was committed before it began.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// Appends all or nothing, where `owner` holds the shards that it touches under the epochs that are claimed.
    async fn append(&self, owner: &str, append: &Append) -> Result<(), AppendError>;
    /// What is left to do of the appends so far: nothing that a caller would see.
    fn arrears(&self) -> Arrears {
        Arrears::None
    }
    /// Does a part of it.
    async fn settle(&self) -> sqlx::Result<()> {
        Ok(())
    }
    /// Events after `after`, oldest first, at most `limit`; fewer where they are large.
    async fn events(&self, id: ExecutionId, after: u64, limit: usize) -> sqlx::Result<Page<EventRow>>;
    /// The whole logs of those of these executions whose logs are short, as many as fit an answer. What cannot be read is not among
    /// them.
    async fn logs(&self, ids: &[ExecutionId]) -> sqlx::Result<Vec<(ExecutionId, Vec<EventRow>)>>;
    /// Removes the oldest rows of earlier runs of an execution whose present run began with the event `run`, up to the last
    /// that is older than `before`, at most `limit` rows, and notes it; answers how many: none where there is nothing left to remove.
    /// The very first row stays, and the last event before `run`: its hash says where the chain goes on.
    async fn prune(&self, id: ExecutionId, run: u64, before: Timestamp, limit: u64) -> sqlx::Result<u64>;
    /// What was removed.
    async fn pruned(&self, id: ExecutionId) -> sqlx::Result<Option<Pruned>>;
    async fn summary(&self, id: ExecutionId) -> sqlx::Result<Option<Summary>>;
    async fn list(&self, filter: &ExecutionFilter) -> sqlx::Result<Vec<Summary>>;
    /// Which of these executions have ended.
    async fn ended(&self, ids: &[ExecutionId]) -> sqlx::Result<Vec<ExecutionId>>;
    /// The executions of these shards that have not ended.
    async fn live(&self, shards: &[u32]) -> sqlx::Result<Vec<ExecutionId>>;

    /// Has orders about locks done in their order, as far as `owner` holds the shards of the executions under the epochs that
    /// they name, and gives what is free to those that wait, the first first. All or nothing.
    async fn change_locks(&self, owner: &str, orders: &[LockOrder]) -> sqlx::Result<Granted>;
    /// Who has locks or waits for them, of the executions of these shards, in the order of tickets.
    async fn lock_rows(&self, shards: &[u32], after: i64, limit: i64) -> sqlx::Result<Vec<LockRow>>;
    /// How many wait before an execution for the locks that it waits for.
    async fn lock_places(&self, id: ExecutionId) -> sqlx::Result<Vec<(Holder, u32)>>;

    /// Makes the shards where there are none yet; answers how many there are.
    async fn make_shards(&self, count: u32) -> sqlx::Result<u32>;
    /// Notes that a replica lives for another lease; answers with all that do, itself among them, in the order of ids.
    async fn announce(&self, replica: &Replica, lease: Duration) -> sqlx::Result<Vec<Replica>>;
    /// Takes shards for `owner`, at most so many, each with the next epoch: those that nobody holds or whose lease has ended
    /// by the database's clock; with `take_over` any that another holds, too.
    async fn claim(&self, owner: &str, most: usize, lease: Duration, take_over: bool) -> sqlx::Result<Vec<Held>>;
    /// Keeps the lease on all shards of `owner`; answers which those are.
    async fn renew(&self, owner: &str, lease: Duration) -> sqlx::Result<Vec<Held>>;
    /// Gives shards back at once, so that another can take them.
    async fn release(&self, owner: &str, shards: &[u32]) -> sqlx::Result<()>;
    /// Gives all shards back, and lives no more.
    async fn leave(&self, owner: &str) -> sqlx::Result<()>;
    /// Who writes which shard; those that nobody does are left out.
    async fn owners(&self) -> sqlx::Result<Vec<Owner>>;

    /// Stores version 1.
    async fn create_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written>;
    /// Stores the version after `row.version - 1`.
    async fn update_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written>;
    /// Archives it where it is active, and its newest version the expected one; answers whether it did.
    async fn archive_workflow(&self, id: WorkflowId, expected: Option<u32>, now: Timestamp) -> sqlx::Result<bool>;
    /// One version, the newest for `None`. The namespace is a fence.
    async fn workflow(
        &self,
        namespace: &Namespace,
        workflow: &WorkflowRef,
        version: Option<u32>,
    ) -> sqlx::Result<Option<WorkflowRow>>;
    /// The newest versions, in the order of ids; fewer than the limit where they are large.
    async fn workflows(&self, filter: &WorkflowFilter) -> sqlx::Result<Page<WorkflowRow>>;

    /// Does it answer?
    async fn ping(&self) -> sqlx::Result<()>;
    async fn close(&self);
}
