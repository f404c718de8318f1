//! Locks that executions share: global mutexes and turns by `concurrency_key`. Alone on a file, and as two replicas on PostgreSQL.

use contracts::orchestrator::v1::{ExecutionStatus, ExplainExecutionRequest, ListExecutionsRequest, Wait};
use serde_json::{Value, json};
use settings::Database;

use crate::world::{World, eventually};

testkit::conformance! {
    a_global_mutex_is_given_to_one_after_the_other_in_their_order
    so_many_executions_of_a_key_run_at_once_and_the_others_see_their_place
    a_lock_is_kept_through_a_crash_and_given_back_by_those_that_ended_in_it
    who_gives_up_gives_up_its_place_and_a_retry_takes_a_new_one
}

fn mutex(name: &str) -> Value {
    json!({ "name": name, "steps": [
        { "id": "work", "mutex": { "name": "${{ input.of }}", "scope": "global" }, "signal": { "name": "go" } },
    ] })
}

impl World {
    /// What an execution waits for first.
    async fn wait(&self, id: &str) -> Option<Wait> {
        let request = ExplainExecutionRequest { execution_id: id.to_owned(), ..ExplainExecutionRequest::default() };
        let explained = self.executions().explain_execution(request).await.ok()?.into_inner();
        explained.waits.into_iter().next()
    }

    pub(crate) async fn waits_for(&self, id: &str, kind: &str, text: &str) {
        eventually(&format!("{kind} {text}"), async || {
            let wait = self.wait(id).await?;
            (wait.kind == kind && wait.text.contains(text)).then_some(())
        })
        .await;
    }
}

async fn a_global_mutex_is_given_to_one_after_the_other_in_their_order(place: Database) {
    let world = World::on(&place).await;
    let workflows = [world.define(&mutex("one")).await, world.define(&mutex("other")).await];
    let input = json!({ "of": "the printer" });
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(world.begin(&workflows[number % 2], &input).await.id);
        match number {
            0 => world.waits_for(&ids[0], "signal", "go").await,
            later => world.waits_for(&ids[later], "lock", &format!("; {} are before it", later - 1)).await,
        }
    }
    // Another name is another lock.
    let free = world.begin(&workflows[0], &json!({ "of": "the scanner" })).await.id;
    world.waits_for(&free, "signal", "go").await;
    for (number, id) in ids.iter().enumerate() {
        world.waits_for(id, "signal", "go").await;
        for later in &ids[number + 1..] {
            assert_eq!(world.wait(later).await.unwrap().kind, "lock", "{id} has it");
        }
        world.go(id, &json!(null)).await;
        world.until(id, ExecutionStatus::Completed).await;
    }
    world.holds(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

fn keyed(name: &str, limit: u32) -> Value {
    json!({ "name": name, "steps": [{ "id": "work", "signal": { "name": "go" } }],
            "config": { "concurrency_key": "${{ input.customer }}", "concurrency_limit": limit } })
}

async fn so_many_executions_of_a_key_run_at_once_and_the_others_see_their_place(place: Database) {
    let world = World::on(&place).await;
    let workflow = world.define(&keyed("keyed", 2)).await;
    let input = json!({ "customer": "ada" });
    let mut ids = Vec::new();
    for number in 0..5_u32 {
        let id = world.begin(&workflow, &input).await.id;
        match number.checked_sub(2) {
            None => drop(world.until(&id, ExecutionStatus::Running).await),
            Some(before) => {
                world.waits_for(&id, "turn", &format!("; {before} are before it")).await;
                let queued = world.until(&id, ExecutionStatus::Queued).await;
                assert_eq!(queued.queued_before, Some(before));
            }
        }
        ids.push(id);
    }
    let request =
        ListExecutionsRequest { statuses: vec![ExecutionStatus::Queued.into()], ..ListExecutionsRequest::default() };
    let queued = world.executions().list_executions(request).await.unwrap().into_inner().executions;
    assert_eq!(queued.len(), 3);
    // Another key is another line.
    let other = world.begin(&workflow, &json!({ "customer": "grace" })).await.id;
    world.until(&other, ExecutionStatus::Running).await;
    for (number, id) in ids.iter().enumerate() {
        world.until(id, ExecutionStatus::Running).await;
        for later in ids.iter().skip(number + 2) {
            assert_eq!(world.get(later).await.status(), ExecutionStatus::Queued);
        }
        world.go(id, &json!(null)).await;
        world.until(id, ExecutionStatus::Completed).await;
    }
    world.holds(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

async fn a_lock_is_kept_through_a_crash_and_given_back_by_those_that_ended_in_it(place: Database) {
    let world = World::on(&place).await;
    let workflow = world.define(&mutex("one")).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        let id = world.begin(&workflow, &json!({ "of": "the printer" })).await.id;
        match number {
            0 => world.waits_for(&id, "signal", "go").await,
            // It has its place in the queue.
            later => world.waits_for(&id, "lock", &format!("; {} are before it", later - 1)).await,
        }
        ids.push(id);
    }
    // It ends as the process does, and may not have given its lock back.
    world.go(&ids[0], &json!(null)).await;
    let world = world.crash_and_start().await;
    for (number, id) in ids.iter().enumerate().skip(1) {
        world.waits_for(id, "signal", "go").await;
        for later in &ids[number + 1..] {
            assert_eq!(world.wait(later).await.unwrap().kind, "lock", "{id} has it");
        }
        world.go(id, &json!(null)).await;
        world.until(id, ExecutionStatus::Completed).await;
    }
    world.holds(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

async fn who_gives_up_gives_up_its_place_and_a_retry_takes_a_new_one(place: Database) {
    let world = World::on(&place).await;
    let failing = json!({ "name": "failing", "steps": [
        { "id": "work", "signal": { "name": "go" } },
        { "id": "end", "depends_on": ["work"], "when": "steps.work.output == 'fail'",
          "end": { "status": "failed", "error": { "code": "asked_for", "message": "as asked" } } },
    ], "config": { "concurrency_key": "one" } });
    let workflow = world.define(&failing).await;
    let mut ids = Vec::new();
    for number in 0..3 {
        let id = world.begin(&workflow, &json!({})).await.id;
        match number {
            0 => world.waits_for(&id, "signal", "go").await,
            later => world.waits_for(&id, "turn", &format!("; {} are before it", later - 1)).await,
        }
        ids.push(id);
    }
    world.cancel(&ids[1]).await;
    world.until(&ids[1], ExecutionStatus::Cancelled).await;
    world.waits_for(&ids[2], "turn", "; 0 are before it").await;
    world.go(&ids[0], &json!("fail")).await;
    world.until(&ids[0], ExecutionStatus::Failed).await;
    world.waits_for(&ids[2], "signal", "go").await;
    let retry =
        contracts::orchestrator::v1::RetryExecutionRequest { execution_id: ids[0].clone(), ..Default::default() };
    world.executions().retry_execution(retry).await.unwrap();
    world.waits_for(&ids[0], "turn", "; 0 are before it").await;
    world.go(&ids[2], &json!(null)).await;
    world.until(&ids[2], ExecutionStatus::Completed).await;
    // It is at work again, and ends as before.
    world.until(&ids[0], ExecutionStatus::Failed).await;
    world.holds(&[&ids[0], &ids[2]]).await;
}
