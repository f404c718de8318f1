//! JSON from clients: values that pass through unparsed, but that every service behind can parse; and faults that name
//! the field by its JSON pointer.

use std::fmt;

use domain::Payload;
use errors::Violation;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_path_to_error::Segment;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type, schema::SchemaType},
};

use crate::problem::Problem;

/// Levels of nesting in a value. Parsers stop at 128, and the services behind wrap values into others.
const MAX_DEPTH: u8 = 100;
/// Bytes of a pointer to what is wrong.
const MAX_POINTER: usize = 1_000;

/// Any JSON value, checked and kept as its text.
#[derive(Clone, Debug)]
pub(crate) struct Any(pub(crate) Payload);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload = Payload::deserialize(deserializer)?;
        check(&payload).map_err(de::Error::custom)?;
        Ok(Self(payload))
    }
}

impl PartialSchema for Any {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(SchemaType::AnyValue).into()
    }
}

impl ToSchema for Any {}

/// A JSON object, checked and kept as its text.
#[derive(Clone, Debug)]
pub(crate) struct Object(pub(crate) Payload);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Any(payload) = Any::deserialize(deserializer)?;
        // The text of a raw value has no space before it.
        if payload.as_bytes().first() == Some(&b'{') {
            Ok(Self(payload))
        } else {
            Err(de::Error::custom("must be an object"))
        }
    }
}

impl PartialSchema for Object {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::Object).into()
    }
}

impl ToSchema for Object {}

/// Reads a document, which is an object.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let document = parse_any(bytes)?;
    // Serde reads a list as a struct, field by field.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::field("", "wrong_type", "must be an object, not a list"));
    }
    Ok(document)
}

/// Reads any value. A fault is looked for a second time, so that only faulty documents pay for paths.
pub(crate) fn parse_any<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    match serde_json::from_slice::<T>(bytes) {
        Ok(value) => Ok(value),
        Err(error) if !error.is_data() => {
            let message = format!("not JSON: {error}");
            Err(Problem::field("", "malformed_json", message))
        }
        Err(error) => Err(located::<T>(bytes).unwrap_or_else(|| fault(String::new(), &error.to_string()))),
    }
}

fn located<T: DeserializeOwned>(bytes: &[u8]) -> Option<Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let error = serde_path_to_error::deserialize::<_, T>(&mut deserializer).err()?;
    let mut pointer = String::new();
    for segment in error.path() {
        match segment {
            Segment::Map { key } => pointer.extend(["/", &key.replace('~', "~0").replace('/', "~1")]),
            Segment::Seq { index } => pointer.extend(["/", &index.to_string()]),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    Some(fault(pointer, &error.inner().to_string()))
}

/// A fault in the words of serde, with a stable code. `pointer` leads to the culprit, or to what lacks it.
fn fault(mut pointer: String, error: &str) -> Problem {
    // The place in the text says less than the pointer.
    let message = error.rsplit_once(" at line ").map_or(error, |(message, _)| message);
    let code = match message.split_once(' ').map(|(first, rest)| (first, rest.split(' ').next().unwrap_or_default())) {
        Some(("missing", "field")) => "missing_field",
        Some(("unknown", "field")) => "unknown_field",
        Some(("duplicate", "field")) => "duplicate_field",
        Some(("unknown", "variant")) => "unknown_value",
        Some(("invalid", "type:")) => "wrong_type",
        Some(_) | None => "invalid_value",
    };
    let quoted = quoted(message).replace('~', "~0").replace('/', "~1");
    let names_field = matches!(code, "missing_field" | "unknown_field" | "duplicate_field");
    if names_field && !pointer.ends_with(&format!("/{quoted}")) {
        pointer.extend(["/", &quoted]);
    }
    if pointer.len() > MAX_POINTER {
        // To what is around it: a name may be as long as the whole body, and nobody wants that back.
        let cut = &pointer[..pointer.floor_char_boundary(MAX_POINTER)];
        pointer.truncate(cut.rfind('/').unwrap_or_default());
    }
    let message: String = message.chars().take(500).collect();
    let detail = format!("the request is invalid: {}: {message}", if pointer.is_empty() { "/" } else { &pointer });
    Problem::new(http::StatusCode::BAD_REQUEST, "request_invalid", detail)
        .with_violations(vec![Violation::new(pointer, code, message)])
}

/// The name in a message of serde, which may have a backtick itself.
pub(crate) fn quoted(message: &str) -> &str {
    let rest = message.split_once('`').map_or("", |(_, rest)| rest);
    rest.split_once("`, ").map_or_else(|| rest.strip_suffix('`').unwrap_or(rest), |(name, _)| name)
}

/// Can everybody parse it? The text is JSON already; what remains is depth, numbers beyond `f64` and broken surrogates.
///
/// One pass that keeps nothing: far cheaper than a tree, and what is wrong is refused here instead of failing later.
pub(crate) fn check(payload: &Payload) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(payload.as_str());
    Sound { depth: MAX_DEPTH }.deserialize(&mut deserializer)
}

#[derive(Clone, Copy)]
struct Sound {
    depth: u8,
}

impl Sound {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth }),
            None => Err(E::custom(format_args!("must be nested at most {MAX_DEPTH} levels deep"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Sound {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while list.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while map.next_key_seed(inner)?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> bool {
        Payload::from_slice(text.as_bytes()).is_ok_and(|payload| check(&payload).is_ok())
    }

    #[test]
    fn a_wrong_type_has_its_code_and_its_place() {
        let error = serde_json::from_str::<u32>("\"text\"").unwrap_err().to_string();
        let problem = fault("/name".to_owned(), &error);
        let document = serde_json::to_value(problem.document("req_1")).unwrap();
        assert_eq!(document["errors"][0]["code"], "wrong_type", "{document}");
        assert_eq!(document["errors"][0]["pointer"], "/name");
    }

    #[test]
    fn a_name_with_a_backtick_is_named() {
        let unknown = |name: &str| quoted(&format!("unknown field `{name}`, expected one of `a`, `b`")).to_owned();
        for name in ["c", "`", "a`b", ""] {
            assert_eq!(unknown(name), name);
        }
        assert_eq!(quoted("missing field `name`"), "name");
        assert_eq!(quoted("unknown field `c`, there are no fields"), "c");
    }

    #[test]
    fn what_others_could_not_parse_is_refused() {
        assert!(checked(r#"{"a": [1, -2, 3.5e10, "\u0000\ud83d\ude00", null, true]}"#));
        assert!(checked(&format!("{}{}", "[".repeat(100), "]".repeat(100))));
        for text in [r#""\ud800""#, r#"{"\ud800": 1}"#, "1e999", &format!("{}{}", "[".repeat(101), "]".repeat(101))] {
            assert!(!checked(text), "{text}");
        }
    }
}
