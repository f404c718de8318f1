//! Removing what earlier runs of an execution have left.

use domain::{ExecutionId, Timestamp};
use store::Sqlite;

use crate::store::key;

/// What is left has no gap after the oldest of it, so that a portion of it is a range of numbers. A row may hold several events.
const PRUNE: &str = "DELETE FROM execution_events WHERE execution_id = ?1 AND sequence > 1 AND sequence < \
    (SELECT min(sequence) FROM execution_events WHERE execution_id = ?1 AND sequence > 1 \
     AND (at >= ?2 OR sequence + MAX(count, 1) > ?3)) \
    AND sequence < (SELECT min(sequence) FROM execution_events WHERE execution_id = ?1 AND sequence > 1) + ?4";

pub(super) async fn prune(
    sqlite: &Sqlite,
    id: ExecutionId,
    run: u64,
    before: Timestamp,
    limit: u64,
) -> sqlx::Result<u64> {
    let last = run.saturating_sub(1) as i64;
    let query = sqlx::query(PRUNE).bind(key(id)).bind(before.as_micros()).bind(last).bind(limit as i64);
    Ok(query.execute(&sqlite.writer).await?.rows_affected())
}
