//! What every transport does.

mod broker;
mod live;
mod lost;
mod work;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use domain::{AgentId, Clock as _, DeadLetterId, InstanceId, MessageId, Namespace, SystemClock, Timestamp};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::BasicGetOptions,
    types::{AMQPValue, FieldTable},
};
use lifecycle::{OnExit, Shutdown, Tasks};
use settings::{Database, Secret};
use testkit::Servers;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::*;
use crate::{
    QueueType, RabbitMqSettings,
    app::{Kind, Message, Status},
    store::{Batch, MessageUpdate, Store, open},
};

const PATIENCE: Duration = Duration::from_mins(1);
const LIMITS: MailboxLimits = MailboxLimits { messages: 100, bytes: 1 << 20 };
const ANSWER_WAIT: Duration = Duration::from_secs(2);
const LINGERING: Duration = Duration::from_secs(2);
const RABBITMQ_LIMITS: RabbitMqLimits =
    RabbitMqLimits { mailbox: LIMITS, queue: 100, deliveries: 5, answer_wait: ANSWER_WAIT, linger: LINGERING };
const AGENT: AgentId = AgentId::from_parts(1, 1);
const ASKER: InstanceId = InstanceId::from_parts(1, 1);

/// What a transport has told.
#[derive(Default)]
struct Told {
    queued: Mutex<Vec<i64>>,
    dead: Mutex<Vec<(i64, Reason)>>,
    /// How often what has died was handed over.
    counts: Mutex<Vec<(i64, u32)>>,
    /// What is told is not recorded.
    is_full: AtomicBool,
    changed: Notify,
}

impl Sink for Told {
    fn queued(&self, envelope: &Arc<Envelope>) {
        self.queued.lock().unwrap().push(envelope.sequence);
        self.changed.notify_one();
    }

    fn arrived(&self, _: &Mailbox) {
        self.changed.notify_one();
    }

    fn has_room(&self) -> bool {
        !self.is_full.load(Ordering::Relaxed)
    }

    fn dead(&self, delivery: Delivery, reason: Reason) {
        self.counts.lock().unwrap().push((delivery.envelope.sequence, delivery.count));
        self.dead.lock().unwrap().push((delivery.envelope.sequence, reason));
        self.changed.notify_one();
    }
}

/// A replica as its transport sees it.
struct Replica {
    transport: Arc<dyn Transport>,
    told: Arc<Told>,
    store: Arc<dyn Store>,
    tasks: Tasks,
    over: watch::Sender<bool>,
}

impl Drop for Replica {
    /// As a process dies: nothing is said.
    fn drop(&mut self) {
        self.tasks.shutdown().cut();
    }
}

/// That of the instance that asks.
fn answers() -> Mailbox {
    Mailbox { instance: Some(ASKER), ..mailbox() }
}

fn mailbox() -> Mailbox {
    Mailbox::of_agent(Namespace::default(), AGENT)
}

impl Replica {
    fn new(transport: Arc<dyn Transport>, store: Arc<dyn Store>) -> Self {
        let told = Arc::new(Told::default());
        let sink: Arc<dyn Sink> = Arc::clone(&told) as _;
        transport.start(Arc::downgrade(&sink));
        Self { transport, told, store, tasks: Tasks::new(Shutdown::new()), over: watch::channel(false).0 }
    }

    fn rabbitmq(url: &str, store: Arc<dyn Store>) -> Self {
        Self::with(url, store, |_| {}).0
    }

    fn with(url: &str, store: Arc<dyn Store>, change: impl FnOnce(&mut RabbitMqSettings)) -> (Self, Arc<RabbitMq>) {
        let mut settings = RabbitMqSettings {
            url: Some(Secret::new(url)),
            relay_after: Duration::from_secs(1),
            ..RabbitMqSettings::default()
        };
        change(&mut settings);
        let rabbitmq = Arc::new(RabbitMq::new(settings, RABBITMQ_LIMITS, Arc::new(SystemClock)));
        let replica = Self::new(Arc::clone(&rabbitmq) as _, Arc::clone(&store));
        let run = Arc::clone(&rabbitmq).run(store, replica.over.subscribe());
        replica.tasks.spawn("rabbitmq", OnExit::StopService, run);
        (replica, rabbitmq)
    }

