//! Tasks over several replicas of communication.

use contracts::{
    communication::v1::{Task, TaskEnqueued, task_update::Update},
    orchestrator::v1::{ExecutionStatus, StepState},
};
use serde_json::{Value, json};

use crate::{
    communication::Communication,
    world::{World, chain, eventually},
};

async fn world() -> World {
    World::among(2, |_| ()).await
}

/// So many tasks at once.
fn fan(count: usize) -> Value {
    let items: Vec<_> = (0..count).collect();
    json!({ "name": "fan", "steps": [{
        "id": "each", "agent_type": "worker", "for_each": format!("${{{{ {items:?} }}}}"), "max_parallel": count,
    }] })
}

/// What the replicas were given, once that is so much together.
async fn given(replicas: [&Communication; 2], count: usize) -> [Vec<Task>; 2] {
    eventually("dispatches", async || {
        let given = replicas.map(|replica| replica.heard().dispatched.clone());
        (given[0].len() + given[1].len() == count).then_some(given)
    })
    .await
}

#[tokio::test]
async fn tasks_go_to_the_replica_that_serves_them() {
    let world = world().await;
    let [idle, busy] = [&world.communication, &world.others[0]];
    idle.serve("somebody", 8).await;
    busy.serve("worker", 1).await;
    let workflow = world.define(&fan(5)).await;
    let served = world.define(&json!({ "name": "one", "steps": [{ "id": "a", "agent_type": "nobody" }] })).await;
    world.begin(&workflow, &json!({})).await;
    busy.dispatched(5).await;
    assert_eq!(idle.task_ids(), [""; 0]);

    // What nobody serves shows so, wherever it is.
    let id = world.begin(&served, &json!({})).await.id;
    world.until_step(&id, "a", StepState::WaitingForAgent).await;
    given([idle, busy], 6).await;
}

#[tokio::test]
async fn what_a_lost_replica_had_goes_to_another_and_nothing_else_is_repeated() {
    let world = world().await;
    let [lost, kept] = [&world.communication, &world.others[0]];
    lost.serve("worker", 2).await;
    kept.serve("worker", 2).await;
    let workflow = world.define(&fan(4)).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let [of_lost, of_kept] = given([lost, kept], 4).await;
    assert_eq!((of_lost.len(), of_kept.len()), (2, 2));
    kept.hand_over(&of_kept[0]);
    lost.hand_over(&of_lost[0]);
    lost.go_away();
    let [_, mut of_both] = given([lost, kept], 6).await;
    for task in &of_both {
        kept.complete(task, "1");
    }
    world.until(&id, ExecutionStatus::Completed).await;
    of_both.drain(..2);
    let sorted = |mut tasks: Vec<Task>| {
        tasks.sort_by(|left, right| left.id.cmp(&right.id));
        tasks
    };
    assert_eq!(sorted(of_both), sorted(of_lost));
}

#[tokio::test]
async fn a_takeover_looks_for_tasks_before_it_dispatches_them() {
    let world = world().await;
    let workflow = world.define(&fan(2)).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let [first, second] = given([&world.communication, &world.others[0]], 2).await;
    let (held, forgotten) = match (first.as_slice(), second.as_slice()) {
        ([one], [other]) => (one.clone(), other.clone()),
        _ => panic!("equals take turns: {first:?} {second:?}"),
    };
    world.communication.hold(&held);
    let world = world.crash_and_start().await;
    let replicas = [&world.communication, &world.others[0]];
    let [first, second] = given(replicas, 3).await;
    let last = first.get(1).or(second.get(1)).unwrap();
    assert_eq!(last, &forgotten, "what nobody knows is dispatched again, and nothing else");
    for replica in replicas {
        replica.located(&held.id, 1).await;
        replica.located(&forgotten.id, 1).await;
    }
    world.communication.complete(&held, "1");
    world.communication.acknowledged(&held.id, 1).await;
    world.communication.complete(&forgotten, "1");
    world.until(&id, ExecutionStatus::Completed).await;
    given(replicas, 3).await;
}

#[tokio::test]
async fn an_enqueued_task_survives_the_loss_of_its_enqueuer_without_another_dispatch() {
    let world = world().await;
    let [enqueuer, other] = [&world.communication, &world.others[0]];
    enqueuer.serve("worker", 1).await;
    other.serve("somebody", 1).await;
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let task = enqueuer.dispatched(1).await;
    enqueuer.tell(&task, Update::Enqueued(TaskEnqueued {}));
    enqueuer.go_away();
    // Nobody serves it any more, which shows that the loss was heard of.
    world.until_step(&id, "a", StepState::WaitingForAgent).await;
    other.serve("worker", 1).await;
    other.hand_over(&task);
    world.until_step(&id, "a", StepState::Running).await;
    other.complete(&task, "1");
    let next = other.dispatched(1).await;
    assert_eq!(next.step_id, "b", "the first was not dispatched again");
    other.acknowledged(&task.id, 1).await;
}

#[tokio::test]
async fn of_two_agents_that_get_a_task_the_second_is_stopped() {
    let world = world().await;
    let [first, second] = [&world.communication, &world.others[0]];
    first.serve("worker", 1).await;
    second.serve("somebody", 1).await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let task = first.dispatched(1).await;
    first.hold(&task);
    first.hand_over(&task);
    world.until_step(&id, "a", StepState::Running).await;
    second.hand_over(&task);
    second.cancelled(&task.id).await;
    first.complete(&task, "1");
    world.until(&id, ExecutionStatus::Completed).await;
    assert_eq!(first.heard().cancelled, [""; 0]);
}
