//! In a real cluster everybody does what they may, and nothing else.

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Api, Cluster, ONE_OF_EACH, Server, Setup, troupe};

const ADMIN: &str = "an-admin-key-of-the-tests";

/// What somebody with this key gets.
async fn asked(api: &Api, key: &str, method: Method, path: &str, body: &Value) -> Answer {
    api.send(api.request(method, path).header("X-API-Key", key).json(body)).await.expect("an answer comes")
}

async fn key(api: &Api, body: &Value) -> String {
    let created = asked(api, ADMIN, Method::POST, "/api/v1/auth/keys", body).await.expect(201);
    created["secret"].as_str().expect("it is told once").to_owned()
}

async fn agent(api: &Api, name: &str) -> String {
    let agent = json!({ "agent_type": "guest", "name": name });
    let registered = asked(api, ADMIN, Method::POST, "/api/v1/agents", &agent).await.expect(201);
    registered["id"].as_str().expect("it has an id").to_owned()
}

fn guest(id: &str, cluster: &Cluster, token: &str) -> agent_sdk::Connection {
    let server = agent_sdk::Server::at(format!("http://{}", cluster.communications()[0])).token(token);
    let greet = |_: agent_sdk::Task| async { Ok(json!("hello")) };
    agent_sdk::Agent::builder("guest").agent_id(id).action("greet", greet).connect(server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_roles_and_namespaces_count_and_an_agent_works_as_itself_alone() {
    let settings = format!("api_key = {ADMIN:?}\n");
    let cluster = Cluster::start(Setup { size: ONE_OF_EACH, settings: &settings, ..Setup::default() }).await;
    let api = cluster.api();
    let (own, other) = (agent(&api, "own").await, agent(&api, "other").await);
    let agents_key = key(&api, &json!({ "name": "own", "role": "agent", "agent_id": own })).await;
    let exchange = json!({ "grant_type": "api_key" });
    let tokens = asked(&api, &agents_key, Method::POST, "/api/v1/auth/token", &exchange).await.expect(200);
    let token = tokens["access_token"].as_str().expect("there is one").to_owned();

    let as_other = guest(&other, &cluster, &token).run_until(agent_sdk::Shutdown::new()).await;
    let refused = as_other.expect_err("it is somebody else's").to_string();
    assert!(refused.contains("refuses the session"), "{refused}");
    let shutdown = agent_sdk::Shutdown::new();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(guest(&own, &cluster, &token).run_until(shutdown.clone()));

    let steps = json!([{ "id": "one", "agent_type": "guest", "action": "greet" }]);
    let definition = json!({ "name": "greet", "steps": steps, "output": "${{ steps.one.output }}" });
    let workflow = asked(&api, ADMIN, Method::POST, "/api/v1/workflows", &definition).await.expect(201);
    let execute = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().expect("it has an id"));
    let viewer = key(&api, &json!({ "name": "v", "role": "viewer" })).await;
    let refused = asked(&api, &viewer, Method::POST, &execute, &json!({})).await;
    assert_eq!(refused.expect(403)["code"], "forbidden");
    let operator = key(&api, &json!({ "name": "o", "role": "operator", "namespace": "default" })).await;
    let done = asked(&api, &operator, Method::POST, &execute, &json!({ "wait_ms": 60_000 })).await;
    assert_eq!((&done.body["status"], &done.body["output"]), (&json!("completed"), &json!("hello")), "{done:?}");
    let stranger = key(&api, &json!({ "name": "s", "role": "admin", "namespace": "blue" })).await;
    asked(&api, &stranger, Method::POST, &execute, &json!({})).await.expect(404);

    let verified = troupe(&cluster.url(), &["audit", "verify", "--api-key", ADMIN]).await;
    assert!(
        verified.code == Some(0) && verified.stdout.contains(" 0 faults"),
        "{} {}",
        verified.stdout,
        verified.stderr
    );
    let listed = troupe(&cluster.url(), &["audit", "list", "--refused", "--api-key", ADMIN]).await;
    assert!(listed.stdout.contains("denied: forbidden"), "{} {}", listed.stdout, listed.stderr);
    let keys = troupe(&cluster.url(), &["keys", "list", "--api-key", ADMIN]).await;
    assert!(keys.stdout.contains("operator") && !keys.stdout.contains("trk_"), "{} {}", keys.stdout, keys.stderr);
    shutdown.drain();
    for stopped in running.join_all().await {
        stopped.expect("it stops when asked to");
    }
}

#[tokio::test]
async fn at_home_nobody_needs_a_key_and_keys_outlive_a_kill() {
    let mut server = Server::start().await;
    let created = troupe(&server.url(), &["keys", "create", "reports", "--role", "viewer", "--expires-in", "1h"]).await;
    let secret = created.stdout.trim().to_owned();
    assert!(created.code == Some(0) && secret.starts_with("trk_"), "{} {}", created.stdout, created.stderr);
    server.kill().await;
    server.restart().await;
    let listed = troupe(&server.url(), &["agents", "--api-key", &secret]).await;
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let refused = troupe(&server.url(), &["keys", "list", "--api-key", &secret]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("keys:manage"), "{}", refused.stderr);
    let verified = troupe(&server.url(), &["audit", "verify"]).await;
    assert!(
        verified.code == Some(0) && verified.stdout.contains(" 0 faults"),
        "{} {}",
        verified.stdout,
        verified.stderr
    );
}
