//! That PostgreSQL answers every statement through an index where the tables are large, and that every index is for something.

use bytes::Bytes;
use testkit::{Scans, Servers, fill};

use super::{Arc, *};
use crate::store::Store;

const MESSAGES: i64 = 10_000;
/// Those after this one have not ended.
const ENDED: i64 = 9_900;

/// Messages of a hundred mailboxes, some with a correlation id, some that expire; most of them acknowledged, a few dead.
async fn large(store: &dyn Store) {
    let various = |sequence: i64| {
        let message = Message {
            agent: AgentId::from_parts(0, (sequence % 100).unsigned_abs().into()),
            correlation_id: if sequence % 10 == 0 { format!("c-{sequence}") } else { String::new() },
            expires_at: (sequence % 50 == 0).then_some(NOW + Duration::from_hours(1)),
            ..envelope(sequence).message.clone()
        };
        Arc::new(Envelope { sequence, message })
    };
    let sequences: Vec<_> = (1..=MESSAGES).collect();
    for part in sequences.chunks(1_000) {
        let inserts = part.iter().copied().map(various).collect();
        let ended = part.iter().copied().filter(|sequence| *sequence <= ENDED);
        let updates = ended.map(|sequence| match sequence % 100 {
            0 => update(sequence, Status::Dead),
            _ => super::ended(sequence, Status::Acked, Some(NOW + Duration::from_secs(sequence.unsigned_abs()))),
        });
        store.write(&Batch { inserts, ..Batch::default() }).await.unwrap();
        store.write(&Batch { updates: updates.collect(), ..Batch::default() }).await.unwrap();
    }
    let letters = (1..=5_000_u64).map(|number| {
        let sequence = (number.cast_signed() - 1) % (ENDED / 100) * 100 + 100;
        let is_message = number <= 99;
        DeadLetter {
            id: DeadLetterId::from_parts(number, 1),
            kind: if is_message { Kind::Message } else { Kind::Task },
            subject_id: if is_message {
                envelope(sequence).message.id.to_string()
            } else {
                format!("exe_{number}/a/1")
            },
            payload: Bytes::from(vec![b'1'; 100]),
            ..letter(&envelope(sequence), NOW + Duration::from_secs(number))
        }
    });
    store.write(&Batch { letters: letters.collect(), ..Batch::default() }).await.unwrap();
}

/// A plan that was made while there was little is kept while it becomes much, until the database looks at the table again.
#[tokio::test]
async fn a_table_that_was_empty_when_plans_were_made_is_not_read_from_end_to_end_as_it_grows() {
    let url = Servers::shared().database().await;
    let store = open(&Database::postgres(url.clone())).await.unwrap();
    let before = Scans::default();
    for first in (1..1_000).step_by(20) {
        let sequences = first..first + 20;
        store.write(&Batch { inserts: sequences.clone().map(envelope).collect(), ..Batch::default() }).await.unwrap();
        store.by_sequence(&sequences.clone().collect::<Vec<_>>()).await.unwrap();
        let updates = sequences.map(|sequence| update(sequence, Status::Delivered)).collect();
        store.write(&Batch { updates, ..Batch::default() }).await.unwrap();
    }
    store.close().await;
    assert_eq!(Scans::of(&url).await.read_whole_since(&before), [].into());
}

#[tokio::test]
async fn no_statement_reads_a_table_from_end_to_end_and_every_index_is_used() {
    let url = Servers::shared().database().await;
    let place = Database::postgres(url.clone());
    let store = open(&place).await.unwrap();
    large(&*store).await;
    store.close().await;
    fill(&url, "communication", "").await;
    let before = Scans::of(&url).await;

    let store = open(&place).await.unwrap();
    let (namespace, id) = (Namespace::default(), |sequence| envelope(sequence).message.id.to_string());
    let letter = |number| DeadLetterId::from_parts(number, 1);
    store.unfinished(0, 50).await.unwrap();
    store.unfinished_of(&envelope(7).message.mailbox(), 50).await.unwrap();
    store.unrelayed(NOW + Duration::from_secs(9), 0, 50).await.unwrap();
    store.expired(NOW + Duration::from_hours(2), 50).await.unwrap();
    store.unheard(NOW + Duration::from_hours(2), NOW + Duration::from_hours(2), 50).await.unwrap();
    store.hold(&[1, 5_000], NOW).await.unwrap();
    store.by_sequence(&[1, 5_000]).await.unwrap();
    store.message(&namespace, &id(7)).await.unwrap().unwrap();
    let all = MessageFilter::default;
    let filters = [
        all(),
        MessageFilter { before: Some(5_000), ..all() },
        MessageFilter { agent: Some(AgentId::from_parts(0, 7)), ..all() },
        MessageFilter { correlation_id: Some("c-70".to_owned()), ..all() },
    ];
    for filter in &filters {
        store.messages(filter, 50).await.unwrap();
    }
    store
        .write(&Batch {
            inserts: vec![envelope(1)],
            updates: vec![update(MESSAGES, Status::Delivered)],
            ..Batch::default()
        })
        .await
        .unwrap();
    store.letter(&namespace, &letter(7).to_string()).await.unwrap().unwrap();
    let every = LetterFilter::default;
    for filter in
        [every(), LetterFilter { kind: Some(Kind::Task), ..every() }, LetterFilter { ids: vec![letter(9)], ..every() }]
    {
        store.letters(&filter, Span::NewestBefore(None), 50).await.unwrap();
        store.letters(&filter, Span::OldestWithin(Some(letter(100)), letter(4_000)), 50).await.unwrap();
    }
    assert_eq!(store.replay(&namespace, &[letter(1), letter(2)], NOW).await.unwrap().len(), 2);
    store.mark_replayed(&namespace, &letter(4_000).to_string(), NOW).await.unwrap();
    assert_eq!(store.purge(&namespace, &[letter(3), letter(4_001)], NOW).await.unwrap(), 2);
    store.clean(NOW + Duration::from_secs(100), NOW + Duration::from_secs(100), 10).await.unwrap();
    store.close().await;

    let after = Scans::of(&url).await;
    assert_eq!(after.read_whole_since(&before), [].into());
    assert_eq!(after.unused_since(&before), [""; 0]);
}

/// What a statement was planned like when there was next to nothing is not how it goes on while the table grows.
#[tokio::test]
async fn updates_of_a_table_that_has_grown_do_not_read_all_of_it() {
    let url = Servers::shared().database().await;
    let store = open(&Database::postgres(url.clone())).await.unwrap();
    let change = |sequences: std::ops::Range<i64>| Batch {
        updates: sequences.map(|sequence| update(sequence, Status::Delivered)).collect(),
        ..Batch::default()
    };
    store.write(&Batch { inserts: (1..10).map(envelope).collect(), ..Batch::default() }).await.unwrap();
    // After some times a plan is kept that goes for all parameters.
    for _ in 0..20 {
        store.write(&change(1..10)).await.unwrap();
    }
    for sequences in (0..10).map(|part| 1_000 + part * 500..1_500 + part * 500) {
        store.write(&Batch { inserts: sequences.map(envelope).collect(), ..Batch::default() }).await.unwrap();
    }
    for _ in 0..20 {
        store.write(&change(1_000..1_010)).await.unwrap();
    }
    store.close().await;
    let scans = Scans::of(&url).await;
    let read = scans.read_whole_since(&Scans::default()).get("messages").copied().unwrap_or_default();
    assert!(read < 5_000, "{read} rows were read one after the other");
}
