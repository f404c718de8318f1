//! Live messages: published by clients and by progress of tasks, heard on any replica.

use contracts::{
    Link,
    communication::v1::{self as proto, agent_event, topic_event::Event, topic_service_client::TopicServiceClient},
};
use errors::{Code, Error};
use testkit::Servers;
use tokio::time::timeout;
use tonic::Streaming;

use crate::world::{DEADLINE, World, of_type};

/// Somebody who listens.
struct Listener {
    events: Streaming<proto::SubscribeResponse>,
    waiting: std::collections::VecDeque<Event>,
}

impl Listener {
    async fn open(world: &World, namespace: &str, patterns: &[&str]) -> Self {
        let events = subscribe(&mut world.topics(), namespace, patterns).await.unwrap();
        Self { events, waiting: std::collections::VecDeque::new() }
    }

    async fn next(&mut self) -> Result<Event, Error> {
        while self.waiting.is_empty() {
            let batch = timeout(DEADLINE, self.events.message()).await.expect("something should have come");
            let batch = batch?.expect("the stream goes on");
            self.waiting.extend(batch.events.into_iter().filter_map(|event| event.event));
        }
        Ok(self.waiting.pop_front().unwrap())
    }

    /// The next message: its topic and its payload.
    async fn message(&mut self) -> (String, String) {
        match self.next().await.unwrap() {
            Event::Message(message) => (message.topic, String::from_utf8(message.payload.to_vec()).unwrap()),
            other => panic!("expected a message, not {other:?}"),
        }
    }
}

async fn subscribe(
    client: &mut TopicServiceClient<Link>,
    namespace: &str,
    patterns: &[&str],
) -> Result<Streaming<proto::SubscribeResponse>, Error> {
    let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    let request = proto::SubscribeRequest { namespace: namespace.to_owned(), patterns };
    Ok(client.subscribe(request).await?.into_inner())
}

async fn publish(world: &World, namespace: &str, topic: &str, payload: impl Into<Vec<u8>>) -> Result<(), Error> {
    let payload = payload.into().into();
    let request = proto::PublishRequest { namespace: namespace.to_owned(), topic: topic.to_owned(), payload };
    world.topics().publish(request).await?;
    Ok(())
}

/// The progress of a task on `there` is heard here.
async fn progress_is_heard(here: &World, there: &World, execution: &str) {
    let pattern = format!("executions.{execution}.*");
    let mut listener = Listener::open(here, "", &[&pattern]).await;
    let mut stranger = Listener::open(here, "elsewhere", &["#"]).await;
    let orchestrator = there.orchestrator("rep_1").await;
    let agent = there.registry.add("scorer", &[]);
    let mut session = there.agent(&agent, 2).await;
    let task = format!("{execution}/a/1");
    orchestrator.dispatch(&task, of_type("scorer")).await;
    assert_eq!(session.task().await.0, task);
    for detail in ["1", "no JSON", "{\"done\":2}"] {
        let progress = proto::TaskProgress { task_id: task.clone(), detail: detail.as_bytes().to_vec().into() };
        session.say(agent_event::Event::Progress(progress)).await;
    }
    // Progress of what it does not hold is nobody's.
    let foreign = proto::TaskProgress { task_id: format!("{execution}/b/1"), detail: "3".as_bytes().into() };
    session.say(agent_event::Event::Progress(foreign)).await;
    for detail in ["1", "{\"done\":2}"] {
        let (topic, document) = listener.message().await;
        assert_eq!(topic, format!("executions.{execution}.progress"));
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!((&document["task_id"], &document["agent_id"]), (&task.as_str().into(), &agent.as_str().into()));
        assert_eq!(document["detail"], serde_json::from_str::<serde_json::Value>(detail).unwrap());
        assert!(document["at"].as_str().unwrap().ends_with('Z'), "{document}");
    }
    publish(there, "elsewhere", "a", "1").await.unwrap();
    assert_eq!(stranger.message().await, ("a".to_owned(), "1".to_owned()));
}

