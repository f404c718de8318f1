//! What executions do.

use std::time::Duration;

use contracts::orchestrator::v1::{
    CancelExecutionRequest, ExecutionStatus, ExplainExecutionRequest, PauseExecutionRequest, ResumeExecutionRequest,
    RetryExecutionRequest, StepState, WatchEventsRequest,
};
use futures::StreamExt as _;
use serde_json::json;

use crate::{
    fakes::eventually,
    world::{World, reason},
};

#[tokio::test]
async fn a_chain_runs_to_its_end_and_its_output_comes_with_the_answer() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node
        .chain(json!([
            {"id": "a", "agent_type": "echo", "action": "echo", "input": "${{ input }}"},
            {"id": "b", "agent_type": "echo", "action": "echo", "input": "${{ steps.a.output.n + 1 }}"},
        ]))
        .await;
    let ended = node.run(&workflow).await;
    assert_eq!(ended.status(), ExecutionStatus::Completed);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&ended.output).unwrap(), json!({"b": 8}));
    assert_eq!(node.faults(&ended.id).await, Vec::<String>::new());
    assert_eq!(node.liveness().await, (0, 0));
    let steps = node.get(&ended.id).await.steps;
    assert!(steps.iter().all(|step| step.state() == StepState::Completed), "{steps:?}");
    eventually("results are acknowledged", async || world.communication.acknowledged(&ended.id) == 2).await;
    node.stop().await;
}

#[tokio::test]
async fn failed_attempts_are_tried_again_and_hanging_ones_time_out() {
    let world = World::new();
    let node = world.start().await;
    let retry = json!({"max_attempts": 3, "initial_interval": "10ms"});
    let workflow = node
        .chain(json!([
            {"id": "flaky", "agent_type": "x", "action": "flaky", "retry": retry},
            {"id": "nap", "sleep": "20ms"},
            {"id": "hang", "agent_type": "x", "action": "hang", "timeout": "30ms", "retry": {"max_attempts": 2, "initial_interval": "10ms"}},
        ]))
        .await;
    let ended = node.run(&workflow).await;
    assert_eq!(ended.status(), ExecutionStatus::Failed);
    assert_eq!(ended.failure.unwrap().code, "timeout");
    assert_eq!(world.communication.dispatched("/flaky/"), 3);
    assert_eq!(world.communication.dispatched("/hang/"), 2);
    eventually("hanging agents are told", async || world.communication.cancelled("/hang/") == 2).await;
    node.stop().await;
}

#[tokio::test]
async fn a_signal_is_waited_for_explained_and_counts_once() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node.chain(json!([{"id": "approve", "signal": {"name": "approval"}}])).await;
    let id = node.begin(&workflow).await;
    let request = ExplainExecutionRequest { execution_id: id.clone(), ..ExplainExecutionRequest::default() };
    let explained = node.executions.clone().explain_execution(request).await.unwrap().into_inner();
    assert_eq!(explained.waits[0].kind, "signal");
    assert_eq!(reason(node.signal(&id, "other", "").await), "signal_unknown");
    let signal = domain::SignalId::from_parts(1, 1).to_string();
    node.signal(&id, "approval", &signal).await.unwrap();
    let ended = node.ends_as(&id, ExecutionStatus::Completed).await;
    assert_eq!(ended.output.as_ref(), br#"{"approve":{"approved": true}}"#);
    node.signal(&id, "approval", &signal).await.unwrap();
    assert_eq!(node.kinds(&id, "signal_received").await, 1);
    assert_eq!(reason(node.signal(&id, "approval", "").await), "execution_ended");
    node.stop().await;
}

