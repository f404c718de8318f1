//! The same key means the same thing, whatever breaks in between.

use serde_json::json;

use crate::rig::Rig;

const AGENTS: &str = "/api/v1/agents";

#[tokio::test]
async fn the_same_key_gives_the_same_answer_and_creates_nothing_twice() {
    let rig = Rig::start().await;
    let body = json!({ "agent_type": "echo", "name": "one" });
    let first = rig.post_with_key(AGENTS, "k", &body).await;
    first.expect(201);
    let again = rig.post_with_key(AGENTS, "k", &body).await;
    assert_eq!(
        (first.status, &first.text, first.header("location")),
        (again.status, &again.text, again.header("location"))
    );
    assert_eq!(rig.backend.state().calls, ["register_agent"]);
    let rig = rig.restarted().await;
    assert_eq!(rig.post_with_key(AGENTS, "k", &body).await.text, first.text, "also after a restart");
}

#[tokio::test]
async fn a_key_belongs_to_one_route_and_one_body() {
    let rig = Rig::start().await;
    let body = json!({ "agent_type": "echo", "name": "one" });
    rig.post_with_key(AGENTS, "k", &body).await.expect(201);
    let other_body = rig.post_with_key(AGENTS, "k", &json!({ "agent_type": "echo", "name": "two" })).await;
    assert_eq!(other_body.expect(422)["code"], "idempotency_key_reused");
    let other_route = rig.post_with_key("/api/v1/workflows", "k", &body).await;
    assert_eq!(other_route.expect(422)["code"], "idempotency_key_reused");
    rig.post(AGENTS, &json!({ "agent_type": "echo", "name": "three" })).await.expect(201);
}

#[tokio::test]
async fn a_retry_after_a_lost_answer_finds_what_was_created() {
    let rig = Rig::start().await;
    let body = json!({ "agent_type": "echo", "name": "one" });
    rig.backend.state().lost_answers = 1;
    rig.post_with_key(AGENTS, "k", &body).await.expect(503);
    let created = rig.backend.state().agents.keys().next().cloned().unwrap();
    let rig = rig.restarted().await;
    let agent = rig.post_with_key(AGENTS, "k", &body).await.expect(201);
    assert_eq!(agent["id"], created.as_str());
    assert_eq!(rig.backend.state().agents.len(), 1);
}

#[tokio::test]
async fn a_failure_is_not_kept() {
    let rig = Rig::start().await;
    let body = json!({ "agent_type": "echo", "name": "one" });
    rig.post(AGENTS, &body).await.expect(201);
    assert_eq!(rig.post_with_key(AGENTS, "k", &body).await.expect(409)["code"], "agent_name_taken");
    rig.backend.state().agents.clear();
    rig.post_with_key(AGENTS, "k", &body).await.expect(201);
}

#[tokio::test]
async fn requests_at_once_get_the_same_thing() {
    let rig = Rig::start().await;
    let path = format!("/api/v1/workflows/{}/execute", rig.workflow().await);
    let body = json!({ "input": { "a": 1 } });
    let answers = futures::future::join_all((0..16).map(|_| rig.post_with_key(&path, "k", &body))).await;
    let first = answers[0].expect(202);
    for answer in &answers {
        assert_eq!(answer.expect(202), first);
    }
    assert_eq!(rig.backend.state().executions.len(), 1);
}

#[tokio::test]
async fn every_creation_takes_a_key() {
    let rig = Rig::start().await;
    let execution = rig.execution().await;
    let signal = format!("/api/v1/executions/{execution}/signals/go");
    let message = format!("{AGENTS}/agt_00000000000000000000000000/message");
    let replay = "/api/v1/dead-letters/dlt_00000000000000000000000000/replay".to_owned();
    for (key, path) in [("a", signal), ("b", message), ("c", replay)] {
        let body = if key == "c" { json!({}) } else { json!({ "payload": { "n": 1 } }) };
        let first = rig.post_with_key(&path, key, &body).await;
        first.expect(202);
        let calls = rig.backend.state().calls.len();
        assert_eq!(rig.post_with_key(&path, key, &body).await.text, first.text, "{path}");
        assert_eq!(rig.backend.state().calls.len(), calls, "{path}");
    }
}

/// Its answer has a secret in it, which is kept nowhere.
#[tokio::test]
async fn where_a_secret_is_told_a_key_is_refused_and_nothing_is_done() {
    let rig = Rig::start().await;
    let keys = "/api/v1/auth/keys";
    let new = json!({ "name": "k", "role": "viewer" });
    let made = rig.post(keys, &new).await.expect(201);
    let id = made["key"]["id"].as_str().unwrap();
    for path in [keys.to_owned(), format!("{keys}/{id}/rotate")] {
        let body = if path == keys { new.clone() } else { json!({}) };
        let refused = rig.post_with_key(&path, "k", &body).await.expect(400);
        assert_eq!(refused["code"], "idempotency_unsupported", "{path}");
        assert_eq!(refused["errors"][0]["field"], "Idempotency-Key", "{refused}");
    }
    let listed = rig.get(keys).await.expect(200);
    assert_eq!(listed["items"], json!([made["key"]]), "none was made, and none was rotated");
    let tag = rig.get(&format!("{keys}/{id}")).await;
    rig.post(&format!("{keys}/{id}/rotate"), &json!({})).await.expect(200);
    assert_ne!(rig.get(&format!("{keys}/{id}")).await.header("etag"), tag.header("etag"));
}
