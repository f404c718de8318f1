//! Migrations that move rows lose none and change none.

use sqlx::{PgPool, migrate::Migrator};
use testkit::Servers;

use super::super::POSTGRES;

/// `fewer_partitions`.
const MOVES: i64 = 20_261_127_000_002;

/// Executions with logs of one row and of several, packed and not, with all kinds of nothing in them.
const ROWS: &str = "
    INSERT INTO executions SELECT decode(md5(n::text), 'hex'), 'space-' || n % 3, n % 64, 'wf_' || lpad((n % 50)::text, 26, '0'),
        'a name', 3, timestamptz 'epoch' + n * interval '1.000001 second', CASE n % 3 WHEN 0 THEN 'running' ELSE 'failed' END,
        ARRAY[n, 0, 0, 0, 0, 1, 0, 0, 0, 0], CASE n % 3 WHEN 0 THEN NULL ELSE '{\"code\": \"x\"}' END,
        CASE n % 3 WHEN 0 THEN NULL ELSE timestamptz 'epoch' + n * interval '1 hour' END, n % 7, sha256(n::text::bytea)
        FROM generate_series(1, 5000) AS n;
    INSERT INTO execution_events (execution_id, sequence, at, data, hash, count)
        SELECT decode(md5(n::text), 'hex'), sequence, timestamptz 'epoch' + n * interval '3 seconds',
            decode(repeat(md5(sequence::text), n % 40), 'hex'), sha256(n::text::bytea), n % 4
        FROM generate_series(1, 5000) AS n, generate_series(1, n % 7) AS sequence;
    UPDATE executions SET pruned_to = 3, pruned_hash = '\\x07' WHERE last_sequence = 5;";

#[tokio::test]
async fn rows_that_a_migration_moves_stay_as_they_were() {
    let pool = PgPool::connect(&Servers::shared().database().await).await.unwrap();
    let earlier = POSTGRES.iter().filter(|migration| migration.version < MOVES).cloned().collect();
    Migrator::with_migrations(earlier).run(&pool).await.unwrap();
    sqlx::raw_sql(ROWS).execute(&pool).await.unwrap();
    let before = [sum(&pool, "executions").await, sum(&pool, "execution_events").await];
    assert!(before[0].0 == 5_000 && before[1].0 > 10_000, "{before:?}");
    POSTGRES.run(&pool).await.unwrap();
    let after = [sum(&pool, "executions").await, sum(&pool, "execution_events").await];
    assert_eq!(after, before);
    let partitions =
        "SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent WHERE relname = 'executions'";
    let partitions: i64 = sqlx::query_scalar(partitions).fetch_one(&pool).await.unwrap();
    assert_eq!(partitions, 4);
}

/// How many rows a table has, and a sum of all that is in them.
async fn sum(pool: &PgPool, table: &'static str) -> (i64, String) {
    let sql = format!(
        "SELECT count(*), md5(string_agg(row::text, '|' ORDER BY row::text COLLATE \"C\")) FROM {table} AS row"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(pool).await.unwrap()
}
