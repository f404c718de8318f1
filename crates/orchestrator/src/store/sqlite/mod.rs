//! One SQLite file. What it says about itself is in the migrations.

mod append;
mod executions;
mod locks;
mod shards;
mod workflows;

use std::time::Duration;

use async_trait::async_trait;
use domain::{ExecutionId, Namespace, Timestamp, WorkflowId};
use store::{Page, Sqlite};
use tracing::Instrument as _;
use workflow::Holder;

use super::{
    Append, AppendError, EventRow, ExecutionFilter, Granted, Held, LockOrder, LockRow, Owner, Replica, Store, Summary,
    WorkflowFilter, WorkflowRef, WorkflowRow, Written,
};

/// A SQLite file.
pub(super) struct SqliteStore(Sqlite);

impl SqliteStore {
    pub(super) const fn new(sqlite: Sqlite) -> Self {
        Self(sqlite)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn append(&self, owner: &str, append: &Append) -> Result<(), AppendError> {
        append::append(&self.0, owner, append).instrument(self.0.span("INSERT", "execution_events")).await
    }

    async fn events(&self, id: ExecutionId, after: u64, limit: usize) -> sqlx::Result<Page<EventRow>> {
        executions::events(&self.0, id, after, limit).instrument(self.0.span("SELECT", "execution_events")).await
    }

    async fn summary(&self, id: ExecutionId) -> sqlx::Result<Option<Summary>> {
        executions::summary(&self.0, id).instrument(self.0.span("SELECT", "executions")).await
    }

    async fn list(&self, filter: &ExecutionFilter) -> sqlx::Result<Vec<Summary>> {
        executions::list(&self.0, filter).instrument(self.0.span("SELECT", "executions")).await
    }

    async fn ended(&self, ids: &[ExecutionId]) -> sqlx::Result<Vec<ExecutionId>> {
        executions::ended(&self.0, ids).await
    }

    async fn live(&self, shards: &[u32]) -> sqlx::Result<Vec<ExecutionId>> {
        executions::live(&self.0, shards).await
    }

    async fn change_locks(&self, owner: &str, orders: &[LockOrder]) -> sqlx::Result<Granted> {
        locks::change(&self.0, owner, orders).instrument(self.0.span("UPDATE", "locks")).await
    }

    async fn lock_rows(&self, shards: &[u32], after: i64, limit: i64) -> sqlx::Result<Vec<LockRow>> {
        locks::rows(&self.0, shards, after, limit).await
    }

    async fn lock_places(&self, id: ExecutionId) -> sqlx::Result<Vec<(Holder, u32)>> {
        locks::places(&self.0, id).await
    }

    async fn make_shards(&self, count: u32) -> sqlx::Result<u32> {
        shards::make(&self.0, count).await
    }

    async fn announce(&self, replica: &Replica, lease: Duration) -> sqlx::Result<Vec<Replica>> {
        shards::announce(&self.0, replica, lease).await
    }

    async fn claim(&self, owner: &str, most: usize, lease: Duration, take_over: bool) -> sqlx::Result<Vec<Held>> {
        shards::claim(&self.0, owner, most, lease, take_over).await
    }

    async fn renew(&self, owner: &str, lease: Duration) -> sqlx::Result<Vec<Held>> {
        shards::renew(&self.0, owner, lease).await
    }

    async fn release(&self, owner: &str, shards: &[u32]) -> sqlx::Result<()> {
        shards::release(&self.0, owner, shards).await
    }

    async fn leave(&self, owner: &str) -> sqlx::Result<()> {
        shards::leave(&self.0, owner).await
    }

    async fn owners(&self) -> sqlx::Result<Vec<Owner>> {
        shards::owners(&self.0).await
    }

    async fn create_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written> {
        workflows::create(&self.0, row).instrument(self.0.span("INSERT", "workflows")).await
    }

    async fn update_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written> {
        workflows::update(&self.0, row).instrument(self.0.span("UPDATE", "workflows")).await
    }

    async fn archive_workflow(&self, id: WorkflowId, now: Timestamp) -> sqlx::Result<bool> {
        workflows::archive(&self.0, id, now).await
    }

    async fn workflow(
        &self,
        namespace: &Namespace,
        workflow: &WorkflowRef,
        version: Option<u32>,
    ) -> sqlx::Result<Option<WorkflowRow>> {
        workflows::get(&self.0, namespace, workflow, version).instrument(self.0.span("SELECT", "workflows")).await
    }

    async fn workflows(&self, filter: &WorkflowFilter) -> sqlx::Result<Page<WorkflowRow>> {
        workflows::list(&self.0, filter).instrument(self.0.span("SELECT", "workflows")).await
    }

    async fn ping(&self) -> sqlx::Result<()> {
        self.0.ping().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
