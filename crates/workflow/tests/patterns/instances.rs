//! Several instances of one step.

use serde_json::{Value, json};
use workflow::{Status, StepState};

use crate::play::Play;

#[test]
fn pattern_12_multiple_instances_without_synchronization() {
    let mut play = Play::pattern(12, json!({ "people": ["x", "y"] }));
    assert_eq!(play.out(), ["notify[0]", "notify[1]", "next"], "nobody waits for them");
    play.all_done(["next", "notify[0]"]);
    assert_eq!(play.status(), Status::Running, "the execution does not end without them");
    play.all_done(["notify[1]"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_13_multiple_instances_known_when_written() {
    let mut play = Play::pattern(13, Value::Null);
    play.all_done(["sign[0]", "sign[2]"]);
    assert_eq!(play.out(), ["sign[1]"]);
    play.all_done(["sign[1]"]);
    assert_eq!(play.out(), ["next"]);
}

#[test]
fn pattern_14_multiple_instances_known_when_run() {
    let mut play = Play::pattern(14, Value::Null);
    play.done("list", json!(["x", "y"]));
    assert_eq!(play.out(), ["check[0]", "check[1]"]);
    play.all_done(["check[1]", "check[0]"]);
    assert_eq!(play.out(), ["next"]);
}

#[test]
fn pattern_15_multiple_instances_not_known() {
    let mut play = Play::pattern(15, Value::Null);
    play.signal("witness", json!("Ann"));
    assert_eq!(play.out(), ["interview[0]"]);
    play.signal("witness", json!("Bob"));
    assert_eq!(play.out(), ["interview[0]", "interview[0]"], "another is named while the first is interviewed");
    play.all_done(["interview[0]"]);
    play.signal("witness", json!("nobody"));
    assert_eq!(play.out(), ["interview[0]"], "what comes next waits for all of them");
    play.all_done(["interview[0]"]);
    assert_eq!(play.out(), ["next"]);
    play.all_done(["next"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_34_static_partial_join_for_instances() {
    let mut play = Play::pattern(34, Value::Null);
    play.all_done(["check[0]", "check[2]"]);
    assert_eq!(play.out(), ["check[1]", "next"]);
    assert_eq!(play.withdrawn(), Vec::<String>::new(), "the last goes on");
    play.all_done(["next", "check[1]"]);
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_35_cancelling_partial_join_for_instances() {
    let mut play = Play::pattern(35, Value::Null);
    play.all_done(["check[0]", "check[2]"]);
    assert_eq!((play.out(), play.withdrawn()), (vec!["next".to_owned()], vec!["check[1]".to_owned()]));
}

#[test]
fn pattern_36_dynamic_partial_join_for_instances() {
    let mut play = Play::pattern(36, Value::Null);
    play.signal("place", json!("attic"));
    play.signal("place", json!("cellar"));
    assert_eq!(play.out(), ["look", "look"], "another is added while the first is searched");
    play.done("look", json!(1));
    assert_eq!(play.told(), ("looked".to_owned(), json!(1)));
    play.signal("looked", json!(1));
    assert_eq!(play.out(), ["look"], "that is not enough");
    play.signal("place", json!("garden"));
    play.done("look", json!(1));
    assert_eq!(play.told(), ("looked".to_owned(), json!(1)));
    play.signal("looked", json!(1));
    assert_eq!(play.out(), ["next", "look"], "that is enough, and the third goes on");
    assert_eq!((play.told(), play.withdrawn()), (("place".to_owned(), json!("closed")), Vec::new()));
    play.signal("place", json!("closed"));
    play.signal("place", json!("shed"));
    assert_eq!(play.out(), ["next", "look"], "no more can be added");
    play.all_done(["next"]);
    play.done("look", json!(5));
    assert_eq!(play.told(), ("looked".to_owned(), json!(5)));
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_26_cancel_instances() {
    let mut play = Play::pattern(26, Value::Null);
    play.all_done(["check[0]"]);
    play.signal("stop", Value::Null);
    assert_eq!(play.withdrawn(), ["check[1]", "check[2]"]);
    assert_eq!((play.state("check"), play.state("after")), (StepState::Cancelled, StepState::Skipped));
    assert_eq!(play.status(), Status::Completed);
}

#[test]
fn pattern_27_complete_instances() {
    let mut play = Play::pattern(27, Value::Null);
    play.all_done(["check[0]"]);
    play.signal("enough", Value::Null);
    assert_eq!((play.withdrawn().len(), play.out()), (2, vec!["after".to_owned()]));
}
