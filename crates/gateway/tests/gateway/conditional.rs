//! Entity tags: what a client has is not sent again, and what it has not seen it does not change.

use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};

use crate::{
    access::{create, protected},
    rig::{self, Answer, Rig},
};

const ADMIN: &str = "an-admin-key-of-the-tests";

fn with(method: Method, path: &str, name: header::HeaderName, tag: &str, body: Option<&Value>) -> Request<Body> {
    let mut request = match body {
        Some(body) => rig::json(method, path, body),
        None => rig::request(method, path).body(Body::empty()).unwrap(),
    };
    request.headers_mut().insert(name, tag.parse().unwrap());
    request
}

async fn unless(rig: &Rig, path: &str, tag: &str) -> Answer {
    rig.send(with(Method::GET, path, header::IF_NONE_MATCH, tag, None)).await
}

async fn agent(rig: &Rig) -> String {
    let agent = rig.post("/api/v1/agents", &json!({ "agent_type": "echo", "name": "one" })).await.expect(201);
    format!("/api/v1/agents/{}", agent["id"].as_str().unwrap())
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again_until_it_changes() {
    let rig = Rig::start().await;
    let workflow = format!("/api/v1/workflows/{}", rig.workflow().await);
    let execution = format!("/api/v1/executions/{}", rig.execution().await);
    for path in [agent(&rig).await, workflow, execution] {
        let first = rig.get(&path).await;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{path}: {tag}");
        assert_eq!(rig.get(&path).await.header("etag"), tag, "{path}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"0.0\", {tag}"), "*".to_owned()] {
            let unchanged = unless(&rig, &path, &known).await;
            unchanged.expect(304);
            assert_eq!((unchanged.text.as_str(), unchanged.header("etag")), ("", tag.as_str()), "{path}");
            assert_eq!(unchanged.header("content-type"), "", "{path}");
        }
        assert_eq!(unless(&rig, &path, "\"1.0\"").await.expect(200), first.json());
        let head = rig.send(with(Method::HEAD, &path, header::IF_NONE_MATCH, &tag, None)).await;
        assert_eq!((head.status.as_u16(), head.header("etag")), (304, tag.as_str()), "{path}");
    }
}

/// A heartbeat is no change of the agent, but of what is shown.
#[tokio::test]
async fn what_the_revision_does_not_count_is_still_seen() {
    let rig = Rig::start().await;
    let path = agent(&rig).await;
    let tag = rig.get(&path).await.header("etag").to_owned();
    for agent in rig.backend.state().agents.values_mut() {
        agent.in_flight = 3;
    }
    let busy = unless(&rig, &path, &tag).await;
    assert_eq!(busy.expect(200)["in_flight"], 3);
    assert_ne!(busy.header("etag"), tag);
    // Whoever has not heard of it may still change the agent.
    let change = with(Method::PUT, &path, header::IF_MATCH, &tag, Some(&json!({ "name": "two" })));
    rig.send(change).await.expect(200);
}

#[tokio::test]
async fn of_two_changes_of_what_both_have_seen_one_is_made() {
    let rig = Rig::start().await;
    let workflow = format!("/api/v1/workflows/{}", rig.workflow().await);
    let definition = |id: &str| json!({ "name": "w", "steps": [{ "id": id, "agent_type": "echo" }] });
    let agent = agent(&rig).await;
    let cases = [(agent, json!({ "name": "a" }), json!({ "name": "b" })), (workflow, definition("x"), definition("y"))];
    for (path, first, second) in cases {
        let tag = rig.get(&path).await.header("etag").to_owned();
        let change = |tag: &str, body: &Value| rig.send(with(Method::PUT, &path, header::IF_MATCH, tag, Some(body)));
        change(&tag, &first).await.expect(200);
        let refused = change(&tag, &second).await.expect(412);
        assert_eq!(refused["code"], "precondition_failed", "{path}");
        let delete = |tag: &str| rig.send(with(Method::DELETE, &path, header::IF_MATCH, tag, None));
        assert_eq!(delete(&tag).await.expect(412)["code"], "precondition_failed", "{path}");
        for never in [format!("W/{}", rig.get(&path).await.header("etag")), "\"mine\"".to_owned()] {
            assert_eq!(delete(&never).await.expect(412)["code"], "precondition_failed", "{path}: {never}");
        }
        assert_eq!(delete("2").await.expect(400)["errors"][0]["field"], "If-Match", "{path}");
        change("*", &second).await.expect(200);
        // The revision alone is enough.
        delete("\"3\"").await.expect(200);
    }
}

