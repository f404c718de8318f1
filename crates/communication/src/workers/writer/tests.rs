//! What the writer does with what a database refuses, in a real PostgreSQL.

use bytes::Bytes;
use domain::{AgentId, Clock as _, MessageId, Namespace, SystemClock, Timestamp};
use settings::Database;
use testkit::Servers;
use tokio::time::timeout;

use super::*;
use crate::{
    app::{Broker, Limits},
    store::{gated::Gated, open},
    transport::{Direct, MailboxLimits},
};

async fn writer() -> Writer {
    let store = open(&Database::postgres(Servers::shared().database().await)).await.unwrap();
    let journal = Arc::new(Journal::new(100));
    let transport: Arc<dyn Transport> = Arc::new(Direct::new(MailboxLimits { messages: 100, bytes: 1_000 }));
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
    }
}

fn message(expires_at: Option<Timestamp>) -> Message {
    Message {
        id: MessageId::generate(&SystemClock),
        namespace: Namespace::default(),
        sender: None,
        agent: AgentId::from_parts(1, 1),
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
