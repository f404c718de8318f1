//! Blocks, loops, children, locks and ends, and how they compose.

use super::*;
use crate::{Errand, ErrandKind, LockKind, Telling};

pub(super) fn block(steps: Value) -> Value {
    json!({ "steps": steps })
}

#[test]
fn a_block_is_tried_again_as_a_whole_after_its_work_is_undone() {
    let undo = json!({ "agent_type": "x", "action": "undo" });
    let mut stage = Stage::with(json!([{
        "id": "b",
        "retry": { "max_attempts": 2, "jitter": false },
        "block": block(json!([
            { "id": "pay", "agent_type": "x", "compensate": undo },
            { "id": "ship", "agent_type": "x", "depends_on": ["pay"] },
        ])),
    }]));
    stage.complete("pay@1/1");
    stage.fail("ship@1/1");
    assert_eq!(stage.out(), ["pay@1/undo/1"], "what completed in it is undone first");
    stage.complete("pay@1/undo/1");
    assert_eq!(stage.state("b"), StepState::Retrying);
    stage.wait(seconds(1));
    assert_eq!(stage.out(), ["pay@2/1"], "then it begins anew");
    stage.complete("pay@2/1");
    stage.complete("ship@2/1");
    assert_eq!((stage.status(), stage.output()), (Status::Completed, json!({ "b": { "ship": "ship@2/1" } })));
}

#[test]
fn what_completed_in_a_block_is_undone_when_the_execution_fails_later() {
    let undo = json!({ "agent_type": "x", "action": "undo" });
    let mut stage = Stage::with(json!([
        { "id": "a", "agent_type": "x", "compensate": undo },
        { "id": "b", "depends_on": ["a"], "block": block(json!([{ "id": "in", "agent_type": "x", "compensate": undo }])) },
        { "id": "c", "depends_on": ["b"], "agent_type": "x" },
    ]));
    stage.complete("a/1");
    stage.complete("in@1/1");
    stage.fail("c/1");
    assert_eq!(stage.out(), ["in@1/undo/1"]);
    stage.complete("in@1/undo/1");
    assert_eq!(stage.out(), ["a/undo/1"]);
    stage.complete("a/undo/1");
    assert_eq!(stage.status(), Status::Failed);
}

#[test]
fn the_undo_of_a_block_takes_the_place_of_those_in_it() {
    let undo = json!({ "agent_type": "x", "action": "undo" });
    let mut stage = Stage::with(json!([
        { "id": "b", "compensate": undo, "block": block(json!([{ "id": "in", "agent_type": "x", "compensate": undo }])) },
        { "id": "c", "depends_on": ["b"], "agent_type": "x" },
    ]));
    stage.complete("in@1/1");
    stage.fail("c/1");
    assert_eq!(stage.out(), ["b/undo/1"]);
    assert_eq!(stage.input("b/undo/1"), json!({ "input": null, "output": { "in": "in@1/1" } }));
}

#[test]
fn a_block_that_takes_too_long_fails_with_all_that_is_in_it() {
    let mut stage = Stage::with(json!([{
        "id": "b",
        "timeout": "5s",
        "on_failure": { "fallback": "late" },
        "block": block(json!([
            { "id": "in", "agent_type": "x" },
            { "id": "deep", "block": block(json!([{ "id": "deeper", "agent_type": "x" }])) },
        ])),
    }]));
    stage.wait(seconds(5));
    assert_eq!(stage.withdrawn(), ["in@1/1", "deeper@2/1"]);
    assert_eq!((stage.status(), stage.output()), (Status::Completed, json!({ "b": "late" })));
}

#[test]
fn a_loop_sees_its_iteration_and_what_came_of_the_last() {
    let mut stage = Stage::with(json!([{
        "id": "a",
        "agent_type": "x",
        "input": { "iteration": "${{ iteration }}", "last": "${{ last }}" },
        "loop": { "until": "last == 'enough'" },
    }]));
    assert_eq!(stage.input("a/1"), json!({ "iteration": 0, "last": null }));
    stage.end("a/1", Ok(json!("more")));
    assert_eq!(stage.input("a/2"), json!({ "iteration": 1, "last": "more" }));
    stage.end("a/2", Ok(json!("enough")));
    assert_eq!(stage.output(), json!({ "a": "enough" }));
}

