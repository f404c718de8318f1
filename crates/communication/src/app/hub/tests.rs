use std::{sync::Arc, time::Duration};

use contracts::communication::v1::{self as proto, ServerEvent, TaskUpdate, server_event, task_update::Update};
use domain::{ManualClock, SessionId, Timestamp};

use super::*;
use crate::app::outgoing::{Frames, channel};

fn hub(queue_limit: usize) -> Hub {
    let limits =
        Limits { delivery_limit: 5, queue_limit, mailbox_limit: 10, max_output: 10, lease: Duration::from_secs(20) };
    Hub::new(limits, Arc::new(ManualClock::at(Timestamp::EPOCH)))
}

fn open(hub: &Hub, number: u128, credits: u32, buffer: usize) -> (SessionId, Frames<ServerEvent>) {
    let (outgoing, frames) = channel(buffer);
    let id = SessionId::from_parts(1, number);
    let agent_id = format!("agt_{number}").into();
    let identity = Identity {
        namespace: "default".into(),
        agent_id,
        agent_type: "worker".into(),
        capabilities: vec!["add".into()],
        credits,
    };
    assert!(hub.open(id, identity, outgoing));
    (id, frames)
}

fn task(id: &str, priority: u32, target: proto::task::Target) -> OrchestratorEvent {
    OrchestratorEvent::Dispatch(proto::Task { id: id.to_owned(), priority, target: Some(target), ..Default::default() })
}

fn worker() -> proto::task::Target {
    proto::task::Target::AgentType("worker".to_owned())
}

async fn delivered(frames: &mut Frames<ServerEvent>) -> Vec<String> {
    let events = frames.next(|_| 0).await.unwrap();
    let tasks = events.into_iter().filter_map(|event| match event.event {
        Some(server_event::Event::Task(delivery)) => delivery.task.map(|task| task.id),
        _ => None,
    });
    tasks.collect()
}

fn attach(hub: &Hub) -> (Id, u64, Frames<TaskUpdate>) {
    let (outgoing, frames) = channel(100);
    let replica: Id = "rep_1".into();
    let generation = hub.attach(&replica, outgoing).unwrap();
    (replica, generation, frames)
}

#[tokio::test]
async fn free_credit_takes_the_most_urgent_then_the_oldest_of_all_queues_that_fit() {
    let hub = hub(10);
    let (replica, generation, _updates) = attach(&hub);
    let capability = proto::task::Target::Capability("add".to_owned());
    let events = vec![task("old", 1, worker()), task("urgent", 9, capability), task("young", 1, worker())];
    hub.order(&replica, generation, events);
    let (_, mut frames) = open(&hub, 1, 10, 100);
    assert_eq!(delivered(&mut frames).await, ["urgent", "old", "young"]);
}

#[tokio::test]
async fn what_a_lost_session_held_comes_before_what_waited() {
    let hub = hub(10);
    let (replica, generation, _updates) = attach(&hub);
    let (first, _frames) = open(&hub, 1, 1, 100);
    hub.order(&replica, generation, vec![task("a", 5, worker()), task("b", 5, worker())]);
    hub.close(first, None);
    let (_, mut frames) = open(&hub, 2, 5, 100);
    assert_eq!(delivered(&mut frames).await, ["a", "b"]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_slow_stream_is_closed_without_losing_its_tasks() {
    let hub = hub(1);
    let (replica, generation, mut updates) = attach(&hub);
    hub.order(&replica, generation, vec![task("a", 5, worker()), task("b", 5, worker())]);
    let seen = updates.next(|_| 0).await.unwrap();
    assert!(matches!(seen[1].update, Some(Update::Refused(_))));
    let (_, mut slow) = open(&hub, 1, 2, 1);
    hub.order(&replica, generation, vec![task("c", 5, worker())]);
    assert_eq!(delivered(&mut slow).await, ["a"]);
    assert!(slow.next(|_| 0).await.is_err());
    let (_, mut other) = open(&hub, 2, 5, 100);
    assert_eq!(delivered(&mut other).await, ["a", "c"]);
}
