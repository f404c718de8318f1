//! Removing what earlier runs of an execution have left.

use domain::{ExecutionId, Timestamp};
use store::Postgres;

use crate::store::key;

/// What is left has no gap after the oldest of it, so that a portion of it is a range of numbers. A row may hold several events.
const PRUNE: &str = "DELETE FROM execution_events WHERE execution_id = $1 AND sequence > 1 AND sequence < \
    (SELECT min(sequence) FROM execution_events WHERE execution_id = $1 AND sequence > 1 \
     AND (at >= $2 OR sequence + GREATEST(count, 1) > $3)) \
    AND sequence < (SELECT min(sequence) FROM execution_events WHERE execution_id = $1 AND sequence > 1) + $4";

pub(super) async fn prune(
    postgres: &Postgres,
    id: ExecutionId,
    run: u64,
    before: Timestamp,
    limit: u64,
) -> sqlx::Result<u64> {
    let last = run.saturating_sub(1) as i64;
    let mut connection = postgres.lend().await?;
    let query = sqlx::query(PRUNE).bind(key(id)).bind(before.to_datetime()).bind(last).bind(limit as i64);
    let pruned = query.execute(&mut *connection).await;
    connection.give_back();
    Ok(pruned?.rows_affected())
}
