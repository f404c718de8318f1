//! What operators can set.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use settings::{ByteSize, Database, Redis, Secret};

/// The settings of communication; variables start with `TROUPE_COMMUNICATION__`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where messages and dead letters are kept.
    pub database: Database,
    /// What carries messages to their mailboxes, and tasks between replicas: `direct` for a single replica, `rabbitmq` for any
    /// number. Default direct.
    pub transport: TransportKind,
    /// How RabbitMQ is used, where it is the transport.
    pub rabbitmq: RabbitMq,
    /// Redis, in which replicas remember agents together for the time when the registry is away, and over which live messages
    /// go from one to the other.
    pub redis: Redis,
    /// Subscriptions to live messages that may be open at once; one more is refused. Default 2048.
    pub live_subscriptions: usize,
    /// Live messages that wait for one subscriber; beyond, it loses the oldest, and is told how many. Default 1024.
    pub live_buffer: usize,
    /// Bytes of them. Default 1MiB.
    pub live_buffer_bytes: ByteSize,
    /// How often agents are asked to ping. Default 5s.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// A session that is silent for this long is given up; at least twice `heartbeat_interval`, or one late ping loses
    /// it. Default 15s.
    #[serde(with = "humantime_serde")]
    pub session_lease: Duration,
    /// Deliveries that one session may hold at once, whatever it asks for. Default 10000.
    pub max_credits: u32,
    /// Events that may wait for one session to read them; a session that falls further behind is closed, and what it
    /// held goes to others. More than twice `max_credits`. Default 32768.
    pub session_buffer: usize,
    /// Updates that may wait for one orchestrator to read them; beyond, its stream is closed and it attaches anew.
    /// Default 262144.
    pub orchestrator_buffer: usize,
    /// Tasks that one work queue holds; beyond, dispatches are refused and come again later. Default 100000.
    pub queue_limit: usize,
    /// How long a task waits for credit here before other replicas may take it, where RabbitMQ is the transport and one of
    /// them has agents that wait for it. Shorter shares work out sooner, longer spares the broker. Default 100ms.
    #[serde(with = "humantime_serde")]
    pub spill_after: Duration,
    /// Results of tasks that are not known here (any more), kept until an orchestrator has decided about them.
    /// Default 100000.
    pub kept_results: usize,
    /// Hand-overs of a task or message before it becomes a dead letter. Default 5.
    pub delivery_limit: u32,
    /// Messages that one mailbox holds; beyond, senders get `mailbox_full`. Default 100000.
    pub mailbox_limit: usize,
    /// Payload bytes that one mailbox holds in memory; beyond, senders get `mailbox_full`. Default 256MiB.
    pub mailbox_bytes: ByteSize,
    /// How long an answer waits for the instance of an agent that has asked, where that has no session any more, until any
    /// session of the agent gets it; with RabbitMQ what is longer in its queue. Too short and it may come to one that has not
    /// asked while the other reconnects. Default 20s.
    #[serde(with = "humantime_serde")]
    pub answer_wait: Duration,
    /// The largest payload of a message. Default 4MiB.
    pub max_payload: ByteSize,
    /// The largest output of a task; a larger one fails its attempt with `output_too_large`. Default 16MiB.
    pub max_output: ByteSize,
    /// Sends and state changes that may wait for the database; beyond, senders are refused and mailboxes pause.
    /// Default 65536.
    pub log_buffer: usize,
    /// Longest wait for the registry. Default 5s.
    #[serde(with = "humantime_serde")]
    pub registry_timeout: Duration,
    /// How long an agent that was found is believed to exist without asking again. Default 10s.
    #[serde(with = "humantime_serde")]
    pub agent_cache: Duration,
    /// How often all sessions are reported to the registry; well below the registry's `late_after`. Default 2s.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// How long a stop waits for sessions to finish what they hold. Default 10s.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// How long messages are kept after they were dealt with. Too long and the database grows. Default 7days.
    #[serde(with = "humantime_serde")]
    pub message_retention: Duration,
    /// How long dead letters are kept, replayed or not. Default 30days.
    #[serde(with = "humantime_serde")]
    pub dead_letter_retention: Duration,
}

/// What carries messages to their mailboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportKind {
    /// Memory, refilled from the database after a restart.
    Direct,
    /// RabbitMQ.
    Rabbitmq,
}

/// How RabbitMQ is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RabbitMq {
    /// As `amqp://user:password@host:port/virtual-host`, or `amqps://…`.
    pub url: Option<Secret>,
    /// A file with the URL, for deployments that mount their secrets.
    pub url_file: Option<PathBuf>,
    /// Which type new queues have, by what is in them.
    pub queues: QueueTypes,
    /// Messages of one mailbox that are fetched before they are taken. Larger is faster, until it delays what another
    /// replica could take. Default 128.
    pub prefetch: u16,
    /// Tasks of one work queue that are here at once, in a session's hands or about to be, where the sessions that take from
    /// it could hold more. Default 2000.
    pub task_prefetch: u16,
    /// Bytes of messages and tasks that wait to be published, as while RabbitMQ is away; beyond, senders get `mailbox_full`,
    /// and tasks wait elsewhere. Default 256MiB.
    pub publish_buffer: ByteSize,
    /// Messages that are published before the first of them is confirmed. Default 512.
    pub publish_window: usize,
    /// How long a connection may take to be made, and a wave of messages to be confirmed. Default 10s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a message may be accepted and not be with the broker before another replica takes it over. Default 10s.
    #[serde(with = "humantime_serde")]
    pub relay_after: Duration,
}

