//! Each fault there is, with its code and its place.

use serde_json::{Value, json};

use super::{decision, faults, task, with};

/// Each document has this one fault.
fn each(cases: Vec<(Value, &str, &str)>) {
    for (document, pointer, code) in cases {
        let found = faults(&document);
        assert_eq!(found, [(pointer.to_owned(), code)], "{document}");
    }
}

#[test]
fn each_fault_of_a_definition_has_its_code_and_place() {
    each(vec![
        (json!([]), "", "wrong_type"),
        (json!({"steps": [{"id": "a", "agent_type": "x"}]}), "", "missing_field"),
        (json!({"name": "w"}), "", "missing_field"),
        (json!({"name": "w", "steps": []}), "/steps", "missing_field"),
        (json!({"name": "w", "steps": {}}), "/steps", "wrong_type"),
        (json!({"name": " w", "steps": [{"id": "a", "agent_type": "x"}]}), "/name", "invalid_name"),
        (json!({"name": "w", "setps": 1, "steps": [{"id": "a", "agent_type": "x"}]}), "/setps", "unknown_field"),
        (
            json!({"name": "w", "input_schema": {"type": "objekt"}, "steps": [{"id": "a", "agent_type": "x"}]}),
            "/input_schema",
            "invalid_schema",
        ),
        (
            json!({"name": "w", "config": {"concurrency_key": "${{ steps.a.output }}"}, "steps": [{"id": "a", "agent_type": "x"}]}),
            "/config/concurrency_key",
            "step_not_visible",
        ),
        (
            json!({"name": "w", "config": {"concurrency_limit": 2}, "steps": [{"id": "a", "agent_type": "x"}]}),
            "/config/concurrency_limit",
            "not_applicable",
        ),
        (
            json!({"name": "w", "dependencies": {"z": []}, "steps": [{"id": "a", "agent_type": "x"}]}),
            "/dependencies/z",
            "unknown_step",
        ),
        (
            json!({"name": "w", "dependencies": {"a": ["a"]}, "steps": [{"id": "a", "agent_type": "x"}]}),
            "/dependencies/a/0",
            "self_dependency",
        ),
        (
            json!({"name": "w", "output": "${{ steps.z.output }}", "steps": [{"id": "a", "agent_type": "x"}]}),
            "/output",
            "unknown_step",
        ),
    ]);
}

