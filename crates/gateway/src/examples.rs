//! Examples of the description: one of each answer, and one of each request whose schema has none.
//!
//! They are in one file, by the names of schemas and operations. Pages are made of what is on them, and `{"$of": NAME}` stands for
//! another one, so that nothing is said twice. A test finds the missing ones, and those that do not fit their schemas.

use std::sync::LazyLock;

use serde_json::{Value, json};
use utoipa::openapi::{Ref, RefOr, Schema, path::Operation};

/// All of them.
static ALL: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("examples.json")).unwrap_or(Value::Null));

/// Adds examples to an operation.
pub(crate) fn add(operation: &mut Operation) {
    let id = operation.operation_id.clone().unwrap_or_default();
    let contents = operation.request_body.iter_mut().filter_map(owned).flat_map(|body| body.content.values_mut());
    for content in contents.filter_map(owned) {
        content.example = ALL["requests"].get(&id).cloned();
    }
    for (status, response) in &mut operation.responses.responses {
        let Some(response) = owned(response).filter(|_| status.starts_with('2')) else { continue };
        for content in response.content.values_mut() {
            if let Some(content) = owned(content) {
                let of_schema = content.schema.as_ref().and_then(named).and_then(of);
                content.example = of_schema.or_else(|| ALL["others"].get(&id).cloned());
            }
        }
    }
}

/// What is not said elsewhere.
fn owned<T>(one: &mut RefOr<T>) -> Option<&mut T> {
    match one {
        RefOr::T(one) => Some(one),
        RefOr::Ref(_) => None,
    }
}

/// The name of a schema; of several, that of the first.
fn named(schema: &RefOr<Schema>) -> Option<&str> {
    match schema {
        RefOr::Ref(Ref { ref_location, .. }) => ref_location.rsplit('/').next(),
        RefOr::T(Schema::AnyOf(any)) => any.items.first().and_then(named),
        RefOr::T(_) => None,
    }
}

/// The example of a schema.
fn of(name: &str) -> Option<Value> {
    match name.strip_prefix("Page_") {
        Some(item) => Some(json!({ "items": [of(item)?], "next_cursor": null })),
        None => ALL["answers"].get(name).and_then(whole),
    }
}

/// With the others that it names.
fn whole(example: &Value) -> Option<Value> {
    Some(match example {
        Value::Object(fields) => match fields.get("$of") {
            Some(name) => of(name.as_str()?)?,
            None => fields
                .iter()
                .map(|(name, value)| Some((name.clone(), whole(value)?)))
                .collect::<Option<serde_json::Map<_, _>>>()?
                .into(),
        },
        Value::Array(items) => items.iter().map(whole).collect::<Option<Vec<_>>>()?.into(),
        other => other.clone(),
    })
}
