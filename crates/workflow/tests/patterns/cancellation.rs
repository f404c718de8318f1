//! What is withdrawn.

use serde_json::{Value, json};
use workflow::{Status, StepState};

use crate::play::Play;

#[test]
fn pattern_19_cancel_task() {
    let mut play = Play::pattern(19, Value::Null);
    play.signal("stop", Value::Null);
    assert_eq!((play.withdrawn(), play.status()), (vec!["search".to_owned()], Status::Completed));
    let mut untouched = Play::pattern(19, Value::Null);
    untouched.all_done(["search"]);
    assert_eq!((untouched.state("search"), untouched.status()), (StepState::Completed, Status::Completed));
}

#[test]
fn pattern_20_cancel_case() {
    let mut play = Play::pattern(20, Value::Null);
    play.signal("withdraw", json!("changed my mind"));
    assert_eq!((play.status(), play.execution.cancel_reason()), (Status::Cancelled, Some("changed my mind")));
    assert_eq!(play.withdrawn(), ["work"]);
}

#[test]
fn pattern_25_cancel_region() {
    let mut play = Play::pattern(25, Value::Null);
    play.signal("alarm", Value::Null);
    assert_eq!(play.withdrawn(), ["b1", "c1"], "the block goes with all that is in it");
    assert_eq!(play.out(), ["a", "next"]);
    assert_eq!((play.state("b2"), play.state("c")), (StepState::Cancelled, StepState::Cancelled));
    play.all_done(["a", "next"]);
    assert_eq!(play.status(), Status::Completed);
}
