//! What is kept, behind one trait: SQLite now, and whatever else passes the same tests.
//!
//! Everything about executions is written by [`Store::append`] alone: events and summaries together, in one transaction that
//! checks the epoch of every shard that it touches (I2).

mod sqlite;

use std::sync::Arc;

use ::store::Page;
use async_trait::async_trait;
use domain::{ExecutionId, Namespace, Timestamp, WorkflowId};
use workflow::{Counts, Failure, Status};

pub(crate) use self::sqlite::SqliteStore;

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
#[derive(Clone, Debug)]
pub(crate) struct EventRow {
    pub(crate) sequence: u64,
    pub(crate) at: Timestamp,
    pub(crate) data: Vec<u8>,
    pub(crate) hash: Vec<u8>,
}

/// The summary of an execution.
#[derive(Clone, Debug)]
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
}

/// Why an append wrote nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// Another replica holds a shard now.
    #[error("a shard belongs to another replica now")]
    Fenced,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

/// A version of a workflow with what its workflow says.
#[derive(Clone, Debug)]
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
    pub(crate) limit: usize,
}

/// Which executions to list, newest first.
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
    pub(crate) limit: i64,
}

/// Which shards a replica got, and under which epochs.
#[derive(Clone, Debug)]
pub(crate) enum Leased {
    /// All, by id.
    Shards(Vec<i64>),
    /// So many belong to another.
    Others(usize),
}

/// Where everything is kept. Every call sees what was committed before it began.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// Appends all or nothing, where `owner` holds the shards that it touches under the epochs in `claims`.
    async fn append(&self, owner: &str, claims: &[(u32, i64)], append: &Append) -> Result<(), AppendError>;
    /// Events after `after`, oldest first, at most `limit`; fewer where they are large.
    async fn events(&self, id: ExecutionId, after: u64, limit: usize) -> sqlx::Result<Page<EventRow>>;
    async fn summary(&self, id: ExecutionId) -> sqlx::Result<Option<Summary>>;
    async fn list(&self, filter: &ExecutionFilter) -> sqlx::Result<Vec<Summary>>;
    /// All executions that have not ended.
    async fn live(&self) -> sqlx::Result<Vec<ExecutionId>>;

    /// Takes all shards for `owner`, each with the next epoch; makes `count` of them where there are none yet. Takes them from
    /// a living lease only where `take_over` says so.
    async fn lease(
        &self,
        owner: &str,
        count: u32,
        now: Timestamp,
        until: Timestamp,
        take_over: bool,
    ) -> sqlx::Result<Leased>;
    /// Keeps the lease on all shards of `owner`; answers how many those are.
    async fn renew(&self, owner: &str, until: Timestamp) -> sqlx::Result<u64>;

    /// Stores version 1.
    async fn create_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written>;
    /// Stores the version after `row.version - 1`.
    async fn update_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written>;
    /// Answers whether it was active.
    async fn archive_workflow(&self, id: WorkflowId, now: Timestamp) -> sqlx::Result<bool>;
    /// One version, the newest for `None`. The namespace is a fence.
    async fn workflow(
        &self,
        namespace: &Namespace,
        workflow: &WorkflowRef,
        version: Option<u32>,
    ) -> sqlx::Result<Option<WorkflowRow>>;
    /// The newest versions, in the order of ids; fewer than the limit where they are large.
    async fn workflows(&self, filter: &WorkflowFilter) -> sqlx::Result<Page<WorkflowRow>>;

    async fn close(&self);
}
