//! What is held back, and in which order it goes on.

use bytes::Bytes;
use domain::{AgentId, MessageId, Namespace, Timestamp};

use super::{trust::AFTER_REFUSAL, *};
use crate::app::Message;

fn outgoing() -> Outgoing {
    Outgoing::new(MailboxLimits { messages: 10, bytes: 1_000 }, 1_000)
}

/// A message of the mailbox of an agent.
fn envelope(sequence: i64, agent: u64) -> Arc<Envelope> {
    let message = Message {
        id: MessageId::from_parts(0, sequence.unsigned_abs().into()),
        namespace: Namespace::default(),
        sender: None,
        agent: AgentId::from_parts(agent, 1),
        instance: None,
        kind: String::new(),
        payload: Bytes::from_static(b"1"),
        correlation_id: String::new(),
        reply_to: None,
        priority: 5,
        expires_at: None,
        created_at: Timestamp::from_millis(0),
        traceparent: String::new(),
    };
    Arc::new(Envelope { sequence, message })
}

fn mailbox(agent: u64) -> Mailbox {
    Mailbox::of_agent(Namespace::default(), AgentId::from_parts(agent, 1))
}

/// Both have taken something.
fn trust(outgoing: &Outgoing) {
    outgoing.lock().trusted.extend([mailbox(FULL), mailbox(OTHER)]);
}

fn sequences(wave: &[Item]) -> Vec<i64> {
    let sequence = |item: &Item| match item {
        Item::Message { envelope, .. } => envelope.sequence,
        Item::Task(_) | Item::Letter { .. } => 0,
    };
    wave.iter().map(sequence).collect()
}

const FULL: u64 = 1;
const OTHER: u64 = 2;

#[tokio::test]
async fn a_mailbox_that_refuses_holds_up_nobody_else_and_keeps_its_order() {
    let outgoing = outgoing();
    for (sequence, agent) in [(1, FULL), (2, OTHER), (3, FULL), (4, FULL), (5, OTHER)] {
        outgoing.push(envelope(sequence, agent));
    }
    trust(&outgoing);
    let mut wave = outgoing.next(3).await;
    assert_eq!(sequences(&wave), [1, 2, 3]);
    outgoing.done(&wave.remove(1));
    let begun = Instant::now();
    outgoing.hold_back(wave.into_iter().filter_map(|item| outgoing.refused(item)).collect());
    outgoing.push(envelope(6, FULL));
    assert!(!outgoing.may_take(&mailbox(FULL)) && outgoing.may_take(&mailbox(OTHER)));
    let wave = outgoing.next(10).await;
    assert_eq!(sequences(&wave), [5]);
    assert!(begun.elapsed() < AFTER_REFUSAL);
    outgoing.done(&wave[0]);
    let mut wave = outgoing.next(10).await;
    assert_eq!(sequences(&wave), [1], "the first of it alone");
    assert!(begun.elapsed() >= AFTER_REFUSAL);
    outgoing.hold_back(wave.drain(..).filter_map(|item| outgoing.refused(item)).collect());
    // While it is not trusted again one follows the other.
    for sequence in [1, 3, 4] {
        let wave = outgoing.next(10).await;
        assert_eq!(sequences(&wave), [sequence]);
        outgoing.done(&wave[0]);
    }
    let long_ago = Instant::now().checked_sub(FULL_FOR).unwrap();
    outgoing.lock().refused.insert(mailbox(FULL), long_ago);
    outgoing.push(envelope(7, FULL));
    let wave = outgoing.next(10).await;
    assert_eq!(sequences(&wave), [6]);
    outgoing.done(&wave[0]);
    outgoing.push(envelope(8, FULL));
    assert_eq!(sequences(&outgoing.next(10).await), [7, 8]);
}

#[tokio::test]
async fn a_mailbox_shows_over_each_connection_that_it_takes_something_before_more_follows() {
    let outgoing = outgoing();
    outgoing.begin_anew();
    for (sequence, agent) in [(1, FULL), (2, OTHER), (3, FULL), (4, OTHER), (5, FULL)] {
        outgoing.push(envelope(sequence, agent));
    }
    let wave = outgoing.next(3).await;
    assert_eq!(sequences(&wave), [1, 2]);
    outgoing.push(envelope(6, FULL));
    assert!(!outgoing.is_empty_within(Duration::ZERO).await, "more follows at once");
    outgoing.done(&wave[0]);
    let next = outgoing.next(10).await;
    assert_eq!(sequences(&next), [3, 5, 6]);
    // The connection is lost; nobody knows what of it is there.
    outgoing.put_back(next);
    outgoing.put_back(wave[1..].to_vec());
    outgoing.begin_anew();
    let wave = outgoing.next(10).await;
    assert_eq!(sequences(&wave), [2, 3]);
    for item in &wave {
        outgoing.done(item);
    }
    let mut rest = sequences(&outgoing.next(10).await);
    rest.sort_unstable();
    assert_eq!(rest, [4, 5, 6]);
}

#[tokio::test]
async fn of_a_mailbox_that_is_refused_at_first_nothing_overtakes_it() {
    let outgoing = outgoing();
    outgoing.begin_anew();
    for sequence in 1..=3 {
        outgoing.push(envelope(sequence, FULL));
    }
    let mut wave = outgoing.next(10).await;
    assert_eq!(sequences(&wave), [1]);
    outgoing.hold_back(wave.drain(..).filter_map(|item| outgoing.refused(item)).collect());
    for sequence in 1..=3 {
        let wave = outgoing.next(10).await;
        assert_eq!(sequences(&wave), [sequence]);
        outgoing.done(&wave[0]);
    }
}

#[tokio::test]
async fn what_was_refused_often_is_given_up_and_the_next_is_tried() {
    let outgoing = outgoing();
    outgoing.push(envelope(1, FULL));
    outgoing.push(envelope(2, FULL));
    let mut wave = outgoing.next(1).await;
    for _ in 1..MOST_REFUSALS {
        let refused = outgoing.refused(wave.remove(0)).expect("it is tried again");
        outgoing.hold_back(vec![refused]);
        wave = outgoing.next(10).await;
        assert_eq!(sequences(&wave), [1]);
    }
    assert!(outgoing.refused(wave.remove(0)).is_none());
    assert!(!outgoing.knows(1));
    assert_eq!(sequences(&outgoing.next(10).await), [2]);
}

#[tokio::test]
async fn what_ends_the_connection_is_left_alone_for_longer_each_time() {
    let outgoing = outgoing();
    for times in 1..=3 {
        outgoing.push_again(envelope(1, OTHER), None);
        let wave = outgoing.next(1).await;
        outgoing.cast_out(&wave[0]);
        assert!(!outgoing.knows(1) && outgoing.is_outcast(&envelope(1, OTHER)));
        let (_, pause) = outgoing.lock().outcasts[&Identity::Message(1)];
        assert_eq!(pause, OUTCAST_FOR[0] * 2_u32.pow(times - 1));
    }
    assert!(!outgoing.is_outcast(&envelope(2, OTHER)) && outgoing.may_take(&mailbox(OTHER)));
}
