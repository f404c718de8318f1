//! What the orchestrator does itself for a step: child executions, and what is told to the outside. Alone on a file, and as two
//! replicas on PostgreSQL.

use std::sync::atomic::Ordering;

use contracts::orchestrator::v1::{
    CancelExecutionRequest, ExecutionStatus, RetryExecutionRequest, SignalExecutionRequest, StepState,
};
use serde_json::{Value, json};
use settings::Database;

use crate::world::{World, eventually};

testkit::conformance! {
    a_child_ends_and_its_parent_goes_on
    what_becomes_of_a_child_is_what_becomes_of_its_step
    a_cancel_reaches_the_children_and_theirs
    a_detached_child_outlives_its_parent
    a_recursion_has_an_end_or_is_ended
    children_and_parents_find_each_other_after_a_crash
    a_step_tells_agents_topics_and_executions
    what_cannot_be_told_fails_its_step_and_what_cannot_now_is_told_later
}

fn wait_for(name: &str) -> Value {
    json!({ "name": name, "steps": [{ "id": "wait", "signal": { "name": "go" } }], "output": "${{ steps.wait.output }}" })
}

fn parent_of(name: &str, child: &str, more: &Value) -> Value {
    let mut step = json!({ "id": "child", "workflow": { "name": child, "input": { "n": 1 } } });
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "name": name, "steps": [step], "output": "${{ steps.child.output }}" })
}

fn read(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

impl World {
    /// The child of a step, once it is there.
    async fn child(&self, id: &str, step: &str) -> String {
        eventually("a child", async || {
            let child = self.get(id).await.steps.into_iter().find(|run| run.step_id == step)?.child_id;
            let found = self.look(&child).await?;
            assert_eq!(found.parent.unwrap().execution_id, id);
            Some(child)
        })
        .await
    }

    pub(crate) async fn go(&self, id: &str, payload: &Value) {
        let request = SignalExecutionRequest {
            execution_id: id.to_owned(),
            name: "go".to_owned(),
            payload: payload.to_string().into(),
            ..SignalExecutionRequest::default()
        };
        self.executions().signal_execution(request).await.unwrap();
    }

    pub(crate) async fn cancel(&self, id: &str) {
        let request = CancelExecutionRequest {
            execution_id: id.to_owned(),
            reason: "no use".to_owned(),
            ..CancelExecutionRequest::default()
        };
        self.executions().cancel_execution(request).await.unwrap();
    }

    /// Every log holds, and no sweeper had anything to repair.
    pub(crate) async fn holds(&self, ids: &[&str]) {
        for id in ids {
            assert_eq!(self.verify(id).await.faults, [""; 0]);
        }
        let liveness = self.liveness().await;
        assert_eq!((liveness.stuck, liveness.repaired), (0, 0));
    }
}

async fn a_child_ends_and_its_parent_goes_on(place: Database) {
    let world = World::on(&place).await;
    world.define(&wait_for("inner")).await;
    let parent = world.define(&parent_of("outer", "inner", &json!({}))).await;
    // Enough that some have their child with another replica.
    for n in 0..8 {
        let id = world.begin(&parent, &json!({})).await.id;
        let child = world.child(&id, "child").await;
        assert_eq!(world.get(&id).await.steps[0].state(), StepState::Running);
        world.go(&child, &json!({ "answer": n })).await;
        let ended = world.until(&id, ExecutionStatus::Completed).await;
        assert_eq!(read(&ended.output), json!({ "answer": n }));
        assert_eq!(read(&world.get(&child).await.input), json!({ "n": 1 }));
        world.holds(&[&id, &child]).await;
    }
}

async fn what_becomes_of_a_child_is_what_becomes_of_its_step(place: Database) {
    let world = World::on(&place).await;
    let failing = json!({ "name": "inner", "steps": [
        { "id": "end", "end": { "status": "failed", "error": { "code": "too_late", "message": "it is over" } } },
    ] });
    world.define(&failing).await;
    world.define(&wait_for("waiting")).await;
    let parent = world.define(&parent_of("outer", "inner", &json!({}))).await;
    let failed = world.until(&world.begin(&parent, &json!({})).await.id, ExecutionStatus::Failed).await;
    let failure = failed.failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.step_id.as_str()), ("too_late", "child"));
    assert!(failure.message.contains(&failed.steps[0].child_id), "{}", failure.message);
    // Again from the failed step, with another child.
    let retry = RetryExecutionRequest { execution_id: failed.id.clone(), ..RetryExecutionRequest::default() };
    world.executions().retry_execution(retry).await.unwrap();
    let again = world.until(&failed.id, ExecutionStatus::Failed).await;
    assert_ne!(again.steps[0].child_id, failed.steps[0].child_id);

    let parent = world.define(&parent_of("patient", "waiting", &json!({}))).await;
    let id = world.begin(&parent, &json!({})).await.id;
    world.cancel(&world.child(&id, "child").await).await;
    let failed = world.until(&id, ExecutionStatus::Failed).await;
    assert_eq!(failed.failure.unwrap().code, "child_cancelled");

    let parent = world.define(&parent_of("lost", "nowhere", &json!({}))).await;
    let failed = world.until(&world.begin(&parent, &json!({})).await.id, ExecutionStatus::Failed).await;
    assert_eq!(failed.failure.unwrap().code, "workflow_not_found");
}