    /// Records messages, and does not publish them.
    async fn record(&self, texts: &[&str], expires_at: Option<Timestamp>) -> Vec<Arc<Envelope>> {
        self.record_as(texts, |message| Message { expires_at, ..message }).await
    }

    async fn record_as(&self, texts: &[&str], change: impl Fn(Message) -> Message) -> Vec<Arc<Envelope>> {
        let sequences = self.store.next_sequences(texts.len()).await.unwrap();
        let inserts: Vec<_> = texts
            .iter()
            .zip(sequences)
            .map(|(text, sequence)| {
                let message = Message {
                    id: MessageId::generate(&SystemClock),
                    namespace: Namespace::default(),
                    sender: None,
                    agent: AGENT,
                    instance: None,
                    kind: "message".to_owned(),
                    payload: Bytes::copy_from_slice(text.as_bytes()),
                    correlation_id: "c".repeat(300),
                    reply_to: None,
                    priority: 5,
                    expires_at: None,
                    created_at: SystemClock.now(),
                    traceparent: String::new(),
                };
                Arc::new(Envelope { sequence, message: change(message) })
            })
            .collect();
        self.store.write(&Batch { inserts: inserts.clone(), ..Batch::default() }).await.unwrap();
        inserts
    }

    async fn send(&self, texts: &[&str]) -> Vec<i64> {
        self.send_until(texts, None).await
    }

    async fn send_until(&self, texts: &[&str], expires_at: Option<Timestamp>) -> Vec<i64> {
        self.publish(self.record(texts, expires_at).await)
    }

    /// Sends answers to an instance.
    async fn answer(&self, texts: &[&str]) -> Vec<i64> {
        let correlation_id = format!("{ASKER}.1");
        let answer = |message| {
            let (kind, correlation_id) = ("reply".to_owned(), correlation_id.clone());
            Message { instance: Some(ASKER), kind, correlation_id, ..message }
        };
        self.publish(self.record_as(texts, answer).await)
    }

    fn publish(&self, envelopes: Vec<Arc<Envelope>>) -> Vec<i64> {
        let sequences = envelopes.iter().map(|envelope| envelope.sequence).collect();
        for envelope in envelopes {
            self.transport.reserve(&envelope.message.mailbox(), envelope.message.payload.len()).unwrap();
            self.transport.publish(envelope);
        }
        sequences
    }

    async fn until<T>(&self, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = look(self) {
                    return found;
                }
                // Time is among what is waited for.
                let _ = timeout(Duration::from_millis(20), self.told.changed.notified()).await;
                self.transport.advance(SystemClock.now(), Instant::now());
            }
        };
        timeout(PATIENCE, wait).await.expect("it happens in time")
    }

    /// Waits until it was said of that many that they are in their mailboxes.
    async fn until_queued(&self, count: usize) {
        self.until(|replica| (replica.told.queued.lock().unwrap().len() >= count).then_some(())).await;
    }

    async fn take(&self) -> Delivery {
        self.take_from(&mailbox()).await
    }

    async fn take_from(&self, mailbox: &Mailbox) -> Delivery {
        self.until(|replica| replica.transport.take(mailbox, Wanted::Any, SystemClock.now())).await
    }

    async fn write(&self, delivery: &Delivery, status: Status) {
        let update = MessageUpdate {
            sequence: delivery.envelope.sequence,
            created_at: delivery.envelope.message.created_at,
            status,
            deliveries: delivery.count,
            is_final: status == Status::Acked,
            delivered_at: None,
            acked_at: None,
            letter: None,
            history: Vec::new(),
        };
        self.store.write(&Batch { updates: vec![update], ..Batch::default() }).await.unwrap();
    }

    /// As the broker and the writer do for a message that its agent has dealt with.
    async fn finish(&self, delivery: &Delivery) {
        self.transport.settle(delivery, Settlement::Done);
        self.write(delivery, Status::Acked).await;
        self.transport.recorded(&delivery.envelope, None);
    }

    /// Takes and finishes that many; answers with their sequences.
    async fn drain(&self, count: usize) -> Vec<i64> {
        let mut taken = Vec::new();
        for _ in 0..count {
            let delivery = self.take().await;
            self.finish(&delivery).await;
            taken.push(delivery.envelope.sequence);
        }
        taken
    }

    fn is_empty(&self) -> bool {
        self.transport.take(&mailbox(), Wanted::Any, SystemClock.now()).is_none()
    }
}

