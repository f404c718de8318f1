//! What is done to a cluster.

use std::{collections::BTreeSet, fmt, time::Duration};

use rand::{Rng, rngs::StdRng, seq::SliceRandom as _};
use testkit::{Cluster, Connections, Network};

/// Longer than the lease of the tests' clusters.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(4);
/// How long something stays away, at most, in milliseconds.
const AWAY: u64 = 3_000;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGKILL, and a start a while later.
    Kill(&'static str),
    /// SIGSTOP for longer than a lease, then SIGCONT: an orchestrator wakes up with shards that are another's by then.
    Pause(&'static str),
    /// SIGTERM and a start, of every process, one after the other.
    RollAll,
    /// A server dies, and starts again.
    KillServer(&'static str),
    /// Redis is emptied.
    FlushRedis,
    /// All connections between two are closed, and no new ones are let through for a while.
    Cut,
    /// Nothing passes between two for a while, and no connection is closed.
    Silence,
}

/// Each once.
pub(super) const FAULTS: [Fault; 17] = [
    Fault::Kill("orchestrator"),
    Fault::Kill("communication"),
    Fault::Kill("registry"),
    Fault::Kill("agent-runner"),
    Fault::Kill("gateway"),
    Fault::Pause("orchestrator"),
    Fault::Pause("communication"),
    Fault::Pause("registry"),
    Fault::Pause("agent-runner"),
    Fault::Pause("gateway"),
    Fault::RollAll,
    Fault::KillServer("postgres"),
    Fault::KillServer("rabbitmq"),
    Fault::KillServer("redis"),
    Fault::FlushRedis,
    Fault::Cut,
    Fault::Silence,
];

/// That many, each kind as often as the others, in an order of its own every time around.
pub(super) fn shuffled(count: usize, random: &mut StdRng) -> Vec<Fault> {
    let mut faults = Vec::with_capacity(count + FAULTS.len());
    while faults.len() < count {
        let mut round = FAULTS;
        round.shuffle(random);
        faults.extend(round);
    }
    faults.truncate(count);
    faults
}

/// The connections of a cluster, dealt so that each is cut before one is cut again.
#[derive(Default)]
pub(super) struct Deck {
    waiting: Vec<(String, String)>,
    pub(super) cut: BTreeSet<(String, String)>,
}

impl Deck {
    fn deal(&mut self, connections: &Connections, random: &mut StdRng) -> (String, String) {
        if self.waiting.is_empty() {
            self.waiting = connections.pairs();
            self.waiting.shuffle(random);
        }
        let pair = self.waiting.pop().expect("a cluster has connections");
        self.cut.insert(pair.clone());
        pair
    }
}

impl Fault {
    pub(super) async fn apply(self, cluster: &mut Cluster, deck: &mut Deck, random: &mut StdRng) {
        let away = Duration::from_millis(random.random_range(0..AWAY));
        match self {
            Self::Kill(service) => {
                let name = any(&cluster.names(service), random);
                cluster.kill(&name).await;
                tokio::time::sleep(away).await;
                cluster.restart(&name).await;
            }
            Self::Pause(service) => {
                let name = any(&cluster.names(service), random);
                cluster.pause(&name);
                tokio::time::sleep(LONGER_THAN_A_LEASE).await;
                cluster.resume(&name);
            }
            Self::RollAll => {
                for name in cluster.names("") {
                    assert_eq!(cluster.stop(&name).await, Some(0), "{name}: {}", cluster.logs());
                    cluster.restart(&name).await;
                }
            }
            Self::KillServer(server) => {
                cluster.servers().control("kill", server);
                tokio::time::sleep(away).await;
                cluster.servers().control("start", server);
            }
            Self::FlushRedis => cluster.servers().flush_redis().await,
            Self::Cut => interrupt(cluster, Network::Cut, away, deck, random).await,
            Self::Silence => interrupt(cluster, Network::Silent, away, deck, random).await,
        }
    }
}

/// Three connections at once, of any process to any other or to a server.
async fn interrupt(cluster: &Cluster, network: Network, away: Duration, deck: &mut Deck, random: &mut StdRng) {
    let connections = cluster.connections();
    let chosen = [(); 3].map(|()| deck.deal(connections, random));
    println!("  {chosen:?} for {away:?}");
    for pair in &chosen {
        connections.set(pair, network);
    }
    tokio::time::sleep(away).await;
    for pair in &chosen {
        connections.set(pair, Network::Open);
    }
}

fn any<T: Clone>(of: &[T], random: &mut StdRng) -> T {
    of[random.random_range(0..of.len())].clone()
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(service) => write!(formatter, "SIGKILL of one {service}, started again up to 3 s later"),
            Self::Pause(service) => write!(formatter, "SIGSTOP of one {service} for 4 s, then SIGCONT"),
            Self::RollAll => formatter.write_str("SIGTERM and start of every process in turn"),
            Self::KillServer("postgres") => {
                formatter.write_str("immediate stop of PostgreSQL, started again up to 3 s later")
            }
            Self::KillServer("rabbitmq") => formatter.write_str("SIGKILL of RabbitMQ, started again up to 3 s later"),
            Self::KillServer(server) => write!(formatter, "SIGKILL of {server}, started again up to 3 s later, empty"),
            Self::FlushRedis => formatter.write_str("Redis emptied"),
            Self::Cut => formatter.write_str("connections between three pairs closed, and kept so for up to 3 s"),
            Self::Silence => formatter.write_str("connections between three pairs silent for up to 3 s"),
        }
    }
}
