//! What depends on the state that the execution is in.

use serde_json::{Value, json};
use workflow::{Status, StepState};

use crate::play::Play;

#[test]
fn pattern_16_deferred_choice() {
    for (signal, chosen, other) in [("mail", "read", "talk"), ("phone", "talk", "read")] {
        let mut play = Play::pattern(16, Value::Null);
        assert_eq!(play.out(), Vec::<String>::new());
        play.signal(signal, Value::Null);
        assert_eq!(play.out(), [chosen]);
        assert_eq!(play.state(other), StepState::Skipped);
        play.all_done([chosen]);
        assert_eq!(play.status(), Status::Completed);
    }
}

#[test]
fn pattern_17_interleaved_parallel_routing() {
    let mut play = Play::pattern(17, Value::Null);
    assert_eq!(play.out(), ["a1"], "one at a time");
    play.all_done(["a1"]);
    assert_eq!(play.out(), ["b"], "whoever has waited longest is next");
    play.all_done(["b"]);
    assert_eq!(play.out(), ["a2"]);
    play.all_done(["a2"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_18_milestone() {
    let mut in_time = Play::pattern(18, Value::Null);
    in_time.all_done(["place"]);
    in_time.signal("change", json!("blue"));
    assert_eq!(in_time.out(), ["apply", "ship"]);
    let mut late = Play::pattern(18, Value::Null);
    late.all_done(["place", "ship"]);
    assert_eq!(late.state("apply"), StepState::Skipped, "it cannot be changed any more");
    assert_eq!(late.status(), Status::Completed);
}

#[test]
fn pattern_39_critical_section() {
    let mut play = Play::pattern(39, Value::Null);
    assert_eq!(play.out(), ["a1"]);
    play.all_done(["a1"]);
    assert_eq!(play.out(), ["a2"], "the other waits for all of it");
    play.all_done(["a2"]);
    assert_eq!(play.out(), ["b1"]);
    play.all_done(["b1", "b2"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_40_interleaved_routing() {
    let mut play = Play::pattern(40, Value::Null);
    for step in ["a", "b", "c"] {
        assert_eq!(play.out(), [step]);
        play.all_done([step]);
    }
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_23_transient_trigger() {
    let mut play = Play::pattern(23, Value::Null);
    play.signal("go", json!("early"));
    play.all_done(["a"]);
    assert_eq!(play.state("go"), StepState::Waiting, "nobody waited for the first one, and it is gone");
    play.signal("go", json!("now"));
    assert_eq!((play.status(), play.output()), (Status::Completed, json!({ "go": "now" })));
}

#[test]
fn pattern_24_persistent_trigger() {
    let mut play = Play::pattern(24, Value::Null);
    play.signal("go", json!("early"));
    play.all_done(["a"]);
    assert_eq!((play.status(), play.output()), (Status::Completed, json!({ "go": "early" })));
}
