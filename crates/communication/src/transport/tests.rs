//! What every transport does; then what only the one with a broker behind it can do.

mod live;
mod work;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use domain::{AgentId, Clock as _, DeadLetterId, MessageId, Namespace, SystemClock, Timestamp};
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
    RabbitMqSettings,
    app::{Kind, Message, Status},
    store::{Batch, MessageUpdate, Store, open},
};

const PATIENCE: Duration = Duration::from_mins(1);
const LIMITS: MailboxLimits = MailboxLimits { messages: 100, bytes: 1 << 20 };
const RABBITMQ_LIMITS: RabbitMqLimits = RabbitMqLimits { mailbox: LIMITS, queue: 100, deliveries: 5 };
const AGENT: AgentId = AgentId::from_parts(1, 1);

/// What a transport has told.
#[derive(Default)]
struct Told {
    queued: Mutex<Vec<i64>>,
    dead: Mutex<Vec<(i64, Reason)>>,
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

fn mailbox() -> Mailbox {
    Mailbox { namespace: Namespace::default(), agent: AGENT }
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
                    kind: "message".to_owned(),
                    payload: Bytes::copy_from_slice(text.as_bytes()),
                    correlation_id: "c".repeat(300),
                    reply_to: None,
                    priority: 5,
                    expires_at,
                    created_at: SystemClock.now(),
                    traceparent: String::new(),
                };
                Arc::new(Envelope { sequence, message })
            })
            .collect();
        self.store.write(&Batch { inserts: inserts.clone(), ..Batch::default() }).await.unwrap();
        inserts
    }

    async fn send(&self, texts: &[&str]) -> Vec<i64> {
        self.send_until(texts, None).await
    }

    async fn send_until(&self, texts: &[&str], expires_at: Option<Timestamp>) -> Vec<i64> {
        let envelopes = self.record(texts, expires_at).await;
        let sequences = envelopes.iter().map(|envelope| envelope.sequence).collect();
        for envelope in envelopes {
            self.transport.reserve(&mailbox(), envelope.message.payload.len()).unwrap();
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
        self.until(|replica| replica.transport.take(&mailbox(), Wanted::Any, SystemClock.now())).await
    }

    async fn write(&self, delivery: &Delivery, status: Status) {
        let update = MessageUpdate {
            sequence: delivery.envelope.sequence,
            created_at: delivery.envelope.message.created_at,
            status,
            deliveries: delivery.count,
            delivered_at: None,
            acked_at: None,
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
                super::$name(super::Replica::new(super::Arc::new(super::Direct::new(super::LIMITS)), store)).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test]
            async fn $name() {
                let (_folder, store) = super::store().await;
                super::$name(super::Replica::rabbitmq(&super::Servers::shared().virtual_host(), store)).await;
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

#[tokio::test]
async fn what_a_lost_replica_held_comes_to_another_and_what_it_finished_does_not() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let lost = Replica::rabbitmq(&host, Arc::clone(&store));
    let other = Replica::rabbitmq(&host, store);
    lost.transport.open(&mailbox());
    let sent = lost.send(&["1", "2", "3"]).await;
    let finished = lost.take().await;
    // Recorded, and the broker was not told.
    lost.write(&finished, Status::Acked).await;
    let held = lost.take().await;
    lost.write(&held, Status::Delivered).await;
    other.transport.open(&mailbox());
    drop(lost);
    let mut came = Vec::new();
    for _ in 0..2 {
        let again = other.take().await;
        other.finish(&again).await;
        came.push((again.envelope.sequence, again.count));
    }
    // What a dead consumer had comes back in whatever order the broker takes it back.
    came.sort_unstable();
    assert_eq!(came, [(sent[1], 2), (sent[2], 1)], "deliveries are counted over replicas");
    assert!(other.is_empty());
}

#[tokio::test]
async fn what_a_replica_accepted_before_its_end_is_relayed_by_another_once() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let other = Replica::rabbitmq(&host, Arc::clone(&store));
    let lost = Replica::rabbitmq(&host, store);
    let recorded: Vec<_> = lost.record(&["1", "2"], None).await.iter().map(|envelope| envelope.sequence).collect();
    drop(lost);
    other.transport.open(&mailbox());
    assert_eq!(other.drain(2).await, recorded);
    assert!(other.is_empty());
}

#[tokio::test]
async fn what_a_broker_has_lost_with_its_data_is_published_again() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let lost = Replica::rabbitmq(&host, Arc::clone(&store));
    let sent = lost.send(&["1", "2"]).await;
    lost.until_queued(2).await;
    let recorded = store.unfinished(0, 10).await.unwrap().rows;
    let [first, second] = [0, 1].map(|place| {
        let (Envelope { sequence, message }, _) = &recorded[place];
        Arc::new(Envelope { sequence: *sequence, message: message.clone() })
    });
    lost.write(&Delivery { envelope: first, count: 1 }, Status::Delivered).await;
    lost.write(&Delivery { envelope: second, count: 0 }, Status::Queued).await;
    drop(lost);
    let queue = format!("mailbox.default.{AGENT}");
    channel(&host).await.queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    let other = Replica::rabbitmq(&host, store);
    other.transport.open(&mailbox());
    let first = other.take().await;
    assert_eq!((first.envelope.sequence, first.count), (sent[0], 2), "its hand-overs stay counted");
    other.finish(&first).await;
    assert_eq!(other.drain(1).await, sent[1..]);
    assert!(other.is_empty());
}

