//! Who may do what: every route, with every role, and from another namespace.

use std::collections::BTreeMap;

use axum::body::Body;
use gateway::{ApiKey, RateLimit, Settings};
use http::{Method, header};
use serde_json::{Value, json};
use settings::Secret;

use crate::rig::{self, Answer, Rig};

const ADMIN: &str = "an-admin-key-of-the-tests";
const ROLES: [&str; 5] = ["viewer", "operator", "developer", "admin", "agent"];
const AGENT: &str = "agt_01jx4q3nd8e5r0cawm6n8gs3kt";

pub(crate) async fn protected() -> Rig {
    protected_with(Settings::default()).await
}

pub(crate) async fn protected_with(settings: Settings) -> Rig {
    let settings = Settings { api_key: Some(Secret::new(ADMIN)), rate_limit: RateLimit::of(0), ..settings };
    let key = ApiKey::of(&settings, |_| ()).unwrap();
    Rig::with_key(settings, key).await
}

/// Creates a key, and answers with its secret and id.
pub(crate) async fn create(rig: &Rig, by: &str, key: &Value) -> (String, String) {
    let created = rig.asked(by, Method::POST, "/api/v1/auth/keys", Some(key)).await.expect(201);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&created["secret"]), text(&created["key"]["id"]))
}

async fn key_of_role(rig: &Rig, role: &str) -> String {
    let agent = if role == "agent" { json!(AGENT) } else { Value::Null };
    rig.backend.has_agent("default", AGENT);
    create(rig, ADMIN, &json!({ "name": role, "role": role, "agent_id": agent })).await.0
}

/// Every described operation, with a path that fits.
fn operations() -> Vec<(Method, String, String)> {
    let document = serde_json::to_value(gateway::document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE].into_iter();
        let described = methods.filter(|method| item.get(method.as_str().to_lowercase()).is_some());
        described.map(|method| (method, path.clone()))
    });
    let concrete = |(method, path): (Method, String)| {
        let id = match path.split('/').nth(3).unwrap_or_default() {
            "agents" => AGENT,
            "workflows" => "wf_01jx4q3nd8e5r0cawm6n8gs3kt",
            "executions" => "exe_01jx4q3nd8e5r0cawm6n8gs3kt",
            "messages" => "msg_01jx4q3nd8e5r0cawm6n8gs3kt",
            "dead-letters" => "dlt_01jx4q3nd8e5r0cawm6n8gs3kt",
            _ => "key_01jx4q3nd8e5r0cawm6n8gs3kt",
        };
        let concrete = path.replace("{id}", id).replace("{name}", "go").replace("{topic}", "a.b");
        (method, path, concrete.replace("{pattern}", "a.*"))
    };
    operations.map(concrete).collect()
}

/// By route, the permission and the roles that have it; as the document shows it.
fn matrix() -> BTreeMap<String, Vec<bool>> {
    let text = gateway::matrix();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let route = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((route.to_owned(), cells[2..].iter().map(|cell| *cell == "yes").collect()))
    });
    rows.collect()
}

