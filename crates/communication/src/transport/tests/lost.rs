//! What a broker loses, and what it says twice or late.

use testkit::{Network, Proxy};

use super::*;
use crate::store::gated::Gated;

/// A way to the broker that can be cut.
async fn fragile(host: &str) -> (Proxy, String) {
    let (_, server) = host.rsplit_once('@').unwrap();
    let (address, _) = server.split_once('/').unwrap();
    let proxy = Proxy::to(address.parse().unwrap()).await;
    let fragile = host.replace(address, &proxy.address().to_string());
    (proxy, fragile)
}

async fn delete(host: &str, agent: AgentId) {
    let queue = format!("mailbox.default.{agent}").into();
    channel(host).await.queue_delete(queue, lapin::options::QueueDeleteOptions::default()).await.unwrap();
}

/// Sends messages that are in their mailbox, as is recorded.
async fn queued(replica: &Replica, texts: &[&str]) -> Vec<i64> {
    let envelopes = replica.record(texts, None).await;
    let before = replica.told.queued.lock().unwrap().len();
    let sent = replica.publish(envelopes.clone());
    replica.until_queued(before + sent.len()).await;
    for envelope in envelopes {
        replica.write(&Delivery { envelope, count: 0 }, Status::Queued).await;
    }
    sent
}

async fn come(replica: &Replica, sent: &[i64]) {
    let mut left: std::collections::BTreeSet<_> = sent.iter().copied().collect();
    while !left.is_empty() {
        let delivery = replica.take().await;
        replica.finish(&delivery).await;
        left.remove(&delivery.envelope.sequence);
    }
}

#[tokio::test]
async fn what_is_in_a_mailbox_that_somebody_deletes_comes_to_whoever_takes_from_it() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    // The others are with the broker.
    let replica = Replica::with(&host, store, |settings| settings.prefetch = 1).0;
    let sent = queued(&replica, &["1", "2", "3"]).await;
    replica.transport.open(&mailbox());
    let first = replica.take().await;
    delete(&host, AGENT).await;
    replica.finish(&first).await;
    come(&replica, &sent[1..]).await;
}

#[tokio::test]
async fn what_is_in_a_mailbox_that_somebody_deletes_while_nobody_takes_from_it_comes_to_whoever_does() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let replica = Replica::rabbitmq(&host, store);
    let sent = queued(&replica, &["1", "2"]).await;
    delete(&host, AGENT).await;
    replica.transport.open(&mailbox());
    come(&replica, &sent).await;
}

#[tokio::test]
async fn what_is_in_a_mailbox_that_somebody_deletes_comes_after_what_makes_it_again() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let replica = Replica::rabbitmq(&host, store);
    let lost = queued(&replica, &["1", "2"]).await;
    delete(&host, AGENT).await;
    let sent = queued(&replica, &["3"]).await;
    replica.transport.open(&mailbox());
    come(&replica, &[lost, sent].concat()).await;
}

#[tokio::test]
async fn what_is_lost_before_it_is_recorded_to_have_arrived_is_found_when_it_is() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let (proxy, url) = fragile(&host).await;
    let gated = Arc::new(Gated::new(Arc::clone(&store)));
    let replica = Replica::with(&url, Arc::clone(&gated) as _, |settings| settings.relay_after = LATER).0;
    let late = replica.record(&["late"], None).await;
    replica.publish(late.clone());
    replica.until_queued(1).await;
    // It is this that is seen to be lost.
    let other = AgentId::from_parts(2, 2);
    let found = replica.record_as(&["found"], |message| Message { agent: other, ..message }).await;
    replica.publish(found.clone());
    replica.until_queued(2).await;
    replica.write(&Delivery { envelope: Arc::clone(&found[0]), count: 0 }, Status::Queued).await;
    proxy.set(Network::Cut);
    delete(&host, AGENT).await;
    delete(&host, other).await;
    gated.written.shut();
    proxy.set(Network::Open);
    timeout(PATIENCE, gated.written.reached()).await.expect("something is found to be lost");
    let update = MessageUpdate {
        sequence: late[0].sequence,
        created_at: late[0].message.created_at,
        status: Status::Queued,
        deliveries: 0,
        is_final: false,
        delivered_at: None,
        acked_at: None,
        letter: None,
        history: Vec::new(),
    };
    store.write(&Batch { updates: vec![update], ..Batch::default() }).await.unwrap();
    gated.written.open();
    replica.transport.open(&mailbox());
    come(&replica, &[late[0].sequence]).await;
}

/// Longer than what happens before something is found to be lost.
const LATER: Duration = Duration::from_secs(15);

#[tokio::test]
async fn what_was_replayed_is_not_taken_for_replayed_again_when_the_broker_brings_it_again() {
    let (_folder, store) = store().await;
    let (proxy, url) = fragile(&Servers::shared().virtual_host()).await;
    let replica = Replica::rabbitmq(&url, store);
    let (dead, letter) = broker::died(&replica).await;
    replica.transport.recorded(&dead.envelope, Some(&letter));
    let now = SystemClock.now();
    let mut revived = replica.store.replay(&letter.namespace, &[letter.id], now).await.unwrap();
    replica.transport.revive(Arc::new(revived.remove(0).1), now);
    let again = replica.take().await;
    assert_eq!((again.envelope.sequence, again.count), (dead.envelope.sequence, 1));
    // It has ended, and that is being recorded.
    replica.transport.settle(&again, Settlement::Done);
    proxy.set(Network::Cut);
    replica.until(|replica| (!replica.transport.has_alone(&again.envelope)).then_some(())).await;
    proxy.set(Network::Open);
    let came = replica.until(|replica| {
        let taken = replica.transport.take(&mailbox(), Wanted::Any, SystemClock.now());
        taken.map(Some).or_else(|| replica.transport.has_alone(&again.envelope).then_some(None))
    });
    assert!(came.await.is_none(), "it is the same life of it");
    replica.write(&again, Status::Acked).await;
    replica.transport.recorded(&again.envelope, None);
    assert!(replica.is_empty());
}

#[tokio::test]
async fn the_mail_of_a_deleted_agent_that_another_replica_has_dies_before_its_mailbox_is_gone() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let holder = Replica::rabbitmq(&host, Arc::clone(&store));
    queued(&holder, &["1"]).await;
    holder.transport.open(&mailbox());
    let held = holder.take().await;
    holder.write(&held, Status::Delivered).await;
    let other = Replica::rabbitmq(&host, store);
    other.transport.empty(&mailbox());
    let dead = |replica: &Replica| replica.told.dead.lock().unwrap().first().copied();
    assert_eq!(other.until(dead).await, (held.envelope.sequence, Reason::AgentDeleted));
    assert_eq!(other.told.counts.lock().unwrap()[0].1, held.count);
}
