//! What statements read of a PostgreSQL database, as it counts itself: tables from end to end, and through which indexes. Shows
//! of the statements that a store really sends that they use the indexes, and of the indexes that something uses them.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgPoolOptions};

use crate::eventually;

/// Counts of one database, by the names of tables and of indexes; partitions count for the whole.
#[derive(Clone, Debug, Default)]
pub struct Scans {
    rows_read_in_sequence: BTreeMap<String, i64>,
    uses_of_indexes: BTreeMap<String, i64>,
}

const TABLES: &str = "SELECT COALESCE(whole.relname, own.relname)::text, SUM(seq_tup_read)::bigint \
    FROM pg_stat_user_tables AS own LEFT JOIN pg_class AS whole ON whole.oid = pg_partition_root(own.relid) \
    WHERE own.relname <> '_sqlx_migrations' GROUP BY 1";
/// Unique ones are needed for what they forbid.
const INDEXES: &str = "SELECT COALESCE(whole.relname, own.indexrelname)::text, SUM(idx_scan)::bigint \
    FROM pg_stat_user_indexes AS own JOIN pg_index USING (indexrelid) LEFT JOIN pg_inherits ON inhrelid = indexrelid \
    LEFT JOIN pg_class AS whole ON whole.oid = inhparent WHERE NOT indisunique GROUP BY 1";

impl Scans {
    /// So far, of connections that have ended: a connection counts for itself until then. Waits until there is none.
    ///
    /// # Panics
    /// Where the database does not answer, or connections stay.
    pub async fn of(url: &str) -> Self {
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await.expect("PostgreSQL answers");
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                      AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        eventually("all other connections have ended", async || {
            let left: i64 = sqlx::query_scalar(others).fetch_one(&pool).await.expect("it counts");
            if left == 0 { Ok(()) } else { Err(left) }
        })
        .await;
        let tables: Vec<(String, i64)> = sqlx::query_as(TABLES).fetch_all(&pool).await.expect("it counts");
        let indexes: Vec<(String, i64)> = sqlx::query_as(INDEXES).fetch_all(&pool).await.expect("it counts");
        pool.close().await;
        Self { rows_read_in_sequence: tables.into_iter().collect(), uses_of_indexes: indexes.into_iter().collect() }
    }

    /// Tables of which rows were read one after the other since `earlier`, and how many.
    pub fn read_whole_since(&self, earlier: &Self) -> BTreeMap<&str, i64> {
        let before = |name: &String| earlier.rows_read_in_sequence.get(name).copied().unwrap_or_default();
        let since = self.rows_read_in_sequence.iter().map(|(name, rows)| (name.as_str(), rows - before(name)));
        since.filter(|(_, rows)| *rows > 0).collect()
    }

    /// Indexes that are there for reading, and that nothing has used since `earlier`.
    pub fn unused_since(&self, earlier: &Self) -> Vec<&str> {
        let is_unused = |(name, uses): &(&String, &i64)| earlier.uses_of_indexes.get(*name) == Some(uses);
        self.uses_of_indexes.iter().filter(is_unused).map(|(name, _)| name.as_str()).collect()
    }
}

/// Does something in a database behind the back of whoever owns it; answers with the database's refusal, where it refuses.
///
/// # Panics
/// Where the database does not answer.
pub async fn behind_the_back(url: &str, statements: &str) -> Result<(), String> {
    let all = AssertSqlSafe(statements.to_owned());
    let done = if url.starts_with("sqlite:") {
        let mut connection = sqlx::SqliteConnection::connect(url).await.expect("the file is a database");
        sqlx::raw_sql(all).execute(&mut connection).await.map(drop)
    } else {
        let mut connection = PgConnection::connect(url).await.expect("PostgreSQL answers");
        sqlx::raw_sql(all).execute(&mut connection).await.map(drop)
    };
    done.map_err(|error| error.to_string())
}

/// Fills tables of a service's schema, and tells the planner how full they are.
///
/// # Panics
/// Where a statement fails.
pub async fn fill(url: &str, schema: &str, statements: &str) {
    let mut connection = PgConnection::connect(url).await.expect("PostgreSQL answers");
    let all = format!("SET search_path = {schema}; {statements}");
    sqlx::raw_sql(AssertSqlSafe(all)).execute(&mut connection).await.expect("the tables can be filled");
    // Not in the transaction that several statements are.
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut connection).await.expect("the tables can be measured");
    connection.close().await.expect("a connection can be closed");
}
