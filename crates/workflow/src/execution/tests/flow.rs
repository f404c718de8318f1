use super::*;

fn diamond(join: Value) -> Stage {
    Stage::with(json!([
        { "id": "a", "agent_type": "x" },
        { "id": "b", "agent_type": "x" },
        { "id": "c", "agent_type": "x" },
        { "id": "end", "agent_type": "x", "depends_on": ["a", "b", "c"], "join": join },
    ]))
}

#[test]
fn a_chain_runs_in_order_with_two_events_a_step() {
    let mut stage = Stage::with(json!([
        { "id": "a", "agent_type": "x", "input": { "n": 1 } },
        { "id": "b", "agent_type": "x", "depends_on": ["a"], "input": "${{ steps.a.output }}" },
    ]));
    assert_eq!((stage.out(), stage.input("a/1")), (vec!["a/1".into()], json!({ "n": 1 })));
    stage.complete("a/1");
    assert_eq!((stage.out(), stage.input("b/1")), (vec!["b/1".into()], json!("a/1")));
    stage.complete("b/1");
    assert_eq!((stage.status(), stage.output()), (Status::Completed, json!({ "b": "b/1" })));
    let kinds: Vec<_> = stage.events.iter().map(Event::kind).collect();
    let expected = ["accepted", "step_scheduled", "step_completed", "step_scheduled", "step_completed", "completed"];
    assert_eq!(kinds, expected);
    assert_eq!(stage.effects.last(), Some(&Effect::Ended));
    assert_eq!(
        (stage.execution.next_due(), stage.execution.wakeups(), stage.execution.counts().completed),
        (None, 0, 2)
    );
}

#[test]
fn join_all_waits_for_the_last() {
    let mut stage = diamond(json!("all"));
    stage.complete("a/1");
    stage.complete("b/1");
    assert_eq!(stage.state("end"), StepState::Pending);
    stage.complete("c/1");
    assert_eq!(stage.out(), ["end/1"]);
}

#[test]
fn join_any_starts_with_the_first_and_once() {
    let mut stage = diamond(json!("any"));
    stage.complete("b/1");
    assert_eq!(stage.out(), ["a/1", "c/1", "end/1"]);
    stage.complete("a/1");
    stage.complete("end/1");
    stage.complete("c/1");
    assert_eq!(stage.status(), Status::Completed);
}

#[test]
fn join_count_starts_with_so_many() {
    let mut stage = diamond(json!({ "count": 2 }));
    stage.complete("c/1");
    assert_eq!(stage.state("end"), StepState::Pending);
    stage.complete("a/1");
    assert_eq!(stage.out(), ["b/1", "end/1"]);
}

#[test]
fn a_false_condition_skips_and_the_skip_spreads_or_counts_as_done() {
    let stage = |on_skip: &str| {
        Stage::with(json!([
            { "id": "a", "agent_type": "x", "when": "1 > 2", "on_skip": on_skip },
            { "id": "b", "agent_type": "x", "depends_on": ["a"], "input": "${{ steps.a.output }}" },
        ]))
    };
    let spread = stage("spread");
    assert_eq!(
        (spread.state("a"), spread.state("b"), spread.status()),
        (StepState::Skipped, StepState::Skipped, Status::Completed)
    );
    let reasons: Vec<_> = spread.execution.steps().into_iter().map(|step| step.failure.unwrap().message).collect();
    assert_eq!(reasons, ["its `when` was false", "what it depends on was skipped"]);
    let done = stage("done");
    assert_eq!((done.out(), done.input("b/1")), (vec!["b/1".into()], Value::Null));
}

#[test]
fn join_any_is_skipped_only_where_all_are() {
    let stage = |second: &str| {
        Stage::with(json!([
            { "id": "a", "sleep": "1s", "when": "1 > 2" },
            { "id": "b", "agent_type": "x", "when": second },
            { "id": "end", "agent_type": "x", "depends_on": ["a", "b"], "join": "any" },
        ]))
    };
    assert_eq!(stage("1 > 2").status(), Status::Completed);
    let mut one = stage("1 < 2");
    one.complete("b/1");
    assert_eq!(one.out(), ["end/1"]);
}

#[test]
fn on_failure_goes_on_with_null_or_the_fallback() {
    let mut stage = Stage::with(json!([
        { "id": "a", "agent_type": "x", "on_failure": "continue" },
        { "id": "b", "agent_type": "x", "on_failure": { "fallback": "${{ execution.id }}" } },
        { "id": "end", "agent_type": "x", "depends_on": ["a", "b"],
          "input": ["${{ steps.a.output }}", "${{ steps.b.output }}"] },
    ]));
    stage.fail("a/1");
    stage.fail("b/1");
    let id = stage.execution.id().unwrap().to_string();
    assert_eq!((stage.input("end/1"), stage.state("a")), (json!([null, id]), StepState::Failed));
}

