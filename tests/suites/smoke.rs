//! The shortest way through the whole product: every service, the way in and the way out.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Server, troupe};

fn greeting() -> Value {
    json!({
        "name": "greeting",
        "description": "Says hello",
        "steps": [
            { "id": "one", "agent_type": "echo", "input": { "hello": "${{ input.who }}" } },
            { "id": "two", "agent_type": "echo", "input": "${{ steps.one.output.hello }}", "depends_on": ["one"] },
        ],
        "output": "${{ steps.two.output }}",
    })
}

#[tokio::test]
async fn a_workflow_runs_and_its_whole_life_can_be_seen() {
    let server = Server::start().await;
    let api = server.api();
    let workflow = api.define(&greeting()).await;

    let path = format!("/api/v1/workflows/{workflow}/execute");
    let done = api.post(&path, &json!({ "input": { "who": "world" }, "wait_ms": 30_000 })).await.expect(200);
    assert_eq!(done["status"], "completed");
    assert_eq!(done["output"], "world");

    let execution = done["execution_id"].as_str().expect("an execution has an id");
    let shown = api.get(&format!("/api/v1/executions/{execution}")).await.expect(200);
    assert_eq!(shown["input"], json!({ "who": "world" }));
    let steps: Vec<_> = shown["steps"]
        .as_array()
        .expect("it has steps")
        .iter()
        .map(|step| (&step["step_id"], &step["state"]))
        .collect();
    assert_eq!(steps, [(&json!("one"), &json!("completed")), (&json!("two"), &json!("completed"))]);

    let types: Vec<_> = api.events(execution).await.iter().map(|event| event["type"].clone()).collect();
    assert_eq!(
        types,
        ["accepted", "step_scheduled", "step_completed", "step_scheduled", "step_completed", "completed"]
    );

    let status = api.get(&format!("/api/v1/workflows/{workflow}/status")).await.expect(200);
    assert_eq!(status["status"], "completed");
    let explained = api.get(&format!("/api/v1/executions/{execution}/explain")).await.expect(200);
    assert_eq!(explained["waits"], json!([]));
}

#[tokio::test]
async fn namespaces_do_not_see_each_other() {
    let server = Server::start().await;
    let api = server.api();
    let workflow = api.define(&greeting()).await;
    let execution = api.execute(&workflow, &json!({ "who": "me" })).await;
    api.ended(&execution).await;

    for path in [format!("/api/v1/workflows/{workflow}"), format!("/api/v1/executions/{execution}")] {
        let elsewhere = api.request(Method::GET, &path).header("X-Namespace", "elsewhere");
        let answer = api.send(elsewhere).await.expect("the server answers");
        assert_eq!(answer.status, 404, "{path}: {:#}", answer.body);
    }
    for path in
        ["/api/v1/agents", "/api/v1/workflows", "/api/v1/executions", "/api/v1/messages", "/api/v1/dead-letters"]
    {
        let elsewhere = api.request(Method::GET, path).header("X-Namespace", "elsewhere");
        let answer = api.send(elsewhere).await.expect("the server answers").expect(200);
        assert_eq!(answer["items"], json!([]), "{path}");
    }
}

#[tokio::test]
async fn a_definition_of_ten_thousand_steps_runs() {
    let server = Server::start().await;
    let api = server.api();
    // A ladder: every rung waits for the one before, and carries what makes the document a large one.
    let padding = "x".repeat(300);
    let steps: Vec<_> = (0..10_000_u32)
        .map(|number| {
            let mut step = json!({ "id": format!("step-{number}.x"), "agent_type": "echo", "input": { "n": number, "p": padding } });
            if number >= 100 {
                step["depends_on"] = json!([format!("step-{}.x", number - 100)]);
            }
            step
        })
        .collect();
    let definition = json!({ "name": "ladder", "steps": steps, "output": "${{ steps[\"step-9999.x\"].output.n }}" });
    let workflow = api.define(&definition).await;
    let execution = api.execute(&workflow, &json!({})).await;
    let ended = api.ended(&execution).await;
    assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!(9999)));
}

