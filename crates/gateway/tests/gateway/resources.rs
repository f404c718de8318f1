//! The way in and out of each resource.

use std::time::Duration;

use axum::body::Body;
use gateway::Settings;
use http::{Method, header};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::rig::{self, Rig};

#[tokio::test]
async fn agents_are_registered_changed_listed_and_removed() {
    let rig = Rig::start().await;
    let new = json!({ "agent_type": "echo", "name": "one", "capabilities": ["a.b"], "config": { "x": 1 } });
    let answer = rig.post("/api/v1/agents", &new).await;
    let agent = answer.expect(201);
    let path = format!("/api/v1/agents/{}", agent["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), path);
    assert_eq!((&agent["status"], &agent["config"]), (&json!("offline"), &json!({ "x": 1 })));
    assert_eq!(agent["created_at"], "1970-01-01T00:00:01.000000Z");
    let changed = rig.send(rig::json(Method::PUT, &path, &json!({ "name": "two" }))).await.expect(200);
    assert_eq!((&changed["name"], &changed["capabilities"]), (&json!("two"), &json!(["a.b"])));
    for number in 0..3 {
        rig.post("/api/v1/agents", &json!({ "agent_type": "echo", "name": format!("n{number}") })).await.expect(201);
    }
    let page = rig.get("/api/v1/agents?limit=3&type=echo").await.expect(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
    let next = page["next_cursor"].as_str().unwrap();
    let page = rig.get(&format!("/api/v1/agents?limit=3&cursor={next}")).await.expect(200);
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next_cursor"]), (1, &json!(null)));
    let delete = || rig::request(Method::DELETE, &path).body(Body::empty()).unwrap();
    assert!(rig.send(delete()).await.expect(200)["message"].is_string());
    assert_eq!(rig.send(delete()).await.expect(404)["code"], "agent_not_found");
}

#[tokio::test]
async fn a_workflow_is_defined_in_yaml_executed_and_waited_for() {
    let rig = Rig::start().await;
    let yaml = "name: w\nsteps:\n  - &s { id: a, agent_type: echo }\noutput: 5\n";
    let request = rig::request(Method::POST, "/api/v1/workflows").header(header::CONTENT_TYPE, "application/yaml");
    let workflow = rig.send(request.body(Body::from(yaml)).unwrap()).await.expect(201);
    assert_eq!(workflow["steps"], json!([{ "id": "a", "agent_type": "echo" }]));
    let path = format!("/api/v1/workflows/{}", workflow["id"].as_str().unwrap());
    assert_eq!(rig.get(&format!("{path}/status")).await.expect(200)["status"], "never_executed");
    assert_eq!(rig.get("/api/v1/workflows?name=w").await.expect(200)["items"][0]["id"], workflow["id"]);
    assert_eq!(rig.get("/api/v1/workflows?name=other").await.expect(200)["items"], json!([]));

    let input = r#"{"input": {"b": 1.0, "a": [1e3, "\u00e9"]}, "wait_ms": 5}"#;
    let request =
        rig::request(Method::POST, &format!("{path}/execute")).header(header::CONTENT_TYPE, "application/json");
    let done = rig.send(request.body(Body::from(input)).unwrap()).await;
    assert_eq!(done.expect(200)["status"], "completed");
    assert!(done.text.contains(r#""output":{"b": 1.0, "a": [1e3, "\u00e9"]}"#), "as it was written: {}", done.text);
    let faulty = rig.post(&format!("{path}/execute"), &json!({ "input": 7 })).await.expect(400);
    assert_eq!((&faulty["code"], &faulty["errors"][0]["pointer"]), (&json!("input_invalid"), &json!("/input")));

    let definition = json!({ "name": "w", "steps": [] });
    assert_eq!(rig.send(rig::json(Method::PUT, &path, &definition)).await.expect(200)["version"], 2);
    let cancelled = rig.send(rig::request(Method::POST, &format!("{path}/cancel")).body(Body::empty()).unwrap()).await;
    assert!(cancelled.expect(200)["message"].as_str().unwrap().starts_with("1 execution of"));
    let archived = rig.send(rig::request(Method::DELETE, &path).body(Body::empty()).unwrap()).await;
    assert!(archived.expect(200)["message"].as_str().unwrap().ends_with("archived"));
    assert_eq!(rig.get(&path).await.expect(200)["status"], "archived");
}

#[tokio::test]
async fn executions_are_looked_at_and_steered() {
    let rig = Rig::start().await;
    let path = format!("/api/v1/executions/{}", rig.execution().await);
    let execution = rig.get(&path).await.expect(200);
    assert_eq!((&execution["status"], &execution["steps"]), (&json!("running"), &json!([])));
    for action in ["pause", "resume", "retry", "cancel"] {
        rig.post(&format!("{path}/{action}"), &json!({})).await.expect(200);
        let empty = rig::request(Method::POST, &format!("{path}/{action}")).body(Body::empty()).unwrap();
        rig.send(empty).await.expect(200);
    }
    rig.post(&format!("{path}/cancel"), &json!({ "reason": "enough" })).await.expect(200);
    rig.post(&format!("{path}/signals/go"), &json!({ "payload": 1, "sender": "ada" })).await.expect(202);
    assert_eq!(rig.get(&format!("{path}/explain")).await.expect(200)["waits"], json!([]));
    assert_eq!(rig.get(&format!("{path}/verify")).await.expect(200)["faults"], json!([]));
    assert_eq!(rig.get("/api/v1/executions?status=running").await.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn messages_are_sent_and_followed() {
    let rig = Rig::start().await;
    let path = "/api/v1/agents/agt_00000000000000000000000000/message";
    let message =
        json!({ "payload": { "a": 1 }, "type": "greeting", "correlation_id": "c", "expires_in": "5m", "priority": 9 });
    let sent = rig.post(path, &message).await.expect(202);
    let followed = rig.get(&format!("/api/v1/messages/{}", sent["message_id"].as_str().unwrap())).await.expect(200);
    assert_eq!((&followed["type"], &followed["priority"]), (&json!("greeting"), &json!(9)));
    assert!(followed["expires_at"].is_string());
    rig.get("/api/v1/messages?status=acked").await.expect(200);
    rig.get("/api/v1/dead-letters?kind=task&include_replayed=true").await.expect(200);
    rig.get("/api/v1/dead-letters/dlt_00000000000000000000000000").await.expect(404);
}

#[tokio::test]
async fn it_serves_over_a_socket_until_it_is_drained() {
    let rig = Rig::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = rig.gateway().serve(listener, rig.shutdown.clone());
    let client = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        rig.shutdown.drain();
    };
    let (served, ()) = futures::join!(serving, client);
    served.unwrap();
}

/// What a load balancer sees of a stop: not ready at once, but served until it had time to notice.
#[tokio::test]
async fn a_stop_lets_clients_in_until_they_have_been_told() {
    let settings = Settings { drain_delay: Duration::from_secs(2), ..Settings::default() };
    let rig = Rig::with(settings).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = rig.gateway().serve(listener, rig.shutdown.clone());
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let clients = async {
        rig.shutdown.drain();
        let ready = get("/health/ready").await;
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("\"stopping\""), "{ready}");
        // Reading to the end shows that the connection was closed.
        let served = get("/api/v1/agents").await;
        assert!(served.starts_with("HTTP/1.1 200 ") && served.contains("connection: close"), "{served}");
    };
    let (ended, ()) = futures::join!(serving, clients);
    ended.unwrap();
    TcpStream::connect(address).await.unwrap_err();
}
