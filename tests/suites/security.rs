//! In a real cluster everybody does what they may, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Api, Cluster, ONE_OF_EACH, Server, Setup, troupe};
use tokio::sync::Notify;

use crate::strangers;

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

/// Does a task when it is told to.
fn patient(own: &str, server: agent_sdk::Server, go: &Arc<Notify>, runs: &Arc<AtomicUsize>) -> agent_sdk::Connection {
    let (go, runs) = (Arc::clone(go), Arc::clone(runs));
    let wait = move |_: agent_sdk::Task| {
        let (go, runs) = (Arc::clone(&go), Arc::clone(&runs));
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            go.notified().await;
            Ok(json!("done"))
        }
    };
    agent_sdk::Agent::builder("guest").agent_id(own).action("wait", wait).connect(server)
}

/// Why a server has refused an agent.
fn reason(ended: Result<(), agent_sdk::Error>) -> &'static str {
    match ended {
        Err(agent_sdk::Error::Refused { source, .. }) => source.reason,
        other => panic!("it was not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_token_goes_on_with_the_next_and_ends_with_its_key() {
    let settings = format!("api_key = {ADMIN:?}\njwt = {{ expiration = \"2s\" }}\n");
    let cluster = Cluster::start(Setup { size: ONE_OF_EACH, settings: &settings, ..Setup::default() }).await;
    let api = cluster.api();
    let (own, other) = (agent(&api, "own").await, agent(&api, "other").await);
    let of = |name: &'static str, id: &str| json!({ "name": name, "role": "agent", "agent_id": id });
    let created = asked(&api, ADMIN, Method::POST, "/api/v1/auth/keys", &of("own", &own)).await.expect(201);
    let text = |value: &Value| value.as_str().expect("it is there").to_owned();
    let (key_of_own, id) = (text(&created["secret"]), text(&created["key"]["id"]));
    let key_of_other = key(&api, &of("other", &other)).await;
    let (go, runs) = (Arc::<Notify>::default(), Arc::<AtomicUsize>::default());
    let address = &cluster.communications()[0];
    let server = agent_sdk::Server::at(format!("http://{address}"));
    let renewing = patient(&own, server.key(cluster.url(), key_of_own), &go, &runs);
    let mut running = tokio::task::JoinSet::new();
    running.spawn(renewing.run_until(agent_sdk::Shutdown::new()));
    let steps = json!([{ "id": "one", "agent_id": own, "action": "wait" }]);
    let definition = json!({ "name": "wait", "steps": steps, "output": "${{ steps.one.output }}" });
    let workflow = asked(&api, ADMIN, Method::POST, "/api/v1/workflows", &definition).await.expect(201);
    let execute = format!("/api/v1/workflows/{}/execute", text(&workflow["id"]));
    let waiting = json!({ "wait_ms": 60_000 });
    let executing = asked(&api, ADMIN, Method::POST, &execute, &waiting);
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("it can be made");
    // Its time, and how far clocks may be apart: by then the first token of the agent that renews has been over for a while.
    let expiring = async {
        let has_task = || async { if runs.load(Ordering::SeqCst) == 1 { Ok(()) } else { Err("it has no task") } };
        testkit::eventually("it has its task", has_task).await;
        let session = strangers::in_use(&client, address).await.remove(0).session_id;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let exchange = json!({ "grant_type": "api_key" });
        let tokens = asked(&api, &key_of_other, Method::POST, "/api/v1/auth/token", &exchange).await.expect(200);
        let token = text(&tokens["access_token"]);
        let ended = guest(&other, &cluster, &token).run_until(agent_sdk::Shutdown::new()).await;
        let left = strangers::in_use(&client, address).await;
        let left: Vec<_> = left.into_iter().map(|in_use| in_use.session_id).collect();
        go.notify_one();
        (reason(ended), session, left)
    };
    let (done, (expired, session, left)) = tokio::join!(executing, expiring);
    assert_eq!((expired, left), ("token_expired", vec![session]), "the other's ends, and its own goes on");
    assert_eq!((&done.body["output"], runs.load(Ordering::SeqCst)), (&json!("done"), 1), "{done:?}");

    asked(&api, ADMIN, Method::DELETE, &format!("/api/v1/auth/keys/{id}"), &Value::Null).await.expect(200);
    let ended = tokio::time::timeout(Duration::from_secs(30), running.join_next()).await.expect("the session ends");
    assert_eq!(reason(ended.expect("it runs").expect("it does not panic")), "key_refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_token_that_is_revoked_ends_its_session_and_opens_no_other() {
    let settings = format!("api_key = {ADMIN:?}\n");
    let cluster = Cluster::start(Setup { size: ONE_OF_EACH, settings: &settings, ..Setup::default() }).await;
    let api = cluster.api();
    let own = agent(&api, "own").await;
    let agents_key = key(&api, &json!({ "name": "own", "role": "agent", "agent_id": own })).await;
    let exchange = json!({ "grant_type": "api_key" });
    let tokens = asked(&api, &agents_key, Method::POST, "/api/v1/auth/token", &exchange).await.expect(200);
    let token = tokens["access_token"].as_str().expect("there is one");
    let mut running = tokio::task::JoinSet::new();
    running.spawn(guest(&own, &cluster, token).run_until(agent_sdk::Shutdown::new()));
    let path = format!("/api/v1/agents/{own}");
    testkit::eventually("the agent is there", || async {
        let found = asked(&api, ADMIN, Method::GET, &path, &Value::Null).await.expect(200);
        if found["status"] == "idle" { Ok(()) } else { Err(found) }
    })
    .await;

    asked(&api, ADMIN, Method::POST, "/api/v1/auth/revoke", &json!({ "token": token })).await.expect(200);
    let ended = tokio::time::timeout(Duration::from_secs(30), running.join_next()).await.expect("the session ends");
    assert_eq!(reason(ended.expect("it runs").expect("it does not panic")), "token_revoked");
    let again = guest(&own, &cluster, token).run_until(agent_sdk::Shutdown::new());
    let again = tokio::time::timeout(Duration::from_secs(30), again).await.expect("it is refused");
    assert_eq!(reason(again), "token_revoked");
    let at_the_gateway = api.request(Method::GET, "/api/v1/auth/me").bearer_auth(token);
    assert_eq!(api.send(at_the_gateway).await.expect("an answer comes").expect(401)["code"], "token_revoked");
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

/// What a key asks for is counted as that key's, also by the tokens that it was exchanged for.
#[tokio::test]
async fn what_is_asked_with_tokens_is_counted_for_the_key_that_was_exchanged() {
    let settings = format!("api_key = {ADMIN:?}\n");
    let cluster = Cluster::start(Setup { size: ONE_OF_EACH, settings: &settings, ..Setup::default() }).await;
    let api = cluster.api();
    let own = agent(&api, "own").await;
    let of_agent = json!({ "name": "own", "role": "agent", "agent_id": own });
    for body in [json!({ "name": "v", "role": "viewer" }), of_agent] {
        let created = asked(&api, ADMIN, Method::POST, "/api/v1/auth/keys", &body).await.expect(201);
        let text = |value: &Value| value.as_str().expect("it is there").to_owned();
        let (secret, id) = (text(&created["secret"]), text(&created["key"]["id"]));
        let exchange = json!({ "grant_type": "api_key" });
        let tokens = asked(&api, &secret, Method::POST, "/api/v1/auth/token", &exchange).await.expect(200);
        let renew = json!({ "grant_type": "refresh_token", "refresh_token": tokens["refresh_token"] });
        let tokens = api.post("/api/v1/auth/token", &renew).await.expect(200);
        for _ in 0..3 {
            let request = api.request(Method::GET, "/api/v1/agents").bearer_auth(text(&tokens["access_token"]));
            api.send(request).await.expect("an answer comes").expect(200);
        }
        asked(&api, &secret, Method::GET, "/api/v1/agents", &Value::Null).await.expect(200);
        let metrics = api.request(Method::GET, "/metrics").header("X-API-Key", ADMIN).send().await;
        let metrics = metrics.expect("an answer comes").text().await.expect("it is text");
        let count = |route: &str| {
            let of = |line: &&str| {
                line.starts_with("gateway_key_requests_total{")
                    && [format!("key=\"{id}\""), format!("endpoint=\"{route}\""), "status=\"2xx\"".to_owned()]
                        .iter()
                        .all(|label| line.contains(label))
            };
            metrics.lines().find(of).and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
        };
        assert_eq!(count("/api/v1/agents").as_deref(), Some("4"), "{id}: {metrics}");
        assert_eq!(count("/api/v1/auth/token").as_deref(), Some("2"), "{id}: {metrics}");
    }
}

/// Whoever reads metrics needs no key that opens anything else.
#[tokio::test]
async fn the_token_of_metrics_opens_the_metrics_of_a_gateway_and_nothing_else() {
    const METRICS: &str = "a-token-of-metrics-that-is-long-enough";
    let settings = format!("api_key = {ADMIN:?}\n");
    let mut cluster = Cluster::start(Setup { size: ONE_OF_EACH, settings: &settings, ..Setup::default() }).await;
    let asked = async |cluster: &Cluster, path: &str, token: &str| {
        let api = cluster.api();
        api.request(Method::GET, path).bearer_auth(token).send().await.expect("an answer comes").status().as_u16()
    };
    // Where there is none, that of all processes opens nothing that clients can reach.
    assert_eq!(asked(&cluster, "/metrics", testkit::TOKEN).await, 401);
    cluster.kill("gateway-1").await;
    assert!(cluster.restart_with("gateway-1", &[("TROUPE_SERVE__METRICS_TOKEN", METRICS)]).await);
    assert_eq!(asked(&cluster, "/metrics", METRICS).await, 200);
    for (path, token) in [("/metrics", testkit::TOKEN), ("/api/v1/agents", METRICS), ("/api/v1/auth/me", METRICS)] {
        assert_eq!(asked(&cluster, path, token).await, 401, "{path}");
    }
}
