//! Messages: recorded before they are accepted, delivered in order, and what becomes of those that are not dealt with.

use std::time::Duration;

use contracts::communication::v1::{
    DeadLetterFilter, GetDeadLetterRequest, ListMessagesRequest, Message, MessageEvent, MessageStatus,
    PurgeDeadLetterRequest, PurgeDeadLettersRequest, ReplayDeadLetterRequest, Send, agent_event::Event,
    message::Recipient, server_event,
};
use domain::{AgentId, Clock as _, DeadLetterId, MessageId, SystemClock};
use errors::{Code, Error};

use crate::world::{World, of_type, to, until};

#[tokio::test]
async fn a_message_is_recorded_delivered_and_acknowledged() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.agent(&id, 4).await;
    let sent = world.send(Message { correlation_id: "c1".to_owned(), ..to(&id, "{\"n\":1}") }).await.unwrap();
    let (message, delivery) = agent.message().await;
    assert_eq!((message.id.as_str(), message.payload.as_ref(), delivery), (sent.as_str(), b"{\"n\":1}".as_ref(), 1));
    assert_eq!((message.r#type.as_str(), message.correlation_id.as_str(), message.priority()), ("message", "c1", 5));
    agent.ack(&sent).await;
    let record = world.until_status(&sent, MessageStatus::Acked).await;
    let history: Vec<_> = record.history.iter().map(MessageEvent::status).collect();
    let expected = [MessageStatus::Accepted, MessageStatus::Queued, MessageStatus::Delivered, MessageStatus::Acked];
    assert_eq!(history, expected);
    assert!(record.deliveries == 1 && record.delivered_at.is_some() && record.acked_at.is_some());
}

#[tokio::test]
async fn unfinished_messages_survive_a_crash_in_their_order() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.agent(&id, 1).await;
    let mut sent = Vec::new();
    for number in 0..5 {
        sent.push(world.send(to(&id, &number.to_string())).await.unwrap());
    }
    let urgent = world.send(Message { priority: Some(9), ..to(&id, "\"now\"") }).await.unwrap();
    assert_eq!(agent.message().await.0.id, sent[0]);
    agent.ack(&sent[0]).await;
    world.until_status(&sent[0], MessageStatus::Acked).await;
    // The first of the rest is in the agent's hands when everything dies.
    assert_eq!(agent.message().await.0.id, urgent);
    world.until_status(&urgent, MessageStatus::Delivered).await;
    let world = world.crash().await;
    let mut agent = world.agent(&id, 10).await;
    let (first, delivery) = agent.message().await;
    assert_eq!((first.id, delivery), (urgent, 2));
    for expected in &sent[1..] {
        assert_eq!(agent.message().await.0.id, *expected);
    }
    drop(agent);
    let world = world.restart().await;
    let mut agent = world.agent(&id, 10).await;
    agent.message().await;
    assert_eq!(agent.message().await.0.id, sent[1]);
}

#[tokio::test]
async fn the_same_id_again_is_the_same_message() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let chosen = MessageId::generate(&SystemClock).to_string();
    let message = Message { id: chosen.clone(), ..to(&id, "1") };
    assert_eq!(world.send(message.clone()).await.unwrap(), chosen);
    assert_eq!(world.send(message).await.unwrap(), chosen);
    let mut agent = world.agent(&id, 4).await;
    assert_eq!(agent.message().await.0.id, chosen);
    agent.ack(&chosen).await;
    world.until_status(&chosen, MessageStatus::Acked).await;
    let last = world.send(to(&id, "2")).await.unwrap();
    assert_eq!(agent.message().await.0.id, last, "the first must not come twice");
}

#[tokio::test]
async fn an_expired_message_is_a_dead_letter() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let (seconds, nanos) = (SystemClock.now() + Duration::from_millis(50)).to_seconds_and_nanos();
    let expires_at = Some(prost_types::Timestamp { seconds, nanos });
    let sent = world.send(Message { expires_at, ..to(&id, "1") }).await.unwrap();
    let letter = world.until_dead(1).await.remove(0);
    assert_eq!((letter.subject_id.as_str(), letter.reason.as_str()), (sent.as_str(), "expired"));
    world.until_status(&sent, MessageStatus::Dead).await;
}