#[test]
fn a_loop_that_does_not_end_fails() {
    let mut stage = Stage::with(json!([{
        "id": "a", "agent_type": "x", "loop": { "while": true, "max_iterations": 2 },
    }]));
    stage.complete("a/1");
    stage.complete("a/2");
    assert_eq!(stage.failure(), ("too_many_iterations", Some("a")));
}

#[test]
fn attempts_start_over_with_each_iteration_and_no_task_id_comes_twice() {
    let mut stage = Stage::with(json!([{
        "id": "a", "agent_type": "x", "loop": { "until": "iteration == 1" }, "retry": { "max_attempts": 2, "jitter": false },
    }]));
    let busy = || Err(Failure::retryable("busy", "later"));
    stage.end("a/1", busy());
    stage.wait(seconds(1));
    stage.complete("a/2");
    stage.end("a/3", busy());
    stage.wait(seconds(1));
    stage.complete("a/4");
    assert_eq!(stage.status(), Status::Completed);
}

#[test]
fn a_loop_in_a_block_in_a_for_each_knows_its_item() {
    let mut stage = Stage::of(
        json!({ "name": "w", "steps": [{
            "id": "each",
            "for_each": ["x", "y"],
            "block": block(json!([{
                "id": "in",
                "agent_type": "x",
                "loop": { "until": "iteration == 1" },
                "input": { "item": "${{ item }}", "index": "${{ index }}", "iteration": "${{ iteration }}" },
            }])),
        }] }),
        json!({}),
    );
    assert_eq!(stage.out(), ["in@1/1", "in@2/1"]);
    stage.complete("in@2/1");
    assert_eq!(stage.input("in@2/2"), json!({ "item": "y", "index": 1, "iteration": 1 }));
    for task in ["in@2/2", "in@1/1", "in@1/2"] {
        stage.complete(task);
    }
    assert_eq!(stage.output(), json!({ "each": [{ "in": "in@1/2" }, { "in": "in@2/2" }] }));
}

#[test]
fn frames_of_a_loop_that_are_over_are_forgotten() {
    let mut stage = Stage::with(json!([{
        "id": "a",
        "loop": { "until": "iteration == 999" },
        "block": block(json!([{ "id": "in", "agent_type": "x" }])),
    }]));
    for frame in 1..=1000 {
        stage.complete(&format!("in@{frame}/1"));
        assert!(stage.execution.state.frames.iter().count() <= 2);
    }
    assert_eq!(stage.status(), Status::Completed);
}

#[test]
fn for_each_goes_with_every_kind_of_work() {
    let mut stage = Stage::with(json!([
        { "id": "wait", "for_each": ["x", "y"], "signal": { "name": "go-${{ item }}" } },
        { "id": "nap", "for_each": [1, 2], "sleep": "1s", "max_parallel": 1 },
        { "id": "vote", "for_each": ["a", "b"], "decision": {
            "question": "${{ item }}?", "options": ["yes"], "voters": { "agents": [AgentId::from_parts(1, 1)] } } },
        { "id": "child", "for_each": [1, 2], "workflow": { "name": "other", "input": "${{ item }}" } },
        { "id": "tell", "for_each": ["p", "q"], "emit": { "topic": "t.${{ item }}", "payload": "${{ index }}" } },
    ]));
    stage.signal(1, "go-y", json!(2)).unwrap();
    stage.signal(2, "go-x", json!(1)).unwrap();
    stage.wait(seconds(1));
    stage.wait(seconds(1));
    for vote in stage.out() {
        stage.end(&vote, Ok(json!({ "choice": "yes" })));
    }
    let errands: Vec<_> = stage.execution.errands().filter_map(|task| stage.execution.errand(task)).collect();
    assert_eq!(errands.len(), 4);
    for errand in errands {
        if let ErrandKind::Tell { to: Telling::Topic(topic), payload, .. } = &errand.what {
            assert_eq!((topic == "t.q", payload.as_str() == "1"), (topic == "t.q", topic == "t.q"));
        }
        let outcome = Ok(Payload::from_value(&json!("told")));
        stage.say(Command::TaskEnded { task: errand.task, agent_id: None, begun_at: None, outcome });
    }
    assert_eq!(stage.status(), Status::Completed);
    assert_eq!(stage.output()["wait"], json!([1, 2]));
    assert_eq!(stage.output()["nap"], json!([null, null]));
    assert_eq!(stage.output()["vote"][1]["question"], json!("b?"));
}