async fn a_cancel_reaches_the_children_and_theirs(place: Database) {
    let world = World::on(&place).await;
    world.define(&wait_for("inmost")).await;
    world.define(&parent_of("inner", "inmost", &json!({}))).await;
    let parent = world.define(&parent_of("outer", "inner", &json!({ "for_each": [1, 2, 3] }))).await;
    let id = world.begin(&parent, &json!({})).await.id;
    let children = eventually("three children", async || {
        let instances = world.get(&id).await.steps.remove(0).instances;
        let mut found = Vec::new();
        for instance in instances {
            found.push(world.look(&instance.child_id).await?.id);
        }
        (found.len() == 3).then_some(found)
    })
    .await;
    let grandchild = world.child(&children[0], "child").await;
    world.cancel(&id).await;
    for child in children.iter().chain([&grandchild]) {
        let cancelled = world.until(child, ExecutionStatus::Cancelled).await;
        assert!(!cancelled.failure.unwrap().message.is_empty());
    }
    world.holds(&[&id, &grandchild]).await;
}

async fn a_detached_child_outlives_its_parent(place: Database) {
    let world = World::on(&place).await;
    world.define(&wait_for("inner")).await;
    let parent = world.define(&parent_of("outer", "inner", &json!({ "detach": true }))).await;
    let ended = world.until(&world.begin(&parent, &json!({})).await.id, ExecutionStatus::Completed).await;
    let child = read(&ended.output)["execution_id"].as_str().unwrap().to_owned();
    let found = world.get(&child).await;
    assert_eq!(found.status(), ExecutionStatus::Running);
    assert!(found.parent.unwrap().detached);
    world.go(&child, &json!(1)).await;
    world.until(&child, ExecutionStatus::Completed).await;
}

async fn a_recursion_has_an_end_or_is_ended(place: Database) {
    let world = World::on(&place).await;
    let countdown = json!({ "name": "countdown", "output": "${{ [input.n] }}", "steps": [
        { "id": "next", "when": "input.n > 0", "workflow": { "name": "countdown", "input": { "n": "${{ input.n - 1 }}" } } },
    ] });
    let workflow = world.define(&countdown).await;
    let ended = world.until(&world.begin(&workflow, &json!({ "n": 5 })).await.id, ExecutionStatus::Completed).await;
    let mut deepest = world.get(&ended.id).await;
    while !deepest.steps[0].child_id.is_empty() {
        deepest = world.get(&deepest.steps[0].child_id).await;
    }
    assert_eq!(deepest.parent.unwrap().depth, 5);

    let endless = json!({ "name": "endless", "steps": [{ "id": "next", "workflow": { "name": "endless" } }] });
    let workflow = world.define(&endless).await;
    let failed = world.until(&world.begin(&workflow, &json!({})).await.id, ExecutionStatus::Failed).await;
    assert_eq!(failed.failure.unwrap().code, "nested_too_deep");
}

#[tokio::test]
async fn where_all_that_may_live_wait_for_children_those_are_started_all_the_same() {
    let world = World::with(|settings| settings.max_executions = 1).await;
    world.define(&wait_for("inmost")).await;
    world.define(&parent_of("inner", "inmost", &json!({}))).await;
    let id = world.begin(&world.define(&parent_of("outer", "inner", &json!({}))).await, &json!({})).await.id;
    let child = world.child(&id, "child").await;
    world.go(&world.child(&child, "child").await, &json!("deep")).await;
    assert_eq!(read(&world.until(&id, ExecutionStatus::Completed).await.output), json!("deep"));
}