#[test]
fn each_fault_of_a_step_has_its_code_and_place() {
    each(vec![
        (with(json!("b")), "/steps/1", "wrong_type"),
        (with(json!({"agent_type": "x"})), "/steps/1", "missing_field"),
        (with(json!({"id": "b/c", "agent_type": "x"})), "/steps/1/id", "invalid_id"),
        (with(json!({"id": "a", "agent_type": "x"})), "/steps/1/id", "duplicate_step"),
        (with(json!({"id": "b"})), "/steps/1", "no_work"),
        (with(json!({"id": "b", "agent_type": "x", "sleep": "1s"})), "/steps/1", "ambiguous_work"),
        (with(json!({"id": "b", "agent_type": "x", "capability": "y"})), "/steps/1", "ambiguous_target"),
        (with(json!({"id": "b", "agent_id": "bob"})), "/steps/1/agent_id", "invalid_id"),
        (with(json!({"id": "b", "agent_type": "x y"})), "/steps/1/agent_type", "invalid_name"),
        (with(json!({"id": "b", "sleep": "5 parsecs"})), "/steps/1/sleep", "invalid_duration"),
        (with(json!({"id": "b", "sleep": 0})), "/steps/1/sleep", "out_of_range"),
        (with(json!({"id": "b", "sleep": -1})), "/steps/1/sleep", "out_of_range"),
        (with(json!({"id": "b", "sleep": "11years"})), "/steps/1/sleep", "out_of_range"),
        (with(json!({"id": "b", "sleep": 1e300})), "/steps/1/sleep", "out_of_range"),
        (with(json!({"id": "b", "sleep": "1s", "retry": {}})), "/steps/1/retry", "not_applicable"),
        (with(json!({"id": "b", "sleep_until": ""})), "/steps/1/sleep_until", "invalid_name"),
        (with(json!({"id": "b", "cancel": []})), "/steps/1/cancel", "missing_field"),
        (with(json!({"id": "b", "cancel": ["c"]})), "/steps/1/cancel/0", "unknown_step"),
        (with(json!({"id": "b", "cancel": ["b"]})), "/steps/1/cancel/0", "self_dependency"),
        (with(json!({"id": "b", "cancel": ["a"], "loop": {"while": true}})), "/steps/1/loop", "not_applicable"),
        (with(json!({"id": "b", "end": {"status": "gone"}})), "/steps/1/end/status", "unknown_value"),
        (with(json!({"id": "b", "end": {"output": 1, "input": 2}})), "/steps/1/end/input", "unknown_field"),
        (with(json!({"id": "b", "end": {"status": "failed"}})), "/steps/1/end", "missing_field"),
        (with(json!({"id": "b", "emit": {"payload": 1}})), "/steps/1/emit", "ambiguous_target"),
        (with(json!({"id": "b", "emit": {"execution": "x"}})), "/steps/1/emit", "missing_field"),
        (with(json!({"id": "b", "workflow": {}})), "/steps/1/workflow", "missing_field"),
        (with(json!({"id": "b", "block": {}})), "/steps/1/block", "missing_field"),
        (
            with(json!({"id": "b", "block": {"steps": [{"id": "a", "sleep": 1}]}})),
            "/steps/1/block/steps/0/id",
            "duplicate_step",
        ),
        (
            with(json!({"id": "b", "block": {"steps": [{"id": "c", "sleep": 1}]}, "depends_on": ["c"]})),
            "/steps/1/depends_on/0",
            "step_not_visible",
        ),
        (
            with(json!({"id": "b", "when": "steps.d.output", "block": {"steps": [{"id": "d", "sleep": 1}]}})),
            "/steps/1/when",
            "step_not_visible",
        ),
        (
            with(json!({"id": "b", "block": {"steps": [{"id": "c", "when": "steps.a.output", "sleep": 1}]}})),
            "/steps/1/block/steps/0/when",
            "step_not_upstream",
        ),
        (with(json!({"id": "b", "signal": {}})), "/steps/1/signal", "missing_field"),
        (
            with(json!({"id": "b", "signal": {"name": "s", "timeout": "1s", "on_timeout": "explode"}})),
            "/steps/1/signal/on_timeout",
            "unknown_value",
        ),
        (with(json!({"id": "b", "signal": {"name": "s", "on_timeout": "reject"}})), "/steps/1/signal", "missing_field"),
        (task(json!({"depends_on": ["z"]})), "/steps/1/depends_on/0", "unknown_step"),
        (task(json!({"depends_on": "a"})), "/steps/1/depends_on", "wrong_type"),
        (task(json!({"loop": {}})), "/steps/1/loop", "missing_field"),
        (task(json!({"loop": {"while": true, "until": true}})), "/steps/1/loop", "ambiguous_loop"),
        (task(json!({"loop": {"until": "item > 1"}})), "/steps/1/loop/until", "unknown_variable"),
        (task(json!({"when": "iteration > 1"})), "/steps/1/when", "unknown_variable"),
        (task(json!({"complete_when": true})), "/steps/1/complete_when", "not_applicable"),
        (task(json!({"for_each": [1], "input": "${{ completed }}"})), "/steps/1/input", "unknown_variable"),
        (task(json!({"detach": true})), "/steps/1/detach", "not_applicable"),
        (task(json!({"mutex": {"scope": "global"}})), "/steps/1/mutex", "missing_field"),
        (task(json!({"mutex": {"name": "m", "scope": "all"}})), "/steps/1/mutex/scope", "unknown_value"),
        (task(json!({"depends_on": ["a"], "cancel_rest": true})), "/steps/1/cancel_rest", "not_applicable"),
        (task(json!({"max_parallel": 2})), "/steps/1/max_parallel", "not_applicable"),
        (task(json!({"for_each": "steps.a.output"})), "/steps/1/for_each", "wrong_type"),
        (task(json!({"retry": {"max_attempts": 0}})), "/steps/1/retry/max_attempts", "out_of_range"),
        (task(json!({"retry": {"max_attempts": "3"}})), "/steps/1/retry/max_attempts", "wrong_type"),
        (task(json!({"retry": {"backoff": 0.5}})), "/steps/1/retry/backoff", "out_of_range"),
        (
            task(json!({"retry": {"initial_interval": "5s", "max_interval": "1s"}})),
            "/steps/1/retry/max_interval",
            "out_of_range",
        ),
        (task(json!({"retry": {"jitter": "yes"}})), "/steps/1/retry/jitter", "wrong_type"),
        (task(json!({"priority": 10})), "/steps/1/priority", "out_of_range"),
        (task(json!({"on_failure": "ignore"})), "/steps/1/on_failure", "unknown_value"),
        (task(json!({"on_failure": {}})), "/steps/1/on_failure", "missing_field"),
        (task(json!({"on_skip": "maybe"})), "/steps/1/on_skip", "unknown_value"),
        (task(json!({"join": "some"})), "/steps/1/join", "unknown_value"),
        (task(json!({"join": {"count": 2}})), "/steps/1/join/count", "out_of_range"),
        (task(json!({"compensate": {"action": "undo"}})), "/steps/1/compensate", "missing_field"),
    ]);
}

