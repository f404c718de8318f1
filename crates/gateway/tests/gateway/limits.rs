//! Nobody asks too often, whichever replica they ask.

use std::{net::SocketAddr, time::Duration};

use axum::{body::Body, extract::ConnectInfo};
use gateway::{ApiKey, Rate, RateLimit, Settings};
use http::{Method, Request};
use serde_json::json;
use settings::{Redis, Secret};
use testkit::{Network, Proxy, Servers, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
};

use crate::rig::{self, Answer, Rig};

const AGENTS: &str = "/api/v1/agents";
/// Too few for a token to come back within a test.
const SLOWLY: Rate = Rate { per_minute: Some(1), burst: None };

/// A key that no other test has: the buckets of the shared Redis are by key.
fn key(name: &str) -> String {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("a-key-of-the-tests-{name}-{}-{since}", std::process::id())
}

fn limited(key: &str, rate_limit: RateLimit) -> Settings {
    Settings { api_key: Some(Secret::new(key)), rate_limit, ..Settings::default() }
}

/// As many at once as `burst`, and then hardly any.
fn at_once(burst: u32) -> RateLimit {
    RateLimit { burst: Some(burst), ..RateLimit::of(1) }
}

fn on(redis: &str) -> Redis {
    // A busy machine is no dead Redis.
    Redis { timeout: Duration::from_secs(10), max_pause: Duration::from_millis(200), ..Redis::at(redis) }
}

async fn start(settings: Settings) -> Rig {
    let key = ApiKey::of(&settings, |_| ()).unwrap();
    Rig::with_key(settings, key).await
}

fn asked(method: Method, path: &str, key: &str, from: &str) -> Request<Body> {
    let peer: SocketAddr = from.parse().unwrap();
    let request = rig::request(method, path).header("x-api-key", key).extension(ConnectInfo(peer));
    request.body(Body::empty()).unwrap()
}

/// The statuses of so many requests, one after the other.
async fn statuses(rig: &Rig, key: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(rig.send(asked(Method::GET, AGENTS, key, "192.0.2.1:1000")).await.status.as_u16());
    }
    statuses
}

#[track_caller]
fn assert_refused(answer: &Answer, class: &str) {
    assert_eq!(answer.expect(429)["code"], "rate_limited");
    let fields = answer.header("ratelimit");
    assert!(fields.starts_with(&format!("\"{class}\";r=0;t=")), "{fields}");
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(fields.ends_with(&format!(";t={wait}")), "{fields} and {wait}");
}

