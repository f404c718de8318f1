use super::*;

fn vote(extra: Value) -> Stage {
    let mut decision = json!({ "question": "?", "options": ["yes", "no"], "quorum": 2,
                               "voters": { "capability": "v", "count": 3 }, "deadline": "1m" });
    for (key, value) in extra.as_object().unwrap() {
        decision[key] = value.clone();
    }
    let retry = json!({ "max_attempts": 1 });
    Stage::of(
        json!({ "name": "w", "steps": [{ "id": "d", "decision": decision, "retry": retry }], "output": "${{ steps.d.output }}" }),
        json!({}),
    )
}

fn found(stage: &mut Stage, count: u32) -> usize {
    stage.say(Command::VotersFound { unit: unit(0), voters: (0..count).map(voter).collect() })
}

#[test]
fn voters_are_looked_for_then_asked_then_counted() {
    let mut stage = vote(json!({}));
    assert!(matches!(stage.effects[..], [Effect::FindVoters { count: 3, quorum: 2, .. }]));
    assert_eq!(stage.execution.outstanding().len(), 1);
    assert_eq!((found(&mut stage, 3), found(&mut stage, 2)), (4, 0));
    let order = stage.execution.task_order(stage.task("d[1]@1/1")).unwrap();
    assert_eq!((order.target, order.action.as_str()), (crate::Target::AgentId(voter(1).agent_id), "vote"));
    stage.end("d[0]@1/1", Ok(json!({ "choice": "yes", "rationale": "because" })));
    stage.end("d[1]@1/1", Ok(json!({ "choice": "yes" })));
    assert_eq!(stage.status(), Status::Running, "it waits for every voter");
    stage.end("d[2]@1/1", Ok(json!({ "choice": "no" })));
    let record = stage.output();
    assert_eq!((&record["winner"], &record["votes"]), (&json!("yes"), &json!(3)));
    assert_eq!(record["ballots"][0]["rationale"], json!("because"));
}

#[test]
fn the_deadline_decides_with_what_is_in_and_names_who_is_missing() {
    let mut stage = vote(json!({}));
    found(&mut stage, 3);
    stage.end("d[0]@1/1", Ok(json!({ "choice": "no" })));
    stage.end("d[2]@1/1", Ok(json!({ "choice": "no" })));
    stage.wait(seconds(60));
    assert_eq!((&stage.output()["winner"], stage.withdrawn()), (&json!("no"), vec!["d[1]@1/1".into()]));
    assert_eq!(stage.output()["missing"][0]["name"], json!("voter 1"));
}

#[test]
fn without_a_quorum_there_is_no_decision() {
    let mut stage = vote(json!({}));
    found(&mut stage, 2);
    stage.fail("d[0]@1/1");
    stage.end("d[1]@1/1", Ok(json!({ "choice": "no" })));
    assert_eq!(stage.failure(), ("no_quorum", Some("d")));
}

#[test]
fn the_deadline_also_ends_the_search_for_voters() {
    let mut stage = vote(json!({}));
    stage.wait(seconds(60));
    assert_eq!(stage.failure(), ("no_quorum", Some("d")));
    assert_eq!(found(&mut stage, 3), 0);
}

#[test]
fn named_voters_need_no_search() {
    let agents: Vec<_> = (0..2).map(|number| voter(number).agent_id).collect();
    let stage = vote(json!({ "voters": { "agents": agents } }));
    assert_eq!(stage.out(), ["d[0]@1/1", "d[1]@1/1"]);
}

#[test]
fn a_ballot_that_is_none_is_a_failed_attempt() {
    let mut stage = vote(json!({}));
    found(&mut stage, 2);
    stage.end("d[0]@1/1", Ok(json!({ "choice": "perhaps" })));
    let failure = stage.execution.steps()[0].instances[0].failure.clone().unwrap();
    assert_eq!(failure.code, "invalid_ballot");
}

#[test]
fn a_retry_of_the_execution_votes_anew_under_new_task_ids() {
    let mut stage = vote(json!({}));
    found(&mut stage, 3);
    stage.wait(seconds(60));
    assert_eq!(stage.status(), Status::Failed);
    stage.say(Command::Retry { lost: None });
    assert_eq!(found(&mut stage, 2), 3);
    assert_eq!(stage.out(), ["d[0]@2/1", "d[1]@2/1"]);
    stage.end("d[0]@2/1", Ok(json!({ "choice": "yes" })));
    stage.end("d[1]@2/1", Ok(json!({ "choice": "yes" })));
    assert_eq!(stage.output()["winner"], json!("yes"));
}

#[test]
fn a_weight_that_is_no_number_is_logged_as_one_that_counts_nothing() {
    let mut stage = vote(json!({ "strategy": "weighted" }));
    let weights = [f64::NAN, f64::NEG_INFINITY, f64::INFINITY];
    let voters = (0..).zip(weights).map(|(number, weight)| Voter { weight, ..voter(number) }).collect();
    assert_eq!(stage.say(Command::VotersFound { unit: unit(0), voters }), 4);
    for event in &stage.events {
        assert_eq!(Event::decode(&event.encode()).unwrap(), *event);
    }
    stage.end("d[0]@1/1", Ok(json!({ "choice": "no" })));
    stage.end("d[1]@1/1", Ok(json!({ "choice": "no" })));
    stage.end("d[2]@1/1", Ok(json!({ "choice": "yes" })));
    assert_eq!((&stage.output()["winner"], &stage.output()["counts"]["no"]), (&json!("yes"), &json!(0)));
}

#[test]
fn voters_that_nobody_asked_for_are_not_taken() {
    let mut stage = vote(json!({}));
    assert_eq!(found(&mut stage, 0), 0, "no voters are no answer");
    assert_eq!(stage.say(Command::VotersFound { unit: unit(9), voters: vec![voter(0)] }), 0, "there is no such step");
    assert_eq!(stage.execution.outstanding().len(), 1, "the search goes on");
}

#[test]
fn a_voter_that_fails_with_the_code_of_the_deadline_has_answered_and_is_not_withdrawn() {
    let mut stage = vote(json!({}));
    found(&mut stage, 3);
    stage.end("d[0]@1/1", Err(Failure::fatal("deadline", "no time")));
    assert_eq!(stage.withdrawn(), Vec::<String>::new());
    stage.wait(seconds(60));
    assert_eq!(stage.withdrawn(), ["d[1]@1/1", "d[2]@1/1"]);
}
