//! Messages and their dead letters.

use contracts::communication::v1::{
    self as comm, MessageStatus, agent_event, dead_letter_service_client::DeadLetterServiceClient, server_event,
};
use domain::{AgentId, MessageId};

use crate::rig::{Rig, message};

#[tokio::test]
async fn a_message_is_delivered_acknowledged_and_has_its_history() {
    let rig = Rig::start().await;
    let id = rig.registry.add("worker", "add");
    let sent = rig.send(&id, "1").await;
    let mut agent = rig.agent(&id, 1).await;
    let (message, delivery) = agent.message().await;
    assert_eq!(
        (message.id.as_str(), delivery, message.priority, message.r#type.as_str()),
        (&*sent, 1, Some(5), "message")
    );
    agent.ack(&sent);
    let record = rig.reaches(&sent, MessageStatus::Acked).await;
    let history: Vec<_> = record.history.iter().map(comm::MessageEvent::status).collect();
    let expected = [MessageStatus::Accepted, MessageStatus::Queued, MessageStatus::Delivered, MessageStatus::Acked];
    assert_eq!(history, expected);
    assert!(record.delivered_at.is_some() && record.acked_at.is_some());
}

#[tokio::test]
async fn messages_survive_a_restart_in_order() {
    let rig = Rig::start().await;
    let id = rig.registry.add("worker", "add");
    let mut sent = Vec::new();
    for number in 0..20 {
        sent.push(rig.send(&id, &number.to_string()).await);
    }
    let urgent = comm::Message { priority: Some(9), ..message(&id, "99") };
    let request = comm::SendMessageRequest { message: Some(urgent) };
    sent.insert(0, rig.messages().send_message(request).await.unwrap().into_inner().message_id);
    // One that is held, and not acknowledged, comes again.
    let mut agent = rig.agent(&id, 1).await;
    assert_eq!(agent.message().await.0.id, sent[0]);
    let rig = rig.restart().await;
    let mut agent = rig.agent(&id, 100).await;
    for expected in &sent {
        assert_eq!(agent.message().await.0.id, *expected);
    }
}

#[tokio::test]
async fn the_same_id_is_one_message() {
    let rig = Rig::start().await;
    let id = rig.registry.add("worker", "add");
    let message = comm::Message { id: MessageId::from_parts(1, 1).to_string(), ..message(&id, "1") };
    let request = comm::SendMessageRequest { message: Some(message.clone()) };
    let sends = (0..8).map(|_| {
        let (mut client, request) = (rig.messages(), request.clone());
        async move { client.send_message(request).await.unwrap().into_inner().message_id }
    });
    for sent in futures::future::join_all(sends).await {
        assert_eq!(sent, message.id);
    }
    let last = rig.send(&id, "2").await;
    let mut agent = rig.agent(&id, 10).await;
    assert_eq!(agent.message().await.0.id, message.id);
    assert_eq!(agent.message().await.0.id, last);
    let list = comm::ListMessagesRequest { page_size: 1, ..Default::default() };
    let page = rig.messages().list_messages(list.clone()).await.unwrap().into_inner();
    assert_eq!(page.records[0].message.as_ref().unwrap().id, last);
    let list = comm::ListMessagesRequest { page_token: page.next_page_token, ..list };
    let page = rig.messages().list_messages(list).await.unwrap().into_inner();
    assert_eq!((page.records.len(), page.next_page_token.as_str()), (1, ""));
}

#[tokio::test]
async fn used_up_deliveries_make_a_dead_letter_that_replays_with_a_fresh_count() {
    let rig = Rig::with(|settings| settings.delivery_limit = 2).await;
    let id = rig.registry.add("worker", "add");
    let sent = rig.send(&id, "1").await;
    for expected in 1..=2 {
        let mut agent = rig.agent(&id, 1).await;
        assert_eq!(agent.message().await.1, expected);
    }
    rig.reaches(&sent, MessageStatus::Dead).await;
    let mut client = DeadLetterServiceClient::new(rig.link.clone());
    let listed = client.list_dead_letters(comm::ListDeadLettersRequest::default()).await.unwrap().into_inner();
    let dead = &listed.dead_letters[0];
    assert_eq!((dead.reason.as_str(), dead.subject_id.as_str(), dead.deliveries), ("delivery_limit", &*sent, 2));
    let replay = comm::ReplayDeadLetterRequest { dead_letter_id: dead.id.clone(), ..Default::default() };
    for _ in 0..2 {
        let replayed = client.replay_dead_letter(replay.clone()).await.unwrap().into_inner();
        assert_eq!(replayed.message_id, sent);
    }
    let mut agent = rig.agent(&id, 5).await;
    assert_eq!(agent.message().await.1, 1);
    agent.ack(&sent);
    rig.reaches(&sent, MessageStatus::Acked).await;
    let purge = comm::PurgeDeadLetterRequest { dead_letter_id: dead.id.clone(), ..Default::default() };
    assert!(client.purge_dead_letter(purge.clone()).await.unwrap().into_inner().purged);
    assert!(!client.purge_dead_letter(purge).await.unwrap().into_inner().purged);
}

#[tokio::test]
async fn what_expires_or_is_rejected_is_dead() {
    let rig = Rig::start().await;
    let id = rig.registry.add("worker", "add");
    let expires_at = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let late = comm::Message { expires_at, ..message(&id, "1") };
    let request = comm::SendMessageRequest { message: Some(late) };
    let late = rig.messages().send_message(request).await.unwrap().into_inner().message_id;
    rig.reaches(&late, MessageStatus::Dead).await;
    let unwanted = rig.send(&id, "2").await;
    let mut agent = rig.agent(&id, 1).await;
    assert_eq!(agent.message().await.0.id, unwanted);
    let reject = comm::Reject { delivery_id: unwanted.clone(), reason: "no".to_owned() };
    agent.say(agent_event::Event::Reject(reject));
    rig.reaches(&unwanted, MessageStatus::Dead).await;
}

#[tokio::test]
async fn recipients_that_are_not_there_and_full_mailboxes_are_refused() {
    let rig = Rig::with(|settings| settings.mailbox_limit = 1).await;
    let send = async |message| {
        let sent = rig.messages().send_message(comm::SendMessageRequest { message: Some(message) }).await;
        errors::Error::from(sent.unwrap_err()).reason
    };
    assert_eq!(send(message(&AgentId::from_parts(1, 1).to_string(), "1")).await, "agent_not_found");
    let capability = Some(comm::message::Recipient::Capability("fly".to_owned()));
    assert_eq!(send(comm::Message { recipient: capability, ..Default::default() }).await, "no_live_agent");
    let id = rig.registry.add("worker", "add");
    rig.send(&id, "1").await;
    assert_eq!(send(message(&id, "2")).await, "mailbox_full");
}

#[tokio::test]
async fn agents_send_to_each_other_and_replies_need_no_credit() {
    let rig = Rig::start().await;
    let (asker, answerer) = (rig.registry.add("asker", "ask"), rig.registry.add("worker", "add"));
    let mut asking = rig.agent(&asker, 1).await;
    let mut answering = rig.agent(&answerer, 1).await;
    // The only credit of the asker is taken.
    rig.send(&asker, "0").await;
    asking.message().await;
    let capability = Some(comm::message::Recipient::Capability("add".to_owned()));
    let question = comm::Message { recipient: capability, r#type: "request".to_owned(), ..Default::default() };
    asking.say(agent_event::Event::Send(comm::Send { r#ref: 7, message: Some(question) }));
    match asking.next().await {
        server_event::Event::Receipt(receipt) => assert_eq!((receipt.r#ref, receipt.error.as_str()), (7, "")),
        other => panic!("no receipt: {other:?}"),
    }
    let (question, _) = answering.message().await;
    assert_eq!(question.sender, asker);
    let reply = comm::Message { r#type: "reply".to_owned(), ..message(&question.sender, "42") };
    answering.say(agent_event::Event::Send(comm::Send { r#ref: 1, message: Some(reply) }));
    assert_eq!(asking.message().await.0.payload, "42");
}
