//! What was done and what was denied is in the log, before anybody is told.

use http::Method;
use serde_json::{Value, json};
use testkit::eventually;
use tower::ServiceExt as _;

use crate::{
    access::{create, protected},
    rig,
};

const ADMIN: &str = "an-admin-key-of-the-tests";

#[tokio::test]
async fn mutations_and_denials_are_noted_with_who_what_and_from_where() {
    let rig = protected().await;
    let (viewer, id) = create(&rig, ADMIN, &json!({ "name": "v", "role": "viewer", "namespace": "blue" })).await;
    let agent = json!({ "agent_type": "echo", "name": "one" });
    let mut request = rig::json(Method::POST, "/api/v1/agents", &agent);
    request.headers_mut().insert("x-api-key", ADMIN.parse().unwrap());
    request.headers_mut().insert("x-correlation-id", "order-4711".parse().unwrap());
    rig.send(request).await.expect(201);
    rig.asked(&viewer, Method::POST, "/api/v1/agents", Some(&agent)).await.expect(403);
    rig.asked("a-wrong-key-of-somebody", Method::GET, "/api/v1/workflows", None).await.expect(401);
    rig.asked(ADMIN, Method::GET, "/api/v1/workflows", None).await.expect(200);
    rig.asked(ADMIN, Method::DELETE, "/api/v1/agents/nonsense", None).await.expect(400);

    let read = async |query: &str| {
        let path = format!("/api/v1/audit{query}");
        let page = rig.asked(ADMIN, Method::GET, &path, None).await.expect(200);
        page["items"].as_array().unwrap().clone()
    };
    let entries = eventually("how the last has ended", async || match read("").await {
        entries if entries.len() == 8 => Ok(entries),
        entries => Err(entries),
    })
    .await;
    let told: Vec<_> =
        entries.iter().map(|entry| format!("{} {} {}", entry["route"], entry["outcome"], entry["actor"])).collect();
    let viewer_actor = format!("key:{id}");
    assert_eq!(
        told,
        [
            r#""DELETE /api/v1/agents/{id}" "failed" "key:configured""#.to_owned(),
            r#""DELETE /api/v1/agents/{id}" "begun" "key:configured""#.to_owned(),
            r#""GET /api/v1/workflows" "denied" null"#.to_owned(),
            format!(r#""POST /api/v1/agents" "denied" "{viewer_actor}""#),
            r#""POST /api/v1/agents" "done" "key:configured""#.to_owned(),
            r#""POST /api/v1/agents" "begun" "key:configured""#.to_owned(),
            r#""POST /api/v1/auth/keys" "done" "key:configured""#.to_owned(),
            r#""POST /api/v1/auth/keys" "begun" "key:configured""#.to_owned(),
        ]
    );
    let noted = &read("?correlation_id=order-4711").await[0];
    assert_eq!(
        (&noted["status"], &noted["role"], &noted["action"]),
        (&json!(201), &json!("admin"), &json!("agents:write"))
    );
    assert_eq!((&noted["namespace"], &noted["target"]), (&json!("default"), &json!("/api/v1/agents")));
    assert!(noted["request_id"].as_str().unwrap().starts_with("req_"), "{noted}");
    assert_eq!(read(&format!("?actor={viewer_actor}")).await[0]["code"], "forbidden");
    assert_eq!(read("?status=400").await.len(), 3);
    assert_eq!(read("?namespace=blue").await.len(), 2, "the creation of its key is, too");
    assert_eq!(read("?until=2020-01-01T00:00:00Z").await.len(), 0);

    let export = rig.asked(ADMIN, Method::GET, "/api/v1/audit/export", None).await;
    assert_eq!(export.header("content-type"), "application/x-ndjson");
    let exported: Vec<Value> = export.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(exported.iter().eq(entries.iter().rev()), "{exported:#?}");

    let found = rig.asked(ADMIN, Method::GET, "/api/v1/audit/verify", None).await.expect(200);
    assert_eq!((&found["entries"], &found["faults"]), (&json!(8), &json!([])));
    let head = found["head"].as_str().unwrap();
    let path = format!("/api/v1/audit/verify?known={head}");
    assert_eq!(rig.asked(ADMIN, Method::GET, &path, None).await.expect(200)["faults"], json!([]));
}

#[tokio::test]
async fn what_was_made_is_noted_with_what_it_may_and_where_it_is_whatever_the_request_says() {
    let rig = protected().await;
    let (red, _) = create(&rig, ADMIN, &json!({ "name": "r", "role": "admin", "namespace": "red" })).await;
    let (other, _) = create(&rig, ADMIN, &json!({ "name": "d", "role": "admin", "namespace": "default" })).await;
    // As the command line does it: with a namespace that has nothing to do with it.
    let body = json!({ "name": "n", "role": "operator", "namespace": "red", "scopes": ["agents:read"] });
    let mut request = rig::json(Method::POST, "/api/v1/auth/keys", &body);
    request.headers_mut().insert("x-api-key", ADMIN.parse().unwrap());
    request.headers_mut().insert("x-namespace", "default".parse().unwrap());
    let made = rig.send(request).await.expect(201);
    let path = format!("/api/v1/auth/keys/{}", made["key"]["id"].as_str().unwrap());
    let read = async |key: &str| {
        let page = rig.asked(key, Method::GET, "/api/v1/audit", None).await.expect(200);
        page["items"].as_array().unwrap().clone()
    };
    let noted = eventually("what was made", async || {
        let entries = read(&red).await;
        entries.iter().find(|entry| entry["resource"] == path.as_str()).cloned().ok_or(entries)
    })
    .await;
    assert_eq!(noted["details"], "role=operator namespace=red scopes=agents:read");
    assert_eq!((&noted["namespace"], &noted["actor"]), (&json!("red"), &json!("key:configured")));
    let is_of_red = |entry: &Value| entry["resource"] == path.as_str() || entry["namespace"] == "red";
    assert!(!read(&other).await.iter().any(is_of_red), "it is red's, not default's");
    let begun = read(ADMIN).await.into_iter().rfind(|entry| entry["request_id"] == noted["request_id"]).unwrap();
    assert_eq!((&begun["outcome"], &begun["namespace"]), (&json!("begun"), &Value::Null));
    rig.asked(ADMIN, Method::DELETE, &path, None).await.expect(200);
    eventually("that it is revoked", async || {
        let entries = read(&red).await;
        let revoked = |entry: &Value| entry["target"] == path.as_str() && entry["namespace"] == "red";
        if entries.iter().any(revoked) { Ok(()) } else { Err(entries) }
    })
    .await;
    let agent = json!({ "agent_type": "echo", "name": "one" });
    let agent = rig.asked(ADMIN, Method::POST, "/api/v1/agents", Some(&agent)).await;
    agent.expect(201);
    eventually("an agent's place", async || {
        let entries = read(&other).await;
        let made = |entry: &Value| entry["resource"] == agent.header("location");
        if entries.iter().any(made) { Ok(()) } else { Err(entries) }
    })
    .await;
}

#[tokio::test]
async fn the_log_pages_from_the_newest_on() {
    let rig = protected().await;
    for number in 0..5 {
        create(&rig, ADMIN, &json!({ "name": format!("k{number}"), "role": "viewer" })).await;
    }
    eventually("how the last has ended", async || {
        let page = rig.asked(ADMIN, Method::GET, "/api/v1/audit", None).await.expect(200);
        if page["items"].as_array().unwrap().len() == 10 { Ok(()) } else { Err(page) }
    })
    .await;
    let mut seqs = Vec::new();
    let mut path = "/api/v1/audit?limit=2".to_owned();
    loop {
        let page = rig.asked(ADMIN, Method::GET, &path, None).await.expect(200);
        seqs.extend(page["items"].as_array().unwrap().iter().map(|entry| entry["seq"].as_i64().unwrap()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/audit?limit=2&cursor={cursor}");
    }
    assert_eq!(seqs, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn what_a_client_does_not_wait_for_is_noted_too() {
    let rig = protected().await;
    // Its body never comes.
    let body = axum::body::Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let request = rig::request(Method::POST, "/api/v1/agents").header("content-type", "application/json");
    let request = request.header("x-api-key", ADMIN).body(body).unwrap();
    let key = |name: &str| json!({ "name": name, "role": "viewer" });
    let later = key("k");
    // The log is written in order: when what comes later is done, it has begun, and waits.
    tokio::select! {
        answer = rig.gateway().router().oneshot(request) => panic!("it has an answer: {answer:?}"),
        _ = create(&rig, ADMIN, &later) => {}
    }
    create(&rig, ADMIN, &key("l")).await;
    let page = rig.asked(ADMIN, Method::GET, "/api/v1/audit", None).await.expect(200);
    let entries = page["items"].as_array().unwrap();
    let begun = entries.iter().rfind(|entry| entry["route"] == "POST /api/v1/agents").unwrap();
    assert_eq!((&begun["status"], &begun["outcome"]), (&Value::Null, &json!("begun")), "{begun}");
    let left = entries.iter().find(|entry| entry["code"] == "client_left").unwrap();
    assert_eq!((&left["status"], &left["outcome"]), (&json!(499), &json!("unknown")), "{left}");
    assert_eq!(left["request_id"], begun["request_id"]);
    assert_eq!(left["route"], "POST /api/v1/agents");
}

#[tokio::test]
async fn a_flood_of_strangers_keeps_nobody_from_renewing_and_revoking_a_token() {
    let rig = protected().await;
    let (key, _) = create(&rig, ADMIN, &json!({ "name": "k", "role": "viewer" })).await;
    let token = "/api/v1/auth/token";
    let pair = rig.asked(&key, Method::POST, token, Some(&json!({ "grant_type": "api_key" }))).await.expect(200);
    let flood = async || {
        for _ in 0..100 {
            rig.get("/api/v1/agents").await.expect(401);
        }
    };
    flood().await;
    let renew = json!({ "grant_type": "refresh_token", "refresh_token": pair["refresh_token"] });
    let pair = rig.post(token, &renew).await.expect(200);
    flood().await;
    rig.post("/api/v1/auth/revoke", &json!({ "token": pair["refresh_token"] })).await.expect(200);
}

#[tokio::test]
async fn what_is_asked_for_of_another_namespace_is_noted_and_what_is_not_there_for_whoever_reaches_all_is_not() {
    let rig = protected().await;
    let (stranger, id) = create(&rig, ADMIN, &json!({ "name": "s", "role": "admin", "namespace": "blue" })).await;
    let (_, theirs) = create(&rig, ADMIN, &json!({ "name": "t", "role": "viewer", "namespace": "default" })).await;
    let agent = json!({ "agent_type": "echo", "name": "one" });
    let agent = rig.asked(ADMIN, Method::POST, "/api/v1/agents", Some(&agent)).await.expect(201);
    let agent = format!("/api/v1/agents/{}", agent["id"].as_str().unwrap());
    let execution = "/api/v1/executions/exe_01jx4q3nd8e5r0cawm6n8gs3kt".to_owned();
    let asked = [
        (format!("/api/v1/auth/keys/{theirs}"), "key_not_found"),
        (agent, "agent_not_found"),
        (execution, "execution_not_found"),
    ];
    for (path, code) in &asked {
        assert_eq!(rig.asked(&stranger, Method::GET, path, None).await.expect(404)["code"], *code, "{path}");
    }
    rig.asked(&stranger, Method::GET, "/api/v1/nothing", None).await.expect(404);
    let unknown = "/api/v1/agents/agt_01jx4q3nd8e5r0cawm6n8gs3kt";
    rig.asked(ADMIN, Method::GET, unknown, None).await.expect(404);
    // What comes later is noted later.
    let mutation = rig.asked(&stranger, Method::DELETE, unknown, None).await.expect(404);
    assert_eq!(mutation["code"], "agent_not_found");
    let path = format!("/api/v1/audit?actor=key:{id}");
    let noted = eventually("how the last has ended", async || {
        let page = rig.asked(ADMIN, Method::GET, &path, None).await.expect(200);
        if page["items"].as_array().unwrap().len() == asked.len() + 2 { Ok(page) } else { Err(page) }
    })
    .await;
    let noted: Vec<_> = noted["items"].as_array().unwrap().iter().rev().collect();
    for ((path, code), noted) in asked.iter().zip(&noted) {
        assert_eq!((&noted["target"], &noted["code"]), (&json!(path), &json!(code)));
        assert_eq!((&noted["namespace"], &noted["outcome"]), (&json!("blue"), &json!("denied")), "{noted}");
    }
    assert_eq!((&noted[3]["outcome"], &noted[4]["outcome"]), (&json!("begun"), &json!("failed")));
    let all = rig.asked(ADMIN, Method::GET, "/api/v1/audit?status=404", None).await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), asked.len() + 1, "{all}");
}

#[tokio::test]
async fn one_credential_that_looks_for_many_things_fills_no_log() {
    let rig = protected().await;
    let (stranger, id) = create(&rig, ADMIN, &json!({ "name": "s", "role": "viewer", "namespace": "blue" })).await;
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        let unknown = "/api/v1/agents/agt_01jx4q3nd8e5r0cawm6n8gs3kt";
        rig.asked(&stranger, Method::GET, unknown, None).await.expect(404);
    }
    let seconds = begun.elapsed().as_secs() + 2;
    create(&rig, ADMIN, &json!({ "name": "later", "role": "viewer" })).await;
    let page =
        rig.asked(ADMIN, Method::GET, &format!("/api/v1/audit?actor=key:{id}&limit=500"), None).await.expect(200);
    let noted = page["items"].as_array().unwrap().len() as u64;
    assert!((1..=5 * seconds).contains(&noted), "{noted} in {seconds} seconds");
}
