mod each;

use std::{fmt::Write as _, time::Duration};

use domain::Payload;
use proptest::{prelude::*, strategy::Strategy as _};
use serde_json::{Value, json};

use super::*;
use crate::{
    Target,
    decision::Question,
    plan::{Join, OnFailure, OnSkip, OnTimeout, StepKind, Strategy, Voters},
};

fn parse(document: &Value) -> Result<Definition, Vec<Fault>> {
    Definition::parse(document.to_string().as_bytes(), Limits::default())
}

/// Pointers and codes of all faults.
fn faults(document: &Value) -> Vec<(String, &'static str)> {
    parse(document)
        .map_or_else(|faults| faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect(), |_| Vec::new())
}

/// A definition with this step, after a step `a`.
#[expect(clippy::needless_pass_by_value, reason = "documents are written in place")]
fn with(step: Value) -> Value {
    json!({"name": "w", "steps": [{"id": "a", "agent_type": "x"}, step]})
}

fn task(fields: Value) -> Value {
    let mut step = json!({"id": "b", "agent_type": "x", "depends_on": ["a"]});
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    for (key, value) in fields {
        step[key] = value;
    }
    with(step)
}

fn decision(fields: Value) -> Value {
    let mut decision = json!({"question": "?", "options": ["y", "n"], "voters": {"capability": "c", "count": 3}});
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    for (key, value) in fields {
        decision[key] = value;
    }
    with(json!({"id": "b", "decision": decision}))
}

#[test]
fn the_example_of_the_documentation_compiles() {
    let document = json!({
        "name": "loan-decision",
        "description": "Score every application",
        "input_schema": {"type": "object", "required": ["file"]},
        "steps": [
            {"id": "load", "agent_type": "data", "action": "read_csv", "input": {"path": "${{ input.file }}"}},
            {"id": "score", "capability": "credit.score", "action": "score", "for_each": "${{ steps.load.output.rows }}", "max_parallel": 16,
             "input": "${{ item }}",
             "retry": {"max_attempts": 5, "initial_interval": "200ms", "backoff": 2.0, "max_interval": "10s", "jitter": true},
             "timeout": "30s", "compensate": {"agent_type": "data", "action": "unscore", "input": "${{ steps.score.output }}"}},
            {"id": "vote", "decision": {"question": "Approve?", "options": ["approve", "reject"], "voters": {"capability": "underwriter", "count": 5},
             "strategy": "majority", "quorum": 3, "deadline": "1m"}},
            {"id": "approve", "when": "steps.vote.output.margin < 0.2", "signal": {"name": "approval", "timeout": "24h", "on_timeout": "reject"}},
            {"id": "cool_down", "sleep": "5s"},
            {"id": "report", "agent_type": "writer", "on_failure": "continue", "on_skip": "done", "join": {"count": 1}}
        ],
        "dependencies": {"score": ["load"], "vote": ["score"], "approve": ["vote"], "cool_down": ["approve"], "report": ["cool_down"]},
        "output": "${{ steps.vote.output }}",
        "config": {"timeout": "1h", "max_parallel": 32, "priority": 7}
    });
    let plan = parse(&document).unwrap().plan;
    assert_eq!((plan.max_parallel, plan.priority, plan.timeout), (32, 7, Some(Duration::from_hours(1))));
    let score = &plan.steps[1];
    assert_eq!((score.depends_on.as_slice(), score.dependents.as_slice(), score.priority), (&[0][..], &[2][..], 7));
    assert_eq!(score.retry.initial_interval, Duration::from_millis(200));
    assert!(matches!(&score.kind, StepKind::Task { target: Target::Capability(name), .. } if name == "credit.score"));
    assert!(score.for_each.as_ref().is_some_and(|each| each.max_parallel == 16));
    let StepKind::Decision(vote) = &plan.steps[2].kind else { panic!("a decision") };
    assert!(matches!(&vote.voters, Voters::Any { count: 5, .. }));
    assert_eq!((vote.quorum, vote.strategy), (3, Strategy::Majority));
    assert!(matches!(&plan.steps[3].kind, StepKind::Signal { on_timeout: OnTimeout::Reject, .. }));
    assert!(matches!(&plan.steps[4].kind, StepKind::Sleep(duration) if *duration == Duration::from_secs(5)));
    assert_eq!((plan.steps[5].join, plan.steps[5].on_skip), (Join::Count(1), OnSkip::CountAsDone));
    assert!(matches!(plan.steps[5].on_failure, OnFailure::Continue(_)));
}

