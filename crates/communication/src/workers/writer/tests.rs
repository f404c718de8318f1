//! What the writer does with what a database refuses, in a real PostgreSQL.

use bytes::Bytes;
use domain::{AgentId, Clock as _, MessageId, Namespace, SessionId, SystemClock, Timestamp};
use lifecycle::{OnExit, Shutdown, Tasks};
use settings::{Database, Secret};
use testkit::{Network, Proxy, Servers};
use tokio::time::timeout;

use super::*;
use crate::{
    RabbitMqSettings,
    app::{Broker, Limits, Opening, Outbox, Target, ToOrchestrator, What},
    store::{LetterFilter, Span, gated::Gated, open},
    transport::{Delivery, Direct, LINGER, MailboxLimits, RabbitMq, RabbitMqLimits, Settlement, Sink, Wanted},
};

async fn writer() -> Writer {
    let store = open(&Database::postgres(Servers::shared().database().await)).await.unwrap();
    writer_of(Arc::new(Direct::new(MailboxLimits { messages: 100, bytes: 1_000 }, None)), store)
}

fn writer_of(transport: Arc<dyn Transport>, store: Arc<dyn Store>) -> Writer {
    let journal = Arc::new(Journal::new(100));
    let spill_after = Duration::from_secs(1);
    let limits = Limits { queue: 1, deliveries: 5, spill_after, output: 64, foreign_results: 1 };
    let clock = Arc::new(SystemClock);
    let broker = Broker::new(limits, Arc::clone(&transport), None, Arc::clone(&journal), clock);
    Writer {
        journal,
        store,
        transport,
        hub: Arc::new(Hub::new(broker)),
        pace: Pace::new(true),
        patience: Duration::from_secs(15),
        unknown: Unknown::default(),
    }
}

fn message(expires_at: Option<Timestamp>) -> Message {
    Message {
        id: MessageId::generate(&SystemClock),
        namespace: Namespace::default(),
        sender: None,
        agent: AgentId::from_parts(1, 1),
        instance: None,
        kind: String::new(),
        payload: Bytes::from_static(b"1"),
        correlation_id: String::new(),
        reply_to: None,
        priority: 5,
        expires_at,
        created_at: SystemClock.now(),
        traceparent: String::new(),
    }
}

/// The year 6000 BC, of which PostgreSQL knows nothing.
const TOO_EARLY: Timestamp = Timestamp::from_millis(-251_000_000_000_000);

#[tokio::test]
async fn what_the_database_refuses_fails_alone() {
    let writer = writer().await;
    let expiries = [None, None, Some(TOO_EARLY), None, None];
    let sent = expiries.map(|expires_at| writer.journal.send(message(expires_at)).unwrap());
    let change = |at: Timestamp| {
        let envelope = Arc::new(Envelope { sequence: at.as_micros(), message: message(None) });
        let detail = String::new();
        Entry::Change(Change { envelope, status: Status::Delivered, at, deliveries: 1, detail, letter: None })
    };
    writer.journal.note(change(SystemClock.now()));
    writer.journal.note(change(TOO_EARLY));
    writer.write(writer.journal.take_now()).await.unwrap();
    let mut is_recorded = Vec::new();
    for recorded in sent {
        is_recorded.push(recorded.await.unwrap().is_ok());
    }
    assert_eq!(is_recorded, [true, true, false, true, true]);
    assert!(writer.journal.take_now().is_empty(), "nothing goes round");
    let recorded = writer.store.unfinished(0, 10).await.unwrap().rows;
    assert_eq!(recorded.len(), 4);
}

