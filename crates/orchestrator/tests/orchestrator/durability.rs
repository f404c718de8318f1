//! What was accepted is not lost, happens once, and is written by one replica.

use std::time::Duration;

use contracts::orchestrator::v1::{ExecutionStatus, StartExecutionRequest, StepState, WatchEventsRequest};
use futures::StreamExt as _;
use serde_json::json;

use crate::world::{World, chain, new_id, reason, start_of};

const WAIT: prost_types::Duration = prost_types::Duration { seconds: 60, nanos: 0 };

#[tokio::test]
async fn a_chain_runs_to_its_end_and_its_log_holds() {
    let world = World::start().await;
    world.communication.echo();
    let workflow = world.define(&chain("chain", &["a", "b", "c"])).await;
    let request = StartExecutionRequest { input: r#"{"n": 1}"#.into(), wait: Some(WAIT), ..start_of(&workflow) };
    let ended = world.run(request).await;
    assert_eq!(ended.status(), ExecutionStatus::Completed);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&ended.output).unwrap(), json!({ "n": 1 }));
    assert_eq!(ended.step_counts.unwrap().completed, 3);
    let expected = ["a", "b", "c"].map(|step| format!("{}/{step}/1", ended.id));
    assert_eq!(world.communication.task_ids(), expected);

    let verified = world.verify(&ended.id).await;
    assert_eq!((verified.events, verified.faults), (ended.last_sequence, Vec::new()));
    let shown = world.get(&ended.id).await;
    assert_eq!(shown.steps.len(), 3);
    let world = world.stop_and_start().await;
    assert_eq!(world.get(&ended.id).await, shown, "an ended execution reads the same from its log");
    let liveness = world.liveness().await;
    assert_eq!((liveness.live, liveness.stuck, liveness.repaired), (0, 0, 0));
}

#[tokio::test]
async fn many_executions_at_once_all_end() {
    const COUNT: usize = 200;
    let world = World::start().await;
    world.communication.echo();
    let workflow = world.define(&chain("chain", &["a", "b", "c"])).await;
    let runs = (0..COUNT).map(|_| async {
        let request = StartExecutionRequest { wait: Some(WAIT), ..start_of(&workflow) };
        world.run(request).await
    });
    let ended = futures::future::join_all(runs).await;
    assert!(ended.iter().all(|execution| execution.status() == ExecutionStatus::Completed));
    assert_eq!(world.communication.task_ids().len(), COUNT * 3);
    for execution in ended.iter().step_by(20) {
        assert_eq!(world.verify(&execution.id).await.faults, [""; 0]);
    }
}

#[tokio::test]
async fn a_start_with_a_chosen_id_happens_once() {
    let world = World::start().await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let request = StartExecutionRequest { execution_id: new_id(), ..start_of(&workflow) };
    let both = futures::future::join_all((0..2).map(|_| world.run(request.clone()))).await;
    assert_eq!(both[0].created_at, both[1].created_at);
    let task = world.communication.dispatched(1).await;
    world.communication.complete(&task, "7");
    world.until(&request.execution_id, ExecutionStatus::Completed).await;
    let world = world.stop_and_start().await;
    let again = world.run(request.clone()).await;
    assert_eq!((again.status(), &again.created_at), (ExecutionStatus::Completed, &both[0].created_at));
    assert_eq!(world.communication.task_ids().len(), 1);

    let elsewhere = StartExecutionRequest { namespace: "other".to_owned(), ..request };
    assert_eq!(reason(world.executions().start_execution(elsewhere).await), "id_taken");
}

#[tokio::test]
async fn whoever_waits_or_watches_does_not_hold_up_a_drain() {
    let world = World::start().await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let watched = world.begin(&workflow, &json!({})).await;
    let watch = WatchEventsRequest { execution_id: watched.id.clone(), ..WatchEventsRequest::default() };
    let events = world.executions().watch_events(watch).await.unwrap().into_inner();
    // One that this call starts, and one that was started before.
    let fresh = StartExecutionRequest { execution_id: new_id(), wait: Some(WAIT), ..start_of(&workflow) };
    let again = StartExecutionRequest { execution_id: watched.id.clone(), ..fresh.clone() };
    let drain = async {
        let tasks = [world.communication.dispatched(1).await, world.communication.dispatched(2).await];
        world.replica().drain_edge();
        tasks
    };
    let (tasks, fresh, again, events) = tokio::join!(drain, world.run(fresh), world.run(again), events.count());
    assert_eq!((fresh.status(), again.status()), (ExecutionStatus::Running, ExecutionStatus::Running));
    assert!(events >= 2, "{events}");
    // What is behind the edge works on until it drains too.
    for task in &tasks {
        world.communication.complete(task, "1");
    }
    world.until(&fresh.id, ExecutionStatus::Completed).await;
}

