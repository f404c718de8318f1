//! Who asks too often, and who guesses: over two gateways, with and without the Redis that they share, and at home.

use std::collections::BTreeSet;

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use testkit::{Answer, Api, Cluster, Server, Setup, Size};

use super::{ADMIN, admin, asked, with};

const TWO_GATEWAYS: &Size =
    &[("registry", 1), ("communication", 1), ("orchestrator", 1), ("agent-runner", 1), ("gateway", 2)];
const BURST: usize = 4;
/// Slow, so that nothing comes back while the test runs.
const LIMITS: [(&str, &str); 2] =
    [("TROUPE_GATEWAY__RATE_LIMIT__PER_MINUTE", "1"), ("TROUPE_GATEWAY__RATE_LIMIT__BURST", "4")];

async fn key(api: &Api, name: &str) -> HeaderMap {
    let body = json!({ "name": name, "role": "operator" });
    let created = admin(api, Method::POST, "/api/v1/auth/keys", Some(&body)).await.expect(201);
    with("x-api-key", created["secret"].as_str().expect("it is told once"))
}

/// What so many requests get, at each of these in turn.
async fn answers(apis: &[Api], headers: &HeaderMap, count: usize) -> Vec<Answer> {
    let mut answers = Vec::new();
    for api in apis.iter().cycle().take(count) {
        answers.push(asked(api, Method::GET, "/api/v1/auth/me", headers.clone(), None).await);
    }
    answers
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").parse().expect("seconds")
}

/// As many as the burst, and then none, with what is to be done about it.
fn is_limited(answers: &[Answer], burst: usize, otherwise: u16) {
    let (served, refused) = answers.split_at(burst);
    assert_eq!(statuses(served), vec![otherwise; burst]);
    for (left, answer) in served.iter().rev().enumerate() {
        assert!(answer.header("ratelimit").contains(&format!(";r={left};")), "{}", answer.header("ratelimit"));
    }
    for answer in refused {
        assert_eq!((answer.status, &answer.body["code"]), (429, &json!("rate_limited")), "{answer:?}");
        assert!(answer.header("ratelimit").contains(";r=0;t=") && retry_after(answer) >= 1, "{answer:?}");
        assert!(answer.header("ratelimit-policy").contains(&format!(";q={BURST};")), "{answer:?}");
    }
}

#[tokio::test]
async fn two_gateways_count_together_and_without_redis_each_for_itself() {
    let settings = format!("api_key = {ADMIN:?}\n");
    let mut cluster = Cluster::start(Setup { size: TWO_GATEWAYS, settings: &settings, ..Setup::default() }).await;
    let apis: Vec<_> = cluster.urls().into_iter().map(Api::new).collect();
    one_execution_of_a_hundred(&apis).await;
    let mut keys = Vec::new();
    for name in ["one", "other", "without"] {
        keys.push(key(&apis[0], name).await);
    }
    for gateway in cluster.names("gateway") {
        cluster.kill(&gateway).await;
        assert!(cluster.restart_with(&gateway, &LIMITS).await);
    }
    is_limited(&answers(&apis, &keys[0], BURST + 2).await, BURST, 200);
    is_limited(&answers(&apis, &keys[1], BURST + 2).await, BURST, 200);
    // Whoever guesses counts by address, is kept out for longer each time, and keeps nobody out who has what is right.
    let wrong = with("x-api-key", "a-wrong-key-that-is-long-enough");
    is_limited(&answers(&apis, &wrong, BURST + 2).await, BURST, 401);
    cluster.servers().control("stop", "redis");
    let each_for_itself = answers(&apis, &keys[2], 2 * BURST + 2).await;
    assert_eq!(statuses(&each_for_itself), [vec![200; 2 * BURST], vec![429; 2]].concat());
    assert_eq!(statuses(&answers(&apis, &keys[0], 2).await), [429; 2], "what is known is not forgotten");
    cluster.servers().control("start", "redis");
    assert!(cluster.ended().is_empty(), "{}", cluster.logs());
}

/// The same key at both gateways at once.
async fn one_execution_of_a_hundred(apis: &[Api]) {
    let definition = json!({ "name": "once", "steps": [{ "id": "wait", "sleep": "1h" }] });
    let workflow = admin(&apis[0], Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
    let id = workflow["id"].as_str().expect("an id");
    let execute = format!("/api/v1/workflows/{id}/execute");
    let mut headers = with("x-api-key", ADMIN);
    headers.extend(with("idempotency-key", "one-order"));
    let input = json!({ "input": 1 });
    let post = |api| asked(api, Method::POST, &execute, headers.clone(), Some(&input));
    let answers = futures::future::join_all(apis.iter().cycle().take(100).map(post)).await;
    assert!(answers.iter().all(|answer| answer.status < 500), "{answers:?}");
    let ids: BTreeSet<_> = answers.iter().filter_map(|answer| answer.body["execution_id"].as_str()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let path = format!("/api/v1/executions?workflow_id={id}");
    let listed: Value = admin(&apis[1], Method::GET, &path, None).await.expect(200);
    assert_eq!(listed["items"].as_array().expect("a list").len(), 1);
}

#[tokio::test]
async fn at_home_keys_and_addresses_are_limited_and_a_lockout_grows() {
    let mut settings = vec![("TROUPE_GATEWAY__API_KEY", ADMIN)];
    settings.extend([("TROUPE_GATEWAY__RATE_LIMIT__PER_MINUTE", "0"), LIMITS[1]]);
    settings.push(("TROUPE_GATEWAY__RATE_LIMIT__READ__PER_MINUTE", "1"));
    settings.push(("TROUPE_GATEWAY__RATE_LIMIT__READ__BURST", "4"));
    settings.push(("TROUPE_GATEWAY__RATE_LIMIT__UNAUTHENTICATED__PER_MINUTE", "6000"));
    settings.push(("TROUPE_GATEWAY__RATE_LIMIT__UNAUTHENTICATED__BURST", "1"));
    let server = Server::start_with(&settings).await;
    let apis = [server.api()];
    for name in ["one", "other"] {
        let key = key(&apis[0], name).await;
        is_limited(&answers(&apis, &key, BURST + 2).await, BURST, 200);
    }
    let wrong = with("x-api-key", "a-wrong-key-that-is-long-enough");
    // However fast the bucket fills.
    let longest = testkit::eventually("a lockout of eight seconds", async || {
        let refused = answers(&apis, &wrong, 1).await.swap_remove(0);
        match refused.status {
            429 if retry_after(&refused) > 4 => Ok(retry_after(&refused)),
            _ => Err(refused),
        }
    })
    .await;
    assert!(longest <= 8, "{longest}");
    let fresh = key(&apis[0], "fresh").await;
    assert_eq!(statuses(&answers(&apis, &fresh, 1).await), [200], "what is right opens");
}
