//! One commit of the log: few statements, however many events.
//!
//! A statement inserts a power of two of rows, so that a handful of texts serve every batch and each is prepared once per
//! connection; n rows take as many statements as n has bits set.

use std::sync::LazyLock;

use store::Sqlite;

use crate::store::{Append, AppendError, NewEvent, Summary, counts_list, key};

/// Rows per statement, the most first. The bind limit of SQLite is 32,766.
const SIZES: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// A prepared text for each of [`SIZES`].
type Texts = [String; SIZES.len()];

static EVENTS: LazyLock<Texts> =
    LazyLock::new(|| texts("INSERT INTO execution_events (execution_id, sequence, at, data, hash) VALUES ", 5, ""));

static SUMMARIES: LazyLock<Texts> = LazyLock::new(|| {
    let insert = "INSERT INTO executions (id, namespace, shard, workflow_id, workflow_name, workflow_version, created_at, \
                  status, counts, failure, ended_at, last_sequence, last_hash) VALUES ";
    let update = " ON CONFLICT (id) DO UPDATE SET status = excluded.status, counts = excluded.counts, \
                  failure = excluded.failure, ended_at = excluded.ended_at, last_sequence = excluded.last_sequence, \
                  last_hash = excluded.last_hash";
    texts(insert, 13, update)
});

/// How many of the claimed shards are held by the owner under the claimed epochs.
const HELD: &str = "SELECT count(*) FROM json_each(?) AS claimed JOIN shards ON shards.id = claimed.value ->> 0 \
                    AND shards.epoch = claimed.value ->> 1 WHERE shards.owner = ?";

fn texts(head: &str, columns: usize, tail: &str) -> Texts {
    let row = format!("({})", vec!["?"; columns].join(", "));
    SIZES.map(|size| format!("{head}{}{tail}", vec![row.as_str(); size].join(", ")))
}

/// Splits rows into chunks whose sizes are in [`SIZES`]; the index of the size comes with each chunk.
fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    std::iter::from_fn(move || {
        let size = SIZES.iter().position(|size| *size <= rows.len())?;
        let (chunk, rest) = rows.split_at(SIZES[size]);
        rows = rest;
        Some((size, chunk))
    })
}

pub(super) async fn append(sqlite: &Sqlite, owner: &str, append: &Append) -> Result<(), AppendError> {
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
    let claims = append.held();
    let claimed: Vec<_> = claims.iter().map(|held| (held.shard, held.epoch)).collect();
    let claimed = serde_json::to_string(&claimed).unwrap_or_default();
    let held: i64 = sqlx::query_scalar(HELD).bind(claimed).bind(owner.to_owned()).fetch_one(&mut *transaction).await?;
    if held != claims.len() as i64 {
        return Err(AppendError::Fenced);
    }
    for (size, rows) in chunks(&append.events) {
        let query = rows.iter().fold(sqlx::query(EVENTS[size].as_str()), bind_event);
        query.execute(&mut *transaction).await?;
    }
    for (size, rows) in chunks(&append.summaries) {
        let query = rows.iter().fold(sqlx::query(SUMMARIES[size].as_str()), bind_summary);
        query.execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

type Query = sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bind_event(query: Query, event: &NewEvent) -> Query {
    query
        .bind(key(event.execution))
        .bind(event.sequence as i64)
        .bind(event.at.as_micros())
        .bind(event.data.clone())
        .bind(event.hash.to_vec())
}

fn bind_summary(query: Query, summary: &Summary) -> Query {
    let failure = summary.failure.as_ref().and_then(|failure| serde_json::to_string(failure).ok());
    query
        .bind(key(summary.id))
        .bind(summary.namespace.as_str().to_owned())
        .bind(summary.shard)
        .bind(summary.workflow_id.to_string())
        .bind(summary.workflow_name.to_string())
        .bind(summary.workflow_version)
        .bind(summary.created_at.as_micros())
        .bind(crate::app::status_text(summary.status))
        .bind(serde_json::to_string(&counts_list(summary.counts)).unwrap_or_default())
        .bind(failure)
        .bind(summary.ended_at.map(domain::Timestamp::as_micros))
        .bind(summary.last_sequence as i64)
        .bind(summary.last_hash.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_have_known_sizes_and_lose_nothing() {
        for count in [0, 1, 3, 255, 256, 1_000] {
            let mut found = Vec::new();
            for (size, rows) in chunks(&(0..count).collect::<Vec<_>>()) {
                assert_eq!(rows.len(), SIZES[size]);
                found.extend_from_slice(rows);
            }
            assert_eq!(found, (0..count).collect::<Vec<_>>());
        }
    }
}
