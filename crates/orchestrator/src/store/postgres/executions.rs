//! Reading executions and their logs.

use chrono::{DateTime, Utc};
use domain::{ExecutionId, Timestamp};
use sqlx::{QueryBuilder, Row as _, postgres::PgRow};
use store::{PAGE_BYTES, Page, Postgres};

use super::small;
use crate::store::{
    EventRow, ExecutionFilter, Summary, counts_of, id_of, key,
    pack::{self, Part},
    parsed, unreadable,
};

const COLUMNS: &str = "id, namespace, shard, workflow_id, workflow_name, workflow_version, created_at, status, counts, \
                       failure, ended_at, last_sequence, last_hash";

pub(super) async fn events(
    postgres: &Postgres,
    id: ExecutionId,
    after: u64,
    limit: usize,
) -> sqlx::Result<Page<EventRow>> {
    let mut connection = postgres.lend().await?;
    // The first row may begin before what is wanted, and where what follows it was removed it may end before that. The server would
    // send the whole limit, however large: it is told where there are enough events, or bytes. The row after that is there as well,
    // and says that there is more.
    let query = "SELECT execution_id, sequence, at, data, hash, count FROM (\
                     SELECT execution_id, sequence, at, data, hash, count, \
                            sum(octet_length(data)) OVER earlier - octet_length(data) AS bytes_before, \
                            sum(GREATEST(count, 1)) OVER earlier - GREATEST(count, 1) AS events_before, \
                            first_value(GREATEST(count, 1)) OVER earlier AS events_first, \
                            row_number() OVER earlier AS number \
                     FROM execution_events WHERE execution_id = $1 \
                     AND sequence >= COALESCE((SELECT MAX(sequence) FROM execution_events \
                                               WHERE execution_id = $1 AND sequence <= $2), 0) \
                     AND sequence + GREATEST(count, 1) > $2 \
                     WINDOW earlier AS (ORDER BY sequence) ORDER BY sequence LIMIT $3) AS page \
                 WHERE (bytes_before <= $4 AND events_before < $3 + events_first) OR number = 2 ORDER BY sequence";
    let rows = sqlx::query(query)
        .bind(key(id))
        .bind(after as i64 + 1)
        .bind(limit as i64 + 1)
        .bind(PAGE_BYTES as i64)
        .fetch(&mut *connection);
    let page = pack::read(rows, after, limit, part).await;
    connection.give_back();
    page
}

pub(super) async fn logs(
    postgres: &Postgres,
    ids: &[ExecutionId],
    most_events: i64,
) -> sqlx::Result<Vec<(ExecutionId, Vec<EventRow>)>> {
    let query = "SELECT execution_id, sequence, at, data, hash, count FROM executions \
                 JOIN execution_events ON execution_id = id WHERE id = ANY($1) AND last_sequence <= $2 \
                 ORDER BY execution_id, sequence";
    let ids: Vec<_> = ids.iter().map(|id| key(*id)).collect();
    let mut connection = postgres.lend().await?;
    let logs = pack::read_logs(sqlx::query(query).bind(ids).bind(most_events).fetch(&mut *connection), part).await;
    connection.give_back();
    logs
}

/// A row of the log.
pub(super) fn part(row: &PgRow) -> sqlx::Result<Part> {
    Ok(Part {
        execution: row.try_get(0)?,
        sequence: row.try_get(1)?,
        at: Timestamp::from_datetime(row.try_get(2)?).as_micros(),
        data: row.try_get(3)?,
        hash: row.try_get(4)?,
        count: row.try_get::<i32, _>(5)? as u32,
    })
}

pub(super) async fn summary(postgres: &Postgres, id: ExecutionId) -> sqlx::Result<Option<Summary>> {
    let mut query = QueryBuilder::<sqlx::Postgres>::new("SELECT ");
    query.push(COLUMNS).push(" FROM executions WHERE id = ").push_bind(key(id));
    let mut connection = postgres.lend().await?;
    let row = query.build().fetch_optional(&mut *connection).await;
    connection.give_back();
    row?.as_ref().map(decode).transpose()
}

