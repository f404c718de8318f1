use super::*;

fn with_retry(jitter: bool) -> Stage {
    let retry = json!({ "max_attempts": 4, "initial_interval": "10s", "backoff": 3.0, "max_interval": "60s", "jitter": jitter });
    Stage::with(json!([{ "id": "a", "agent_type": "x", "input": { "n": 1 }, "retry": retry }]))
}

fn busy() -> Result<Value, Failure> {
    Err(Failure::retryable("busy", "not now"))
}

#[test]
fn attempts_follow_each_other_at_growing_intervals_up_to_the_longest() {
    let mut stage = with_retry(false);
    for (attempt, pause) in [(1, 10), (2, 30), (3, 60)] {
        stage.end(&format!("a/{attempt}"), busy());
        assert_eq!(
            (stage.state("a"), stage.execution.next_due()),
            (StepState::Retrying, Some(stage.now + seconds(pause)))
        );
        stage.wait(seconds(pause - 1));
        assert_eq!(stage.out(), Vec::<String>::new());
        stage.wait(seconds(1));
        assert_eq!(stage.input(&format!("a/{}", attempt + 1)), json!({ "n": 1 }));
    }
    stage.end("a/4", busy());
    assert_eq!((stage.status(), stage.failure()), (Status::Failed, ("busy", Some("a"))));
}

#[test]
fn jitter_spreads_between_half_and_whole_and_is_the_same_in_every_run() {
    let due = || {
        let mut stage = with_retry(true);
        stage.end("a/1", busy());
        stage.execution.next_due().unwrap().since(stage.now)
    };
    assert!((seconds(5)..=seconds(10)).contains(&due()), "{:?}", due());
    assert_eq!(due(), due());
}

#[test]
fn a_fatal_failure_is_not_tried_again() {
    let mut stage = with_retry(false);
    stage.fail("a/1");
    assert_eq!(stage.status(), Status::Failed);
}

#[test]
fn a_result_of_another_attempt_is_dropped() {
    let mut stage = with_retry(false);
    stage.end("a/1", busy());
    assert_eq!(stage.end("a/1", Ok(json!("late"))), 0);
    stage.wait(seconds(10));
    assert_eq!(stage.end("a/1", Ok(json!("later"))), 0);
    stage.complete("a/2");
    assert_eq!((stage.end("a/2", Ok(json!("twice"))), stage.output()), (0, json!({ "a": "a/2" })));
}

#[test]
fn a_retry_of_the_execution_goes_on_with_new_numbers_and_a_new_deadline() {
    let definition = json!({ "name": "w", "config": { "timeout": "1m" }, "steps": [
        { "id": "a", "agent_type": "x" },
        { "id": "b", "agent_type": "x", "depends_on": ["a"], "retry": { "max_attempts": 2, "initial_interval": "1s" } },
        { "id": "c", "agent_type": "x", "depends_on": ["b"] },
    ] });
    let mut stage = Stage::of(definition, json!({}));
    assert_eq!(stage.try_say(Command::Retry { lost: None }), Err(Rejected::NotFailed));
    stage.complete("a/1");
    stage.end("b/1", busy());
    stage.wait(seconds(1));
    stage.end("b/2", busy());
    assert_eq!(stage.status(), Status::Failed);
    stage.wait(seconds(3_600));
    stage.say(Command::Retry { lost: None });
    assert_eq!((stage.out(), stage.execution.next_due()), (vec!["b/3".into()], Some(stage.now + seconds(60))));
    stage.end("b/3", busy());
    stage.wait(seconds(1));
    stage.complete("b/4");
    stage.complete("c/1");
    assert_eq!(stage.status(), Status::Completed);
}

#[test]
fn a_retry_for_the_sake_of_a_lost_task_happens_once() {
    let mut stage = Stage::with(json!([
        { "id": "a", "agent_type": "x" },
        { "id": "b", "agent_type": "x", "for_each": "${{ [1, 2] }}" },
    ]));
    let lost = |stage: &Stage, name: &str| Some(format!("{}/{name}", stage.execution.id().unwrap()));
    stage.fail("b[1]/1");
    assert_eq!(stage.status(), Status::Failed);
    let first = lost(&stage, "b[1]/1");
    assert_ne!(stage.say(Command::Retry { lost: first.clone() }), 0);
    assert_eq!(stage.say(Command::Retry { lost: first.clone() }), 0, "it runs again already");
    stage.fail("b[1]/2");
    assert_eq!(stage.say(Command::Retry { lost: first.clone() }), 0, "also where its retry has failed in its turn");
    assert_eq!(stage.status(), Status::Failed);
    let second = lost(&stage, "b[1]/2");
    assert_ne!(stage.say(Command::Retry { lost: second }), 0);
    for task in ["a/3", "b[0]/3", "b[1]/3"] {
        stage.complete(task);
    }
    assert_eq!((stage.status(), stage.say(Command::Retry { lost: first })), (Status::Completed, 0));
}

#[test]
fn a_lost_task_that_its_execution_went_on_without_is_not_retried() {
    let mut stage = Stage::with(json!([{ "id": "a", "agent_type": "x", "on_failure": "continue" }]));
    stage.fail("a/1");
    assert_eq!(stage.status(), Status::Completed);
    let lost = Some(format!("{}/a/1", stage.execution.id().unwrap()));
    assert_eq!(stage.try_say(Command::Retry { lost }), Err(Rejected::NotFailed));
}
