//! The JSON Schema of an input, guarded: it takes no more than so many steps, whatever it says and whatever it meets.
//!
//! A schema of a few lines can ask for more checks than there is time for: references that double with each level, or a schema
//! that applies to itself twice, on an input that is deeply nested. The validator counts nothing, so each part of the schema gets
//! a keyword of ours, which does. Where the steps are used up it unwinds: the validator would else try every other way as well.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
};

use jsonschema::{Keyword, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};

/// Parts of a schema that one check may apply to parts of an input: some tenths of a second.
const MOST_STEPS: u32 = 2_000_000;
/// The same where all that is wrong is looked for; beyond them only the first of it is told.
const MOST_STEPS_FOR_ALL: u32 = 20_000;
/// Faults that are told.
const MOST_FAULTS: usize = 100;
/// What each part of a schema is given. No schema that people write has it.
const METER: &str = "troupe:meter";

/// Keywords whose values are schemas by name.
const OF_NAMES: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];
/// Keywords whose values are no schemas.
const OF_DATA: [&str; 7] = ["$vocabulary", "const", "default", "dependentRequired", "enum", "examples", "required"];

thread_local! {
    /// Steps that are left to the check that this thread is doing.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

/// An input schema, compiled.
#[derive(Debug)]
pub struct InputSchema(Validator);

/// How an input does not fit its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Pointers into the input, and what is wrong there: at most 100.
    Faults(Vec<(String, String)>),
    /// Whether it fits takes too long to find out.
    TooComplex,
}

impl InputSchema {
    /// Compiles a schema. References lead nowhere outside of it, and to schemas only; patterns are matched without backtracking.
    ///
    /// # Errors
    /// What is wrong with the schema, for people.
    pub fn compile(schema: &Value) -> Result<Self, String> {
        if !matches!(schema, Value::Object(_) | Value::Bool(_)) {
            return Err("must be a JSON Schema: an object, true or false".to_owned());
        }
        let mut metered = schema.clone();
        meter(&mut metered);
        check_references(&metered, &metered)?;
        let options = jsonschema::options()
            .with_pattern_options(PatternOptions::regex())
            .with_keyword(METER, |_, _, _| Ok(Box::new(Meter)));
        options.build(&metered).map(Self).map_err(|error| format!("not a JSON Schema: {error}"))
    }

    /// # Errors
    /// How it does not fit.
    pub fn check(&self, input: &Value) -> Result<(), Misfit> {
        let told = |error: &ValidationError<'_>| (error.instance_path().to_string(), error.to_string());
        if within(MOST_STEPS, || self.0.is_valid(input)).ok_or(Misfit::TooComplex)? {
            return Ok(());
        }
        let all = || self.0.iter_errors(input).take(MOST_FAULTS).map(|error| told(&error)).collect();
        let first = || self.0.validate(input).err().iter().map(told).collect();
        let faults = within(MOST_STEPS_FOR_ALL, all).or_else(|| within(MOST_STEPS, first));
        Err(faults.map_or(Misfit::TooComplex, Misfit::Faults))
    }
}

/// What unwinds where the steps are used up.
struct UsedUp;

/// Does something in so many steps, or not at all.
fn within<T>(steps: u32, work: impl FnOnce() -> T) -> Option<T> {
    LEFT.set(steps);
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(payload) if payload.is::<UsedUp>() => None,
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Counts.
struct Meter;

impl Meter {
    fn step() {
        match LEFT.get().checked_sub(1) {
            Some(left) => LEFT.set(left),
            // Without a word in the log, unlike a panic.
            None => panic::resume_unwind(Box::new(UsedUp)),
        }
    }
}

impl<'i> Keyword<'i> for Meter {
    fn validate(&self, _: &'i Value) -> Result<(), ValidationError<'i>> {
        Self::step();
        Ok(())
    }

    fn is_valid(&self, _: &'i Value) -> bool {
        Self::step();
        true
    }
}

/// Gives every part of a schema its meter. What no keyword is known for may be led to by a reference, so it has one as well.
fn meter(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            for (keyword, value) in keywords.iter_mut() {
                match value {
                    _ if OF_DATA.contains(&keyword.as_str()) => {}
                    Value::Object(named) if OF_NAMES.contains(&keyword.as_str()) => named.values_mut().for_each(meter),
                    value => meter(value),
                }
            }
            keywords.insert(METER.to_owned(), Value::Bool(true));
        }
        Value::Array(parts) => parts.iter_mut().for_each(meter),
        _ => {}
    }
}

/// A reference that is a pointer must lead to what has a meter.
fn check_references(schema: &Value, part: &Value) -> Result<(), String> {
    match part {
        Value::Object(keywords) => {
            check_reference(schema, keywords)?;
            keywords.values().try_for_each(|value| check_references(schema, value))
        }
        Value::Array(parts) => parts.iter().try_for_each(|part| check_references(schema, part)),
        _ => Ok(()),
    }
}

