//! One commit of the log: three statements, however many events.

use chrono::{DateTime, Utc};
use store::Postgres;

use crate::store::{Append, AppendError, Summary, counts_list, key};

/// Locks the claimed shards that the owner holds under the claimed epochs: nobody can take one before the commit, so a
/// replica that was stopped and wakes up writes nothing (I2). In the order of ids, or two replicas could wait for each other.
const LOCK: &str = "SELECT shards.id FROM shards JOIN unnest($1::int[], $2::bigint[]) AS claimed (id, epoch) \
                    ON shards.id = claimed.id AND shards.epoch = claimed.epoch WHERE shards.owner = $3 \
                    ORDER BY shards.id FOR SHARE OF shards";

const EVENTS: &str = "INSERT INTO execution_events (execution_id, sequence, at, data, hash) \
                      SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::timestamptz[], $4::bytea[], $5::bytea[])";

/// Lists of lists have one length each in PostgreSQL: the counts come as one list, ten per row.
const SUMMARIES: &str = "INSERT INTO executions (id, namespace, shard, workflow_id, workflow_name, workflow_version, \
    created_at, status, counts, failure, ended_at, last_sequence, last_hash) \
    SELECT id, namespace, shard, workflow_id, workflow_name, workflow_version, created_at, status, \
           ($13::int[])[(row - 1) * 10 + 1 : row * 10], failure, ended_at, last_sequence, last_hash \
    FROM unnest($1::bytea[], $2::text[], $3::int[], $4::text[], $5::text[], $6::int[], $7::timestamptz[], $8::text[], \
                $9::text[], $10::timestamptz[], $11::bigint[], $12::bytea[]) \
         WITH ORDINALITY AS given (id, namespace, shard, workflow_id, workflow_name, workflow_version, created_at, status, \
                                   failure, ended_at, last_sequence, last_hash, row) \
    ON CONFLICT (id) DO UPDATE SET status = excluded.status, counts = excluded.counts, failure = excluded.failure, \
    ended_at = excluded.ended_at, last_sequence = excluded.last_sequence, last_hash = excluded.last_hash";

pub(super) async fn append(postgres: &Postgres, owner: &str, append: &Append) -> Result<(), AppendError> {
    let mut transaction = postgres.pool.begin().await?;
    let claims = append.held();
    let (ids, epochs): (Vec<_>, Vec<_>) = claims.iter().map(|held| (held.shard as i32, held.epoch)).unzip();
    let held: Vec<i32> =
        sqlx::query_scalar(LOCK).bind(ids).bind(epochs).bind(owner).fetch_all(&mut *transaction).await?;
    if held.len() != claims.len() {
        return Err(AppendError::Fenced);
    }
    let events = &append.events;
    sqlx::query(EVENTS)
        .bind(events.iter().map(|event| key(event.execution)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.sequence as i64).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.at.to_datetime()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.data.as_slice()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.hash.as_slice()).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
    write_summaries(&mut transaction, &append.summaries).await?;
    Ok(transaction.commit().await?)
}

async fn write_summaries(connection: &mut sqlx::PgConnection, summaries: &[Summary]) -> sqlx::Result<()> {
    fn column<'a, T>(summaries: &'a [Summary], value: impl FnMut(&'a Summary) -> T) -> Vec<T> {
        summaries.iter().map(value).collect()
    }
    let failure = |summary: &Summary| {
        summary
            .failure
            .as_ref()
            .map(serde_json::to_string)
            .transpose()
            .map_err(|error| sqlx::Error::Encode(error.into()))
    };
    let failures = summaries.iter().map(failure).collect::<sqlx::Result<Vec<Option<String>>>>()?;
    let ended: Vec<Option<DateTime<Utc>>> =
        column(summaries, |summary| summary.ended_at.map(domain::Timestamp::to_datetime));
    let counts: Vec<i32> =
        summaries.iter().flat_map(|summary| counts_list(summary.counts)).map(|count| count as i32).collect();
    sqlx::query(SUMMARIES)
        .bind(column(summaries, |summary| key(summary.id)))
        .bind(column(summaries, |summary| summary.namespace.as_str()))
        .bind(column(summaries, |summary| summary.shard as i32))
        .bind(column(summaries, |summary| summary.workflow_id.to_string()))
        .bind(column(summaries, |summary| summary.workflow_name.as_ref()))
        .bind(column(summaries, |summary| summary.workflow_version as i32))
        .bind(column(summaries, |summary| summary.created_at.to_datetime()))
        .bind(column(summaries, |summary| crate::app::status_text(summary.status)))
        .bind(failures)
        .bind(ended)
        .bind(column(summaries, |summary| summary.last_sequence as i64))
        .bind(column(summaries, |summary| summary.last_hash.as_slice()))
        .bind(counts)
        .execute(connection)
        .await?;
    Ok(())
}