fn code(answer: &Answer) -> String {
    answer.json()["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn every_route_lets_in_the_roles_of_the_matrix_and_nobody_else() {
    let rig = protected().await;
    let matrix = matrix();
    let mut keys = Vec::new();
    for role in ROLES {
        keys.push(key_of_role(&rig, role).await);
    }
    for (method, path, concrete) in operations() {
        let may = &matrix[&format!("{method} {path}")];
        for ((role, key), may) in ROLES.iter().zip(&keys).zip(may) {
            let answer = rig.asked(key, method.clone(), &concrete, None).await;
            // An agent's key is bound to a namespace.
            let is_fenced = *role == "agent" && code(&answer) == "namespace_forbidden";
            let is_refused = code(&answer) == "forbidden" || is_fenced;
            assert_eq!(is_refused, !may, "{role}: {method} {concrete}: {answer:?}");
            assert_ne!(answer.status.as_u16(), 401, "{role}: {method} {concrete}");
        }
    }
}

#[tokio::test]
async fn without_a_credential_or_with_a_wrong_one_nothing_is_done() {
    let rig = protected().await;
    let (revoked, id) = create(&rig, ADMIN, &json!({ "name": "old", "role": "admin" })).await;
    rig.asked(ADMIN, Method::DELETE, &format!("/api/v1/auth/keys/{id}"), None).await.expect(200);
    let forged = format!("trk_{}_{}", "0".repeat(16), "0".repeat(80));
    let wrong = [revoked.as_str(), &forged, "another-admin-key-of-the-tests", "trk_", "\u{e9}"];
    let open = matrix();
    for (method, path, concrete) in operations() {
        if open[&format!("{method} {path}")].iter().all(|may| *may) && path != "/api/v1/auth/me" {
            continue;
        }
        let nobody = rig.send(rig::request(method.clone(), &concrete).body(axum::body::Body::empty()).unwrap()).await;
        assert_eq!(nobody.expect(401)["code"], "unauthenticated", "{method} {concrete}");
        for wrong in wrong {
            let mut request = rig::request(method.clone(), &concrete).body(axum::body::Body::empty()).unwrap();
            request.headers_mut().insert("x-api-key", http::HeaderValue::from_bytes(wrong.as_bytes()).unwrap());
            rig.send(request).await.expect(401);
        }
    }
    assert!(rig.backend.state().calls.is_empty(), "{:?}", rig.backend.state().calls);
}

#[tokio::test]
async fn a_stranger_of_another_namespace_sees_and_changes_nothing() {
    let rig = protected().await;
    let (stranger, _) = create(&rig, ADMIN, &json!({ "name": "s", "role": "admin", "namespace": "blue" })).await;
    let (_, theirs) = create(&rig, ADMIN, &json!({ "name": "t", "role": "viewer", "namespace": "default" })).await;
    let in_default = |method: Method, path: &str| {
        let request = rig::request(method, path).header("x-namespace", "default").header("x-api-key", &stranger);
        request.header(header::ACCEPT, "text/event-stream, */*").body(axum::body::Body::empty()).unwrap()
    };
    let before = rig.backend.state().calls.len();
    for (method, path, concrete) in operations() {
        // They are open, and the namespace means nothing to them.
        if path.starts_with("/health") || path == "/openapi.json" {
            continue;
        }
        let answer = rig.send(in_default(method.clone(), &concrete)).await;
        assert_eq!(answer.expect(403)["code"], "namespace_forbidden", "{method} {concrete}");
    }
    assert_eq!(rig.backend.state().calls.len(), before, "nothing came to the services");
    for method in [Method::GET, Method::DELETE] {
        let path = format!("/api/v1/auth/keys/{theirs}");
        assert_eq!(rig.asked(&stranger, method, &path, None).await.expect(404)["code"], "key_not_found");
    }
    let rotate = format!("/api/v1/auth/keys/{theirs}/rotate");
    rig.asked(&stranger, Method::POST, &rotate, None).await.expect(404);
    let keys = rig.asked(&stranger, Method::GET, "/api/v1/auth/keys", None).await.expect(200);
    assert_eq!(keys["items"].as_array().unwrap().len(), 1, "its own: {keys}");
    let audit = rig.asked(&stranger, Method::GET, "/api/v1/audit?namespace=default", None).await.expect(403);
    assert_eq!(audit["code"], "namespace_forbidden");
    let audit = rig.asked(&stranger, Method::GET, "/api/v1/audit", None).await.expect(200);
    let is_blue = |entry: &Value| entry["namespace"] == "blue";
    assert!(audit["items"].as_array().unwrap().iter().all(is_blue), "{audit}");
    rig.asked(&stranger, Method::GET, "/api/v1/audit/verify", None).await.expect(403);
    let outside = json!({ "name": "x", "role": "viewer", "namespace": "default" });
    let refused = rig.asked(&stranger, Method::POST, "/api/v1/auth/keys", Some(&outside)).await;
    assert_eq!(refused.expect(403)["code"], "namespace_forbidden");
    let (inside, _) = create(&rig, &stranger, &json!({ "name": "x", "role": "viewer" })).await;
    let me = rig.asked(&inside, Method::GET, "/api/v1/auth/me", None).await.expect(200);
    assert_eq!((&me["namespace"], &me["role"]), (&json!("blue"), &json!("viewer")));

    // Without the header it is at home.
    let agent = json!({ "agent_type": "echo", "name": "one" });
    rig.asked(&stranger, Method::POST, "/api/v1/agents", Some(&agent)).await.expect(201);
    let registered = rig.backend.state().agents.values().next().unwrap().namespace.clone();
    assert_eq!(registered, "blue");
}

#[tokio::test]
async fn nobody_gives_away_what_they_have_not() {
    let rig = protected().await;
    let scoped = json!({ "name": "s", "role": "admin", "scopes": ["keys:manage", "agents:read", "auth:own"] });
    let (scoped, _) = create(&rig, ADMIN, &scoped).await;
    let ask = async |key: Value| rig.asked(&scoped, Method::POST, "/api/v1/auth/keys", Some(&key)).await;
    assert_eq!(ask(json!({ "name": "x", "role": "viewer" })).await.expect(403)["code"], "forbidden");
    ask(json!({ "name": "x", "role": "viewer", "scopes": ["agents:read"] })).await.expect(201);
    let (_, admin) = create(&rig, ADMIN, &json!({ "name": "a", "role": "admin" })).await;
    let rotate = format!("/api/v1/auth/keys/{admin}/rotate");
    assert_eq!(rig.asked(&scoped, Method::POST, &rotate, None).await.expect(403)["code"], "forbidden");
    for faulty in [
        json!({ "name": "x", "role": "agent" }),
        json!({ "name": "x", "role": "viewer", "agent_id": AGENT }),
        json!({ "name": "x", "role": "service" }),
        json!({ "name": "x", "role": "admin", "scopes": ["internal"] }),
        json!({ "name": "x", "role": "viewer", "id": "key_01jx4q3nd8e5r0cawm6n8gs3kt" }),
    ] {
        rig.asked(ADMIN, Method::POST, "/api/v1/auth/keys", Some(&faulty)).await.expect(400);
    }
}

#[tokio::test]
async fn a_key_is_made_for_an_agent_where_it_lives_alone() {
    let rig = protected().await;
    rig.backend.has_agent("red", AGENT);
    let (blue, _) = create(&rig, ADMIN, &json!({ "name": "b", "role": "admin", "namespace": "blue" })).await;
    let key = |namespace: Value| json!({ "name": "a", "role": "agent", "agent_id": AGENT, "namespace": namespace });
    let ask = async |by: &str, key: Value| rig.asked(by, Method::POST, "/api/v1/auth/keys", Some(&key)).await;
    assert_eq!(ask(&blue, key(Value::Null)).await.expect(404)["code"], "agent_not_found");
    assert_eq!(ask(ADMIN, key(json!("blue"))).await.expect(404)["code"], "agent_not_found");
    assert_eq!(ask(ADMIN, key(Value::Null)).await.expect(404)["code"], "agent_not_found", "it is not of the default");
    let made = ask(ADMIN, key(json!("red"))).await.expect(201);
    assert_eq!((&made["key"]["namespace"], &made["key"]["agent_id"]), (&json!("red"), &json!(AGENT)));
    assert_eq!(
        rig.asked(ADMIN, Method::GET, "/api/v1/auth/keys", None).await.json()["items"].as_array().unwrap().len(),
        2
    );
}

#[tokio::test]
async fn a_key_is_rotated_with_an_overlap_and_its_secret_is_told_once() {
    let rig = protected().await;
    let (first, id) = create(&rig, ADMIN, &json!({ "name": "k", "role": "viewer", "expires_in": "1h" })).await;
    let path = format!("/api/v1/auth/keys/{id}");
    let rotated = rig.asked(ADMIN, Method::POST, &format!("{path}/rotate"), None).await.expect(200);
    let second = rotated["secret"].as_str().unwrap();
    assert_ne!(first, second);
    for secret in [first.as_str(), second] {
        let me = rig.asked(secret, Method::GET, "/api/v1/auth/me", None).await.expect(200);
        assert_eq!(me["subject"], id.as_str());
    }
    let shown = rig.asked(ADMIN, Method::GET, &path, None).await;
    shown.expect(200);
    for secret in [first.as_str(), second] {
        assert!(!shown.text.contains(secret), "{}", shown.text);
    }
    rig.asked(ADMIN, Method::DELETE, &path, None).await.expect(200);
    for secret in [first.as_str(), second] {
        assert_eq!(rig.asked(secret, Method::GET, "/api/v1/auth/me", None).await.expect(401)["code"], "key_revoked");
    }
    let again = rig.asked(ADMIN, Method::POST, &format!("{path}/rotate"), None).await;
    assert_eq!(again.expect(409)["code"], "key_revoked");
}

#[tokio::test]
async fn on_loopback_nobody_needs_a_key_and_a_wrong_one_is_still_refused() {
    let rig = Rig::start().await;
    let me = rig.get("/api/v1/auth/me").await.expect(200);
    assert_eq!((&me["kind"], &me["role"], &me["namespace"]), (&json!("anonymous"), &json!("admin"), &Value::Null));
    let created = rig.post("/api/v1/auth/keys", &json!({ "name": "k", "role": "viewer" })).await.expect(201);
    let key = created["secret"].as_str().unwrap();
    assert_eq!(rig.asked(key, Method::GET, "/api/v1/auth/me", None).await.expect(200)["role"], "viewer");
    let agent = json!({ "agent_type": "echo", "name": "one" });
    rig.asked(key, Method::POST, "/api/v1/agents", Some(&agent)).await.expect(403);
    rig.asked("a-key-of-somebody", Method::GET, "/api/v1/agents", None).await.expect(401);
}

#[tokio::test]
async fn an_idempotency_key_is_its_callers() {
    let rig = protected().await;
    let (other, _) = create(&rig, ADMIN, &json!({ "name": "o", "role": "developer" })).await;
    let post = async |key: &str, name: &str| {
        let agent = json!({ "agent_type": "echo", "name": name });
        let mut request = rig::json(Method::POST, "/api/v1/agents", &agent);
        request.headers_mut().insert("idempotency-key", "the-same".parse().unwrap());
        request.headers_mut().insert("x-api-key", key.parse().unwrap());
        rig.send(request).await
    };
    let theirs = post(&other, "two").await.expect(201);
    let first = post(ADMIN, "one").await.expect(201);
    assert_ne!(first["id"], theirs["id"], "who came before disturbs nobody");
    assert_eq!(post(ADMIN, "one").await.expect(201), first);
    assert_eq!(post(&other, "two").await.expect(201), theirs);
    assert_eq!(post(ADMIN, "three").await.expect(422)["code"], "idempotency_key_reused");
}

/// `TROUPE_WRITE_DOCS=1` writes it.
#[test]
fn the_document_shows_the_matrix_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- begin: matrix -->\n", "<!-- end: matrix -->\n");
    let (before, rest) = document.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let fresh = format!("{before}{begin}\n{}\n{end}{after}", gateway::matrix());
    if std::env::var_os("TROUPE_WRITE_DOCS").is_some() {
        std::fs::write(path, &fresh).unwrap();
    }
    assert_eq!(document, fresh, "docs/security.md is behind: write it with TROUPE_WRITE_DOCS=1");
}

