//! The description of the API is complete and says what is there.

use std::collections::BTreeSet;

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::rig::{self, Rig};

fn document() -> Value {
    serde_json::to_value(gateway::document()).unwrap()
}

#[test]
fn the_description_changes_only_on_purpose() {
    insta::assert_json_snapshot!(document());
}

/// As docs/api-versioning.md has it.
#[test]
fn every_path_of_the_api_has_its_version() {
    let document = document();
    for path in document["paths"].as_object().unwrap().keys() {
        let is_without =
            ["/health", "/health/live", "/health/ready", "/metrics", "/openapi.json"].contains(&path.as_str());
        assert!(is_without || path.starts_with("/api/v1/"), "{path}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| walk(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    walk(&document, &mut found);
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

/// Bodies of requests and of answers that are no failures: where they are, and what they are.
fn contents(document: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let answers = operation["responses"].as_object().into_iter().flatten();
            let answers = answers.filter(|(status, _)| status.starts_with('2')).map(|(_, answer)| &answer["content"]);
            for content in answers.chain([&operation["requestBody"]["content"]]) {
                for (kind, content) in content.as_object().into_iter().flatten() {
                    found.push((format!("{method} {path} as {kind}"), content));
                }
            }
        }
    }
    found
}

/// The example of a body, or of its schema.
fn example<'a>(document: &'a Value, content: &'a Value) -> Option<&'a Value> {
    let of_schema = || {
        let named = content["schema"]["$ref"].as_str().and_then(|name| document.pointer(name.trim_start_matches('#')));
        named?.get("example")
    };
    content.get("example").or_else(of_schema)
}

#[test]
fn every_body_has_an_example_that_fits_its_schema() {
    let document = document();
    let contents = contents(&document);
    assert!(contents.len() > 60, "{}", contents.len());
    for (place, content) in contents {
        let example = example(&document, content).unwrap_or_else(|| panic!("{place} has no example"));
        let schema = json!({ "allOf": [content["schema"]], "components": document["components"] });
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let faults: Vec<_> = validator.iter_errors(example).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{place}: {example}: {faults:?}");
        // What a schema leaves open is no example of it: every field that is told is one that there is.
        if let (Some(name), Some(fields)) = (content["schema"]["$ref"].as_str(), example.as_object()) {
            let schema = document.pointer(name.trim_start_matches('#')).unwrap();
            if let (Some(known), None) = (schema["properties"].as_object(), schema.get("allOf")) {
                let unknown: Vec<_> = fields.keys().filter(|field| !known.contains_key(*field)).collect();
                assert!(unknown.is_empty() || name.ends_with("/Definition"), "{place} has no {unknown:?}");
            }
        }
    }
}

/// Two things of one name would be described as one of them.
#[test]
fn a_check_of_the_audit_log_is_described_as_what_it_is() {
    let document = document();
    let fields = |path: &str| {
        let schema = &document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        let schema = document.pointer(schema["$ref"].as_str().unwrap().trim_start_matches('#')).unwrap();
        schema["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(fields("/api/v1/audit/verify"), ["entries", "head", "faults"]);
    assert_eq!(fields("/api/v1/executions/{id}/verify"), ["events", "faults"]);
}

/// No credential is a choice only where none is demanded, and where it is, it is said of what is open to everybody.
#[tokio::test]
async fn the_description_says_what_is_demanded() {
    let key = gateway::ApiKey::of(
        &gateway::Settings {
            api_key: Some(settings::Secret::new("a-key-of-the-tests-that-is-long")),
            ..gateway::Settings::default()
        },
        |_| (),
    );
    let rig = Rig::with_key(gateway::Settings::default(), key.unwrap()).await;
    let guarded = rig.get("/openapi.json").await.expect(200);
    assert_eq!(guarded["security"], json!([{ "api_key": [] }, { "bearer": [] }]));
    assert_eq!(document()["security"], json!([{ "api_key": [] }, { "bearer": [] }, {}]));
    let of = |method: &str, path: &str| guarded["paths"][path][method].get("security").cloned();
    assert_eq!(of("get", "/health"), Some(json!([])));
    assert_eq!(of("post", "/api/v1/auth/token"), Some(json!([{ "api_key": [] }, {}])));
    assert_eq!(of("get", "/api/v1/agents"), None);
}

#[tokio::test]
async fn every_described_operation_is_served_and_no_other_method_is() {
    let rig = Rig::start().await;
    let document = document();
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete = path
            .replace("{id}", "nonsense")
            .replace("{name}", "go")
            .replace("{topic}", "a.b")
            .replace("{pattern}", "a.*");
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let described = item.get(method.as_str().to_lowercase()).is_some();
            let answer = rig.send(rig::request(method.clone(), &concrete).body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status.as_u16() != 405, described, "{method} {path}: {answer:?}");
            assert!(!answer.status.is_server_error(), "{method} {path}: {answer:?}");
            assert_ne!(answer.json()["code"], "route_not_found", "{method} {path}");
        }
    }
    assert_eq!(rig.get("/openapi.json").await.expect(200), document);
    let page = rig.get("/docs/").await;
    page.expect(200);
    assert!(page.text.contains("swagger"), "{}", page.text);
    assert_eq!(rig.get("/").await.header("location"), "/docs/");
}