/// A channel of the test's own.
async fn channel(host: &str) -> Channel {
    let connection = Connection::connect(host, ConnectionProperties::default()).await.unwrap();
    connection.create_channel().await.unwrap()
}

/// The next message in a queue, as soon as there is one.
async fn from_queue(channel: &Channel, queue: &str) -> lapin::message::Delivery {
    let get = async {
        loop {
            let found = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap();
            if let Some(found) = found {
                return found.delivery;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, get).await.expect("it comes")
}

async fn store() -> (tempfile::TempDir, Arc<dyn Store>) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&Database::sqlite(folder.path().join("communication.db"))).await.unwrap();
    (folder, store)
}

/// The same test for every transport.
macro_rules! every_transport {
    ($($name:ident)*) => {
        mod direct {
            $(#[tokio::test]
            async fn $name() {
                let (_folder, store) = super::store().await;
                let direct = super::Direct::new(super::LIMITS, Some(super::ANSWER_WAIT));
                super::$name(super::Replica::new(super::Arc::new(direct), store)).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test]
            async fn $name() {
                let (_folder, store) = super::store().await;
                super::$name(super::Replica::rabbitmq(&super::Servers::shared().virtual_host(), store)).await;
            })*
        }
        mod rabbitmq_classic {
            $(#[tokio::test]
            async fn $name() {
                let (_folder, store) = super::store().await;
                let classic =
                    |settings: &mut super::RabbitMqSettings| settings.queues.mailboxes = super::QueueType::Classic;
                let host = super::Servers::shared().virtual_host();
                super::$name(super::Replica::with(&host, store, classic).0).await;
            })*
        }
    };
}

every_transport! {
    messages_keep_their_order
    what_comes_back_is_first_again
    what_is_delayed_lets_others_pass
    what_has_expired_is_said_and_not_handed_over
    what_is_held_while_its_mailbox_is_emptied_can_come_back
    answers_are_for_the_instance_that_has_asked
    answers_to_an_instance_that_is_gone_are_for_its_agent
    a_deleted_agent_leaves_no_answers
    what_is_accepted_while_its_agent_is_deleted_dies
}

async fn answers_are_for_the_instance_that_has_asked(replica: Replica) {
    replica.transport.open(&mailbox());
    replica.transport.open(&answers());
    let sent = replica.answer(&["1", "2"]).await;
    let first = replica.take_from(&answers()).await;
    assert_eq!((first.envelope.sequence, first.count), (sent[0], 1));
    replica.transport.settle(&first, Settlement::Return { not_before: None });
    for (sequence, count) in [(sent[0], 2), (sent[1], 1)] {
        let delivery = replica.take_from(&answers()).await;
        assert_eq!((delivery.envelope.sequence, delivery.count), (sequence, count));
        replica.finish(&delivery).await;
    }
    assert!(replica.is_empty());
}

async fn answers_to_an_instance_that_is_gone_are_for_its_agent(replica: Replica) {
    replica.transport.open(&mailbox());
    let begun = Instant::now();
    let sent = replica.answer(&["1"]).await;
    assert_eq!(replica.drain(1).await, sent);
    assert!(begun.elapsed() >= ANSWER_WAIT, "it is waited for");
    // One that goes with an answer in its hands.
    replica.transport.open(&answers());
    let sent = replica.answer(&["2", "3"]).await;
    let held = replica.take_from(&answers()).await;
    replica.transport.settle(&held, Settlement::Return { not_before: None });
    replica.transport.close(&answers());
    let mut came = Vec::new();
    for _ in 0..2 {
        let delivery = replica.take().await;
        replica.finish(&delivery).await;
        came.push((delivery.envelope.sequence, delivery.count));
    }
    came.sort_unstable();
    assert_eq!(came, [(sent[0], 2), (sent[1], 1)]);
    assert!(replica.is_empty());
}