#[tokio::test]
async fn the_same_idempotency_key_means_the_same_execution() {
    let server = Server::start().await;
    let api = server.api();
    let workflow = api.define(&greeting()).await;
    let path = format!("/api/v1/workflows/{workflow}/execute");
    let start = |who: &str| {
        api.request(Method::POST, &path).header("Idempotency-Key", "k1").json(&json!({ "input": { "who": who } }))
    };

    let answers = futures::future::join_all((0..8).map(|_| api.send(start("you")))).await;
    let executions: HashSet<_> = answers
        .into_iter()
        .map(|answer| answer.expect("the server answers").expect(202)["execution_id"].to_string())
        .collect();
    assert_eq!(executions.len(), 1, "{executions:?}");
    let other = api.send(start("somebody else")).await.expect("the server answers");
    assert_eq!(other.status, 422, "{other:?}");
    assert_eq!(api.all("/api/v1/executions").await.len(), 1);
}

#[tokio::test]
async fn messages_are_delivered_and_their_history_is_kept() {
    let server = Server::start().await;
    let api = server.api();
    let agent = json!({ "agent_type": "echo", "name": "box", "config": {}, "capabilities": ["mail"] });
    let agent = api.post("/api/v1/agents", &agent).await.expect(201);
    let path = format!("/api/v1/agents/{}/message", agent["id"].as_str().expect("an agent has an id"));
    let sent = api
        .post(&path, &json!({ "payload": { "hello": "you" }, "type": "greeting", "correlation_id": "c1" }))
        .await
        .expect(202);
    let path = format!("/api/v1/messages/{}", sent["message_id"].as_str().expect("a message has an id"));
    let message = testkit::eventually("the message is dealt with", || async {
        let message = api.get(&path).await.expect(200);
        if message["status"] == "acked" { Ok(message) } else { Err(message) }
    })
    .await;
    let states: Vec<_> =
        message["history"].as_array().expect("it has a history").iter().map(|entry| entry["status"].clone()).collect();
    assert_eq!(states.first(), Some(&json!("accepted")), "{message:#}");
    assert_eq!(states.last(), Some(&json!("acked")), "{message:#}");

    // Any that has the capability gets it, and the message says who that is.
    let chosen = api.get("/api/v1/agents/select?of=capability:mail").await.expect(200);
    assert_eq!(chosen["agents"][0]["id"], agent["id"], "{chosen}");
    let sent = troupe(&server.url(), &["send", "capability:mail", "--payload", "1"]).await;
    let id = sent.stdout.split(' ').next().expect("it says the message's id");
    assert_eq!(
        api.get(&format!("/api/v1/messages/{id}")).await.expect(200)["agent_id"],
        agent["id"],
        "{}",
        sent.stderr
    );
    let nobody = api.post("/api/v1/messages", &json!({ "to": "type:nobody", "payload": 1 })).await;
    assert_eq!(nobody.body["code"], "no_live_agent", "{nobody:?}");
}

#[tokio::test]
async fn one_data_directory_serves_one_process() {
    let server = Server::start().await;
    let directory = server.data_directory();
    let directory = directory.to_str().expect("a temporary directory has a readable name");
    let second =
        troupe(&server.url(), &["dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--data-dir", directory])
            .await;
    assert_ne!(second.code, Some(0));
    assert!(second.stderr.contains("data directory") || second.stderr.contains("data-dir"), "{}", second.stderr);
}

#[tokio::test]
async fn it_refuses_to_listen_to_the_world_without_authentication() {
    let directory = testkit::workspace().join("target/refused");
    let directory = directory.to_str().expect("a readable name").to_owned();
    for flag in ["--http", "--grpc"] {
        let refused = troupe("", &["dev", flag, "0.0.0.0:0", "--data-dir", &directory]).await;
        assert_ne!(refused.code, Some(0), "{flag}");
        assert!(refused.stderr.contains("authentication"), "{flag}: {}", refused.stderr);
    }
}
