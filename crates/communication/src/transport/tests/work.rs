//! Work queues in a real RabbitMQ, between transports that stand for replicas.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, Ordering},
};

use lapin::{BasicProperties, options::BasicPublishOptions};

use super::*;
use crate::{
    QueueTypes,
    app::{QueueKey, Target, Task, TaskId},
    settings::QueueType,
};

/// What the work queues have told.
#[derive(Default)]
struct Heard {
    enqueued: Mutex<Vec<TaskId>>,
    not_enqueued: Mutex<Vec<TaskId>>,
    delivered: Mutex<Vec<(Parcel, Lot)>>,
    remembered: Mutex<Vec<Arc<QueueKey>>>,
    emptied: Mutex<Vec<QueueKey>>,
    disconnected: Mutex<usize>,
    /// What it says that agents wait for.
    spare: AtomicU32,
    changed: Notify,
}

impl WorkSink for Heard {
    fn enqueued(&self, tasks: &[TaskId]) {
        self.enqueued.lock().unwrap().extend_from_slice(tasks);
        self.changed.notify_one();
    }

    fn not_enqueued(&self, tasks: &[TaskId]) {
        self.not_enqueued.lock().unwrap().extend_from_slice(tasks);
        self.changed.notify_one();
    }

    fn delivered(&self, parcels: Vec<(Parcel, Lot)>) {
        self.delivered.lock().unwrap().extend(parcels);
        self.changed.notify_one();
    }

    fn spare(&self, _: &QueueKey) -> u32 {
        self.spare.load(Ordering::Relaxed)
    }

    fn remembered(&self) -> Vec<Arc<QueueKey>> {
        self.remembered.lock().unwrap().clone()
    }

    fn emptied(&self, queue: &QueueKey, _: Instant) {
        self.emptied.lock().unwrap().push(queue.clone());
        self.changed.notify_one();
    }

    fn disconnected(&self) {
        *self.disconnected.lock().unwrap() += 1;
    }
}

/// A replica as its work queues see it.
struct Worker {
    replica: Replica,
    work: Arc<dyn WorkQueues>,
    heard: Arc<Heard>,
}

impl Worker {
    async fn new(host: &str, change: impl FnOnce(&mut RabbitMqSettings)) -> (tempfile::TempDir, Self) {
        let (folder, store) = store().await;
        let (replica, work) = Replica::with(host, store, change);
        let heard = Arc::new(Heard::default());
        let sink: Arc<dyn WorkSink> = Arc::clone(&heard) as _;
        WorkQueues::start(&*work, Arc::downgrade(&sink));
        let work: Arc<dyn WorkQueues> = work;
        (folder, Self { replica, work, heard })
    }

    async fn until<T>(&self, look: impl Fn(&Heard) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = look(&self.heard) {
                    return found;
                }
                let _ = timeout(Duration::from_millis(20), self.heard.changed.notified()).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("it happens in time")
    }

    /// Publishes as soon as the broker takes something, and waits for all of it to be there.
    async fn publish(&self, parcels: &[Parcel]) {
        for parcel in parcels {
            self.until(|_| (self.work.publish(parcel.clone()) == Publishing::Begun).then_some(())).await;
        }
        let wanted: BTreeSet<_> = parcels.iter().map(|parcel| Arc::clone(&parcel.task.id)).collect();
        self.until(|heard| {
            let there: BTreeSet<_> = heard.enqueued.lock().unwrap().iter().cloned().collect();
            there.is_superset(&wanted).then_some(())
        })
        .await;
    }

    /// The next that comes.
    async fn next(&self) -> (Parcel, Lot) {
        self.until(|heard| {
            let mut delivered = heard.delivered.lock().unwrap();
            if delivered.is_empty() { None } else { Some(delivered.remove(0)) }
        })
        .await
    }

    async fn ids(&self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let (parcel, lot) = self.next().await;
            self.work.settle(lot);
            ids.push(parcel.task.id.to_string());
        }
        ids
    }
}

