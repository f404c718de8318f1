//! What is done again.

use serde_json::{Value, json};
use workflow::{Effect, ErrandKind, Failure, Status};

use crate::play::Play;

#[test]
fn pattern_10_arbitrary_cycles() {
    let mut play = Play::pattern(10, Value::Null);
    for (step, next) in
        [("draft", "review"), ("review", "fix"), ("fix", "draft"), ("draft", "review"), ("review", "done")]
    {
        assert_eq!(play.out(), [step]);
        play.done(step, json!({ "next": next }));
    }
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_21_structured_loop() {
    let mut play = Play::pattern(21, json!({ "times": 2 }));
    play.done("after", json!({ "good": false }));
    play.all_done(["before", "before"]);
    assert_eq!(play.out(), ["after"]);
    play.done("after", json!({ "good": true }));
    assert_eq!(play.status(), Status::Completed);
    assert_eq!(Play::pattern(21, json!({ "times": 0 })).out(), ["after"], "it may not run at all");
}

#[test]
fn pattern_22_recursion() {
    let mut play = Play::pattern(22, Value::Null);
    play.done("half", json!(4));
    let Some(Effect::Run(errand)) = play.effects.last().cloned() else { panic!("no child was started") };
    let ErrandKind::Start { name, input, parent, .. } = errand.what else { panic!("no child was started") };
    assert_eq!((name.as_str(), input.to_value(), parent.depth), ("recursion", json!(4), 1));
    play.ended(errand.task, Ok(json!("deep")));
    assert_eq!((play.status(), play.output()), (Status::Completed, json!({ "again": "deep" })));
    let mut fails = Play::pattern(22, Value::Null);
    fails.done("half", json!(4));
    fails.ended(errand.task, Err(Failure::fatal("broken", "in the child")));
    assert_eq!(fails.status(), Status::Failed);
    let mut ends = Play::pattern(22, Value::Null);
    ends.done("half", json!(1));
    assert_eq!(ends.status(), Status::Completed);
}