#[tokio::test]
async fn who_may_not_see_after_themselves_gets_no_tokens_and_nobody_takes_away_more_than_they_have() {
    let rig = protected().await;
    let (narrow, _) = create(&rig, ADMIN, &json!({ "name": "n", "role": "admin", "scopes": ["keys:manage"] })).await;
    let exchange = json!({ "grant_type": "api_key" });
    let refused = rig.asked(&narrow, Method::POST, "/api/v1/auth/token", Some(&exchange)).await;
    assert_eq!(refused.expect(403)["code"], "forbidden");
    let (_, wide) = create(&rig, ADMIN, &json!({ "name": "w", "role": "operator" })).await;
    let refused = rig.asked(&narrow, Method::DELETE, &format!("/api/v1/auth/keys/{wide}"), None).await;
    assert_eq!(refused.expect(403)["code"], "forbidden");
    let (own, own_id) =
        create(&rig, &narrow, &json!({ "name": "o", "role": "admin", "scopes": ["keys:manage"] })).await;
    rig.asked(&narrow, Method::DELETE, &format!("/api/v1/auth/keys/{own_id}"), None).await.expect(200);
    rig.asked(&own, Method::GET, "/api/v1/auth/keys", None).await.expect(401);
}

#[tokio::test]
async fn a_key_lives_no_longer_than_what_it_was_created_with() {
    let rig = protected().await;
    let (day, _) = create(&rig, ADMIN, &json!({ "name": "d", "role": "admin", "expires_in": "1d" })).await;
    let keys = "/api/v1/auth/keys";
    let shown = rig.asked(&day, Method::GET, keys, None).await.expect(200);
    let end = shown["items"][0]["expires_at"].as_str().unwrap().to_owned();
    let ask = async |life: Value| {
        let key = json!({ "name": "k", "role": "viewer", "expires_in": life });
        rig.asked(&day, Method::POST, keys, Some(&key)).await
    };
    assert_eq!(ask(json!("2d")).await.expect(403)["code"], "forbidden");
    assert_eq!(ask(Value::Null).await.expect(201)["key"]["expires_at"], end.as_str(), "not for ever");
    assert!(ask(json!("1h")).await.expect(201)["key"]["expires_at"].as_str().unwrap() < end.as_str());
    // And with a token no longer than that.
    let exchange = json!({ "grant_type": "api_key" });
    let pair = rig.asked(ADMIN, Method::POST, "/api/v1/auth/token", Some(&exchange)).await.expect(200);
    let mut request = rig::json(Method::POST, keys, &json!({ "name": "k", "role": "viewer" }));
    let bearer = format!("Bearer {}", pair["access_token"].as_str().unwrap());
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let made = rig.send(request).await.expect(201);
    assert!(made["key"]["expires_at"].as_str().unwrap() < end.as_str(), "{made}");
    let lasting = json!({ "name": "k", "role": "viewer" });
    let lasting = rig.asked(ADMIN, Method::POST, keys, Some(&lasting)).await.expect(201);
    assert_eq!(lasting["key"]["expires_at"], Value::Null);
}

