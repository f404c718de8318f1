//! Typed reading of a definition's objects. A field that is `null` counts as absent, since YAML writes empty fields like that.
//! What is wrong is reported where it is found; the reader then sees an absent field.

use std::{ops::RangeInclusive, time::Duration};

use domain::check_name;
use serde_json::{Map, Value};

use super::{Faults, did_you_mean, escape};

/// Ten years: beyond it is a slip of the pen.
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);

/// One object of a definition.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    pointer: String,
}

impl<'a> Fields<'a> {
    /// The object at `pointer`.
    pub(super) fn of(value: &'a Value, pointer: &str, faults: &mut Faults) -> Option<Self> {
        let object = value.as_object();
        if object.is_none() {
            faults.push(pointer, "wrong_type", format!("must be an object, not {}", kind(value)));
        }
        object.map(|object| Self { object, pointer: pointer.to_owned() })
    }

    /// Where it is.
    pub(super) fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Where the field `key` is.
    pub(super) fn at(&self, key: &str) -> String {
        format!("{}/{}", self.pointer, escape(key))
    }

    /// Reports every field that is not `known`.
    pub(super) fn only(&self, known: &[&str], faults: &mut Faults) {
        for key in self.object.keys().map(String::as_str).filter(|key| !known.contains(key)) {
            let hint = did_you_mean(key, known.iter().copied());
            let shown: String = key.chars().take(64).collect();
            let message = format!("there is no field `{shown}` here{hint}; known are {}", known.join(", "));
            faults.push(&self.at(key), "unknown_field", message);
        }
    }

    /// The field, unless it is `null`.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The field, where it is there at all.
    pub(super) fn raw(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key)
    }

    /// Is the field there?
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Reports that `key` is missing.
    pub(super) fn missing(&self, key: &str, what: &str, faults: &mut Faults) {
        faults.push(&self.pointer, "missing_field", format!("needs `{key}`: {what}"));
    }

    /// An object.
    pub(super) fn object(&self, key: &str, faults: &mut Faults) -> Option<Fields<'a>> {
        Fields::of(self.value(key)?, &self.at(key), faults)
    }

    /// A list.
    pub(super) fn list(&self, key: &str, faults: &mut Faults) -> Option<&'a [Value]> {
        let value = self.value(key)?;
        let list = value.as_array().map(Vec::as_slice);
        if list.is_none() {
            faults.push(&self.at(key), "wrong_type", format!("must be a list, not {}", kind(value)));
        }
        list
    }

    /// A text.
    pub(super) fn text(&self, key: &str, faults: &mut Faults) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.as_str();
        if text.is_none() {
            faults.push(&self.at(key), "wrong_type", format!("must be a text, not {}", kind(value)));
        }
        text
    }

    /// A name as [`check_name`] wants it; where it is not, `code` says so.
    pub(super) fn name(&self, key: &str, code: &'static str, faults: &mut Faults) -> Option<String> {
        let text = self.text(key, faults)?;
        match check_name(text) {
            Ok(()) => Some(text.to_owned()),
            Err(error) => {
                faults.push(&self.at(key), code, format!("`{key}` {error}"));
                None
            }
        }
    }

    /// A title for people: 1 to 128 characters on one line.
    pub(super) fn required_title(&self, key: &str, faults: &mut Faults) -> Option<String> {
        if !self.has(key) {
            self.missing(key, "1 to 128 characters", faults);
        }
        let text = self.text(key, faults)?;
        let well_made =
            (1..=128).contains(&text.chars().count()) && !text.chars().any(char::is_control) && text.trim() == text;
        if !well_made {
            faults.push(
                &self.at(key),
                "invalid_name",
                format!("`{key}` must have 1 to 128 characters, on one line, without space around them"),
            );
        }
        well_made.then(|| text.to_owned())
    }

    /// A whole number in `range`.
    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u32>, faults: &mut Faults) -> Option<u32> {
        let value = self.value(key)?;
        let wanted = format!("must be a whole number from {} to {}", range.start(), range.end());
        let Value::Number(number) = value else {
            faults.push(&self.at(key), "wrong_type", format!("{wanted}, not {}", kind(value)));
            return None;
        };
        // `4.0` is what some YAML and JSON writers make of 4.
        let whole = number.as_u64().or_else(|| {
            number.as_f64().filter(|float| float.fract() == 0.0 && (0.0..1e9).contains(float)).map(|float| float as u64)
        });
        let integer = whole.and_then(|whole| u32::try_from(whole).ok()).filter(|integer| range.contains(integer));
        if integer.is_none() {
            faults.push(&self.at(key), "out_of_range", format!("{wanted}, not {number}"));
        }
        integer
    }

    /// A number in `range`.
    pub(super) fn number(&self, key: &str, range: RangeInclusive<f64>, faults: &mut Faults) -> Option<f64> {
        let value = self.value(key)?;
        let wanted = format!("must be a number from {} to {}", range.start(), range.end());
        let Some(number) = value.as_f64() else {
            faults.push(&self.at(key), "wrong_type", format!("{wanted}, not {}", kind(value)));
            return None;
        };
        if !range.contains(&number) {
            faults.push(&self.at(key), "out_of_range", format!("{wanted}, not {number}"));
            return None;
        }
        Some(number)
    }

    /// A truth value.
    pub(super) fn truth(&self, key: &str, faults: &mut Faults) -> Option<bool> {
        let value = self.value(key)?;
        if value.as_bool().is_none() {
            faults.push(&self.at(key), "wrong_type", format!("must be true or false, not {}", kind(value)));
        }
        value.as_bool()
    }

    /// A duration: a text such as `1m 30s`, or a number of seconds; more than nothing and at most ten years.
    pub(super) fn duration(&self, key: &str, faults: &mut Faults) -> Option<Duration> {
        const EXAMPLES: &str = "such as \"200ms\", \"30s\", \"1m\" or \"24h\", or a number of seconds";
        let value = self.value(key)?;
        let duration = match value {
            Value::String(text) => match humantime::parse_duration(text.trim()) {
                Ok(duration) => duration,
                Err(error) => {
                    faults.push(&self.at(key), "invalid_duration", format!("must be a duration {EXAMPLES}: {error}"));
                    return None;
                }
            },
            Value::Number(number) => {
                let seconds = number.as_f64().unwrap_or(-1.0);
                Duration::try_from_secs_f64(seconds).unwrap_or(if seconds < 0.0 {
                    Duration::ZERO
                } else {
                    Duration::MAX
                })
            }
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                faults.push(&self.at(key), "wrong_type", format!("must be a duration {EXAMPLES}, not {}", kind(value)));
                return None;
            }
        };
        // Below a microsecond our clock does not tell.
        if !(Duration::from_micros(1)..=LONGEST).contains(&duration) {
            faults.push(&self.at(key), "out_of_range", "must be a duration of more than nothing and at most 10 years");
            return None;
        }
        Some(duration)
    }
}

/// What a value is, for people.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
