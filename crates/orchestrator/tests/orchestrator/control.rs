//! What callers can do to an execution.

use contracts::orchestrator::v1::{
    CancelExecutionRequest, ExecutionStatus, PauseExecutionRequest, ResumeExecutionRequest, RetryExecutionRequest,
    SignalExecutionRequest, StartExecutionRequest, StepState,
};
use domain::{SignalId, SystemClock};
use serde_json::json;

use crate::world::{World, chain, new_id, reason, start_of};

fn cancel(id: &str) -> CancelExecutionRequest {
    CancelExecutionRequest {
        execution_id: id.to_owned(),
        reason: "no use".to_owned(),
        ..CancelExecutionRequest::default()
    }
}

fn pause(id: &str) -> PauseExecutionRequest {
    PauseExecutionRequest { execution_id: id.to_owned(), ..PauseExecutionRequest::default() }
}

fn resume(id: &str) -> ResumeExecutionRequest {
    ResumeExecutionRequest { execution_id: id.to_owned(), ..ResumeExecutionRequest::default() }
}

fn retry(id: &str) -> RetryExecutionRequest {
    RetryExecutionRequest { execution_id: id.to_owned(), ..RetryExecutionRequest::default() }
}

fn signal(id: &str, name: &str) -> SignalExecutionRequest {
    SignalExecutionRequest {
        execution_id: id.to_owned(),
        name: name.to_owned(),
        payload: r#"{"by": "ada"}"#.into(),
        ..SignalExecutionRequest::default()
    }
}

#[tokio::test]
async fn a_cancel_withdraws_what_is_out_and_can_be_repeated_until_the_end() {
    let world = World::start().await;
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let task = world.communication.dispatched(1).await;
    let cancelled = world.executions().cancel_execution(cancel(&id)).await.unwrap().into_inner().execution.unwrap();
    assert_eq!(cancelled.status(), ExecutionStatus::Cancelled);
    assert_eq!(cancelled.failure.unwrap().message, "no use");
    world.communication.cancelled(&task.id).await;
    assert_eq!(world.get(&id).await.steps[0].state(), StepState::Cancelled);
    for refused in [
        reason(world.executions().pause_execution(pause(&id)).await),
        reason(world.executions().resume_execution(resume(&id)).await),
    ] {
        assert_eq!(refused, "execution_ended");
    }
    assert_eq!(reason(world.executions().retry_execution(retry(&id)).await), "execution_not_failed");
    assert_eq!(reason(world.executions().cancel_execution(cancel(&new_id())).await), "execution_not_found");
}

#[tokio::test]
async fn a_pause_lets_what_runs_finish_and_starts_nothing() {
    let world = World::start().await;
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let task = world.communication.dispatched(1).await;
    for _ in 0..2 {
        let paused = world.executions().pause_execution(pause(&id)).await.unwrap().into_inner().execution.unwrap();
        assert_eq!(paused.status(), ExecutionStatus::Paused);
    }
    world.communication.complete(&task, "1");
    world.until_step(&id, "a", StepState::Completed).await;
    let world = world.crash_and_start().await;
    assert_eq!(world.get(&id).await.status(), ExecutionStatus::Paused);
    assert_eq!(world.liveness().await.stuck, 0);
    assert_eq!(world.communication.task_ids().len(), 1);
    world.executions().resume_execution(resume(&id)).await.unwrap();
    world.communication.attached(2).await;
    let next = world.communication.dispatched(2).await;
    world.communication.complete(&next, "2");
    world.until(&id, ExecutionStatus::Completed).await;
}

#[tokio::test]
async fn a_failed_execution_goes_on_from_its_failed_step() {
    let world = World::with(|settings| settings.ended_kept = 0).await;
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let first = world.communication.dispatched(1).await;
    world.communication.complete(&first, "1");
    let second = world.communication.dispatched(2).await;
    world.communication.fail(&second, "broken", false);
    let failed = world.until(&id, ExecutionStatus::Failed).await;
    assert_eq!(failed.failure.unwrap().code, "broken");
    let retried = world.executions().retry_execution(retry(&id)).await.unwrap().into_inner().execution.unwrap();
    assert_eq!((retried.status(), retried.ended_at), (ExecutionStatus::Running, None));
    let again = world.communication.dispatched(3).await;
    assert_eq!(again.step_id, "b");
    assert_ne!(again.id, second.id, "a new attempt");
    assert_eq!(world.liveness().await.live, 1);
    world.communication.complete(&again, "2");
    world.until(&id, ExecutionStatus::Completed).await;
    assert_eq!(world.verify(&id).await.faults, [""; 0]);
}

#[tokio::test]
async fn a_signal_wakes_the_step_that_waits_for_it() {
    let world = World::start().await;
    let definition = json!({ "name": "approval", "output": "${{ steps.s.output }}",
                             "steps": [{ "id": "s", "signal": { "name": "approved" } }] });
    let workflow = world.define(&definition).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    world.until_step(&id, "s", StepState::Waiting).await;
    assert_eq!(reason(world.executions().signal_execution(signal(&id, "other")).await), "signal_unknown");
    let world = world.crash_and_start().await;
    let signal =
        SignalExecutionRequest { signal_id: SignalId::generate(&SystemClock).to_string(), ..signal(&id, "approved") };
    let woken = world.executions().signal_execution(signal).await.unwrap().into_inner().execution.unwrap();
    assert_eq!(woken.status(), ExecutionStatus::Completed);
    let output = world.get(&id).await.output;
    assert!(String::from_utf8_lossy(&output).contains("ada"), "{output:?}");
}

#[tokio::test]
async fn a_sleep_ends_by_itself_also_after_a_crash() {
    let world = World::start().await;
    let definition = json!({ "name": "nap", "steps": [{ "id": "s", "sleep": "300ms" }] });
    let workflow = world.define(&definition).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let world = world.crash_and_start().await;
    world.until(&id, ExecutionStatus::Completed).await;
    assert_eq!(world.event_types(&id).await, ["accepted", "sleep_started", "step_completed", "completed"]);
}

#[tokio::test]
async fn more_live_executions_than_allowed_are_refused() {
    let world = World::with(|settings| settings.max_executions = 1).await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let first = world.begin(&workflow, &json!({})).await;
    let error: errors::Error = world.executions().start_execution(start_of(&workflow)).await.unwrap_err().into();
    assert_eq!(error.reason, "too_many_executions");
    assert!(error.retry_after.is_some());
    world.executions().cancel_execution(cancel(&first.id)).await.unwrap();
    world.run(start_of(&workflow)).await;
}

#[tokio::test]
async fn a_wait_that_is_over_answers_with_how_it_stands() {
    let world = World::start().await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let wait = Some(prost_types::Duration { seconds: 0, nanos: 20_000_000 });
    let running = world.run(StartExecutionRequest { wait, ..start_of(&workflow) }).await;
    assert_eq!(running.status(), ExecutionStatus::Running);
}