#[tokio::test]
async fn what_expires_in_the_broker_is_said_once_and_not_while_nothing_can_be_recorded() {
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&Servers::shared().virtual_host(), store);
    replica.told.is_full.store(true, Ordering::Relaxed);
    let long_ago = SystemClock.now() - Duration::from_mins(1);
    let first = replica.send_until(&["1"], Some(long_ago)).await[0];
    // Relayed by the same look that sees what has expired.
    let left = replica.record(&["2"], None).await[0].sequence;
    let is_relayed = |replica: &Replica| replica.told.queued.lock().unwrap().contains(&left).then_some(());
    replica.until(is_relayed).await;
    let told = |replica: &Replica| replica.told.dead.lock().unwrap().clone();
    assert_eq!(told(&replica), []);
    replica.told.is_full.store(false, Ordering::Relaxed);
    replica.until(|replica| (!told(replica).is_empty()).then_some(())).await;
    let second = replica.send_until(&["3"], Some(long_ago)).await[0];
    replica.until(|replica| told(replica).iter().any(|(sequence, _)| *sequence == second).then_some(())).await;
    assert_eq!(told(&replica), [(first, Reason::Expired), (second, Reason::Expired)]);
}

/// Of a message that its agent has rejected.
fn letter(delivery: &Delivery) -> DeadLetter {
    let message = &delivery.envelope.message;
    DeadLetter {
        id: DeadLetterId::generate(&SystemClock),
        namespace: message.namespace.clone(),
        kind: Kind::Message,
        subject_id: message.id.to_string(),
        target: message.agent.to_string(),
        reason: Reason::Rejected.as_str().to_owned(),
        detail: "no thanks".to_owned(),
        deliveries: 1,
        payload: message.payload.clone(),
        created_at: SystemClock.now(),
        replayed_at: None,
        task: None,
    }
}

