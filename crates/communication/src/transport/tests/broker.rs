//! What only a transport with a broker behind it can do.

use std::collections::HashSet;

use testkit::{Network, Proxy};

use super::*;
use crate::store::gated::Gated;

#[tokio::test]
async fn what_a_lost_replica_held_comes_to_another_and_what_it_finished_does_not() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let lost = Replica::rabbitmq(&host, Arc::clone(&store));
    let other = Replica::rabbitmq(&host, store);
    lost.transport.open(&mailbox());
    let sent = lost.send(&["1", "2", "3"]).await;
    let finished = lost.take().await;
    // Recorded, and the broker was not told.
    lost.write(&finished, Status::Acked).await;
    let held = lost.take().await;
    lost.write(&held, Status::Delivered).await;
    other.transport.open(&mailbox());
    drop(lost);
    let mut came = Vec::new();
    for _ in 0..2 {
        let again = other.take().await;
        other.finish(&again).await;
        came.push((again.envelope.sequence, again.count));
    }
    // What a dead consumer had comes back in whatever order the broker takes it back.
    came.sort_unstable();
    assert_eq!(came, [(sent[1], 2), (sent[2], 1)], "deliveries are counted over replicas");
    assert!(other.is_empty());
}

#[tokio::test]
async fn what_comes_again_before_its_hand_over_is_recorded_is_counted_all_the_same() {
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&Servers::shared().virtual_host(), store);
    replica.transport.open(&mailbox());
    replica.send(&["1"]).await;
    for count in 1..=3 {
        let held = replica.take().await;
        assert_eq!(held.count, count);
        replica.transport.settle(&held, Settlement::Return { not_before: None });
        replica.transport.close(&mailbox());
        replica.transport.open(&mailbox());
    }
    // Its agent is deleted: the death has the count that the record will have.
    let held = replica.take().await;
    replica.transport.settle(&held, Settlement::Return { not_before: None });
    replica.transport.close(&mailbox());
    assert_eq!(replica.transport.empty(&mailbox()).len(), 0);
    let dead = |replica: &Replica| replica.told.counts.lock().unwrap().first().copied();
    assert_eq!(replica.until(dead).await, (held.envelope.sequence, 4));
}

#[tokio::test]
async fn what_is_looked_up_while_its_mailbox_closes_goes_back_to_the_broker() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let gated = Arc::new(Gated::new(Arc::clone(&store)));
    let closing = Replica::rabbitmq(&host, Arc::clone(&gated) as _);
    closing.transport.open(&mailbox());
    gated.lookups.shut();
    let sent = closing.send(&["1", "2"]).await;
    timeout(PATIENCE, gated.lookups.reached()).await.expect("something comes");
    closing.transport.close(&mailbox());
    gated.lookups.open();
    let other = Replica::rabbitmq(&host, store);
    other.transport.open(&mailbox());
    let mut came = other.drain(2).await;
    came.sort_unstable();
    assert_eq!(came, sent);
    assert!(closing.is_empty());
}

#[tokio::test]
async fn what_a_replica_accepted_before_its_end_is_relayed_by_another_once() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let other = Replica::rabbitmq(&host, Arc::clone(&store));
    let lost = Replica::rabbitmq(&host, store);
    let recorded: Vec<_> = lost.record(&["1", "2"], None).await.iter().map(|envelope| envelope.sequence).collect();
    drop(lost);
    other.transport.open(&mailbox());
    assert_eq!(other.drain(2).await, recorded);
    assert!(other.is_empty());
}

#[tokio::test]
async fn what_a_broker_has_lost_with_its_data_is_published_again() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let lost = Replica::rabbitmq(&host, Arc::clone(&store));
    let sent = lost.send(&["1", "2"]).await;
    lost.until_queued(2).await;
    let recorded = store.unfinished(0, 10).await.unwrap().rows;
    let [first, second] = [0, 1].map(|place| {
        let (Envelope { sequence, message }, ..) = &recorded[place];
        Arc::new(Envelope { sequence: *sequence, message: message.clone() })
    });
    lost.write(&Delivery { envelope: first, count: 1 }, Status::Delivered).await;
    lost.write(&Delivery { envelope: second, count: 0 }, Status::Queued).await;
    drop(lost);
    let queue = format!("mailbox.default.{AGENT}");
    channel(&host).await.queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    let other = Replica::rabbitmq(&host, store);
    other.transport.open(&mailbox());
    let first = other.take().await;
    assert_eq!((first.envelope.sequence, first.count), (sent[0], 2), "its hand-overs stay counted");
    other.finish(&first).await;
    assert_eq!(other.drain(1).await, sent[1..]);
    assert!(other.is_empty());
}

