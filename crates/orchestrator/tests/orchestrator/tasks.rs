//! Tasks: where they are, what becomes of their results, and what happens when nobody has any.

use contracts::{
    communication::v1::{
        TaskAlive, TaskDeadLettered, TaskRefused, TaskRequeued, TaskShown, TaskWaiting, task_update::Update,
    },
    orchestrator::v1::{ExecutionStatus, ExplainExecutionRequest, StepState},
};
use serde_json::json;

use crate::{
    communication::agent,
    world::{World, chain, eventually},
};

#[tokio::test]
async fn a_result_counts_once_and_is_acknowledged_each_time() {
    let world = World::start().await;
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let execution = world.begin(&workflow, &json!({})).await;
    let first = world.communication.dispatched(1).await;
    world.communication.complete(&first, "1");
    world.communication.complete(&first, "2");
    world.communication.acknowledged(&first.id, 2).await;
    let second = world.communication.dispatched(2).await;
    world.communication.complete(&second, "3");
    world.until(&execution.id, ExecutionStatus::Completed).await;
    // After the end as well, and where the attempt never was.
    world.communication.complete(&first, "4");
    world.communication.acknowledged(&first.id, 3).await;
    let mut never = second.clone();
    never.id = format!("{}/b/9", execution.id);
    world.communication.complete(&never, "5");
    world.communication.acknowledged(&never.id, 1).await;
    let expected = ["accepted", "step_scheduled", "step_completed", "step_scheduled", "step_completed", "completed"];
    assert_eq!(world.event_types(&execution.id).await, expected);
}

#[tokio::test]
async fn a_result_of_nothing_is_acknowledged_so_that_it_does_not_come_again() {
    let world = World::start().await;
    let workflow = world.define(&chain("one", &["a"])).await;
    world.begin(&workflow, &json!({})).await;
    let mut task = world.communication.dispatched(1).await;
    task.id = "no execution at all".to_owned();
    world.communication.complete(&task, "1");
    world.communication.acknowledged(&task.id, 1).await;
}

#[tokio::test]
async fn what_another_namespaces_agent_says_of_a_task_is_void() {
    let world = World::start().await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let execution = world.begin(&workflow, &json!({})).await;
    let task = world.communication.dispatched(1).await;
    world.communication.complete_from("elsewhere", &task, "1");
    world.communication.acknowledged(&task.id, 1).await;
    world.communication.complete(&task, "2");
    let ended = world.until(&execution.id, ExecutionStatus::Completed).await;
    assert_eq!(&ended.output[..], b"2");
}

#[tokio::test]
async fn an_agent_that_holds_a_task_that_is_over_is_freed() {
    let world = World::start().await;
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    world.begin(&workflow, &json!({})).await;
    let first = world.communication.dispatched(1).await;
    world.communication.complete(&first, "1");
    world.communication.dispatched(2).await;
    world.communication.hand_over(&first);
    world.communication.cancelled(&first.id).await;
}

#[tokio::test]
async fn many_large_inputs_go_out_in_frames_that_fit() {
    let world = World::start().await;
    world.communication.echo();
    let definition = json!({
        "name": "large", "steps": [{
            "id": "each", "agent_type": "clerk", "for_each": "${{ input.rows }}", "max_parallel": 100,
            "input": "${{ input.text }}",
        }],
        "output": "${{ size(steps.each.output) }}",
    });
    let workflow = world.define(&definition).await;
    // Together more than a message holds.
    let rows: Vec<_> = (0..20).collect();
    let execution = world.begin(&workflow, &json!({ "rows": rows, "text": "x".repeat(4 << 20) })).await;
    let ended = world.until(&execution.id, ExecutionStatus::Completed).await;
    assert_eq!(&ended.output[..], b"20");
}

#[tokio::test]
async fn a_new_stream_gets_everything_that_is_out() {
    let world = World::start().await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let execution = world.begin(&workflow, &json!({})).await;
    let task = world.communication.dispatched(1).await;
    world.communication.hang_up();
    assert_eq!(world.communication.dispatched(2).await, task);
    assert_eq!(world.communication.heard().attached, 2);
    world.communication.complete(&task, "null");
    let ended = world.until(&execution.id, ExecutionStatus::Completed).await;
    assert_eq!(&ended.output[..], b"null");
}

