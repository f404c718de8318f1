//! Pages of others stay out, and correlation goes through.

use axum::body::Body;
use gateway::{ApiKey, Cors, Settings};
use http::{Method, Request};
use serde_json::json;
use settings::Secret;
use tower::ServiceExt as _;

use crate::rig::{self, Rig};

async fn status(rig: &Rig, method: Method, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::builder().method(method).uri("/api/v1/agents");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    rig.send(request.body(Body::empty()).unwrap()).await.status.as_u16()
}

#[tokio::test]
async fn only_the_gateways_own_names_and_origins_are_answered() {
    let settings = Settings {
        allowed_hosts: vec!["troupe.example".to_owned()],
        cors: Cors { allowed_origins: vec!["https://desk.example".to_owned()], ..Cors::default() },
        ..Settings::default()
    };
    let rig = Rig::with(settings).await;
    let host = ("host", "localhost:8080");
    for headers in [
        vec![host],
        vec![("host", "127.0.0.1")],
        vec![("host", "[::1]:8080")],
        vec![("host", "troupe.example")],
        vec![host, ("origin", "http://localhost:8080")],
        vec![host, ("origin", "https://desk.example")],
        vec![host, ("origin", "https://desk.example"), ("sec-fetch-site", "cross-site")],
        vec![host, ("sec-fetch-site", "same-origin")],
        vec![host, ("sec-fetch-site", "none")],
    ] {
        assert_eq!(status(&rig, Method::GET, &headers).await, 200, "{headers:?}");
    }
    for headers in [
        vec![],
        vec![("host", "evil.example")],
        vec![("host", "127.0.0.1.evil.example")],
        vec![host, ("origin", "http://evil.example")],
        vec![host, ("origin", "http://localhost:3000")],
        vec![host, ("origin", "null")],
        vec![host, ("sec-fetch-site", "cross-site")],
        vec![host, ("sec-fetch-site", "same-site")],
    ] {
        for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE] {
            assert_eq!(status(&rig, method.clone(), &headers).await, 403, "{method} {headers:?}");
        }
    }
    let linked =
        rig::request(Method::GET, "/docs/").header("sec-fetch-site", "cross-site").body(Body::empty()).unwrap();
    rig.send(linked).await.expect(200);
}

#[tokio::test]
async fn where_a_key_is_demanded_pages_load_without_it_and_say_how_to_present_it() {
    let settings = Settings { api_key: Some(Secret::new("a-key-of-the-tests")), ..Settings::default() };
    let key = ApiKey::of(&settings, |_| ()).unwrap();
    let rig = Rig::with_key(settings, key).await;
    rig.get("/").await.expect(307);
    for path in ["/docs/", "/docs/swagger-ui.css", "/docs/swagger-initializer.js"] {
        rig.get(path).await.expect(200);
    }
    let document = rig.get("/openapi.json").await.expect(200);
    let scheme = &document["components"]["securitySchemes"]["api_key"];
    assert_eq!((&scheme["in"], &scheme["name"]), (&json!("header"), &json!("X-API-Key")));
    assert_eq!(document["security"], json!([{ "api_key": [] }, { "bearer": [] }]));
    for path in ["/api/v1/agents", "/metrics", "/docsx", "/openapi.jsonx"] {
        assert_eq!(rig.get(path).await.expect(401)["code"], "unauthenticated", "{path}");
    }
}

#[tokio::test]
async fn correlation_and_trace_come_through_and_namespaces_fence() {
    let rig = Rig::start().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = rig::request(Method::GET, "/api/v1/agents")
        .header("X-Correlation-ID", "order-4711")
        .header("traceparent", traceparent);
    let answer = rig.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.header("x-correlation-id"), "order-4711");
    let metadata = rig.backend.state().metadata.clone();
    assert_eq!(metadata.get("x-correlation-id").unwrap(), "order-4711");
    assert_eq!(metadata.get("traceparent").unwrap(), traceparent);

    let answer = rig.get("/api/v1/agents").await;
    assert!(answer.header("x-correlation-id").starts_with("req_"), "{answer:?}");

    let agent = rig.post("/api/v1/agents", &serde_json::json!({ "agent_type": "a", "name": "n" })).await.expect(201);
    let path = format!("/api/v1/agents/{}", agent["id"].as_str().unwrap());
    rig.get(&path).await.expect(200);
    let elsewhere = rig::request(Method::GET, &path).header("X-Namespace", "elsewhere").body(Body::empty()).unwrap();
    rig.send(elsewhere).await.expect(404);
}

#[tokio::test]
async fn streams_without_room_are_told_to_come_back() {
    let rig = Rig::with(Settings { max_streams: 1, ..Settings::default() }).await;
    let path = format!("/api/v1/executions/{}/events", rig.execution().await);
    let follow = || rig::request(Method::GET, &path).header("accept", "text/event-stream").body(Body::empty()).unwrap();
    let open = rig.gateway().router().oneshot(follow()).await.unwrap();
    let refused = rig.send(follow()).await;
    assert_eq!(refused.expect(503)["code"], "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    drop(open);
    rig.send(follow()).await.expect(200);
}
