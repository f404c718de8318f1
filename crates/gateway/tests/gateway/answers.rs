//! What answers have in common: coding, protection, what pages of others may read, and what a path can be asked for.

use std::time::Duration;

use axum::body::Body;
use gateway::{ApiKey, Certificate, Cors, Settings};
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use serde_json::json;
use settings::Secret;
use tower::ServiceExt as _;

use crate::{
    access::protected,
    rig::{self, Rig},
};

const DESK: &str = "https://desk.example";
const KEY: &str = "a-key-of-the-tests";

/// What an answer's headers say, and how many bytes it has.
async fn coded(rig: &Rig, request: http::request::Builder) -> (http::HeaderMap, Vec<u8>) {
    let request = request.body(Body::empty()).unwrap();
    let (parts, body) = rig.gateway().router().oneshot(request).await.unwrap().into_parts();
    assert_eq!(parts.status, 200);
    (parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

async fn with_large_agent() -> (Rig, String) {
    let rig = Rig::start().await;
    let new = json!({ "agent_type": "echo", "name": "one", "config": { "text": "la".repeat(5_000) } });
    let agent = rig.post("/api/v1/agents", &new).await.expect(201);
    (rig, format!("/api/v1/agents/{}", agent["id"].as_str().unwrap()))
}

#[tokio::test]
async fn large_answers_are_coded_as_clients_take_them() {
    let (rig, path) = with_large_agent().await;
    let plain = coded(&rig, rig::request(Method::GET, &path)).await;
    assert!(plain.0.get(header::CONTENT_ENCODING).is_none() && plain.1.len() > 10_000, "{:?}", plain.0);
    for (coding, magic) in [("gzip", &[0x1f, 0x8b][..]), ("zstd", &[0x28, 0xb5, 0x2f, 0xfd])] {
        let asked = || rig::request(Method::GET, &path).header(header::ACCEPT_ENCODING, coding);
        let (headers, body) = coded(&rig, asked()).await;
        assert_eq!(headers[header::CONTENT_ENCODING], coding);
        assert!(body.starts_with(magic) && body.len() < 1_000, "{} bytes", body.len());
        assert!(headers[header::VARY].to_str().unwrap().contains("accept-encoding"), "{headers:?}");
        // Other bytes, another tag; and it is known again.
        let tag = headers[header::ETAG].to_str().unwrap().to_owned();
        assert_ne!(tag, plain.0[header::ETAG].to_str().unwrap());
        let again = asked().header(header::IF_NONE_MATCH, tag.clone()).body(Body::empty()).unwrap();
        rig.send(again).await.expect(304);
        let change = rig::json(Method::PUT, &path, &json!({ "name": coding }));
        let (mut parts, body) = change.into_parts();
        parts.headers.insert(header::IF_MATCH, tag.parse().unwrap());
        rig.send(Request::from_parts(parts, body)).await.expect(200);
    }
}

#[tokio::test]
async fn what_is_small_live_or_secret_is_not_coded() {
    let rig = protected().await;
    let key = "an-admin-key-of-the-tests";
    let ask = async |method: Method, path: &str, accept: &str, body: &str| {
        let request = rig::request(method, path)
            .header("x-api-key", key)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, "gzip, zstd");
        let answer = rig.gateway().router().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.headers().clone()
    };
    let json = "application/json";
    let scopes = json!({ "name": "🎭".repeat(128), "role": "admin" }).to_string();
    let secret = ask(Method::POST, "/api/v1/auth/keys", json, &scopes).await;
    assert_eq!(secret[header::CACHE_CONTROL], "no-store");
    assert!(
        secret[header::CONTENT_LENGTH].to_str().unwrap().parse::<u32>().unwrap() > 1024,
        "worth coding: {secret:?}"
    );
    let small = ask(Method::GET, "/api/v1/agents", json, "").await;
    let live = ask(Method::GET, "/api/v1/topics/a.*/events", "text/event-stream", "").await;
    for headers in [secret, small, live] {
        assert!(headers.get(header::CONTENT_ENCODING).is_none(), "{headers:?}");
    }
}

#[tokio::test]
async fn what_is_known_in_a_coding_is_told_as_it_is_known() {
    let (rig, path) = with_large_agent().await;
    let ask = async |known: &str| {
        let request = rig::request(Method::GET, &path).header(header::ACCEPT_ENCODING, "gzip");
        rig.send(request.header(header::IF_NONE_MATCH, known).body(Body::empty()).unwrap()).await
    };
    let (headers, _) = coded(&rig, rig::request(Method::GET, &path).header(header::ACCEPT_ENCODING, "gzip")).await;
    let tag = headers[header::ETAG].to_str().unwrap();
    assert!(tag.ends_with("-gzip\""), "{tag}");
    let unchanged = ask(tag).await;
    unchanged.expect(304);
    assert_eq!((unchanged.header("etag"), unchanged.header("vary")), (tag, "accept-encoding"));
}

/// No coding is good enough: that refuses no answer, least of all to what was done already.
#[tokio::test]
async fn whatever_coding_is_wanted_there_is_an_answer() {
    let rig = Rig::start().await;
    for (number, wanted) in ["*;q=0", "br, identity;q=0", "identity;q=0", "nonsense;;"].into_iter().enumerate() {
        let new = json!({ "agent_type": "echo", "name": format!("a{number}") });
        let mut request = rig::json(Method::POST, "/api/v1/agents", &new);
        request.headers_mut().insert(header::ACCEPT_ENCODING, wanted.parse().unwrap());
        rig.send(request).await.expect(201);
        let health = rig::request(Method::GET, "/health/live").header(header::ACCEPT_ENCODING, wanted);
        rig.send(health.body(Body::empty()).unwrap()).await.expect(200);
    }
    // Where nobody has to say who they are, nothing is coded.
    let (headers, body) =
        coded(&rig, rig::request(Method::GET, "/openapi.json").header(header::ACCEPT_ENCODING, "gzip")).await;
    assert!(headers.get(header::CONTENT_ENCODING).is_none() && body.len() > 10_000, "{headers:?}");
}

#[tokio::test]
async fn a_coded_body_is_refused() {
    let rig = Rig::start().await;
    let send = |coding: &'static str| {
        let mut request = rig::json(Method::POST, "/api/v1/agents", &json!({ "agent_type": "echo", "name": coding }));
        request.headers_mut().insert(header::CONTENT_ENCODING, coding.parse().unwrap());
        rig.send(request)
    };
    assert_eq!(send("gzip").await.expect(415)["code"], "content_coding_unsupported");
    send("identity").await.expect(201);
}