pub(super) async fn ended(postgres: &Postgres, ids: &[ExecutionId]) -> sqlx::Result<Vec<ExecutionId>> {
    let ids: Vec<_> = ids.iter().map(|id| key(*id)).collect();
    let query = "SELECT id FROM executions WHERE ended_at IS NOT NULL AND id = ANY($1)";
    let mut connection = postgres.lend().await?;
    let keys = sqlx::query_scalar(query).bind(ids).fetch_all(&mut *connection).await;
    connection.give_back();
    let keys: Vec<Vec<u8>> = keys?;
    keys.iter().map(|key| id_of(key)).collect()
}

pub(super) async fn live(postgres: &Postgres, shards: &[u32]) -> sqlx::Result<Vec<ExecutionId>> {
    let shards: Vec<_> = shards.iter().map(|shard| *shard as i32).collect();
    let query = "SELECT id FROM executions WHERE ended_at IS NULL AND shard = ANY($1) ORDER BY shard, id";
    let mut connection = postgres.lend().await?;
    let keys = sqlx::query_scalar(query).bind(shards).fetch_all(&mut *connection).await;
    connection.give_back();
    let keys: Vec<Vec<u8>> = keys?;
    keys.iter().map(|key| id_of(key)).collect()
}

pub(super) async fn list(postgres: &Postgres, filter: &ExecutionFilter) -> sqlx::Result<Vec<Summary>> {
    let mut query = QueryBuilder::<sqlx::Postgres>::new("SELECT ");
    query.push(COLUMNS).push(" FROM executions WHERE namespace = ").push_bind(filter.namespace.as_str().to_owned());
    if let Some(id) = filter.workflow_id {
        query.push(" AND workflow_id = ").push_bind(id.to_string());
    }
    if let Some(name) = &filter.workflow_name {
        query.push(" AND workflow_name = ").push_bind(name.clone());
    }
    if !filter.statuses.is_empty() {
        let statuses: Vec<_> = filter.statuses.iter().map(|status| crate::app::status_text(*status)).collect();
        query.push(" AND status = ANY(").push_bind(statuses).push(")");
    }
    if let Some(from) = filter.created_after {
        query.push(" AND created_at >= ").push_bind(from.to_datetime());
    }
    if let Some(before) = filter.created_before {
        query.push(" AND created_at < ").push_bind(before.to_datetime());
    }
    let (beyond, order) = if filter.oldest_first { (">", "ASC") } else { ("<", "DESC") };
    if let Some((at, id)) = filter.after {
        query
            .push(format_args!(" AND (created_at, id) {beyond} ("))
            .push_bind(at.to_datetime())
            .push(", ")
            .push_bind(key(id))
            .push(")");
    }
    query.push(format_args!(" ORDER BY created_at {order}, id {order} LIMIT ")).push_bind(filter.limit);
    let mut connection = postgres.lend().await?;
    let rows = query.build().fetch_all(&mut *connection).await;
    connection.give_back();
    rows?.iter().map(decode).collect()
}

fn decode(row: &PgRow) -> sqlx::Result<Summary> {
    let failure: Option<&str> = row.try_get("failure")?;
    let failure = failure.map(serde_json::from_str).transpose();
    let counts: Vec<i32> = row.try_get("counts")?;
    let counts: Vec<u32> = counts.into_iter().map(small).collect::<Result<_, _>>()?;
    Ok(Summary {
        id: id_of(row.try_get("id")?)?,
        namespace: parsed(row.try_get("namespace")?)?,
        shard: small(row.try_get("shard")?)?,
        workflow_id: parsed(row.try_get("workflow_id")?)?,
        workflow_name: row.try_get::<&str, _>("workflow_name")?.into(),
        workflow_version: small(row.try_get("workflow_version")?)?,
        created_at: Timestamp::from_datetime(row.try_get("created_at")?),
        status: crate::app::status_of(row.try_get("status")?).ok_or_else(|| unreadable("status"))?,
        counts: counts_of(&counts)?,
        failure: failure.map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        ended_at: row.try_get::<Option<DateTime<Utc>>, _>("ended_at")?.map(Timestamp::from_datetime),
        last_sequence: row.try_get::<i64, _>("last_sequence")? as u64,
        last_hash: row.try_get("last_hash")?,
    })
}
