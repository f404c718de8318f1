//! Tokens instead of keys.

use std::time::Duration;

use ::access::RootSecret;
use axum::body::Body;
use gateway::{Credentials, Jwt, Settings};
use http::Method;
use lifecycle::Shutdown;
use serde_json::{Value, json};
use settings::Secret;

use crate::{
    access::{create, protected, protected_with},
    backend::Backend,
    rig::{self, Answer, Rig},
};

const ADMIN: &str = "an-admin-key-of-the-tests";
const TOKEN: &str = "/api/v1/auth/token";

async fn bearing(rig: &Rig, token: &str, method: Method, path: &str) -> Answer {
    let request = rig::request(method, path).header("authorization", format!("Bearer {token}"));
    rig.send(request.body(Body::empty()).unwrap()).await
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}

#[tokio::test]
async fn a_key_is_exchanged_for_tokens_that_end_with_it() {
    let rig = protected().await;
    let (key, id) = create(&rig, ADMIN, &json!({ "name": "k", "role": "operator", "namespace": "blue" })).await;
    let ask = json!({ "grant_type": "api_key", "scopes": ["agents:read", "auth:own", "agents:write"] });
    let pair = rig.asked(&key, Method::POST, TOKEN, Some(&ask)).await.expect(200);
    assert_eq!((&pair["token_type"], &pair["expires_in"]), (&json!("Bearer"), &json!(3600)));
    assert_eq!(pair["scope"], "agents:read auth:own", "a scope gives nothing that the key has not");
    let access = text(&pair, "access_token");
    let me = bearing(&rig, access, Method::GET, "/api/v1/auth/me").await.expect(200);
    assert_eq!((text(&me, "kind"), text(&me, "subject"), text(&me, "namespace")), ("token", id.as_str(), "blue"));
    bearing(&rig, access, Method::GET, "/api/v1/agents").await.expect(200);
    assert_eq!(bearing(&rig, access, Method::GET, "/api/v1/workflows").await.expect(403)["code"], "forbidden");

    rig.asked(ADMIN, Method::DELETE, &format!("/api/v1/auth/keys/{id}"), None).await.expect(200);
    assert_eq!(bearing(&rig, access, Method::GET, "/api/v1/auth/me").await.expect(401)["code"], "token_revoked");
    let again = json!({ "grant_type": "refresh_token", "refresh_token": pair["refresh_token"] });
    assert_eq!(rig.post(TOKEN, &again).await.expect(401)["code"], "token_revoked");
}

