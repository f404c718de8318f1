//! Removing what earlier runs of an execution have left.

use domain::{ExecutionId, Timestamp};
use sqlx::Row as _;
use store::Sqlite;

use super::executions::part;
use crate::store::{Pruned, key};

/// The last row that goes. It is looked for among the oldest alone, so that nobody waits long for it; all before it go as well, also
/// one that says to be younger: then a clock was wrong. A row may hold several events.
const LAST: &str = "WITH oldest AS MATERIALIZED (\
        SELECT sequence, at, count FROM execution_events WHERE execution_id = ?1 AND sequence > 1 ORDER BY sequence LIMIT ?4 + 0) \
    SELECT execution_id, sequence, at, data, hash, count FROM execution_events WHERE execution_id = ?1 AND sequence = \
        (SELECT max(sequence) FROM oldest WHERE at < ?2 AND sequence + MAX(count, 1) <= ?3)";
const DELETE: &str = "DELETE FROM execution_events WHERE execution_id = ?1 AND sequence > 1 AND sequence <= ?2";
const NOTE: &str = "UPDATE executions SET pruned_to = ?2, pruned_hash = ?3 WHERE id = ?1 AND pruned_to < ?2";

pub(super) async fn prune(
    sqlite: &Sqlite,
    id: ExecutionId,
    run: u64,
    before: Timestamp,
    limit: u64,
) -> sqlx::Result<u64> {
    let key = key(id);
    let query = sqlx::query(LAST).bind(&key).bind(before.as_micros()).bind(run.saturating_sub(1) as i64);
    let last = query.bind(limit as i64).fetch_optional(&sqlite.reader).await?;
    let Some(last) = last.map(|row| part(&row)?.into_last()).transpose()? else { return Ok(0) };
    let to = last.sequence as i64;
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
    let removed = sqlx::query(DELETE).bind(&key).bind(to).execute(&mut *transaction).await?;
    sqlx::query(NOTE).bind(&key).bind(to).bind(last.hash).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(removed.rows_affected())
}

pub(super) async fn pruned(sqlite: &Sqlite, id: ExecutionId) -> sqlx::Result<Option<Pruned>> {
    let query = sqlx::query("SELECT pruned_to, pruned_hash FROM executions WHERE id = ? AND pruned_to > 0");
    let row = query.bind(key(id)).fetch_optional(&sqlite.reader).await?;
    row.map(|row| Ok(Pruned { to: row.try_get::<i64, _>(0)? as u64, hash: row.try_get(1)? })).transpose()
}