#[test]
fn what_is_not_said_has_defaults() {
    let plan = parse(&json!({"name": "w", "steps": [{"id": "a", "agent_type": "x", "input": null}]})).unwrap().plan;
    let step = &plan.steps[0];
    assert!(matches!(&step.kind, StepKind::Task { action, .. } if action == "run"));
    let retry = &step.retry;
    assert_eq!(
        (retry.max_attempts, retry.initial_interval, retry.max_interval),
        (4, Duration::from_secs(1), Duration::from_mins(1))
    );
    assert!(retry.jitter && (retry.backoff - 2.0).abs() < f64::EPSILON);
    assert_eq!((plan.max_parallel, plan.priority, step.priority, step.join), (64, 5, 5, Join::All));
}

#[test]
fn bytes_that_are_no_definition_are_refused() {
    let deep = format!("{{\"name\": {}", "[".repeat(100_000));
    for json in ["", "{", "{\"name\": 1e999}", "\u{1}", deep.as_str()] {
        let faults = Definition::parse(json.as_bytes(), Limits::default()).unwrap_err();
        assert_eq!((faults.len(), faults[0].code), (1, "invalid_json"), "{json:.20}");
    }
    let small = Limits { max_bytes: 10, max_steps: 1, ..Limits::default() };
    assert_eq!(Definition::parse(&[b' '; 11], small).unwrap_err()[0].code, "definition_too_large");
    let two = with(json!({"id": "b", "agent_type": "x"})).to_string();
    let few = Limits { max_bytes: 1_000, max_steps: 1, ..Limits::default() };
    assert_eq!(Definition::parse(two.as_bytes(), few).unwrap_err()[0].code, "too_many_steps");
}

#[test]
fn keys_that_come_twice_are_faults() {
    let json = br#"{"name": "w", "steps": [{"id": "a", "agent_type": "x"}], "dependencies": {"a": [], "a": []}}"#;
    let faults = Definition::parse(json, Limits::default()).unwrap_err();
    assert_eq!((faults[0].pointer.as_str(), faults[0].code), ("/dependencies/a", "duplicate_key"));
}