#[tokio::test]
async fn a_gateway_with_another_secret_than_that_of_its_database_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::default();
    let start = async |secret: &str, replaces: Option<&str>| {
        let settings = Settings { replaces_secret: replaces.map(str::to_owned), ..Settings::default() };
        let secret = Some(RootSecret::new(&Secret::new(secret)));
        let credentials = Credentials { secret, ..Credentials::default() };
        let shutdown = Shutdown::new();
        let path = folder.path().join("gateway.db");
        let started = rig::start_with(settings, credentials, &backend, path, &shutdown).await;
        shutdown.cut();
        match started {
            Ok(gateway) => {
                gateway.close().await;
                Ok(())
            }
            Err(error) => Err(errors::chain(&error)),
        }
    };
    let (one, other) = ("a-secret-of-the-tests-that-is-long", "another-secret-of-the-tests-0123456");
    start(one, None).await.unwrap();
    start(one, None).await.unwrap();
    let refused = start(other, None).await.unwrap_err();
    let (_, name) = refused.rsplit_once("gateway.replaces_secret: ").expect(&refused);
    start(other, Some(name)).await.unwrap();
    assert!(start(one, None).await.is_err(), "it was given up");
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_one_that_comes_twice_ends_the_family() {
    let rig = protected().await;
    let (key, _) = create(&rig, ADMIN, &json!({ "name": "k", "role": "viewer" })).await;
    let first = rig.asked(&key, Method::POST, TOKEN, Some(&json!({ "grant_type": "api_key" }))).await.expect(200);
    let refresh = async |pair: &Value| {
        let body = json!({ "grant_type": "refresh_token", "refresh_token": pair["refresh_token"] });
        rig.post(TOKEN, &body).await
    };
    let second = refresh(&first).await.expect(200);
    let me = bearing(&rig, text(&second, "access_token"), Method::GET, "/api/v1/auth/me").await.expect(200);
    assert_eq!(me["role"], "viewer");
    let third = refresh(&second).await.expect(200);
    // Whoever has stolen the first one comes.
    assert_eq!(refresh(&first).await.expect(401)["code"], "token_revoked");
    assert_eq!(refresh(&third).await.expect(401)["code"], "token_revoked");
    for pair in [&first, &second, &third] {
        let refused = bearing(&rig, text(pair, "access_token"), Method::GET, "/api/v1/auth/me").await;
        assert_eq!(refused.expect(401)["code"], "token_revoked");
    }
    let noted = rig.asked(ADMIN, Method::GET, "/api/v1/audit", None).await.expect(200);
    let routes: Vec<_> = noted["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| format!("{} {}", entry["route"], entry["status"]))
        .collect();
    let refreshed = r#""POST /api/v1/auth/token" 200"#.to_owned();
    assert_eq!(routes.iter().filter(|route| **route == refreshed).count(), 3, "{routes:?}");
}

#[tokio::test]
async fn a_token_is_revoked_by_whoever_has_it() {
    let rig = protected().await;
    let (key, _) = create(&rig, ADMIN, &json!({ "name": "k", "role": "viewer" })).await;
    for which in ["access_token", "refresh_token"] {
        let pair = rig.asked(&key, Method::POST, TOKEN, Some(&json!({ "grant_type": "api_key" }))).await.expect(200);
        let revoke = json!({ "token": pair[which] });
        rig.asked(&key, Method::POST, "/api/v1/auth/revoke", Some(&revoke)).await.expect(200);
        let refused = bearing(&rig, text(&pair, "access_token"), Method::GET, "/api/v1/auth/me").await;
        assert_eq!(refused.expect(401)["code"], "token_revoked", "{which}");
    }
    rig.asked(&key, Method::POST, "/api/v1/auth/revoke", Some(&json!({ "token": "nonsense" }))).await.expect(200);
    // A token is no key: it is not exchanged for a longer life.
    let pair = rig.asked(&key, Method::POST, TOKEN, Some(&json!({ "grant_type": "api_key" }))).await.expect(200);
    let mut request = rig::json(Method::POST, TOKEN, &json!({ "grant_type": "api_key" }));
    let bearer = format!("Bearer {}", text(&pair, "access_token"));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    rig.send(request).await.expect(401);
    for body in
        [json!({ "grant_type": "api_key" }), json!({ "grant_type": "refresh_token", "refresh_token": "trr_0_0" })]
    {
        rig.post(TOKEN, &body).await.expect(401);
    }
    rig.post(TOKEN, &json!({ "grant_type": "refresh_token" })).await.expect(400);
    rig.post(TOKEN, &json!({ "grant_type": "password" })).await.expect(400);
}

#[tokio::test]
async fn a_rotated_key_takes_the_tokens_of_its_old_secret_with_it() {
    let rig = protected().await;
    let (key, id) = create(&rig, ADMIN, &json!({ "name": "k", "role": "viewer" })).await;
    let ask = json!({ "grant_type": "api_key" });
    let before = rig.asked(&key, Method::POST, TOKEN, Some(&ask)).await.expect(200);
    let rotate = format!("/api/v1/auth/keys/{id}/rotate");
    let rotated = rig.asked(ADMIN, Method::POST, &rotate, Some(&json!({ "overlap": "1s" }))).await.expect(200);
    testkit::eventually("the old secret's tokens to end", async || {
        let answer = bearing(&rig, text(&before, "access_token"), Method::GET, "/api/v1/auth/me").await;
        if answer.status == 401 { Ok(()) } else { Err(answer) }
    })
    .await;
    let after = rig.asked(text(&rotated, "secret"), Method::POST, TOKEN, Some(&ask)).await.expect(200);
    bearing(&rig, text(&after, "access_token"), Method::GET, "/api/v1/auth/me").await.expect(200);
}

#[tokio::test]
async fn an_agents_token_is_revoked_and_what_is_none_is_good_for_nothing() {
    let rig = protected().await;
    rig.backend.has_agent("default", "agt_01jx4q3nd8e5r0cawm6n8gs3kt");
    let agent = json!({ "name": "a", "role": "agent", "agent_id": "agt_01jx4q3nd8e5r0cawm6n8gs3kt" });
    let (key, _) = create(&rig, ADMIN, &agent).await;
    let pair = rig.asked(&key, Method::POST, TOKEN, Some(&json!({ "grant_type": "api_key" }))).await.expect(200);
    let revoke = async |token: &str| rig.post("/api/v1/auth/revoke", &json!({ "token": token })).await;
    // Here the gateway signs them with a key of its own.
    revoke(text(&pair, "access_token")).await.expect(200);
    bearing(&rig, text(&pair, "access_token"), Method::GET, "/api/v1/auth/me").await.expect(401);
    revoke("no token at all").await.expect(200);
}

#[tokio::test]
async fn a_token_whose_time_is_over_revokes_its_family() {
    let jwt = Jwt { expiration: Duration::from_secs(1), leeway: Duration::ZERO, ..Jwt::default() };
    let rig = protected_with(Settings { jwt, ..Settings::default() }).await;
    let (key, _) = create(&rig, ADMIN, &json!({ "name": "k", "role": "viewer" })).await;
    let pair = rig.asked(&key, Method::POST, TOKEN, Some(&json!({ "grant_type": "api_key" }))).await.expect(200);
    let access = text(&pair, "access_token");
    testkit::eventually("it expires", async || {
        let answer = bearing(&rig, access, Method::GET, "/api/v1/auth/me").await;
        if answer.json()["code"] == "token_expired" { Ok(()) } else { Err(answer) }
    })
    .await;
    rig.post("/api/v1/auth/revoke", &json!({ "token": access })).await.expect(200);
    let renew = json!({ "grant_type": "refresh_token", "refresh_token": pair["refresh_token"] });
    assert_eq!(rig.post(TOKEN, &renew).await.expect(401)["code"], "token_revoked");
}