#[tokio::test]
async fn every_answer_tells_browsers_and_caches_what_to_keep_from_others() {
    let rig = Rig::start().await;
    let agent = rig.post("/api/v1/agents", &json!({ "agent_type": "echo", "name": "one" })).await.expect(201);
    let agent = format!("/api/v1/agents/{}", agent["id"].as_str().unwrap());
    let cases = [
        (agent.as_str(), 200, "private, no-cache"),
        ("/api/v1/agents", 200, "no-store"),
        ("/api/v1/agents/x", 400, "no-store"),
        ("/api/v1/nothing", 404, "no-store"),
        ("/health/live", 200, ""),
        ("/docs/", 200, ""),
    ];
    for (path, status, cached) in cases {
        let answer = rig.get(path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("strict-transport-security", ""),
        ] {
            assert_eq!(answer.header(name), value, "{path} {name}");
        }
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        if !cached.is_empty() {
            assert_eq!(answer.header("cache-control"), cached, "{path}");
        }
    }
}

#[tokio::test]
async fn over_tls_browsers_are_told_to_come_over_tls_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = Certificate { cert_file: folder.path().join("cert.pem"), key_file: folder.path().join("key.pem") };
    crate::tls::make(&place);
    let rig = Rig::with(Settings { tls: Some(place), ..Settings::default() }).await;
    assert_eq!(rig.get("/health/live").await.header("strict-transport-security"), "max-age=31536000");
}

