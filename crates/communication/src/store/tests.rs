//! What every database of messages does, query for query.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use domain::{AgentId, DeadLetterId, InstanceId, MessageId, Namespace, SessionId, Timestamp};
use settings::Database;

use super::{Batch, HistoryEvent, LetterFilter, MessageFilter, MessageUpdate, Span, Store, open};
use crate::app::{DeadLetter, DeadTask, Envelope, HandOver, Kind, Mailbox, Message, Status};

mod days;
mod plans;

testkit::conformance! {
    messages_and_letters_read_back_as_they_were_written
    a_message_is_recorded_once
    replicas_that_change_the_same_messages_do_not_fail_each_other
    what_is_over_stays_over
    what_the_broker_lost_is_accepted_again_unless_it_was_handed_over_since
    what_lived_on_has_no_dead_letter
    a_death_that_was_recorded_unheard_is_not_recorded_again
    what_expires_while_nothing_is_heard_of_its_holder_is_found
    lists_are_cut_and_filtered
    a_dead_letter_is_replayed_once
    many_letters_are_found_replayed_and_purged
    retention_takes_what_ended_long_ago_and_nothing_else
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn envelope(sequence: i64) -> Arc<Envelope> {
    let message = Message {
        id: MessageId::from_parts(0, sequence.unsigned_abs().into()),
        namespace: Namespace::default(),
        sender: None,
        agent: AgentId::from_parts(0, 1),
        instance: None,
        kind: "message".to_owned(),
        payload: Bytes::from_static(b"1"),
        correlation_id: String::new(),
        reply_to: None,
        priority: 5,
        expires_at: None,
        created_at: NOW,
        traceparent: String::new(),
    };
    Arc::new(Envelope { sequence, message })
}

fn ended(sequence: i64, status: Status, acked_at: Option<Timestamp>) -> MessageUpdate {
    MessageUpdate {
        sequence,
        created_at: NOW,
        status,
        deliveries: 1,
        is_final: false,
        delivered_at: None,
        acked_at,
        letter: None,
        history: Vec::new(),
    }
}

fn letter(envelope: &Envelope, at: Timestamp) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId::from_parts(0, 1),
        namespace: Namespace::default(),
        kind: Kind::Message,
        subject_id: envelope.message.id.to_string(),
        target: String::new(),
        reason: "expired".to_owned(),
        detail: String::new(),
        deliveries: 0,
        payload: Bytes::from_static(b"1"),
        created_at: at,
        replayed_at: None,
        task: None,
    }
}

fn batch(inserts: &[Arc<Envelope>]) -> Batch {
    Batch { inserts: inserts.to_vec(), ..Batch::default() }
}

fn update(sequence: i64, status: Status) -> MessageUpdate {
    let at = NOW + Duration::from_secs(1);
    let history = vec![HistoryEvent { status, at, detail: format!("\"{sequence}\"\n") }];
    let (delivered_at, acked_at) = (Some(at), (status == Status::Acked).then_some(at));
    MessageUpdate {
        sequence,
        created_at: NOW,
        status,
        deliveries: 2,
        is_final: false,
        delivered_at,
        acked_at,
        letter: None,
        history,
    }
}

async fn replicas_that_change_the_same_messages_do_not_fail_each_other(place: Database) {
    const MESSAGES: i64 = 200;
    let (one, other) = (open(&place).await.unwrap(), open(&place).await.unwrap());
    let inserts = (1..=MESSAGES).map(envelope).collect();
    one.write(&Batch { inserts, ..Batch::default() }).await.unwrap();
    for _ in 0..20 {
        let there = (1..=MESSAGES).map(|sequence| update(sequence, Status::Queued)).collect();
        let back = (1..=MESSAGES).rev().map(|sequence| update(sequence, Status::Delivered)).collect();
        let (there, back) = (Batch { updates: there, ..Batch::default() }, Batch { updates: back, ..Batch::default() });
        let (there, back) = futures::join!(one.write(&there), other.write(&back));
        there.unwrap();
        back.unwrap();
    }
    one.close().await;
    other.close().await;
}

