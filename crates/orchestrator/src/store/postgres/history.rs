//! Removing what earlier runs of an execution have left.

use domain::{ExecutionId, Timestamp};
use sqlx::Row as _;
use store::Postgres;

use super::executions::part;
use crate::store::{Pruned, key, pack::Part};

/// The last row that goes. It is looked for among the oldest alone, so that nobody waits long for it; all before it go as well, also
/// one that says to be younger: then a clock was wrong. A row may hold several events.
const LAST: &str = "WITH oldest AS MATERIALIZED (\
        SELECT sequence, at, count FROM execution_events WHERE execution_id = $1 AND sequence > 1 ORDER BY sequence LIMIT $4) \
    SELECT execution_id, sequence, at, data, hash, count FROM execution_events WHERE execution_id = $1 AND sequence = \
        (SELECT max(sequence) FROM oldest WHERE at < $2 AND sequence + GREATEST(count, 1) <= $3)";
/// What a replica that was slower removes may have been removed, and more.
const PRUNE: &str = "WITH removed AS (\
        DELETE FROM execution_events WHERE execution_id = $1 AND sequence > 1 AND sequence <= $2 RETURNING 1), \
    noted AS (\
        UPDATE executions SET pruned_to = $2, pruned_hash = $3 WHERE id = $1 AND pruned_to < $2) \
    SELECT count(*) FROM removed";

pub(super) async fn prune(
    postgres: &Postgres,
    id: ExecutionId,
    run: u64,
    before: Timestamp,
    limit: u64,
) -> sqlx::Result<u64> {
    let Some(last) = last_to_go(postgres, id, run, before, limit).await? else { return Ok(0) };
    let last = last.into_last()?;
    let mut connection = postgres.lend().await?;
    let query = sqlx::query_scalar(PRUNE).bind(key(id)).bind(last.sequence as i64).bind(last.hash);
    // All there is, not the first row: that comes before the commit.
    let removed: sqlx::Result<Vec<i64>> = query.fetch_all(&mut *connection).await;
    connection.give_back();
    Ok(removed?.into_iter().sum::<i64>() as u64)
}

async fn last_to_go(
    postgres: &Postgres,
    id: ExecutionId,
    run: u64,
    before: Timestamp,
    limit: u64,
) -> sqlx::Result<Option<Part>> {
    let mut connection = postgres.lend().await?;
    let query = sqlx::query(LAST).bind(key(id)).bind(before.to_datetime()).bind(run.saturating_sub(1) as i64);
    let row = query.bind(limit as i64).fetch_optional(&mut *connection).await;
    connection.give_back();
    row?.as_ref().map(part).transpose()
}

pub(super) async fn pruned(postgres: &Postgres, id: ExecutionId) -> sqlx::Result<Option<Pruned>> {
    let mut connection = postgres.lend().await?;
    let query = sqlx::query("SELECT pruned_to, pruned_hash FROM executions WHERE id = $1 AND pruned_to > 0");
    let row = query.bind(key(id)).fetch_optional(&mut *connection).await;
    connection.give_back();
    row?.map(|row| Ok(Pruned { to: row.try_get::<i64, _>(0)? as u64, hash: row.try_get(1)? })).transpose()
}
