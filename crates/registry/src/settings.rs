//! What operators can set.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use settings::{ByteSize, Database};

/// The settings of a registry; variables start with `TROUPE_REGISTRY__`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where agents are kept.
    pub database: Database,
    /// A session that was not heard of for this long is gone; longer than communication's report interval by a margin, or
    /// agents flicker. Default 30s.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// A session that was not heard of for this long makes its agent degraded. Default 15s.
    #[serde(with = "humantime_serde")]
    pub late_after: Duration,
    /// The largest configuration of an agent. Default 256KiB.
    pub max_config: ByteSize,
    /// Changes that a watcher may fall behind before it has to start again. Default 4096.
    pub watch_buffer: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            database: Database::default(),
            lease: Duration::from_secs(30),
            late_after: Duration::from_secs(15),
            max_config: ByteSize(256 << 10),
            watch_buffer: 4096,
        }
    }
}

impl settings::Settings for Settings {
    const SERVICE: &'static str = "registry";

    fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.late_after >= self.lease {
            return Err(("late_after", "must be shorter than `lease`".to_owned()));
        }
        if self.watch_buffer == 0 {
            return Err(("watch_buffer", "must be at least 1".to_owned()));
        }
        Ok(())
    }
}
