//! One SQLite file. What it says about itself is in the migrations.

mod append;
mod executions;
mod shards;
mod workflows;

use async_trait::async_trait;
use domain::{ExecutionId, Namespace, Timestamp, WorkflowId};
use store::{Page, Sqlite};

use super::{
    Append, AppendError, EventRow, ExecutionFilter, Leased, Store, Summary, WorkflowFilter, WorkflowRef, WorkflowRow,
    Written,
};

/// A SQLite file.
pub(crate) struct SqliteStore(Sqlite);

impl SqliteStore {
    pub(crate) const fn new(sqlite: Sqlite) -> Self {
        Self(sqlite)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn append(&self, owner: &str, claims: &[(u32, i64)], append: &Append) -> Result<(), AppendError> {
        append::append(&self.0, owner, claims, append).await
    }

    async fn events(&self, id: ExecutionId, after: u64, limit: usize) -> sqlx::Result<Page<EventRow>> {
        executions::events(&self.0, id, after, limit).await
    }

    async fn summary(&self, id: ExecutionId) -> sqlx::Result<Option<Summary>> {
        executions::summary(&self.0, id).await
    }

    async fn list(&self, filter: &ExecutionFilter) -> sqlx::Result<Vec<Summary>> {
        executions::list(&self.0, filter).await
    }

    async fn live(&self) -> sqlx::Result<Vec<ExecutionId>> {
        executions::live(&self.0).await
    }

    async fn lease(
        &self,
        owner: &str,
        count: u32,
        now: Timestamp,
        until: Timestamp,
        take_over: bool,
    ) -> sqlx::Result<Leased> {
        shards::lease(&self.0, owner, count, now, until, take_over).await
    }

    async fn renew(&self, owner: &str, until: Timestamp) -> sqlx::Result<u64> {
        shards::renew(&self.0, owner, until).await
    }

    async fn create_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written> {
        workflows::create(&self.0, row).await
    }

    async fn update_workflow(&self, row: &WorkflowRow) -> sqlx::Result<Written> {
        workflows::update(&self.0, row).await
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
        workflows::get(&self.0, namespace, workflow, version).await
    }

    async fn workflows(&self, filter: &WorkflowFilter) -> sqlx::Result<Page<WorkflowRow>> {
        workflows::list(&self.0, filter).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

/// An id as the tables of executions keep it.
fn key(id: ExecutionId) -> Vec<u8> {
    id.to_bytes().to_vec()
}

/// The id that [`key`] was made of.
fn id_of(key: &[u8]) -> sqlx::Result<ExecutionId> {
    const RANDOM_BITS: u32 = 80;
    let bits = key.try_into().map(u128::from_be_bytes).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(ExecutionId::from_parts((bits >> RANDOM_BITS) as u64, bits & ((1 << RANDOM_BITS) - 1)))
}

/// A text column that is something of ours.
fn parsed<T>(text: &str) -> sqlx::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_keep_the_order() {
        let ids = [ExecutionId::from_parts(1, 2), ExecutionId::from_parts(1, 3), ExecutionId::from_parts(2, 0)];
        for pair in ids.windows(2) {
            assert!(key(pair[0]) < key(pair[1]));
        }
        for id in ids {
            assert_eq!(id_of(&key(id)).unwrap(), id);
        }
        assert!(id_of(b"short").is_err());
    }
}
