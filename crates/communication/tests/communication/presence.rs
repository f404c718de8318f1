//! What replicas of the registry hear of sessions, and what goes on without the registry.

use std::time::Duration;

use contracts::{Links, Replica, communication::v1 as proto};
use errors::Code;
use testkit::{Servers, eventually};
use tokio::sync::watch;

use crate::{
    registry::FakeRegistry,
    world::{World, to},
};

fn replica(address: &str, registry: &FakeRegistry) -> Replica {
    Replica { address: address.into(), link: registry.link() }
}

async fn live(registry: &FakeRegistry, id: &str, is_live: bool) {
    eventually("the registry to hear of it", async || match registry.is_live(id) {
        found if found == is_live => Ok(()),
        found => Err(found),
    })
    .await;
}

#[tokio::test]
async fn every_replica_hears_of_every_session_whatever_the_others_do() {
    let first = FakeRegistry::new();
    let ada = first.add("clerk", &[]);
    let (second, silent, away, late) = (first.replica(), first.replica(), first.replica(), first.replica());
    silent.set_silent(true);
    away.set_away(true);
    let there = [("silent", &silent), ("first", &first), ("away", &away), ("second", &second)];
    let there: Vec<_> = there.into_iter().map(|(address, registry)| replica(address, registry)).collect();
    let (replicas, links) = watch::channel(there.clone().into());
    // Longer than the test waits: nothing but what is told at once, and to each on its own, is told at all.
    let world = World::beside(first.clone(), Some(Links::watched(links)), |settings| {
        settings.registry_timeout = Duration::from_hours(1);
        settings.report_interval = Duration::from_hours(1);
    })
    .await;
    let session = world.agent(&ada, 1).await;
    live(&first, &ada, true).await;
    live(&second, &ada, true).await;

    // One that comes is told of everybody, and one that goes of nobody.
    let mut there = there;
    there.retain(|replica| &*replica.address != "second");
    there.push(replica("late", &late));
    replicas.send_replace(there.into());
    live(&late, &ada, true).await;
    drop(session);
    live(&first, &ada, false).await;
    live(&late, &ada, false).await;
    assert!(second.is_live(&ada), "it was left before");
    assert!(!silent.is_live(&ada) && !away.is_live(&ada));
}

#[tokio::test]
async fn a_replica_that_is_back_is_told_of_everybody() {
    let registry = FakeRegistry::new();
    let (ada, ben) = (registry.add("clerk", &[]), registry.add("clerk", &[]));
    let other = registry.replica();
    other.set_away(true);
    let there = [replica("one", &registry), replica("other", &other)];
    let (_replicas, links) = watch::channel(there.into());
    let world = World::beside(registry.clone(), Some(Links::watched(links)), |settings| {
        settings.report_interval = Duration::from_millis(50);
    })
    .await;
    let _ada = world.agent(&ada, 1).await;
    let ben_session = world.agent(&ben, 1).await;
    live(&registry, &ben, true).await;
    other.set_away(false);
    live(&other, &ada, true).await;
    live(&other, &ben, true).await;
    other.set_away(true);
    drop(ben_session);
    live(&registry, &ben, false).await;
    assert!(other.is_live(&ben));
    other.set_away(false);
    // The end of a session is not a part of everybody: it was kept.
    live(&other, &ben, false).await;
}

#[tokio::test]
async fn known_agents_work_on_while_the_registry_is_away() {
    let world = World::with(|settings| settings.agent_cache = Duration::ZERO).await;
    let hello = |capabilities: &[&str]| proto::Hello {
        agent_type: "clerk".to_owned(),
        name: "ada".to_owned(),
        capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
        max_in_flight: 1,
        ..proto::Hello::default()
    };
    let id = world.hello(hello(&["a", "b"])).await.welcome().await.agent_id;
    world.send(to(&id, "1")).await.unwrap();
    world.registry.set_away(true);
    world.send(to(&id, "2")).await.unwrap();
    assert_eq!(world.hello(hello(&["b", "a", "b"])).await.welcome().await.agent_id, id);
    let changed = world.hello(hello(&["c"])).await.error().await;
    assert_eq!((changed.code, changed.reason), (Code::Unavailable, "registry_unavailable"));
    let stranger = domain::AgentId::from_parts(1, 1).to_string();
    assert_eq!(world.send(to(&stranger, "3")).await.unwrap_err().reason, "registry_unavailable");
}

#[tokio::test]
async fn a_replica_that_has_just_started_knows_from_redis_whom_the_others_knew() {
    let url = &Servers::shared().redis;
    let redis = settings::Redis { timeout: Duration::from_secs(2), ..settings::Redis::at(url) };
    let shared = store::Redis::open(&redis, "communication").unwrap().unwrap();
    let world = World::with(|settings| {
        settings.agent_cache = Duration::ZERO;
        settings.redis = redis;
    })
    .await;
    let (id, stranger) = (world.registry.add("clerk", &[]), world.registry.add("clerk", &[]));
    eventually("the agent to be remembered", async || {
        world.send(to(&id, "1")).await.unwrap();
        shared.get(&shared.key("agents", &format!("default/{id}"))).await.ok().flatten().ok_or("not there")
    })
    .await;
    world.registry.set_away(true);
    let world = world.restart().await;
    world.send(to(&id, "2")).await.unwrap();
    assert_eq!(world.send(to(&stranger, "3")).await.unwrap_err().reason, "registry_unavailable");
}