#[tokio::test]
async fn what_a_broker_has_lost_is_published_again_though_several_replicas_consume_the_mailbox() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let (_, server) = host.rsplit_once('@').unwrap();
    let (address, _) = server.split_once('/').unwrap();
    let proxy = Proxy::to(address.parse().unwrap()).await;
    let fragile = host.replace(address, &proxy.address().to_string());
    // Of a quorum queue that has one active consumer RabbitMQ counts no other.
    let classic = |settings: &mut RabbitMqSettings| settings.queues.mailboxes = QueueType::Classic;
    let replicas = [&host, &host, &fragile].map(|host| Replica::with(host, Arc::clone(&store), classic).0);
    for replica in &replicas {
        replica.transport.open(&mailbox());
    }
    let until_consumed = async |count| {
        let all = async {
            loop {
                let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
                let queue = format!("mailbox.default.{AGENT}").into();
                // A queue that is not there ends the channel.
                let found = channel(&host).await.queue_declare(queue, passive, FieldTable::default()).await;
                if found.is_ok_and(|queue| queue.consumer_count() == count) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, all).await.expect("that many consume it");
    };
    until_consumed(3).await;
    let mut lost = Vec::new();
    for envelope in replicas[0].record(&["1", "2"], None).await {
        lost.push(envelope.sequence);
        replicas[0].write(&Delivery { envelope, count: 0 }, Status::Queued).await;
    }
    proxy.set(Network::Cut);
    until_consumed(2).await;
    proxy.set(Network::Open);
    let mut came = HashSet::new();
    while came.len() < 2 {
        let taken = replicas[2].until(|_| {
            let now = SystemClock.now();
            let taken = |replica: &Replica| replica.transport.take(&mailbox(), Wanted::Any, now);
            replicas.iter().find_map(|replica| Some((replica, taken(replica)?)))
        });
        let (replica, delivery) = taken.await;
        replica.finish(&delivery).await;
        came.insert(delivery.envelope.sequence);
    }
    assert_eq!(came, lost.into_iter().collect());
}

#[tokio::test]
async fn what_expires_in_the_broker_is_said_once_and_not_while_nothing_can_be_recorded() {
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&Servers::shared().virtual_host(), store);
    replica.told.is_full.store(true, Ordering::Relaxed);
    let long_ago = SystemClock.now() - Duration::from_mins(1);
    let first = replica.send_until(&["1"], Some(long_ago)).await[0];
    // Relayed by the same look that sees what has expired.
    let left = replica.record(&["2"], None).await[0].sequence;
    let is_relayed = |replica: &Replica| replica.told.queued.lock().unwrap().contains(&left).then_some(());
    replica.until(is_relayed).await;
    let told = |replica: &Replica| replica.told.dead.lock().unwrap().clone();
    assert_eq!(told(&replica), []);
    replica.told.is_full.store(false, Ordering::Relaxed);
    replica.until(|replica| (!told(replica).is_empty()).then_some(())).await;
    let second = replica.send_until(&["3"], Some(long_ago)).await[0];
    replica.until(|replica| told(replica).iter().any(|(sequence, _)| *sequence == second).then_some(())).await;
    assert_eq!(told(&replica), [(first, Reason::Expired), (second, Reason::Expired)]);
}

