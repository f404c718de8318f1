//! Messages, and when what an agent gives back comes again.

use domain::MessageId;

use super::*;
use crate::app::model::{Envelope, Message};

/// Sends the agent a message; answers with those that a session has been given since it was asked last.
pub(super) fn mail(bench: &mut Bench, session: SessionId, sequence: i64) -> Vec<MessageId> {
    let message = Message {
        id: MessageId::from_parts(0, sequence.unsigned_abs().into()),
        namespace: Namespace::default(),
        sender: None,
        agent: AGENT,
        instance: None,
        kind: "message".to_owned(),
        payload: Bytes::from_static(b"1"),
        correlation_id: String::new(),
        reply_to: None,
        priority: 5,
        expires_at: None,
        created_at: bench.clock.now(),
        traceparent: String::new(),
    };
    let mailbox = message.mailbox();
    let transport = Arc::clone(&bench.broker.transport);
    transport.reserve(&mailbox, 1).unwrap();
    transport.publish(Arc::new(Envelope { sequence, message }));
    bench.broker.wake_mailbox(&mailbox);
    let events = bench.outboxes[&session].drain().into_iter();
    let message = |event| if let ToAgent::Message { envelope, .. } = event { Some(envelope.message.id) } else { None };
    events.filter_map(message).collect()
}

/// As many messages as a session has been given since it was asked last.
fn given(bench: &Bench, session: SessionId) -> usize {
    let events = bench.outboxes[&session].drain();
    events.iter().filter(|event| matches!(event, ToAgent::Message { .. })).count()
}

#[test]
fn a_message_that_is_given_back_comes_again_after_twice_as_long_each_time() {
    let mut bench = Bench::new(16, 10);
    let session = bench.open(AGENT, 4);
    let id = mail(&mut bench, session, 1)[0];
    let transport = Arc::clone(&bench.broker.transport);
    let mailbox = Mailbox::of_agent(Namespace::default(), AGENT);
    for count in 0..9_u32 {
        let stays = (100 << count).min(30_000);
        let before = Instant::now();
        bench.broker.nack(session, &id.to_string(), "not now", None);
        let after = Instant::now();
        // The transport tells a hub, of which there is none here.
        let mut look = |instant: Instant| {
            transport.advance(bench.clock.now(), instant);
            bench.broker.wake_mailbox(&mailbox);
            given(&bench, session)
        };
        assert_eq!(look(before + Duration::from_millis(stays - 1)), 0, "{count}");
        assert_eq!(look(after + Duration::from_millis(stays)), 1, "{count}");
    }
}
