use super::*;

fn saga() -> Stage {
    let undo = json!({ "agent_type": "x", "action": "undo" });
    let retry = json!({ "max_attempts": 2, "initial_interval": "1s", "jitter": false });
    Stage::with(json!([
        { "id": "a", "agent_type": "x", "input": { "n": 1 }, "compensate": undo, "retry": retry },
        { "id": "b", "agent_type": "x", "depends_on": ["a"], "for_each": [1, 2], "compensate": undo, "retry": retry },
        { "id": "c", "agent_type": "x", "depends_on": ["b"] },
    ]))
}

fn lost() -> Stage {
    let mut stage = saga();
    for task in ["a/1", "b[1]/1", "b[0]/1"] {
        stage.complete(task);
    }
    stage.fail("c/1");
    stage
}

#[test]
fn a_failure_undoes_what_completed_the_last_first_and_one_by_one() {
    let mut stage = lost();
    for undo in ["b[0]/undo/1", "b[1]/undo/1", "a/undo/1"] {
        assert_eq!((stage.status(), stage.out()), (Status::Compensating, vec![undo.into()]));
        stage.complete(undo);
    }
    assert_eq!((stage.status(), stage.failure()), (Status::Failed, ("broken", Some("c"))));
    assert_eq!(
        (stage.state("a"), stage.state("b"), stage.execution.counts().compensated),
        (StepState::Compensated, StepState::Compensated, 2)
    );
    assert_eq!(stage.try_say(Command::Retry { lost: None }), Err(Rejected::Compensated));
}

#[test]
fn an_undo_gets_the_input_and_output_of_the_work() {
    let mut stage = saga();
    stage.complete("a/1");
    stage.say(Command::Cancel { reason: "enough".into() });
    assert_eq!(stage.withdrawn(), ["b[0]/1", "b[1]/1"]);
    assert_eq!(stage.input("a/undo/1"), json!({ "input": { "n": 1 }, "output": "a/1" }));
    assert_eq!(stage.state("a"), StepState::Compensating);
    stage.complete("a/undo/1");
    assert_eq!((stage.status(), stage.execution.cancel_reason()), (Status::Cancelled, Some("enough")));
}

#[test]
fn a_failing_undo_is_retried_then_recorded_and_the_rest_goes_on() {
    let mut stage = lost();
    let input = stage.input("b[0]/undo/1");
    stage.end("b[0]/undo/1", Err(Failure::retryable("busy", "not now")));
    stage.wait(seconds(1));
    assert_eq!(stage.input("b[0]/undo/2"), input, "every attempt has the same input");
    assert!(matches!(&stage.execution.outstanding()[..], [Effect::Dispatch(order)] if order.task.attempt == 2));
    stage.end("b[0]/undo/2", Err(Failure::retryable("busy", "not now")));
    stage.complete("b[1]/undo/1");
    stage.complete("a/undo/1");
    assert_eq!(stage.status(), Status::Failed);
    assert_eq!((stage.state("a"), stage.state("b")), (StepState::Compensated, StepState::Completed));
    assert!(stage.events.iter().any(|event| event.kind() == "compensation_failed"));
}

#[test]
fn a_cancel_during_compensation_changes_nothing_and_a_pause_is_refused() {
    let mut stage = lost();
    assert_eq!(stage.say(Command::Cancel { reason: "enough".into() }), 0);
    assert_eq!(stage.try_say(Command::Pause), Err(Rejected::Ended));
    assert_eq!(stage.status(), Status::Compensating);
}

#[test]
fn no_deadline_cuts_compensation_short() {
    let mut stage = lost();
    stage.wait(seconds(1_000_000));
    assert_eq!(stage.out(), ["b[0]/undo/1"]);
}

#[test]
fn a_pause_that_a_cancel_ended_wakes_nothing() {
    let mut stage = Stage::with(json!([
        { "id": "a", "agent_type": "x", "compensate": { "agent_type": "x", "action": "undo" } },
        { "id": "b", "agent_type": "x", "depends_on": ["a"] },
    ]));
    stage.complete("a/1");
    stage.say(Command::Pause);
    stage.say(Command::Cancel { reason: "enough".into() });
    assert_eq!((stage.status(), stage.out()), (Status::Compensating, vec!["a/undo/1".into()]));
    assert_eq!(stage.execution.wakeups(), 1, "only the undo");
    stage.complete("a/undo/1");
    assert_eq!(stage.status(), Status::Cancelled);
}
