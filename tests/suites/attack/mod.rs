//! What somebody does who wants to break in, or to break it: against the built product, on both ways of running.

/// An attack as two tests: at home and in a cluster, with more settings of the gateway where there are any.
macro_rules! both_ways {
    ($attack:ident) => {
        both_ways!($attack, &[]);
    };
    ($attack:ident, $settings:expr) => {
        mod $attack {
            use super::*;

            #[tokio::test]
            async fn at_home() {
                Box::pin(super::$attack(Product::embedded_with($settings).await)).await;
            }

            #[tokio::test]
            async fn in_a_cluster() {
                Box::pin(super::$attack(Product::cluster_with($settings).await)).await;
            }
        }
    };
}

mod clients;
mod credentials;
mod frames;
mod handshakes;
mod issuers;
mod limits;
mod logs;
mod ports;
mod records;
mod slow;
mod sockets;
mod texts;
mod wire;
mod words;

use std::net::SocketAddr;

use reqwest::{Method, header::HeaderMap};
use serde_json::Value;
use testkit::{Answer, Api, Cluster, ONE_OF_EACH, Server, Setup, TOKEN};

const ADMIN: &str = "an-admin-key-of-the-tests-that-is-long";

/// A product that wants a key of everybody, and counts nobody's requests.
enum Product {
    Embedded(Box<Server>),
    Cluster(Box<Cluster>),
}

impl Product {
    async fn embedded() -> Self {
        Self::embedded_with(&[]).await
    }

    async fn cluster() -> Self {
        Self::cluster_with(&[]).await
    }

    /// With more settings of the gateway: names, and values as TOML has them.
    async fn embedded_with(settings: &[(&str, &str)]) -> Self {
        let named = |(name, value): &(&str, &str)| {
            (format!("TROUPE_GATEWAY__{}", name.replace('.', "__").to_uppercase()), value.trim_matches('"').to_owned())
        };
        let mut all = vec![("api_key", ADMIN), ("rate_limit.per_minute", "0")];
        all.extend(settings);
        let mut all: Vec<_> = all.iter().map(named).collect();
        all.push(("TROUPE_SERVE__TOKEN".to_owned(), TOKEN.to_owned()));
        let environment: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Self::Embedded(Box::new(Server::start_with(&environment).await))
    }

    /// The same in a cluster.
    async fn cluster_with(settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        let settings = settings.concat();
        let settings = format!("api_key = {ADMIN:?}\n{settings}");
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

    /// Does something in the gateway's database, which the product does not know of.
    async fn behind_the_back(&self, statements: &str) -> Result<(), String> {
        match self {
            Self::Embedded(server) => {
                let file = server.data_directory().join("gateway.db");
                testkit::behind_the_back(&format!("sqlite:{}", file.display()), statements).await
            }
            Self::Cluster(cluster) => {
                let statements = format!("SET search_path = gateway; {statements}");
                testkit::behind_the_back(cluster.postgres(), &statements).await
            }
        }
    }

    /// Where agents are served.
    fn grpc(&self) -> SocketAddr {
        let address = match self {
            Self::Embedded(server) => server.grpc_url().trim_start_matches("http://").to_owned(),
            Self::Cluster(cluster) => cluster.communications().swap_remove(0),
        };
        address.parse().expect("an address")
    }

    /// What the process that serves clients has in memory, and the one that serves agents.
    fn memory(&self) -> [u64; 2] {
        match self {
            Self::Embedded(server) => [server.memory(); 2],
            Self::Cluster(cluster) => ["gateway-1", "communication-1"].map(|name| cluster.memory(name)),
        }
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
