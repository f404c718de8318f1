use super::*;

fn approval(signal: Value) -> Stage {
    Stage::with(json!([
        { "id": "a", "agent_type": "x" },
        { "id": "s", "depends_on": ["a"], "signal": signal },
    ]))
}

#[test]
fn sleep_ends_by_itself_with_null() {
    let mut stage = Stage::with(json!([{ "id": "a", "sleep": "5s" }]));
    assert_eq!((stage.execution.next_due(), stage.execution.wakeups()), (Some(stage.now + seconds(5)), 1));
    stage.wait(seconds(4));
    assert_eq!(stage.state("a"), StepState::Waiting);
    stage.wait(seconds(1));
    assert_eq!(stage.output(), json!({ "a": null }));
}

#[test]
fn the_payload_of_a_signal_is_the_output() {
    let mut stage = approval(json!({ "name": "go" }));
    stage.complete("a/1");
    let explained = stage.execution.explain(&InHand(TaskPlace::Unknown));
    assert_eq!(explained.summary, "Step `s` waits for the signal `go`.");
    assert_eq!(explained.waits[0].since, Some(stage.now));
    stage.signal(1, "go", json!({ "approved": true })).unwrap();
    assert_eq!(stage.output(), json!({ "s": { "approved": true } }));
}

#[test]
fn a_signal_that_comes_early_is_kept_and_each_is_used_once() {
    let mut stage = Stage::with(json!([
        { "id": "a", "agent_type": "x" },
        { "id": "s", "depends_on": ["a"], "signal": { "name": "go" } },
        { "id": "t", "depends_on": ["s"], "signal": { "name": "go" } },
    ]));
    stage.signal(1, "go", json!("first")).unwrap();
    assert_eq!(stage.signal(1, "go", json!("again")), Ok(0));
    stage.complete("a/1");
    assert_eq!((stage.state("s"), stage.state("t")), (StepState::Completed, StepState::Waiting));
    stage.signal(2, "go", json!("second")).unwrap();
    assert_eq!(stage.output(), json!({ "t": "second" }));
    assert_eq!(stage.signal(3, "go", json!(1)), Err(Rejected::Ended));
    assert_eq!(stage.signal(2, "go", json!(1)), Ok(0));
}

#[test]
fn a_signal_that_no_step_waits_for_is_refused() {
    assert_eq!(approval(json!({ "name": "go" })).signal(1, "stop", json!(1)), Err(Rejected::UnknownSignal));
}

#[test]
fn signals_that_nobody_waits_for_yet_are_kept_up_to_a_limit() {
    let mut stage = approval(json!({ "name": "go" }));
    for id in 1..=1_000 {
        stage.signal(id, "go", json!(id)).unwrap();
    }
    assert_eq!(stage.signal(1_001, "go", json!(1)), Err(Rejected::TooManySignals));
    assert_eq!(stage.signal(1_000, "go", json!(1)), Ok(0), "one that was taken stays taken");
    stage.complete("a/1");
    assert_eq!(stage.output(), json!({ "s": 1 }));
}

#[test]
fn a_signal_that_does_not_come_fails_or_is_replaced() {
    let after_timeout = |on_timeout: Value| {
        let mut stage = approval(json!({ "name": "go", "timeout": "1m", "on_timeout": on_timeout }));
        stage.complete("a/1");
        stage.wait(seconds(60));
        stage
    };
    assert_eq!(after_timeout(json!("fail")).failure(), ("signal_timeout", Some("s")));
    assert_eq!(after_timeout(json!("reject")).output(), json!({ "s": { "approved": false, "timed_out": true } }));
    assert_eq!(after_timeout(json!({ "fallback": "${{ steps.a.output }}" })).output(), json!({ "s": "a/1" }));
}

#[test]
fn the_deadline_of_the_execution_ends_it() {
    let definition = json!({ "name": "w", "config": { "timeout": "1m" }, "steps": [{ "id": "a", "agent_type": "x" }] });
    let mut stage = Stage::of(definition, json!({}));
    stage.wait(seconds(60));
    assert_eq!((stage.failure(), stage.withdrawn()), (("execution_timeout", None), vec!["a/1".into()]));
}

#[test]
fn the_newest_signals_and_those_that_nobody_took_count_once_in_the_next_run_too() {
    let definition = json!({ "name": "w", "steps": [
        { "id": "take", "signal": { "name": "taken" }, "loop": { "until": "iteration == 399", "max_iterations": 1000 } },
        { "id": "a", "depends_on": ["take"], "agent_type": "x" },
        { "id": "late", "depends_on": ["a"], "signal": { "name": "kept" }, "when": "input == 2" },
        { "id": "again", "depends_on": ["a"], "when": "input == 1", "end": { "status": "continued", "input": 2 } },
    ] });
    let mut stage = Stage::of(definition, json!(1));
    for number in 1..=400 {
        stage.signal(number, "taken", json!(null)).unwrap();
    }
    for number in 401..=500 {
        stage.signal(number, "kept", json!(null)).unwrap();
    }
    stage.complete(&stage.out()[0]);
    let carried = stage.events.iter().find_map(|event| match event {
        Event::Continued { seen, kept, .. } => Some((seen.len(), kept.len())),
        _ => None,
    });
    assert_eq!(carried, Some((356, 100)));
    for number in [145, 400, 401, 500] {
        assert_eq!(stage.signal(number, "taken", json!(null)), Ok(0), "{number} has counted already");
    }
    assert_ne!(stage.signal(144, "taken", json!(null)), Ok(0), "it is long ago");
}
