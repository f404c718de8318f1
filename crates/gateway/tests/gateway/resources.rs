//! The way in and out of each resource.

use std::time::Duration;

use axum::body::Body;
use contracts::{communication::v1 as communication, orchestrator::v1 as orchestrator};
use gateway::Settings;
use http::{Method, header};
use serde_json::json;
use testkit::eventually;
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
async fn agents_are_shown_as_they_were_while_the_registry_cannot_be_reached() {
    let rig = Rig::start().await;
    let agent = rig.post("/api/v1/agents", &json!({ "agent_type": "echo", "name": "one" })).await.expect(201);
    let path = format!("/api/v1/agents/{}", agent["id"].as_str().unwrap());
    for path in [&path, "/api/v1/agents?limit=3"] {
        let fresh = rig.get(path).await;
        assert_eq!((fresh.header("x-stale"), fresh.header("age")), ("", ""));
        rig.backend.state().failures.push(tonic::Status::unavailable("connection refused"));
        let stale = rig.get(path).await;
        assert_eq!((stale.expect(200), stale.header("x-stale"), stale.header("age")), (fresh.expect(200), "true", "0"));
    }
    rig.backend.state().failures.push(tonic::Status::unavailable("connection refused"));
    rig.get("/api/v1/agents?limit=4").await.expect(503);
    // What is gone is not shown as if it were there.
    rig.send(rig::request(Method::DELETE, &path).body(Body::empty()).unwrap()).await.expect(200);
    rig.get(&path).await.expect(404);
    rig.backend.state().failures.push(tonic::Status::unavailable("connection refused"));
    rig.get(&path).await.expect(503);
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
async fn a_long_wait_outlives_its_orchestrator_and_ends_with_its_gateway() {
    let rig = Rig::start().await;
    let path = format!("/api/v1/workflows/{}/execute", rig.workflow().await);
    let body = json!({ "input": "endless", "wait_ms": 60_000 });
    let endless = || rig.post(&path, &body);
    let starts = || rig.backend.state().calls.iter().filter(|call| **call == "start_execution").count();
    let waits_again = async |more: usize| {
        eventually("it waits on", async || if starts() > more { Ok(()) } else { Err(starts()) }).await;
    };
    let ends = async {
        waits_again(1).await;
        for execution in rig.backend.state().executions.values_mut() {
            execution.status = orchestrator::ExecutionStatus::Completed.into();
        }
    };
    let (ended, ()) = tokio::join!(endless(), ends);
    assert_eq!(ended.expect(200)["status"], "completed");
    assert_eq!(rig.backend.state().executions.len(), 1, "it was started once");

    let before = starts();
    let stops = async {
        waits_again(before + 1).await;
        rig.shutdown.drain();
    };
    let (waited, ()) = tokio::join!(endless(), stops);
    assert_eq!(waited.expect(202)["status"], "running");
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

/// A dead letter of this execution's task; answers with its id.
fn task_letter(rig: &Rig, number: u128, execution: &str) -> String {
    let id = domain::DeadLetterId::from_parts(1, number).to_string();
    let letter = communication::DeadLetter {
        id: id.clone(),
        kind: communication::DeadLetterKind::Task.into(),
        subject_id: format!("{execution}/a/1"),
        ..communication::DeadLetter::default()
    };
    rig.backend.state().task_letters.insert(id.clone(), letter);
    id
}

#[tokio::test]
async fn a_tasks_letter_is_replayed_by_a_retry_and_a_broken_replay_is_completed_by_the_next() {
    let rig = Rig::start().await;
    let execution = rig.execution().await;
    let path = format!("/api/v1/dead-letters/{}/replay", task_letter(&rig, 1, &execution));
    rig.backend.state().calls.clear();
    let replay = async |calls: &[&str]| {
        let answer = rig.post(&path, &json!({})).await;
        assert_eq!(std::mem::take(&mut rig.backend.state().calls), calls);
        answer
    };
    // The first is cut off before the letter is marked: the next does all of it again, in the same order.
    rig.backend.state().lost_answers = 1;
    let whole = ["replay_dead_letter", "get_dead_letter", "retry_execution", "replay_dead_letter"];
    replay(&whole[..3]).await.expect(503);
    let answer = replay(&whole).await;
    assert_eq!(answer.expect(202), json!({ "message_id": null, "execution_id": execution }));
    assert_eq!(answer.header("location"), format!("/api/v1/executions/{execution}"));
    replay(&whole[..1]).await.expect(202);
}

#[tokio::test]
async fn many_dead_letters_are_replayed_and_removed() {
    let rig = Rig::start().await;
    let alive = rig.execution().await;
    let letters = [task_letter(&rig, 1, &alive), task_letter(&rig, 2, "exe_gone")];
    let (replay, purge) = ("/api/v1/dead-letters/replay", "/api/v1/dead-letters/purge");
    let body = json!({ "kind": "task", "ids": letters, "target": "type:echo", "limit": 2 });
    let replayed = rig.post(replay, &body).await.expect(200);
    assert_eq!((&replayed["replayed"], &replayed["next_cursor"]), (&json!(4), &json!("more")));
    let failures = replayed["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{replayed}");
    assert_eq!((&failures[0]["id"], &failures[0]["code"]), (&json!(letters[1]), &json!("execution_not_found")));
    let rest = rig.post(replay, &json!({ "all": true, "cursor": "more" })).await.expect(200);
    assert_eq!((&rest["replayed"], &rest["next_cursor"]), (&json!(3), &json!(null)));
    assert_eq!(rig.post(purge, &json!({ "reason": "expired" })).await.expect(200)["purged"], 2);
    for path in [replay, purge] {
        let refused = rig.post(path, &json!({})).await.expect(400);
        assert_eq!((&refused["code"], &refused["errors"][0]["pointer"]), (&json!("request_invalid"), &json!("")));
        rig.post(path, &json!({ "target": "echo" })).await.expect(400);
        rig.post(path, &json!({ "ids": ["exe_1"] })).await.expect(400);
    }
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
