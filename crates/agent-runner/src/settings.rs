//! What operators can set.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use settings::ByteSize;

/// The settings of an agent-runner; variables start with `TROUPE_AGENT_RUNNER__`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Register one agent of every kind in the namespace `default` at the start (and attach to it at the next), so that
    /// workflows run without registering any. Default true.
    pub default_agents: bool,
    /// The folder that `data` agents read from; they see nothing outside of it. Default `.`: where the process was started.
    pub files_dir: PathBuf,
    /// The folder in `files_dir` that `data` agents may write to, made on first use. Default `output`.
    pub write_dir: PathBuf,
    /// A folder that agents never see, also where it lies in `files_dir`: `troupe dev` names its data folder. Default none.
    pub private_dir: Option<PathBuf>,
    /// The largest file to read or write. Default 64MiB.
    pub max_file_size: ByteSize,
    /// The most rows that an action of `data` may produce. Default 1000000.
    pub max_rows: usize,
    /// Hosts that `http` agents may call, as `host` (the scheme's own port alone: 80 or 443), `host:port` or `host:*` (any port); an agent's
    /// own `allow` can only narrow it. IPv6 addresses have brackets.
    /// Private and loopback addresses are reached only where they are named here. Empty, the default, allows nothing.
    pub http_allow: Vec<String>,
    /// The largest response that `http` agents read. Default 4MiB.
    pub http_max_response: ByteSize,
    /// The longest that an `http` request may take, whatever it asks for. Default 60s.
    #[serde(with = "humantime_serde")]
    pub http_max_timeout: Duration,
    /// Tasks and messages that one agent works on at once; `echo` agents take four times as many. Default 64.
    pub max_in_flight: u32,
    /// Threads for work on rows and files, all agents together. Default 4.
    pub worker_threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_agents: true,
            files_dir: PathBuf::from("."),
            write_dir: PathBuf::from("output"),
            private_dir: None,
            max_file_size: ByteSize(64 << 20),
            max_rows: 1_000_000,
            http_allow: Vec::new(),
            http_max_response: ByteSize(4 << 20),
            http_max_timeout: Duration::from_mins(1),
            max_in_flight: 64,
            worker_threads: 4,
        }
    }
}

impl settings::Settings for Settings {
    const SERVICE: &'static str = "agent-runner";

    fn validate(&self) -> Result<(), (&'static str, String)> {
        let positive = [
            ("max_in_flight", self.max_in_flight as usize),
            ("worker_threads", self.worker_threads),
            ("max_rows", self.max_rows),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err((field, "must be at least 1".to_owned())),
            None => Ok(()),
        }
    }
}
