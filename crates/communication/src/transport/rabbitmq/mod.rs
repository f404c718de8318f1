//! The `rabbitmq` transport: mailboxes are durable queues, and any number of replicas shares them.
//!
//! The record in the database is the truth about every message; the broker carries messages from the replica that accepted
//! them to the one that has the agent's session, and keeps them while there is none. While the broker is away, messages are
//! accepted and wait: in memory at the replica that took them, and in the record for whoever relays them after its end.
//!
//! Tasks that no session here takes soon go through work queues, from which whichever replica has credit takes them. Nothing
//! records them: what is lost with the broker, orchestrators dispatch again.
//!
//! - [`outgoing`], [`publisher`]: to the broker; [`relay`] finds what was left on the way.
//! - [`consumer`], [`held`]: from it. What was fetched waits in a [`Direct`] transport, which knows about order, delays and
//!   expiry.
//! - [`work`], [`work_consumer`]: the same for tasks, which wait with `app`; [`sharing`]: which replica has agents for them.
//! - [`link`]: connections and topology; [`properties`]: what goes along. What consumes does not publish, since a broker that
//!   is out of memory reads nothing from connections that do, acknowledgements included. Tasks have a connection of their own,
//!   so that they go on where messages cannot, as while the database is away.

mod consumer;
mod consumers;
mod held;
mod link;
mod outgoing;
mod properties;
mod publisher;
mod refused;
mod relay;
mod sharing;
mod work;
mod work_consumer;

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use domain::{Clock, Timestamp};
use tokio::sync::{Notify, watch};

use self::{
    held::{Held, Verdict},
    outgoing::{Original, Outgoing},
    work::Work,
};
use super::{Delivery, Direct, Full, MailboxLimits, Settlement, Sink, Transport, Wanted};
use crate::{
    app::{DeadLetter, Envelope, Mailbox, Reason, Task},
    settings,
    store::Store,
};

/// New queues of mailboxes of which it is asked one by one whether there were others before.
const MOST_MADE: usize = 1_000;

/// What RabbitMQ is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RabbitMqLimits {
    pub(crate) mailbox: MailboxLimits,
    /// Tasks in one work queue.
    pub(crate) queue: usize,
    /// Hand-overs before a message is dead.
    pub(crate) deliveries: u32,
    /// How long an answer waits for the instance that has asked.
    pub(crate) answer_wait: Duration,
    /// How long a deleted agent's mailbox is emptied.
    pub(crate) linger: Duration,
}

/// Mailboxes and work queues in RabbitMQ.
pub(crate) struct RabbitMq {
    clock: Arc<dyn Clock>,
    /// What was accepted earlier was accepted by others.
    began: Timestamp,
    settings: settings::RabbitMq,
    limits: RabbitMqLimits,
    /// What was fetched.
    local: Direct,
    inbound: OnceLock<Arc<Inbound>>,
    held: Arc<Mutex<Held>>,
    outgoing: Outgoing,
    work: Work,
    doubts: Mutex<Doubts>,
    mailboxes: Mutex<Mailboxes>,
    /// Held while a queue is made.
    declaring: tokio::sync::Mutex<()>,
    /// The mailboxes have changed.
    changed: Notify,
    /// There is something to tell the broker.
    settled: Notify,
    /// Connections that are open.
    links: AtomicUsize,
}

#[derive(Debug, Default)]
struct Mailboxes {
    /// Somebody here takes from them.
    open: HashSet<Mailbox>,
    /// Their agents are gone, since when: they are emptied.
    deleted: HashMap<Mailbox, Instant>,
}

/// What the broker may have lost.
#[derive(Debug, Default)]
struct Doubts {
    /// Anything: it may be another than before, or a queue was deleted.
    is_any: bool,
    /// What was in mailboxes before their queues were made here, just now: messages that came before these.
    made: HashMap<Mailbox, i64>,
}

