//! Bad input of every kind: a 4xx problem document that names what is wrong, never a 5xx, never a panic.

use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use testkit::{Answer, Api, Server};

/// One bad request: method, path, content type, body; and the status and the text that the problem must have.
struct Bad {
    method: Method,
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
    status: &'static [u16],
    names: &'static str,
}

fn json_post(path: impl Into<String>, body: &Value, status: &'static [u16], names: &'static str) -> Bad {
    Bad {
        method: Method::POST,
        path: path.into(),
        content_type: "application/json",
        body: body.to_string().into(),
        status,
        names,
    }
}

fn raw(method: Method, path: &str, body: &[u8], status: &'static [u16], names: &'static str) -> Bad {
    Bad { method, path: path.into(), content_type: "application/json", body: body.into(), status, names }
}

const UNSOUND: &[u16] = &[400, 422];

fn step(extra: &Value) -> Value {
    let mut step = json!({ "id": "a", "agent_type": "echo" });
    for (name, value) in extra.as_object().expect("an object") {
        step[name] = value.clone();
    }
    json!({ "name": "bad", "steps": [step] })
}

fn documents() -> Vec<Bad> {
    let workflows = "/api/v1/workflows";
    let cycle = json!({ "name": "bad", "steps": [
        { "id": "a", "agent_type": "echo", "depends_on": ["b"] }, { "id": "b", "agent_type": "echo", "depends_on": ["a"] }] });
    let twice =
        json!({ "name": "bad", "steps": [{ "id": "a", "agent_type": "echo" }, { "id": "a", "agent_type": "echo" }] });
    let decision = json!({ "name": "bad", "steps": [{ "id": "a", "decision": {
        "question": "?", "options": ["x", "y"], "voters": { "capability": "c", "count": 1 }, "strategy": "dice" } }] });
    vec![
        raw(Method::POST, workflows, b"{\"name\": ", UNSOUND, "JSON"),
        raw(Method::POST, workflows, b"\xff\xfe\x00", UNSOUND, ""),
        raw(Method::POST, workflows, b"", UNSOUND, ""),
        raw(Method::POST, workflows, b"[]", UNSOUND, ""),
        raw(Method::POST, workflows, "[".repeat(100_000).as_bytes(), UNSOUND, ""),
        json_post(workflows, &json!({ "name": 5, "steps": [] }), UNSOUND, "/name"),
        json_post(workflows, &json!({ "name": "bad", "steps": "none" }), UNSOUND, "/steps"),
        json_post(workflows, &step(&json!({ "agent_tpye": "echo" })), UNSOUND, "agent_tpye"),
        json_post(workflows, &step(&json!({ "depends_on": ["ghost"] })), UNSOUND, "ghost"),
        json_post(workflows, &cycle, UNSOUND, "cycle"),
        json_post(workflows, &twice, UNSOUND, "/steps/1/id"),
        json_post(workflows, &decision, UNSOUND, "/steps/0/decision/strategy"),
        json_post(workflows, &step(&json!({ "input": "${{ input. }}" })), UNSOUND, "/steps/0/input"),
        json_post(workflows, &step(&json!({ "input": "${{ steps.later.output }}" })), UNSOUND, "later"),
        json_post(workflows, &step(&json!({ "when": "((((" })), UNSOUND, "/steps/0/when"),
        json_post(workflows, &step(&json!({ "timeout": "soon" })), UNSOUND, "/steps/0/timeout"),
        json_post(
            workflows,
            &step(&json!({ "retry": { "max_attempts": -1 } })),
            UNSOUND,
            "/steps/0/retry/max_attempts",
        ),
        Bad { content_type: "application/yaml", ..raw(Method::POST, workflows, b"name: [unclosed", UNSOUND, "YAML") },
        Bad { content_type: "text/csv", ..raw(Method::POST, workflows, b"a,b", &[415], "") },
        raw(Method::POST, workflows, &vec![b' '; 10 << 20], &[413], ""),
    ]
}