#[test]
fn a_child_is_cancelled_with_its_step_unless_it_is_detached() {
    let start = |detach: bool| {
        Stage::with(
            json!([{ "id": "c", "detach": detach, "workflow": { "name": "other" } }, { "id": "a", "agent_type": "x" }]),
        )
    };
    let children =
        |stage: &Stage| stage.effects.iter().filter(|effect| matches!(effect, Effect::CancelChild { .. })).count();
    let mut bound = start(false);
    bound.say(Command::Cancel { reason: "enough".into() });
    assert_eq!((children(&bound), bound.status()), (1, Status::Cancelled));
    let mut detached = start(true);
    detached.say(Command::Cancel { reason: "enough".into() });
    assert_eq!((children(&detached), detached.status()), (0, Status::Cancelled));
}

#[test]
fn a_child_that_takes_too_long_is_cancelled_and_started_anew_under_another_id() {
    let mut stage = Stage::with(json!([{
        "id": "c", "timeout": "1m", "retry": { "max_attempts": 2, "jitter": false }, "workflow": { "name": "other" },
    }]));
    let child = |stage: &Stage| match stage
        .execution
        .errands()
        .next()
        .and_then(|task| stage.execution.errand(task))
        .map(|errand| errand.what)
    {
        Some(ErrandKind::Start { child, .. }) => Some(child),
        _ => None,
    };
    let first = child(&stage);
    stage.wait(seconds(60));
    let cancelled = stage.effects.iter().find_map(|effect| match effect {
        Effect::CancelChild { child, .. } => Some(*child),
        _ => None,
    });
    assert_eq!(cancelled, first);
    stage.wait(seconds(1));
    assert!(child(&stage).is_some_and(|second| Some(second) != first));
}

#[test]
fn a_global_mutex_is_asked_for_and_given_back() {
    let mut stage = Stage::with(json!([{ "id": "a", "agent_type": "x", "mutex": { "name": "m", "scope": "global" } }]));
    let Some(Effect::Acquire { holder, lock }) = stage.effects.first().cloned() else { panic!("nobody asked") };
    assert_eq!((lock.kind, lock.name.as_str(), lock.limit), (LockKind::Mutex, "m", 1));
    assert!(stage.execution.explain(&InHand(TaskPlace::Unknown)).summary.contains("2 are before it"));
    stage.say(Command::Granted { holder });
    stage.complete("a/1");
    assert!(matches!(stage.effects.last(), Some(Effect::Release { .. } | Effect::Ended)));
    assert!(stage.effects.contains(&Effect::Release { holder, lock }));
}

#[test]
fn executions_with_the_same_key_take_turns() {
    let mut stage = Stage::of(
        json!({ "name": "w", "steps": [{ "id": "a", "agent_type": "x" }], "config": { "concurrency_key": "c-${{ input.c }}" } }),
        json!({ "c": 7 }),
    );
    assert_eq!((stage.status(), stage.out()), (Status::Queued, Vec::new()));
    let Some(Effect::Acquire { holder, lock }) = stage.effects.first().cloned() else { panic!("nobody asked") };
    assert_eq!((holder, lock.name.as_str()), (Holder::Execution, "c-7"));
    stage.say(Command::Granted { holder });
    assert_eq!((stage.status(), stage.out()), (Status::Running, vec!["a/1".to_owned()]));
    stage.complete("a/1");
    assert!(stage.effects.contains(&Effect::Release { holder, lock }));
}

