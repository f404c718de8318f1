//! Who is connected to whom, and how that can be cut.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{Setup, TOKEN, member::Member};
use crate::{Network, Proxy, Servers};

/// Servers that processes connect to.
const SERVERS: [&str; 3] = ["postgres", "rabbitmq", "redis"];

/// The proxies between the processes of a cluster, and to its servers.
#[derive(Debug, Default)]
pub struct Connections {
    /// By who connects and to what; empty where nothing goes through proxies.
    proxies: BTreeMap<(String, String), Proxy>,
}

/// Which services, and which servers, a service connects to.
fn peers_of(service: &str) -> &'static [&'static str] {
    match service {
        "registry" => &["postgres"],
        "communication" => &["registry", "postgres", "rabbitmq", "redis"],
        "orchestrator" => &["registry", "communication", "postgres", "redis"],
        "agent-runner" => &["registry", "communication"],
        _ => &["registry", "communication", "orchestrator", "postgres", "redis"],
    }
}

impl Connections {
    pub(super) async fn new(processes: &BTreeMap<String, Member>, servers: &Servers, is_proxied: bool) -> Self {
        let mut proxies = BTreeMap::new();
        if !is_proxied {
            return Self::default();
        }
        for (from, process) in processes {
            for peer in peers_of(process.service) {
                if SERVERS.contains(peer) {
                    let proxy = Proxy::to(servers.address(peer)).await;
                    proxies.insert((from.clone(), (*peer).to_owned()), proxy);
                }
                for (to, target) in processes.iter().filter(|(_, target)| target.service == *peer) {
                    proxies.insert((from.clone(), to.clone()), Proxy::to(target.listen).await);
                }
            }
        }
        // The other orchestrators reach one under the address that it has told the database.
        for (to, target) in processes.iter().filter(|(_, target)| target.service == "orchestrator") {
            proxies.insert(("orchestrators".to_owned(), to.clone()), Proxy::to(target.listen).await);
        }
        Self { proxies }
    }

    /// Every connection that can be cut: who connects, and to what.
    pub fn pairs(&self) -> Vec<(String, String)> {
        self.proxies.keys().cloned().collect()
    }

    /// Changes what the network between two does.
    ///
    /// # Panics
    /// Where there is no such connection.
    pub fn set(&self, pair: &(String, String), network: Network) {
        self.proxies[pair].set(network);
    }

    /// Where `from` reaches what listens at `direct`.
    fn address(&self, from: &str, to: &str, direct: SocketAddr) -> SocketAddr {
        let pair = (from.to_owned(), to.to_owned());
        self.proxies.get(&pair).map_or(direct, Proxy::address)
    }

    /// The settings of a process, in the words of the file.
    pub(super) fn settings(
        &self,
        name: &str,
        process: &Member,
        processes: &BTreeMap<String, Member>,
        servers: &Servers,
        setup: &Setup<'_>,
    ) -> String {
        let replicas = |service: &str| {
            let targets = processes.iter().filter(|(_, target)| target.service == service);
            let addresses = targets.map(|(to, target)| self.address(name, to, target.listen).to_string());
            addresses.collect::<Vec<_>>().join(",")
        };
        let server = |server: &str, url: &str| {
            let direct = servers.address(server);
            url.replace(&direct.to_string(), &self.address(name, server, direct).to_string())
        };
        let database = format!("database = {{ url = {:?} }}", server("postgres", servers.postgres()));
        let redis = format!("redis = {{ url = {:?} }}", server("redis", &servers.redis));
        let advertise = self.address("orchestrators", name, process.listen);
        format!(
            "[serve]\nlisten = {:?}\nadvertise = {:?}\nregistry = {:?}\ncommunication = {:?}\norchestrator = {:?}\nagent_runner = {:?}\n\
             token = {TOKEN:?}\n\
             [registry]\n{database}\n\
             [orchestrator]\n{database}\n{redis}\nlease = {:?}\nshards = {}\n{}\n\
             [communication]\n{database}\n{redis}\ntransport = \"rabbitmq\"\ndelivery_limit = {}\nrabbitmq = {{ url = {:?}, relay_after = \"2s\" }}\n\
             [gateway]\n{database}\n{redis}\nrate_limit = {{ per_minute = 0 }}\nlisten = {:?}\n",
            process.listen.to_string(),
            advertise.to_string(),
            replicas("registry"),
            replicas("communication"),
            replicas("orchestrator"),
            replicas("agent-runner"),
            setup.lease,
            setup.shards,
            setup.orchestrator,
            setup.delivery_limit,
            server("rabbitmq", servers.amqp()),
            process.listen.to_string(),
        )
    }
}
