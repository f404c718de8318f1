//! Sessions: how they open, and all the ways in which they end.

use std::time::Duration;

use contracts::communication::v1::{Drain, Hello, TaskResult, TaskStarted, agent_event::Event, server_event};
use domain::{AgentId, SystemClock};
use errors::Code;

use crate::world::{World, of_type, to, until};

#[tokio::test]
async fn a_hello_is_welcomed_with_capped_credit_and_the_configuration() {
    let world = World::with(|settings| settings.max_credits = 8).await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.hello(Hello { agent_id: id.clone(), max_in_flight: 100, ..Hello::default() }).await;
    let welcome = agent.welcome().await;
    assert_eq!((welcome.agent_id.as_str(), welcome.credits), (id.as_str(), 8));
    assert!(welcome.session_id.starts_with("ses_") && welcome.heartbeat_interval_ms * 2 <= welcome.lease_ms);
    assert_eq!(welcome.config.as_ref(), b"{\"model\":\"small\"}");
    until(async || world.registry.is_live(&id).then_some(())).await;
    drop(agent);
    until(async || (!world.registry.is_live(&id)).then_some(())).await;
}

#[tokio::test]
async fn a_session_by_type_and_name_attaches_to_the_same_agent_again() {
    let world = World::start().await;
    let hello = Hello { agent_type: "clerk".to_owned(), name: "anna".to_owned(), ..Hello::default() };
    let first = world.hello(hello.clone()).await.welcome().await;
    let second = world.hello(hello).await.welcome().await;
    assert_eq!(first.agent_id, second.agent_id);
    assert_eq!((first.credits, second.credits), (1, 1));
}

#[tokio::test]
async fn faulty_hellos_are_refused() {
    let world = World::start().await;
    let unknown = AgentId::generate(&SystemClock).to_string();
    let error = world.hello(Hello { agent_id: unknown, ..Hello::default() }).await.error().await;
    assert_eq!((error.code, error.reason), (Code::NotFound, "agent_not_found"));
    let error = world.hello(Hello { agent_type: "clerk".to_owned(), ..Hello::default() }).await.error().await;
    assert_eq!((error.code, error.violations[0].field.as_str()), (Code::Invalid, "events[0].hello.name"));
}

#[tokio::test]
async fn a_faulty_event_ends_the_session_and_returns_what_it_held() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let mut faulty = world.agent(&id, 1).await;
    let orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("clerk")).await;
    faulty.task().await;
    let mut other = world.agent(&id, 1).await;
    faulty.say(Event::Result(TaskResult { task_id: "e/a/1".to_owned(), ..TaskResult::default() })).await;
    let error = faulty.error().await;
    assert_eq!((error.code, error.violations[0].field.as_str()), (Code::Invalid, "events[0].result.outcome"));
    assert_eq!(other.task().await, ("e/a/1".to_owned(), 2));
}

#[tokio::test]
async fn a_silent_session_loses_its_lease_and_what_it_held() {
    let world = World::with(|settings| {
        settings.heartbeat_interval = Duration::from_millis(100);
        settings.session_lease = Duration::from_millis(200);
    })
    .await;
    let id = world.registry.add("clerk", &[]);
    let mut silent = world.agent(&id, 1).await;
    let sent = world.send(to(&id, "1")).await.unwrap();
    assert_eq!(silent.message().await.0.id, sent);
    let error = silent.error().await;
    assert_eq!((error.code, error.reason), (Code::Conflict, "session_lease_lost"));
    let mut next = world.agent(&id, 1).await;
    assert_eq!(next.message().await.1, 2);
}

#[tokio::test]
async fn a_draining_session_gets_nothing_new_and_ends_when_it_is_finished() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let mut leaving = world.agent(&id, 2).await;
    let orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("clerk")).await;
    leaving.task().await;
    leaving.say(Event::Drain(Drain::default())).await;
    leaving.say(Event::Started(TaskStarted { task_id: "e/a/1".to_owned() })).await;
    let mut staying = world.agent(&id, 1).await;
    orchestrator.dispatch("e/b/1", of_type("clerk")).await;
    assert_eq!(staying.task().await.0, "e/b/1");
    leaving.finish("e/a/1", "1").await;
    orchestrator.acknowledge("e/a/1").await;
    // An acknowledgement that overtakes its result is not for it.
    let ended = loop {
        orchestrator.acknowledge("e/a/1").await;
        match leaving.next().await.unwrap() {
            Some(server_event::Event::ResultAck(_)) => {}
            Some(other) => panic!("nothing new was expected, but {other:?}"),
            None => break true,
        }
    };
    assert!(ended);
}

#[tokio::test]
async fn a_server_that_stops_lets_sessions_finish() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.agent(&id, 1).await;
    let sent = world.send(to(&id, "1")).await.unwrap();
    agent.message().await;
    world.drain();
    assert!(matches!(agent.hear().await, server_event::Event::Drain(_)));
    agent.ack(&sent).await;
    assert_eq!(agent.next().await.unwrap(), None);
    let world = world.restart().await;
    let record = world.record(&sent).await;
    assert!(record.acked_at.is_some(), "what was said while it stopped is recorded");
}

#[tokio::test]
async fn sessions_of_a_deleted_agent_are_ended() {
    let world = World::with(|settings| settings.report_interval = Duration::from_millis(50)).await;
    let id = world.registry.add("clerk", &[]);
    let mut agent = world.agent(&id, 1).await;
    world.registry.remove(&id);
    assert_eq!(agent.error().await.reason, "agent_not_found");
}
