//! What is told to whoever listens.

use axum::body::Body;
use http::{Method, header};
use serde_json::{Value, json};

use crate::rig::{self, Answer, Rig};

async fn watch(rig: &Rig, pattern: &str) -> Answer {
    let request = rig::request(Method::GET, &format!("/api/v1/topics/{pattern}/events"));
    let request = request.header(header::ACCEPT, "text/event-stream").header("X-Namespace", "team");
    rig.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn any_json_is_published_under_its_topic() {
    let rig = Rig::start().await;
    for body in [json!({ "a": 1 }), json!(null), json!([[], 1])] {
        rig.post("/api/v1/topics/orders.eu.created", &body).await.expect(202);
    }
    let published = rig.backend.state().published.clone();
    let published: Vec<_> = published.iter().map(|one| (one.topic.as_str(), &one.payload[..])).collect();
    let topic = "orders.eu.created";
    assert_eq!(published, [(topic, &b"{\"a\":1}"[..]), (topic, &b"null"[..]), (topic, &b"[[],1]"[..])]);
}

#[tokio::test]
async fn what_cannot_be_published_is_refused() {
    let rig = Rig::start().await;
    for topic in ["a..b", "a.*", "%23", ".", "a%2Fb", "%FF"] {
        let refused = rig.post(&format!("/api/v1/topics/{topic}"), &json!(1)).await.expect(400);
        assert_eq!(refused["errors"][0]["field"], "topic", "{topic}");
    }
    let large = rig.post("/api/v1/topics/a", &json!("a".repeat(64 << 10))).await.expect(400);
    assert_eq!(large["errors"][0], json!({ "pointer": "", "code": "too_large", "message": "is too long" }));
    let request = rig::request(Method::POST, "/api/v1/topics/a").body(Body::from("1")).unwrap();
    rig.send(request).await.expect(415);
}

#[tokio::test]
async fn a_stream_tells_what_is_heard_and_what_is_not() {
    let rig = Rig::start().await;
    for (path, pattern) in [("a.*.%23", "a.*.#"), ("%23", "#"), ("a.%2A", "a.*"), ("events", "events")] {
        let heard = watch(&rig, path).await;
        assert_eq!((heard.status.as_u16(), heard.header("content-type")), (200, "text/event-stream"), "{heard:?}");
        assert_eq!(heard.header("x-accel-buffering"), "no");
        let lines = |prefix: &str| -> Vec<_> {
            heard.text.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect()
        };
        assert_eq!(lines("event: "), ["message", "lost", "gap", "problem"]);
        let data: Vec<Value> = lines("data: ").iter().map(|data| data.parse().unwrap()).collect();
        assert_eq!(data[0], json!({ "type": "message", "topic": pattern, "payload": "team" }));
        assert_eq!(data[1], json!({ "type": "lost", "count": 1 }));
        assert_eq!(data[2], json!({ "type": "gap" }));
        assert_eq!(data[3]["code"], "stopping");
    }
}

#[tokio::test]
async fn a_stream_must_be_asked_for_and_named_well() {
    let rig = Rig::start().await;
    let refused = rig.get("/api/v1/topics/a/events").await.expect(406);
    assert_eq!(refused["code"], "stream_only");
    for pattern in ["a..b", "a.**", "a%20b", "."] {
        assert_eq!(watch(&rig, pattern).await.expect(400)["errors"][0]["field"], "pattern", "{pattern}");
    }
    let unavailable = errors::Error::unavailable("live_unavailable", "Redis is away");
    rig.backend.state().failures.push(unavailable.into());
    assert_eq!(watch(&rig, "a").await.expect(503)["code"], "live_unavailable");
}
