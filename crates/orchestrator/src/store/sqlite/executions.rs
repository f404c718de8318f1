//! Reading executions and their logs.

use domain::{ExecutionId, Timestamp};
use sqlx::{QueryBuilder, Row as _, sqlite::SqliteRow};
use store::{Page, Sqlite};

use crate::store::{
    EventRow, ExecutionFilter, Summary, counts_of, id_of, key,
    pack::{self, Part},
    parsed, unreadable,
};

const COLUMNS: &str = "id, namespace, shard, workflow_id, workflow_name, workflow_version, created_at, status, counts, \
                       failure, ended_at, last_sequence, last_hash";

pub(super) async fn events(sqlite: &Sqlite, id: ExecutionId, after: u64, limit: usize) -> sqlx::Result<Page<EventRow>> {
    // The first row may begin before what is wanted, and where what follows it was removed it may end before that. Where a limit is
    // a bound value and nothing else, SQLite prepares the statement again for each.
    let query = "SELECT execution_id, sequence, at, data, hash, count FROM execution_events WHERE execution_id = ?1 \
                 AND sequence >= COALESCE((SELECT MAX(sequence) FROM execution_events \
                                           WHERE execution_id = ?1 AND sequence <= ?2), 0) \
                 AND sequence + MAX(count, 1) > ?2 ORDER BY sequence LIMIT ?3 + 0";
    let query = sqlx::query(query).bind(key(id)).bind(after as i64 + 1).bind(limit as i64 + 1);
    pack::read(query.fetch(&sqlite.reader), after, limit, part).await
}

pub(super) async fn logs(
    sqlite: &Sqlite,
    ids: &[ExecutionId],
    most_events: i64,
) -> sqlx::Result<Vec<(ExecutionId, Vec<EventRow>)>> {
    let mut query = QueryBuilder::<sqlx::Sqlite>::new(
        "SELECT execution_id, sequence, at, data, hash, count FROM executions JOIN execution_events ON execution_id = id \
         WHERE last_sequence <= ",
    );
    query.push_bind(most_events).push(" AND id IN (");
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(key(*id));
    }
    query.push(") ORDER BY execution_id, sequence");
    pack::read_logs(query.build().fetch(&sqlite.reader), part).await
}

/// A row of the log.
pub(super) fn part(row: &SqliteRow) -> sqlx::Result<Part> {
    Ok(Part {
        execution: row.try_get(0)?,
        sequence: row.try_get(1)?,
        at: row.try_get(2)?,
        data: row.try_get(3)?,
        hash: row.try_get(4)?,
        count: row.try_get(5)?,
    })
}

pub(super) async fn summary(sqlite: &Sqlite, id: ExecutionId) -> sqlx::Result<Option<Summary>> {
    let mut query = QueryBuilder::<sqlx::Sqlite>::new("SELECT ");
    query.push(COLUMNS).push(" FROM executions WHERE id = ").push_bind(key(id));
    let row = query.build().fetch_optional(&sqlite.reader).await?;
    row.as_ref().map(decode).transpose()
}

pub(super) async fn ended(sqlite: &Sqlite, ids: &[ExecutionId]) -> sqlx::Result<Vec<ExecutionId>> {
    /// A statement takes 32,766 parameters.
    const AT_ONCE: usize = 1_000;
    let mut ended = Vec::new();
    for ids in ids.chunks(AT_ONCE) {
        let mut query =
            QueryBuilder::<sqlx::Sqlite>::new("SELECT id FROM executions WHERE ended_at IS NOT NULL AND id IN (");
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(key(*id));
        }
        query.push(")");
        let keys: Vec<Vec<u8>> = query.build_query_scalar().fetch_all(&sqlite.reader).await?;
        for key in keys {
            ended.push(id_of(&key)?);
        }
    }
    Ok(ended)
}

pub(super) async fn live(sqlite: &Sqlite, shards: &[u32]) -> sqlx::Result<Vec<ExecutionId>> {
    let query = "SELECT id FROM executions WHERE ended_at IS NULL AND shard IN (SELECT value FROM json_each(?)) \
                 ORDER BY shard, id";
    let shards = serde_json::to_string(shards).unwrap_or_default();
    let keys: Vec<Vec<u8>> = sqlx::query_scalar(query).bind(shards).fetch_all(&sqlite.reader).await?;
    keys.iter().map(|key| id_of(key)).collect()
}

pub(super) async fn list(sqlite: &Sqlite, filter: &ExecutionFilter) -> sqlx::Result<Vec<Summary>> {
    let mut query = QueryBuilder::<sqlx::Sqlite>::new("SELECT ");
    query.push(COLUMNS).push(" FROM executions WHERE namespace = ").push_bind(filter.namespace.as_str().to_owned());
    if let Some(id) = filter.workflow_id {
        query.push(" AND workflow_id = ").push_bind(id.to_string());
    }
    if let Some(name) = &filter.workflow_name {
        query.push(" AND workflow_name = ").push_bind(name.clone());
    }
    if !filter.statuses.is_empty() {
        query.push(" AND status IN (");
        let mut list = query.separated(", ");
        for status in &filter.statuses {
            list.push_bind(crate::app::status_text(*status));
        }
        query.push(")");
    }
    if let Some(from) = filter.created_after {
        query.push(" AND created_at >= ").push_bind(from.as_micros());
    }
    if let Some(before) = filter.created_before {
        query.push(" AND created_at < ").push_bind(before.as_micros());
    }
    let (beyond, order) = if filter.oldest_first { (">", "ASC") } else { ("<", "DESC") };
    if let Some((at, id)) = filter.after {
        query
            .push(format_args!(" AND (created_at, id) {beyond} ("))
            .push_bind(at.as_micros())
            .push(", ")
            .push_bind(key(id))
            .push(")");
    }
    query.push(format_args!(" ORDER BY created_at {order}, id {order} LIMIT ")).push_bind(filter.limit);
    let rows = query.build().fetch_all(&sqlite.reader).await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &SqliteRow) -> sqlx::Result<Summary> {
    let failure: Option<String> = row.try_get("failure")?;
    let failure = failure.map(|text| serde_json::from_str(&text)).transpose();
    Ok(Summary {
        id: id_of(row.try_get("id")?)?,
        namespace: parsed(row.try_get("namespace")?)?,
        shard: row.try_get("shard")?,
        workflow_id: parsed(row.try_get("workflow_id")?)?,
        workflow_name: row.try_get::<&str, _>("workflow_name")?.into(),
        workflow_version: row.try_get("workflow_version")?,
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        status: crate::app::status_of(row.try_get("status")?).ok_or_else(|| unreadable("status"))?,
        counts: counts_of(
            &serde_json::from_str::<Vec<u32>>(row.try_get("counts")?).map_err(|_| unreadable("counts"))?,
        )?,
        failure: failure.map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        ended_at: row.try_get::<Option<i64>, _>("ended_at")?.map(Timestamp::from_micros),
        last_sequence: row.try_get::<i64, _>("last_sequence")? as u64,
        last_hash: row.try_get("last_hash")?,
    })
}