#[tokio::test]
async fn an_expiry_that_no_calendar_has_is_refused_and_a_strange_trace_is_none() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    for seconds in [-62_135_596_801, 253_402_300_800] {
        let expires_at = Some(prost_types::Timestamp { seconds, nanos: 0 });
        let refused = world.send(Message { expires_at, ..to(&id, "1") }).await.unwrap_err();
        assert_eq!((refused.code, refused.violations[0].field.as_str()), (Code::Invalid, "message.expires_at"));
    }
    let sent = world.send(Message { traceparent: "00-\0".to_owned(), ..to(&id, "1") }).await.unwrap();
    assert_eq!(world.record(&sent).await.message.unwrap().traceparent, "");
}

#[tokio::test]
async fn a_dead_letter_is_replayed_once_and_purged() {
    let world = World::with(|settings| settings.delivery_limit = 1).await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.agent(&id, 1).await;
    let sent = world.send(to(&id, "1")).await.unwrap();
    agent.message().await;
    agent.nack(&sent).await;
    let letter = world.until_dead(1).await.remove(0);
    assert_eq!(
        (letter.reason.as_str(), letter.payload.as_ref(), letter.deliveries),
        ("delivery_limit", b"1".as_ref(), 1)
    );
    let replay = ReplayDeadLetterRequest { dead_letter_id: letter.id.clone(), ..Default::default() };
    for _ in 0..2 {
        let answer = world.dead_letters().replay_dead_letter(replay.clone()).await.unwrap().into_inner();
        assert_eq!(answer.message_id, sent);
    }
    assert_eq!(agent.message().await, (agent_copy(&world, &sent).await, 1));
    agent.ack(&sent).await;
    world.until_status(&sent, MessageStatus::Acked).await;
    let get = GetDeadLetterRequest { namespace: String::new(), dead_letter_id: letter.id.clone() };
    let found = world.dead_letters().get_dead_letter(get.clone()).await.unwrap().into_inner().dead_letter.unwrap();
    assert!(found.replayed_at.is_some());
    let purge = PurgeDeadLetterRequest { namespace: String::new(), dead_letter_id: letter.id };
    assert!(world.dead_letters().purge_dead_letter(purge.clone()).await.unwrap().into_inner().purged);
    assert!(!world.dead_letters().purge_dead_letter(purge).await.unwrap().into_inner().purged);
    let error = Error::from(world.dead_letters().get_dead_letter(get).await.unwrap_err());
    assert_eq!(error.reason, "dead_letter_not_found");
}

#[tokio::test]
async fn a_message_whose_agent_is_gone_is_not_replayed_and_its_letter_stays() {
    let world = World::with(|settings| settings.agent_cache = Duration::ZERO).await;
    let [id, other] = ["clerk", "clerk"].map(|name| world.registry.add(name, &[]));
    let mut agents = Vec::new();
    for id in [&id, &other] {
        let mut agent = world.agent(id, 1).await;
        let sent = world.send(to(id, "1")).await.unwrap();
        agent.message().await;
        agent.reject(&sent).await;
        agents.push(agent);
    }
    let letters = world.until_dead(2).await;
    let letter = letters.iter().find(|letter| letter.target == id).unwrap();
    world.registry.remove(&id);
    let refused = world.replay(&letter.id).await.unwrap_err();
    assert_eq!((refused.code, refused.reason), (Code::NotFound, "agent_not_found"));
    let all = DeadLetterFilter { all: true, ..DeadLetterFilter::default() };
    let some = world.replay_some(all, "").await.unwrap();
    let failed = some.failures.iter().map(|failure| (&failure.dead_letter_id, failure.code.as_str()));
    assert_eq!((some.replayed, failed.collect::<Vec<_>>()), (1, vec![(&letter.id, "agent_not_found")]));
    let left = world.until_dead(2).await;
    assert!(left.iter().any(|left| left.id == letter.id && left.replayed_at.is_none()), "{left:?}");
}

