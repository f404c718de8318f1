//! One commit of the log: one statement, which is its own transaction, however many events there are.

use domain::Timestamp;
use store::Postgres;

use crate::store::{Append, AppendError, Summary, counts_list, key, pack};

/// Locks the claimed shards that the owner holds under the claimed epochs, and writes where that is all of them.
///
/// Nobody can take a shard that is locked before the commit, so a replica that was stopped and wakes up writes nothing (I2). In the
/// order of ids, or two replicas could wait for each other. A log that does not end before its events fails it: by the key of the
/// events, or, where those were removed, by a division by zero, since one statement has no other way to undo itself. Lists of lists have one length each in PostgreSQL: the counts come as
/// one list, ten per row.
const APPEND: &str = "WITH held AS MATERIALIZED (\
        SELECT shards.id FROM shards JOIN unnest($1::int[], $2::bigint[]) AS claimed (id, epoch) \
        ON shards.id = claimed.id AND shards.epoch = claimed.epoch WHERE shards.owner = $3 \
        ORDER BY shards.id FOR SHARE OF shards), \
    events AS (\
        INSERT INTO execution_events (execution_id, sequence, at, data, count, hash) \
        SELECT *, '' FROM unnest($4::bytea[], $5::bigint[], $6::timestamptz[], $7::bytea[], $8::int[]) \
        WHERE (SELECT count(*) FROM held) = cardinality($1)), \
    summaries AS (\
        INSERT INTO executions (id, namespace, shard, workflow_id, workflow_name, workflow_version, created_at, status, \
                                counts, failure, ended_at, last_sequence, last_hash) \
        SELECT id, namespace, shard, workflow_id, workflow_name, workflow_version, created_at, status, \
               ($21::int[])[(row - 1) * 10 + 1 : row * 10], failure, ended_at, last_sequence, last_hash \
        FROM unnest($9::bytea[], $10::text[], $11::int[], $12::text[], $13::text[], $14::int[], $15::timestamptz[], \
                    $16::text[], $17::text[], $18::timestamptz[], $19::bigint[], $20::bytea[]) \
             WITH ORDINALITY AS given (id, namespace, shard, workflow_id, workflow_name, workflow_version, created_at, \
                                       status, failure, ended_at, last_sequence, last_hash, row) \
        WHERE (SELECT count(*) FROM held) = cardinality($1) \
        ON CONFLICT (id) DO UPDATE SET status = excluded.status, counts = excluded.counts, failure = excluded.failure, \
        ended_at = excluded.ended_at, last_sequence = excluded.last_sequence, last_hash = excluded.last_hash \
        WHERE executions.last_sequence < excluded.last_sequence RETURNING 1), \
    counted AS (SELECT (SELECT count(*) FROM held) AS held, (SELECT count(*) FROM summaries) AS written) \
    SELECT held / CASE WHEN held < cardinality($1) OR written = cardinality($9) THEN 1 ELSE 0 END FROM counted";
/// SQLSTATE of a division by zero.
const DIVERGED: &str = "22012";

pub(super) async fn append(postgres: &Postgres, owner: &str, append: &Append) -> Result<(), AppendError> {
    let claims = append.held();
    let (ids, epochs): (Vec<_>, Vec<_>) = claims.iter().map(|held| (held.shard as i32, held.epoch)).unzip();
    let (parts, summaries) = (pack::parts(&append.events), &append.summaries);
    let failures = summaries.iter().map(failure_text).collect::<sqlx::Result<Vec<_>>>()?;
    let counts: Vec<_> =
        summaries.iter().flat_map(|summary| counts_list(summary.counts)).map(|count| count as i32).collect();
    let mut connection = postgres.lend().await?;
    let held = sqlx::query_scalar(APPEND)
        .bind(ids)
        .bind(epochs)
        .bind(owner)
        .bind(column(&parts, |part| part.execution.as_slice()))
        .bind(column(&parts, |part| part.sequence))
        .bind(column(&parts, |part| Timestamp::from_micros(part.at).to_datetime()))
        .bind(column(&parts, |part| part.data.as_slice()))
        .bind(column(&parts, |part| part.count as i32))
        .bind(column(summaries, |summary| key(summary.id)))
        .bind(column(summaries, |summary| summary.namespace.as_str()))
        .bind(column(summaries, |summary| summary.shard as i32))
        .bind(column(summaries, |summary| summary.workflow_id.to_string()))
        .bind(column(summaries, |summary| summary.workflow_name.as_ref()))
        .bind(column(summaries, |summary| summary.workflow_version as i32))
        .bind(column(summaries, |summary| summary.created_at.to_datetime()))
        .bind(column(summaries, |summary| crate::app::status_text(summary.status)))
        .bind(failures)
        .bind(column(summaries, |summary| summary.ended_at.map(Timestamp::to_datetime)))
        .bind(column(summaries, |summary| summary.last_sequence as i64))
        .bind(column(summaries, |summary| summary.last_hash.as_slice()))
        .bind(counts)
        // All there is, not the first row: that comes before the commit, and a server that dies in between has sent it.
        .fetch_all(&mut *connection)
        .await;
    connection.give_back();
    let held: Vec<i64> = held.map_err(refusal)?;
    if held == [claims.len() as i64] { Ok(()) } else { Err(AppendError::Fenced) }
}

fn refusal(error: sqlx::Error) -> AppendError {
    let is_diverged = error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation() || error.code().as_deref() == Some(DIVERGED));
    if is_diverged { AppendError::Diverged } else { error.into() }
}

fn column<'a, R, T>(rows: &'a [R], value: impl FnMut(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn failure_text(summary: &Summary) -> sqlx::Result<Option<String>> {
    let text = summary.failure.as_ref().map(serde_json::to_string).transpose();
    text.map_err(|error| sqlx::Error::Encode(error.into()))
}
