//! Executions that live for years: continued again and again, in bounded rows. Alone on a file, and as two replicas on PostgreSQL.

use std::time::Duration;

use contracts::orchestrator::v1::{ExecutionStatus, ExplainExecutionRequest, StepState};
use serde_json::{Value, json};
use settings::Database;

use crate::world::{World, eventually};

testkit::conformance! {
    an_execution_that_is_continued_keeps_its_turn_and_few_rows
    earlier_runs_stay_readable_until_their_retention_is_over
    a_history_that_is_too_long_ends_it
}

/// Begins anew until it has had so many runs, then waits.
fn rounds(runs: u32) -> Value {
    let input = json!({ "round": "${{ input.round + 1 }}" });
    json!({
        "name": "rounds",
        "steps": [
            { "id": "work", "agent_type": "worker", "input": "${{ input.round }}" },
            { "id": "again", "depends_on": ["work"], "when": format!("input.round < {runs}"),
              "end": { "status": "continued", "input": input } },
            { "id": "wait", "when": format!("input.round == {runs}"), "signal": { "name": "go" } },
        ],
        "output": "${{ input.round }}",
        "config": { "concurrency_key": "one", "concurrency_limit": 1 },
    })
}

impl World {
    async fn explained(&self, id: &str) -> String {
        let request = ExplainExecutionRequest { execution_id: id.to_owned(), ..ExplainExecutionRequest::default() };
        self.executions().explain_execution(request).await.unwrap().into_inner().summary
    }

    /// Numbers of all its events.
    async fn sequences(&self, id: &str) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            let request = contracts::orchestrator::v1::ListEventsRequest {
                execution_id: id.to_owned(),
                after_sequence: all.last().copied().unwrap_or_default(),
                page_size: 1_000,
                ..Default::default()
            };
            let page = self.executions().list_events(request).await.unwrap().into_inner();
            all.extend(page.events.iter().map(|event| event.sequence));
            if !page.has_more {
                return all;
            }
        }
    }
}

async fn an_execution_that_is_continued_keeps_its_turn_and_few_rows(place: Database) {
    let world = World::on_with(&place, |settings| settings.history_retention = Duration::ZERO).await;
    world.communication.echo();
    for mate in &world.mates {
        mate.communication.echo();
    }
    let workflow = world.define(&rounds(600)).await;
    let id = world.begin(&workflow, &json!({ "round": 1 })).await.id;
    let second = world.begin(&workflow, &json!({ "round": 600 })).await.id;
    world.until_step(&id, "wait", StepState::Waiting).await;
    let last = world.get(&id).await.last_sequence;
    assert!(last > 3_000, "{last}");
    // Some share a row with the first, and some with the present run.
    let left = eventually("earlier runs go", async || {
        let left = world.sequences(&id).await;
        (left.len() < 1_500).then_some(left)
    })
    .await;
    assert_eq!((left[0], *left.last().unwrap()), (1, last));
    assert_eq!(left.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count(), 1, "{left:?}");
    assert!(world.explained(&id).await.contains("It was continued at"), "{}", world.explained(&id).await);
    world.holds(&[&id]).await;

    let world = world.crash_and_start().await;
    eventually("it is served again", async || world.look(&id).await).await;
    let second_now = eventually("it is served again", async || world.look(&second).await).await;
    assert_eq!(second_now.status(), ExecutionStatus::Queued, "the first has its turn still");
    let again = world.sequences(&id).await;
    assert!(again.len() <= left.len() && again.last() == left.last(), "{again:?}");
    world.until_step(&id, "wait", StepState::Waiting).await;
    world.holds(&[&id, &second]).await;
    world.go(&id, &json!(null)).await;
    let ended = world.until(&id, ExecutionStatus::Completed).await;
    assert_eq!(&ended.output[..], b"600");
    world.until_step(&second, "wait", StepState::Waiting).await;
    world.holds(&[&id, &second]).await;
}

async fn earlier_runs_stay_readable_until_their_retention_is_over(place: Database) {
    let world = World::on(&place).await;
    world.communication.echo();
    for mate in &world.mates {
        mate.communication.echo();
    }
    let workflow = world.define(&rounds(300)).await;
    let id = world.begin(&workflow, &json!({ "round": 1 })).await.id;
    world.until_step(&id, "wait", StepState::Waiting).await;
    let last = world.get(&id).await.last_sequence;
    let world = world.crash_and_start().await;
    eventually("it is served again", async || world.look(&id).await).await;
    world.until_step(&id, "wait", StepState::Waiting).await;
    assert_eq!(world.sequences(&id).await, (1..=last).collect::<Vec<_>>());
    let verified = world.verify(&id).await;
    assert_eq!((verified.events, verified.faults), (last, Vec::new()));
    world.go(&id, &json!(null)).await;
    world.until(&id, ExecutionStatus::Completed).await;
    world.holds(&[&id]).await;
}

#[tokio::test]
async fn an_earlier_run_that_nobody_removed_is_missed() {
    let world = World::start().await;
    world.communication.echo();
    let workflow = world.define(&rounds(300)).await;
    let id = world.begin(&workflow, &json!({ "round": 1 })).await.id;
    world.until_step(&id, "wait", StepState::Waiting).await;
    assert_eq!(world.verify(&id).await.faults, [""; 0]);
    world
        .sql(
            "DELETE FROM execution_events WHERE sequence = \
               (SELECT min(sequence) FROM execution_events WHERE sequence > 1)",
        )
        .await;
    let faults = world.verify(&id).await.faults;
    assert!(faults.len() == 1 && faults[0].ends_with("is missing"), "{faults:?}");
}

async fn a_history_that_is_too_long_ends_it(place: Database) {
    let world = World::on_with(&place, |settings| settings.max_history = 1_000).await;
    world.communication.echo();
    for mate in &world.mates {
        mate.communication.echo();
    }
    let workflow = world
        .define(&json!({ "name": "endless", "steps": [
            { "id": "work", "agent_type": "worker", "input": 1, "loop": { "while": "true", "max_iterations": 10_000 } },
        ] }))
        .await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let ended = world.until(&id, ExecutionStatus::Failed).await;
    assert_eq!(ended.failure.unwrap().code, "history_too_long");
    assert!((1_000..1_010).contains(&ended.last_sequence), "{}", ended.last_sequence);
    world.holds(&[&id]).await;
}
