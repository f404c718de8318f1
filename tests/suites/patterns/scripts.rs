//! What happens to each pattern, and what must come of it.

use serde_json::{Value, json};

/// One thing that is done to an execution, or waited for.
pub(super) enum Move {
    /// Exactly these units are out with the agent.
    Out(&'static [&'static str]),
    /// The agent ends a task of this unit with this output.
    Done(&'static str, Value),
    /// A signal comes.
    Signal(&'static str, Value),
    /// An operator cancels it.
    Cancel,
    /// A step with this id is in this state.
    State(&'static str, &'static str),
    /// What follows is done to the child execution of this step.
    Child(&'static str),
}

/// A way through a pattern.
pub(super) struct Script {
    pub(super) pattern: u32,
    pub(super) input: Value,
    pub(super) moves: Vec<Move>,
    pub(super) status: &'static str,
    pub(super) output: Option<Value>,
}

impl Script {
    fn ends(mut self, status: &'static str) -> Self {
        self.status = status;
        self
    }

    fn gives(mut self, output: Value) -> Self {
        self.output = Some(output);
        self
    }
}

fn of(pattern: u32, input: Value, moves: impl IntoIterator<Item = Move>) -> Script {
    Script { pattern, input, moves: moves.into_iter().collect(), status: "completed", output: None }
}

use Move::{Cancel, Child, Out, Signal, State};

/// Ends without anything to say.
fn done(unit: &'static str) -> Move {
    Move::Done(unit, Value::Null)
}

fn done_with(unit: &'static str, output: Value) -> Move {
    Move::Done(unit, output)
}

fn signal(name: &'static str) -> Move {
    Signal(name, Value::Null)
}

/// Every pattern that can be written, in the order of their numbers.
pub(super) fn scripts() -> Vec<Script> {
    let mut scripts =
        [branching(), instances(), states(), cancellation(), iteration()].into_iter().flatten().collect::<Vec<_>>();
    scripts.sort_by_key(|script| script.pattern);
    scripts
}

fn branching() -> Vec<Script> {
    let nothing = || Value::Null;
    vec![
        of(1, nothing(), [Out(&["a"]), done("a"), Out(&["b"]), done("b")]),
        of(2, nothing(), [done("a"), Out(&["b", "c"]), done("b"), done("c")]),
        of(3, nothing(), [done("b"), Out(&["a"]), done("a"), Out(&["c"]), done("c")]),
        of(
            4,
            nothing(),
            [done_with("a", json!({ "price": 50 })), Out(&["cheap"]), State("dear", "skipped"), done("cheap")],
        ),
        of(
            4,
            nothing(),
            [done_with("a", json!({ "price": 500 })), Out(&["dear"]), State("cheap", "skipped"), done("dear")],
        ),
        of(5, json!({ "price": 50 }), [Out(&["cheap"]), done("cheap"), Out(&["pay"]), done("pay")]),
        of(5, json!({ "price": 500 }), [Out(&["dear"]), done("dear"), Out(&["pay"]), done("pay")]),
        of(6, json!({ "fire": true, "injured": false }), [Out(&["fire", "police"]), done("fire"), done("police")]),
        of(
            7,
            json!({ "fire": true, "injured": true }),
            [done("fire"), Out(&["ambulance"]), done("ambulance"), done("report")],
        ),
        of(7, json!({ "fire": true, "injured": false }), [done("fire"), Out(&["report"]), done("report")]),
        of(9, nothing(), [done("b"), Out(&["a", "next"]), done("next"), Out(&["a"]), done("a")]),
        of(
            28,
            nothing(),
            [done("a"), done("next"), Out(&["b"]), done("b"), Out(&["a", "b"]), done("b"), done("next"), done("a")],
        ),
        of(29, nothing(), [Out(&["a", "b"]), done("b"), Out(&["next"]), State("a", "cancelled"), done("next")]),
        of(30, nothing(), [done("a"), Out(&["b", "c"]), done("c"), Out(&["b", "next"]), done("next"), done("b")]),
        of(
            31,
            nothing(),
            [
                done("a"),
                done("c"),
                done("next"),
                Out(&["b"]),
                done("b"),
                Out(&["a", "b", "c"]),
                done("a"),
                done("b"),
                done("next"),
                done("c"),
            ],
        ),
        of(
            32,
            nothing(),
            [Out(&["a", "b", "c"]), done("a"), done("c"), Out(&["next"]), State("b", "cancelled"), done("next")],
        ),
        of(
            37,
            json!({ "a": true, "b": true }),
            [done("a1"), done("a2"), done("b1"), Out(&["b2"]), done("b2"), Out(&["merge"]), done("merge")],
        ),
        of(
            37,
            json!({ "a": false, "b": true }),
            [Out(&["b1"]), done("b1"), done("b2"), Out(&["merge"]), done("merge")],
        ),
        of(
            38,
            json!({ "a": true }),
            [
                done("b"),
                done_with("measure", json!({ "enough": false })),
                Out(&["measure"]),
                done_with("measure", json!({ "enough": true })),
                Out(&["merge"]),
                done("merge"),
            ],
        ),
        of(38, json!({ "a": false }), [Out(&["b"]), done("b"), Out(&["merge"]), done("merge")]),
    ]
}

fn instances() -> Vec<Script> {
    let nothing = || Value::Null;
    vec![
        of(
            12,
            json!({ "people": ["x", "y"] }),
            [
                Out(&["notify[0]", "notify[1]", "next"]),
                done("next"),
                Out(&["notify[0]", "notify[1]"]),
                done("notify[0]"),
                done("notify[1]"),
            ],
        ),
        of(
            13,
            nothing(),
            [done("sign[0]"), done("sign[2]"), Out(&["sign[1]"]), done("sign[1]"), Out(&["next"]), done("next")],
        ),
        of(
            14,
            nothing(),
            [
                done_with("list", json!(["x", "y"])),
                Out(&["check[0]", "check[1]"]),
                done("check[1]"),
                done("check[0]"),
                Out(&["next"]),
                done("next"),
            ],
        ),
        of(
            15,
            nothing(),
            [
                Signal("witness", json!("Ann")),
                Out(&["interview[0]"]),
                Signal("witness", json!("Bob")),
                Out(&["interview[0]", "interview[0]"]),
                Signal("witness", json!("nobody")),
                done("interview[0]"),
                Out(&["interview[0]"]),
                done("interview[0]"),
                Out(&["next"]),
                done("next"),
            ],
        ),
        of(
            26,
            nothing(),
            [
                done("check[0]"),
                Out(&["check[1]", "check[2]"]),
                signal("stop"),
                Out(&[]),
                State("check", "cancelled"),
                State("after", "skipped"),
            ],
        ),
        of(27, nothing(), [done("check[0]"), signal("enough"), Out(&["after"]), done("after")]),
        of(
            34,
            nothing(),
            [done("check[0]"), done("check[2]"), Out(&["check[1]", "next"]), done("next"), done("check[1]")],
        ),
        of(35, nothing(), [done("check[0]"), done("check[2]"), Out(&["next"]), done("next")]),
        of(
            36,
            nothing(),
            [
                Signal("place", json!("attic")),
                Signal("place", json!("cellar")),
                Out(&["look", "look"]),
                done_with("look", json!(1)),
                Out(&["look"]),
                Signal("place", json!("garden")),
                Out(&["look", "look"]),
                done_with("look", json!(1)),
                Out(&["look", "next"]),
                State("more", "completed"),
                done("next"),
                done_with("look", json!(5)),
            ],
        ),
    ]
}

fn states() -> Vec<Script> {
    let nothing = || Value::Null;
    vec![
        of(16, nothing(), [signal("mail"), Out(&["read"]), State("talk", "skipped"), done("read")]),
        of(16, nothing(), [signal("phone"), Out(&["talk"]), State("read", "skipped"), done("talk")]),
        of(17, nothing(), [Out(&["a1"]), done("a1"), Out(&["b"]), done("b"), Out(&["a2"]), done("a2")]),
        of(
            18,
            nothing(),
            [done("place"), Signal("change", json!("blue")), Out(&["apply", "ship"]), done("ship"), done("apply")],
        ),
        of(18, nothing(), [done("place"), done("ship"), State("apply", "skipped")]),
        of(
            23,
            nothing(),
            [Signal("go", json!("early")), done("a"), State("go", "waiting"), Signal("go", json!("now"))],
        )
        .gives(json!({ "go": "now" })),
        of(24, nothing(), [Signal("go", json!("early")), done("a")]).gives(json!({ "go": "early" })),
        of(39, nothing(), [Out(&["a1"]), done("a1"), Out(&["a2"]), done("a2"), Out(&["b1"]), done("b1"), done("b2")]),
        of(40, nothing(), [Out(&["a"]), done("a"), Out(&["b"]), done("b"), Out(&["c"]), done("c")]),
    ]
}

fn cancellation() -> Vec<Script> {
    let nothing = || Value::Null;
    vec![
        of(11, nothing(), [done("a"), Out(&["b"]), done("b")]),
        of(19, nothing(), [Out(&["search"]), signal("stop"), Out(&[]), State("search", "cancelled")]),
        of(19, nothing(), [done("search"), State("search", "completed")]),
        of(20, nothing(), [Out(&["work"]), Signal("withdraw", json!("changed my mind")), Out(&[])]).ends("cancelled"),
        of(20, nothing(), [Out(&["work"]), Cancel, Out(&[])]).ends("cancelled"),
        of(
            25,
            nothing(),
            [
                Out(&["a", "b1", "c1"]),
                signal("alarm"),
                Out(&["a", "next"]),
                State("b2", "cancelled"),
                State("c", "cancelled"),
                done("a"),
                done("next"),
            ],
        ),
        of(43, nothing(), [Out(&["a", "b"]), done_with("a", json!("me")), Out(&[])]).gives(json!({ "by": "me" })),
    ]
}

fn iteration() -> Vec<Script> {
    let next = |step: &'static str, next: &str| done_with(step, json!({ "next": next }));
    vec![
        of(
            10,
            Value::Null,
            [
                Out(&["draft"]),
                next("draft", "review"),
                next("review", "fix"),
                next("fix", "draft"),
                next("draft", "review"),
                next("review", "done"),
            ],
        ),
        of(
            21,
            json!({ "times": 2 }),
            [
                done_with("after", json!({ "good": false })),
                done("before"),
                done("before"),
                Out(&["after"]),
                done_with("after", json!({ "good": true })),
            ],
        ),
        of(21, json!({ "times": 0 }), [Out(&["after"]), done_with("after", json!({ "good": true }))]),
        of(
            22,
            Value::Null,
            [
                done_with("half", json!(4)),
                Child("again"),
                done_with("half", json!(2)),
                Child("again"),
                done_with("half", json!(1)),
            ],
        ),
        of(22, Value::Null, [done_with("half", json!(1)), State("again", "skipped")]),
    ]
}