#[tokio::test]
async fn while_the_database_is_away_senders_hear_so_and_changes_wait_in_their_order() {
    let writer = writer().await;
    writer.store.close().await;
    let sent = writer.journal.send(message(None)).unwrap();
    for count in 1..=3 {
        let envelope = Arc::new(Envelope { sequence: count, message: message(None) });
        let (at, deliveries) = (SystemClock.now(), u32::try_from(count).unwrap());
        let detail = String::new();
        let change = Change { envelope, status: Status::Delivered, at, deliveries, detail, letter: None };
        writer.journal.note(Entry::Change(change));
    }
    writer.write(writer.journal.take_now()).await.unwrap_err();
    assert!(matches!(sent.await.unwrap(), Err(CommunicationError::NotRecorded)));
    let left = writer.journal.take_now().into_iter().map(|entry| match entry {
        Entry::Change(change) => change.deliveries,
        Entry::Send { .. } | Entry::DeadTask { .. } => 0,
    });
    assert_eq!(left.collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn a_database_that_is_silent_is_not_waited_for_for_ever() {
    let writer = writer().await;
    let gated = Arc::new(Gated::new(Arc::clone(&writer.store)));
    let writer = Writer { store: Arc::clone(&gated) as _, patience: Duration::from_millis(50), ..writer };
    gated.writes.shut();
    let sent = writer.journal.send(message(None)).unwrap();
    let write = timeout(Duration::from_mins(1), writer.write(writer.journal.take_now()));
    write.await.expect("the wait ends").unwrap_err();
    assert!(matches!(sent.await.unwrap(), Err(CommunicationError::NotRecorded)));
}

#[tokio::test]
async fn what_is_recorded_though_nobody_heard_so_is_in_its_mailbox_after_the_next_commit() {
    let writer = writer().await;
    let gated = Arc::new(Gated::new(Arc::clone(&writer.store)));
    let writer = Writer { store: Arc::clone(&gated) as _, patience: Duration::from_secs(3), ..writer };
    gated.written.shut();
    let unheard = writer.journal.send(message(None)).unwrap();
    writer.write(writer.journal.take_now()).await.unwrap_err();
    assert!(matches!(unheard.await.unwrap(), Err(CommunicationError::NotRecorded)));
    gated.written.open();
    let take = || writer.transport.take(&message(None).mailbox(), Wanted::Any, SystemClock.now());
    assert!(take().is_none());
    let sent = writer.journal.send(message(None)).unwrap();
    writer.write(writer.journal.take_now()).await.unwrap();
    sent.await.unwrap().unwrap();
    let taken: Vec<_> = std::iter::from_fn(take).map(|taken| taken.envelope.sequence).collect();
    assert_eq!(taken.len(), 2, "{taken:?}");
}

#[tokio::test]
async fn what_died_before_the_broker_has_said_that_it_has_it_is_dead() {
    let writer = writer().await;
    let sent = writer.journal.send(message(None)).unwrap();
    writer.write(writer.journal.take_now()).await.unwrap();
    sent.await.unwrap().unwrap();
    let (envelope, count, _) = writer.store.unfinished(0, 1).await.unwrap().rows.remove(0);
    let delivery = Delivery { envelope: Arc::new(envelope), count };
    // One connection has brought it back sooner than the other has confirmed it.
    writer.hub.broker().bury_message(&delivery, Reason::AgentDeleted, "");
    writer.journal.note(entry(&delivery, Status::Queued));
    writer.write(writer.journal.take_now()).await.unwrap();
    let letters = writer.store.letters(&LetterFilter::default(), Span::NewestBefore(None), 9).await.unwrap();
    assert_eq!(letters.rows.len(), 1);
    assert!(writer.store.unfinished(0, 1).await.unwrap().rows.is_empty());
}

/// A replica with a broker, whose writer writes when it is told to.
struct Replica {
    writer: Writer,
    rabbitmq: Arc<RabbitMq>,
    tasks: Tasks,
    _over: tokio::sync::watch::Sender<bool>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks.shutdown().cut();
    }
}

impl Replica {
    fn new(url: &str, store: &Arc<dyn Store>) -> Self {
        let settings = RabbitMqSettings { url: Some(Secret::new(url)), ..RabbitMqSettings::default() };
        let mailbox = MailboxLimits { messages: 100, bytes: 1_000 };
        let limits =
            RabbitMqLimits { mailbox, queue: 100, deliveries: 5, answer_wait: Duration::from_secs(1), linger: LINGER };
        let rabbitmq = Arc::new(RabbitMq::new(settings, limits, Arc::new(SystemClock)));
        let writer = writer_of(Arc::clone(&rabbitmq) as _, Arc::clone(store));
        let hub: Arc<dyn Sink> = Arc::clone(&writer.hub) as _;
        rabbitmq.start(Arc::downgrade(&hub));
        let (over, last) = tokio::sync::watch::channel(false);
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("rabbitmq", OnExit::StopService, Arc::clone(&rabbitmq).run(Arc::clone(store), last));
        rabbitmq.open(&message(None).mailbox());
        Self { writer, rabbitmq, tasks, _over: over }
    }

    /// Sends a message, and writes what is said of it until it is here.
    async fn send(&self) -> Delivery {
        let sent = self.writer.journal.send(message(None)).unwrap();
        self.write().await;
        sent.await.unwrap().unwrap();
        self.take().await
    }

    async fn take(&self) -> Delivery {
        let taken = async {
            loop {
                let now = SystemClock.now();
                if let Some(taken) = self.rabbitmq.take(&message(None).mailbox(), Wanted::Any, now) {
                    return taken;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_mins(1), taken).await.expect("it comes in time")
    }

    async fn write(&self) {
        self.writer.write(self.writer.journal.take_now()).await.unwrap();
    }

    async fn end(&self, delivery: &Delivery, status: Status) {
        self.rabbitmq.settle(delivery, Settlement::Done);
        if status == Status::Dead {
            self.writer.hub.broker().bury_message(delivery, Reason::Rejected, "");
        } else {
            self.writer.journal.note(entry(delivery, status));
        }
        self.write().await;
    }

    /// Records that somebody has it, for that many times.
    async fn hand_over(&self, delivery: &Delivery, count: u32) {
        let delivery = Delivery { count, ..delivery.clone() };
        self.writer.journal.note(entry(&delivery, Status::Delivered));
        self.write().await;
    }

    async fn status(&self, delivery: &Delivery) -> (Status, usize) {
        let id = delivery.envelope.message.id.to_string();
        let record = self.writer.store.message(&Namespace::default(), &id).await.unwrap().unwrap();
        let all = LetterFilter::default();
        let letters = self.writer.store.letters(&all, Span::NewestBefore(None), 9).await.unwrap();
        (record.status, letters.rows.len())
    }
}

fn entry(delivery: &Delivery, status: Status) -> Entry {
    let (envelope, deliveries) = (Arc::clone(&delivery.envelope), delivery.count);
    Entry::Change(Change { envelope, status, at: SystemClock.now(), deliveries, detail: String::new(), letter: None })
}

#[tokio::test]
async fn what_ends_here_is_over_though_somebody_has_recorded_more_hand_overs_late() {
    let store = open(&Database::postgres(Servers::shared().database().await)).await.unwrap();
    let replica = Replica::new(&Servers::shared().virtual_host(), &store);
    for (status, letters) in [(Status::Acked, 0), (Status::Dead, 1)] {
        let held = replica.send().await;
        // By somebody who had it before, and lost it with the connection to the broker.
        replica.hand_over(&held, held.count + 2).await;
        replica.end(&held, status).await;
        assert_eq!(replica.status(&held).await, (status, letters), "the broker has it no more");
    }
}

#[tokio::test]
async fn what_another_replica_has_meanwhile_dies_only_there() {
    let store = open(&Database::postgres(Servers::shared().database().await)).await.unwrap();
    let host = Servers::shared().virtual_host();
    let (_, server) = host.rsplit_once('@').unwrap();
    let (address, _) = server.split_once('/').unwrap();
    let proxy = Proxy::to(address.parse().unwrap()).await;
    let fragile = Replica::new(&host.replace(address, &proxy.address().to_string()), &store);
    let lost = fragile.send().await;
    fragile.hand_over(&lost, lost.count).await;
    proxy.set(Network::Cut);
    let other = Replica::new(&host, &store);
    let held = other.take().await;
    assert_eq!(held.envelope.sequence, lost.envelope.sequence);
    other.hand_over(&held, held.count).await;
    fragile.end(&lost, Status::Dead).await;
    assert_eq!(other.status(&held).await, (Status::Delivered, 0));
    other.end(&held, Status::Dead).await;
    assert_eq!(other.status(&held).await, (Status::Dead, 1));
}

/// A task that its agent rejects with these words; answers with the orchestrator's stream.
fn reject(writer: &Writer, id: &str, reason: &str) -> Outbox<ToOrchestrator> {
    let updates = Outbox::new(1_000);
    let session = SessionId::from_parts(1, 1);
    let opening = Opening {
        session,
        mailbox: message(None).mailbox(),
        instance: None,
        agent_type: "clerk".to_owned(),
        capabilities: Vec::new(),
        credits: 1,
        config: Bytes::new(),
    };
    let task = Task {
        id: id.into(),
        namespace: Namespace::default(),
        execution_id: String::new(),
        step_id: String::new(),
        index: None,
        attempt: 1,
        target: Target::AgentType("clerk".into()),
        action: "sort".to_owned(),
        input: Bytes::from_static(b"{}"),
        priority: 0,
        timeout_ms: 0,
        heartbeat_timeout_ms: 0,
        traceparent: String::new(),
        epoch: 1,
    };
    let mut broker = writer.hub.broker();
    broker.open(opening, Outbox::new(1_000));
    let attachment = broker.attach("rep_1", updates.clone());
    broker.dispatch(&attachment, task);
    broker.reject(session, id, reason);
    drop(broker);
    updates
}

fn is_told_dead(updates: &Outbox<ToOrchestrator>) -> bool {
    let is_dead =
        |said| matches!(said, ToOrchestrator::Update(update) if matches!(update.what, What::DeadLettered { .. }));
    updates.drain().into_iter().any(is_dead)
}

#[tokio::test]
async fn a_task_that_is_rejected_with_what_is_no_text_for_the_database_is_a_dead_letter_without_it() {
    let writer = writer().await;
    let updates = reject(&writer, "e/a/1", "\0");
    writer.write(writer.journal.take_now()).await.unwrap();
    assert!(!is_told_dead(&updates));
    writer.write(writer.journal.take_now()).await.unwrap();
    assert!(is_told_dead(&updates));
    let letters = writer.store.letters(&LetterFilter::default(), Span::NewestBefore(None), 9).await.unwrap().rows;
    assert_eq!(letters.iter().map(|letter| letter.reason.as_str()).collect::<Vec<_>>(), ["rejected"]);
}

#[tokio::test]
async fn a_task_whose_letter_the_database_refuses_in_any_case_is_told_to_be_dead() {
    let writer = writer().await;
    let updates = reject(&writer, "\0", "\0");
    for _ in 0..2 {
        assert!(!is_told_dead(&updates));
        writer.write(writer.journal.take_now()).await.unwrap();
    }
    assert!(is_told_dead(&updates));
    assert!(writer.journal.take_now().is_empty(), "nothing goes round");
}

#[tokio::test]
async fn a_message_that_is_rejected_with_what_is_no_text_for_the_database_is_a_dead_letter_without_it() {
    let store = open(&Database::postgres(Servers::shared().database().await)).await.unwrap();
    let replica = Replica::new(&Servers::shared().virtual_host(), &store);
    let held = replica.send().await;
    replica.rabbitmq.settle(&held, Settlement::Done);
    replica.writer.hub.broker().bury_message(&held, Reason::Rejected, "\0");
    for _ in 0..2 {
        replica.write().await;
    }
    assert_eq!(replica.status(&held).await, (Status::Dead, 1));
}
