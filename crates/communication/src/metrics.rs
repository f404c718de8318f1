//! What communication measures.

/// Gauge: open agent sessions.
pub(crate) const SESSIONS: &str = "troupe_sessions";
/// Counter: sessions that ended, by `reason` (`closed` by either side, `lease_lost`, `faulty`, `credential`, `broken`).
pub(crate) const SESSIONS_ENDED: &str = "troupe_sessions_ended_total";
/// Counter: frames of streams, by `stream` (`agents`, `orchestrators`) and `direction` (`in`, `out`); a frame is a batch of events.
const FRAMES: &str = "troupe_frames_total";
/// Gauge: tasks that wait in work queues, in nobody's hands.
pub(crate) const TASKS_QUEUED: &str = "troupe_tasks_queued";
/// Counter: tasks that went to work queues of the message broker.
pub(crate) const TASKS_ENQUEUED: &str = "troupe_tasks_enqueued_total";
/// Counter: tasks that were put into work queues that are empty now: other replicas have them, or they are lost, which is found
/// out by asking everywhere.
pub(crate) const TASKS_ASKED_FOR: &str = "troupe_tasks_asked_for_total";
/// Counter: hand-overs of tasks to sessions.
pub(crate) const TASK_DELIVERIES: &str = "troupe_task_deliveries_total";
/// Histogram, seconds: from the hand-over of a task to its result, by `agent_type`.
pub(crate) const PROCESSING_SECONDS: &str = "agent_processing_duration_seconds";
/// Counter: tasks whose session was lost or gave them back.
pub(crate) const TASKS_REQUEUED: &str = "troupe_tasks_requeued_total";
/// Counter: tasks refused because their queue was full.
pub(crate) const TASKS_REFUSED: &str = "troupe_tasks_refused_total";
/// Counter: messages recorded.
pub(crate) const MESSAGES_ACCEPTED: &str = "troupe_messages_accepted_total";
/// Counter: hand-overs of messages to sessions.
pub(crate) const MESSAGE_DELIVERIES: &str = "troupe_message_deliveries_total";
/// Counter: messages that agents have dealt with.
pub(crate) const MESSAGES_ACKED: &str = "troupe_messages_acked_total";
/// Counter: dead letters, by `kind` (`message`, `task`) and `reason`.
pub(crate) const DEAD_LETTERS: &str = "troupe_dead_letters_total";
/// Counter: live messages that were published here.
pub(crate) const LIVE_PUBLISHED: &str = "troupe_live_published_total";
/// Counter: progress of tasks that was not published, by `reason` (`full`: published slower than it comes, `unavailable`: Redis is
/// away, `unfit`: too large, or no JSON).
pub(crate) const LIVE_DROPPED: &str = "troupe_live_dropped_total";
/// Counter: live messages that subscribers have lost, since they were too slow.
pub(crate) const LIVE_LOST: &str = "troupe_live_lost_total";
/// Gauge: subscriptions to live messages.
pub(crate) const LIVE_SUBSCRIPTIONS: &str = "troupe_live_subscriptions";
/// Histogram: entries that one commit of the message log holds.
pub(crate) const COMMIT_ENTRIES: &str = "troupe_message_commit_entries";
/// Histogram, seconds: how long one commit of the message log takes.
pub(crate) const COMMIT_SECONDS: &str = "troupe_message_commit_seconds";

/// Whose stream a frame is of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Agents,
    Orchestrators,
}

impl Stream {
    const fn label(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::Orchestrators => "orchestrators",
        }
    }

    pub(crate) fn frame_in(self) {
        ::metrics::counter!(FRAMES, "stream" => self.label(), "direction" => "in").increment(1);
    }

    pub(crate) fn frame_out(self) {
        ::metrics::counter!(FRAMES, "stream" => self.label(), "direction" => "out").increment(1);
    }
}