fn check_reference(schema: &Value, keywords: &Map<String, Value>) -> Result<(), String> {
    for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
        let Some(reference) = keywords.get(keyword).and_then(Value::as_str) else { continue };
        let Some((resource, fragment)) = reference.split_once('#') else { continue };
        if !fragment.starts_with('/') && !fragment.contains('%') {
            continue;
        }
        let target = if resource.is_empty() && !fragment.contains('%') { schema.pointer(fragment) } else { None };
        match target {
            Some(Value::Bool(_)) => {}
            Some(Value::Object(keywords)) if keywords.contains_key(METER) => {}
            _ => return Err(format!("{keyword} {reference:?} leads to no schema in this document")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &Value, input: &Value) -> Result<(), Misfit> {
        InputSchema::compile(schema).unwrap().check(input)
    }

    #[test]
    fn all_that_is_wrong_is_told_and_where() {
        let schema = json!({
            "type": "object", "required": ["a"], "properties": { "b": { "type": "string" }, "c": { "pattern": "^x+$" } }
        });
        assert_eq!(check(&schema, &json!({ "a": 1, "b": "", "c": "xx" })), Ok(()));
        let Err(Misfit::Faults(faults)) = check(&schema, &json!({ "b": 1, "c": "y" })) else { panic!() };
        let places: Vec<_> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(places.len(), 3);
        assert!(["", "/b", "/c"].iter().all(|place| places.contains(place)), "{faults:?}");
        assert!(faults.iter().all(|(_, message)| !message.contains("troupe")), "{faults:?}");
    }

    #[test]
    fn what_would_take_for_ever_ends() {
        let mut doubling: Map<_, _> = (0..64)
            .map(|level| {
                let next = json!({ "$ref": format!("#/$defs/{}", level + 1) });
                (level.to_string(), json!({ "allOf": [next, next] }))
            })
            .collect();
        doubling.insert("64".to_owned(), json!({ "type": "string" }));
        for (leaf, input) in [(json!({ "type": "string" }), json!("a")), (json!(true), json!(1)), (json!({}), json!(1))]
        {
            doubling.insert("64".to_owned(), leaf);
            let doubling = json!({ "$defs": doubling, "$ref": "#/$defs/0" });
            assert_eq!(check(&doubling, &input), Err(Misfit::TooComplex), "{input}");
        }

        let mut nested = json!(1);
        for _ in 0..100 {
            nested = json!([nested]);
        }
        for draft in ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"] {
            let twice = json!({
                "$schema": draft, "type": ["array", "number"],
                "items": { "allOf": [{ "$ref": "#" }, { "$ref": "#" }] }
            });
            assert_eq!(check(&twice, &nested), Ok(()), "{draft}: what was found of a part is remembered");
        }
        let once = json!({ "type": ["array", "number"], "items": { "$ref": "#" } });
        assert_eq!(check(&once, &nested), Ok(()));
    }

    #[test]
    fn a_pattern_cannot_keep_it_busy() {
        let schema = json!({ "pattern": "^(a|a)*$" });
        assert!(check(&schema, &json!(format!("{}b", "a".repeat(100_000)))).is_err());
        let ahead = InputSchema::compile(&json!({ "pattern": "(?=a)" }));
        assert!(ahead.is_err(), "it would need one that goes back");
    }

    #[test]
    fn a_large_input_that_is_wrong_everywhere_is_refused_in_few_words() {
        let schema = json!({ "items": { "type": "string" } });
        let input = Value::Array(vec![json!(1); 300_000]);
        let Err(Misfit::Faults(faults)) = check(&schema, &input) else { panic!() };
        assert_eq!(faults.len(), 1);
        let input = Value::Array(vec![json!(1); 1_000]);
        let Err(Misfit::Faults(faults)) = check(&schema, &input) else { panic!() };
        assert_eq!(faults.len(), MOST_FAULTS);
    }

    #[test]
    fn references_lead_to_schemas_in_the_document() {
        for reference in
            ["https://example.com/a.json", "#/$defs/none", "#/default/a", "#/default/%61", "file:///etc/passwd"]
        {
            let schema = json!({ "default": { "a": { "type": "string" } }, "$ref": reference });
            assert!(InputSchema::compile(&schema).is_err(), "{reference}");
        }
        let named = json!({ "$defs": { "a": { "$anchor": "name", "type": "string" } }, "$ref": "#name" });
        assert!(check(&named, &json!("a")).is_ok() && check(&named, &json!(1)).is_err());
        let data = json!({ "enum": [{ "properties": { "a": 1 } }, { "$ref": "b" }], "properties": { "enum": true } });
        assert_eq!(check(&data, &json!({ "$ref": "b" })), Ok(()));
        assert!(check(&data, &json!({ "$ref": "c" })).is_err());
    }
}