/// Between the local mailboxes and whoever is told of them.
struct Inbound {
    sink: Weak<dyn Sink>,
    held: Arc<Mutex<Held>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink for Inbound {
    fn queued(&self, envelope: &Arc<Envelope>) {
        if let Some(sink) = self.sink.upgrade() {
            sink.queued(envelope);
        }
    }

    fn arrived(&self, mailbox: &Mailbox) {
        if let Some(sink) = self.sink.upgrade() {
            sink.arrived(mailbox);
        }
    }

    fn has_room(&self) -> bool {
        self.sink.upgrade().is_some_and(|sink| sink.has_room())
    }

    fn dead(&self, delivery: Delivery, reason: Reason) {
        lock(&self.held).end(&delivery.envelope);
        if let Some(sink) = self.sink.upgrade() {
            sink.dead(delivery, reason);
        }
    }
}

impl RabbitMq {
    pub(crate) fn new(settings: settings::RabbitMq, limits: RabbitMqLimits, clock: Arc<dyn Clock>) -> Self {
        Self {
            began: clock.now(),
            clock,
            limits,
            local: Direct::new(limits.mailbox, None),
            inbound: OnceLock::new(),
            held: Arc::default(),
            outgoing: Outgoing::new(limits.mailbox, settings.publish_buffer.0),
            settings,
            work: Work::default(),
            doubts: Mutex::default(),
            mailboxes: Mutex::default(),
            declaring: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            settled: Notify::new(),
            links: AtomicUsize::new(0),
        }
    }

    /// Publishes and consumes until `over` turns true.
    pub(crate) async fn run(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        over: watch::Receiver<bool>,
    ) -> Result<(), Infallible> {
        let publish = publisher::run(Arc::clone(&self), over.clone());
        let relay = relay::run(Arc::clone(&self), Arc::clone(&store), over.clone());
        let tasks = work_consumer::run(Arc::clone(&self), over.clone());
        let sharing = sharing::run(Arc::clone(&self), over.clone());
        let consume = Box::pin(consumer::run(self, store, over));
        futures::future::join5(publish, relay, tasks, sharing, consume).await;
        Ok(())
    }

    /// Can it publish and consume?
    pub(crate) fn is_connected(&self) -> bool {
        self.links.load(Ordering::Relaxed) >= 3
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    /// Is a message here, on its way in or out?
    fn has(&self, sequence: i64) -> bool {
        self.held().knows(sequence) || self.outgoing.knows(sequence)
    }

    fn mailboxes(&self) -> MutexGuard<'_, Mailboxes> {
        lock(&self.mailboxes)
    }

    fn queued(&self, envelope: &Arc<Envelope>) {
        if let Some(inbound) = self.inbound.get() {
            inbound.queued(envelope);
        }
    }

    /// The broker may have lost something: it is compared soon what it has.
    fn doubt(&self) {
        lock(&self.doubts).is_any = true;
    }

    /// The queue of a mailbox had to be made: there was none before, or it was deleted with messages that came before this one.
    fn has_made(&self, mailbox: &Mailbox, before: i64) {
        let mut doubts = lock(&self.doubts);
        if doubts.made.len() < MOST_MADE {
            let first = doubts.made.entry(mailbox.agents()).or_insert(before);
            *first = before.min(*first);
        } else {
            doubts.is_any = true;
        }
    }

    fn take_doubts(&self) -> Doubts {
        std::mem::take(&mut *lock(&self.doubts))
    }

    /// Tasks cannot be published now: those that wait to be are their dispatchers' again.
    fn publish_no_tasks(&self) {
        let tasks = self.outgoing.close();
        self.work.not_enqueued(&tasks);
    }

    /// What is to be said of a delivery that has no instance here.
    fn verdict(&self, tag: u64, verdict: Verdict) {
        self.held().say(tag, verdict);
        self.settled.notify_one();
    }

    /// The broker delivers everything again, here or elsewhere: what nobody here has taken is forgotten.
    fn disconnected(&self) {
        // What was accepted for deleted agents meanwhile comes when the broker is back.
        self.mailboxes().deleted.values_mut().for_each(|since| *since = Instant::now());
        let mailboxes = self.held().disconnect();
        for mailbox in &mailboxes {
            self.give_back(mailbox);
        }
    }

    /// What nobody here has taken from a mailbox is the broker's again.
    fn give_back(&self, mailbox: &Mailbox) {
        let waiting = self.local.clear(mailbox);
        self.held().give_back(waiting);
    }

    fn is_deleted(&self, mailbox: &Mailbox) -> bool {
        self.mailboxes().deleted.contains_key(&mailbox.agents())
    }

    /// The mailboxes to which nobody sends any more, since their agents have been gone for long enough.
    fn abandoned(&self) -> Vec<Mailbox> {
        let is_old = |since: &Instant| since.elapsed() >= self.limits.linger;
        self.mailboxes().deleted.iter().filter(|(_, since)| is_old(since)).map(|(mailbox, _)| mailbox.clone()).collect()
    }

