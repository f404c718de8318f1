//! The crash points: all of them, with what happens there and how a process is brought to pass one.

/// How a process comes to pass a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It works.
    Load,
    /// It starts, and what it had is taken over.
    Start,
    /// It is asked to stop.
    Stop,
    /// Another orchestrator comes, and gets its share.
    HandOver,
    /// It comes back, and RabbitMQ has lost a mailbox meanwhile.
    Loss,
    /// Empty tables are brought up to date (`migrations.rs`).
    Migration,
}

/// Where there is such a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Everywhere,
    /// With several replicas, or with RabbitMQ.
    Cluster,
    /// In one process, on SQLite.
    Sqlite,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) name: &'static str,
    /// When the process dies there.
    pub(super) when: &'static str,
    pub(super) how: How,
    pub(super) place: Place,
}

impl Point {
    pub(super) fn is_in_cluster(&self) -> bool {
        self.place != Place::Sqlite
    }

    pub(super) fn is_on_sqlite(&self) -> bool {
        self.place != Place::Cluster
    }

    /// The service whose process dies.
    pub(super) fn service(&self) -> &'static str {
        self.name.split('.').next().unwrap_or(self.name)
    }
}

const fn load(name: &'static str, when: &'static str) -> Point {
    Point { name, when, how: How::Load, place: Place::Everywhere }
}

const fn broker(name: &'static str, when: &'static str) -> Point {
    Point { name, when, how: How::Load, place: Place::Cluster }
}

const fn sqlite(name: &'static str, when: &'static str) -> Point {
    Point { name, when, how: How::Load, place: Place::Sqlite }
}

const fn starts(name: &'static str, when: &'static str) -> Point {
    Point { name, when, how: How::Start, place: Place::Everywhere }
}

const fn stops(name: &'static str, when: &'static str) -> Point {
    Point { name, when, how: How::Stop, place: Place::Everywhere }
}

const fn hands_over(name: &'static str, when: &'static str) -> Point {
    Point { name, when, how: How::HandOver, place: Place::Cluster }
}

const fn loses(name: &'static str, when: &'static str) -> Point {
    Point { name, when, how: How::Loss, place: Place::Cluster }
}

const fn migrates(name: &'static str, when: &'static str) -> Point {
    Point { name, when, how: How::Migration, place: Place::Everywhere }
}

