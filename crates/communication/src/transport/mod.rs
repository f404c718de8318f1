//! How recorded messages get to mailboxes: one module per transport behind one trait; adding one touches nothing else. And in
//! [`live`] what is told to whoever listens now, and kept nowhere.
//!
//! A transport keeps the order of each mailbox, as far as a broker lets it (the README says where one does not), knows what is
//! held, and counts deliveries. It never decides what becomes of
//! a message: limits, dead letters and the record are the business of `app`. Calls neither wait nor do I/O: a transport
//! with a network behind it queues what goes out, and prefetches what comes in as fast as it is taken. A message whose
//! settlement gets lost comes again, which every consumer must bear anyway.

mod direct;
mod live;
mod rabbitmq;
mod rooms;
#[cfg(test)]
mod tests;
mod work;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use domain::Timestamp;

pub(crate) use self::{
    direct::Direct,
    live::{
        Feed, FeedLimits, Live, LiveDirect, LiveError, LiveLimits, LiveMessage, LiveRedis, MAX_LIVE_PAYLOAD, Notice,
    },
    rabbitmq::{RabbitMq, RabbitMqLimits},
    rooms::MailboxLimits,
    work::{Demand, Lot, Parcel, Publishing, WorkQueues, WorkSink},
};
use crate::app::{DeadLetter, Envelope, Mailbox, Reason, Task};

/// How long a deleted agent's mailbox is emptied: others hear of the end a little later, and may have accepted messages for it
/// meanwhile.
pub(crate) const LINGER: Duration = Duration::from_secs(30);

/// One hand-over of a message.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) envelope: Arc<Envelope>,
    /// How often it was handed over, this time included.
    pub(crate) count: u32,
}

/// How a hand-over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// Dealt with, or dead: forget it.
    Done,
    /// Back to its place in the mailbox, to be taken at once or not before a time.
    Return { not_before: Option<Instant> },
}

/// What is to be taken from a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The first message.
    Any,
    /// The first reply, passing over others.
    Reply,
}

/// The mailbox has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Who is told what a transport notices. Never called from within a call to the transport that its caller makes under a
/// lock: only `publish`, `readmit`, `revive` and `advance` call it.
pub(crate) trait Sink: Send + Sync {
    /// A message is in its mailbox for the first time.
    fn queued(&self, envelope: &Arc<Envelope>);
    /// There may be something to take.
    fn arrived(&self, mailbox: &Mailbox);
    /// May more of that be said now? Until it is recorded, whoever reads the record finds things as they were.
    fn has_room(&self) -> bool;
    /// A message cannot be taken any more; the transport has forgotten it. `count` is how often it was handed over.
    fn dead(&self, delivery: Delivery, reason: Reason);
}

/// A way for messages from the record to the mailboxes.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Names who is told; called once, before everything else.
    fn start(&self, sink: Weak<dyn Sink>);
    /// Keeps room for a message that is being recorded.
    fn reserve(&self, mailbox: &Mailbox, bytes: usize) -> Result<(), Full>;
    /// Gives room back that is not needed.
    fn release(&self, mailbox: &Mailbox, bytes: usize);
    /// Takes over a message that was just recorded; its room has been reserved.
    fn publish(&self, envelope: Arc<Envelope>);
    /// Takes over a message that was recorded before a restart, or by another replica, with the number of its deliveries. Takes
    /// room whether there is some or not, since the message is accepted already.
    fn readmit(&self, envelope: Arc<Envelope>, deliveries: u32);
    /// The same for one that had died, and was accepted again at this time, just now.
    fn revive(&self, envelope: Arc<Envelope>, at: Timestamp);
    /// Somebody here takes from a mailbox from now on.
    fn open(&self, _mailbox: &Mailbox) {}
    /// Nobody here does any more. What of it is held stays so; where that comes back this is said again.
    fn close(&self, _mailbox: &Mailbox) {}
    /// Hands over the next message of a mailbox, if there is one; whoever takes it settles it.
    fn take(&self, mailbox: &Mailbox, wanted: Wanted, now: Timestamp) -> Option<Delivery>;
    /// Ends a hand-over. Unknown ones are ignored.
    fn settle(&self, delivery: &Delivery, settlement: Settlement);
    /// Can nobody else have a message that is held here? Others can where the connection is lost over which it came.
    fn has_alone(&self, _envelope: &Arc<Envelope>) -> bool {
        true
    }
    /// It is recorded how a message ended: with a letter where it died.
    fn recorded(&self, _envelope: &Arc<Envelope>, _letter: Option<&DeadLetter>) {}
    /// A death was to be recorded of a message that others could have. Whether it was, or whether they have gone on with it, is
    /// seen when it comes again.
    fn doubted(&self, _envelope: &Arc<Envelope>) {}
    /// It is recorded that a task died.
    fn task_died(&self, _task: &Arc<Task>, _letter: &DeadLetter) {}
    /// Takes everything out of an agent's mailbox, and out of those of its instances, that nobody holds, for good: the agent is
    /// gone.
    fn empty(&self, mailbox: &Mailbox) -> Vec<Delivery>;
    /// Acts on the time: what expired is reported, what was delayed comes back, and what has waited for long for an instance of
    /// an agent from whose mailbox nobody takes is in the agent's. Called several times a second.
    fn advance(&self, now: Timestamp, instant: Instant);
}