#[test]
fn all_faults_come_at_once_in_the_order_of_the_document() {
    let document = json!({
        "description": 1,
        "steps": [
            {"id": "a", "agent_type": "x", "timeout": "soon", "input": "${{ steps.c.output }}"},
            {"id": "a", "depends_on": ["nobody"]},
            {"id": "c", "agent_type": "x", "retry": {"max_attempts": 0}}
        ],
        "config": {"priority": 10}
    });
    let expected = [
        ("", "missing_field"),
        ("/description", "wrong_type"),
        ("/steps/0/timeout", "invalid_duration"),
        ("/steps/0/input", "step_not_upstream"),
        ("/steps/1", "no_work"),
        ("/steps/1/id", "duplicate_step"),
        ("/steps/1/depends_on/0", "unknown_step"),
        ("/steps/2/retry/max_attempts", "out_of_range"),
        ("/config/priority", "out_of_range"),
    ];
    assert_eq!(faults(&document), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
}

#[test]
fn each_cycle_is_reported_with_its_members() {
    let step = |id: &str, after: &[&str]| json!({"id": id, "agent_type": "x", "depends_on": after});
    let steps = [
        step("a", &["c"]),
        step("b", &["a"]),
        step("c", &["b"]),
        step("d", &["c", "e"]),
        step("e", &["d"]),
        step("f", &["e"]),
    ];
    let faults = parse(&json!({"name": "w", "steps": steps})).unwrap_err();
    let cycles: Vec<_> = faults.iter().map(|fault| (fault.pointer.as_str(), fault.code)).collect();
    assert_eq!(cycles, [("/steps/0", "cycle"), ("/steps/3", "cycle")]);
    assert!(faults[0].message.contains("a → c → b → a"), "{}", faults[0].message);
    assert!(faults[1].message.contains("d → e → d"), "{}", faults[1].message);
}

#[test]
fn near_misses_are_named() {
    let faults =
        parse(&task(json!({"dependson": ["a"], "when": "imput.x", "input": "${{ steps.A.output }}"}))).unwrap_err();
    let messages: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
    for (message, name) in messages.iter().zip(["depends_on", "input", "a"]) {
        assert!(message.contains(&format!("did you mean `{name}`")), "{message}");
    }
}

#[test]
fn an_undo_sees_its_own_step_and_others_only_upstream() {
    let undo = |read: &str| {
        task(json!({"compensate": {"agent_type": "x", "input": format!("${{{{ steps.{read}.output }}}}")}}))
    };
    assert!(parse(&undo("b")).is_ok());
    assert!(parse(&undo("a")).is_ok());
    let mut unrelated = undo("c");
    unrelated["steps"].as_array_mut().unwrap().push(json!({"id": "c", "agent_type": "x"}));
    assert_eq!(faults(&unrelated), [("/steps/1/compensate/input".to_owned(), "step_not_upstream")]);
}

#[test]
fn a_flood_of_faults_is_cut() {
    let ids: Vec<_> = (0..100_000).collect();
    let faults = parse(&task(json!({"depends_on": ids}))).unwrap_err();
    assert_eq!(faults.len(), MAX_FAULTS + 1);
    assert_eq!(faults.last().unwrap().code, "too_many_faults");
}

/// A chain of 10,000 in which each step reads the one before, the one far before, and the first.
fn long_chain(reads: impl Fn(usize) -> Vec<usize>) -> String {
    let mut json = String::from(r#"{"name": "w", "steps": ["#);
    for step in 0..10_000_usize {
        let comma = if step == 0 { "" } else { "," };
        let after = step.checked_sub(1).map(|before| format!("\"s{before}\"")).unwrap_or_default();
        let inputs: Vec<_> =
            reads(step).into_iter().map(|read| format!("\"${{{{ steps.s{read}.output.x }}}}\"")).collect();
        write!(
            json,
            r#"{comma}{{"id": "s{step}", "agent_type": "x", "depends_on": [{after}], "input": [{}]}}"#,
            inputs.join(",")
        )
        .unwrap();
    }
    json + "]}"
}

#[test]
fn ten_thousand_steps_are_checked_with_what_they_read() {
    let json = long_chain(|step| if step == 0 { vec![] } else { vec![step - 1, step / 2, 0] });
    let plan = Definition::parse(json.as_bytes(), Limits::default()).unwrap().plan;
    assert_eq!(plan.steps.len(), 10_000);
    assert_eq!(plan.steps[9_999].depends_on, [9_998]);
    let ahead = long_chain(|step| if step == 5_000 { vec![5_000, 7_000, 4_000] } else { vec![] });
    let faults = Definition::parse(ahead.as_bytes(), Limits::default()).unwrap_err();
    let places: Vec<_> = faults.iter().map(|fault| (fault.pointer.as_str(), fault.code)).collect();
    assert_eq!(places, [("/steps/5000/input/0", "step_not_upstream"), ("/steps/5000/input/1", "step_not_upstream")]);
}

fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    let text = prop_oneof![
        "[a-c]",
        "[0-9]{1,3}(ms|s|h|y)",
        "\\$\\{\\{ ?(input|steps|item)(\\.[a-c]|\\.output|\\[[0-9]\\]|[<+(){}\"]){0,4} ?(\\}\\})?",
        Just("majority".to_owned()),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2..12_i64).prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    let keys = [
        &["id", "name", "steps", "agents", "count", "fallback", "config", "voters", "options", "dependencies"][..],
        &steps_fields(),
    ]
    .concat();
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(keys.clone()), inner), 0..6)
                .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

