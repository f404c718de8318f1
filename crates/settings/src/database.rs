//! The section every service with a database has.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::Secret;

/// Where a service keeps its tables: in PostgreSQL where a URL is given, else in a SQLite file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// PostgreSQL, as `postgres://user:password@host/database`; the service keeps to a schema of its own name. Not set: SQLite.
    pub url: Option<Secret>,
    /// A file with the URL, for deployments that mount their secrets.
    pub url_file: Option<PathBuf>,
    /// The SQLite file. Empty in the defaults: `troupe dev` puts one per service into its data folder.
    pub path: PathBuf,
    /// Connections: with PostgreSQL all of them, but for two more of an orchestrator, for its lease and its commits, and one more of a
    /// registry, which hears of changes; with SQLite those for reading, beside the one that writes. Too few and calls queue.
    /// Default 4.
    pub max_connections: u32,
    /// How long to wait for a free connection before a call fails as unavailable. Default 30s.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// The longest that PostgreSQL works on one statement, and that a transaction may sit idle. Default 10s.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Bring the tables up to date at the start. Where this is false, `troupe migrate` does it, and a start with old tables
    /// fails. Default true.
    pub migrate: bool,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            path: PathBuf::new(),
            max_connections: 4,
            acquire_timeout: Duration::from_secs(30),
            statement_timeout: Duration::from_secs(10),
            migrate: true,
        }
    }
}

/// Which database it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A SQLite file.
    Sqlite(&'a Path),
    /// A PostgreSQL URL.
    Postgres(Secret),
}

impl Database {
    /// A SQLite file, with defaults for the rest.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// A PostgreSQL database, with defaults for the rest.
    pub fn postgres(url: impl Into<String>) -> Self {
        Self { url: Some(Secret::new(url)), ..Self::default() }
    }

    /// Where it is; reads the URL's file.
    pub fn place(&self) -> std::io::Result<Place<'_>> {
        let url = Secret::given(self.url.as_ref(), self.url_file.as_deref())?;
        Ok(url.map_or(Place::Sqlite(&self.path), Place::Postgres))
    }

    /// Is it a SQLite file?
    pub fn is_sqlite(&self) -> bool {
        self.url.is_none() && self.url_file.is_none()
    }

    /// Neither a URL nor a file is named.
    pub fn is_unplaced(&self) -> bool {
        self.url.is_none() && self.url_file.is_none() && self.path.as_os_str().is_empty()
    }
}