#[tokio::test]
async fn one_request_too_many_is_refused_and_every_answer_says_what_is_left() {
    let key = key("many");
    let rig = start(limited(&key, at_once(2))).await;
    let get = || rig.send(asked(Method::GET, AGENTS, &key, "192.0.2.1:1000"));
    let first = get().await;
    first.expect(200);
    assert_eq!(first.header("ratelimit-policy"), "\"read\";q=2;w=120");
    assert!(first.header("ratelimit").starts_with("\"read\";r=1;t="), "{}", first.header("ratelimit"));
    let elsewhere = rig.send(asked(Method::GET, "/api/v1/nowhere", &key, "192.0.2.9:1000")).await;
    elsewhere.expect(404);
    assert!(elsewhere.header("ratelimit").starts_with("\"read\";r=0;t="), "failures count, and say so");
    let calls = rig.backend.state().calls.len();
    assert_refused(&get().await, "read");
    assert_eq!(rig.backend.state().calls.len(), calls, "nothing was done for it");

    let path = format!("{AGENTS}/agt_00000000000000000000000000");
    rig.send(asked(Method::DELETE, &path, &key, "192.0.2.1:1000")).await.expect(404);
    for (path, policy) in [
        (format!("{path}/message"), "\"start\";q=2;w=120"),
        ("/api/v1/workflows/wf_00000000000000000000000000/execute".to_owned(), "\"start\";q=2;w=120"),
        ("/api/v1/messages".to_owned(), "\"start\";q=2;w=120"),
        (AGENTS.to_owned(), "\"write\";q=2;w=120"),
    ] {
        let answer = rig.send(asked(Method::POST, &path, &key, "192.0.2.1:1000")).await;
        assert_eq!(answer.header("ratelimit-policy"), policy, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn health_metrics_and_the_documentation_are_not_limited() {
    let key = key("open");
    let rig = start(limited(&key, at_once(1))).await;
    for path in ["/health", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs/"] {
        for _ in 0..3 {
            let answer = rig.send(asked(Method::GET, path, &key, "192.0.2.1:1000")).await;
            assert_eq!((answer.status.as_u16(), answer.header("ratelimit")), (200, ""), "{path}");
        }
    }
}

#[tokio::test]
async fn wrong_keys_are_counted_by_address_and_the_right_one_always_opens() {
    let key = key("wrong");
    let unauthenticated = Rate { per_minute: Some(1), burst: Some(3) };
    let settings = limited(&key, RateLimit { unauthenticated, ..RateLimit::of(0) });
    let rig = start(Settings { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..settings }).await;
    for path in [AGENTS, "/metrics", "/api/v1/nowhere"] {
        let refused = rig.send(asked(Method::GET, path, "another-key-of-16", "192.0.2.1:1000")).await;
        assert_eq!(refused.expect(401)["code"], "unauthenticated");
        assert_eq!(refused.header("ratelimit-policy"), "\"unauthenticated\";q=3;w=180");
    }
    let wrong = |from: &str| rig.send(asked(Method::GET, AGENTS, "a-third-key-of-16", from));
    assert_refused(&wrong("192.0.2.1:2000").await, "unauthenticated");
    rig.send(asked(Method::GET, AGENTS, &key, "192.0.2.1:3000")).await.expect(200);
    assert_refused(&wrong("192.0.2.1:2000").await, "unauthenticated");
    wrong("192.0.2.2:1000").await.expect(401);
    rig.send(asked(Method::GET, "/health/ready", "another-key-of-16", "192.0.2.1:1000")).await.expect(200);

    // Behind a proxy that is trusted it is the client's address that counts; behind another it is the proxy's.
    let through = |proxy: &str, client: &'static str| {
        let mut request = asked(Method::GET, AGENTS, "another-key-of-16", proxy);
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
        rig.send(request)
    };
    assert_refused(&through("10.1.1.1:1000", "192.0.2.1").await, "unauthenticated");
    through("10.1.1.1:1000", "192.0.2.3").await.expect(401);
    assert_refused(&through("192.0.2.1:1000", "192.0.2.3").await, "unauthenticated");
}

/// A page of somebody else in a browser, and whoever is behind the same NAT, come from the same address.
#[tokio::test]
async fn who_presents_no_key_guesses_none_and_locks_nobody_out() {
    let key = key("none");
    let unauthenticated = Rate { per_minute: Some(1), burst: Some(3) };
    let rig = start(limited(&key, RateLimit { unauthenticated, ..RateLimit::of(0) })).await;
    for _ in 0..10 {
        let peer: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let request = rig::request(Method::GET, AGENTS).extension(ConnectInfo(peer)).body(Body::empty()).unwrap();
        let refused = rig.send(request).await;
        assert_eq!(refused.expect(401)["code"], "unauthenticated");
        assert_eq!(refused.header("ratelimit"), "");
    }
    let wrong = rig.send(asked(Method::GET, AGENTS, "another-key-of-16", "192.0.2.1:1000")).await;
    wrong.expect(401);
    assert!(wrong.header("ratelimit").starts_with("\"unauthenticated\";r=2;t="), "{}", wrong.header("ratelimit"));
}

#[tokio::test]
async fn without_keys_nobody_is_limited_unless_it_is_set_and_then_by_address() {
    let rig = Rig::start().await;
    for _ in 0..150 {
        let answer = rig.get(AGENTS).await;
        assert_eq!((answer.status.as_u16(), answer.header("ratelimit")), (200, ""));
    }
    let rig =
        start(Settings { rate_limit: RateLimit { read: SLOWLY, ..RateLimit::default() }, ..Settings::default() }).await;
    let from = |address: &str| rig.send(asked(Method::GET, AGENTS, "", address));
    from("127.0.0.1:1").await.expect(200);
    assert_refused(&from("127.0.0.1:2").await, "read");
    from("127.0.0.2:1").await.expect(200);
    assert_eq!(rig.post(AGENTS, &json!({ "agent_type": "a", "name": "n" })).await.header("ratelimit"), "");
}

/// The status line of one request over a socket of its own, from an address.
async fn over_a_socket(from: &str, to: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from.parse().unwrap()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let request = format!("GET {AGENTS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_address_is_that_of_the_connection() {
    let rate_limit = RateLimit { read: SLOWLY, ..RateLimit::default() };
    let rig = start(Settings { rate_limit, ..Settings::default() }).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asking = async {
        assert_eq!(over_a_socket("127.0.0.3:0", address).await, "HTTP/1.1 200 OK");
        assert_eq!(over_a_socket("127.0.0.3:0", address).await, "HTTP/1.1 429 Too Many Requests");
        assert_eq!(over_a_socket("127.0.0.4:0", address).await, "HTTP/1.1 200 OK");
        rig.shutdown.drain();
    };
    let (served, ()) = futures::future::join(rig.gateway().serve(listener, rig.shutdown.clone()), asking).await;
    served.unwrap();
}

#[tokio::test]
async fn where_keys_are_demanded_a_hundred_a_minute_is_the_default() {
    let key = key("default");
    let rig = start(limited(&key, RateLimit::default())).await;
    let answer = rig.send(asked(Method::GET, AGENTS, &key, "192.0.2.1:1000")).await;
    assert_eq!(answer.header("ratelimit-policy"), "\"read\";q=100;w=60");
    let answer = rig.send(asked(Method::GET, AGENTS, "another-key-of-16", "192.0.2.1:1000")).await;
    assert_eq!(answer.header("ratelimit-policy"), "\"unauthenticated\";q=100;w=60");
}

#[tokio::test]
async fn replicas_on_one_redis_count_together() {
    let key = key("together");
    let settings = || Settings { redis: on(&Servers::shared().redis), ..limited(&key, at_once(6)) };
    let (one, other) = (start(settings()).await, start(settings()).await);
    let mut found = Vec::new();
    for rig in [&one, &other, &one, &other, &one, &other, &one, &other] {
        found.extend(statuses(rig, &key, 1).await);
    }
    assert_eq!(found, [200, 200, 200, 200, 200, 200, 429, 429]);
    let at_the_same_time = futures::future::join_all([&one, &other].map(|rig| statuses(rig, &key, 8))).await;
    assert_eq!(at_the_same_time.concat(), [429; 16]);
    let health = one.get("/health/ready").await.expect(200);
    let redis = health["checks"].as_array().unwrap().iter().find(|check| check["name"] == "redis").unwrap().clone();
    assert_eq!((&redis["status"], &redis["details"]["needed"]), (&json!("healthy"), &json!(false)));
}

#[tokio::test]
async fn requests_at_the_same_time_share_one_bucket() {
    let key = key("rush");
    let settings = || Settings { redis: on(&Servers::shared().redis), ..limited(&key, at_once(20)) };
    let (one, other) = (start(settings()).await, start(settings()).await);
    let rush = (0..60).map(|number| statuses(if number % 2 == 0 { &one } else { &other }, &key, 1));
    let found = futures::future::join_all(rush).await.concat();
    assert_eq!(found.iter().filter(|status| **status == 200).count(), 20, "{found:?}");
    assert_eq!(found.iter().filter(|status| **status == 429).count(), 40, "{found:?}");
}

#[tokio::test]
async fn without_redis_nothing_fails_and_each_replica_counts_for_itself() {
    let key = key("gone");
    let servers = Servers::shared();
    let proxy = Proxy::to(servers.address("redis")).await;
    let redis = on(&format!("redis://{}", proxy.address()));
    let settings = || Settings { redis: redis.clone(), ..limited(&key, at_once(6)) };
    let (one, other) = (start(settings()).await, start(settings()).await);
    assert_eq!(statuses(&one, &key, 2).await, [200; 2]);
    assert_eq!(statuses(&other, &key, 1).await, [200]);
    proxy.set(Network::Cut);
    // Each goes on from what it has heard last: two are taken as far as the one knows, three as far as the other does.
    assert_eq!(statuses(&one, &key, 6).await, [200, 200, 200, 200, 429, 429]);
    assert_eq!(statuses(&other, &key, 4).await, [200, 200, 200, 429]);
    let health = one.get("/health/ready").await.expect(200);
    assert_eq!(health["status"], "degraded", "{health}");

    proxy.set(Network::Open);
    eventually("Redis to be used again", async || {
        let health = one.get("/health/ready").await;
        if health.json()["status"] == "healthy" { Ok(()) } else { Err(health) }
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_does_not_answer_costs_one_short_wait_and_no_request() {
    let key = key("silent");
    let proxy = Proxy::to(Servers::shared().address("redis")).await;
    proxy.set(Network::Silent);
    let redis = Redis::at(format!("redis://{}", proxy.address()));
    let redis = Redis { timeout: Settings::default().redis.timeout, max_pause: Duration::from_mins(1), ..redis };
    let rig = start(Settings { redis, ..limited(&key, at_once(1_000)) }).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(statuses(&rig, &key, 400).await, [200; 400]);
    // Each wait for it would be 50 ms: 20 s.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_right_refresh_token_is_no_guess_and_nobody_at_the_address_keeps_it_out() {
    let key = key("renewal");
    let unauthenticated = Rate { per_minute: Some(1), burst: Some(3) };
    let rig = start(limited(&key, RateLimit { unauthenticated, ..RateLimit::of(0) })).await;
    let token = "/api/v1/auth/token";
    let post = async |path: &str, body: &serde_json::Value| {
        let mut request = crate::rig::json(Method::POST, path, body);
        let peer: std::net::SocketAddr = "192.0.2.1:1000".parse().unwrap();
        request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
        rig.send(request).await
    };
    let exchange = json!({ "grant_type": "api_key" });
    let mut pair = rig.asked(&key, Method::POST, token, Some(&exchange)).await.expect(200);
    let mut other = rig.asked(&key, Method::POST, token, Some(&exchange)).await.expect(200);
    let made_up = format!("trr_{}_{}", "0".repeat(48), "0".repeat(80));
    let guess = json!({ "grant_type": "refresh_token", "refresh_token": made_up });
    for _ in 0..3 {
        post(token, &guess).await.expect(401);
    }
    post(token, &guess).await.expect(429);
    post("/api/v1/auth/revoke", &json!({ "token": made_up })).await.expect(429);
    // Each exchange may renew as often as that, and no other disturbs it.
    for pair in [&mut pair, &mut other] {
        for _ in 0..3 {
            let renew = json!({ "grant_type": "refresh_token", "refresh_token": pair["refresh_token"] });
            *pair = post(token, &renew).await.expect(200);
        }
        let renew = json!({ "grant_type": "refresh_token", "refresh_token": pair["refresh_token"] });
        post(token, &renew).await.expect(429);
        post("/api/v1/auth/revoke", &json!({ "token": pair["access_token"] })).await.expect(200);
    }
}