#[tokio::test]
async fn a_step_shows_where_its_task_is() {
    let world = World::start().await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let task = world.communication.dispatched(1).await;
    world.communication.tell(&task, Update::Waiting(TaskWaiting {}));
    world.until_step(&id, "a", StepState::WaitingForAgent).await;
    assert_eq!(world.get(&id).await.step_counts.unwrap().waiting_for_agent, Some(1));
    let request = ExplainExecutionRequest { execution_id: id.clone(), ..ExplainExecutionRequest::default() };
    let explained = world.executions().explain_execution(request).await.unwrap().into_inner();
    assert_eq!((explained.waits[0].step_id.as_str(), explained.waits[0].kind.as_str()), ("a", "agent"));
    assert_eq!(world.liveness().await.stuck, 0, "waiting for an agent is a wake-up");

    world.communication.hand_over(&task);
    world.communication.tell(&task, Update::Alive(TaskAlive {}));
    world.communication.tell(&task, Update::Shown(TaskShown { detail: r#"{"done": 3}"#.into() }));
    let shown = eventually("progress", async || {
        let run = world.get(&id).await.steps.remove(0);
        (!run.progress.is_empty()).then_some(run)
    })
    .await;
    assert_eq!(shown.state(), StepState::Running);
    assert_eq!((shown.agent_id, &shown.progress[..]), (agent(1).to_string(), &br#"{"done": 3}"#[..]));

    world.communication.tell(&task, Update::Requeued(TaskRequeued { reason: "gone".to_owned() }));
    world.until_step(&id, "a", StepState::Scheduled).await;
    world.communication.tell(&task, Update::Refused(TaskRefused { reason: "full".to_owned() }));
    assert_eq!(world.communication.dispatched(2).await, task, "a refused task is dispatched again");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_withdrawn_and_tried_again() {
    let world = World::start().await;
    let step = json!({ "id": "a", "agent_type": "worker", "timeout": "50ms",
                       "retry": { "max_attempts": 2, "initial_interval": "1ms" } });
    let workflow = world.define(&json!({ "name": "slow", "steps": [step] })).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let first = world.communication.dispatched(1).await;
    assert_eq!(first.timeout_ms, 50);
    world.communication.hand_over(&first);
    world.communication.cancelled(&first.id).await;
    let second = world.communication.dispatched(2).await;
    assert_eq!((second.id, second.attempt), (format!("{id}/a/2"), 2));
    // The first attempt's result comes too late.
    world.communication.complete(&first, "1");
    world.communication.acknowledged(&first.id, 1).await;
    let second = world.communication.dispatched(2).await;
    world.communication.hand_over(&second);
    let failed = world.until(&id, ExecutionStatus::Failed).await;
    assert_eq!(failed.failure.unwrap().code, "timeout");
}

#[tokio::test]
async fn an_agent_that_falls_silent_loses_its_task() {
    let world = World::start().await;
    let step =
        json!({ "id": "a", "agent_type": "worker", "heartbeat_timeout": "50ms", "retry": { "max_attempts": 1 } });
    let workflow = world.define(&json!({ "name": "silent", "steps": [step] })).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let task = world.communication.dispatched(1).await;
    world.communication.hand_over(&task);
    world.communication.cancelled(&task.id).await;
    let failed = world.until(&id, ExecutionStatus::Failed).await;
    assert_eq!(failed.failure.unwrap().code, "heartbeat_timeout");
}

#[tokio::test]
async fn a_dead_letter_fails_its_step_without_another_attempt() {
    let world = World::start().await;
    let step = json!({ "id": "a", "agent_type": "worker", "retry": { "max_attempts": 5 } });
    let workflow = world.define(&json!({ "name": "dead", "steps": [step] })).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let task = world.communication.dispatched(1).await;
    let dead = TaskDeadLettered { dead_letter_id: "dlt_1".to_owned(), reason: "3 deliveries".to_owned() };
    world.communication.tell(&task, Update::DeadLettered(dead));
    let failed = world.until(&id, ExecutionStatus::Failed).await;
    assert_eq!(failed.failure.unwrap().code, "dead_lettered");
    assert_eq!(world.communication.task_ids().len(), 1);
}

#[tokio::test]
async fn a_failure_that_can_be_mended_is_tried_again() {
    let world = World::start().await;
    let step = json!({ "id": "a", "agent_type": "worker", "retry": { "max_attempts": 3, "initial_interval": "1ms" } });
    let workflow =
        world.define(&json!({ "name": "retried", "steps": [step], "output": "${{ steps.a.output }}" })).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let first = world.communication.dispatched(1).await;
    world.communication.fail(&first, "busy", true);
    let second = world.communication.dispatched(2).await;
    world.communication.complete(&second, r#""done""#);
    let ended = world.until(&id, ExecutionStatus::Completed).await;
    assert_eq!(&ended.output[..], br#""done""#);
    assert_eq!(ended.steps[0].attempt, 2);
}

#[tokio::test]
async fn a_decision_waits_visibly_until_enough_voters_live() {
    let world = World::with(|settings| settings.voter_grace = std::time::Duration::ZERO).await;
    let decision = json!({ "question": "Well?", "options": ["yes", "no"], "voters": { "capability": "judge", "count": 3 },
                           "strategy": "majority", "quorum": 2 });
    let definition = json!({ "name": "vote", "steps": [{ "id": "v", "decision": decision }],
                             "output": "${{ steps.v.output.winner }}" });
    let workflow = world.define(&definition).await;
    world.registry.are_alive(1);
    let id = world.begin(&workflow, &json!({})).await.id;
    world.until_step(&id, "v", StepState::WaitingForAgent).await;
    eventually("another look", async || (world.registry.asked() > 1).then_some(())).await;
    assert_eq!(world.liveness().await.stuck, 0);
    world.registry.are_alive(2);
    world.communication.dispatched(2).await;
    let votes = world.communication.heard().dispatched.clone();
    // A ballot is its voter's own: nobody can cast another's.
    let mut forged = votes[0].clone();
    forged.target = votes[1].target.clone();
    world.communication.complete(&forged, r#"{"choice": "no"}"#);
    world.communication.acknowledged(&forged.id, 1).await;
    for task in &votes {
        assert_eq!(task.action, "vote");
        world.communication.complete(task, r#"{"choice": "yes"}"#);
    }
    let ended = world.until(&id, ExecutionStatus::Completed).await;
    assert_eq!(&ended.output[..], br#""yes""#);
}

#[tokio::test]
async fn a_hand_over_that_is_told_again_does_not_prolong_the_attempt() {
    let world = World::start().await;
    let step = json!({ "id": "a", "agent_type": "worker", "timeout": "100ms", "retry": { "max_attempts": 1 } });
    let workflow = world.define(&json!({ "name": "held", "steps": [step] })).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let task = world.communication.dispatched(1).await;
    eventually("the timeout", async || {
        world.communication.hand_over(&task);
        world.communication.heard().cancelled.contains(&task.id).then_some(())
    })
    .await;
    assert_eq!(world.until(&id, ExecutionStatus::Failed).await.failure.unwrap().code, "timeout");
}