#[tokio::test]
async fn two_revisions_in_one_request_must_agree() {
    let rig = Rig::start().await;
    let path = agent(&rig).await;
    let change = |tag: &str| {
        let body = json!({ "name": "two", "expected_revision": 1 });
        rig.send(with(Method::PUT, &path, header::IF_MATCH, tag, Some(&body)))
    };
    assert_eq!(change("\"2\"").await.expect(400)["errors"][0]["field"], "If-Match");
    change("\"1\"").await.expect(200);
    // Told in the body alone it is refused as ever.
    let stale = rig.send(rig::json(Method::PUT, &path, &json!({ "name": "x", "expected_revision": 1 }))).await;
    assert_eq!(stale.expect(409)["code"], "agent_changed");
}

#[tokio::test]
async fn a_key_is_rotated_or_revoked_as_it_was_seen() {
    let rig = protected().await;
    let (_, id) = create(&rig, ADMIN, &json!({ "name": "k", "role": "viewer" })).await;
    let path = format!("/api/v1/auth/keys/{id}");
    let ask = async |method: Method, path: &str, name: header::HeaderName, tag: &str| {
        let mut request = with(method, path, name, tag, None);
        request.headers_mut().insert("x-api-key", ADMIN.parse().unwrap());
        rig.send(request).await
    };
    let tag = rig.asked(ADMIN, Method::GET, &path, None).await.header("etag").to_owned();
    ask(Method::GET, &path, header::IF_NONE_MATCH, &tag).await.expect(304);
    let rotate = format!("{path}/rotate");
    let (one, other) = tokio::join!(
        ask(Method::POST, &rotate, header::IF_MATCH, &tag),
        ask(Method::POST, &rotate, header::IF_MATCH, &tag),
    );
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412], "{one:?} {other:?}");
    let stale = ask(Method::DELETE, &path, header::IF_MATCH, &tag).await;
    assert_eq!(stale.expect(412)["code"], "precondition_failed");
    let seen = rig.asked(ADMIN, Method::GET, &path, None).await;
    assert_eq!(seen.expect(200)["revoked_at"], json!(null));
    ask(Method::DELETE, &path, header::IF_MATCH, seen.header("etag")).await.expect(200);
    assert_eq!(ask(Method::POST, &rotate, header::IF_MATCH, "*").await.expect(409)["code"], "key_revoked");
}

#[tokio::test]
async fn what_was_made_or_changed_is_told_with_its_tag() {
    let rig = Rig::start().await;
    let definition = |id: &str| json!({ "name": "w", "steps": [{ "id": id, "agent_type": "echo" }] });
    for (things, new, change) in [
        ("/api/v1/agents", json!({ "agent_type": "echo", "name": "one" }), json!({ "name": "two" })),
        ("/api/v1/workflows", definition("x"), definition("y")),
    ] {
        let made = rig.post_with_key(things, things, &new).await;
        let path = format!("{things}/{}", made.expect(201)["id"].as_str().unwrap());
        let tag = made.header("etag").to_owned();
        assert_eq!(rig.get(&path).await.header("etag"), tag);
        let changed = rig.send(with(Method::PUT, &path, header::IF_MATCH, &tag, Some(&change))).await;
        changed.expect(200);
        assert_ne!(changed.header("etag"), tag, "{path}");
        assert_eq!(rig.get(&path).await.header("etag"), changed.header("etag"), "{path}");
        // The answer to the same request is the same, whatever has come of the thing.
        let again = rig.post_with_key(things, things, &new).await;
        assert_eq!((again.expect(201), again.header("etag")), (made.json(), tag.as_str()));
    }
}

#[tokio::test]
async fn one_tag_of_a_list_is_enough() {
    let rig = Rig::start().await;
    let path = agent(&rig).await;
    let change = |tags: &str| {
        let body = json!({ "name": "two" });
        rig.send(with(Method::PUT, &path, header::IF_MATCH, tags, Some(&body)))
    };
    change("\"7\", W/\"1\" ,, \"1\"").await.expect(200);
    change("\"1\",\"2\"").await.expect(200);
    assert_eq!(change("\"1\", \"2\"").await.expect(412)["code"], "precondition_failed");
    assert_eq!(change("W/\"3\"").await.expect(412)["code"], "precondition_failed");
    for wrong in ["\"3\", *", "\"3\" \"4\"", "3", "", ","] {
        assert_eq!(change(wrong).await.expect(400)["errors"][0]["field"], "If-Match", "{wrong}");
    }
    assert_eq!(change(&["\"3\""; 5].join(",")).await.expect(400)["errors"][0]["field"], "If-Match");
    // On two lines it is one list (RFC 9110, 5.3).
    let mut request = with(Method::DELETE, &path, header::IF_MATCH, "\"1\"", None);
    request.headers_mut().append(header::IF_MATCH, "\"3\"".parse().unwrap());
    rig.send(request).await.expect(200);
    // What is not there has no state that could be another one.
    for tag in ["\"3\"", "\"mine\"", "*"] {
        let gone = rig.send(with(Method::DELETE, &path, header::IF_MATCH, tag, None)).await;
        assert_eq!(gone.expect(404)["code"], "agent_not_found", "{tag}");
    }
}
