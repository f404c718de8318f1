//! Each invariant broken once: production sees it, and counts it by its name.

use domain::{ExecutionId, Namespace, Payload, SignalId};
use serde_json::json;
use tokio::sync::oneshot;
use workflow::{Command, Event, Execution, Invariant, Recorded};

use super::{
    bench::{commit, shared, worker},
    worker::Worker,
};
use crate::{
    app::{Loaded, load},
    store::{Append, NewEvent},
};

/// A worker with an execution that has a task out, another that waits for its slot, and waits for a signal.
async fn begin(directory: &tempfile::TempDir) -> (Worker, ExecutionId) {
    let definition = json!({ "name": "waits", "config": { "max_parallel": 1 }, "steps": [
        { "id": "task", "agent_type": "x" },
        { "id": "queued", "agent_type": "x" },
        { "id": "wait", "signal": { "name": "go" } },
    ] });
    worker(&shared(directory.path()).await, &definition).await
}

/// What was counted since the start.
fn counted(worker: &Worker) -> Vec<Invariant> {
    let violations = &worker.shared.violations;
    Invariant::ALL.into_iter().filter(|invariant| violations.count(*invariant) > 0).collect()
}

/// Something happens to an execution that nobody decided.
fn slip(worker: &mut Worker, id: ExecutionId, event: Event) {
    let at = worker.shared.now();
    let execution = &mut worker.live.get_mut(&id).unwrap().execution;
    let sequence = execution.last_sequence();
    execution.apply(&Recorded { sequence, at, event });
}

#[tokio::test]
async fn a_sound_execution_breaks_none() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, id) = begin(&directory).await;
    worker.get(id, Namespace::default(), true, oneshot::channel().0);
    worker.decide(id, Command::Pause).unwrap();
    commit(&mut worker).await;
    worker.sweep(None);
    worker.decide(id, Command::Cancel { reason: "over".to_owned() }).unwrap();
    commit(&mut worker).await;
    assert!(worker.ended.contains_key(&id));
    assert_eq!(counted(&worker), []);
}

#[tokio::test]
async fn an_answer_before_the_commit_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, id) = begin(&directory).await;
    worker.live.get_mut(&id).unwrap().committed -= 1;
    worker.get(id, Namespace::default(), true, oneshot::channel().0);
    assert_eq!(counted(&worker), [Invariant::I1]);
}

#[tokio::test]
async fn a_commit_that_does_not_continue_the_log_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, id) = begin(&directory).await;
    worker.live.get_mut(&id).unwrap().committed -= 1;
    worker.decide(id, Command::Pause).unwrap();
    commit(&mut worker).await;
    assert_eq!(counted(&worker), [Invariant::I2]);
}

#[tokio::test]
async fn a_state_that_is_not_sound_is_counted_at_a_sweep() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, id) = begin(&directory).await;
    let out = worker.live[&id].execution.tasks_out()[0];
    let second = workflow::TaskKey { unit: workflow::Unit { step: 1, ..out.unit }, ..out };
    slip(&mut worker, id, Event::StepScheduled { task: second, input: None });
    worker.sweep(None);
    // More are out than may be; and nobody has dispatched the second, which the sweep mends.
    assert_eq!(counted(&worker), [Invariant::I3, Invariant::I7]);
}

#[tokio::test]
async fn what_is_taken_over_and_owes_nothing_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, id) = begin(&directory).await;
    let compiled = worker.remove(id).unwrap().compiled;
    let execution = Execution::new(compiled.plan.clone());
    worker.adopt(id, Loaded { execution, hash: [0; 32], breach: None, compiled });
    assert_eq!(counted(&worker), [Invariant::I4]);
}

#[tokio::test]
async fn an_event_that_was_changed_is_counted_when_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, id) = begin(&directory).await;
    let live = worker.remove(id).unwrap();
    let shared = worker.shared.clone();
    shared.store.make_shards(1).await.unwrap();
    let held = shared.store.claim(&shared.owner, 1, shared.settings.lease, true).await.unwrap();
    let accepted = Event::Accepted {
        execution_id: id,
        namespace: Namespace::default(),
        workflow_id: live.compiled.workflow_id,
        workflow_name: "waits".to_owned(),
        workflow_version: 1,
        input: Payload::null(),
        traceparent: String::new(),
        parent: None,
        deadline: None,
    };
    let event = NewEvent { execution: id, sequence: 1, at: shared.now(), data: accepted.encode(), hash: [7; 32] };
    let append = Append {
        events: vec![event],
        summaries: vec![live.summary()],
        claims: held.iter().map(|held| (held.shard, held.epoch)).collect(),
    };
    shared.store.append(&shared.owner, &append).await.unwrap();
    let loaded = load(shared.store.as_ref(), &shared.plans, id).await.unwrap().unwrap();
    worker.adopt(id, loaded);
    assert!(counted(&worker).contains(&Invariant::I6));
}

#[tokio::test]
async fn an_end_that_leaves_something_at_work_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, id) = begin(&directory).await;
    let signal = Command::Signal {
        id: SignalId::from_parts(1, 1),
        name: "go".to_owned(),
        payload: Payload::null(),
        sender: String::new(),
    };
    worker.decide(id, signal).unwrap();
    slip(&mut worker, id, Event::Completed { output: Payload::null() });
    commit(&mut worker).await;
    assert_eq!(counted(&worker), [Invariant::I8]);
}
