//! The section every service with a database has.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Where a service keeps its tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// The SQLite file. Empty in the defaults: `troupe dev` puts one per service into its data folder.
    pub path: PathBuf,
    /// Connections for reading; there is one more for writing, since SQLite has one writer. Too few and reads queue.
    /// Default 4.
    pub max_connections: u32,
    /// How long to wait for a free connection before a call fails as unavailable. Default 30s.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self { path: PathBuf::new(), max_connections: 4, acquire_timeout: Duration::from_secs(30) }
    }
}