#[tokio::test]
async fn nobody_gets_a_secret_that_is_good_for_longer_by_a_rotation() {
    let rig = protected().await;
    let key = |life: Value| json!({ "name": "k", "role": "admin", "expires_in": life });
    let (day, day_id) = create(&rig, ADMIN, &key(json!("1d"))).await;
    let (lasting, lasting_id) = create(&rig, ADMIN, &key(Value::Null)).await;
    let rotate =
        async |by: &str, id: &str| rig.asked(by, Method::POST, &format!("/api/v1/auth/keys/{id}/rotate"), None).await;
    assert_eq!(rotate(&day, &lasting_id).await.expect(403)["code"], "forbidden");
    let rotated = rotate(&day, &day_id).await.expect(200);
    assert_eq!(rotate(&day, &day_id).await.expect(403)["code"], "forbidden", "its secret was replaced");
    rotate(rotated["secret"].as_str().unwrap(), &day_id).await.expect(200);
    rotate(&lasting, &lasting_id).await.expect(200);
    rotate(&lasting, &lasting_id).await.expect(403);
    rotate(ADMIN, &lasting_id).await.expect(200);
}

#[tokio::test]
async fn what_has_a_secret_in_it_is_kept_by_nobody() {
    let rig = protected().await;
    let made =
        rig.asked(ADMIN, Method::POST, "/api/v1/auth/keys", Some(&json!({ "name": "n", "role": "viewer" }))).await;
    assert_eq!((made.status.as_u16(), made.header("cache-control")), (201, "no-store"));
    let tokens = rig.asked(ADMIN, Method::POST, "/api/v1/auth/token", Some(&json!({ "grant_type": "api_key" }))).await;
    assert_eq!((tokens.status.as_u16(), tokens.header("cache-control")), (200, "no-store"));
}

