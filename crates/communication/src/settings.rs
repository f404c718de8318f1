//! What operators can set.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use settings::{ByteSize, Database};

/// The settings of communication; variables start with `TROUPE_COMMUNICATION__`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where messages and dead letters are kept.
    pub database: Database,
    /// How often a session has to be heard of. Default 5s.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// A session that was not heard of for this long is given up. Default 20s.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Deliveries that one session may hold at most, whatever it asks for. Default 1024.
    pub max_credits: u32,
    /// How often a task or message is handed over before it becomes a dead letter. Default 5.
    pub delivery_limit: u32,
    /// Tasks that wait in one queue; more are refused, and dispatched again later. Default 100000.
    pub queue_limit: usize,
    /// Messages that one mailbox holds; more are refused with `mailbox_full`. Default 10000.
    pub mailbox_limit: usize,
    /// The largest payload of a message. Default 4MiB.
    pub max_payload: ByteSize,
    /// The largest output of a task; a larger one fails its attempt. Default 16MiB.
    pub max_output: ByteSize,
    /// Events that a stream may fall behind before it is closed. Default 65536.
    pub stream_buffer: usize,
    /// How long acknowledged messages, and dead letters that were replayed, are kept. Default 7days.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// The longest wait for an answer of the registry. Default 5s.
    #[serde(with = "humantime_serde")]
    pub registry_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            database: Database::default(),
            heartbeat_interval: Duration::from_secs(5),
            lease: Duration::from_secs(20),
            max_credits: 1024,
            delivery_limit: 5,
            queue_limit: 100_000,
            mailbox_limit: 10_000,
            max_payload: ByteSize(4 << 20),
            max_output: ByteSize(16 << 20),
            stream_buffer: 65_536,
            retention: Duration::from_hours(7 * 24),
            registry_timeout: Duration::from_secs(5),
        }
    }
}

impl settings::Settings for Settings {
    const SERVICE: &'static str = "communication";

    fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval >= self.lease {
            return Err(("heartbeat_interval", "must be longer than zero and shorter than `lease`".to_owned()));
        }
        let counts = [
            ("max_credits", self.max_credits as usize),
            ("delivery_limit", self.delivery_limit as usize),
            ("queue_limit", self.queue_limit),
            ("mailbox_limit", self.mailbox_limit),
            ("stream_buffer", self.stream_buffer),
        ];
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((field, _)) => Err((field, "must be at least 1".to_owned())),
            None => Ok(()),
        }
    }
}