#[tokio::test]
async fn a_mailbox_whose_queue_is_somebody_elses_holds_nobody_up() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let replica = Replica::rabbitmq(&host, store);
    let other = AgentId::from_parts(2, 2);
    let channel = channel(&host).await;
    let exclusive = lapin::options::QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = format!("mailbox.default.{other}");
    channel.queue_declare(queue.as_str().into(), exclusive, FieldTable::default()).await.unwrap();
    let foreign = replica.record(&["1"], None).await.remove(0);
    let foreign = Envelope { sequence: i64::MAX, message: Message { agent: other, ..foreign.message.clone() } };
    replica.transport.publish(Arc::new(foreign));
    let sent = replica.send(&["2", "3"]).await;
    replica.transport.open(&mailbox());
    let came = replica.drain(3).await;
    assert_eq!(
        came.iter().filter(|sequence| sent.contains(sequence)).collect::<Vec<_>>(),
        sent.iter().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_message_that_is_too_large_for_the_broker_holds_nobody_up() {
    let servers = Servers::private(&["rabbitmq"]);
    servers.rabbitmqctl(&["eval", "application:set_env(rabbit, max_message_size, 100)."]);
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&servers.virtual_host(), store);
    let sent = replica.send(&["1", &"x".repeat(200), "2"]).await;
    replica.transport.open(&mailbox());
    let mut came = replica.drain(2).await;
    came.sort_unstable();
    assert_eq!(came, [sent[0], sent[2]]);
    servers.rabbitmqctl(&["eval", "application:set_env(rabbit, max_message_size, 1000)."]);
    assert_eq!(replica.drain(1).await, sent[1..2], "it is tried again, later");
}

/// A message that has died.
async fn died(replica: &Replica) -> (Delivery, DeadLetter) {
    replica.transport.open(&mailbox());
    replica.send(&["dead"]).await;
    let dead = replica.take().await;
    replica.transport.settle(&dead, Settlement::Done);
    replica.write(&dead, Status::Dead).await;
    let letter = letter(&dead);
    replica.store.write(&Batch { letters: vec![letter.clone()], ..Batch::default() }).await.unwrap();
    (dead, letter)
}

#[tokio::test]
async fn a_message_that_was_replayed_is_relayed_where_whoever_did_it_has_ended_before_it_was_published() {
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&Servers::shared().virtual_host(), store);
    let (dead, letter) = died(&replica).await;
    // By somebody else, and before it is heard here that the death is recorded.
    replica.store.replay(&letter.namespace, &[letter.id], SystemClock.now()).await.unwrap();
    let again = replica.take().await;
    assert_eq!((again.envelope.sequence, again.count), (dead.envelope.sequence, 1));
    replica.transport.recorded(&dead.envelope, Some(&letter));
    replica.finish(&again).await;
    assert!(replica.is_empty());
}

#[tokio::test]
async fn a_message_that_was_replayed_into_a_full_mailbox_comes_when_there_is_room() {
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&Servers::shared().virtual_host(), store);
    let (dead, letter) = died(&replica).await;
    replica.transport.recorded(&dead.envelope, None);
    replica.transport.close(&mailbox());
    let full = replica.send(&[""; LIMITS.messages]).await;
    replica.until_queued(1 + LIMITS.messages).await;
    for (envelope, _) in replica.store.unfinished(0, LIMITS.messages).await.unwrap().rows {
        replica.write(&Delivery { envelope: Arc::new(envelope), count: 0 }, Status::Queued).await;
    }
    let revived = replica.store.replay(&letter.namespace, &[letter.id], SystemClock.now()).await.unwrap();
    for (_, envelope) in revived {
        replica.transport.revive(Arc::new(envelope));
    }
    let is_refused = |replica: &Replica| match replica.transport.reserve(&mailbox(), 0) {
        Ok(()) => {
            replica.transport.release(&mailbox(), 0);
            None
        }
        Err(Full) => Some(()),
    };
    replica.until(is_refused).await;
    replica.transport.open(&mailbox());
    let mut came = replica.drain(LIMITS.messages + 1).await;
    came.sort_unstable();
    assert_eq!(came, [vec![dead.envelope.sequence], full].concat());
}

