//! What anybody may give as a definition, as a schema or as an input, and what a damaged log may hold.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::sync::LazyLock;

use allocation_counter::measure;
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use testkit::fuzz::{cases, damaged, json, mutated, text};
use workflow::{Definition, Event, Fault, InputSchema, Limits, Misfit};

/// Definitions that people write: those of the documents.
static VALID: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let text = include_str!("../../../docs/patterns.md");
    let yaml = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let all = yaml.filter_map(|(yaml, _)| serde_saphyr::from_str(yaml).ok()).filter(|value: &Value| value.is_object());
    all.collect()
});

/// What a definition may cost, in bytes: so much for each of its own, and CEL and schemas besides.
fn may_cost(bytes: usize) -> u64 {
    (16 << 20) + 2_000 * bytes as u64
}

fn parse(bytes: &[u8]) -> Result<Definition, Vec<Fault>> {
    let mut parsed = None;
    let asked = measure(|| parsed = Some(Definition::parse(bytes, Limits::default()))).bytes_max;
    assert!(asked < may_cost(bytes.len()), "{asked} bytes for {} bytes", bytes.len());
    parsed.unwrap()
}

/// Every fault points at something, and says what is wrong.
fn are_told(document: &Value, faults: &[Fault]) -> Result<(), TestCaseError> {
    prop_assert!(!faults.is_empty());
    for fault in faults {
        prop_assert!(document.pointer(&fault.pointer).is_some(), "{:?} in {}", fault, document);
        prop_assert!(!fault.message.is_empty() && !fault.code.is_empty());
        prop_assert!(fault.message.len() < 20_000, "{} bytes", fault.message.len());
    }
    Ok(())
}

#[test]
fn the_documents_have_valid_ones() {
    let valid = VALID.iter().filter(|definition| parse(definition.to_string().as_bytes()).is_ok()).count();
    assert!(valid > 20, "{valid}");
}

fn any_schema() -> impl Strategy<Value = Value> {
    let valid = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["name", "amount"],
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 40, "pattern": "^[a-z ]+$" },
            "amount": { "type": "number", "minimum": 0, "multipleOf": 0.01 },
            "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" }, "uniqueItems": true, "maxItems": 4 },
            "when": { "type": "string", "format": "date-time" },
            "child": { "$ref": "#" },
        },
        "patternProperties": { "^x-": true },
        "additionalProperties": false,
        "if": { "properties": { "amount": { "const": 0 } } },
        "then": { "required": ["tags"] },
        "else": { "not": { "required": ["never"] } },
        "$defs": { "tag": { "anyOf": [{ "enum": ["a", "b", null] }, { "type": "integer" }] } },
    });
    let reference = select(vec![
        "#",
        "#/$defs/tag",
        "#/properties/child",
        "#/properties",
        "#/nowhere",
        "#tag",
        "https://127.0.0.1/a",
        "file:///etc/passwd",
        "#/properties/%61mount",
    ]);
    let at = select(vec!["/properties/child/$ref", "/properties/tags/items/$ref", "/$defs/tag", "/then", "/if"]);
    prop_oneof![
        json(),
        mutated(valid.clone()),
        (mutated(valid.clone()), reference.clone(), at.clone()).prop_map(|(mut schema, reference, at)| {
            if let Some(place) = schema.pointer_mut(at) {
                *place = json!({ "$ref": reference, "allOf": [{ "$ref": reference }, { "$ref": reference }] });
            }
            schema
        }),
        (text(), Just(valid)).prop_map(|(pattern, mut schema)| {
            schema["properties"]["name"]["pattern"] = pattern.into();
            schema
        }),
    ]
}

fn any_input() -> impl Strategy<Value = Value> {
    let valid =
        json!({ "name": "a b", "amount": 1.5, "tags": ["a", 1], "child": { "name": "c", "amount": 0, "tags": [] } });
    prop_oneof![json(), mutated(valid)]
}

fn any_event() -> impl Strategy<Value = Vec<u8>> {
    let unit = json!({ "frame": 0, "step": 1, "index": 4 });
    let valid = select(vec![
        json!({ "step_completed": { "unit": unit, "output": { "a": [1, null] }, "begun_at": 1_000 } }),
        json!({ "step_scheduled": { "task": { "unit": unit, "purpose": "run", "attempt": 2 }, "input": null } }),
        json!({ "step_failed": { "unit": unit, "failure": { "code": "a", "message": "b", "retryable": true } } }),
        json!({ "retried": { "steps": [0, 1], "deadline": 1_000 } }),
        json!("paused"),
    ]);
    prop_oneof![
        any::<Vec<u8>>(),
        valid.clone().prop_flat_map(mutated).prop_map(|event| event.to_string().into_bytes()),
        damaged(valid.prop_map(|event| event.to_string().into_bytes())),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_definition_with_something_wrong_is_told_where(document in (0..VALID.len()).prop_flat_map(|at| mutated(VALID[at].clone()))) {
        match parse(document.to_string().as_bytes()) {
            Ok(definition) => {
                let again = parse(document.to_string().as_bytes()).unwrap();
                prop_assert_eq!(format!("{:?}", again.plan.steps), format!("{:?}", definition.plan.steps));
            }
            Err(faults) => are_told(&document, &faults)?,
        }
    }

    #[test]
    fn a_definition_that_is_damaged_is_refused_or_another(bytes in (0..VALID.len()).prop_flat_map(|at| damaged(Just(VALID[at].to_string().into_bytes())))) {
        if let Err(faults) = parse(&bytes) {
            prop_assert!(!faults.is_empty());
        }
    }

    #[test]
    fn any_schema_is_compiled_and_applied_within_its_bounds(schema in any_schema(), input in any_input()) {
        let mut compiled = Err(String::new());
        let text = schema.to_string();
        let asked = measure(|| compiled = InputSchema::compile(&schema)).bytes_max;
        prop_assert!(asked < may_cost(text.len()), "{} bytes for {}", asked, text);
        match compiled {
            Ok(compiled) => {
                let mut checked = Ok(());
                let asked = measure(|| checked = compiled.check(&input)).bytes_max;
                prop_assert!(asked < may_cost(text.len() + input.to_string().len()), "{} bytes", asked);
                if let Err(Misfit::Faults(faults)) = checked {
                    prop_assert!(!faults.is_empty());
                    for (pointer, _) in faults {
                        prop_assert!(input.pointer(&pointer).is_some(), "{} in {}", pointer, input);
                    }
                }
            }
            Err(why) => prop_assert!(!why.is_empty()),
        }
    }

    #[test]
    fn a_damaged_event_is_an_error_or_another_event(bytes in any_event()) {
        let mut decoded = None;
        let asked = measure(|| decoded = Event::decode(&bytes).ok()).bytes_max;
        prop_assert!(asked < 4_096 + 64 * bytes.len() as u64, "{} bytes for {}", asked, bytes.len());
        let _ = Event::begins_a_run(&bytes);
        if let Some(event) = decoded {
            prop_assert_eq!(Event::decode(&event.encode()).unwrap(), event.clone());
            let plan = Definition::parse(VALID[0].to_string().as_bytes(), Limits::default()).unwrap().plan;
            prop_assert!(serde_json::from_slice::<Value>(&event.to_api_json(&plan)).is_ok());
        }
    }
}