#[tokio::test]
async fn what_expires_in_the_hands_of_somebody_who_is_gone_is_said_and_what_is_held_is_not() {
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&Servers::shared().virtual_host(), store);
    let long_ago = SystemClock.now() - Duration::from_mins(2);
    replica.transport.open(&mailbox());
    let held = replica.send_until(&["held"], Some(SystemClock.now() + Duration::from_secs(5))).await[0];
    let taken = replica.take().await;
    let lost = replica.record(&["lost"], Some(long_ago)).await.remove(0);
    for envelope in [&taken.envelope, &lost] {
        let update = MessageUpdate {
            sequence: envelope.sequence,
            created_at: envelope.message.created_at,
            status: Status::Delivered,
            deliveries: 1,
            is_final: false,
            delivered_at: Some(long_ago),
            acked_at: None,
            letter: None,
            history: Vec::new(),
        };
        replica.store.write(&Batch { updates: vec![update], ..Batch::default() }).await.unwrap();
    }
    replica.until(|replica| replica.told.dead.lock().unwrap().first().copied()).await;
    let said = async {
        loop {
            let now = SystemClock.now();
            let quiet = replica.store.unheard(now + Duration::from_mins(1), now - Duration::from_mins(1), 9).await;
            if quiet.unwrap().iter().all(|(envelope, _)| envelope.sequence != held) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, said).await.expect("whoever holds it says so");
    assert_eq!(*replica.told.dead.lock().unwrap(), [(lost.sequence, Reason::Expired)]);
}

/// Of a message that its agent has rejected.
fn letter(delivery: &Delivery) -> DeadLetter {
    let message = &delivery.envelope.message;
    DeadLetter {
        id: DeadLetterId::generate(&SystemClock),
        namespace: message.namespace.clone(),
        kind: Kind::Message,
        subject_id: message.id.to_string(),
        target: message.agent.to_string(),
        reason: Reason::Rejected.as_str().to_owned(),
        detail: "no thanks".to_owned(),
        deliveries: 1,
        payload: message.payload.clone(),
        created_at: SystemClock.now(),
        replayed_at: None,
        task: None,
    }
}

#[tokio::test]
async fn a_mailbox_whose_queue_is_somebody_elses_holds_nobody_up() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let replica = Replica::rabbitmq(&host, store);
    let other = AgentId::from_parts(2, 2);
    let channel = channel(&host).await;
    let exclusive = lapin::options::QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = format!("mailbox.default.{other}");
    channel.queue_declare(queue.as_str().into(), exclusive, FieldTable::default()).await.unwrap();
    // Somebody here would take from it.
    replica.transport.open(&Mailbox::of_agent(Namespace::default(), other));
    let foreign = replica.record(&["1"], None).await.remove(0);
    let foreign = Envelope { sequence: i64::MAX, message: Message { agent: other, ..foreign.message.clone() } };
    replica.transport.publish(Arc::new(foreign));
    let sent = replica.send(&["2", "3"]).await;
    replica.transport.open(&mailbox());
    let came = replica.drain(3).await;
    assert_eq!(
        came.iter().filter(|sequence| sent.contains(sequence)).collect::<Vec<_>>(),
        sent.iter().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_message_that_is_too_large_for_the_broker_holds_nobody_up() {
    let servers = Servers::private(&["rabbitmq"]);
    servers.rabbitmqctl(&["eval", "application:set_env(rabbit, max_message_size, 100)."]);
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&servers.virtual_host(), store);
    let sent = replica.send(&["1", &"x".repeat(200), "2"]).await;
    replica.transport.open(&mailbox());
    let mut came = replica.drain(2).await;
    came.sort_unstable();
    assert_eq!(came, [sent[0], sent[2]]);
    servers.rabbitmqctl(&["eval", "application:set_env(rabbit, max_message_size, 1000)."]);
    assert_eq!(replica.drain(1).await, sent[1..2], "it is tried again, later");
}

/// A message that has died.
pub(super) async fn died(replica: &Replica) -> (Delivery, DeadLetter) {
    replica.transport.open(&mailbox());
    replica.send(&["dead"]).await;
    let dead = replica.take().await;
    replica.transport.settle(&dead, Settlement::Done);
    replica.write(&dead, Status::Dead).await;
    let letter = letter(&dead);
    replica.store.write(&Batch { letters: vec![letter.clone()], ..Batch::default() }).await.unwrap();
    (dead, letter)
}

#[tokio::test]
async fn a_message_that_was_replayed_is_relayed_where_whoever_did_it_has_ended_before_it_was_published() {
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&Servers::shared().virtual_host(), store);
    let (dead, letter) = died(&replica).await;
    // By somebody else, and before it is heard here that the death is recorded.
    replica.store.replay(&letter.namespace, &[letter.id], SystemClock.now()).await.unwrap();
    let again = replica.take().await;
    assert_eq!((again.envelope.sequence, again.count), (dead.envelope.sequence, 1));
    replica.transport.recorded(&dead.envelope, Some(&letter));
    replica.finish(&again).await;
    assert!(replica.is_empty());
}

