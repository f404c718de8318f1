//! Queries: every parameter known, once, and of its type.

use std::{borrow::Cow, sync::Arc};

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, IntoDeserializer, Visitor, value::MapDeserializer},
    forward_to_deserialize_any,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, RefOr, Schema},
};

use crate::{app::App, json, problem::Problem};

type Error = de::value::Error;

/// Characters of a name, and of a message, that are told.
const MOST_NAME: usize = 100;
const MOST_WORDS: usize = 500;

/// The query, with unknown and repeated parameters refused.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

pub(crate) fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let unreadable = || Problem::field("query", "invalid_value", "must be percent-encoded UTF-8");
    if !is_percent_encoded_utf8(query) {
        return Err(unreadable());
    }
    let pairs = serde_urlencoded::from_str::<Vec<(String, String)>>(query).map_err(|_| unreadable())?;
    let again =
        pairs.iter().enumerate().find(|(place, pair)| pairs[..*place].iter().any(|earlier| earlier.0 == pair.0));
    if let Some((_, (name, _))) = again {
        return Err(Problem::field(shown(name), "duplicate_field", "must come once"));
    }
    let values = pairs.into_iter().map(|(name, value)| (name, Text(value)));
    let deserializer = MapDeserializer::<_, Error>::new(values);
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        let (unknown, missing) = (message.starts_with("unknown field"), message.starts_with("missing field"));
        let name = if unknown || path == "." { json::quoted(&message) } else { &path };
        let code = match (unknown, missing) {
            (true, _) => "unknown_field",
            (_, true) => "missing_field",
            (false, false) => "invalid_value",
        };
        Problem::field(shown(name), code, message.chars().take(MOST_WORDS).collect::<String>())
    })
}

/// The beginning of a name that anybody may have made up.
fn shown(name: &str) -> String {
    name.chars().take(MOST_NAME).collect()
}

/// Every `%` is followed by two hex digits, and the whole is UTF-8. The parser itself would replace what is not.
fn is_percent_encoded_utf8(text: &str) -> bool {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            (None, _) | (_, None) => return false,
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// Some values, each once, with commas between them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Several<T>(pub(crate) Vec<T>);

impl<'de, T: DeserializeOwned + PartialEq> Deserialize<'de> for Several<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let mut found = Vec::new();
        for word in text.split(',') {
            let value: Result<T, D::Error> = T::deserialize(word.into_deserializer());
            let value = value?;
            if found.contains(&value) {
                return Err(de::Error::custom("must name each value once"));
            }
            found.push(value);
        }
        Ok(Self(found))
    }
}

impl<T: PartialSchema> PartialSchema for Several<T> {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new().items(T::schema()).min_items(Some(1)).unique_items(true).into()
    }
}

impl<T: ToSchema> ToSchema for Several<T> {}

/// A parameter's text, read as what is asked for.
struct Text(String);

impl IntoDeserializer<'_, Error> for Text {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Text {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let deserializer: de::value::StringDeserializer<Error> = self.0.into_deserializer();
        deserializer.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(de::Error::custom("must be true or false")),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.parse() {
            Ok(number) => visitor.visit_i64(number),
            Err(_) => Err(de::Error::custom("must be a whole number within its range")),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{AgentId, Limit};

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Known {
        limit: Option<Limit>,
        all: bool,
        name: Option<String>,
        some: Option<Several<AgentId>>,
    }

    #[derive(Debug, Deserialize)]
    struct Wanted {
        #[expect(dead_code, reason = "it is there to be missing")]
        name: String,
    }

    #[test]
    fn what_must_be_there_is_named_where_it_is_not() {
        let document = serde_json::to_value(parse::<Wanted>("").unwrap_err().document("req_1")).unwrap();
        assert_eq!(document["errors"][0]["field"], "name", "{document}");
        assert_eq!(document["errors"][0]["code"], "missing_field", "{document}");
    }

    #[test]
    fn several_values_are_each_of_their_type_and_come_once() {
        let id = |last| format!("agt_01jx4q3nd8e5r0cawm6n8gs3k{last}");
        let known = parse::<Known>(&format!("some={},{}", id('a'), id('b'))).unwrap();
        let ids: Vec<_> = known.some.unwrap().0.iter().map(ToString::to_string).collect();
        assert_eq!(ids, [id('a'), id('b')]);
        for wrong in [String::new(), ",".to_owned(), format!("{},", id('a')), format!("{},{}", id('a'), id('a'))] {
            let problem = parse::<Known>(&format!("some={wrong}")).unwrap_err();
            let document = serde_json::to_value(problem.document("req_1")).unwrap();
            assert_eq!(document["errors"][0]["field"], "some", "{wrong}");
        }
    }

    #[test]
    fn parameters_are_read_as_their_types() {
        let known = parse::<Known>("limit=7&all=true&name=a%20b").unwrap();
        assert_eq!(known, Known { limit: Some(Limit(7)), all: true, name: Some("a b".to_owned()), some: None });
        assert_eq!(parse::<Known>("").unwrap(), Known::default());
    }

    #[test]
    fn faults_name_the_parameter() {
        for (query, named) in [
            ("limit=x", "limit"),
            ("limit=", "limit"),
            ("limit=1&limit=2", "limit"),
            ("all=yes", "all"),
            ("surprise=1", "surprise"),
            ("name=%ff", "query"),
            ("name=%4", "query"),
        ] {
            let problem = parse::<Known>(query).unwrap_err();
            let document = serde_json::to_value(problem.document("req_1")).unwrap();
            assert_eq!(document["errors"][0]["field"], named, "{query}");
        }
    }

    #[test]
    fn broken_percent_encodings_are_found() {
        for sound in ["", "a=b", "a=%C3%A9", "a=+"] {
            assert!(is_percent_encoded_utf8(sound), "{sound}");
        }
        for broken in ["%", "a=%4", "%zz", "%ff", "a=%C3"] {
            assert!(!is_percent_encoded_utf8(broken), "{broken}");
        }
    }
}
