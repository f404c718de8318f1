//! Work queues that replicas share: what no session of one replica takes soon waits there for whichever has credit.
//!
//! A task in them has left the memory of its replica. What was delivered is settled when it is over where it was delivered
//! to; what is not settled when that replica ends is delivered again, to another.

use std::sync::{Arc, Weak};

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

/// Who is told what happens to tasks in work queues. Never called from within a call to [`WorkQueues`].
pub(crate) trait WorkSink: Send + Sync {
    /// The tasks are in their queues, for good.
    fn enqueued(&self, tasks: &[TaskId]);
    /// The tasks are not, as far as is known: they are the publisher's again.
    fn not_enqueued(&self, tasks: &[TaskId]);
    /// Tasks have come, each perhaps not for the first time.
    fn delivered(&self, parcels: Vec<(Parcel, Lot)>);
    /// Everything that was delivered and not settled is delivered again, to anybody.
    fn disconnected(&self);
}

/// Queues of tasks. Calls neither wait nor do I/O, and may lose, repeat and reorder tasks only where a replica or the message
/// broker ends.
pub(crate) trait WorkQueues: Send + Sync + 'static {
    /// Names who is told; called once, before everything else.
    fn start(&self, sink: Weak<dyn WorkSink>);
    /// Takes a task over; false where that cannot be done now. Whether it came to its queue is told later.
    fn publish(&self, parcel: Parcel) -> bool;
    /// At most `credit` tasks of a queue may be here unsettled; with none, nothing comes from it.
    fn consume(&self, queue: &Arc<QueueKey>, credit: u32);
    /// Does another replica take from it, as far as is known? Asking makes it known soon.
    fn is_shared(&self, queue: &Arc<QueueKey>) -> bool;
    /// A task that was delivered is over, or published again.
    fn settle(&self, lot: Lot);
}
