//! What is called: one process, or the services of a cluster.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use contracts::Link;
use lifecycle::{Shutdown, Tasks};
use rpc::{Caller, Replicas};
use settings::{Secret, Settings as _};
use tonic::transport::Endpoint;

const CONNECT: Duration = Duration::from_secs(5);

/// What is called.
pub(super) struct Services {
    pub(super) registry: Link,
    pub(super) orchestrator: Link,
    pub(super) communication: Link,
    /// What shows metrics wants to see it.
    pub(super) metrics_secret: Option<Secret>,
    sessions: Sessions,
}

/// Where agents open their sessions.
enum Sessions {
    Process(String),
    Cluster(Box<Caller>, Replicas),
}

impl Services {
    /// All in one process.
    pub(super) async fn of_process(address: &str) -> anyhow::Result<Self> {
        let link = connect(address).await?;
        Ok(Self {
            registry: link.clone(),
            orchestrator: link.clone(),
            communication: link,
            metrics_secret: None,
            sessions: Sessions::Process(address.to_owned()),
        })
    }

    /// Each with replicas of its own, and so many calls to each under way at once.
    pub(super) fn of_cluster(file: &Path, calls: u32) -> anyhow::Result<Self> {
        let settings = crate::serve::Settings::load(Some(file))?;
        // What follows the replicas ends with the process.
        let caller = Caller::new(Tasks::new(Shutdown::new()))
            .with_signer(settings.keys()?.map(|keys| access::Signer::service(keys, "bench")))
            .with_tls(settings.tls()?)
            .with_max_calls(Caller::MAX_CALLS.max(calls as usize));
        Ok(Self {
            registry: caller.connect("registry", &settings.registry)?,
            orchestrator: caller.connect("orchestrator", &settings.orchestrator)?,
            communication: caller.connect("communication", &settings.communication)?,
            metrics_secret: settings.metrics_secret()?,
            sessions: Sessions::Cluster(Box::new(caller), settings.communication),
        })
    }

    /// A connection of their own for sessions of agents, in a cluster one to each replica.
    pub(super) async fn sessions(&self) -> anyhow::Result<Link> {
        match &self.sessions {
            Sessions::Process(address) => connect(address).await,
            Sessions::Cluster(caller, replicas) => Ok(caller.connect("communication", replicas)?),
        }
    }
}

async fn connect(address: &str) -> anyhow::Result<Link> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url)
        .with_context(|| format!("{address:?} is no address; it looks like 127.0.0.1:50051"))?;
    let channel = endpoint.connect_timeout(CONNECT).tcp_nodelay(true).connect().await.with_context(|| {
        format!("no answer from {address}; start a server with `troupe dev`, or name one with --grpc or TROUPE_GRPC")
    })?;
    Ok(Link::new(channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_server_is_told_with_what_to_do() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let error = connect(&address).await.unwrap_err();
        assert!(error.to_string().contains("troupe dev"), "{error}");
        assert!(connect("no address").await.is_err());
    }
}