fn steps_fields() -> Vec<&'static str> {
    vec![
        "agent_type",
        "input",
        "decision",
        "question",
        "signal",
        "sleep",
        "depends_on",
        "join",
        "when",
        "for_each",
        "retry",
        "compensate",
        "on_failure",
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes: Vec<u8>) {
        let _ = Definition::parse(&bytes, Limits::default());
    }

    #[test]
    fn any_document_is_answered_with_faults_at_places_that_exist(steps in prop::collection::vec(any_json(), 0..4), rest in any_json()) {
        let mut document = json!({"name": "w", "steps": steps});
        if let Value::Object(rest) = rest {
            document.as_object_mut().unwrap().extend(rest);
        }
        if let Err(faults) = parse(&document) {
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!(document.pointer(&fault.pointer).is_some(), "{:?}", fault);
            }
        }
    }
}

#[test]
fn faults_do_not_repeat_what_is_long() {
    let long = "\u{e9}~/".repeat(100_000);
    let twice = (0..600).map(|number| format!(r#""{number}":1,"{number}":1"#)).collect::<Vec<_>>().join(",");
    let name = serde_json::to_string(&long).unwrap();
    let document =
        format!(r#"{{"name":"w","steps":[{{"id":"a","agent_type":"x",{name}:1,"input":{{{name}:{{{twice}}}}}}}]}}"#);
    let faults = Definition::parse(document.as_bytes(), Limits::default()).unwrap_err();
    assert!(faults.len() > 500, "{}", faults.len());
    for fault in faults {
        assert!(["/steps/0", "/steps/0/input"].contains(&fault.pointer.as_str()), "{}", fault.pointer);
        assert!(fault.message.len() <= MAX_MESSAGE + 3, "{}", fault.message.len());
    }
}

#[test]
fn expressions_are_counted() {
    let document = task(json!({"input": vec!["${{ input }}"; 50_001]}));
    assert_eq!(faults(&document), [("/steps/1/input/50000".to_owned(), "too_many_expressions")]);
}

#[test]
fn schemas_are_never_fetched() {
    let document = json!({"name": "w", "input_schema": {"$ref": "https://example.com/schema.json"}, "steps": [{"id": "a", "agent_type": "x"}]});
    assert_eq!(faults(&document), [("/input_schema".to_owned(), "invalid_schema")]);
}

#[test]
fn what_voters_get_is_evaluated_once_and_reads_back() {
    let document = decision(
        json!({"question": "${{ input.q }}?", "options": "${{ input.o }}", "context": {"of": "${{ execution.id }}"}}),
    );
    let plan = parse(&document).unwrap().plan;
    let StepKind::Decision(decision) = &plan.steps[1].kind else { panic!("a decision") };
    let voters = |input: Value| {
        let scope = OnlyInput(Payload::from_value(&input));
        decision.voter_input(&scope).map_err(|failure| failure.code)
    };
    let input = voters(json!({"q": "Ship", "o": ["yes", "no"]})).unwrap();
    assert_eq!(input.to_value()["strategy"], "majority");
    let question = Question::from_payload(&input).unwrap();
    assert_eq!(
        (question.question.as_str(), question.options.as_slice()),
        ("Ship?", &["yes".to_owned(), "no".to_owned()][..])
    );
    for options in [json!([]), json!(["a", "a"]), json!([1])] {
        assert_eq!(voters(json!({"q": 1, "o": options})).unwrap_err(), "invalid_decision");
    }
    assert_eq!(voters(json!({"q": 1, "o": 2})).unwrap_err(), "expression");
}

struct OnlyInput(Payload);

impl crate::expression::Scope for OnlyInput {
    fn input(&self) -> &Payload {
        &self.0
    }

    fn step_output(&self, _: StepIndex) -> Option<&Payload> {
        None
    }

    fn item(&self) -> Option<(&Payload, u32)> {
        None
    }

    fn execution_id(&self) -> domain::ExecutionId {
        domain::ExecutionId::from_parts(1, 1)
    }
}
