//! Pages of others stay out, and correlation goes through.

use axum::body::Body;
use gateway::Settings;
use http::{Method, Request};
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
        allowed_origins: vec!["https://desk.example".to_owned()],
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
        vec![host, ("sec-fetch-site", "cross-site")],
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
    ] {
        assert_eq!(status(&rig, Method::GET, &headers).await, 403, "{headers:?}");
    }
    assert_eq!(status(&rig, Method::POST, &[host, ("sec-fetch-site", "cross-site")]).await, 403);
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