fn parcel(id: &str, priority: u8) -> Parcel {
    let task = Task {
        id: id.into(),
        namespace: Namespace::default(),
        execution_id: "exe_1".to_owned(),
        step_id: "step".to_owned(),
        index: Some(3),
        attempt: 2,
        target: Target::AgentType("clerk".into()),
        action: "sort".to_owned(),
        input: Bytes::from_static(b"{\"a\":1}"),
        priority,
        timeout_ms: u64::MAX,
        heartbeat_timeout_ms: 7,
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        epoch: i64::MAX,
    };
    Parcel {
        epoch: task.epoch,
        task: Arc::new(task),
        replica: "rep_1".into(),
        deliveries: 1,
        redeliveries: 2,
        since: Timestamp::from_micros(5),
    }
}

fn take(credit: u32) -> Demand {
    Demand { credit, is_crowded: false }
}

fn crowded(credit: u32) -> Demand {
    Demand { credit, is_crowded: true }
}

fn clerks() -> Arc<QueueKey> {
    Arc::new(parcel("", 0).queue())
}

#[tokio::test]
async fn a_task_comes_as_it_went_and_no_more_of_them_than_there_is_credit() {
    let host = Servers::shared().virtual_host();
    let (_one, one) = Worker::new(&host, |_| {}).await;
    let (_other, other) = Worker::new(&host, |_| {}).await;
    let mut sent = parcel("first", 4);
    Arc::make_mut(&mut sent.task).index = None;
    one.publish(&[sent.clone(), parcel("second", 0), parcel("third", 0)]).await;
    other.work.consume(&clerks(), take(2));
    let (first, lot) = other.next().await;
    assert_eq!(first, sent);
    let (second, _) = other.next().await;
    other.work.settle(lot);
    let (third, _) = other.next().await;
    assert_eq!([&*second.task.id, &*third.task.id], ["second", "third"]);
    assert!(other.heard.delivered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_lost_replica_had_comes_to_another_counted_and_sharing_is_seen() {
    let host = Servers::shared().virtual_host();
    let (_one, one) = Worker::new(&host, |_| {}).await;
    let (_other, other) = Worker::new(&host, |_| {}).await;
    one.publish(&[parcel("held", 0), parcel("done", 0)]).await;
    one.work.consume(&clerks(), take(2));
    one.next().await;
    let (_, done) = one.next().await;
    one.work.settle(done);
    other.work.consume(&clerks(), take(5));
    one.work.consume(&clerks(), crowded(2));
    other.heard.spare.store(5, Ordering::Relaxed);
    one.until(|_| (one.work.takers(&clerks()) == 5).then_some(())).await;
    drop(one.replica);
    let (parcel, lot) = other.next().await;
    assert_eq!((&*parcel.task.id, parcel.deliveries, parcel.redeliveries), ("held", 1, 3));
    other.work.settle(lot);
}

#[tokio::test]
async fn whoever_is_crowded_has_what_others_leave_and_gives_nothing_to_others_that_are() {
    let host = Servers::shared().virtual_host();
    let (_one, one) = Worker::new(&host, |_| {}).await;
    let (_other, other) = Worker::new(&host, |_| {}).await;
    one.work.consume(&clerks(), crowded(5));
    other.work.consume(&clerks(), crowded(5));
    one.publish(&[parcel("left", 0)]).await;
    // Whoever comes first takes it, and both stop when nothing is left.
    let taken = one.until(|one| {
        let mut taken = [one, &*other.heard].into_iter().map(|heard| heard.delivered.lock().unwrap().pop());
        taken.find_map(|parcel| parcel)
    });
    assert_eq!(&*taken.await.0.task.id, "left");
    assert_eq!(one.work.takers(&clerks()), 0);
    other.heard.spare.store(5, Ordering::Relaxed);
    other.work.consume(&clerks(), take(5));
    let takers = one.until(|_| Some(one.work.takers(&clerks())).filter(|takers| *takers > 0)).await;
    assert_eq!(takers, 5);
    one.publish(&[parcel("given", 0)]).await;
    let (given, _) = other.next().await;
    assert_eq!(&*given.task.id, "given");
}

#[tokio::test]
async fn what_is_no_task_goes_to_the_dead_letters_alone() {
    let host = Servers::shared().virtual_host();
    let (_one, one) = Worker::new(&host, |_| {}).await;
    one.publish(&[parcel("before", 0)]).await;
    let channel = channel(&host).await;
    let options = BasicPublishOptions::default();
    let nothing = BasicProperties::default();
    let queue = "tasks.default.type.clerk".into();
    channel.basic_publish("".into(), queue, options, b"x", nothing).await.unwrap().await.unwrap();
    one.publish(&[parcel("after", 0)]).await;
    one.work.consume(&clerks(), take(5));
    assert_eq!(one.ids(2).await, ["before", "after"]);
    assert_eq!(from_queue(&channel, "dlq.task").await.data, b"x");
}

#[tokio::test]
async fn a_queue_of_which_something_is_remembered_is_told_to_be_empty_when_it_is_gone_and_not_before() {
    let host = Servers::shared().virtual_host();
    let (_one, one) = Worker::new(&host, |_| {}).await;
    one.publish(&[parcel("a", 0)]).await;
    // There has never been such a queue.
    let other = Arc::new(QueueKey { target: Target::AgentType("nobody".into()), ..(*clerks()).clone() });
    *one.heard.remembered.lock().unwrap() = vec![clerks(), Arc::clone(&other)];
    let is_told = |key: &QueueKey| one.heard.emptied.lock().unwrap().contains(key).then_some(());
    one.until(|_| is_told(&other)).await;
    assert_eq!(is_told(&clerks()), None);
    let options = lapin::options::QueueDeleteOptions::default();
    channel(&host).await.queue_delete("tasks.default.type.clerk".into(), options).await.unwrap();
    one.until(|_| is_told(&clerks())).await;
}

#[tokio::test]
async fn a_classic_work_queue_knows_priorities() {
    let host = Servers::shared().virtual_host();
    let classic = |settings: &mut RabbitMqSettings| {
        settings.queues = QueueTypes { tasks: QueueType::Classic, ..QueueTypes::default() };
    };
    let (_one, one) = Worker::new(&host, classic).await;
    one.publish(&[parcel("low", 0), parcel("high", 9), parcel("middle", 5)]).await;
    one.work.consume(&clerks(), take(1));
    assert_eq!(one.ids(3).await, ["high", "middle", "low"]);
}

#[tokio::test]
async fn a_dead_task_leaves_a_copy_with_where_it_was_and_what_it_had() {
    let host = Servers::shared().virtual_host();
    let (_one, one) = Worker::new(&host, |_| {}).await;
    let dead = parcel("dead", 0).task;
    let letter = DeadLetter {
        id: DeadLetterId::generate(&SystemClock),
        namespace: Namespace::default(),
        kind: Kind::Task,
        subject_id: "dead".to_owned(),
        target: "type:clerk".to_owned(),
        reason: "delivery_limit".to_owned(),
        detail: "its agents crash".to_owned(),
        deliveries: 5,
        payload: dead.input.clone(),
        created_at: SystemClock.now(),
        replayed_at: None,
        task: None,
    };
    one.publish(&[parcel("any", 0)]).await;
    one.replica.transport.task_died(&dead, &letter);
    let channel = channel(&host).await;
    let copy = from_queue(&channel, "dlq.task").await;
    let headers = copy.properties.headers().clone().unwrap();
    let text = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name} is {other:?}"),
    };
    assert_eq!(
        ["troupe-task", "troupe-reason", "troupe-detail", "troupe-queue", "traceparent", "troupe-action"].map(text),
        ["dead", "delivery_limit", "its agents crash", "tasks.default.type.clerk", &dead.traceparent, "sort"]
    );
    assert_eq!(headers.inner().get("troupe-deliveries"), Some(&AMQPValue::LongLongInt(5)));
    channel
        .exchange_declare("topics".into(), lapin::ExchangeKind::Topic, passive(), FieldTable::default())
        .await
        .unwrap();
}

