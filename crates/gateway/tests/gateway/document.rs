//! The description of the API is complete and says what is there.

use std::collections::BTreeSet;

use axum::body::Body;
use http::Method;
use serde_json::Value;

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