#[tokio::test]
async fn what_is_published_is_heard_by_whom_it_concerns_until_the_server_stops() {
    let world = World::start().await;
    let mut listener = Listener::open(&world, "", &["orders.*.created", "#.created"]).await;
    publish(&world, "other", "orders.eu.created", "1").await.unwrap();
    publish(&world, "", "orders.eu.changed", "2").await.unwrap();
    publish(&world, "default", "orders.eu.created", "{\"a\": 3}").await.unwrap();
    publish(&world, "", "created", "").await.unwrap();
    assert_eq!(listener.message().await, ("orders.eu.created".to_owned(), "{\"a\": 3}".to_owned()));
    assert_eq!(listener.message().await, ("created".to_owned(), "null".to_owned()));
    world.drain();
    let error = listener.next().await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Unavailable, "stopping"));
}

#[tokio::test]
async fn faulty_requests_are_refused_with_their_fields() {
    let world = World::with(|settings| settings.live_subscriptions = 1).await;
    let fault = |error: Error| (error.violations[0].field.clone(), error.violations[0].code.clone());
    for (topic, payload, field, code) in [
        ("a..b", "1", "topic", "invalid_topic"),
        ("a.*", "1", "topic", "invalid_topic"),
        ("a", "{", "payload", "invalid_json"),
    ] {
        let error = publish(&world, "", topic, payload).await.unwrap_err();
        assert_eq!(fault(error), (field.to_owned(), code.to_owned()), "{topic} {payload}");
    }
    let error = publish(&world, "", "a", "1".repeat((64 << 10) + 1)).await.unwrap_err();
    assert_eq!(fault(error), ("payload".to_owned(), "too_large".to_owned()));
    assert_eq!(fault(publish(&world, "a b", "a", "1").await.unwrap_err()).0, "namespace");
    let mut client = world.topics();
    for (patterns, field) in [
        (vec![], "patterns"),
        (vec!["a"; 17], "patterns"),
        (vec!["a", "b.**"], "patterns[1]"),
        (vec![""], "patterns[0]"),
    ] {
        assert_eq!(fault(subscribe(&mut client, "", &patterns).await.unwrap_err()).0, field);
    }
    let open = subscribe(&mut client, "", &["a"]).await.unwrap();
    let error = subscribe(&mut client, "", &["a"]).await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Exhausted, "too_many_subscriptions"));
    drop(open);
    crate::world::until(async || subscribe(&mut world.topics(), "", &["a"]).await.ok()).await;
}

#[tokio::test]
async fn progress_of_a_task_is_heard_in_one_process() {
    let world = World::start().await;
    progress_is_heard(&world, &world, "exe_1").await;
}

#[tokio::test]
async fn progress_of_a_task_is_heard_on_another_replica_with_redis() {
    let redis =
        settings::Redis { timeout: std::time::Duration::from_secs(2), ..settings::Redis::at(&Servers::shared().redis) };
    let world = async || World::with(|settings| settings.redis = redis.clone()).await;
    let (one, other) = (world().await, world().await);
    // Others use the same Redis.
    let execution = format!("exe_{}", std::process::id());
    progress_is_heard(&one, &other, &execution).await;
}

/// A task with progress ends while nothing can be published.
#[tokio::test]
async fn without_redis_work_goes_on_and_publishers_are_refused() {
    let nowhere = settings::Redis::at("redis://127.0.0.1:1");
    let world = World::with(|settings| settings.redis = nowhere).await;
    let error = publish(&world, "", "a", "1").await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Unavailable, "live_unavailable"));
    let error = subscribe(&mut world.topics(), "", &["a"]).await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Unavailable, "live_unavailable"));
    let mut orchestrator = world.orchestrator("rep_1").await;
    let mut session = world.agent(&world.registry.add("scorer", &[]), 2).await;
    orchestrator.dispatch("e/a/1", of_type("scorer")).await;
    session.task().await;
    for _ in 0..2_000 {
        let progress = proto::TaskProgress { task_id: "e/a/1".to_owned(), detail: "1".as_bytes().into() };
        session.say(agent_event::Event::Progress(progress)).await;
    }
    session.finish("e/a/1", "7").await;
    orchestrator.until(|id, update| id == "e/a/1" && matches!(update, proto::task_update::Update::Result(_))).await;
}