#[tokio::test]
async fn the_mail_of_an_agent_whose_end_was_missed_dies_after_the_next_listing() {
    let world = World::start().await;
    let [id, other] = ["clerk", "clerk"].map(|name| world.registry.add(name, &[]));
    let lost = world.send(to(&id, "1")).await.unwrap();
    let kept = world.send(to(&other, "2")).await.unwrap();
    world.registry.remove_unheard(&id);
    let world = world.restart().await;
    let letter = world.until_dead(1).await.remove(0);
    assert_eq!((letter.subject_id, letter.reason.as_str()), (lost, "agent_deleted"));
    let mut agent = world.agent(&other, 1).await;
    assert_eq!(agent.message().await.0.id, kept);
}

async fn agent_copy(world: &World, id: &str) -> Message {
    world.record(id).await.message.unwrap()
}

#[tokio::test]
async fn a_rejected_message_is_a_dead_letter() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.agent(&id, 1).await;
    let sent = world.send(to(&id, "1")).await.unwrap();
    agent.message().await;
    agent.reject(&sent).await;
    let letter = world.until_dead(1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.detail.as_str()), ("rejected", "unreadable"));
}

#[tokio::test]
async fn a_payload_that_is_no_json_is_refused_by_its_name() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let error = world.send(to(&id, "hi")).await.unwrap_err();
    assert_eq!((error.code, error.violations[0].field.as_str()), (Code::Invalid, "message.payload"));
    let error = world.send(Message { r#type: "a\0b".to_owned(), ..to(&id, "1") }).await.unwrap_err();
    assert_eq!((error.code, error.violations[0].field.as_str()), (Code::Invalid, "message.type"));
}

#[tokio::test]
async fn a_message_that_died_twice_is_replayed_from_its_last_letter() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.agent(&id, 1).await;
    let sent = world.send(to(&id, "1")).await.unwrap();
    agent.message().await;
    agent.reject(&sent).await;
    let first = world.until_dead(1).await.remove(0);
    world.replay(&first.id).await.unwrap();
    agent.message().await;
    agent.reject(&sent).await;
    let second = world.until_dead(2).await.remove(0);
    assert_ne!(second.id, first.id);
    // The first is history; without the second nothing could bring the message back.
    world.purge(&first.id).await;
    world.replay(&second.id).await.unwrap();
    assert_eq!(agent.message().await.0.id, sent);
    world.replay(&second.id).await.expect("a second replay changes nothing");
}

