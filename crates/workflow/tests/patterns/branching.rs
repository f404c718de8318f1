//! Branches and merges.

use serde_json::{Value, json};
use workflow::{Status, StepState};

use crate::play::Play;

#[test]
fn pattern_01_sequence() {
    let mut play = Play::pattern(1, Value::Null);
    assert_eq!(play.out(), ["a"]);
    play.all_done(["a"]);
    assert_eq!(play.out(), ["b"]);
    play.all_done(["b"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_02_parallel_split() {
    let mut play = Play::pattern(2, Value::Null);
    play.all_done(["a"]);
    assert_eq!(play.out(), ["b", "c"]);
}

#[test]
fn pattern_03_synchronization() {
    let mut play = Play::pattern(3, Value::Null);
    play.all_done(["b"]);
    assert_eq!(play.out(), ["a"]);
    play.all_done(["a"]);
    assert_eq!(play.out(), ["c"]);
}

#[test]
fn pattern_04_exclusive_choice() {
    for (price, chosen, other) in [(50, "cheap", "dear"), (500, "dear", "cheap")] {
        let mut play = Play::pattern(4, Value::Null);
        play.done("a", json!({ "price": price }));
        assert_eq!(play.out(), [chosen]);
        assert_eq!(play.state(other), StepState::Skipped);
        play.all_done([chosen]);
        assert_eq!(play.status(), Status::Completed);
    }
}

#[test]
fn pattern_05_simple_merge() {
    for (price, chosen) in [(50, "cheap"), (500, "dear")] {
        let mut play = Play::pattern(5, json!({ "price": price }));
        assert_eq!(play.out(), [chosen]);
        play.all_done([chosen, "pay"]);
        assert_eq!(play.status(), Status::Completed);
    }
}

#[test]
fn pattern_06_multi_choice() {
    let chosen = |fire, injured| Play::pattern(6, json!({ "fire": fire, "injured": injured })).out();
    assert_eq!(chosen(true, true), ["fire", "ambulance", "police"]);
    assert_eq!(chosen(true, false), ["fire", "police"]);
    assert_eq!(chosen(false, false), ["police"]);
}

#[test]
fn pattern_07_structured_synchronizing_merge() {
    let mut both = Play::pattern(7, json!({ "fire": true, "injured": true }));
    both.all_done(["fire"]);
    assert_eq!(both.out(), ["ambulance"], "the other is waited for");
    both.all_done(["ambulance", "report"]);
    assert_eq!(both.status(), Status::Completed);
    let mut one = Play::pattern(7, json!({ "fire": true, "injured": false }));
    one.all_done(["fire"]);
    assert_eq!(one.out(), ["report"], "what was not chosen is not waited for");
    assert_eq!(Play::pattern(7, json!({ "fire": false, "injured": false })).out(), ["report"]);
}

#[test]
fn pattern_09_structured_discriminator() {
    let mut play = Play::pattern(9, Value::Null);
    play.all_done(["b"]);
    assert_eq!(play.out(), ["a", "next"], "the first starts it");
    play.all_done(["next", "a"]);
    assert_eq!(play.out(), Vec::<String>::new(), "the second does not start it again");
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_28_blocking_discriminator() {
    let mut play = Play::pattern(28, Value::Null);
    play.all_done(["a", "next"]);
    assert_eq!(play.out(), ["b"], "it is blocked until the other has arrived");
    play.all_done(["b"]);
    assert_eq!(play.out(), ["a", "b"]);
    play.all_done(["b", "next", "a"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_29_cancelling_discriminator() {
    let mut play = Play::pattern(29, Value::Null);
    play.all_done(["b"]);
    assert_eq!((play.out(), play.withdrawn()), (vec!["next".to_owned()], vec!["a".to_owned()]));
    play.all_done(["next"]);
    assert_eq!((play.status(), play.state("a")), (Status::Completed, StepState::Cancelled));
}

#[test]
fn pattern_30_structured_partial_join() {
    let mut play = Play::pattern(30, Value::Null);
    play.all_done(["a"]);
    assert_eq!(play.out(), ["b", "c"]);
    play.all_done(["c"]);
    assert_eq!(play.out(), ["b", "next"]);
    play.all_done(["next", "b"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_31_blocking_partial_join() {
    let mut play = Play::pattern(31, Value::Null);
    play.all_done(["a", "c", "next"]);
    assert_eq!(play.out(), ["b"]);
    play.all_done(["b"]);
    assert_eq!(play.out(), ["a", "b", "c"]);
    play.all_done(["a", "b", "next", "c"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_32_cancelling_partial_join() {
    let mut play = Play::pattern(32, Value::Null);
    play.all_done(["a", "c"]);
    assert_eq!((play.out(), play.withdrawn()), (vec!["next".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn pattern_37_local_synchronizing_merge() {
    let mut both = Play::pattern(37, json!({ "a": true, "b": true }));
    both.all_done(["a1", "a2", "b1"]);
    assert_eq!(both.out(), ["b2"]);
    both.all_done(["b2"]);
    assert_eq!(both.out(), ["merge"]);
    let mut one = Play::pattern(37, json!({ "a": false, "b": true }));
    one.all_done(["b1", "b2"]);
    assert_eq!(one.out(), ["merge"]);
}

#[test]
fn pattern_38_general_synchronizing_merge() {
    let mut play = Play::pattern(38, json!({ "a": true }));
    play.all_done(["b"]);
    play.done("measure", json!({ "enough": false }));
    assert_eq!(play.out(), ["measure"], "the branch may come back, so that it is waited for");
    play.done("measure", json!({ "enough": true }));
    assert_eq!(play.out(), ["merge"]);
    let mut other = Play::pattern(38, json!({ "a": false }));
    other.all_done(["b"]);
    assert_eq!(other.out(), ["merge"]);
}

#[test]
fn pattern_11_implicit_termination() {
    let mut play = Play::pattern(11, Value::Null);
    play.all_done(["a"]);
    assert_eq!(play.status(), Status::Running);
    play.all_done(["b"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_43_explicit_termination() {
    let mut play = Play::pattern(43, Value::Null);
    play.done("a", json!("me"));
    assert_eq!((play.status(), play.output()), (Status::Completed, json!({ "by": "me" })));
    assert_eq!(play.withdrawn(), ["b"]);
}
