//! Tells every replica of the registry who is there: everybody at an interval, and at once whoever has come or gone.
//!
//! Each replica has an index of its own, so each is told, on its own: one that is down keeps nobody else waiting, and when it
//! is back, or is new, it is told of everybody. While one report is on its way, what happens meanwhile becomes the next: a
//! storm of sessions makes few calls.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contracts::{Links, Replica};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};

use crate::{
    app::{Directory, Hub, Report},
    error::CommunicationError,
    peers::RegistryClient,
};

/// Reports of one call.
const CHUNK: usize = 5_000;
/// Reports that wait for one replica; beyond, it learns of an end when the session's lease passes.
const MOST_OWED: usize = 10_000;

/// Who reports, and to whom.
pub(super) struct Presence {
    pub(super) hub: Arc<Hub>,
    pub(super) directory: Arc<Directory>,
    pub(super) registries: Links,
    /// Of one call.
    pub(super) timeout: Duration,
    /// Between two reports of everybody.
    pub(super) every: Duration,
}

/// Those who tell the replicas; each ends when its replica is gone, or all is told.
type Telling = FuturesUnordered<BoxFuture<'static, ()>>;

pub(super) async fn run(mut presence: Presence, mut over: watch::Receiver<bool>) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(presence.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut replicas: HashMap<_, Arc<Owed>> = HashMap::new();
    let mut telling = Telling::new();
    presence.meet(&mut replicas, &telling);
    loop {
        let hub = &presence.hub;
        // All arms are cancel-safe.
        tokio::select! {
            _ = ticks.tick() => {
                hub.tidy(std::time::Instant::now());
                for owed in replicas.values() {
                    owed.add(|owed| owed.all = true);
                }
            }
            () = hub.changed() => owe(hub, &replicas),
            () = presence.registries.changed() => presence.meet(&mut replicas, &telling),
            Some(()) = telling.next() => {}
            _ = over.wait_for(|over| *over) => break,
        }
    }
    owe(&presence.hub, &replicas);
    for owed in replicas.values() {
        owed.add(|owed| owed.is_last = true);
    }
    while telling.next().await.is_some() {}
    Ok(())
}

/// What has just happened is owed to every replica.
fn owe(hub: &Hub, replicas: &HashMap<Arc<str>, Arc<Owed>>) {
    let reports = hub.take_unreported();
    for owed in replicas.values() {
        owed.add(|owed| owed.push(reports.iter().cloned()));
    }
}

impl Presence {
    /// Begins to tell those that are new, and leaves those that are gone.
    fn meet(&mut self, replicas: &mut HashMap<Arc<str>, Arc<Owed>>, telling: &Telling) {
        let now = self.registries.now();
        replicas.retain(|address, owed| {
            let is_there = now.iter().any(|replica| replica.address == *address);
            if !is_there {
                owed.add(|owed| *owed = News { is_last: true, ..News::default() });
            }
            is_there
        });
        for Replica { address, link } in now.iter() {
            if replicas.contains_key(address) {
                continue;
            }
            let owed = Arc::<Owed>::default();
            owed.add(|owed| owed.all = true);
            replicas.insert(Arc::clone(address), Arc::clone(&owed));
            let registry = RegistryClient::new(link.clone(), self.timeout);
            let (hub, directory) = (Arc::clone(&self.hub), Arc::clone(&self.directory));
            telling.push(Box::pin(tell(registry, owed, hub, directory, Arc::clone(address))));
        }
    }
}

/// What one replica has yet to hear.
#[derive(Default)]
struct Owed {
    news: Mutex<News>,
    more: Notify,
}

#[derive(Default)]
struct News {
    /// Of all sessions, as they are when it is told.
    all: bool,
    /// In the order in which it happened.
    reports: Vec<Report>,
    /// Nothing comes after it.
    is_last: bool,
}

impl News {
    fn push(&mut self, reports: impl Iterator<Item = Report>) {
        let room = MOST_OWED.saturating_sub(self.reports.len());
        self.reports.extend(reports.take(room));
    }
}

impl Owed {
    fn add(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news());
        self.more.notify_one();
    }

    fn take(&self) -> News {
        std::mem::take(&mut *self.news())
    }

    /// Keeps the ends of sessions for the next report: this one has failed. Those that go on are told of again anyway.
    fn again(&self, reports: &[Report]) {
        let mut news = self.news();
        let later = std::mem::take(&mut news.reports);
        news.push(reports.iter().filter(|report| report.closed).cloned());
        news.push(later.into_iter());
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells one replica.
async fn tell(registry: RegistryClient, owed: Arc<Owed>, hub: Arc<Hub>, directory: Arc<Directory>, address: Arc<str>) {
    let mut is_reached = true;
    loop {
        owed.more.notified().await;
        let News { all, mut reports, is_last } = owed.take();
        if all {
            // After what has happened: whoever has gone is not among them any more.
            reports.extend(hub.broker().reports());
        }
        let mut rest = &*reports;
        let mut told = Ok(());
        while let (Ok(()), false) = (&told, rest.is_empty()) {
            let (chunk, later) = rest.split_at(rest.len().min(CHUNK));
            match registry.heartbeat(chunk).await {
                Ok(unknown) => {
                    expel(&hub, &directory, chunk, &unknown.into_iter().collect()).await;
                    rest = later;
                }
                Err(error) => told = Err(error),
            }
        }
        match told {
            Ok(()) if !is_reached => tracing::info!(registry = &*address, "sessions are reported again"),
            // Sessions go on without the registry, and are reported again.
            Err(error) if is_reached => {
                let (error, reports) = (errors::chain(&error), rest.len());
                tracing::warn!(error, registry = &*address, reports, "cannot report sessions");
            }
            Ok(()) | Err(_) => {}
        }
        is_reached = rest.is_empty();
        owed.again(rest);
        if is_last {
            return;
        }
    }
}

/// Ends the sessions of agents that the registry does not know; it has looked in its database, so no replica does.
async fn expel(hub: &Hub, directory: &Directory, told: &[Report], unknown: &HashSet<domain::AgentId>) {
    for report in told.iter().filter(|report| unknown.contains(&report.mailbox.agent)) {
        directory.forget(&report.mailbox).await;
    }
    let mut broker = hub.broker();
    for agent in unknown {
        broker.expel(*agent, &CommunicationError::AgentNotFound(agent.to_string()).into());
    }
}