fn passive() -> lapin::options::ExchangeDeclareOptions {
    lapin::options::ExchangeDeclareOptions { passive: true, ..Default::default() }
}

#[tokio::test]
async fn when_the_broker_restarts_tasks_are_kept_and_the_link_comes_back() {
    let servers = Servers::private(&["rabbitmq"]);
    let host = servers.virtual_host();
    let (_one, one) = Worker::new(&host, |_| {}).await;
    one.publish(&[parcel("held", 0), parcel("waits", 0)]).await;
    one.work.consume(&clerks(), take(1));
    let (_, old) = one.next().await;
    // Not killed: RabbitMQ 3.10 forgets a quorum queue that was made less than a second before.
    servers.control("stop", "rabbitmq");
    one.until(|heard| (*heard.disconnected.lock().unwrap() > 0).then_some(())).await;
    one.until(|_| (one.work.publish(parcel("refused", 0)) == Publishing::NotNow).then_some(())).await;
    servers.control("start", "rabbitmq");
    one.work.settle(old);
    let (again, lot) = one.next().await;
    assert_eq!((&*again.task.id, again.deliveries, again.redeliveries), ("held", 1, 3));
    one.work.settle(lot);
    assert_eq!(one.ids(1).await, ["waits"]);
    one.publish(&[parcel("after", 0)]).await;
    assert_eq!(one.ids(1).await, ["after"]);
}