#[tokio::test]
async fn an_open_gateway_lets_nobody_in_through_a_proxy_nor_with_a_credential_of_another_kind() {
    let rig = Rig::start().await;
    for header in ["forwarded", "x-forwarded-for", "x-real-ip"] {
        let request =
            rig::request(Method::GET, "/api/v1/agents").header(header, "192.0.2.1").body(Body::empty()).unwrap();
        assert_eq!(rig.send(request).await.expect(403)["code"], "origin_refused", "{header}");
    }
    for credential in ["Basic YTpi", "Token x", "Bearer"] {
        let request = rig::request(Method::GET, "/api/v1/agents").header("authorization", credential);
        assert_eq!(
            rig.send(request.body(Body::empty()).unwrap()).await.expect(401)["code"],
            "unauthenticated",
            "{credential}"
        );
    }
}

#[tokio::test]
async fn of_two_credentials_none_is_looked_at() {
    let rig = protected().await;
    let exchange = json!({ "grant_type": "api_key" });
    let pair = rig.asked(ADMIN, Method::POST, "/api/v1/auth/token", Some(&exchange)).await.expect(200);
    let token = format!("Bearer {}", pair["access_token"].as_str().unwrap());
    let me = async |headers: &[(&str, &str)]| {
        let mut request = rig::request(Method::GET, "/api/v1/auth/me").body(Body::empty()).unwrap();
        for (name, value) in headers {
            let name: header::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, header::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        rig.send(request).await
    };
    let (key, bearer) = (("x-api-key", ADMIN), ("authorization", token.as_str()));
    let several: &[&[(&str, &str)]] = &[
        &[key, bearer],
        &[key, ("authorization", "Bearer nonsense")],
        &[key, ("authorization", "bearer \u{e9}")],
        &[("x-api-key", "a-key-of-somebody"), bearer],
        &[key, key],
        &[bearer, bearer],
        &[("authorization", "Basic YTpi"), key, bearer],
    ];
    for headers in several {
        let refused = me(headers).await;
        assert_eq!(refused.expect(401)["code"], "several_credentials", "{headers:?}");
        assert!(!refused.text.contains(ADMIN), "{refused:?}");
    }
    testkit::eventually("it is noted", async || {
        let page = rig.asked(ADMIN, Method::GET, "/api/v1/audit?status=401", None).await.expect(200);
        let mut noted = page["items"].as_array().unwrap().iter();
        if noted.any(|entry| entry["code"] == "several_credentials") { Ok(()) } else { Err(page) }
    })
    .await;
    for one in [&[key][..], &[bearer], &[key, ("authorization", "Basic YTpi")], &[("x-api-key", ""), bearer]] {
        me(one).await.expect(200);
    }
}