#[tokio::test]
async fn a_message_that_was_replayed_into_a_full_mailbox_comes_when_there_is_room() {
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&Servers::shared().virtual_host(), store);
    let (dead, letter) = died(&replica).await;
    replica.transport.recorded(&dead.envelope, None);
    replica.transport.close(&mailbox());
    let full = replica.send(&[""; LIMITS.messages]).await;
    replica.until_queued(1 + LIMITS.messages).await;
    for (envelope, ..) in replica.store.unfinished(0, LIMITS.messages).await.unwrap().rows {
        replica.write(&Delivery { envelope: Arc::new(envelope), count: 0 }, Status::Queued).await;
    }
    let now = SystemClock.now();
    for (_, envelope) in replica.store.replay(&letter.namespace, &[letter.id], now).await.unwrap() {
        replica.transport.revive(Arc::new(envelope), now);
    }
    let is_refused = |replica: &Replica| match replica.transport.reserve(&mailbox(), 0) {
        Ok(()) => {
            replica.transport.release(&mailbox(), 0);
            None
        }
        Err(Full) => Some(()),
    };
    replica.until(is_refused).await;
    replica.transport.open(&mailbox());
    let mut came = replica.drain(LIMITS.messages + 1).await;
    came.sort_unstable();
    assert_eq!(came, [vec![dead.envelope.sequence], full].concat());
}

#[tokio::test]
async fn a_message_dies_into_the_queue_of_dead_letters_with_its_reason_and_can_live_again() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let replica = Replica::rabbitmq(&host, store);
    replica.transport.open(&mailbox());
    replica.send(&["\"text\""]).await;
    let delivery = replica.take().await;
    let letter = letter(&delivery);
    replica.transport.settle(&delivery, Settlement::Done);
    replica.write(&delivery, Status::Dead).await;
    let written = Batch { letters: vec![letter.clone()], ..Batch::default() };
    replica.store.write(&written).await.unwrap();
    replica.transport.recorded(&delivery.envelope, Some(&letter));

    let copy = from_queue(&channel(&host).await, "dlq.message").await;
    let reason =
        copy.properties.headers().as_ref().and_then(|headers: &FieldTable| headers.inner().get("troupe-reason"));
    assert_eq!(reason, Some(&AMQPValue::LongString("rejected".into())));
    assert_eq!(copy.data, b"\"text\"");

    let now = SystemClock.now();
    let mut revived = replica.store.replay(&letter.namespace, &[letter.id], now).await.unwrap();
    replica.transport.revive(Arc::new(revived.remove(0).1), now);
    assert_eq!(replica.drain(1).await, [delivery.envelope.sequence]);
}

/// Kills a broker that has written down which queues there are. It may have made one the moment before, and not know of it
/// later; what is found to be lost with it is published again, behind what came since.
fn kill(servers: &Servers) {
    servers.rabbitmqctl(&["eval", "ok = mnesia:sync_log(), [ok = dets:sync(Table) || Table <- dets:all()]."]);
    servers.control("kill", "rabbitmq");
}

#[tokio::test]
async fn while_the_broker_is_away_messages_are_accepted_and_they_flow_when_it_is_back() {
    let servers = Servers::private(&["rabbitmq"]);
    let (_folder, store) = store().await;
    let replica = Replica::rabbitmq(&servers.virtual_host(), store);
    replica.transport.open(&mailbox());
    let first = replica.send(&["1", "2"]).await;
    let held = replica.take().await;
    replica.write(&held, Status::Delivered).await;
    kill(&servers);
    let second = replica.send(&["3", "4"]).await;
    servers.control("start", "rabbitmq");
    // The session has its message still; the broker brings it again, and is told that it is done.
    replica.finish(&held).await;
    assert_eq!(replica.drain(3).await, [first[1], second[0], second[1]]);
    assert!(replica.is_empty());
}

