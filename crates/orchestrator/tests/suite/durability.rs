//! What survives what.

use std::time::Duration;

use contracts::orchestrator::v1::ExecutionStatus;
use serde_json::json;

use crate::{
    fakes::eventually,
    world::{World, reason},
};

#[tokio::test]
async fn after_a_kill_every_execution_goes_on_from_its_last_event() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node
        .chain(json!([
            {"id": "a", "agent_type": "x", "action": "echo"},
            {"id": "b", "agent_type": "x", "action": "hold"},
            {"id": "c", "sleep": "20ms"},
        ]))
        .await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(node.begin(&workflow).await);
    }
    eventually("all are at b", async || world.communication.dispatched("/b/") == 20).await;
    node.kill().await;
    let node = world.start().await;
    eventually("b is sent again", async || world.communication.dispatched("/b/") == 40).await;
    assert_eq!(node.liveness().await, (20, 0));
    world.communication.let_go(true);
    for id in &ids {
        node.ends_as(id, ExecutionStatus::Completed).await;
        assert_eq!(node.kinds(id, "step_completed").await, 3);
        assert_eq!(node.faults(id).await, Vec::<String>::new());
    }
    assert_eq!(world.communication.dispatched("/a/"), 20);
    assert_eq!(node.liveness().await, (0, 0));
    node.stop().await;
}

#[tokio::test]
async fn a_start_with_the_same_id_is_one_execution_also_after_a_restart() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node.chain(json!([{"id": "a", "agent_type": "x", "action": "echo"}])).await;
    let id = domain::ExecutionId::from_parts(5, 5).to_string();
    let long = Duration::from_secs(20);
    let starts = futures::future::join_all((0..10).map(|_| node.try_run(&workflow, &id, long))).await;
    assert!(starts.into_iter().all(|start| start.unwrap().status() == ExecutionStatus::Completed));
    node.stop().await;
    let node = world.start().await;
    assert_eq!(node.try_run(&workflow, &id, long).await.unwrap().status(), ExecutionStatus::Completed);
    assert_eq!(node.kinds(&id, "accepted").await, 1);
    node.stop().await;
}

#[tokio::test]
async fn a_failed_commit_leaves_nothing_half_done() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node.chain(json!([{"id": "approve", "signal": {"name": "go"}}])).await;
    let id = node.begin(&workflow).await;
    world
        .sql("CREATE TRIGGER full BEFORE INSERT ON execution_events BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .await;
    assert_eq!(reason(node.signal(&id, "go", "").await), "not_committed");
    let refused = node.try_run(&workflow, "", Duration::ZERO).await;
    assert_eq!(reason(refused), "not_committed");
    assert_eq!(node.get(&id).await.status(), ExecutionStatus::Running);
    world.sql("DROP TRIGGER full").await;
    node.signal(&id, "go", "").await.unwrap();
    node.ends_as(&id, ExecutionStatus::Completed).await;
    assert_eq!(node.faults(&id).await, Vec::<String>::new());
    assert_eq!(node.liveness().await, (0, 0));
    node.stop().await;
}

#[tokio::test]
async fn who_lost_its_shards_can_append_nothing() {
    let world = World::new();
    let first = world.start().await;
    let workflow = first.chain(json!([{"id": "approve", "signal": {"name": "go"}}])).await;
    let id = first.begin(&workflow).await;
    let second = world.start().await;
    assert_eq!(reason(first.signal(&id, "go", "").await), "not_committed");
    assert_eq!(reason(first.try_run(&workflow, "", Duration::ZERO).await), "not_committed");
    assert_eq!(second.kinds(&id, "signal_received").await, 0);
    second.signal(&id, "go", "").await.unwrap();
    second.ends_as(&id, ExecutionStatus::Completed).await;
    assert_eq!(second.faults(&id).await, Vec::<String>::new());
    first.kill().await;
    second.stop().await;
}

#[tokio::test]
async fn a_result_that_comes_twice_counts_once_and_is_acknowledged_each_time() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node.chain(json!([{"id": "a", "agent_type": "x", "action": "twice"}])).await;
    let id = node.run(&workflow).await.id;
    assert_eq!(node.kinds(&id, "step_completed").await, 1);
    eventually("both are acknowledged", async || world.communication.acknowledged(&id) == 2).await;
    node.stop().await;
}

#[tokio::test]
async fn tasks_are_sent_again_when_the_stream_is_lost() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node.chain(json!([{"id": "a", "agent_type": "x", "action": "hold"}])).await;
    let id = node.begin(&workflow).await;
    eventually("it is sent", async || world.communication.dispatched(&id) == 1).await;
    world.communication.lose_streams();
    eventually("it is sent again", async || world.communication.dispatched(&id) == 2).await;
    world.communication.let_go(true);
    node.ends_as(&id, ExecutionStatus::Completed).await;
    node.stop().await;
}

#[tokio::test]
async fn a_changed_or_missing_event_is_found() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node.chain(json!([{"id": "a", "agent_type": "x", "action": "echo"}])).await;
    let id = node.run(&workflow).await.id;
    assert_eq!(node.faults(&id).await, Vec::<String>::new());
    world.sql("UPDATE execution_events SET at = at + 1 WHERE sequence = 2").await;
    assert!(node.faults(&id).await[0].contains("event 2"));
    world.sql("DELETE FROM execution_events WHERE sequence = 2").await;
    assert!(node.faults(&id).await[0].contains("event 2 is missing"));
    world.sql("DELETE FROM execution_events WHERE sequence > 1").await;
    assert!(node.faults(&id).await[0].contains("after 1 are missing"));
    node.stop().await;
}