/// All, in the order of a request's way through the house.
pub(super) const POINTS: &[Point] = &[
    migrates("store.migration.before", "some services have their tables, and the next is to get them"),
    migrates("store.migration.after", "a service has its tables, and nobody knows"),
    load("gateway.audit.begun", "it is noted who wants what done, and nothing is done"),
    load("gateway.audit.done", "it is done, and neither noted nor told"),
    load("gateway.key.stored", "a key is stored, and its maker does not have it"),
    load("gateway.key.rotated", "a key has another secret, which nobody has"),
    load("gateway.idempotency.reserved", "the key is recorded, the service behind not called"),
    load("gateway.idempotency.created", "the service has answered, and nothing of it is recorded"),
    load("gateway.idempotency.kept", "the answer is recorded, and not given"),
    load("registry.write.before", "a new agent is checked, and not written"),
    load("registry.write.after", "it is written, and not in the index"),
    load("registry.notify.after", "it is in the index and told, and its caller not answered"),
    load("registry.change.before", "a change of an agent is checked, and not written"),
    load("registry.change.after", "it is written, and its caller not answered"),
    load("registry.delete.before", "an agent is to be removed, and is not"),
    load("registry.delete.after", "it is removed, and still in the index"),
    load("orchestrator.workflow.stored", "a definition is stored, and its caller not answered"),
    load("orchestrator.workflow.changed", "a next version is stored, and its caller not answered"),
    load("orchestrator.commit.before", "events are decided, and not committed"),
    load("orchestrator.commit.after", "events are committed, and nobody knows"),
    sqlite("orchestrator.settle.before", "commits are put in their place, and that is not committed"),
    sqlite("orchestrator.settle.after", "commits are in their place, and nobody knows"),
    load("orchestrator.answer.before", "events are committed, and callers not answered"),
    load("orchestrator.effect.before", "callers are answered, and the effect of an event is not performed"),
    load("orchestrator.ack.before", "a result is committed, and not acknowledged"),
    load("orchestrator.frame.before", "tasks and acknowledgements are on their way to communication"),
    load("orchestrator.news.received", "news of tasks has come, and nothing has followed from it"),
    load("orchestrator.errand.before", "a step wants a child execution or tells somebody, and nothing is done"),
    load("orchestrator.errand.after", "the child is there, or it is told, and the step does not know"),
    load("orchestrator.child.report", "a child has ended, and its parent does not know"),
    load("orchestrator.child.cancel", "a child is not wanted any more, and does not know"),
    load("orchestrator.prune.before", "what an earlier run of an execution has left is to be removed, and is not"),
    load("orchestrator.prune.after", "a part of it is removed, and nobody knows"),
    load("orchestrator.lock.before", "a lock is wanted, or given back, and nothing of it is recorded"),
    load("orchestrator.lock.after", "it is recorded who has a lock, and nobody knows"),
    starts("orchestrator.takeover.claimed", "shards are taken, and not read"),
    starts("orchestrator.takeover.read", "shards are read, and not served"),
    starts("orchestrator.takeover.done", "shards are served for the first moment"),
    hands_over("orchestrator.handover.before", "workers have let go of shards that another is to get"),
    hands_over("orchestrator.handover.after", "shards are given back for another"),
    stops("orchestrator.leave.before", "everything has stopped, and the shards are not given back"),
    stops("orchestrator.leave.after", "the shards are given back, and the process has not ended"),
    load("communication.task.received", "a task has come, and no agent has it"),
    load("communication.task.handed_over", "an agent has a task, and its orchestrator does not know"),
    load("agent-runner.task.admitted", "an agent has a task, and has not begun"),
    load("agent-runner.result.before", "an agent has done a task, and told nobody"),
    load("communication.result.received", "a result has come, and its orchestrator does not know"),
    load("communication.result.acknowledged", "a result is in the log, and its agent does not know"),
    load("agent-runner.result.acknowledged", "an agent hears that its result is in the log"),
    load("communication.commit.before", "messages and their changes wait, and are not committed"),
    load("communication.sequences.taken", "messages have their places in the order, and are not committed"),
    load("communication.commit.after", "they are committed, and nobody knows"),
    load("communication.publish.before", "a sender is answered, and the message not published"),
    load("communication.publish.after", "a message is on its way to its mailbox, and not recorded as queued"),
    load("communication.message.delivered", "an agent has a message, which is not recorded"),
    load("agent-runner.message.dealt_with", "an agent has dealt with a message, and told nobody"),
    load("communication.message.acked", "an agent has dealt with a message, which is not recorded"),
    load("communication.end.recorded", "the end of a message is recorded, and its mailbox does not know"),
    load("communication.message.dies", "a message is to be a dead letter, and is not recorded as one"),
    load("communication.replay.recorded", "a replay is recorded, and the message not in its mailbox"),
    load("communication.purge.recorded", "a dead letter is removed, and its caller not answered"),
    broker("communication.rabbitmq.publish.before", "a message is recorded, and RabbitMQ does not have it"),
    broker("communication.rabbitmq.confirmed", "RabbitMQ has confirmed a message, and nobody knows"),
    broker("communication.rabbitmq.ack.before", "the end of a message is recorded, and RabbitMQ does not know"),
    loses("communication.rabbitmq.lost.found", "RabbitMQ is known to have lost messages, and nothing is done about it"),
    loses(
        "communication.rabbitmq.lost.recorded",
        "it is recorded that they have to be published again, and they are not",
    ),
];
