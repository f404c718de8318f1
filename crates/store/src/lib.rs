//! Pools and migrations: how a service opens its database.
//!
//! A service keeps its SQL to itself; this crate only opens, configures and migrates.

mod cursor;
mod page;
mod sqlite;

pub use cursor::{PageSize, PageToken};
pub use page::Page;
pub use sqlite::Sqlite;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or file cannot be used.
    #[error("cannot open the database {path}")]
    Connect {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Its tables could not be brought up to date.
    #[error("cannot migrate the database {path}")]
    Migrate {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
}

/// A database failure as callers may see it: unavailable where trying again may help, else internal.
pub fn error(source: sqlx::Error) -> errors::Error {
    match source {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => {
            errors::Error::unavailable("database_unavailable", "the database does not answer now").caused_by(source)
        }
        other => errors::Error::internal(other),
    }
}