    fn forget(&self, mailbox: &Mailbox) {
        self.mailboxes().deleted.remove(mailbox);
    }
}

impl Transport for RabbitMq {
    fn start(&self, sink: Weak<dyn Sink>) {
        let inbound = self.inbound.get_or_init(|| Arc::new(Inbound { sink, held: Arc::clone(&self.held) }));
        let inbound: Arc<dyn Sink> = Arc::clone(inbound) as _;
        self.local.start(Arc::downgrade(&inbound));
    }

    fn reserve(&self, mailbox: &Mailbox, bytes: usize) -> Result<(), Full> {
        self.outgoing.reserve(mailbox, bytes)
    }

    fn release(&self, mailbox: &Mailbox, bytes: usize) {
        self.outgoing.release(mailbox, bytes);
    }

    fn publish(&self, envelope: Arc<Envelope>) {
        self.outgoing.push(envelope);
    }

    fn readmit(&self, envelope: Arc<Envelope>, _deliveries: u32) {
        // The record counts them.
        self.outgoing.push_again(envelope, None);
    }

    fn revive(&self, envelope: Arc<Envelope>, at: Timestamp) {
        self.outgoing.push_again(envelope, Some(at));
    }

    fn open(&self, mailbox: &Mailbox) {
        self.mailboxes().open.insert(mailbox.clone());
        self.changed.notify_one();
    }

    fn close(&self, mailbox: &Mailbox) {
        self.mailboxes().open.remove(mailbox);
        self.give_back(mailbox);
        self.changed.notify_one();
    }

    fn take(&self, mailbox: &Mailbox, wanted: Wanted, now: Timestamp) -> Option<Delivery> {
        self.local.take(mailbox, wanted, now)
    }

    fn settle(&self, delivery: &Delivery, settlement: Settlement) {
        if settlement == Settlement::Done {
            self.held().end(&delivery.envelope);
        }
        self.local.settle(delivery, settlement);
    }

    fn has_alone(&self, envelope: &Arc<Envelope>) -> bool {
        self.held().is_delivered(envelope)
    }

    fn doubted(&self, envelope: &Arc<Envelope>) {
        self.held().release(envelope, Verdict::Requeue);
        self.settled.notify_one();
    }

    fn recorded(&self, envelope: &Arc<Envelope>, letter: Option<&DeadLetter>) {
        let was_here = self.held().release(envelope, Verdict::Ack);
        self.settled.notify_one();
        // Of one that is not here the broker makes a copy itself, when it comes to it.
        if was_here && let Some(letter) = letter {
            self.outgoing.push_letter(letter.clone(), Original::Message(Arc::clone(envelope)));
        }
    }

    fn task_died(&self, task: &Arc<Task>, letter: &DeadLetter) {
        self.outgoing.push_letter(letter.clone(), Original::Task(Arc::clone(task)));
    }

    fn empty(&self, mailbox: &Mailbox) -> Vec<Delivery> {
        let found = self.local.empty(mailbox);
        for delivery in &found {
            self.held().end(&delivery.envelope);
        }
        self.mailboxes().deleted.entry(mailbox.clone()).or_insert_with(Instant::now);
        self.changed.notify_one();
        found
    }

    fn advance(&self, now: Timestamp, instant: Instant) {
        self.local.advance(now, instant);
    }
}

#[cfg(test)]
mod tests {
    use domain::{AgentId, Namespace, SystemClock};

    use super::*;
    use crate::transport::LINGER;

    #[test]
    fn the_mailbox_of_a_deleted_agent_stays_while_the_broker_is_away_and_as_long_as_ever_after() {
        let limits = RabbitMqLimits {
            mailbox: MailboxLimits { messages: 1, bytes: 1 },
            queue: 1,
            deliveries: 1,
            answer_wait: Duration::ZERO,
            linger: LINGER,
        };
        let rabbitmq = RabbitMq::new(settings::RabbitMq::default(), limits, Arc::new(SystemClock));
        let mailbox = Mailbox::of_agent(Namespace::default(), AgentId::from_parts(1, 1));
        let long_ago = Instant::now().checked_sub(LINGER).expect("the machine is up for longer than that");
        rabbitmq.mailboxes().deleted.insert(mailbox.clone(), long_ago);
        assert_eq!(rabbitmq.abandoned(), [mailbox]);
        rabbitmq.disconnected();
        assert_eq!(rabbitmq.abandoned(), []);
    }
}
