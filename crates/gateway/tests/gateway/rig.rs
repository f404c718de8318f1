//! A gateway on a real database, with fakes behind it, driven through its router.

use std::{path::PathBuf, sync::Arc, time::Duration};

use access::RootSecret;
use axum::body::Body;
use contracts::Links;
use domain::SystemClock;
use gateway::{ApiKey, Credentials, Gateway, Peers, Settings, StartError};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use lifecycle::{Shutdown, Tasks};
use serde_json::Value;
use settings::{Database, Secret};
use tower::ServiceExt as _;

use crate::backend::Backend;

pub(crate) struct Rig {
    pub(crate) backend: Backend,
    pub(crate) shutdown: Shutdown,
    gateway: Gateway,
    folder: tempfile::TempDir,
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self.json()
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        Self::with_key(settings, None).await
    }

    pub(crate) async fn with_key(settings: Settings, key: Option<ApiKey>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = Backend::default();
        let shutdown = Shutdown::new();
        let gateway = start(settings, key, &backend, folder.path().join("gateway.db"), &shutdown).await;
        Self { backend, shutdown, gateway, folder }
    }

    /// The same database and backends, in a new process.
    pub(crate) async fn restarted(self) -> Self {
        let Self { backend, gateway, folder, .. } = self;
        gateway.close().await;
        let shutdown = Shutdown::new();
        let gateway = start(Settings::default(), None, &backend, folder.path().join("gateway.db"), &shutdown).await;
        Self { backend, shutdown, gateway, folder }
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let answered = tokio::time::timeout(Duration::from_secs(30), self.gateway.router().oneshot(request)).await;
        let (parts, body) = answered.expect("an answer comes").unwrap().into_parts();
        let bytes = tokio::time::timeout(Duration::from_secs(30), body.collect()).await.expect("an answer ends");
        let text = String::from_utf8(bytes.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(json(Method::POST, path, body)).await
    }

    /// What somebody with this API key gets; `body` is sent where there is one.
    pub(crate) async fn asked(&self, key: &str, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let mut request = match body {
            Some(body) => json(method, path, body),
            None => request(method, path).body(Body::empty()).unwrap(),
        };
        request.headers_mut().insert("x-api-key", key.parse().unwrap());
        self.send(request).await
    }

    pub(crate) async fn post_with_key(&self, path: &str, key: &str, body: &Value) -> Answer {
        let mut request = json(Method::POST, path, body);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        self.send(request).await
    }

    /// A workflow's id.
    pub(crate) async fn workflow(&self) -> String {
        let definition = serde_json::json!({ "name": "w", "steps": [{ "id": "a", "agent_type": "echo" }] });
        self.post("/api/v1/workflows", &definition).await.expect(201)["id"].as_str().unwrap().to_owned()
    }

    /// An execution's id.
    pub(crate) async fn execution(&self) -> String {
        let path = format!("/api/v1/workflows/{}/execute", self.workflow().await);
        let started = self.post(&path, &serde_json::json!({})).await.expect(202);
        started["execution_id"].as_str().unwrap().to_owned()
    }
}

/// Why a gateway with these settings does not start.
pub(crate) async fn refused(settings: Settings) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.db");
    match try_start(settings, None, &Backend::default(), path, &Shutdown::new()).await {
        Ok(_) => panic!("it starts"),
        Err(error) => errors::chain(&error),
    }
}

async fn start(
    settings: Settings,
    key: Option<ApiKey>,
    backend: &Backend,
    path: PathBuf,
    shutdown: &Shutdown,
) -> Gateway {
    try_start(settings, key, backend, path, shutdown).await.unwrap()
}

async fn try_start(
    settings: Settings,
    key: Option<ApiKey>,
    backend: &Backend,
    path: PathBuf,
    shutdown: &Shutdown,
) -> Result<Gateway, StartError> {
    let secret = Some(RootSecret::new(&Secret::new("a-secret-of-the-tests-that-is-long")));
    start_with(settings, Credentials { api_key: key, secret, ..Credentials::default() }, backend, path, shutdown).await
}

pub(crate) async fn start_with(
    mut settings: Settings,
    credentials: Credentials,
    backend: &Backend,
    path: PathBuf,
    shutdown: &Shutdown,
) -> Result<Gateway, StartError> {
    settings.database = Database { path, ..Database::default() };
    let link = backend.link();
    let peers = Peers {
        registry: link.clone(),
        orchestrator: link.clone(),
        communications: Links::one(link.clone()),
        communication: link,
        denials: Vec::new(),
        telemetry: None,
    };
    let tasks = Tasks::new(shutdown.clone());
    Box::pin(gateway::start(settings, credentials, peers, Arc::new(SystemClock), &tasks)).await
}

pub(crate) fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header(header::HOST, "localhost:8080")
}

pub(crate) fn json(method: Method, path: &str, body: &Value) -> Request<Body> {
    let request = request(method, path).header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}
