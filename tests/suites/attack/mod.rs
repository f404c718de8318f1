//! What somebody does who wants to break in, or to break it: against the built product, on both ways of running.

mod clients;
mod credentials;
mod words;

use std::net::SocketAddr;

use reqwest::{Method, header::HeaderMap};
use serde_json::Value;
use testkit::{Answer, Api, Cluster, ONE_OF_EACH, Server, Setup};

const ADMIN: &str = "an-admin-key-of-the-tests-that-is-long";

/// A product that wants a key of everybody, and counts nobody's requests.
enum Product {
    Embedded(Box<Server>),
    Cluster(Box<Cluster>),
}

impl Product {
    async fn embedded() -> Self {
        let environment = [("TROUPE_GATEWAY__API_KEY", ADMIN), ("TROUPE_GATEWAY__RATE_LIMIT__PER_MINUTE", "0")];
        Self::Embedded(Box::new(Server::start_with(&environment).await))
    }

    async fn cluster() -> Self {
        let settings = format!("api_key = {ADMIN:?}\n");
        Self::Cluster(Box::new(
            Cluster::start(Setup { size: ONE_OF_EACH, settings: &settings, ..Setup::default() }).await,
        ))
    }

    fn api(&self) -> Api {
        match self {
            Self::Embedded(server) => server.api(),
            Self::Cluster(cluster) => cluster.api(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.api().url().trim_start_matches("http://").parse().expect("an address")
    }

    /// It runs still, and nothing in it has panicked.
    fn is_well(&mut self) {
        let (log, has_ended) = match self {
            Self::Embedded(server) => (server.log(), server.has_ended()),
            Self::Cluster(cluster) => (cluster.logs(), !cluster.ended().is_empty()),
        };
        assert!(!has_ended && !log.contains("panicked"), "{log}");
    }
}

/// What whoever sends these headers gets.
async fn asked(api: &Api, method: Method, path: &str, headers: HeaderMap, body: Option<&Value>) -> Answer {
    let request = api.request(method, path).headers(headers);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    api.send(request).await.expect("an answer comes")
}

/// What the administrator gets.
async fn admin(api: &Api, method: Method, path: &str, body: Option<&Value>) -> Answer {
    asked(api, method, path, with("x-api-key", ADMIN), body).await
}

fn with(name: &'static str, value: &str) -> HeaderMap {
    let value = reqwest::header::HeaderValue::from_bytes(value.as_bytes()).expect("it can be sent");
    [(reqwest::header::HeaderName::from_static(name), value)].into_iter().collect()
}