#[tokio::test]
async fn many_dead_letters_are_replayed_in_order_and_purged_page_by_page() {
    let world = World::with(|settings| settings.mailbox_limit = 3).await;
    let (id, other) = (world.registry.add("clerk", &[]), world.registry.add("other", &[]));
    let mut agent = world.agent(&id, 1).await;
    let mut sent = Vec::new();
    for number in 0..4 {
        sent.push(world.send(to(&id, &number.to_string())).await.unwrap());
        agent.message().await;
        agent.reject(&sent[number]).await;
        world.until_dead(number + 1).await;
    }
    let filter = |target: &str| DeadLetterFilter { target: target.to_owned(), ..DeadLetterFilter::default() };
    let none = world.replay_some(filter(&other), "").await.unwrap();
    assert_eq!((none.replayed, none.next_page_token.as_str()), (0, ""));
    let first = world.replay_some(filter(&id), "").await.unwrap();
    assert_eq!((first.replayed, first.failures.len()), (2, 0));
    // What dies again meanwhile is not replayed again by the same walk.
    assert_eq!(agent.message().await.0.id, sent[0]);
    agent.reject(&sent[0]).await;
    world.until_dead(5).await;
    // One is in the mailbox; of the two that follow both fit, since there is room for three.
    let second = world.replay_some(filter(&id), &first.next_page_token).await.unwrap();
    assert_eq!((second.replayed, second.failures.len(), second.next_page_token.as_str()), (2, 0, ""));
    let third = world.replay_some(filter(&id), "").await.unwrap();
    assert_eq!(third.failures.iter().map(|failure| failure.code.as_str()).collect::<Vec<_>>(), ["mailbox_full"]);
    for id in &sent[1..] {
        assert_eq!(agent.message().await.0.id, *id);
        agent.ack(id).await;
        world.until_status(id, MessageStatus::Acked).await;
    }
    let nothing = world.replay_some(DeadLetterFilter::default(), "").await.unwrap_err();
    assert_eq!((nothing.code, nothing.violations[0].field.as_str()), (Code::Invalid, "filter"));

    let letters = world.until_dead(5).await;
    let unknown = DeadLetterId::from_parts(1, 1).to_string();
    let mut named = filter("");
    named.dead_letter_ids = vec![letters[4].id.clone(), unknown.clone()];
    let again = world.replay_some(named.clone(), "").await.unwrap();
    assert_eq!((again.replayed, again.failures.len()), (1, 1), "it was replayed before");
    assert_eq!(
        (&again.failures[0].dead_letter_id, again.failures[0].code.as_str()),
        (&unknown, "dead_letter_not_found")
    );
    let mut purge = PurgeDeadLettersRequest { filter: Some(named), ..PurgeDeadLettersRequest::default() };
    for purged in [1, 0] {
        let answer = world.dead_letters().purge_dead_letters(purge.clone()).await.unwrap().into_inner();
        assert_eq!((answer.purged, answer.next_page_token.as_str()), (purged, ""));
    }
    purge.filter = Some(DeadLetterFilter { all: true, include_replayed: true, ..DeadLetterFilter::default() });
    purge.page_size = 3;
    let mut counts = Vec::new();
    loop {
        let answer = world.dead_letters().purge_dead_letters(purge.clone()).await.unwrap().into_inner();
        counts.push(answer.purged);
        purge.page_token = answer.next_page_token;
        if purge.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(counts, [3, 1]);
    world.until_dead(0).await;
}

#[tokio::test]
async fn what_used_up_its_deliveries_is_not_handed_over_again_after_a_crash() {
    let world = World::with(|settings| settings.delivery_limit = 1).await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.agent(&id, 1).await;
    let sent = world.send(to(&id, "1")).await.unwrap();
    agent.message().await;
    world.until_status(&sent, MessageStatus::Delivered).await;
    let world = world.crash().await;
    let letter = world.until_dead(1).await.remove(0);
    assert_eq!((letter.subject_id, letter.reason.as_str()), (sent, "delivery_limit"));
}

#[tokio::test]
async fn the_mail_of_a_deleted_agent_becomes_dead_letters() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let _agent = world.agent(&id, 1).await;
    let (held, waiting) = (world.send(to(&id, "1")).await.unwrap(), world.send(to(&id, "2")).await.unwrap());
    world.until_status(&held, MessageStatus::Delivered).await;
    world.registry.remove(&id);
    let letters = world.until_dead(2).await;
    let mut subjects: Vec<_> = letters.iter().map(|letter| letter.subject_id.clone()).collect();
    subjects.sort();
    assert_eq!(subjects, [held, waiting]);
    assert!(letters.iter().all(|letter| letter.reason == "agent_deleted"));
}

#[tokio::test]
async fn a_full_mailbox_refuses_until_there_is_room() {
    let world = World::with(|settings| settings.mailbox_limit = 1).await;
    let id = world.registry.add("clerk", &[]);
    let message = Message { id: MessageId::generate(&SystemClock).to_string(), ..to(&id, "1") };
    let first = world.send(message.clone()).await.unwrap();
    assert_eq!(world.send(message).await.unwrap(), first, "what is accepted already needs no room");
    let error = world.send(to(&id, "2")).await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Exhausted, "mailbox_full"));
    let mut agent = world.agent(&id, 1).await;
    agent.message().await;
    agent.ack(&first).await;
    until(async || world.send(to(&id, "2")).await.ok()).await;
}

