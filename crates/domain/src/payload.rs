//! JSON values that pass through without being parsed.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, value::RawValue};

/// Bytes that are not a JSON value.
#[derive(Debug, thiserror::Error)]
#[error("not a JSON value")]
pub struct PayloadError(#[source] serde_json::Error);

/// A JSON value kept as its text: checked once where it enters, shared instead of copied, parsed only by who looks inside.
#[derive(Clone)]
pub struct Payload(Arc<RawValue>);

impl Payload {
    /// The value `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// The value `{}`.
    pub fn empty_object() -> Self {
        Self::from_value(&Value::Object(serde_json::Map::new()))
    }

    /// From JSON text.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, PayloadError> {
        serde_json::from_slice::<Box<RawValue>>(bytes).map(|raw| Self(raw.into())).map_err(PayloadError)
    }

    /// From a request's field, where empty means `absent`.
    pub fn from_field(bytes: &[u8], absent: impl FnOnce() -> Self) -> Result<Self, PayloadError> {
        if bytes.is_empty() { Ok(absent()) } else { Self::from_slice(bytes) }
    }

    /// From a parsed value.
    pub fn from_value(value: &Value) -> Self {
        let raw =
            serde_json::value::to_raw_value(value).expect("a JSON value has string keys only, so it always prints");
        Self(raw.into())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The JSON text as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.get().as_bytes()
    }

    /// The parsed value.
    pub fn to_value(&self) -> Value {
        // Checked on the way in; numbers beyond f64 are the one thing that parses as raw text but not as a value.
        serde_json::from_str(self.0.get()).unwrap_or(Value::Null)
    }

    /// Parsed as `T`.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, PayloadError> {
        serde_json::from_str(self.0.get()).map_err(PayloadError)
    }

    /// Length of the JSON text in bytes.
    pub fn len(&self) -> usize {
        self.0.get().len()
    }

    /// Never: the shortest JSON value has one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Is it `null`?
    pub fn is_null(&self) -> bool {
        self.0.get() == "null"
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Payload {}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_passes_through_as_it_came() {
        let text = r#"{"b": 1.0, "a": [1e3, "\u00e9"]}"#;
        let payload = Payload::from_slice(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&payload).unwrap(), text);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "nul", "1 2", "{a: 1}"] {
            assert!(Payload::from_slice(text.as_bytes()).is_err(), "{text}");
        }
    }
}
