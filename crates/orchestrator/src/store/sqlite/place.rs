//! Where events and summaries are read: few statements, however many they are.
//!
//! A statement inserts a power of two of rows, so that a handful of texts serve every batch and each is prepared once per
//! connection; n rows take as many statements as n has bits set.

use std::sync::LazyLock;

use sqlx::SqliteConnection;

use super::journal::Row;
use crate::store::pack::Part;

/// Rows per statement, the most first. The bind limit of SQLite is 32,766.
const SIZES: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// A prepared text for each of [`SIZES`].
type Texts = [String; SIZES.len()];

static EVENTS: LazyLock<Texts> = LazyLock::new(|| {
    texts("INSERT INTO execution_events (execution_id, sequence, at, data, hash, count) VALUES ", 6, "")
});

static SUMMARIES: LazyLock<Texts> = LazyLock::new(|| {
    let insert = "INSERT INTO executions (id, namespace, shard, workflow_id, workflow_name, workflow_version, created_at, \
                  status, counts, failure, ended_at, last_sequence, last_hash) VALUES ";
    let update = " ON CONFLICT (id) DO UPDATE SET status = excluded.status, counts = excluded.counts, \
                  failure = excluded.failure, ended_at = excluded.ended_at, last_sequence = excluded.last_sequence, \
                  last_hash = excluded.last_hash";
    texts(insert, 13, update)
});

fn texts(head: &str, columns: usize, tail: &str) -> Texts {
    let row = format!("({})", vec!["?"; columns].join(", "));
    SIZES.map(|size| format!("{head}{}{tail}", vec![row.as_str(); size].join(", ")))
}

pub(super) async fn events(connection: &mut SqliteConnection, parts: Vec<Part>) -> sqlx::Result<()> {
    insert(connection, &EVENTS, parts, |query, part| {
        let Part { execution, sequence, at, data, hash, count } = part;
        query.bind(execution).bind(sequence).bind(at).bind(data).bind(hash).bind(count)
    })
    .await
}

pub(super) async fn summaries(connection: &mut SqliteConnection, summaries: Vec<Row>) -> sqlx::Result<()> {
    insert(connection, &SUMMARIES, summaries, |query, row| {
        query
            .bind(row.id)
            .bind(row.namespace)
            .bind(row.shard)
            .bind(row.workflow_id)
            .bind(row.workflow_name)
            .bind(row.workflow_version)
            .bind(row.created_at)
            .bind(row.status)
            .bind(row.counts)
            .bind(row.failure)
            .bind(row.ended_at)
            .bind(row.last_sequence)
            .bind(row.last_hash)
    })
    .await
}

type Query = sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

async fn insert<T>(
    connection: &mut SqliteConnection,
    texts: &'static Texts,
    rows: Vec<T>,
    bind: fn(Query, T) -> Query,
) -> sqlx::Result<()> {
    let mut rows = rows.into_iter();
    while let Some(size) = SIZES.iter().position(|size| *size <= rows.len()) {
        let query = rows.by_ref().take(SIZES[size]).fold(sqlx::query(texts[size].as_str()), bind);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