#[test]
fn one_that_is_cancelled_while_it_waits_for_its_turn_gives_its_place_back() {
    let mut stage = Stage::of(
        json!({ "name": "w", "steps": [{ "id": "a", "agent_type": "x" }], "config": { "concurrency_key": "k" } }),
        json!({}),
    );
    stage.say(Command::Cancel { reason: "enough".into() });
    assert_eq!(stage.status(), Status::Cancelled);
    assert!(stage.effects.iter().any(|effect| matches!(effect, Effect::Release { .. })));
}

#[test]
fn a_step_ends_the_execution_by_a_failure_and_what_completed_is_undone() {
    let mut stage = Stage::with(json!([
        { "id": "a", "agent_type": "x", "compensate": { "agent_type": "x" } },
        { "id": "stop", "depends_on": ["a"], "end": { "status": "failed", "error": { "code": "fraud", "message": "no: ${{ steps.a.output }}" } } },
    ]));
    stage.complete("a/1");
    assert_eq!(stage.out(), ["a/undo/1"]);
    stage.complete("a/undo/1");
    assert_eq!(stage.failure(), ("fraud", Some("stop")));
    assert_eq!(stage.execution.failure().unwrap().message, "no: a/1");
}

#[test]
fn it_goes_on_anew_with_another_input_and_keeps_signals_that_nobody_took() {
    let definition = json!({ "name": "w", "steps": [
        { "id": "a", "agent_type": "x", "input": "${{ input }}" },
        { "id": "done", "signal": { "name": "done" }, "when": "input.round == 2" },
        { "id": "again", "depends_on": ["a"], "when": "input.round < 2",
          "end": { "status": "continued", "input": { "round": "${{ input.round + 1 }}" } } },
    ] });
    let mut stage = Stage::of(definition, json!({ "round": 1 }));
    stage.signal(1, "done", json!("bye")).unwrap();
    stage.complete("a/1");
    assert_eq!((stage.status(), stage.out()), (Status::Running, vec!["a@1/1".to_owned()]));
    assert_eq!(stage.input("a@1/1"), json!({ "round": 2 }));
    assert_eq!(stage.execution.counts().completed, 1, "the signal was kept");
    stage.complete("a@1/1");
    assert_eq!(stage.status(), Status::Completed);
    assert_eq!(stage.signal(1, "done", json!("bye")), Ok(0), "it has counted already");
}

#[test]
fn replay_needs_nothing_between_the_first_entry_and_the_one_that_continued_it() {
    let definition = json!({ "name": "w", "config": { "concurrency_key": "k" }, "steps": [
        { "id": "a", "agent_type": "x" },
        { "id": "again", "depends_on": ["a"], "end": { "status": "continued", "input": 2 } },
    ] });
    let mut stage = Stage::of(definition, json!(1));
    stage.say(Command::Granted { holder: Holder::Execution });
    stage.complete("a/1");
    let place = stage.events.iter().position(|event| matches!(event, Event::Continued { .. })).unwrap();
    let mut short = Execution::new(stage.execution.plan().clone());
    for (sequence, event) in (1..).zip(&stage.events).filter(|(sequence, _)| *sequence == 1 || *sequence > place as u64)
    {
        short.apply(&Recorded { sequence, at: stage.now, event: event.clone() });
    }
    assert!(short.is_same_as(&stage.execution));
    assert!(short.lock_of(Holder::Execution).is_some(), "it has its turn still");
    assert_eq!((stage.execution.began_at(), stage.execution.continued_at()), (place as u64 + 1, Some(stage.now)));
    assert_eq!(stage.execution.snapshot_at(), Some(place as u64 + 1));

    // Of one that an earlier release continued nothing may go.
    let mut old = Execution::new(stage.execution.plan().clone());
    for (sequence, event) in (1..).zip(&stage.events) {
        let mut event = event.clone();
        if let Event::Continued { carried, .. } = &mut event {
            *carried = None;
        }
        old.apply(&Recorded { sequence, at: stage.now, event });
    }
    assert_eq!((old.began_at(), old.snapshot_at()), (place as u64 + 1, None));
}

