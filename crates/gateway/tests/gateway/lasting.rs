//! What goes on for long ends with the credential that it was asked for with.

use std::time::Duration;

use axum::body::Body;
use futures::future::join_all;
use http::{HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    access::{create, protected},
    rig::{self, Rig},
};

const ADMIN: &str = "an-admin-key-of-the-tests";
const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";
/// More than what is looked up anew after so many seconds, and asked for every so many. Not for each frame: comments come all the time.
const SECONDS: Duration = Duration::from_secs(30);

/// An answer that has begun, with all that it has told so far.
struct Begun {
    what: String,
    kind: &'static str,
    body: Body,
    told: Vec<u8>,
}

impl Begun {
    async fn next(&mut self) -> Option<Result<(), String>> {
        let frame = self.body.frame().await?;
        Some(
            frame
                .map(|frame| self.told.extend_from_slice(&frame.into_data().unwrap()))
                .map_err(|error| error.to_string()),
        )
    }

    /// Reads it to its end, which must be that of its credential.
    async fn ends_with(mut self, code: &str) {
        let ended = loop {
            match self.next().await {
                Some(Ok(())) => {}
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            }
        };
        let told = String::from_utf8(self.told).unwrap();
        if self.kind == LINES {
            assert!(ended.as_ref().is_err_and(|error| error.contains("credential")), "{}: {ended:?}", self.what);
            return;
        }
        assert_eq!(ended, Ok(()), "{}", self.what);
        let last = told.trim_end().rsplit("\n\n").find(|event| !event.starts_with(':')).unwrap();
        let data = last.strip_prefix("event: problem\ndata: ").unwrap_or_else(|| panic!("{}: {last}", self.what));
        assert_eq!(data.parse::<Value>().unwrap()["code"], code, "{}", self.what);
    }
}

/// Every described operation whose answer goes on for long, with a path that fits.
async fn lasting(rig: &Rig) -> Vec<(String, &'static str)> {
    let definition = json!({ "name": "w", "steps": [{ "id": "a", "agent_type": "echo" }] });
    let workflow = rig.asked(ADMIN, Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
    let path = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().unwrap());
    let started = rig.asked(ADMIN, Method::POST, &path, Some(&json!({}))).await.expect(202);
    let document = serde_json::to_value(gateway::document()).unwrap();
    let operations = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().filter_map(move |(method, operation)| {
            let kind = [EVENTS, LINES].into_iter().find(|kind| {
                let answers = operation["responses"].as_object().unwrap().values();
                answers.into_iter().any(|answer| answer["content"].get(kind).is_some())
            })?;
            assert_eq!(method, "get", "{path}");
            Some((path.clone(), kind))
        })
    });
    let fitting =
        |path: String| path.replace("{id}", started["execution_id"].as_str().unwrap()).replace("{pattern}", "a.*");
    operations.map(|(path, kind)| (fitting(path), kind)).collect()
}

/// Asks for all of them, and reads the beginning of each.
async fn begun(rig: &Rig, paths: &[(String, &'static str)], header: &'static str, value: &str) -> Vec<Begun> {
    let mut all = Vec::new();
    for (path, kind) in paths.iter().cloned() {
        let mut request = rig::request(Method::GET, &path).header(header::ACCEPT, kind).body(Body::empty()).unwrap();
        request.headers_mut().insert(header, HeaderValue::from_str(value).unwrap());
        let response = rig.gateway().router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let mut one = Begun { what: path, kind, body: response.into_body(), told: Vec::new() };
        let first = tokio::time::timeout(SECONDS, one.next()).await.expect("it begins");
        assert_eq!(first, Some(Ok(())), "{}", one.what);
        all.push(one);
    }
    assert!(all.iter().any(|one| one.kind == EVENTS) && all.iter().any(|one| one.kind == LINES));
    all
}

/// An export would end by itself if it was read: that waits until the credential of the others has ended.
async fn end(all: Vec<Begun>, code: &str) {
    let (exports, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.kind == LINES);
    let ending = async {
        join_all(others.into_iter().map(|one| one.ends_with(code))).await;
        join_all(exports.into_iter().map(|one| one.ends_with(code))).await;
    };
    tokio::time::timeout(SECONDS, ending).await.unwrap_or_else(|_| panic!("something goes on without {code}"));
}

/// A gateway whose streams do not end by themselves, and whose exports have more than one portion.
async fn busy() -> Rig {
    let rig = protected().await;
    rig.backend.state().is_live = true;
    for _ in 0..260 {
        rig.asked(ADMIN, Method::POST, "/api/v1/topics/a", Some(&json!(1))).await.expect(202);
    }
    rig
}

#[tokio::test]
async fn whatever_goes_on_for_long_ends_when_its_key_is_revoked_and_when_it_expires() {
    let rig = busy().await;
    let paths = lasting(&rig).await;
    let (key, id) = create(&rig, ADMIN, &json!({ "name": "k", "role": "admin" })).await;
    let all = begun(&rig, &paths, "x-api-key", &key).await;
    rig.asked(ADMIN, Method::DELETE, &format!("/api/v1/auth/keys/{id}"), None).await.expect(200);
    end(all, "key_revoked").await;

    let (key, _) = create(&rig, ADMIN, &json!({ "name": "k", "role": "admin", "expires_in": "5s" })).await;
    let all = begun(&rig, &paths, "x-api-key", &key).await;
    end(all, "key_expired").await;

    let (key, id) = create(&rig, ADMIN, &json!({ "name": "k", "role": "admin" })).await;
    let all = begun(&rig, &paths, "x-api-key", &key).await;
    let rotation = json!({ "overlap": "1s" });
    rig.asked(ADMIN, Method::POST, &format!("/api/v1/auth/keys/{id}/rotate"), Some(&rotation)).await.expect(200);
    end(all, "key_expired").await;
}

#[tokio::test]
async fn whatever_goes_on_for_long_ends_when_its_token_is_revoked() {
    let rig = busy().await;
    let paths = lasting(&rig).await;
    let (key, _) = create(&rig, ADMIN, &json!({ "name": "k", "role": "admin" })).await;
    let ask = json!({ "grant_type": "api_key" });
    let pair = rig.asked(&key, Method::POST, "/api/v1/auth/token", Some(&ask)).await.expect(200);
    let token = pair["access_token"].as_str().unwrap();
    let all = begun(&rig, &paths, "authorization", &format!("Bearer {token}")).await;
    rig.post("/api/v1/auth/revoke", &json!({ "token": token })).await.expect(200);
    end(all, "token_revoked").await;
}