/// A replica that holds the first of its messages over a restart of the broker.
async fn held_over_a_reconnect(servers: &Servers, host: &str, store: Arc<dyn Store>) -> (Replica, Delivery) {
    let replica = Replica::rabbitmq(host, store);
    replica.transport.open(&mailbox());
    let sent = replica.send(&["held", "waits"]).await;
    let held = replica.take().await;
    let waits = replica.take().await;
    replica.write(&held, Status::Delivered).await;
    replica.transport.settle(&waits, Settlement::Return { not_before: None });
    kill(servers);
    // Not by taking what waits: that would count against its limit.
    replica.until(|replica| (!replica.transport.has_alone(&held.envelope)).then_some(())).await;
    servers.control("start", "rabbitmq");
    assert_eq!(replica.drain(1).await, sent[1..], "it comes again, and what comes before it has too");
    (replica, held)
}

#[tokio::test]
async fn what_a_session_holds_over_a_reconnect_comes_again_when_it_gives_it_back() {
    let servers = Servers::private(&["rabbitmq"]);
    let (_folder, store) = store().await;
    let (replica, held) = held_over_a_reconnect(&servers, &servers.virtual_host(), store).await;
    replica.transport.settle(&held, Settlement::Return { not_before: None });
    let again = replica.take().await;
    assert_eq!((again.envelope.sequence, again.count), (held.envelope.sequence, 2));
    replica.finish(&again).await;
    assert!(replica.is_empty());
}

#[tokio::test]
async fn what_may_have_died_comes_again_where_the_broker_has_brought_it_meanwhile() {
    let servers = Servers::private(&["rabbitmq"]);
    let (_folder, store) = store().await;
    let (replica, held) = held_over_a_reconnect(&servers, &servers.virtual_host(), store).await;
    assert!(replica.transport.has_alone(&held.envelope), "it came again, and stands behind the same");
    replica.transport.settle(&held, Settlement::Done);
    replica.transport.doubted(&held.envelope);
    assert!(!replica.transport.has_alone(&held.envelope));
    let again = replica.take().await;
    assert_eq!((again.envelope.sequence, again.count), (held.envelope.sequence, 2));
    replica.finish(&again).await;
    assert!(replica.is_empty());
}

#[tokio::test]
async fn what_a_session_holds_over_a_reconnect_comes_to_another_replica_when_the_session_ends() {
    let servers = Servers::private(&["rabbitmq"]);
    let (_folder, store) = store().await;
    let host = servers.virtual_host();
    let (replica, held) = held_over_a_reconnect(&servers, &host, Arc::clone(&store)).await;
    replica.transport.settle(&held, Settlement::Return { not_before: None });
    replica.transport.close(&mailbox());
    let other = Replica::rabbitmq(&host, store);
    other.transport.open(&mailbox());
    let again = other.take().await;
    assert_eq!((again.envelope.sequence, again.count), (held.envelope.sequence, 2));
    other.finish(&again).await;
    assert!(other.is_empty());
}

#[tokio::test]
async fn what_is_delayed_lets_others_pass_however_much_it_is() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let replica = Replica::with(&host, store, |settings| settings.prefetch = 2).0;
    replica.transport.open(&mailbox());
    let sent = replica.send(&["1", "2", "3", "4", "5"]).await;
    let due = Instant::now() + Duration::from_hours(1);
    for sequence in &sent[..4] {
        let delivery = replica.take().await;
        assert_eq!(delivery.envelope.sequence, *sequence);
        replica.transport.settle(&delivery, Settlement::Return { not_before: Some(due) });
    }
    assert_eq!(replica.drain(1).await, sent[4..]);
    // What is delayed stays with whoever has it.
    assert_eq!(replica.transport.empty(&mailbox()).len(), 4);
}

#[tokio::test]
async fn what_others_hold_is_not_published_round_after_round() {
    let (_folder, store) = store().await;
    let host = Servers::shared().virtual_host();
    let holder = Replica::rabbitmq(&host, Arc::clone(&store));
    holder.transport.open(&mailbox());
    holder.send(&["held"]).await;
    let held = holder.take().await;
    holder.write(&held, Status::Delivered).await;
    let other = Replica::rabbitmq(&host, Arc::clone(&store));
    other.transport.open(&mailbox());
    // It is looked twice, since what has arrived may be recorded late.
    let again = async |count| {
        other.until(|replica| (replica.told.queued.lock().unwrap().len() >= count).then_some(())).await;
        other.write(&held, Status::Queued).await;
    };
    again(1).await;
    again(2).await;
    // Several rounds.
    let third = timeout(LINGERING * 4, again(3)).await;
    assert!(third.is_err(), "it goes on for ever");
    holder.finish(&held).await;
}
