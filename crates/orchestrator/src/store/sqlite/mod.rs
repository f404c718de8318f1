//! One SQLite file. What it says about itself is in the migrations.

mod executions;
mod history;
mod journal;
mod locks;
mod place;
mod shards;
mod workflows;

use std::time::Duration;

use async_trait::async_trait;
use domain::{ExecutionId, Namespace, Timestamp, WorkflowId};
use store::{Page, Sqlite};
use tracing::Instrument as _;
use workflow::Holder;

use self::journal::Journal;
use super::{
    Append, AppendError, Arrears, EventRow, ExecutionFilter, Granted, Held, LockOrder, LockRow, Owner, Pruned, Replica,
    SHORT, Store, Summary, WorkflowFilter, WorkflowRef, WorkflowRow, Written,
};

/// A SQLite file.
pub(super) struct SqliteStore {
    sqlite: Sqlite,
    journal: Journal,
}

impl SqliteStore {
    /// With everything in its place that was committed before.
    pub(super) async fn open(sqlite: Sqlite) -> sqlx::Result<Self> {
        let journal = Journal::open(sqlite.clone()).await?;
        Ok(Self { sqlite, journal })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn append(&self, owner: &str, append: &Append) -> Result<(), AppendError> {
        self.journal.append(owner, append).instrument(self.sqlite.span("INSERT", "journal")).await
    }

    fn arrears(&self) -> Arrears {
        self.journal.arrears()
    }

    async fn settle(&self) -> sqlx::Result<()> {
        self.journal.settle_some().await.map(drop)
    }

    async fn events(&self, id: ExecutionId, after: u64, limit: usize) -> sqlx::Result<Page<EventRow>> {
        self.journal.settle_of(id).await?;
        executions::events(&self.sqlite, id, after, limit)
            .instrument(self.sqlite.span("SELECT", "execution_events"))
            .await
    }

    async fn logs(&self, ids: &[ExecutionId]) -> sqlx::Result<Vec<(ExecutionId, Vec<EventRow>)>> {
        self.journal.settle().await?;
        executions::logs(&self.sqlite, ids, SHORT).instrument(self.sqlite.span("SELECT", "execution_events")).await
    }

    async fn prune(&self, id: ExecutionId, run: u64, before: Timestamp, limit: u64) -> sqlx::Result<u64> {
        self.journal.settle_of(id).await?;
        history::prune(&self.sqlite, id, run, before, limit)
            .instrument(self.sqlite.span("DELETE", "execution_events"))
            .await
    }

    async fn pruned(&self, id: ExecutionId) -> sqlx::Result<Option<Pruned>> {
        history::pruned(&self.sqlite, id).instrument(self.sqlite.span("SELECT", "executions")).await
    }

    async fn summary(&self, id: ExecutionId) -> sqlx::Result<Option<Summary>> {
        self.journal.settle_of(id).await?;
        executions::summary(&self.sqlite, id).instrument(self.sqlite.span("SELECT", "executions")).await
    }

    async fn list(&self, filter: &ExecutionFilter) -> sqlx::Result<Vec<Summary>> {
        // On a full disk nothing can be put in its place; a list without what was committed last is better than none.
        if let Err(error) = self.journal.settle().await {
            tracing::warn!(error = errors::chain(&error), "executions are listed without what was committed last");
        }
        executions::list(&self.sqlite, filter).instrument(self.sqlite.span("SELECT", "executions")).await
    }

    async fn ended(&self, ids: &[ExecutionId]) -> sqlx::Result<Vec<ExecutionId>> {
        self.journal.settle().await?;
        executions::ended(&self.sqlite, ids).await
    }

    async fn live(&self, shards: &[u32]) -> sqlx::Result<Vec<ExecutionId>> {
        self.journal.settle().await?;
        executions::live(&self.sqlite, shards).await
    }

    async fn change_locks(&self, owner: &str, orders: &[LockOrder]) -> sqlx::Result<Granted> {
        locks::change(&self.sqlite, owner, orders).instrument(self.sqlite.span("UPDATE", "locks")).await
    }

    async fn lock_rows(&self, shards: &[u32], after: i64, limit: i64) -> sqlx::Result<Vec<LockRow>> {
        self.journal.settle().await?;
        locks::rows(&self.sqlite, shards, after, limit).await
    }

    async fn lock_places(&self, id: ExecutionId) -> sqlx::Result<Vec<(Holder, u32)>> {
        locks::places(&self.sqlite, id).await
    }

    async fn make_shards(&self, count: u32) -> sqlx::Result<u32> {
        shards::make(&self.sqlite, count).await
    }

    async fn announce(&self, replica: &Replica, lease: Duration) -> sqlx::Result<Vec<Replica>> {
        shards::announce(&self.sqlite, replica, lease).await
    }

    async fn claim(&self, owner: &str, most: usize, lease: Duration, take_over: bool) -> sqlx::Result<Vec<Held>> {
        let claimed = shards::claim(&self.sqlite, owner, most, lease, take_over).await?;
        // What whoever had them has committed may be in the journal, of which this process knows nothing. They commit nothing more.
        if !claimed.is_empty() {
            self.journal.take_over().await?;
        }
        Ok(claimed)
    }

    async fn renew(&self, owner: &str, lease: Duration) -> sqlx::Result<Vec<Held>> {
        shards::renew(&self.sqlite, owner, lease).await
    }

    async fn release(&self, owner: &str, shards: &[u32]) -> sqlx::Result<()> {
        shards::release(&self.sqlite, owner, shards).await
    }

    async fn leave(&self, owner: &str) -> sqlx::Result<()> {
        shards::leave(&self.sqlite, owner).await
    }

    async fn owners(&self) -> sqlx::Result<Vec<Owner>> {
        shards::owners(&self.sqlite).await
    }

    async fn create_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written> {
        workflows::create(&self.sqlite, row).instrument(self.sqlite.span("INSERT", "workflows")).await
    }

    async fn update_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written> {
        workflows::update(&self.sqlite, row).instrument(self.sqlite.span("UPDATE", "workflows")).await
    }

    async fn archive_workflow(&self, id: WorkflowId, expected: Option<u32>, now: Timestamp) -> sqlx::Result<bool> {
        workflows::archive(&self.sqlite, id, expected, now).await
    }

    async fn workflow(
        &self,
        namespace: &Namespace,
        workflow: &WorkflowRef,
        version: Option<u32>,
    ) -> sqlx::Result<Option<WorkflowRow>> {
        workflows::get(&self.sqlite, namespace, workflow, version)
            .instrument(self.sqlite.span("SELECT", "workflows"))
            .await
    }

    async fn workflows(&self, filter: &WorkflowFilter) -> sqlx::Result<Page<WorkflowRow>> {
        workflows::list(&self.sqlite, filter).instrument(self.sqlite.span("SELECT", "workflows")).await
    }

    async fn ping(&self) -> sqlx::Result<()> {
        self.sqlite.ping().await
    }

    async fn close(&self) {
        // What is left stays in the journal; the next start sees to it.
        if let Err(error) = self.journal.settle().await {
            tracing::warn!(error = errors::chain(&error), "commits stay in the journal");
        }
        self.sqlite.close().await;
    }
}