async fn messages_and_letters_read_back_as_they_were_written(place: Database) {
    let store = open(&place).await.unwrap();
    let message = Message {
        sender: Some(AgentId::from_parts(0, 9)),
        kind: "reply".to_owned(),
        instance: Some(InstanceId::from_parts(7, 7)),
        payload: Bytes::from_static(br#"{"b":1,"a":"\u00e9"}"#),
        correlation_id: format!("{}.1", InstanceId::from_parts(7, 7)),
        reply_to: Some(AgentId::from_parts(0, 8)),
        priority: 9,
        expires_at: Some(NOW + Duration::from_micros(1)),
        traceparent: "00-1-2-01".to_owned(),
        ..envelope(1).message.clone()
    };
    let envelope = Arc::new(Envelope { sequence: 1, message });
    let letter =
        DeadLetter { kind: Kind::Task, payload: Bytes::from_static(b"[1]"), deliveries: 7, ..letter(&envelope, NOW) };
    let written = Batch { letters: vec![letter.clone()], ..batch(&[Arc::clone(&envelope)]) };
    assert!(store.write(&written).await.unwrap().contains(&1));
    store.write(&Batch { updates: vec![update(1, Status::Delivered)], ..Batch::default() }).await.unwrap();
    store.close().await;
    let store = open(&place).await.unwrap();
    let namespace = Namespace::default();
    let record = store.message(&namespace, &envelope.message.id.to_string()).await.unwrap().unwrap();
    assert_eq!((record.sequence, &record.message), (1, &envelope.message));
    assert_eq!((record.status, record.deliveries, record.acked_at), (Status::Delivered, 2, None));
    assert_eq!(record.delivered_at, Some(NOW + Duration::from_secs(1)));
    let accepted = HistoryEvent { status: Status::Accepted, at: NOW, detail: String::new() };
    assert_eq!(record.history, [vec![accepted], update(1, Status::Delivered).history].concat());
    let unfinished = store.unfinished(0, 10).await.unwrap().rows;
    assert_eq!(
        unfinished.iter().map(|(found, deliveries, status)| (found, *deliveries, *status)).collect::<Vec<_>>(),
        [(&*envelope, 2, Status::Delivered)]
    );
    assert_eq!(store.unfinished_of(&envelope.message.mailbox(), 10).await.unwrap(), unfinished);
    let other = Mailbox { agent: AgentId::from_parts(0, 7), ..envelope.message.mailbox() };
    assert_eq!(store.unfinished_of(&other, 10).await.unwrap(), []);
    assert!(store.next_sequences(2).await.unwrap().is_sorted());
    assert_eq!(store.letter(&namespace, &letter.id.to_string()).await.unwrap(), Some(letter));
    let elsewhere: Namespace = "other".parse().unwrap();
    assert_eq!(store.message(&elsewhere, &envelope.message.id.to_string()).await.unwrap(), None);
    store.close().await;
}

async fn a_message_is_recorded_once(place: Database) {
    let store = open(&place).await.unwrap();
    assert_eq!(store.write(&batch(&[envelope(1)])).await.unwrap().len(), 1);
    let again = Arc::new(Envelope { sequence: 2, message: envelope(1).message.clone() });
    let twice = Arc::new(Envelope { sequence: 4, message: envelope(3).message.clone() });
    let other = Message { namespace: "other".parse().unwrap(), ..envelope(1).message.clone() };
    let other = Arc::new(Envelope { sequence: 5, message: other });
    let inserted = store.write(&batch(&[again, envelope(3), twice, other])).await.unwrap();
    assert_eq!(inserted, [3, 5].into());
    store.close().await;
}

async fn what_is_over_stays_over(place: Database) {
    let store = open(&place).await.unwrap();
    store.write(&batch(&[envelope(1), envelope(2)])).await.unwrap();
    for status in [Status::Acked, Status::Delivered] {
        store.write(&Batch { updates: vec![update(1, status)], ..Batch::default() }).await.unwrap();
    }
    let record = store.message(&Namespace::default(), &envelope(1).message.id.to_string()).await.unwrap().unwrap();
    assert_eq!((record.status, record.history.len()), (Status::Acked, 2));
    assert_eq!(store.unfinished(0, 10).await.unwrap().rows.len(), 1);
    store.close().await;
}

async fn what_the_broker_lost_is_accepted_again_unless_it_was_handed_over_since(place: Database) {
    let store = open(&place).await.unwrap();
    store.write(&batch(&[envelope(1), envelope(2)])).await.unwrap();
    let at = NOW + Duration::from_secs(1);
    let change = async |sequence, status, deliveries| {
        let history = vec![HistoryEvent { status, at, detail: String::new() }];
        let update = MessageUpdate { deliveries, history, ..ended(sequence, status, None) };
        store.write(&Batch { updates: vec![update], ..Batch::default() }).await.unwrap();
        let id = envelope(sequence).message.id.to_string();
        let record = store.message(&Namespace::default(), &id).await.unwrap().unwrap();
        (record.status, record.deliveries, record.history.len())
    };
    assert_eq!(change(1, Status::Delivered, 1).await, (Status::Delivered, 1, 2));
    assert_eq!(change(1, Status::Accepted, 1).await, (Status::Accepted, 1, 3));
    assert_eq!(change(1, Status::Accepted, 1).await, (Status::Accepted, 1, 3), "once");
    assert_eq!(change(1, Status::Queued, 0).await, (Status::Queued, 1, 4), "its hand-overs stay counted");
    assert_eq!(change(2, Status::Delivered, 2).await, (Status::Delivered, 2, 2));
    assert_eq!(change(2, Status::Accepted, 1).await, (Status::Delivered, 2, 2));
    assert_eq!(change(2, Status::Queued, 0).await, (Status::Delivered, 2, 2));
    assert_eq!(change(2, Status::Dead, 1).await, (Status::Delivered, 2, 2), "somebody has it since");
    let last = MessageUpdate { is_final: true, ..ended(2, Status::Dead, None) };
    store.write(&Batch { updates: vec![last], ..Batch::default() }).await.unwrap();
    assert_eq!(change(2, Status::Acked, 3).await.0, Status::Dead, "nobody else could have it");
    store.close().await;
}

async fn a_death_that_was_recorded_unheard_is_not_recorded_again(place: Database) {
    let store = open(&place).await.unwrap();
    store.write(&batch(&[envelope(1)])).await.unwrap();
    let (namespace, id) = (Namespace::default(), envelope(1).message.id.to_string());
    let letter = letter(&envelope(1), NOW);
    let update = MessageUpdate { letter: Some(letter.id), is_final: true, ..ended(1, Status::Dead, None) };
    let death = Batch { updates: vec![update], letters: vec![letter.clone()], ..Batch::default() };
    store.write(&death).await.unwrap();
    assert_eq!(store.replay(&namespace, &[letter.id], NOW).await.unwrap().len(), 1);
    store.write(&death).await.unwrap();
    assert_eq!(store.message(&namespace, &id).await.unwrap().unwrap().status, Status::Accepted, "it was replayed");

    let next = DeadLetter { id: DeadLetterId::from_parts(0, 2), ..letter };
    let update = MessageUpdate { letter: Some(next.id), is_final: true, ..ended(1, Status::Dead, None) };
    store.write(&Batch { updates: vec![update], letters: vec![next], ..Batch::default() }).await.unwrap();
    assert_eq!(store.message(&namespace, &id).await.unwrap().unwrap().status, Status::Dead, "it may die again");
    store.close().await;
}

async fn what_expires_while_nothing_is_heard_of_its_holder_is_found(place: Database) {
    let store = open(&place).await.unwrap();
    let expires = |sequence, at| {
        let message = Message { expires_at: at, ..envelope(sequence).message.clone() };
        Arc::new(Envelope { sequence, message })
    };
    let soon = NOW + Duration::from_secs(1);
    let inserts = [expires(1, Some(soon)), expires(2, Some(soon)), expires(3, None), expires(4, Some(soon))];
    store.write(&batch(&inserts)).await.unwrap();
    let updates = (1..4).map(|sequence| update(sequence, Status::Delivered)).collect();
    store.write(&Batch { updates, ..Batch::default() }).await.unwrap();
    let unheard = async |before, since| {
        let found = store.unheard(before, since, 9).await.unwrap();
        let mut found: Vec<_> = found.into_iter().map(|(envelope, count)| (envelope.sequence, count)).collect();
        found.sort_unstable();
        found
    };
    let later = |seconds| NOW + Duration::from_secs(seconds);
    assert_eq!(unheard(later(9), later(9)).await, [(1, 2), (2, 2)], "what is in somebody's hands and expires");
    assert_eq!(unheard(later(1), later(9)).await, [], "it has not expired");
    assert_eq!(unheard(later(9), later(1)).await, [], "it was handed over later");
    store.hold(&[1, 4], later(20)).await.unwrap();
    assert_eq!(unheard(later(30), later(9)).await, [(2, 2)], "of the other was heard");
    let again = MessageUpdate { delivered_at: Some(later(20)), deliveries: 3, ..update(2, Status::Delivered) };
    store.write(&Batch { updates: vec![again], ..Batch::default() }).await.unwrap();
    assert_eq!(unheard(later(30), later(9)).await, []);
    assert_eq!(unheard(later(30), later(21)).await, [(1, 2), (2, 3)]);
    store.write(&Batch { updates: vec![update(1, Status::Acked)], ..Batch::default() }).await.unwrap();
    assert_eq!(unheard(later(30), later(21)).await, [(2, 3)]);
    store.close().await;
}

async fn what_lived_on_has_no_dead_letter(place: Database) {
    let store = open(&place).await.unwrap();
    let (living, dead) = (envelope(1), envelope(2));
    store.write(&batch(&[Arc::clone(&living), Arc::clone(&dead)])).await.unwrap();
    store.write(&Batch { updates: vec![update(1, Status::Delivered)], ..Batch::default() }).await.unwrap();
    // One replica says that both have expired; another has handed the first over.
    let of_dead = DeadLetter { id: DeadLetterId::from_parts(0, 2), ..letter(&dead, NOW) };
    let updates = vec![ended(1, Status::Dead, None), ended(2, Status::Dead, None)];
    let letters = vec![letter(&living, NOW), of_dead.clone()];
    store.write(&Batch { updates, letters, ..Batch::default() }).await.unwrap();
    let found = store.letters(&LetterFilter::default(), Span::NewestBefore(None), 9).await.unwrap().rows;
    assert_eq!(found, [of_dead]);
    store.close().await;
}

async fn lists_are_cut_and_filtered(place: Database) {
    let store = open(&place).await.unwrap();
    let asked =
        Message { correlation_id: "c".to_owned(), agent: AgentId::from_parts(0, 2), ..envelope(3).message.clone() };
    let asked = Arc::new(Envelope { sequence: 3, message: asked });
    store.write(&batch(&[envelope(1), envelope(2), asked, envelope(4)])).await.unwrap();
    store.write(&Batch { updates: vec![update(2, Status::Acked)], ..Batch::default() }).await.unwrap();
    let list = async |filter: MessageFilter, limit| {
        let page = store.messages(&filter, limit).await.unwrap();
        (page.rows.into_iter().map(|record| record.sequence).collect::<Vec<_>>(), page.is_last)
    };
    let all = MessageFilter::default;
    assert_eq!(list(all(), 3).await, (vec![4, 3, 2], false));
    assert_eq!(list(MessageFilter { before: Some(2), ..all() }, 3).await, (vec![1], true));
    assert_eq!(list(MessageFilter { agent: Some(AgentId::from_parts(0, 2)), ..all() }, 9).await, (vec![3], true));
    assert_eq!(list(MessageFilter { status: Some(Status::Acked), ..all() }, 9).await, (vec![2], true));
    assert_eq!(list(MessageFilter { correlation_id: Some("c".to_owned()), ..all() }, 9).await, (vec![3], true));
    assert_eq!(list(MessageFilter { namespace: "other".parse().unwrap(), ..all() }, 9).await, (vec![], true));
    store.close().await;
}

async fn a_dead_letter_is_replayed_once(place: Database) {
    let store = open(&place).await.unwrap();
    let (namespace, dead) = (Namespace::default(), envelope(1));
    let letter = letter(&dead, NOW);
    let id = letter.id;
    store.write(&batch(&[Arc::clone(&dead)])).await.unwrap();
    let died = Batch { updates: vec![update(1, Status::Dead)], letters: vec![letter.clone()], ..Batch::default() };
    store.write(&died).await.unwrap();
    store.write(&Batch { letters: vec![letter], ..Batch::default() }).await.unwrap();
    let all = LetterFilter { reason: Some("expired".to_owned()), kind: Some(Kind::Message), ..LetterFilter::default() };
    let list = async |filter: &LetterFilter| store.letters(filter, Span::NewestBefore(None), 9).await.unwrap().rows;
    assert_eq!(list(&all).await.len(), 1);
    let later = NOW + Duration::from_secs(9);
    store.mark_replayed(&namespace, &id.to_string(), later).await.unwrap();
    assert_eq!(list(&all).await.len(), 1, "it is no task's");
    let revived = store.replay(&namespace, &[id], later).await.unwrap();
    assert_eq!(revived.iter().map(|(letter, envelope)| (letter, envelope)).collect::<Vec<_>>(), [(&id, &*dead)]);
    assert_eq!(store.replay(&namespace, &[id], later).await.unwrap(), []);
    assert_eq!(list(&all).await, []);
    let replayed = list(&LetterFilter { include_replayed: true, ..all }).await;
    assert_eq!(replayed[0].replayed_at, Some(later));
    let record = store.message(&namespace, &dead.message.id.to_string()).await.unwrap().unwrap();
    assert_eq!((record.status, record.deliveries), (Status::Accepted, 0));
    store.write(&batch(&[envelope(2)])).await.unwrap();
    let unrelayed = async |before| {
        let found = store.unrelayed(before, 0, 9).await.unwrap().rows;
        found.into_iter().map(|(envelope, revived_at)| (envelope.sequence, revived_at)).collect::<Vec<_>>()
    };
    assert_eq!(unrelayed(later).await, [(2, None)], "the other was accepted again just now");
    assert_eq!(unrelayed(later + Duration::from_micros(1)).await, [(1, Some(later)), (2, None)]);
    assert_eq!(record.history.last().unwrap().detail, format!("replayed from {id}"));
    assert_eq!(store.purge(&namespace, &[id], later).await.unwrap(), 1);
    assert_eq!(store.purge(&namespace, &[id], later).await.unwrap(), 0);
    store.close().await;
}

/// Five dead messages with their letters, and a task's letter after them.
async fn six_letters(store: &dyn Store) -> Vec<DeadLetter> {
    let messages: Vec<_> = (1..=5).map(envelope).collect();
    let of = |envelope: &Arc<Envelope>| DeadLetter {
        id: DeadLetterId::from_parts(1, envelope.sequence.unsigned_abs().into()),
        target: if envelope.sequence < 3 { "agt_early" } else { "agt_late" }.to_owned(),
        ..letter(envelope, NOW)
    };
    let mut letters: Vec<_> = messages.iter().map(of).collect();
    let hand_over = HandOver {
        agent: AgentId::from_parts(0, 7),
        session: SessionId::from_parts(0, 8),
        at: NOW,
        ended_at: NOW + Duration::from_secs(1),
        reason: "the session is gone".to_owned(),
    };
    let task = DeadTask {
        execution_id: "exe_1".to_owned(),
        step_id: "a".to_owned(),
        index: Some(3),
        attempt: 2,
        action: "sort".to_owned(),
        hand_overs: vec![hand_over],
    };
    letters.push(DeadLetter {
        id: DeadLetterId::from_parts(1, 6),
        kind: Kind::Task,
        subject_id: "exe_1/a[3]/2".to_owned(),
        task: Some(task),
        ..letters[4].clone()
    });
    store.write(&batch(&messages)).await.unwrap();
    let updates = (1..=5).map(|sequence| update(sequence, Status::Dead)).collect();
    store.write(&Batch { updates, letters: letters.clone(), ..Batch::default() }).await.unwrap();
    letters
}

async fn many_letters_are_found_replayed_and_purged(place: Database) {
    let store = open(&place).await.unwrap();
    let letters = six_letters(&*store).await;
    let (namespace, ids): (_, Vec<_>) = (Namespace::default(), letters.iter().map(|letter| letter.id).collect());
    let oldest = async |filter: LetterFilter, after: Option<DeadLetterId>, until, limit| {
        let page = store.letters(&filter, Span::OldestWithin(after, until), limit).await.unwrap();
        (page.rows.into_iter().map(|letter| letter.id).collect::<Vec<_>>(), page.is_last)
    };
    let all = LetterFilter::default;
    assert_eq!(oldest(all(), None, ids[5], 4).await, (ids[..4].to_vec(), false));
    assert_eq!(oldest(all(), Some(ids[1]), ids[4], 4).await, (ids[2..5].to_vec(), true));
    let late = LetterFilter { target: Some("agt_late".to_owned()), kind: Some(Kind::Message), ..all() };
    assert_eq!(oldest(late, None, ids[5], 9).await, (ids[2..5].to_vec(), true));
    let named = LetterFilter { ids: vec![ids[5], ids[0]], ..all() };
    assert_eq!(oldest(named, None, ids[5], 9).await, (vec![ids[0], ids[5]], true));
    assert_eq!(store.letter(&namespace, &ids[5].to_string()).await.unwrap().as_ref(), Some(&letters[5]));

    // The message of the second lives already, as after a replay by somebody else.
    store.replay(&namespace, &ids[1..2], NOW).await.unwrap();
    let revived = store.replay(&namespace, &ids, NOW).await.unwrap();
    let revived: Vec<_> = revived.into_iter().map(|(id, envelope)| (id, envelope.sequence)).collect();
    assert_eq!(revived, [(ids[0], 1), (ids[2], 3), (ids[3], 4), (ids[4], 5)]);
    assert_eq!(oldest(all(), None, ids[5], 9).await, (vec![ids[5]], true), "a task is not replayed with them");
    store.mark_replayed(&namespace, &ids[5].to_string(), NOW).await.unwrap();
    assert_eq!(oldest(all(), None, ids[5], 9).await, (vec![], true));
    assert_eq!(store.purge(&namespace, &ids, NOW).await.unwrap(), 6);
    store.close().await;
}

async fn retention_takes_what_ended_long_ago_and_nothing_else(place: Database) {
    let store = open(&place).await.unwrap();
    let inserts: Vec<_> = (1..=4).map(envelope).collect();
    let letters = vec![letter(&inserts[2], NOW)];
    assert_eq!(store.write(&Batch { inserts, ..Batch::default() }).await.unwrap().len(), 4);
    let later = NOW + std::time::Duration::from_mins(1);
    let old = ended(1, Status::Acked, Some(NOW));
    let new = ended(2, Status::Acked, Some(later));
    let updates = vec![old, new, ended(3, Status::Dead, None)];
    let batch = Batch { updates, letters, ..Batch::default() };
    store.write(&batch).await.unwrap();
    let left = async || {
        let filter = MessageFilter::default();
        let rows = store.messages(&filter, 10).await.unwrap();
        rows.rows.into_iter().map(|record| record.sequence).collect::<Vec<_>>()
    };
    assert_eq!(store.clean(later, NOW, 10).await.unwrap(), 1, "the letter keeps its message");
    assert_eq!(left().await, [4, 3, 2]);
    assert_eq!(store.clean(later, later, 10).await.unwrap(), 1, "the letter alone: its message has just ended");
    assert_eq!(left().await, [4, 3, 2]);
    let much_later = later + std::time::Duration::from_mins(1);
    assert_eq!(store.clean(much_later, later, 10).await.unwrap(), 2);
    assert_eq!(left().await, [4], "what is unfinished stays");
    assert_eq!(store.unfinished(0, 10).await.unwrap().rows.len(), 1);
    store.close().await;
}
