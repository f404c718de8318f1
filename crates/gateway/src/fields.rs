//! Field selection: a list tells of each thing no more than what is asked for (`fields=id,name`).
//!
//! The names are those of the thing's own schema, so that the description of the API and what is taken cannot differ. It is done
//! on the finished page, whoever made it: values are passed on as they are, byte for byte.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, ObjectBuilder, RefOr, Schema, Type},
};

use crate::problem::Problem;

/// Some of the fields of `T`, each once, in no order.
pub(crate) struct Fields<T> {
    names: Vec<String>,
    of: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Fields<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(&self.names).finish()
    }
}

/// The names of the fields of a thing.
fn names<T: PartialSchema>() -> Vec<String> {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        RefOr::T(_) | RefOr::Ref(_) => Vec::new(),
    }
}

impl<'de, T: PartialSchema> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let known = names::<T>();
        let mut found: Vec<String> = Vec::new();
        for name in text.split(',') {
            if !known.iter().any(|known| known == name) {
                return Err(de::Error::custom(format!("must be some of {}", known.join(","))));
            }
            if found.iter().any(|earlier| earlier == name) {
                return Err(de::Error::custom("must name each field once"));
            }
            found.push(name.to_owned());
        }
        Ok(Self { names: found, of: PhantomData })
    }
}

impl<T: PartialSchema> PartialSchema for Fields<T> {
    fn schema() -> RefOr<Schema> {
        let names = names::<T>();
        let example = names.iter().take(2).cloned().collect::<Vec<_>>();
        let name = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names));
        let list = ArrayBuilder::new().items(name).min_items(Some(1)).unique_items(true);
        list.examples([serde_json::json!(example)]).into()
    }
}

impl<T: PartialSchema> ToSchema for Fields<T> {}

impl<T> Fields<T> {
    /// A page's body with nothing else of its items.
    pub(crate) fn of_page(&self, body: &[u8]) -> Result<Vec<u8>, Problem> {
        let unreadable = |error: serde_json::Error| Problem::internal(format!("a page cannot be cut: {error}"));
        let mut page: Cut<'_> = serde_json::from_slice(body).map_err(unreadable)?;
        for item in &mut page.items {
            item.0.retain(|(name, _)| self.names.iter().any(|wanted| wanted == name));
        }
        serde_json::to_vec(&page).map_err(unreadable)
    }
}

/// A page, as far as it matters here.
#[derive(Deserialize, Serialize)]
struct Cut<'a> {
    #[serde(borrow)]
    items: Vec<Members<'a>>,
    #[serde(borrow)]
    next_cursor: Option<Cow<'a, str>>,
}

/// The members of an object, in their order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(ToSchema)]
    #[expect(dead_code, reason = "only its schema is read")]
    struct Thing {
        id: String,
        #[schema(rename = "type")]
        kind: String,
        config: u64,
    }

    fn parse(text: &str) -> Result<Fields<Thing>, de::value::Error> {
        use serde::de::IntoDeserializer as _;
        Fields::deserialize(text.to_owned().into_deserializer())
    }

    #[test]
    fn only_names_of_the_thing_are_taken_and_each_once() {
        assert_eq!(parse("type,id").unwrap().names, ["type", "id"]);
        for wrong in ["", "kind", "id,", "id,id", "id, type", "ID", "id;type"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_left_is_as_it_was_to_the_byte() {
        let page = r#"{"items":[{"id":"a","type":"\u00e9","config":123456789012345678901234567890.10},{"id":"b"}],"next_cursor":"c"}"#;
        let cut = parse("config,id").unwrap().of_page(page.as_bytes()).unwrap();
        let left = r#"{"items":[{"id":"a","config":123456789012345678901234567890.10},{"id":"b"}],"next_cursor":"c"}"#;
        assert_eq!(String::from_utf8(cut).unwrap(), left);
        let last = parse("type").unwrap().of_page(br#"{"items":[],"next_cursor":null}"#).unwrap();
        assert_eq!(last, br#"{"items":[],"next_cursor":null}"#);
    }

    /// What clients may choose, and pages of whatever there is.
    mod fuzz {
        use proptest::{prelude::*, sample::subsequence};
        use serde_json::{Map, Value, json};
        use testkit::fuzz::{cases, json, nearly, text};

        use super::*;

        const KNOWN: [&str; 3] = ["id", "type", "config"];

        proptest! {
            #![proptest_config(cases(256))]

            #[test]
            fn a_selection_is_known_fields_each_once(said in prop_oneof![text(), nearly("(id|type|config)(,(id|type|config)){0,3}")]) {
                match parse(&said) {
                    Ok(fields) => {
                        prop_assert_eq!(fields.names.join(","), said);
                        prop_assert!(fields.names.iter().all(|name| KNOWN.contains(&name.as_str())));
                        prop_assert!((1..=KNOWN.len()).contains(&fields.names.len()));
                    }
                    Err(refused) => {
                        prop_assert!(refused.to_string().len() < 100, "{}", refused);
                    }
                }
            }

            #[test]
            fn a_page_has_what_is_chosen_and_nothing_else(
                chosen in subsequence(&KNOWN, 1..=KNOWN.len()),
                items in prop::collection::vec(prop::collection::vec((prop_oneof![text(), Just("id".to_owned())], json()), 0..5), 0..4),
                next_cursor in proptest::option::of(text()),
            ) {
                let items: Vec<Map<String, Value>> = items.into_iter().map(|members| members.into_iter().collect()).collect();
                let page = json!({ "items": items, "next_cursor": next_cursor }).to_string();
                let cut = parse(&chosen.join(",")).unwrap().of_page(page.as_bytes()).unwrap();
                let cut: Value = serde_json::from_slice(&cut).unwrap();
                let left = |item: Map<String, Value>| -> Map<String, Value> {
                    item.into_iter().filter(|(name, _)| chosen.contains(&name.as_str())).collect()
                };
                let whole: Value = serde_json::from_str(&page).unwrap();
                let read = whole["items"].as_array().unwrap().iter().map(|item| left(item.as_object().unwrap().clone()));
                let expected = json!({ "items": read.collect::<Vec<_>>(), "next_cursor": whole["next_cursor"] });
                prop_assert_eq!(cut, expected);
            }
        }
    }
}