#[test]
fn each_fault_of_an_expression_has_its_code_and_place() {
    each(vec![
        (task(json!({"when": 3})), "/steps/1/when", "wrong_type"),
        (task(json!({"when": "input.x <"})), "/steps/1/when", "expression_invalid"),
        (task(json!({"when": "nothing > 1"})), "/steps/1/when", "unknown_variable"),
        (task(json!({"when": "now() > 1"})), "/steps/1/when", "unknown_function"),
        (
            task(json!({"input": {"a": ["${{ steps[input.x].output }}"]}})),
            "/steps/1/input/a/0",
            "dynamic_step_reference",
        ),
        (task(json!({"input": {"a/b": "${{ steps.b.output }}"}})), "/steps/1/input/a~1b", "step_not_upstream"),
        (task(json!({"input": "${{ item }}"})), "/steps/1/input", "unknown_variable"),
        (task(json!({"input": "${{ input"})), "/steps/1/input", "expression_invalid"),
        (
            task(json!({"input": format!("${{{{ {} }}}}", "1 + ".repeat(1500))})),
            "/steps/1/input",
            "expression_too_long",
        ),
        (
            task(json!({"input": format!("${{{{ {}1 }}}}", "1 + ".repeat(800))})),
            "/steps/1/input",
            "expression_too_complex",
        ),
    ]);
}

#[test]
fn each_fault_of_a_decision_has_its_code_and_place() {
    each(vec![
        (decision(json!({"strategy": "majorty"})), "/steps/1/decision/strategy", "unknown_strategy"),
        (decision(json!({"quorum": 4})), "/steps/1/decision/quorum", "out_of_range"),
        (decision(json!({"options": []})), "/steps/1/decision/options", "out_of_range"),
        (decision(json!({"options": ["a", "a"]})), "/steps/1/decision/options/1", "duplicate_option"),
        (decision(json!({"options": ["a", 1]})), "/steps/1/decision/options/1", "wrong_type"),
        (decision(json!({"question": null})), "/steps/1/decision", "missing_field"),
        (
            decision(json!({"voters": {"capability": "c", "count": 0}})),
            "/steps/1/decision/voters/count",
            "out_of_range",
        ),
        (decision(json!({"voters": {"capability": "c"}})), "/steps/1/decision/voters", "missing_field"),
        (decision(json!({"voters": {"agents": ["bob"]}})), "/steps/1/decision/voters/agents/0", "invalid_id"),
    ]);
}
