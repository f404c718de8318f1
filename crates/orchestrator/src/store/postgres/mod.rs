//! The log, the workflows and the shards in PostgreSQL.

mod append;
mod executions;
mod history;
mod locks;
mod shards;
mod workflows;

use std::time::Duration;

use ::store::{Page, Postgres};
use async_trait::async_trait;
use domain::{ExecutionId, Namespace, Timestamp, WorkflowId};
use tracing::Instrument as _;
use workflow::Holder;

use super::{
    Append, AppendError, EventRow, ExecutionFilter, Granted, Held, LockOrder, LockRow, Owner, Pruned, Replica, SHORT,
    Store, Summary, WorkflowFilter, WorkflowRef, WorkflowRow, Written,
};

/// Connections for the lease and for commits alone: one each, and a second way where one of them has gone silent.
const KEPT_APART: u32 = 2;

/// A schema in PostgreSQL.
pub(super) struct PostgresStore {
    /// For what users and the recovery read, and for workflows.
    shared: Postgres,
    /// For the lease and for commits: no list that a user reads may keep them waiting.
    own: Postgres,
}

impl PostgresStore {
    pub(super) fn new(postgres: Postgres) -> Self {
        Self { own: postgres.apart(KEPT_APART), shared: postgres }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn append(&self, owner: &str, append: &Append) -> Result<(), AppendError> {
        let appended = append::append(&self.own, owner, append).instrument(self.own.span("INSERT", "execution_events"));
        self.own.limited(appended).await
    }

    async fn events(&self, id: ExecutionId, after: u64, limit: usize) -> sqlx::Result<Page<EventRow>> {
        let read = executions::events(&self.shared, id, after, limit);
        self.shared.limited(read.instrument(self.shared.span("SELECT", "execution_events"))).await
    }

    async fn logs(&self, ids: &[ExecutionId]) -> sqlx::Result<Vec<(ExecutionId, Vec<EventRow>)>> {
        let logs = executions::logs(&self.shared, ids, SHORT);
        self.shared.limited(logs.instrument(self.shared.span("SELECT", "execution_events"))).await
    }

    async fn prune(&self, id: ExecutionId, run: u64, before: Timestamp, limit: u64) -> sqlx::Result<u64> {
        let pruned = history::prune(&self.shared, id, run, before, limit);
        self.shared.limited(pruned.instrument(self.shared.span("DELETE", "execution_events"))).await
    }

    async fn pruned(&self, id: ExecutionId) -> sqlx::Result<Option<Pruned>> {
        let read = history::pruned(&self.shared, id).instrument(self.shared.span("SELECT", "executions"));
        self.shared.limited(read).await
    }

    async fn summary(&self, id: ExecutionId) -> sqlx::Result<Option<Summary>> {
        let read = executions::summary(&self.shared, id).instrument(self.shared.span("SELECT", "executions"));
        self.shared.limited(read).await
    }

    async fn list(&self, filter: &ExecutionFilter) -> sqlx::Result<Vec<Summary>> {
        let read = executions::list(&self.shared, filter).instrument(self.shared.span("SELECT", "executions"));
        self.shared.limited(read).await
    }

    async fn ended(&self, ids: &[ExecutionId]) -> sqlx::Result<Vec<ExecutionId>> {
        self.shared.limited(executions::ended(&self.shared, ids)).await
    }

    async fn live(&self, shards: &[u32]) -> sqlx::Result<Vec<ExecutionId>> {
        self.shared.limited(executions::live(&self.shared, shards)).await
    }

    async fn change_locks(&self, owner: &str, orders: &[LockOrder]) -> sqlx::Result<Granted> {
        let changed = locks::change(&self.shared, owner, orders).instrument(self.shared.span("UPDATE", "locks"));
        self.shared.limited(changed).await
    }

    async fn lock_rows(&self, shards: &[u32], after: i64, limit: i64) -> sqlx::Result<Vec<LockRow>> {
        self.shared.limited(locks::rows(&self.shared, shards, after, limit)).await
    }

    async fn lock_places(&self, id: ExecutionId) -> sqlx::Result<Vec<(Holder, u32)>> {
        self.shared.limited(locks::places(&self.shared, id)).await
    }

    async fn make_shards(&self, count: u32) -> sqlx::Result<u32> {
        self.own.limited(shards::make(&self.own, count)).await
    }

    async fn announce(&self, replica: &Replica, lease: Duration) -> sqlx::Result<Vec<Replica>> {
        self.own.limited(shards::announce(&self.own, replica, lease)).await
    }

    async fn claim(&self, owner: &str, most: usize, lease: Duration, take_over: bool) -> sqlx::Result<Vec<Held>> {
        self.own.limited(shards::claim(&self.own, owner, most, lease, take_over)).await
    }

    async fn renew(&self, owner: &str, lease: Duration) -> sqlx::Result<Vec<Held>> {
        self.own.limited(shards::renew(&self.own, owner, lease)).await
    }

    async fn release(&self, owner: &str, shards: &[u32]) -> sqlx::Result<()> {
        self.own.limited(shards::release(&self.own, owner, shards)).await
    }

    async fn leave(&self, owner: &str) -> sqlx::Result<()> {
        self.own.limited(shards::leave(&self.own, owner)).await
    }

    async fn owners(&self) -> sqlx::Result<Vec<Owner>> {
        self.shared.limited(shards::owners(&self.shared)).await
    }

    async fn create_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written> {
        workflows::create(&self.shared, row).instrument(self.shared.span("INSERT", "workflows")).await
    }

    async fn update_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written> {
        workflows::update(&self.shared, row).instrument(self.shared.span("UPDATE", "workflows")).await
    }

    async fn archive_workflow(&self, id: WorkflowId, expected: Option<u32>, now: Timestamp) -> sqlx::Result<bool> {
        workflows::archive(&self.shared, id, expected, now).await
    }

    async fn workflow(
        &self,
        namespace: &Namespace,
        workflow: &WorkflowRef,
        version: Option<u32>,
    ) -> sqlx::Result<Option<WorkflowRow>> {
        let read = workflows::get(&self.shared, namespace, workflow, version);
        self.shared.limited(read.instrument(self.shared.span("SELECT", "workflows"))).await
    }

    async fn workflows(&self, filter: &WorkflowFilter) -> sqlx::Result<Page<WorkflowRow>> {
        workflows::list(&self.shared, filter).instrument(self.shared.span("SELECT", "workflows")).await
    }

    async fn ping(&self) -> sqlx::Result<()> {
        self.shared.ping().await
    }

    async fn close(&self) {
        self.own.close().await;
        self.shared.close().await;
    }
}

/// A number that the database keeps as a signed one; those of ours are small.
fn small<T: TryFrom<i32>>(number: i32) -> sqlx::Result<T>
where
    T::Error: std::error::Error + Send + Sync + 'static,
{
    T::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