#[tokio::test]
async fn pages_of_allowed_origins_may_ask_and_read_and_no_others() {
    let cors = Cors { allowed_origins: vec![DESK.to_owned()], max_age: Duration::from_mins(5) };
    let settings = Settings { api_key: Some(Secret::new(KEY)), cors, ..Settings::default() };
    let key = ApiKey::of(&settings, |_| ()).unwrap();
    let rig = Rig::with_key(settings, key).await;
    let preflight = |origin: &str| {
        let request = rig::request(Method::OPTIONS, "/api/v1/agents")
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "x-api-key,if-match");
        rig.send(request.body(Body::empty()).unwrap())
    };
    let told = preflight(DESK).await;
    told.expect(200);
    assert_eq!(told.header("access-control-allow-origin"), DESK);
    assert_eq!(told.header("access-control-allow-methods"), "GET,HEAD,POST,PUT,DELETE");
    for name in ["x-api-key", "if-match", "idempotency-key", "authorization"] {
        assert!(told.header("access-control-allow-headers").split(',').any(|allowed| allowed == name), "{name}");
    }
    assert_eq!(told.header("access-control-allow-credentials"), "");
    assert_eq!(told.header("access-control-max-age"), "300");
    let refused = preflight("https://evil.example").await;
    assert_eq!(refused.expect(403)["code"], "origin_refused");
    assert_eq!(refused.header("access-control-allow-origin"), "");

    let ask = |key: &str| {
        let request = rig::request(Method::GET, "/api/v1/agents").header(header::ORIGIN, DESK).header("x-api-key", key);
        rig.send(request.body(Body::empty()).unwrap())
    };
    let answer = ask(KEY).await;
    answer.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), DESK);
    assert!(answer.header("access-control-expose-headers").contains("etag"), "{answer:?}");
    let request = rig::request(Method::GET, "/api/v1/agents").header("x-api-key", KEY);
    let own = rig.send(request.body(Body::empty()).unwrap()).await;
    assert!(own.header("vary").contains("origin"), "what a browser keeps is kept for one origin: {own:?}");
    // Also why it was refused.
    let refused = ask("another-key-of-the-tests").await;
    assert_eq!(
        (refused.expect(401)["code"].as_str(), refused.header("access-control-allow-origin")),
        (Some("unauthenticated"), DESK)
    );
}

#[tokio::test]
async fn a_path_says_what_it_can_be_asked_for() {
    let rig = Rig::start().await;
    let ask = |method: Method, path: &str| rig.send(rig::request(method, path).body(Body::empty()).unwrap());
    for (path, methods) in
        [("/api/v1/agents", "GET,HEAD,POST"), ("/api/v1/agents/x", "GET,HEAD,PUT,DELETE"), ("/health", "GET,HEAD")]
    {
        let refused = ask(Method::PATCH, path).await;
        assert_eq!(
            (refused.expect(405)["code"].as_str(), refused.header("allow")),
            (Some("method_not_allowed"), methods)
        );
        let told = ask(Method::OPTIONS, path).await;
        assert_eq!((told.status.as_u16(), told.text.as_str()), (204, ""), "{path}");
        assert_eq!(told.header("allow"), methods);
        assert!(rig.backend.state().calls.is_empty());
    }
    assert_eq!(ask(Method::OPTIONS, "/api/v1/nothing").await.expect(404)["code"], "route_not_found");
    let head = ask(Method::HEAD, "/api/v1/agents").await;
    let get = ask(Method::GET, "/api/v1/agents").await;
    assert_eq!((head.text.as_str(), head.header("content-length")), ("", get.text.len().to_string().as_str()));
}
