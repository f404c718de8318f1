//! What communication measures. No id is ever a label.

/// Gauge: open agent sessions.
pub(crate) const SESSIONS: &str = "communication_sessions";
/// Gauge: tasks in queues.
pub(crate) const TASKS_QUEUED: &str = "communication_tasks_queued";
/// Gauge: tasks that are known, queued, held or with a result that is not acknowledged.
pub(crate) const TASKS: &str = "communication_tasks";
/// Counter: tasks handed over.
pub(crate) const TASKS_DELIVERED: &str = "communication_tasks_delivered_total";
/// Counter: tasks given back by a lost session or a nack.
pub(crate) const TASKS_REQUEUED: &str = "communication_tasks_requeued_total";
/// Counter: messages recorded.
pub(crate) const MESSAGES_ACCEPTED: &str = "communication_messages_accepted_total";
/// Counter: messages handed over.
pub(crate) const MESSAGES_DELIVERED: &str = "communication_messages_delivered_total";
/// Counter: messages dealt with.
pub(crate) const MESSAGES_ACKED: &str = "communication_messages_acked_total";
/// Counter: dead letters by `kind` and `reason`.
pub(crate) const DEAD_LETTERS: &str = "communication_dead_letters_total";
/// Counter: streams closed because their reader was too slow.
pub(crate) const STREAMS_TOO_SLOW: &str = "communication_streams_too_slow_total";
/// Histogram: writes merged into one transaction.
pub(crate) const COMMIT_WRITES: &str = "communication_commit_writes";
/// Histogram: one transaction, in seconds.
pub(crate) const COMMIT_SECONDS: &str = "communication_commit_seconds";
/// Counter: transactions that failed.
pub(crate) const COMMIT_FAILURES: &str = "communication_commit_failures_total";
