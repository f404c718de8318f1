//! Pools and migrations: how a service opens its database; and what it keeps in Redis because it may be lost.
//!
//! A service keeps its SQL to itself; this crate only opens, configures and migrates.

mod cache;
mod cursor;
mod folder;
mod migrations;
mod pace;
mod page;
mod postgres;
mod redis;
mod span;
mod sqlite;

use settings::Place;

pub use cache::{Believe, Cache, Codec, Found};
pub use cursor::{PageSize, PageToken};
pub use folder::make_folder;
pub use migrations::Migrations;
pub use pace::Pace;
pub use page::{PAGE_BYTES, Page};
pub use postgres::{Lent, Postgres};
pub use redis::{Health, Heard, Key, Redis, RedisError, Subscription};
pub use sqlite::Sqlite;

/// An open database; a service has a store for each kind.
#[derive(Clone, Debug)]
pub enum Database {
    /// A file.
    Sqlite(Sqlite),
    /// A schema in a server.
    Postgres(Postgres),
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file with the URL cannot be read.
    #[error("the database has no place")]
    Place(#[from] std::io::Error),
    /// The folder, file or server cannot be used.
    #[error("cannot open the database {place}")]
    Connect {
        /// The file, or the server and database.
        place: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Its tables could not be brought up to date.
    #[error("cannot migrate the database {place}")]
    Migrate {
        /// The file, or the server and database.
        place: String,
        /// Why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// What an earlier process left to be done could not be done.
    #[error("cannot finish what was left to be done in the database")]
    Finish(#[from] sqlx::Error),
}

impl Database {
    /// Opens the database that the settings name, with tables that are up to date.
    pub async fn open(settings: &settings::Database, migrations: &Migrations) -> Result<Self, OpenError> {
        match settings.place()? {
            Place::Sqlite(path) => Sqlite::open(settings, path, migrations.sqlite).await.map(Self::Sqlite),
            Place::Postgres(url) => {
                Postgres::open(settings, &url, migrations.service, migrations.postgres).await.map(Self::Postgres)
            }
        }
    }

    /// Does it answer?
    pub async fn ping(&self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(sqlite) => sqlite.ping().await,
            Self::Postgres(postgres) => postgres.ping().await,
        }
    }

    /// Closes it after its last statements.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(sqlite) => sqlite.close().await,
            Self::Postgres(postgres) => postgres.close().await,
        }
    }
}

/// A database failure as callers may see it: unavailable where trying again may help, else internal.
pub fn error(source: sqlx::Error) -> errors::Error {
    if is_transient(&source) {
        let message = "the database cannot be used now; see whether it runs, and whether its disk is full";
        errors::Error::unavailable("database_unavailable", message).caused_by(source)
    } else {
        errors::Error::internal(source)
    }
}

/// May the same statement work later, without a change of ours?
pub fn is_transient(error: &sqlx::Error) -> bool {
    /// <https://sqlite.org/rescode.html>: BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN.
    const SQLITE: [u32; 6] = [5, 6, 8, 10, 13, 14];
    /// SQLSTATE: connection exceptions, insufficient resources, operator intervention (a shutdown, a cancelled statement), a
    /// failed serialization, a deadlock, a server that only reads for now, a transaction that idled too long.
    const POSTGRES: [&str; 7] = ["08", "53", "57", "40001", "40P01", "25006", "25P03"];
    match error {
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => has_code(error.as_ref(), &SQLITE, &POSTGRES),
        _ => false,
    }
}

/// Does the database refuse what it is to write, so that the same would fail again, and something else would not?
pub fn is_refused(error: &sqlx::Error) -> bool {
    /// <https://sqlite.org/rescode.html>: TOOBIG, CONSTRAINT, MISMATCH.
    const SQLITE: [u32; 3] = [18, 19, 20];
    /// SQLSTATE: data exceptions, integrity constraints, program limits, an exception of a trigger.
    const POSTGRES: [&str; 4] = ["22", "23", "54", "P0"];
    matches!(error, sqlx::Error::Database(error) if has_code(error.as_ref(), &SQLITE, &POSTGRES))
}

fn has_code(error: &dyn sqlx::error::DatabaseError, sqlite: &[u32], postgres: &[&str]) -> bool {
    let Some(code) = error.code() else { return false };
    if error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        return postgres.iter().any(|prefix| code.starts_with(prefix));
    }
    // The lowest byte of an extended code.
    code.parse::<u32>().is_ok_and(|code| sqlite.contains(&(code & 0xff)))
}