#[tokio::test]
async fn a_cancel_reaches_agents_at_work_and_a_pause_starts_nothing() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node
        .chain(
            json!([{"id": "a", "agent_type": "x", "action": "hold"}, {"id": "b", "agent_type": "x", "action": "echo"}]),
        )
        .await;
    let (paused, cancelled) = (node.begin(&workflow).await, node.begin(&workflow).await);
    let pause = PauseExecutionRequest { execution_id: paused.clone(), ..PauseExecutionRequest::default() };
    node.executions.clone().pause_execution(pause).await.unwrap();
    let cancel = CancelExecutionRequest { execution_id: cancelled.clone(), ..CancelExecutionRequest::default() };
    node.executions.clone().cancel_execution(cancel.clone()).await.unwrap();
    node.ends_as(&cancelled, ExecutionStatus::Cancelled).await;
    eventually("the agent is told", async || world.communication.cancelled(&cancelled) == 1).await;
    assert_eq!(reason(node.executions.clone().cancel_execution(cancel).await), "execution_ended");
    world.communication.let_go(true);
    eventually("a is done", async || node.kinds(&paused, "step_completed").await == 1).await;
    assert_eq!(node.get(&paused).await.status(), ExecutionStatus::Paused);
    assert_eq!(world.communication.dispatched(&format!("{paused}/b")), 0);
    let resume = ResumeExecutionRequest { execution_id: paused.clone(), ..ResumeExecutionRequest::default() };
    node.executions.clone().resume_execution(resume).await.unwrap();
    node.ends_as(&paused, ExecutionStatus::Completed).await;
    node.stop().await;
}

#[tokio::test]
async fn a_failed_execution_is_retried_from_its_failed_step_also_after_a_restart() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node
        .chain(
            json!([{"id": "a", "agent_type": "x", "action": "echo"}, {"id": "b", "agent_type": "x", "action": "fail"}]),
        )
        .await;
    let id = node.run(&workflow).await.id;
    node.kill().await;
    let node = world.start().await;
    let retry = RetryExecutionRequest { execution_id: id.clone(), ..RetryExecutionRequest::default() };
    node.executions.clone().retry_execution(retry).await.unwrap();
    node.ends_as(&id, ExecutionStatus::Failed).await;
    eventually("b ran again", async || world.communication.dispatched(&format!("{id}/b")) == 2).await;
    assert_eq!(world.communication.dispatched(&format!("{id}/a")), 1);
    assert_eq!(node.faults(&id).await, Vec::<String>::new());
    node.stop().await;
}

#[tokio::test]
async fn a_decision_waits_for_its_voters() {
    let world = World::new();
    let node = world.start().await;
    let decision = json!({"question": "which?", "options": ["x", "y"], "voters": {"capability": "judge", "count": 3},
                          "strategy": "majority", "quorum": 2});
    let workflow = node.chain(json!([{"id": "vote", "decision": decision}])).await;
    let id = node.begin(&workflow).await;
    assert_eq!(node.get(&id).await.steps[0].state(), StepState::WaitingForAgent);
    *world.registry.live.lock().unwrap() = 2;
    let ended = node.ends_as(&id, ExecutionStatus::Completed).await;
    let output: serde_json::Value = serde_json::from_slice(&ended.output).unwrap();
    assert_eq!((&output["vote"]["winner"], &output["vote"]["votes"]), (&json!("x"), &json!(2)));
    node.stop().await;
}

#[tokio::test]
async fn a_task_without_an_agent_shows_as_waiting_for_one() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node.chain(json!([{"id": "a", "agent_type": "x", "action": "nobody"}])).await;
    let id = node.begin(&workflow).await;
    let is_shown = async || node.get(&id).await.steps[0].state() == StepState::WaitingForAgent;
    eventually("it shows", is_shown).await;
    assert_eq!(node.liveness().await, (1, 0));
    node.stop().await;
}

#[tokio::test]
async fn a_watcher_sees_the_log_and_what_follows_and_the_end() {
    let world = World::new();
    let node = world.start().await;
    let workflow = node.chain(json!([{"id": "a", "agent_type": "x", "action": "hold"}])).await;
    let id = node.begin(&workflow).await;
    let request = WatchEventsRequest { execution_id: id.clone(), ..WatchEventsRequest::default() };
    let mut events = node.executions.clone().watch_events(request).await.unwrap().into_inner();
    let mut seen = vec![events.next().await.unwrap().unwrap().event.unwrap()];
    world.communication.let_go(true);
    let rest = async {
        while let Some(event) = events.next().await {
            seen.push(event.unwrap().event.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), rest).await.unwrap();
    assert_eq!(seen, node.events(&id).await);
    assert_eq!(seen.last().unwrap().r#type, "completed");
    node.stop().await;
}