async fn children_and_parents_find_each_other_after_a_crash(place: Database) {
    let world = World::on(&place).await;
    world.define(&wait_for("inner")).await;
    let parent = world.define(&parent_of("outer", "inner", &json!({}))).await;
    let mut pairs = Vec::new();
    for _ in 0..8 {
        let id = world.begin(&parent, &json!({})).await.id;
        let child = world.child(&id, "child").await;
        pairs.push((id, child));
    }
    // Some end as the process does: whoever was to be told may not have been.
    for (_, child) in &pairs[..4] {
        world.go(child, &json!("before")).await;
    }
    for (id, _) in &pairs[4..6] {
        world.cancel(id).await;
    }
    let world = world.crash_and_start().await;
    for (_, child) in &pairs[6..] {
        world.go(child, &json!("after")).await;
    }
    for (number, (id, child)) in pairs.iter().enumerate() {
        let expected = if (4..6).contains(&number) { ExecutionStatus::Cancelled } else { ExecutionStatus::Completed };
        world.until(child, expected).await;
        world.until(id, expected).await;
        world.holds(&[id, child]).await;
    }
}

fn telling(name: &str, emit: &Value) -> Value {
    json!({ "name": name, "steps": [{ "id": "tell", "emit": emit, "retry": { "max_attempts": 1 } }],
            "output": "${{ steps.tell.output }}" })
}

async fn a_step_tells_agents_topics_and_executions(place: Database) {
    let world = World::on(&place).await;
    let waiting = world.begin(&world.define(&wait_for("waiting")).await, &json!({})).await.id;
    let emits = [
        json!({ "agent_id": "agt_1", "payload": { "n": "${{ input.n }}" } }),
        json!({ "topic": "orders.created", "payload": 2 }),
        json!({ "execution": waiting, "signal": "go", "payload": "from afar" }),
    ];
    let mut outputs = Vec::new();
    for (number, emit) in emits.iter().enumerate() {
        let workflow = world.define(&telling(&format!("telling-{number}"), emit)).await;
        let id = world.begin(&workflow, &json!({ "n": 1 })).await.id;
        outputs.push(read(&world.until(&id, ExecutionStatus::Completed).await.output));
    }
    let mails = || [&world.communication].into_iter().chain(world.mates.iter().map(|mate| &mate.communication));
    let messages: Vec<_> = mails().flat_map(|replica| replica.mail.messages.lock().unwrap().clone()).collect();
    assert_eq!(messages.len(), 1);
    assert_eq!(outputs[0], json!({ "message_id": messages[0].0 }));
    assert_eq!(read(&messages[0].1.payload), json!({ "n": 1 }));
    let published: Vec<_> = mails().flat_map(|replica| replica.mail.published.lock().unwrap().clone()).collect();
    assert_eq!((published.len(), published[0].topic.as_str()), (1, "orders.created"));
    let ended = world.until(&waiting, ExecutionStatus::Completed).await;
    assert_eq!(read(&ended.output), json!("from afar"));
    assert!(outputs[2]["signal_id"].as_str().unwrap().starts_with("sig_"));
}

async fn what_cannot_be_told_fails_its_step_and_what_cannot_now_is_told_later(place: Database) {
    let world = World::on(&place).await;
    let refused = [
        (json!({ "agent_id": "nobody" }), "agent_not_found"),
        (json!({ "execution": "exe_01jx4q3nd8e5r0cawm6n8gs3kt", "signal": "go" }), "execution_not_found"),
        (json!({ "execution": "no id", "signal": "go" }), "request_invalid"),
    ];
    for (number, (emit, code)) in refused.iter().enumerate() {
        let workflow = world.define(&telling(&format!("refused-{number}"), emit)).await;
        let failed = world.until(&world.begin(&workflow, &json!({})).await.id, ExecutionStatus::Failed).await;
        assert_eq!(failed.failure.unwrap().code, *code);
    }
    let fill = |refusals: usize| {
        let replicas = [&world.communication].into_iter().chain(world.mates.iter().map(|mate| &mate.communication));
        replicas.for_each(|replica| replica.mail.full.store(refusals, Ordering::SeqCst));
    };
    fill(usize::MAX);
    let workflow = world.define(&telling("patient", &json!({ "agent_id": "agt_1" }))).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    world.waits_for(&id, "result", "so far in vain: for now").await;
    fill(0);
    world.until(&id, ExecutionStatus::Completed).await;
    world.holds(&[&id]).await;
}