fn requests(workflow: &str, execution: &str) -> Vec<Bad> {
    let agents = "/api/v1/agents";
    let execute = format!("/api/v1/workflows/{workflow}/execute");
    let huge = "9".repeat(400);
    vec![
        json_post(agents, &json!({ "agent_type": "echo" }), UNSOUND, "name"),
        json_post(agents, &json!({ "agent_type": 5, "name": "x" }), UNSOUND, "agent_type"),
        json_post(
            agents,
            &json!({ "agent_type": "echo", "name": "x", "capabilities": "all" }),
            UNSOUND,
            "capabilities",
        ),
        json_post(agents, &json!({ "agent_type": "echo", "name": "x\u{0}", "capabilities": [] }), UNSOUND, "name"),
        json_post(agents, &json!({ "agent_type": "echo", "name": "x", "surprise": 1 }), UNSOUND, "surprise"),
        json_post(execute.clone(), &json!({ "input": {}, "wait_ms": "long" }), UNSOUND, "wait_ms"),
        json_post(execute.clone(), &json!({ "input": {}, "wait_ms": -1 }), UNSOUND, "wait_ms"),
        json_post(execute, &json!([1]), UNSOUND, ""),
        json_post("/api/v1/workflows/wf_00000000000000000000000000/execute", &json!({}), &[404], "workflow"),
        json_post("/api/v1/workflows/nonsense/execute", &json!({}), &[400, 404, 422], ""),
        json_post(format!("/api/v1/executions/{execution}/cancel"), &json!({}), &[409], ""),
        json_post(format!("/api/v1/executions/{execution}/retry"), &json!({}), &[409], ""),
        json_post(format!("/api/v1/executions/{execution}/signals/none"), &json!({ "payload": 1 }), &[404, 409], ""),
        json_post("/api/v1/agents/agt_00000000000000000000000000/message", &json!({ "payload": 1 }), &[404], "agent"),
        raw(Method::GET, "/api/v1/executions/exe_00000000000000000000000000", b"", &[404], "execution"),
        raw(Method::GET, "/api/v1/executions/%00", b"", &[400, 404], ""),
        raw(Method::GET, "/api/v1/executions/%ff%fe", b"", &[400, 404], ""),
        raw(Method::GET, &format!("/api/v1/executions/{}", "x".repeat(5000)), b"", &[400, 404], ""),
        raw(Method::GET, "/api/v1/executions?limit=many", b"", UNSOUND, "limit"),
        raw(Method::GET, &format!("/api/v1/executions?limit={huge}"), b"", UNSOUND, "limit"),
        raw(Method::GET, "/api/v1/executions?status=happy", b"", UNSOUND, "status"),
        raw(Method::GET, "/api/v1/executions?cursor=nonsense", b"", UNSOUND, "cursor"),
        raw(Method::GET, &format!("/api/v1/executions/{execution}/events?after=-1"), b"", UNSOUND, ""),
        raw(Method::GET, "/api/v1/nothing-here", b"", &[404], ""),
        raw(Method::GET, "/nothing-here", b"", &[404], ""),
        raw(Method::PATCH, agents, b"{}", &[405], ""),
        raw(Method::DELETE, "/api/v1/workflows", b"", &[405], ""),
        raw(Method::POST, "/health", b"{}", &[405], ""),
    ]
}

async fn check(api: &Api, bad: Bad) {
    let request =
        api.request(bad.method.clone(), &bad.path).header(CONTENT_TYPE, bad.content_type).body(bad.body.clone());
    let answer: Answer =
        api.send(request).await.unwrap_or_else(|error| panic!("{} {}: {error:?}", bad.method, bad.path));
    let shown: String = String::from_utf8_lossy(&bad.body).chars().take(200).collect();
    let what = format!("{} {:.200} {shown}: {answer:#?}", bad.method, bad.path);
    assert!(bad.status.contains(&answer.status), "{what}");
    assert!(answer.header("content-type").starts_with("application/problem+json"), "{what}");
    assert_eq!(answer.body["status"], json!(answer.status), "{what}");
    assert!(["title", "code", "request_id"].iter().all(|field| answer.body[*field].is_string()), "{what}");
    assert!(
        answer.body.to_string().to_lowercase().contains(&bad.names.to_lowercase()),
        "must name {:?}: {what}",
        bad.names
    );
    if answer.status == 405 {
        assert!(!answer.header("allow").is_empty(), "{what}");
    }
}

#[tokio::test]
async fn bad_input_is_answered_with_a_problem_that_names_the_field() {
    let mut server = Server::start().await;
    let api = server.api();
    let definition = json!({ "name": "good", "steps": [{ "id": "a", "agent_type": "echo" }] });
    let workflow = api.define(&definition).await;
    let execution = api.execute(&workflow, &json!({})).await;
    api.ended(&execution).await;

    for bad in documents().into_iter().chain(requests(&workflow, &execution)) {
        check(&api, bad).await;
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert!(!server.has_ended());
}

#[tokio::test]
async fn every_fault_of_a_definition_is_reported_at_once() {
    let server = Server::start().await;
    let definition = json!({ "name": "", "steps": [
        { "id": "a", "agent_type": "echo", "timeout": "soon" },
        { "id": "a", "when": "1 +", "agent_type": "echo" },
        { "id": "b", "agent_type": "echo", "depends_on": ["ghost"] },
        { "id": "c" },
    ] });
    let answer = server.api().post("/api/v1/workflows", &definition).await;
    assert!(UNSOUND.contains(&answer.status), "{answer:#?}");
    let pointers: Vec<_> = answer.body["errors"]
        .as_array()
        .expect("faults")
        .iter()
        .map(|fault| fault["pointer"].as_str().unwrap_or_default())
        .collect();
    for pointer in ["/name", "/steps/0/timeout", "/steps/1/id", "/steps/1/when", "/steps/2/depends_on/0", "/steps/3"] {
        assert!(pointers.contains(&pointer), "{pointer} is missing: {:#}", answer.body);
    }
}
