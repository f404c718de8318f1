//! Whatever clients send, the answer is a problem document that names the fault.

use axum::body::Body;
use gateway::Settings;
use http::{Method, header};
use serde_json::{Value, json};
use settings::ByteSize;
use testkit::eventually;

use crate::rig::{self, Answer, Rig};

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, named: &str, what: &str) {
    assert_eq!(answer.status.as_u16(), status, "{what}: {answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
    let problem = answer.json();
    for field in ["type", "title", "detail", "code", "request_id"] {
        assert!(problem[field].is_string(), "{field} of {what}: {answer:?}");
    }
    assert_eq!(problem["status"], status, "{what}");
    assert_eq!(problem["request_id"], answer.header("x-request-id"), "{what}");
    let names = |fault: &Value| fault["pointer"] == named || fault["field"] == named;
    let found = named == "-" || problem["errors"].as_array().unwrap().iter().any(names);
    assert!(found, "{named} in {what}: {answer:?}");
}

const NO_AGENT: &str = "/api/v1/agents/agt_00000000000000000000000000";
const NO_WORKFLOW: &str = "/api/v1/workflows/wf_00000000000000000000000000";

#[tokio::test]
async fn faulty_bodies_are_answered_with_the_place_of_the_fault() {
    let rig = Rig::start().await;
    let execute = format!("{NO_WORKFLOW}/execute");
    let message = format!("{NO_AGENT}/message");
    let agents = "/api/v1/agents";
    let deep = format!(r#"{{"input": {}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    let unended = "[".repeat(100_000);
    let cases: Vec<(&str, &str, &str)> = vec![
        (agents, "{", ""),
        (agents, "", ""),
        (agents, "[]", ""),
        (agents, "\u{feff}{}", ""),
        (agents, r#"{"agent_type": "echo"}"#, "/name"),
        (agents, r#"{"agent_type": 5, "name": "x"}"#, "/agent_type"),
        (agents, r#"{"agent_type": "a b", "name": "x"}"#, "/agent_type"),
        (agents, r#"{"agent_type": "echo", "name": "x\u0000"}"#, "/name"),
        (agents, r#"{"agent_type": "echo", "name": " x"}"#, "/name"),
        (agents, r#"{"agent_type": "echo", "name": "x", "capabilities": ["a", 5]}"#, "/capabilities/1"),
        (agents, r#"{"agent_type": "echo", "name": "x", "capabilities": "all"}"#, "/capabilities"),
        (agents, r#"{"agent_type": "echo", "name": "x", "config": []}"#, "/config"),
        (agents, r#"{"agent_type": "echo", "name": "x", "config": null}"#, "/config"),
        (agents, r#"{"agent_type": "echo", "name": "x", "a/b": 1}"#, "/a~1b"),
        (agents, r#"{"agent_type": "echo", "name": "x", "name": "y"}"#, "/name"),
        (&execute, r#"{"wait_ms": "long"}"#, "/wait_ms"),
        (&execute, r#"{"wait_ms": -1}"#, "/wait_ms"),
        (&execute, r#"{"wait_ms": 99999999999999999999999999}"#, "/wait_ms"),
        (&execute, r#"{"wait_ms": 1e999}"#, ""),
        (&execute, r#"{"input": 1e999}"#, "/input"),
        (&execute, r#"{"input": "\ud800"}"#, "/input"),
        (&execute, &deep, "/input"),
        (&execute, "[1]", ""),
        (&message, "{}", "/payload"),
        (&message, r#"{"payload": 1, "priority": 10}"#, "/priority"),
        (&message, r#"{"payload": 1, "expires_in": "soon"}"#, "/expires_in"),
        (&message, r#"{"payload": 1, "reply_to": "me"}"#, "/reply_to"),
        ("/api/v1/workflows", r#"{"name": 5, "steps": []}"#, "/name"),
        ("/api/v1/workflows", "[]", ""),
        ("/api/v1/workflows", &unended, ""),
    ];
    for (path, body, named) in cases {
        let request = rig::request(Method::POST, path).header(header::CONTENT_TYPE, "application/json");
        let answer = rig.send(request.body(Body::from(body.to_owned())).unwrap()).await;
        let shown: String = body.chars().take(80).collect();
        assert_problem(&answer, 400, named, &format!("{path} {shown}"));
    }
}

#[tokio::test]
async fn faulty_paths_and_queries_are_answered_with_the_parameter() {
    let rig = Rig::start().await;
    let huge = format!("/api/v1/executions?limit={}", "9".repeat(400));
    let long = format!("/api/v1/executions/{}", "x".repeat(5_000));
    let cases = [
        ("/api/v1/executions/nonsense", "id"),
        ("/api/v1/executions/%00", "id"),
        ("/api/v1/executions/%ff%fe", "id"),
        ("/api/v1/executions/EXE_00000000000000000000000000", "id"),
        (&long, "id"),
        ("/api/v1/executions?limit=many", "limit"),
        ("/api/v1/executions?limit=0", "limit"),
        (&huge, "limit"),
        ("/api/v1/executions?limit=1&limit=1", "limit"),
        ("/api/v1/executions?status=happy", "status"),
        ("/api/v1/executions?cursor=nonsense", "cursor"),
        ("/api/v1/executions?surprise=1", "surprise"),
        ("/api/v1/executions?workflow_name=%ff", "query"),
        ("/api/v1/workflows?include_archived=maybe", "include_archived"),
        ("/api/v1/executions/exe_00000000000000000000000000/events?cursor=-1", "cursor"),
    ];
    for (path, named) in cases {
        assert_problem(&rig.get(path).await, 400, named, &path.chars().take(80).collect::<String>());
    }
}

#[tokio::test]
async fn faulty_headers_are_answered_with_their_name() {
    let rig = Rig::start().await;
    for (name, value) in [
        ("X-Namespace", "a b".to_owned()),
        ("X-Namespace", "x".repeat(129)),
        ("X-Correlation-ID", "a b".to_owned()),
        ("X-Correlation-ID", "x".repeat(256)),
    ] {
        let request = rig::request(Method::GET, "/api/v1/agents").header(name, value);
        assert_problem(&rig.send(request.body(Body::empty()).unwrap()).await, 400, name, name);
    }
    let answer =
        rig.post_with_key("/api/v1/agents", &"x".repeat(256), &json!({ "agent_type": "a", "name": "x" })).await;
    assert_problem(&answer, 400, "Idempotency-Key", "a long key");
}

#[tokio::test]
async fn other_routes_methods_types_and_sizes_are_refused() {
    let rig = Rig::with(Settings { max_body: ByteSize(1_000), ..Settings::default() }).await;
    let send = async |method: Method, path: &str, kind: Option<&str>, body: Vec<u8>| {
        let mut request = rig::request(method, path);
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        rig.send(request.body(Body::from(body)).unwrap()).await
    };
    let json = Some("application/json");
    assert_problem(&rig.get("/api/v1/nothing").await, 404, "-", "an unknown route");
    assert_problem(&rig.get("/nothing").await, 404, "-", "an unknown page");
    assert_problem(&rig.get(NO_AGENT).await, 404, "-", "an unknown agent");
    for (method, path, allow) in [
        (Method::PATCH, "/api/v1/agents", "GET,HEAD,POST"),
        (Method::DELETE, "/api/v1/workflows", "GET,HEAD,POST"),
        (Method::TRACE, NO_AGENT, "GET,HEAD,PUT,DELETE"),
        (Method::POST, "/health", "GET,HEAD"),
    ] {
        let answer = send(method, path, json, b"{}".to_vec()).await;
        assert_problem(&answer, 405, "-", path);
        assert_eq!(answer.header("allow"), allow, "{path}");
    }
    for kind in [None, Some("text/csv"), Some("application/xml")] {
        for path in ["/api/v1/agents", "/api/v1/workflows"] {
            assert_problem(&send(Method::POST, path, kind, b"{}".to_vec()).await, 415, "-", path);
        }
    }
    assert_problem(&send(Method::POST, "/api/v1/agents", json, vec![b' '; 1_001]).await, 413, "-", "a large body");
    let yaml = send(Method::POST, "/api/v1/workflows", Some("application/yaml"), b"name: [unclosed".to_vec()).await;
    assert_problem(&yaml, 400, "", "broken YAML");
    assert!(yaml.json()["detail"].as_str().unwrap().contains("YAML"));
}

#[tokio::test]
async fn a_backend_that_is_away_is_told_with_when_to_try_again() {
    let rig = Rig::start().await;
    rig.backend.state().failures.push(tonic::Status::unavailable("connection refused"));
    let answer = rig.get("/api/v1/agents").await;
    assert_problem(&answer, 503, "-", "an unavailable backend");
    assert_eq!(answer.header("retry-after"), "1");
    rig.backend.state().failures.push(tonic::Status::internal("secret"));
    let answer = rig.get("/api/v1/agents").await;
    assert_problem(&answer, 500, "-", "a broken backend");
    assert!(!answer.text.contains("secret"), "{answer:?}");
    // In the order in which they are asked: the registry, without which work goes on, and the orchestrator.
    rig.backend.state().failures.extend(["away", "away"].map(tonic::Status::unavailable));
    let answer = rig.get("/health/ready").await;
    assert_problem(&answer, 503, "-", "readiness");
    let told = |answer: &serde_json::Value| {
        let checks = answer["checks"].as_array().expect("there are checks").iter();
        let told = checks.map(|check| {
            assert!(check["latency_ms"].is_number() && check["message"].is_string(), "{check}");
            let is_needed = check["name"] != "registry";
            assert!(check["timestamp"].is_string() && check["details"]["needed"] == is_needed, "{check}");
            format!("{} {}", check["name"].as_str().unwrap(), check["status"].as_str().unwrap())
        });
        told.collect::<Vec<_>>()
    };
    let needed = ["registry", "orchestrator", "communication", "database"];
    let found = told(&answer.json());
    assert_eq!(found[..2], ["registry degraded", "orchestrator unhealthy"], "{found:?}");
    // An answer is given again for a second.
    rig.backend.state().failures.push(tonic::Status::unavailable("away"));
    let ready = async |expected: String| {
        let answer = rig.get("/health/ready").await;
        if answer.status == 200 && told(&answer.json())[0] == expected { Ok(()) } else { Err(answer) }
    };
    eventually("the registry alone to be missed", async || ready("registry degraded".to_owned()).await).await;
    eventually("all to be well", async || ready("registry healthy".to_owned()).await).await;
    let found = told(&rig.get("/health/ready").await.expect(200));
    assert_eq!(found, needed.map(|name| format!("{name} healthy")));
    rig.get("/health").await.expect(200);
    rig.get("/health/live").await.expect(200);
}