#[tokio::test]
async fn messages_to_nobody_are_refused() {
    let world = World::start().await;
    let error = world.send(to(&AgentId::generate(&SystemClock).to_string(), "1")).await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::NotFound, "agent_not_found"));
    let recipient = Some(Recipient::Capability("translate".to_owned()));
    let message = Message { recipient, ..Message::default() };
    let error = world.send(message.clone()).await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Unavailable, "no_live_agent"));
    let id = world.registry.add("clerk", &["translate"]);
    let mut agent = world.agent(&id, 1).await;
    until(async || world.registry.is_live(&id).then_some(())).await;
    let sent = world.send(message).await.unwrap();
    assert_eq!(agent.message().await.0.id, sent);
    let error = world.send(Message { priority: Some(10), ..to(&id, "1") }).await.unwrap_err();
    assert_eq!((error.code, error.violations[0].field.as_str()), (Code::Invalid, "message.priority"));
}

#[tokio::test]
async fn a_reply_reaches_an_agent_whose_credit_is_used_up() {
    let world = World::start().await;
    let (asking, answering) = (world.registry.add("boss", &[]), world.registry.add("clerk", &[]));
    let mut boss = world.agent(&asking, 1).await;
    let mut clerk = world.agent(&answering, 1).await;
    let orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("boss")).await;
    boss.task().await;
    world.send(to(&asking, "\"waits for credit\"")).await.unwrap();
    let question = Message { r#type: "request".to_owned(), ..to(&answering, "\"why\"") };
    boss.say(Event::Send(Send { r#ref: 7, message: Some(question) })).await;
    assert!(
        matches!(boss.hear().await, server_event::Event::Receipt(receipt) if receipt.r#ref == 7 && receipt.error.is_empty())
    );
    let (question, _) = clerk.message().await;
    assert_eq!((question.sender.as_str(), question.reply_to.as_str()), (asking.as_str(), asking.as_str()));
    assert_eq!(question.correlation_id, question.id);
    let answer = Message {
        r#type: "reply".to_owned(),
        correlation_id: question.correlation_id.clone(),
        ..to(&question.reply_to, "\"because\"")
    };
    clerk.say(Event::Send(Send { r#ref: 1, message: Some(answer) })).await;
    let (answer, _) = boss.message().await;
    assert_eq!((answer.payload.as_ref(), answer.correlation_id), (b"\"because\"".as_ref(), question.correlation_id));
    boss.ack(&answer.id).await;
    boss.finish("e/a/1", "1").await;
    assert_eq!(boss.message().await.0.payload.as_ref(), b"\"waits for credit\"");
}

#[tokio::test]
async fn a_send_that_is_refused_says_why_in_its_receipt() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.agent(&id, 1).await;
    let message = Some(to(&AgentId::generate(&SystemClock).to_string(), "1"));
    agent.say(Event::Send(Send { r#ref: 3, message })).await;
    let server_event::Event::Receipt(receipt) = agent.hear().await else { panic!("expected a receipt") };
    assert!(receipt.r#ref == 3 && receipt.error.starts_with("agent_not_found: "), "{receipt:?}");
}

#[tokio::test]
async fn lists_page_newest_first() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let mut sent = Vec::new();
    for number in 0..5 {
        sent.push(world.send(to(&id, &number.to_string())).await.unwrap());
    }
    sent.reverse();
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListMessagesRequest { agent_id: id.clone(), page_size: 2, page_token, ..ListMessagesRequest::default() };
        let page = world.messages().list_messages(request).await.unwrap().into_inner();
        found.extend(page.records.into_iter().map(|record| record.message.unwrap().id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, sent);
}
