//! Work queues that replicas share: what no session of one replica takes soon waits there for whichever has credit.
//!
//! A task in them has left the memory of its replica. What was delivered is settled when it is over where it was delivered
//! to; what is not settled when that replica ends is delivered again, to another.

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use domain::Timestamp;

use crate::app::{QueueKey, Task, TaskId};

/// A task on its way between replicas.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parcel {
    pub(crate) task: Arc<Task>,
    /// The orchestrator that dispatched it last.
    pub(crate) replica: Arc<str>,
    /// Under which it did.
    pub(crate) epoch: i64,
    /// Hand-overs to sessions so far.
    pub(crate) deliveries: u32,
    /// Deliveries to replicas that ended with it, or lost their connection. Whether a session had it then nobody knows.
    pub(crate) redeliveries: u32,
    /// When it was dispatched first.
    pub(crate) since: Timestamp,
}

impl Parcel {
    /// Where it goes.
    pub(crate) fn queue(&self) -> QueueKey {
        QueueKey { namespace: self.task.namespace.clone(), target: self.task.target.clone() }
    }
}

/// The delivery that stands behind a task that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lot {
    /// Deliveries of an earlier connection mean nothing any more.
    pub(crate) connection: u64,
    pub(crate) tag: u64,
}

/// What becomes of a task that is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publishing {
    /// It is on its way; whether it came to its queue is told later.
    Begun,
    /// Nothing can be put into its queue now.
    NotNow,
    /// It cannot for a while, as it does harm there, but others can.
    NotThis,
}

/// How much of a queue a replica takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// How many of its tasks may be there unsettled; with none, nothing comes from it.
    pub(crate) credit: u32,
    /// More waits there than its agents soon take: it has only what the others leave.
    pub(crate) is_crowded: bool,
}

/// Who is told what happens to tasks in work queues. Never called from within a call to [`WorkQueues`].
pub(crate) trait WorkSink: Send + Sync {
    /// The tasks are in their queues, for good.
    fn enqueued(&self, tasks: &[TaskId]);
    /// The tasks are not, as far as is known: they are the publisher's again.
    fn not_enqueued(&self, tasks: &[TaskId]);
    /// Tasks have come, each perhaps not for the first time.
    fn delivered(&self, parcels: Vec<(Parcel, Lot)>);
    /// How many tasks of a queue agents here wait for.
    fn spare(&self, queue: &QueueKey) -> u32;
    /// The queues in which tasks are that were published here, as far as is known.
    fn remembered(&self) -> Vec<Arc<QueueKey>>;
    /// A queue is empty, and was at this time, or is not there: what was there before is in somebody's hands, or lost.
    fn emptied(&self, queue: &QueueKey, before: Instant);
    /// Everything that was delivered and not settled is delivered again, to anybody.
    fn disconnected(&self);
}

/// Queues of tasks. Calls neither wait nor do I/O, and may lose, repeat and reorder tasks only where a replica or the message
/// broker ends.
pub(crate) trait WorkQueues: Send + Sync + 'static {
    /// Names who is told; called once, before everything else.
    fn start(&self, sink: Weak<dyn WorkSink>);
    /// Takes a task over, where that can be done now.
    fn publish(&self, parcel: Parcel) -> Publishing;
    /// How much of a queue is taken from now on.
    fn consume(&self, queue: &Arc<QueueKey>, demand: Demand);
    /// How many tasks of a queue that is crowded here other replicas have agents for, as far as is known. They are counted on
    /// from now on: so many are to be published.
    fn takers(&self, queue: &QueueKey) -> u32;
    /// A task that was delivered is over, or published again.
    fn settle(&self, lot: Lot);
    /// Takes no task over any more: the replica stops. What is on its way is told of as ever.
    fn close(&self);
}
