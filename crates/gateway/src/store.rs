//! The gateway's database: opened once, for all its tables.
//!
//! PostgreSQL and SQLite understand the same statements here, with `$1` for parameters; what differs is the type of a time, and
//! which pool reads and writes. So each store is written once, and [`on_both`] makes it for either.

use ::store::{Database, Migrations, OpenError, Postgres, Sqlite};
use domain::Timestamp;
use sqlx::{
    PgPool, Row as _, SqlitePool,
    migrate::Migrator,
    postgres::PgRow,
    sqlite::SqliteRow,
    types::chrono::{DateTime, Utc},
};

static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite/gateway");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres/gateway");
/// What `troupe migrate` applies.
pub static MIGRATIONS: Migrations = Migrations { service: "gateway", sqlite: &SQLITE, postgres: &POSTGRES };

/// Opens the database that the settings name.
pub(crate) async fn open(settings: &settings::Database) -> Result<Database, OpenError> {
    Database::open(settings, &MIGRATIONS).await
}

/// Tables in SQLite.
pub(crate) struct OnSqlite(pub(crate) Sqlite);

/// Tables in PostgreSQL.
pub(crate) struct OnPostgres(pub(crate) Postgres);

impl OnSqlite {
    /// Takes the only write lock at once: a transaction that reads first could not write any more.
    pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";
    /// Nobody else writes meanwhile as it is.
    pub(crate) const LOCK_LOG: &str = "SELECT 1";
    /// Here too.
    pub(crate) const HOLD_KEY: &str = "SELECT 1 FROM api_keys WHERE id = $1";

    pub(crate) const fn reader(&self) -> &SqlitePool {
        &self.0.reader
    }

    pub(crate) const fn writer(&self) -> &SqlitePool {
        &self.0.writer
    }

    pub(crate) const fn time(at: Timestamp) -> i64 {
        at.as_micros()
    }

    pub(crate) fn moment(row: &SqliteRow, column: &str) -> sqlx::Result<Option<Timestamp>> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_micros))
    }
}

impl OnPostgres {
    /// The usual.
    pub(crate) const BEGIN: &str = "BEGIN";
    /// Held until the transaction ends: the log is one chain, whoever writes it. The number is the log's, and no other lock's.
    pub(crate) const LOCK_LOG: &str = "SELECT pg_advisory_xact_lock(7263718)";
    /// Whoever would change the key, or exchange it as well, waits until the transaction ends.
    pub(crate) const HOLD_KEY: &str = "SELECT 1 FROM api_keys WHERE id = $1 FOR NO KEY UPDATE";

    pub(crate) const fn reader(&self) -> &PgPool {
        &self.0.pool
    }

    pub(crate) const fn writer(&self) -> &PgPool {
        &self.0.pool
    }

    pub(crate) fn time(at: Timestamp) -> DateTime<Utc> {
        at.to_datetime()
    }

    pub(crate) fn moment(row: &PgRow, column: &str) -> sqlx::Result<Option<Timestamp>> {
        Ok(row.try_get::<Option<DateTime<Utc>>, _>(column)?.map(Timestamp::from_datetime))
    }
}

/// A store's statements, for each of the databases.
macro_rules! on_both {
    (impl $store:ident { $($body:tt)* }) => {
        #[async_trait::async_trait]
        impl $store for $crate::store::OnSqlite { $($body)* }
        #[async_trait::async_trait]
        impl $store for $crate::store::OnPostgres { $($body)* }
    };
}

/// The store in the database that is open.
macro_rules! over {
    ($store:ident, $database:expr) => {
        match $database.clone() {
            ::store::Database::Sqlite(sqlite) => {
                std::sync::Arc::new($crate::store::OnSqlite(sqlite)) as std::sync::Arc<dyn $store>
            }
            ::store::Database::Postgres(postgres) => {
                std::sync::Arc::new($crate::store::OnPostgres(postgres)) as std::sync::Arc<dyn $store>
            }
        }
    };
}

pub(crate) use {on_both, over};

/// A time that is always there.
pub(crate) fn required(at: Option<Timestamp>) -> sqlx::Result<Timestamp> {
    at.ok_or_else(|| sqlx::Error::Decode("a time is missing".into()))
}

/// A value that was written by us and must read back.
pub(crate) fn parsed<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    text: &str,
) -> sqlx::Result<T> {
    text.parse().map_err(|error: T::Err| sqlx::Error::Decode(Box::new(error)))
}