#[tokio::test]
async fn after_a_crash_everything_goes_on_from_its_last_event() {
    let world = World::start().await;
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let execution = world.begin(&workflow, &json!({ "n": 2 })).await;
    let first = world.communication.dispatched(1).await;
    world.communication.complete(&first, "1");
    let second = world.communication.dispatched(2).await;
    let before = world.get(&execution.id).await;
    let world = world.crash_and_start().await;
    let again = world.communication.dispatched(3).await;
    assert_eq!(again, second, "the same task under the same id");
    assert_eq!(world.get(&execution.id).await.last_sequence, before.last_sequence);
    assert_eq!(world.liveness().await.live, 1);
    world.communication.complete(&again, "2");
    let ended = world.until(&execution.id, ExecutionStatus::Completed).await;
    assert_eq!(&ended.output[..], b"2");
    assert_eq!(world.verify(&execution.id).await.faults, [""; 0]);
}

#[tokio::test]
async fn a_replica_that_lost_its_shards_writes_nothing() {
    let world = World::with(|settings| settings.lease = Duration::from_secs(3)).await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let kept = world.begin(&workflow, &json!({})).await;
    let second = world.second().await;
    let refused = StartExecutionRequest { execution_id: new_id(), ..start_of(&workflow) };
    assert_eq!(reason(world.executions().start_execution(refused.clone()).await), "not_committed");
    // A result that the old replica hears is not acknowledged, and not in the log.
    let task = world.communication.dispatched(1).await;
    world.communication.complete(&task, "1");
    assert_eq!(world.replica().ends().await.task, "shard keeper");
    assert_eq!(world.communication.heard().acknowledged, [""; 0]);

    let get = |id: &str| contracts::orchestrator::v1::GetExecutionRequest {
        execution_id: id.to_owned(),
        ..Default::default()
    };
    let found = second.executions().get_execution(get(&kept.id)).await.unwrap().into_inner().execution.unwrap();
    assert_eq!((found.status(), found.last_sequence), (ExecutionStatus::Running, kept.last_sequence));
    let missing = second.executions().get_execution(get(&refused.execution_id)).await;
    assert_eq!(reason(missing), "execution_not_found");
    second.stop().await;
}

#[tokio::test]
async fn a_commit_that_fails_is_told_and_nothing_of_it_remains() {
    let world = World::start().await;
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let execution = world.begin(&workflow, &json!({})).await;
    let task = world.communication.dispatched(1).await;
    world.sql("CREATE TRIGGER broken BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'broken'); END").await;
    assert_eq!(reason(world.executions().start_execution(start_of(&workflow)).await), "not_committed");
    world.communication.complete(&task, "1");
    // The state is read back, and what is out is dispatched again.
    world.communication.dispatched(2).await;
    assert_eq!(world.get(&execution.id).await.last_sequence, execution.last_sequence);
    world.sql("DROP TRIGGER broken").await;
    world.communication.complete(&task, "1");
    world.communication.acknowledged(&task.id, 1).await;
    let next = world.communication.dispatched(3).await;
    world.communication.complete(&next, "2");
    world.until(&execution.id, ExecutionStatus::Completed).await;
    assert_eq!(world.verify(&execution.id).await.faults, [""; 0]);
    assert_eq!(world.liveness().await.live, 0);
}

#[tokio::test]
async fn whoever_waits_for_an_end_at_a_stop_hears_that_the_start_is_recorded() {
    let world = World::start().await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let request = StartExecutionRequest { wait: Some(WAIT), ..start_of(&workflow) };
    let stop = async {
        let task = world.communication.dispatched(1).await;
        world.replica().drain();
        task
    };
    let (running, task) = futures::join!(world.run(request), stop);
    assert_eq!((running.status(), &running.id), (ExecutionStatus::Running, &task.execution_id));
    assert_eq!(reason(world.executions().start_execution(start_of(&workflow)).await), "stopping");
    let world = world.stop_and_start().await;
    world.communication.complete(&world.communication.dispatched(2).await, "1");
    world.until(&running.id, ExecutionStatus::Completed).await;
}

