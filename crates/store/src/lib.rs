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
    if is_transient(&source) {
        let message = "the database cannot be used now; see whether its disk is full";
        errors::Error::unavailable("database_unavailable", message).caused_by(source)
    } else {
        errors::Error::internal(source)
    }
}

/// May the same statement work later, without a change of ours?
fn is_transient(error: &sqlx::Error) -> bool {
    /// <https://sqlite.org/rescode.html>: BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN. The lowest byte of an extended code.
    const TRANSIENT: [u32; 6] = [5, 6, 8, 10, 13, 14];
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse::<u32>().ok());
            code.is_some_and(|code| TRANSIENT.contains(&(code & 0xff)))
        }
        _ => false,
    }
}

/// Does the database refuse what it is to write, so that the same would fail again, and something else would not?
pub fn is_refused(error: &sqlx::Error) -> bool {
    /// <https://sqlite.org/rescode.html>: TOOBIG, CONSTRAINT, MISMATCH. The lowest byte of an extended code.
    const REFUSED: [u32; 3] = [18, 19, 20];
    let sqlx::Error::Database(error) = error else { return false };
    let code = error.code().and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| REFUSED.contains(&(code & 0xff)))
}
