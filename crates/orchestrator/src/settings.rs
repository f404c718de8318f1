//! What operators can set.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use settings::{ByteSize, Database, Redis};

/// The settings of an orchestrator; variables start with `TROUPE_ORCHESTRATOR__`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where workflows and logs are kept.
    pub database: Database,
    /// Redis, through which replicas hear of new versions of workflows at once, and share definitions.
    pub redis: Redis,
    /// Slices of the executions. Only the first start on a database reads it: the number is stored there. Default 64.
    pub shards: u32,
    /// Tasks that decide, each the only writer of its share of the shards. More than cores is of no use. Default 2.
    pub workers: usize,
    /// Commands and results that may wait at one worker; beyond it commands are refused as `overloaded`. Default 8192.
    pub queue: usize,
    /// Commands and results that a worker takes at once before it hands their events to the log. Default 1024.
    pub batch: usize,
    /// Executions that have not ended; beyond it new ones are refused as `too_many_executions`, but for some children. Default 100000.
    pub max_executions: usize,
    /// The largest definition of a workflow. Default 4MiB.
    pub max_definition: ByteSize,
    /// The most steps of a workflow. Default 10000.
    pub max_steps: usize,
    /// Entries in the log of an execution since it began, or was continued; beyond it the execution fails with `history_too_long`,
    /// since it would take too long to read back after a restart. At four fifths of it there is a warning. Default 1000000.
    pub max_history: u64,
    /// How long the log of an execution's earlier runs is kept after it was continued. Zero: until the next sweep. Default 7days.
    #[serde(with = "humantime_serde")]
    pub history_retention: Duration,
    /// Ended executions that each worker keeps in memory for who asks; others are read from the log. Default 256.
    pub ended_kept: usize,
    /// Compiled definitions in memory. Default 1000.
    pub plans_kept: u64,
    /// How long the shards belong to a replica that is not heard of. Too short, and a pause of the process loses them.
    /// Default 10s.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Is this the only process on its database? Then a start takes all shards at once, also from a lease that has not ended:
    /// after a crash nobody waits. Safe even where it is wrong, since every append checks the epoch. Where it is not set: yes
    /// with SQLite, no with PostgreSQL, where replicas share the shards.
    pub take_over: Option<bool>,
    /// How often the sweeper looks for executions that nothing will wake, and repairs them. Default 5s.
    #[serde(with = "humantime_serde")]
    pub sweep_interval: Duration,
    /// How long a call waits for its commit. Default 30s.
    #[serde(with = "humantime_serde")]
    pub command_timeout: Duration,
    /// How long a decision with a quorum of live voters waits for more of them to come. Default 2s.
    #[serde(with = "humantime_serde")]
    pub voter_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            database: Database::default(),
            redis: Redis::default(),
            shards: 64,
            workers: 2,
            queue: 8192,
            batch: 1024,
            max_executions: 100_000,
            max_definition: ByteSize(4 << 20),
            max_steps: 10_000,
            max_history: 1_000_000,
            history_retention: Duration::from_hours(7 * 24),
            ended_kept: 256,
            plans_kept: 1_000,
            lease: Duration::from_secs(10),
            take_over: None,
            sweep_interval: Duration::from_secs(5),
            command_timeout: Duration::from_secs(30),
            voter_grace: Duration::from_secs(2),
        }
    }
}

impl settings::Settings for Settings {
    const SERVICE: &'static str = "orchestrator";

    fn validate(&self) -> Result<(), (&'static str, String)> {
        self.redis.validate()?;
        let at_least_one =
            [("workers", self.workers), ("queue", self.queue), ("batch", self.batch), ("max_steps", self.max_steps)];
        if let Some((field, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err((field, "must be at least 1".to_owned()));
        }
        if self.max_history < 1_000 {
            return Err(("max_history", "must be at least 1000".to_owned()));
        }
        if !(1..=65_536).contains(&self.shards) {
            return Err(("shards", "must be from 1 to 65536".to_owned()));
        }
        if self.lease < Duration::from_secs(1) {
            return Err(("lease", "must be at least 1s, so that it can be renewed in time".to_owned()));
        }
        if self.sweep_interval.is_zero() {
            return Err(("sweep_interval", "must be longer than 0s".to_owned()));
        }
        Ok(())
    }
}