#[tokio::test]
async fn while_the_broker_blocks_nothing_is_published_and_what_was_delivered_is_acknowledged() {
    let servers = Servers::private(&["rabbitmq"]);
    let host = servers.virtual_host();
    let small = |settings: &mut RabbitMqSettings| {
        settings.timeout = Duration::from_secs(2);
        settings.publish_buffer = settings::ByteSize(64);
    };
    let (_one, one) = Worker::new(&host, small).await;
    one.replica.transport.open(&mailbox());
    let before = one.replica.send(&["1", "2"]).await;
    let delivery = one.replica.take().await;
    one.publish(&[parcel("a", 0)]).await;
    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    let blocked = one.replica.send(&["3"]).await;
    one.until(|_| (one.work.publish(parcel("b", 0)) == Publishing::NotNow).then_some(())).await;
    // Acknowledgements flow: the next of the mailbox comes.
    one.replica.finish(&delivery).await;
    assert_eq!(one.replica.drain(1).await, before[1..]);
    one.work.consume(&clerks(), take(1));
    assert!(one.ids(1).await.iter().all(|id| id == "a" || id == "b"));
    // Senders are refused when there is no more room, and not before.
    let room = one.replica.record(&[&"x".repeat(40)], None).await.remove(0);
    one.replica.transport.reserve(&mailbox(), 40).unwrap();
    assert!(one.replica.transport.reserve(&mailbox(), 40).is_err());
    one.replica.transport.publish(Arc::clone(&room));
    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "0.9"]);
    assert_eq!(one.replica.drain(2).await, [blocked[0], room.sequence]);
    one.publish(&[parcel("c", 0)]).await;
}

#[tokio::test]
async fn a_queue_that_is_made_over_a_blocked_connection_keeps_nobody_from_consuming() {
    let servers = Servers::private(&["rabbitmq"]);
    let host = servers.virtual_host();
    let (_one, one) = Worker::new(&host, |_| {}).await;
    let first = one.replica.send(&["1"]).await;
    one.replica.until_queued(1).await;
    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    // Whoever publishes is blocked from now on.
    let witness = Connection::connect(&host, ConnectionProperties::default()).await.unwrap();
    let channel = witness.create_channel().await.unwrap();
    let (options, properties) = (lapin::options::BasicPublishOptions::default(), lapin::BasicProperties::default());
    channel.basic_publish("".into(), "nowhere".into(), options, b"", properties).await.unwrap();
    one.until(|_| witness.status().blocked().then_some(())).await;
    // The first blocks the connection, and the second has no queue yet.
    let [known, new] = [0, 1].map(|_| one.replica.record(&["2"], None));
    let (known, new) = (known.await.remove(0), new.await.remove(0));
    let message = Message { agent: AgentId::from_parts(2, 2), ..new.message.clone() };
    let new = Arc::new(Envelope { sequence: new.sequence, message });
    for envelope in [known, new] {
        one.replica.transport.reserve(&envelope.message.mailbox(), 1).unwrap();
        one.replica.transport.publish(envelope);
    }
    one.until(|_| (one.work.publish(parcel("refused", 0)) == Publishing::NotNow).then_some(())).await;
    one.replica.transport.open(&mailbox());
    let delivery = one.replica.take().await;
    assert_eq!(delivery.envelope.sequence, first[0]);
    one.replica.finish(&delivery).await;
    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "0.9"]);
    assert_eq!(one.replica.drain(1).await.len(), 1);
}
