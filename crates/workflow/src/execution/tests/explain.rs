//! What it says that it waits for, where that is more than one word of the definition.

use super::{groups::block, *};

#[test]
fn explain_names_the_way_into_a_block() {
    let stage = Stage::with(json!([{
        "id": "each", "for_each": [1], "block": block(json!([{ "id": "in", "signal": { "name": "go" } }])),
    }]));
    let explanation = stage.execution.explain(&InHand(TaskPlace::Unknown));
    assert_eq!(explanation.summary, "Step `each[0] / in` waits for the signal `go`.");
}

#[test]
fn explain_says_which_iteration_whose_slots_and_until_when() {
    let definition = json!({ "name": "w", "config": { "timeout": "1h" }, "steps": [
        { "id": "rounds", "loop": { "while": "iteration < 5" }, "block": block(json!([{ "id": "in", "signal": { "name": "go" } }])) },
        { "id": "each", "for_each": [1, 2, 3, 4], "max_parallel": 3, "agent_type": "x" },
    ] });
    let mut stage = Stage::of(definition, Value::Null);
    stage.signal(1, "go", Value::Null).unwrap();
    let explanation = stage.execution.explain(&InHand(TaskPlace::Queued));
    let texts: Vec<_> = explanation.waits.iter().map(|wait| wait.text.as_str()).collect();
    assert!(texts.contains(&"Step `rounds (iteration 1) / in` waits for the signal `go`."), "{texts:?}");
    assert!(texts.contains(&"1 instances of step `each` wait for one of its 3 slots (`max_parallel`)."), "{texts:?}");
    let until = stage.now + Duration::from_hours(1);
    assert!(
        explanation.summary.ends_with(&format!(" What has not ended by {until} fails with `execution_timeout`.")),
        "{}",
        explanation.summary
    );
}
