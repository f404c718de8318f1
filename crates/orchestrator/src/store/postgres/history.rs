//! Removing what earlier runs of an execution have left.

use domain::{ExecutionId, Timestamp};
use store::Postgres;

use crate::store::key;

/// Looks at the oldest rows alone, so that nobody waits long for it: of them goes what is before the first that stays, so that what
/// is left has no gap after the oldest of it. A row may hold several events.
const PRUNE: &str = "WITH oldest AS MATERIALIZED (\
        SELECT sequence, at, count FROM execution_events WHERE execution_id = $1 AND sequence > 1 ORDER BY sequence LIMIT $4) \
    DELETE FROM execution_events WHERE execution_id = $1 AND sequence > 1 AND sequence < COALESCE(\
        (SELECT min(sequence) FROM oldest WHERE at >= $2 OR sequence + GREATEST(count, 1) > $3), \
        (SELECT max(sequence) + 1 FROM oldest))";

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