/// What the database refuses of one execution holds no other up, and goes on when the database takes it.
#[tokio::test]
async fn events_that_the_database_refuses_hold_nobody_else_up() {
    const COUNT: usize = 100;
    let world = World::start().await;
    world.communication.echo();
    let healthy = world.define(&chain("chain", &["a", "b", "c"])).await;
    let poisoned = json!({"name": "bad", "steps": [
        {"id": "s", "sleep": "200ms"},
        {"id": "p", "signal": {"name": "poison"}, "depends_on": ["s"]},
    ]});
    let poisoned = world.define(&poisoned).await;
    world
        .sql(
            "CREATE TRIGGER broken BEFORE INSERT ON journal WHEN instr(NEW.data, CAST('poison' AS BLOB)) > 0 \
             BEGIN SELECT RAISE(ABORT, 'broken'); END",
        )
        .await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.begin(&poisoned, &json!({})).await.id);
    }
    let runs = (0..COUNT).map(|_| async {
        let mut last = None;
        for _ in 0..5 {
            let request = StartExecutionRequest { wait: Some(WAIT), ..start_of(&healthy) };
            last = Some(world.run(request).await.status());
        }
        last
    });
    let ended = futures::future::join_all(runs).await;
    assert!(ended.into_iter().all(|status| status == Some(ExecutionStatus::Completed)));

    world.sql("DROP TRIGGER broken").await;
    for id in ids {
        world.until_step(&id, "p", StepState::Waiting).await;
        assert_eq!(world.verify(&id).await.faults, [""; 0]);
    }
    assert_eq!(world.liveness().await.repaired, 0);
}

/// It may have ended and be out of memory between the look at the database and the start.
#[tokio::test]
async fn a_chosen_id_that_races_with_its_own_end_happens_once() {
    let world = World::with(|settings| settings.ended_kept = 0).await;
    world.communication.echo();
    let workflow = world.define(&chain("one", &["a"])).await;
    for _ in 0..20 {
        let ids: Vec<_> = (0..16).map(|_| new_id()).collect();
        let runs = ids.iter().chain(&ids).chain(&ids).map(|id| {
            let request = StartExecutionRequest { execution_id: id.clone(), ..start_of(&workflow) };
            async { world.run(request).await }
        });
        futures::future::join_all(runs).await;
    }
    assert_eq!(world.communication.task_ids().len(), 20 * 16);
}

/// One that goes on all the time is not faulty for it.
#[tokio::test]
async fn an_execution_can_be_verified_while_it_goes_on() {
    let world = World::start().await;
    world.communication.echo();
    let names: Vec<String> = (0..1_000).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let workflow = world.define(&chain("long", &names)).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let mut verified = 0;
    while world.get(&id).await.ended_at.is_none() {
        assert_eq!(world.verify(&id).await.faults, [""; 0]);
        verified += 1;
    }
    assert!(verified > 0);
}

#[tokio::test]
async fn a_log_that_is_damaged_keeps_nobody_else_from_starting() {
    let world = World::start().await;
    let workflow = world.define(&chain("one", &["a"])).await;
    let (damaged, whole) = (world.begin(&workflow, &json!({})).await.id, world.begin(&workflow, &json!({})).await.id);
    for id in [&damaged, &whole] {
        // Who reads has it in its place.
        assert_eq!(world.verify(id).await.faults, [""; 0]);
    }
    world
        .sql(
            "UPDATE execution_events SET data = substr(data, 1, length(data) - 1) \
             WHERE execution_id = (SELECT min(execution_id) FROM execution_events)",
        )
        .await;
    let world = world.crash_and_start().await;
    assert_eq!(world.verify(&damaged).await.faults.len(), 1);
    assert_eq!(world.verify(&whole).await.faults, [""; 0]);
    assert_eq!(world.get(&whole).await.status(), ExecutionStatus::Running);
}