#[test]
fn a_failed_step_fails_the_execution_and_withdraws_what_runs() {
    let mut stage = diamond(json!("all"));
    stage.fail("a/1");
    assert_eq!((stage.status(), stage.failure()), (Status::Failed, ("broken", Some("a"))));
    assert_eq!((stage.withdrawn(), stage.out().len()), (vec!["b/1".into(), "c/1".into()], 0));
    let counts = stage.execution.counts();
    assert_eq!((counts.failed, counts.cancelled, counts.pending), (1, 2, 1));
}

#[test]
fn an_expression_that_fails_fails_its_step_without_a_retry() {
    let stage = Stage::with(json!([{ "id": "a", "agent_type": "x", "input": "${{ input.nothing }}" }]));
    assert_eq!(stage.failure(), ("expression", Some("a")));
    let stage = Stage::of(
        json!({ "name": "w", "steps": [{ "id": "a", "sleep": "1s" }], "output": "${{ input.no }}" }),
        json!({}),
    );
    assert_eq!(stage.status(), Status::Running);
}

#[test]
fn no_more_than_max_parallel_tasks_are_out_and_the_rest_go_in_turn() {
    let steps: Vec<_> = (0..5).map(|n| json!({ "id": format!("s{n}"), "agent_type": "x" })).collect();
    let mut stage = Stage::of(json!({ "name": "w", "steps": steps, "config": { "max_parallel": 2 } }), json!({}));
    assert_eq!(stage.out(), ["s0/1", "s1/1"]);
    stage.complete("s1/1");
    assert_eq!(stage.out(), ["s0/1", "s2/1"]);
    let waits = stage.execution.explain(&InHand(TaskPlace::Queued)).waits;
    assert!(waits.iter().any(|wait| wait.kind.as_str() == "slot" && wait.text.starts_with("2 tasks")), "{waits:?}");
}

/// The largest definition there may be. Readiness is O(edges): looking at every step after every event would be a hundred
/// million looks.
#[test]
fn a_chain_of_ten_thousand_steps_completes() {
    let steps: Vec<_> = (0..10_000)
        .map(|n| match n {
            0 => json!({ "id": "s0", "agent_type": "x" }),
            _ => json!({ "id": format!("s{n}"), "agent_type": "x", "depends_on": [format!("s{}", n - 1)] }),
        })
        .collect();
    let definition = json!({ "name": "w", "steps": steps }).to_string();
    let plan = Definition::parse(definition.as_bytes(), Limits::default()).unwrap().plan;
    let mut execution = Execution::new(Arc::new(plan));
    execution.transition(Command::Start(start()), Timestamp::EPOCH).unwrap();
    for step in 0..10_000 {
        let task = execution.tasks_out()[0];
        assert_eq!(task.unit.step, step);
        let command = Command::TaskEnded { task, agent_id: None, begun_at: None, outcome: Ok(Payload::null()) };
        execution.transition(command, Timestamp::EPOCH).unwrap();
    }
    assert_eq!(execution.status(), Status::Completed);
}

#[test]
fn a_task_says_who_may_do_it_how_urgent_it_is_and_how_long_it_may_take() {
    let agent = AgentId::from_parts(1, 7);
    let stage = Stage::with(json!([
        { "id": "a", "agent_type": "x", "action": "do", "timeout": "30s", "heartbeat_timeout": "5s", "priority": 9 },
        { "id": "b", "capability": "sums.add", "action": "do" },
        { "id": "c", "agent_id": agent, "action": "do" },
    ]));
    let order = |name| stage.execution.task_order(stage.task(name)).unwrap();
    let first = order("a/1");
    assert_eq!((first.target, first.action.as_str()), (crate::Target::AgentType("x".into()), "do"));
    assert_eq!((first.timeout, first.heartbeat_timeout, first.priority), (Some(seconds(30)), Some(seconds(5)), 9));
    assert_eq!(order("b/1").target, crate::Target::Capability("sums.add".into()));
    assert_eq!(order("c/1").target, crate::Target::AgentId(agent));
}

#[test]
fn a_fallback_that_fails_fails_the_execution_for_its_own_reason() {
    let mut stage = Stage::with(json!([
        { "id": "a", "agent_type": "x", "on_failure": { "fallback": "${{ input.nothing }}" } },
    ]));
    stage.fail("a/1");
    assert_eq!((stage.status(), stage.failure()), (Status::Failed, ("expression", Some("a"))));
}