async fn a_deleted_agent_leaves_no_answers(replica: Replica) {
    replica.transport.open(&answers());
    let sent = replica.answer(&["1"]).await;
    let waits = replica.take_from(&answers()).await;
    replica.transport.settle(&waits, Settlement::Return { not_before: None });
    let left = replica.transport.empty(&mailbox());
    assert_eq!(left.iter().map(|delivery| delivery.envelope.sequence).collect::<Vec<_>>(), sent);
}

async fn what_is_accepted_while_its_agent_is_deleted_dies(replica: Replica) {
    replica.transport.open(&mailbox());
    assert!(replica.transport.empty(&mailbox()).is_empty());
    let sent = replica.send(&["1"]).await;
    let dead = |replica: &Replica| replica.told.dead.lock().unwrap().first().copied();
    assert_eq!(replica.until(dead).await, (sent[0], Reason::AgentDeleted));
}

async fn messages_keep_their_order(replica: Replica) {
    let before = replica.send(&["1", "2", "3"]).await;
    replica.transport.open(&mailbox());
    let after = replica.send(&["4", "5"]).await;
    assert_eq!(replica.drain(5).await, [before.clone(), after.clone()].concat());
    assert!(replica.is_empty());
    // A broker may say so after it has delivered.
    let queued = |replica: &Replica| Some(replica.told.queued.lock().unwrap().clone()).filter(|told| told.len() >= 5);
    assert_eq!(replica.until(queued).await, [before, after].concat(), "each is said to be there, once");
}

async fn what_comes_back_is_first_again(replica: Replica) {
    replica.transport.open(&mailbox());
    let sent = replica.send(&["1", "2"]).await;
    let first = replica.take().await;
    assert_eq!((first.envelope.sequence, first.count), (sent[0], 1));
    replica.transport.settle(&first, Settlement::Return { not_before: None });
    let again = replica.take().await;
    assert_eq!((again.envelope.sequence, again.count), (sent[0], 2));
    replica.finish(&again).await;
    assert_eq!(replica.drain(1).await, sent[1..]);
}

async fn what_is_delayed_lets_others_pass(replica: Replica) {
    replica.transport.open(&mailbox());
    let sent = replica.send(&["1", "2"]).await;
    let first = replica.take().await;
    let due = Instant::now() + Duration::from_millis(300);
    replica.transport.settle(&first, Settlement::Return { not_before: Some(due) });
    assert_eq!(replica.drain(2).await, [sent[1], sent[0]]);
    assert!(Instant::now() >= due);
}

async fn what_has_expired_is_said_and_not_handed_over(replica: Replica) {
    replica.transport.open(&mailbox());
    let sent = replica.send_until(&["1"], Some(SystemClock.now())).await;
    let last = replica.send(&["2"]).await;
    assert_eq!(replica.drain(1).await, last);
    let dead = |replica: &Replica| replica.told.dead.lock().unwrap().first().copied();
    assert_eq!(replica.until(dead).await, (sent[0], Reason::Expired));
}

async fn what_is_held_while_its_mailbox_is_emptied_can_come_back(replica: Replica) {
    replica.transport.open(&mailbox());
    let sent = replica.send(&["held", "delayed", "waits"]).await;
    let held = replica.take().await;
    let delayed = replica.take().await;
    let due = Instant::now() + Duration::from_hours(1);
    replica.transport.settle(&delayed, Settlement::Return { not_before: Some(due) });
    let waits = replica.take().await;
    replica.transport.settle(&waits, Settlement::Return { not_before: None });
    let left = replica.transport.empty(&mailbox());
    let mut left: Vec<_> = left.iter().map(|delivery| delivery.envelope.sequence).collect();
    left.sort_unstable();
    assert_eq!(left, sent[1..]);
    replica.transport.settle(&held, Settlement::Return { not_before: None });
    assert_eq!(replica.drain(1).await, sent[..1]);
    assert!(replica.is_empty());
}
