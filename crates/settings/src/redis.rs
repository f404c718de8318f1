//! The section of every service that uses Redis.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Secret;

/// Which Redis a service uses for what may be lost. Without a URL it does without: slower, and never wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// As `redis://user:password@host:port/number`. Not set: none is used.
    pub url: Option<Secret>,
    /// A file with the URL, for deployments that mount their secrets.
    pub url_file: Option<PathBuf>,
    /// Connections, besides one for notifications and one for topics. Too few and calls give up while they wait for one. Default 8.
    pub max_connections: usize,
    /// How long one call may take, the wait for a connection included; then the service goes on without its answer. Too short
    /// and a slow Redis is as good as none, too long and everything waits for a dead one. Default 100ms.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The longest pause before a Redis that failed is tried again. Meanwhile calls give up at once. Default 5s.
    #[serde(with = "humantime_serde")]
    pub max_pause: Duration,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            max_connections: 8,
            timeout: Duration::from_millis(100),
            max_pause: Duration::from_secs(5),
        }
    }
}

impl Redis {
    /// A Redis at this URL, with defaults for the rest.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: Some(Secret::new(url)), ..Self::default() }
    }

    /// The URL, where one is set; reads its file.
    pub fn place(&self) -> std::io::Result<Option<Secret>> {
        Secret::given(self.url.as_ref(), self.url_file.as_deref())
    }

    /// Checks the section: what is wrong with it, for a service's own `validate`.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.max_connections == 0 || self.timeout.is_zero() || self.max_pause.is_zero() {
            return Err(("redis", "`max_connections`, `timeout` and `max_pause` must be more than zero".to_owned()));
        }
        Ok(())
    }
}