/// Which type of queue RabbitMQ makes for what. Queues that exist stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueTypes {
    /// Of mailboxes, a queue per agent. Default quorum.
    pub mailboxes: QueueType,
    /// Of tasks that wait, a queue per agent, type and capability. Default quorum.
    pub tasks: QueueType,
    /// Of dead letters, a queue per kind. Default quorum.
    pub dead_letters: QueueType,
}

/// A type of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// Replicated by RabbitMQ's own nodes, and at-least-once in its dead-lettering. Knows no priorities.
    Quorum,
    /// On one node, by priority.
    Classic,
}

impl Default for QueueTypes {
    fn default() -> Self {
        Self { mailboxes: QueueType::Quorum, tasks: QueueType::Quorum, dead_letters: QueueType::Quorum }
    }
}

impl Default for RabbitMq {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            queues: QueueTypes::default(),
            prefetch: 128,
            task_prefetch: 2_000,
            publish_buffer: ByteSize(256 << 20),
            publish_window: 512,
            timeout: Duration::from_secs(10),
            relay_after: Duration::from_secs(10),
        }
    }
}

const DAY: Duration = Duration::from_hours(24);

impl Default for Settings {
    fn default() -> Self {
        Self {
            database: Database::default(),
            transport: TransportKind::Direct,
            rabbitmq: RabbitMq::default(),
            redis: Redis::default(),
            live_subscriptions: 2_048,
            live_buffer: 1_024,
            live_buffer_bytes: ByteSize(1 << 20),
            heartbeat_interval: Duration::from_secs(5),
            session_lease: Duration::from_secs(15),
            max_credits: 10_000,
            session_buffer: 32_768,
            orchestrator_buffer: 262_144,
            queue_limit: 100_000,
            spill_after: Duration::from_millis(100),
            kept_results: 100_000,
            delivery_limit: 5,
            mailbox_limit: 100_000,
            mailbox_bytes: ByteSize(256 << 20),
            answer_wait: Duration::from_secs(20),
            max_payload: ByteSize(4 << 20),
            max_output: ByteSize(16 << 20),
            log_buffer: 65_536,
            registry_timeout: Duration::from_secs(5),
            agent_cache: Duration::from_secs(10),
            report_interval: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(10),
            message_retention: DAY * 7,
            dead_letter_retention: DAY * 30,
        }
    }
}

impl settings::Settings for Settings {
    const SERVICE: &'static str = "communication";

    fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.session_lease < self.heartbeat_interval * 2 {
            return Err(("session_lease", "must be at least twice `heartbeat_interval`".to_owned()));
        }
        // Replies take no credit, but have an allowance as large.
        if self.session_buffer <= self.max_credits as usize * 2 {
            return Err(("session_buffer", "must be more than twice `max_credits`".to_owned()));
        }
        self.redis.validate()?;
        let positive = [
            ("max_credits", self.max_credits as usize),
            ("orchestrator_buffer", self.orchestrator_buffer),
            ("queue_limit", self.queue_limit),
            ("delivery_limit", self.delivery_limit as usize),
            ("mailbox_limit", self.mailbox_limit),
            ("mailbox_bytes", self.mailbox_bytes.0),
            ("log_buffer", self.log_buffer),
            ("live_subscriptions", self.live_subscriptions),
            ("live_buffer", self.live_buffer),
            ("live_buffer_bytes", self.live_buffer_bytes.0),
            ("heartbeat_interval", self.heartbeat_interval.as_millis() as usize),
            ("answer_wait", self.answer_wait.as_millis() as usize),
            ("report_interval", self.report_interval.as_millis() as usize),
        ];
        let rabbitmq = &self.rabbitmq;
        if self.transport == TransportKind::Rabbitmq && rabbitmq.url.is_none() && rabbitmq.url_file.is_none() {
            return Err(("rabbitmq", "needs a `url` or `url_file` where it is the transport".to_owned()));
        }
        let numbers = [
            usize::from(rabbitmq.prefetch),
            usize::from(rabbitmq.task_prefetch),
            rabbitmq.publish_buffer.0,
            rabbitmq.publish_window,
            rabbitmq.timeout.as_millis() as usize,
        ];
        if numbers.contains(&0) {
            return Err(("rabbitmq", "its numbers and its `timeout` must be more than zero".to_owned()));
        }
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err((field, "must be more than zero".to_owned())),
            None => Ok(()),
        }
    }
}
