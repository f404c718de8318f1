//! Sessions and tasks.

use contracts::communication::v1::{
    self as comm, agent_event, dead_letter_service_client::DeadLetterServiceClient, server_event, task_update::Update,
};

use crate::rig::Rig;

#[tokio::test]
async fn a_task_is_handed_over_and_its_result_is_acknowledged_after_the_orchestrator() {
    let rig = Rig::start().await;
    let mut agent = rig.agent(&rig.registry.add("worker", "add"), 0).await;
    assert_eq!((agent.welcome.credits, agent.welcome.heartbeat_interval_ms, agent.welcome.lease_ms), (1, 5000, 20_000));
    assert!(rig.registry.is_live(&agent.welcome.agent_id));
    let mut orchestrator = rig.orchestrator("rep_1").await;
    orchestrator.dispatch("t1", "worker");
    orchestrator.dispatch("t1", "worker");
    orchestrator.dispatch("t2", "worker");
    let delivery = agent.task().await;
    assert_eq!((delivery.task.unwrap().id.as_str(), delivery.delivery), ("t1", 1));
    assert!(matches!(orchestrator.next().await.1, Update::HandedOver(_)));
    agent.say(agent_event::Event::Started(comm::TaskStarted { task_id: "t1".to_owned() }));
    assert!(matches!(orchestrator.next().await.1, Update::Begun(_)));
    agent.result("t1");
    assert!(matches!(orchestrator.next().await, (id, Update::Result(_)) if id == "t1"));
    // The credit is free again, the result is still ours.
    assert_eq!(agent.task().await.task.unwrap().id, "t2");
    orchestrator.ack("t1");
    assert_eq!(agent.result_ack().await, "t1");
}

#[tokio::test]
async fn a_lost_stream_returns_its_task_at_once() {
    let rig = Rig::start().await;
    let mut orchestrator = rig.orchestrator("rep_1").await;
    orchestrator.dispatch("t1", "worker");
    assert!(matches!(orchestrator.next().await.1, Update::Waiting(_)));
    let id = rig.registry.add("worker", "add");
    let mut first = rig.agent(&id, 1).await;
    assert_eq!(first.task().await.delivery, 1);
    assert!(matches!(orchestrator.next().await.1, Update::HandedOver(_)));
    let mut second = rig.agent(&rig.registry.add("worker", "add"), 1).await;
    drop(first);
    assert!(matches!(orchestrator.next().await.1, Update::Requeued(_)));
    assert_eq!(second.task().await.delivery, 2);
}

#[tokio::test]
async fn a_result_is_offered_until_it_is_acknowledged() {
    let rig = Rig::start().await;
    let mut agent = rig.agent(&rig.registry.add("worker", "add"), 1).await;
    let mut orchestrator = rig.orchestrator("rep_1").await;
    orchestrator.dispatch("t1", "worker");
    agent.task().await;
    orchestrator.next().await;
    drop(orchestrator);
    agent.result("t1");
    let mut successor = rig.orchestrator("rep_2").await;
    assert!(matches!(successor.next().await, (id, Update::Result(_)) if id == "t1"));
    drop(successor);
    let mut third = rig.orchestrator("rep_3").await;
    assert!(matches!(third.next().await, (id, Update::Result(_)) if id == "t1"));
    third.ack("t1");
    assert_eq!(agent.result_ack().await, "t1");
}

#[tokio::test]
async fn a_task_that_uses_up_its_deliveries_is_a_dead_letter_that_cannot_be_replayed() {
    let rig = Rig::with(|settings| settings.delivery_limit = 2).await;
    let mut agent = rig.agent(&rig.registry.add("worker", "add"), 1).await;
    let mut orchestrator = rig.orchestrator("rep_1").await;
    orchestrator.dispatch("t1", "worker");
    for delivery in 1..=2 {
        assert_eq!(agent.task().await.delivery, delivery);
        let nack = comm::Nack { delivery_id: "t1".to_owned(), reason: "busy".to_owned(), delay_ms: 1 };
        agent.say(agent_event::Event::Nack(nack));
    }
    let dead = loop {
        if let (_, Update::DeadLettered(dead)) = orchestrator.next().await {
            break dead;
        }
    };
    assert!(dead.reason.starts_with("delivery_limit"));
    let mut client = DeadLetterServiceClient::new(rig.link.clone());
    let request = comm::ReplayDeadLetterRequest { dead_letter_id: dead.dead_letter_id, ..Default::default() };
    let refused = errors::Error::from(client.replay_dead_letter(request).await.unwrap_err());
    assert_eq!(refused.reason, "dead_letter_not_replayable");
}

