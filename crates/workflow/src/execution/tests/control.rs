use super::*;

fn pair() -> Stage {
    Stage::with(json!([
        { "id": "a", "agent_type": "x" },
        { "id": "b", "agent_type": "x", "depends_on": ["a"] },
    ]))
}

#[test]
fn a_pause_takes_results_and_starts_nothing_until_it_ends() {
    let mut stage = pair();
    stage.say(Command::Pause);
    assert_eq!(stage.say(Command::Pause), 0);
    stage.complete("a/1");
    assert_eq!((stage.status(), stage.out().len(), stage.execution.wakeups()), (Status::Paused, 0, 1));
    let wait = stage.execution.explain(&InHand(TaskPlace::Unknown)).waits.remove(0);
    assert_eq!((wait.kind.as_str(), wait.since), ("resume", Some(stage.now)));
    stage.say(Command::Resume);
    assert_eq!(stage.out(), ["b/1"]);
}

#[test]
fn a_cancel_withdraws_what_runs_and_ends_it() {
    let mut stage = pair();
    stage.say(Command::Cancel { reason: "enough".into() });
    assert_eq!((stage.status(), stage.withdrawn()), (Status::Cancelled, vec!["a/1".into()]));
    assert_eq!(stage.end("a/1", Ok(json!(1))), 0);
    for command in [Command::Cancel { reason: String::new() }, Command::Pause, Command::Resume] {
        assert_eq!(stage.try_say(command), Err(Rejected::Ended));
    }
    assert_eq!(stage.try_say(Command::Retry { lost: None }), Err(Rejected::NotFailed));
}

#[test]
fn nothing_comes_before_the_start_and_no_second_start() {
    let plan = pair().execution.plan().clone();
    let mut early = Execution::new(plan);
    assert_eq!(early.transition(Command::Tick, Timestamp::EPOCH), Err(Rejected::AlreadyStarted));
    assert_eq!((early.id(), early.wakeups(), early.last_sequence()), (None, 0, 0));
    let mut stage = pair();
    let again = Start { execution_id: ExecutionId::from_parts(2, 2), ..start() };
    assert_eq!(stage.try_say(Command::Start(again)), Err(Rejected::AlreadyStarted));
    assert_eq!((stage.execution.id(), stage.events.len()), (Some(ExecutionId::from_parts(1, 1)), 2));
}

#[test]
fn a_pause_holds_no_deadline_back() {
    let steps = json!([{ "id": "a", "agent_type": "x" }]);
    let mut stage = Stage::of(json!({ "name": "w", "steps": steps, "config": { "timeout": "10s" } }), json!({}));
    stage.say(Command::Pause);
    assert_eq!(stage.execution.next_due(), Some(stage.now + seconds(10)));
    stage.wait(seconds(10));
    assert_eq!((stage.status(), stage.failure()), (Status::Failed, ("execution_timeout", None)));
    assert_eq!((stage.withdrawn(), stage.execution.next_due()), (vec!["a/1".into()], None));
}

#[test]
fn replay_of_the_bytes_of_a_log_gives_the_same_state() {
    let mut stage = pair();
    stage.complete("a/1");
    stage.say(Command::Pause);
    let mut replayed = Execution::new(stage.execution.plan().clone());
    for (event, sequence) in stage.events.iter().zip(1..) {
        let event = Event::decode(&event.encode()).unwrap();
        replayed.apply(&Recorded { sequence, at: stage.now, event });
    }
    assert!(replayed.is_same_as(&stage.execution));
    assert_eq!(replayed.last_sequence(), stage.events.len() as u64);
}

#[test]
fn what_is_owed_is_sent_again_after_a_restart() {
    let stage = pair();
    let [Effect::Dispatch(order)] = &stage.effects[..] else { panic!("one task is out") };
    assert_eq!(stage.execution.outstanding(), [Effect::Dispatch(order.clone())]);
}

#[test]
fn explain_says_where_a_task_is() {
    let stage = pair();
    let explain = |place| stage.execution.explain(&InHand(place)).waits.remove(0);
    let wait = explain(TaskPlace::WaitingForAgent { since: stage.now });
    assert_eq!(wait.text, "The task of step `a` waits for a live agent of the type `x`.");
    assert_eq!((wait.kind.as_str(), wait.since), ("agent", Some(stage.now)));
    assert_eq!(explain(TaskPlace::HandedOver { agent_id: None, since: stage.now }).kind.as_str(), "result");
}

#[test]
fn a_retry_ends_the_pause_in_which_it_failed() {
    let mut stage = pair();
    stage.say(Command::Pause);
    stage.fail("a/1");
    assert_eq!(stage.status(), Status::Failed);
    stage.say(Command::Retry { lost: None });
    assert_eq!((stage.status(), stage.out()), (Status::Running, vec!["a/2".into()]));
}