#[tokio::test]
async fn a_message_dies_into_the_queue_of_dead_letters_with_its_reason_and_can_live_again() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let replica = Replica::rabbitmq(&host, store);
    replica.transport.open(&mailbox());
    replica.send(&["\"text\""]).await;
    let delivery = replica.take().await;
    let letter = letter(&delivery);
    replica.transport.settle(&delivery, Settlement::Done);
    replica.write(&delivery, Status::Dead).await;
    let written = Batch { letters: vec![letter.clone()], ..Batch::default() };
    replica.store.write(&written).await.unwrap();
    replica.transport.recorded(&delivery.envelope, Some(&letter));

    let copy = from_queue(&channel(&host).await, "dlq.message").await;
    let reason =
        copy.properties.headers().as_ref().and_then(|headers: &FieldTable| headers.inner().get("troupe-reason"));
    assert_eq!(reason, Some(&AMQPValue::LongString("rejected".into())));
    assert_eq!(copy.data, b"\"text\"");

    let mut revived = replica.store.replay(&letter.namespace, &[letter.id], SystemClock.now()).await.unwrap();
    replica.transport.revive(Arc::new(revived.remove(0).1));
    assert_eq!(replica.drain(1).await, [delivery.envelope.sequence]);
}

#[tokio::test]
async fn while_the_broker_is_away_messages_are_accepted_and_they_flow_when_it_is_back() {
    let servers = Servers::private(&["rabbitmq"]);
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&servers.virtual_host(), store);
    replica.transport.open(&mailbox());
    let first = replica.send(&["1", "2"]).await;
    let held = replica.take().await;
    replica.write(&held, Status::Delivered).await;
    servers.control("kill", "rabbitmq");
    let second = replica.send(&["3", "4"]).await;
    servers.control("start", "rabbitmq");
    // The session has its message still; the broker brings it again, and is told that it is done.
    replica.finish(&held).await;
    assert_eq!(replica.drain(3).await, [first[1], second[0], second[1]]);
    assert!(replica.is_empty());
}

/// A replica that holds the first of its messages over a restart of the broker.
async fn held_over_a_reconnect(servers: &Servers, host: &str, store: Arc<dyn Store>) -> (Replica, Delivery) {
    let replica = Replica::rabbitmq(host, store);
    replica.transport.open(&mailbox());
    let sent = replica.send(&["held", "waits"]).await;
    let held = replica.take().await;
    let waits = replica.take().await;
    replica.write(&held, Status::Delivered).await;
    replica.transport.settle(&waits, Settlement::Return { not_before: None });
    servers.control("kill", "rabbitmq");
    let is_lost = |replica: &Replica| match replica.transport.take(&mailbox(), Wanted::Any, SystemClock.now()) {
        Some(waits) => {
            replica.transport.settle(&waits, Settlement::Return { not_before: None });
            None
        }
        None => Some(()),
    };
    replica.until(is_lost).await;
    servers.control("start", "rabbitmq");
    assert_eq!(replica.drain(1).await, sent[1..], "it comes again, and what comes before it has too");
    (replica, held)
}

#[tokio::test]
async fn what_a_session_holds_over_a_reconnect_comes_again_when_it_gives_it_back() {
    let servers = Servers::private(&["rabbitmq"]);
    let (_folder, store) = store().await;
    let (replica, held) = held_over_a_reconnect(&servers, &servers.virtual_host(), store).await;
    replica.transport.settle(&held, Settlement::Return { not_before: None });
    let again = replica.take().await;
    assert_eq!((again.envelope.sequence, again.count), (held.envelope.sequence, 2));
    replica.finish(&again).await;
    assert!(replica.is_empty());
}

#[tokio::test]
async fn what_a_session_holds_over_a_reconnect_comes_to_another_replica_when_the_session_ends() {
    let servers = Servers::private(&["rabbitmq"]);
    let (_folder, store) = store().await;
    let host = servers.virtual_host();
    let (replica, held) = held_over_a_reconnect(&servers, &host, Arc::clone(&store)).await;
    replica.transport.settle(&held, Settlement::Return { not_before: None });
    replica.transport.close(&mailbox());
    let other = Replica::rabbitmq(&host, store);
    other.transport.open(&mailbox());
    let again = other.take().await;
    assert_eq!((again.envelope.sequence, again.count), (held.envelope.sequence, 2));
    other.finish(&again).await;
    assert!(other.is_empty());
}