#[tokio::test]
async fn a_cancelled_task_frees_its_credit() {
    let rig = Rig::start().await;
    let mut agent = rig.agent(&rig.registry.add("worker", "add"), 1).await;
    let orchestrator = rig.orchestrator("rep_1").await;
    orchestrator.dispatch("t1", "worker");
    orchestrator.dispatch("t2", "worker");
    agent.task().await;
    let cancel = comm::CancelDispatch { task_id: "t1".to_owned(), reason: "over".to_owned() };
    orchestrator.say(comm::orchestrator_event::Event::Cancel(cancel));
    assert!(matches!(agent.next().await, server_event::Event::Cancel(cancel) if cancel.task_id == "t1"));
    assert_eq!(agent.task().await.task.unwrap().id, "t2");
}

#[tokio::test]
async fn a_drained_session_ends_when_it_holds_nothing() {
    let rig = Rig::start().await;
    let mut agent = rig.agent(&rig.registry.add("worker", "add"), 2).await;
    let orchestrator = rig.orchestrator("rep_1").await;
    orchestrator.dispatch("t1", "worker");
    agent.task().await;
    agent.say(agent_event::Event::Drain(comm::Drain::default()));
    orchestrator.dispatch("t2", "worker");
    agent.result("t1");
    orchestrator.ack("t1");
    assert_eq!(agent.result_ack().await, "t1");
    assert_eq!(agent.event().await.unwrap(), None);
}

#[tokio::test]
async fn faulty_first_words_and_events_name_the_field() {
    let rig = Rig::start().await;
    let mut agent = rig.raw(agent_event::Event::Ping(comm::Ping::default())).await;
    let error = errors::Error::from(agent.event().await.unwrap_err());
    assert_eq!(error.violations[0].field, "events[0].hello");
    let mut agent = rig.agent(&rig.registry.add("worker", "add"), 1).await;
    agent.say(agent_event::Event::MessageAck(comm::MessageAck::default()));
    let error = errors::Error::from(agent.event().await.unwrap_err());
    assert_eq!(error.violations[0].field, "events[0].message_ack.message_id");
    let hello = comm::Hello { agent_id: domain::AgentId::from_parts(1, 1).to_string(), ..Default::default() };
    let mut agent = rig.raw(agent_event::Event::Hello(hello)).await;
    assert_eq!(errors::Error::from(agent.event().await.unwrap_err()).reason, "agent_not_found");
}

#[tokio::test]
async fn a_silent_session_loses_its_lease_and_one_of_a_deleted_agent_is_closed() {
    let rig = Rig::with(|settings| {
        settings.heartbeat_interval = std::time::Duration::from_millis(50);
        settings.lease = std::time::Duration::from_millis(400);
    })
    .await;
    let mut silent = rig.agent(&rig.registry.add("worker", "add"), 1).await;
    assert_eq!(errors::Error::from(silent.event().await.unwrap_err()).reason, "session_lease_lost");
    let id = rig.registry.add("worker", "add");
    let mut deleted = rig.agent(&id, 1).await;
    rig.registry.delete(&id);
    assert_eq!(errors::Error::from(deleted.event().await.unwrap_err()).reason, "agent_not_found");
}

#[tokio::test]
async fn a_stop_drains_the_sessions_and_ends_every_stream() {
    let rig = Rig::start().await;
    let mut agent = rig.agent(&rig.registry.add("worker", "add"), 1).await;
    let _orchestrator = rig.orchestrator("rep_1").await;
    rig.stop().await;
    assert!(matches!(agent.next().await, server_event::Event::Drain(_)));
    assert_eq!(agent.event().await.unwrap(), None);
}