#[test]
fn a_history_that_is_too_long_is_told_of_before_it_fails_and_begins_anew_where_it_is_continued() {
    let definition = json!({ "name": "w", "steps": [
        { "id": "more", "signal": { "name": "more" }, "loop": { "while": "last != 'again'" } },
        { "id": "again", "depends_on": ["more"], "end": { "status": "continued" } },
    ] });
    let limits = Limits { max_history: 100, ..Limits::default() };
    let plan = Definition::parse(definition.to_string().as_bytes(), limits).unwrap().plan;
    let mut stage = Stage::with(json!([{ "id": "a", "agent_type": "x" }]));
    stage.execution = Execution::new(Arc::new(plan));
    stage.say(Command::Start(start()));
    let said = |stage: &Stage| stage.execution.explain(&InHand(TaskPlace::Unknown)).summary;
    let mut number = 0;
    let mut more = |stage: &mut Stage, value: &str| {
        number += 1;
        stage.signal(number, "more", json!(value)).unwrap();
    };
    while stage.execution.history() <= 80 {
        assert!(!said(&stage).contains("history_too_long"), "{}", said(&stage));
        more(&mut stage, "");
    }
    assert!(said(&stage).contains("with more than 100 it fails with `history_too_long`"), "{}", said(&stage));
    more(&mut stage, "again");
    assert_eq!(stage.execution.history(), 1, "{:?}", stage.events);
    assert!(said(&stage).contains("It was continued at") && !said(&stage).contains("history_too_long"));
    while stage.status() == Status::Running {
        more(&mut stage, "");
    }
    assert_eq!(stage.failure(), ("history_too_long", None));
    assert!(stage.execution.history() < 110, "{}", stage.execution.history());
}

#[test]
fn a_failed_undo_is_tried_again_when_an_operator_asks_for_it() {
    let mut stage = Stage::with(json!([
        { "id": "a", "agent_type": "x", "compensate": { "agent_type": "x" } },
        { "id": "b", "agent_type": "x", "compensate": { "agent_type": "x" }, "depends_on": ["a"] },
        { "id": "c", "agent_type": "x", "depends_on": ["b"] },
    ]));
    stage.complete("a/1");
    stage.complete("b/1");
    stage.fail("c/1");
    stage.fail("b/undo/1");
    stage.complete("a/undo/1");
    assert_eq!((stage.status(), stage.state("b")), (Status::Failed, StepState::Completed));
    assert!(stage.execution.explain(&InHand(TaskPlace::Unknown)).summary.contains("undo of step `b` failed"));
    stage.say(Command::Retry { lost: None });
    assert_eq!((stage.status(), stage.out()), (Status::Compensating, vec!["b/undo/2".to_owned()]));
    stage.complete("b/undo/2");
    assert_eq!((stage.status(), stage.state("b")), (Status::Failed, StepState::Compensated));
    assert_eq!(stage.failure(), ("broken", Some("c")));
    assert_eq!(stage.try_say(Command::Retry { lost: None }), Err(Rejected::Compensated));
}

#[test]
fn what_is_told_is_as_old_as_the_telling_and_not_as_its_execution() {
    let mut stage = Stage::with(json!([
        { "id": "rounds", "loop": { "while": "iteration < 2" }, "block": { "steps": [
            { "id": "sleep", "sleep": "1h" },
            { "id": "tell", "emit": { "topic": "hour", "payload": 1 }, "depends_on": ["sleep"] },
        ] } },
    ]));
    for _ in 0..2 {
        stage.wait(seconds(3_600));
        let task = stage.execution.errands().next().unwrap();
        let Some(Errand { what: ErrandKind::Tell { at, .. }, .. }) = stage.execution.errand(task) else { panic!() };
        assert_eq!(at, stage.now);
        stage.say(Command::TaskEnded { task, agent_id: None, begun_at: None, outcome: Ok(Payload::null()) });
    }
}

#[test]
fn a_detached_instance_that_fails_is_the_failure_of_its_scope() {
    let mut stage = Stage::with(json!([
        { "id": "tell", "for_each": [1, 2], "detach": true, "agent_type": "x" },
        { "id": "next", "agent_type": "x", "depends_on": ["tell"] },
    ]));
    stage.fail("tell[1]/1");
    assert_eq!(stage.withdrawn(), ["tell[0]/1", "next/1"]);
    assert_eq!(stage.failure(), ("broken", Some("tell")));
    stage.say(Command::Retry { lost: None });
    assert_eq!(stage.out(), ["tell[0]/2", "tell[1]/2", "next/2"]);
}

#[test]
fn a_loser_of_a_race_goes_with_all_that_leads_to_it() {
    let mut stage = Stage::with(json!([
        { "id": "a1", "agent_type": "x" },
        { "id": "a2", "agent_type": "x", "depends_on": ["a1"] },
        { "id": "b1", "agent_type": "x" },
        { "id": "b2", "agent_type": "x", "depends_on": ["b1"] },
        { "id": "shared", "agent_type": "x" },
        { "id": "c", "agent_type": "x", "depends_on": ["a2", "b2", "shared"], "join": "any", "cancel_rest": true },
        { "id": "also", "agent_type": "x", "depends_on": ["shared"] },
    ]));
    stage.complete("a1/1");
    stage.complete("a2/1");
    assert_eq!(stage.withdrawn(), ["b1/1"]);
    assert_eq!(stage.out(), ["shared/1", "c/1"], "what somebody else waits for goes on");
    assert_eq!(stage.state("b2"), StepState::Cancelled);
}

#[test]
fn a_step_waits_until_a_point_in_time() {
    let mut stage = Stage::of(
        json!({ "name": "w", "steps": [{ "id": "a", "sleep_until": "${{ input.at }}" }] }),
        json!({ "at": "2023-11-14T22:14:20Z" }),
    );
    assert_eq!(stage.execution.next_due().unwrap().to_string(), "2023-11-14T22:14:20.000000Z");
    stage.wait(seconds(60));
    assert_eq!(stage.status(), Status::Completed);
    let wrong = Stage::with(json!([{ "id": "a", "sleep_until": "tomorrow" }]));
    assert_eq!(wrong.failure(), ("expression", Some("a")));
}

#[test]
fn a_mutex_is_given_back_with_the_last_of_those_that_share_it() {
    let global = json!({ "name": "m", "scope": "global" });
    let mut stage = Stage::with(json!([{
        "id": "b",
        "mutex": global,
        "loop": { "until": true },
        "block": block(json!([
            { "id": "in", "for_each": [1], "detach": true, "mutex": global, "agent_type": "x" },
            { "id": "beside", "agent_type": "x" },
        ])),
    }]));
    let Some(Effect::Acquire { holder, lock }) = stage.effects.first().cloned() else { panic!("nobody asked") };
    stage.say(Command::Granted { holder });
    stage.complete("beside@1/1");
    assert_eq!((stage.state("b"), stage.out()), (StepState::Completed, vec!["in[0]@1/1".to_owned()]));
    let released = Effect::Release { holder, lock };
    assert!(!stage.effects.contains(&released), "what the loop has left to itself has it still");
    assert!(stage.execution.lock_of(holder).is_some());
    stage.complete("in[0]@1/1");
    assert!(stage.effects.contains(&released));
    assert_eq!(stage.status(), Status::Completed);
}
