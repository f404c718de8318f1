//! Two replicas on one database and one RabbitMQ: what one cannot do the other does, and nothing depends on which is asked.

use contracts::communication::v1::{
    self as proto, MessageStatus, agent_event::Event, server_event, task_update::Update,
};
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use testkit::{Network, Servers};

use crate::world::{Orchestrator, Shared, World, of_type, to, until};

async fn two() -> (Shared, World, World) {
    let shared = Shared::new(Servers::shared()).await;
    let (one, other) = (shared.replica().await, shared.replica().await);
    (shared, one, other)
}

/// A task goes to where nobody takes it, and is with the message broker when this returns.
async fn enqueue(orchestrator: &mut Orchestrator, id: &str) {
    orchestrator.dispatch(id, of_type("scorer")).await;
    orchestrator.until(|task, update| task == id && matches!(update, Update::Enqueued(_))).await;
}

#[tokio::test]
async fn a_task_given_to_the_replica_without_sessions_is_done_on_the_other() {
    let (shared, one, other) = two().await;
    let mut here = one.orchestrator("rep_1").await;
    let mut there = other.orchestrator("rep_1").await;
    let mut agent = other.agent(&shared.agent("scorer"), 1).await;
    assert_eq!(there.served("scorer").await, 1);
    enqueue(&mut here, "e/a/1").await;
    assert_eq!(agent.task().await, ("e/a/1".to_owned(), 1));
    there.until(|id, update| id == "e/a/1" && matches!(update, Update::HandedOver(_))).await;
    agent.finish("e/a/1", "7").await;
    there.until(|id, update| id == "e/a/1" && matches!(update, Update::Result(_))).await;
    for orchestrator in [&here, &there] {
        orchestrator.acknowledge("e/a/1").await;
    }
    assert!(matches!(agent.hear().await, server_event::Event::ResultAck(ack) if ack.task_id == "e/a/1"));
    for orchestrator in [&mut here, &mut there] {
        orchestrator.locate("e/a/1").await;
        orchestrator.until(|id, update| id == "e/a/1" && matches!(update, Update::Unknown(_))).await;
    }
}

#[tokio::test]
async fn a_backlog_is_shared_when_an_agent_joins_elsewhere() {
    let (shared, one, other) = two().await;
    let here = one.orchestrator("rep_1").await;
    let mut busy = one.agent(&shared.agent("scorer"), 1).await;
    for task in 0..4 {
        here.dispatch(&format!("e/{task}/1"), of_type("scorer")).await;
    }
    let mut done = vec![busy.task().await.0];
    let mut idle = other.agent(&shared.agent("scorer"), 3).await;
    for _ in 0..3 {
        done.push(idle.task().await.0);
    }
    done.sort();
    assert_eq!(done, ["e/0/1", "e/1/1", "e/2/1", "e/3/1"]);
}

#[tokio::test]
async fn what_is_left_with_the_broker_is_done_before_what_came_later_however_busy_its_agents_are() {
    let (shared, one, other) = two().await;
    let mut here = one.orchestrator("rep_1").await;
    let mut there = other.orchestrator("rep_1").await;
    let mut agent = one.agent(&shared.agent("scorer"), 1).await;
    here.dispatch("e/held/1", of_type("scorer")).await;
    assert_eq!(agent.task().await.0, "e/held/1");
    // The first is fetched, as there is an agent for one; the early one is left.
    for id in ["e/first/1", "e/early/1"] {
        enqueue(&mut there, id).await;
    }
    until_here(&mut here, "e/first/1").await;
    for id in ["e/late/1", "e/later/1"] {
        here.dispatch(id, of_type("scorer")).await;
    }
    for (done, next) in [("e/held/1", "e/first/1"), ("e/first/1", "e/late/1"), ("e/late/1", "e/early/1")] {
        if done == "e/late/1" {
            until_here(&mut here, "e/early/1").await;
        }
        agent.finish(done, "1").await;
        here.until(|id, update| id == done && matches!(update, Update::Result(_))).await;
        here.acknowledge(done).await;
        let given = loop {
            match agent.hear().await {
                server_event::Event::Task(delivery) => break delivery.task.unwrap().id,
                server_event::Event::ResultAck(_) => {}
                other => panic!("not expected: {other:?}"),
            }
        };
        assert_eq!(given, next);
    }
}

/// It has come from the broker, to the replica that this orchestrator speaks to.
async fn until_here(orchestrator: &mut Orchestrator, task: &str) {
    loop {
        orchestrator.locate(task).await;
        loop {
            match orchestrator.hear().await {
                (id, Update::Enqueued(_)) if id == task => return,
                (id, Update::Unknown(_)) if id == task => break,
                _ => {}
            }
        }
    }
}

/// Tasks that wait with the broker.
async fn waiting(channel: &lapin::Channel) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = "tasks.default.type.scorer".into();
    channel.queue_declare(queue, passive, FieldTable::default()).await.unwrap().message_count()
}

#[tokio::test]
async fn a_replica_that_dies_gives_its_tasks_to_the_other_with_their_count() {
    let (shared, one, other) = two().await;
    let mut here = one.orchestrator("rep_1").await;
    let mut lost = other.agent(&shared.agent("scorer"), 1).await;
    enqueue(&mut here, "e/a/1").await;
    assert_eq!(lost.task().await, ("e/a/1".to_owned(), 1));
    other.kill().await;
    let mut next = one.agent(&shared.agent("scorer"), 1).await;
    assert_eq!(next.task().await, ("e/a/1".to_owned(), 2));
    next.finish("e/a/1", "7").await;
    here.until(|id, update| id == "e/a/1" && matches!(update, Update::Result(_))).await;
}

#[tokio::test]
async fn a_broker_that_restarts_loses_no_task() {
    let servers = Servers::private(&["rabbitmq"]);
    let shared = Shared::new(&servers).await;
    let (one, other) = (shared.replica().await, shared.replica().await);
    let mut here = one.orchestrator("rep_1").await;
    let mut there = other.orchestrator("rep_1").await;
    let mut agent = other.agent(&shared.agent("scorer"), 1).await;
    enqueue(&mut here, "e/held/1").await;
    assert_eq!(agent.task().await.0, "e/held/1");
    enqueue(&mut here, "e/waits/1").await;
    // Not killed: RabbitMQ 3.10 forgets a quorum queue that was made less than a second before.
    servers.control("stop", "rabbitmq");
    here.dispatch("e/meanwhile/1", of_type("scorer")).await;
    agent.finish("e/held/1", "1").await;
    there.until(|id, update| id == "e/held/1" && matches!(update, Update::Result(_))).await;
    there.acknowledge("e/held/1").await;
    servers.control("start", "rabbitmq");
    // What it had done may come once more: the broker was not told. The orchestrator withdraws that.
    let mut done = Vec::new();
    while done.len() < 2 {
        match agent.hear().await {
            server_event::Event::Task(delivery) => {
                let id = delivery.task.unwrap().id;
                if id == "e/held/1" {
                    there.cancel(&id).await;
                } else {
                    agent.finish(&id, "1").await;
                    there.until(|task, update| task == id && matches!(update, Update::Result(_))).await;
                    there.acknowledge(&id).await;
                    done.push(id);
                }
            }
            server_event::Event::ResultAck(_) | server_event::Event::Cancel(_) => {}
            other => panic!("not expected: {other:?}"),
        }
    }
    done.sort();
    assert_eq!(done, ["e/meanwhile/1", "e/waits/1"]);
}

/// Whoever deletes a work queue.
async fn delete(channel: &lapin::Channel) {
    let queue = "tasks.default.type.scorer".into();
    channel.queue_delete(queue, lapin::options::QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test]
async fn what_is_lost_with_its_work_queue_is_told_to_be_unknown_and_done_when_it_is_dispatched_again() {
    let shared = Shared::new(Servers::shared()).await;
    let (proxy, one) = shared.fragile_replica().await;
    let other = shared.replica().await;
    let mut here = one.orchestrator("rep_1").await;
    let mut there = other.orchestrator("rep_1").await;
    let channel = shared.channel().await;
    // With the connections and without.
    for (id, is_cut) in [("e/a/1", false), ("e/b/1", true)] {
        enqueue(&mut here, id).await;
        if is_cut {
            proxy.set(Network::Cut);
        }
        delete(&channel).await;
        proxy.set(Network::Open);
        here.until(|task, update| task == id && matches!(update, Update::Unknown(_))).await;
        enqueue(&mut here, id).await;
        let mut agent = other.agent(&shared.agent("scorer"), 1).await;
        assert_eq!(agent.task().await.0, id);
        agent.finish(id, "1").await;
        there.until(|task, update| task == id && matches!(update, Update::Result(_))).await;
        for orchestrator in [&here, &there] {
            orchestrator.acknowledge(id).await;
        }
    }
}

#[tokio::test]
async fn what_is_lost_with_the_queue_of_a_mailbox_comes_to_its_agent() {
    let shared = Shared::new(Servers::shared()).await;
    let (proxy, one) = shared.fragile_replica().await;
    let id = shared.agent("scorer");
    let channel = shared.channel().await;
    for is_cut in [false, true] {
        let sent = one.send(to(&id, "1")).await.unwrap();
        one.until_status(&sent, MessageStatus::Queued).await;
        if is_cut {
            proxy.set(Network::Cut);
        }
        let queue = format!("mailbox.default.{id}").into();
        channel.queue_delete(queue, lapin::options::QueueDeleteOptions::default()).await.unwrap();
        proxy.set(Network::Open);
        let mut agent = one.agent(&id, 1).await;
        assert_eq!(agent.message().await.0.id, sent);
        agent.ack(&sent).await;
        one.until_status(&sent, MessageStatus::Acked).await;
    }
}

#[tokio::test]
async fn the_documented_permissions_are_enough_for_all_of_it() {
    let servers = Servers::private(&["rabbitmq"]);
    let shared = Shared::new(&servers).await;
    let documented = include_str!("../../../../docs/cluster.md").split("set_permissions").nth(1).unwrap();
    let patterns: Vec<_> = documented.split('\'').skip(1).step_by(2).take(3).collect();
    servers.rabbitmqctl(&["add_user", "narrow", "narrow"]);
    servers.rabbitmqctl(&[&["set_permissions", "-p", shared.virtual_host(), "narrow"], &patterns[..]].concat());
    let shared = shared.of_user("narrow");
    let (one, other) = (shared.replica().await, shared.replica().await);
    let (id, peer) = (shared.agent("scorer"), shared.agent("peer"));
    // Tasks that one replica has and the other takes.
    let here = one.orchestrator("rep_1").await;
    let mut busy = one.agent(&id, 1).await;
    for task in 0..3 {
        here.dispatch(&format!("e/{task}/1"), of_type("scorer")).await;
    }
    busy.task().await;
    let mut idle = other.agent(&id, 3).await;
    for _ in 0..2 {
        idle.task().await;
    }
    // A message that dies, and an answer to an instance that is gone.
    let mut receiver = other.agent(&peer, 1).await;
    let correlation_id = format!("{}.1", domain::InstanceId::from_parts(1, 1));
    let answer = proto::Message { r#type: "reply".to_owned(), correlation_id, ..to(&peer, "1") };
    let sent = one.send(answer).await.unwrap();
    assert_eq!(receiver.message().await.0.id, sent);
    receiver.reject(&sent).await;
    other.until_dead(1).await;
    until_copied(&servers, shared.virtual_host()).await;
}

/// A copy of a dead letter is in its queue.
async fn until_copied(servers: &Servers, virtual_host: &str) {
    let (server, _) = servers.amqp().rsplit_once('/').unwrap();
    let url = format!("{server}/{virtual_host}");
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let passive = || QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    until(async || {
        let queue = channel.queue_declare("dlq.message".into(), passive(), FieldTable::default()).await.unwrap();
        (queue.message_count() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_poison_task_that_ends_every_replica_dies_in_the_end_and_disturbs_nobody() {
    let shared = Shared::new(Servers::shared()).await;
    let one = shared.replica().await;
    let mut here = one.orchestrator("rep_1").await;
    enqueue(&mut here, "e/poison/1").await;
    // Ten times the limit: what is lost with its replica may have been in nobody's hands.
    for delivery in 1..=30 {
        let victim = shared.replica().await;
        let mut agent = victim.agent(&shared.agent("scorer"), 1).await;
        assert_eq!(agent.task().await, ("e/poison/1".to_owned(), delivery));
        victim.kill().await;
    }
    let mut agent = one.agent(&shared.agent("scorer"), 1).await;
    here.dispatch("e/good/1", of_type("scorer")).await;
    assert_eq!(agent.task().await.0, "e/good/1");
    here.until(|id, update| {
        id == "e/poison/1" && matches!(update, Update::DeadLettered(letter) if letter.reason == "delivery_limit")
    })
    .await;
    let letter = one.until_dead(1).await.remove(0);
    assert_eq!((letter.subject_id.as_str(), letter.deliveries), ("e/poison/1", 30));
}

#[tokio::test]
async fn a_task_that_ends_agents_on_both_replicas_is_counted_together() {
    let (shared, one, other) = two().await;
    let mut here = one.orchestrator("rep_1").await;
    let id = shared.agent("scorer");
    enqueue(&mut here, "e/poison/1").await;
    for (delivery, replica) in [&one, &other, &one].into_iter().enumerate() {
        let mut agent = replica.agent(&id, 1).await;
        assert_eq!(agent.task().await.1, u32::try_from(delivery).unwrap() + 1);
        drop(agent);
    }
    here.until(|_, update| matches!(update, Update::DeadLettered(_))).await;
}

#[tokio::test]
async fn a_task_that_only_waits_while_connections_break_is_done() {
    const BREAKS: u32 = 20;
    let shared = Shared::new(Servers::shared()).await;
    let one = shared.replica().await;
    let (proxy, other) = shared.fragile_replica().await;
    let mut here = one.orchestrator("rep_1").await;
    let mut there = other.orchestrator("rep_1").await;
    let mut agent = other.agent(&shared.agent("scorer"), 1).await;
    there.dispatch("e/own/1", of_type("scorer")).await;
    assert_eq!(agent.task().await.0, "e/own/1");
    enqueue(&mut here, "e/waits/1").await;
    let channel = shared.channel().await;
    let until_queued = async |count| until(async || (waiting(&channel).await == count).then_some(())).await;
    for _ in 0..BREAKS {
        until_queued(0).await;
        proxy.set(Network::Cut);
        until_queued(1).await;
        proxy.set(Network::Open);
    }
    agent.finish("e/own/1", "1").await;
    there.until(|id, update| id == "e/own/1" && matches!(update, Update::Result(_))).await;
    assert_eq!(agent.task().await, ("e/waits/1".to_owned(), BREAKS + 1));
    agent.finish("e/waits/1", "1").await;
    there.until(|id, update| id == "e/waits/1" && matches!(update, Update::Result(_))).await;
}

#[tokio::test]
async fn a_stop_hands_on_what_waits() {
    let (shared, one, other) = two().await;
    let here = one.orchestrator("rep_1").await;
    let mut busy = one.agent(&shared.agent("scorer"), 1).await;
    here.dispatch("e/held/1", of_type("scorer")).await;
    here.dispatch("e/waits/1", of_type("scorer")).await;
    assert_eq!(busy.task().await.0, "e/held/1");
    one.drain();
    let mut idle = other.agent(&shared.agent("scorer"), 1).await;
    assert_eq!(idle.task().await.0, "e/waits/1");
}

#[tokio::test]
async fn mail_is_sent_seen_and_replayed_on_whichever_replica() {
    let (shared, one, other) = two().await;
    let id = shared.agent("scorer");
    let sent = one.send(to(&id, "1")).await.unwrap();
    assert_eq!(other.record(&sent).await.message.unwrap().id, sent, "at once");
    let mut agent = other.agent(&id, 1).await;
    assert_eq!(agent.message().await.0.id, sent);
    agent.reject(&sent).await;
    let letter = one.until_dead(1).await.remove(0);
    assert_eq!(one.replay(&letter.id).await.unwrap(), sent);
    assert_eq!(agent.message().await.0.id, sent);
    agent.ack(&sent).await;
    one.until_status(&sent, MessageStatus::Acked).await;
}

#[tokio::test]
async fn the_second_session_of_an_agent_gets_its_mail_when_the_replica_of_the_first_dies() {
    let (shared, one, other) = two().await;
    let id = shared.agent("scorer");
    let mut first = one.agent(&id, 2).await;
    let early = one.send(to(&id, "1")).await.unwrap();
    assert_eq!(first.message().await.1, 1);
    let mut second = other.agent(&id, 2).await;
    let late = other.send(to(&id, "2")).await.unwrap();
    one.kill().await;
    for _ in 0..2 {
        let (message, _) = second.message().await;
        second.ack(&message.id).await;
    }
    for message in [&early, &late] {
        other.until_status(message, MessageStatus::Acked).await;
    }
}

#[tokio::test]
async fn the_mail_of_a_session_that_leaves_comes_to_another_at_once_but_for_an_answer_that_it_waits_for() {
    let (shared, one, other) = two().await;
    let (id, peer) = (shared.agent("scorer"), shared.agent("peer"));
    let mut leaving = one.agent(&id, 2).await;
    let held = one.send(to(&id, "1")).await.unwrap();
    assert_eq!(leaving.message().await.0.id, held);
    let question = proto::Message { r#type: "request".to_owned(), correlation_id: "c".to_owned(), ..to(&peer, "2") };
    leaving.say(Event::Send(proto::Send { r#ref: 1, message: Some(question) })).await;
    assert!(matches!(leaving.hear().await, server_event::Event::Receipt(_)));
    leaving.say(Event::Drain(proto::Drain::default())).await;
    let answer = proto::Message { r#type: "reply".to_owned(), correlation_id: "c".to_owned(), ..to(&id, "3") };
    let answer = other.send(answer).await.unwrap();
    assert_eq!(leaving.message().await.0.id, answer, "it still works on what it has");
    let mut staying = other.agent(&id, 2).await;
    let next = one.send(to(&id, "4")).await.unwrap();
    assert_eq!(staying.message().await.0.id, next, "nobody waits for its end");
    // It gives back what it had, in its order.
    leaving.nack(&held).await;
    assert_eq!(staying.message().await.0.id, held);
    staying.ack(&held).await;
    one.until_status(&held, MessageStatus::Acked).await;
}

#[tokio::test]
async fn the_mail_of_a_deleted_agent_dies_once_though_every_replica_hears_of_it() {
    let (shared, one, other) = two().await;
    let id = shared.agent("scorer");
    for text in ["1", "2", "3"] {
        one.send(to(&id, text)).await.unwrap();
    }
    let mut agent = one.agent(&id, 1).await;
    agent.message().await;
    one.registry.remove(&id);
    let letters = other.until_dead(3).await;
    assert!(letters.iter().all(|letter| letter.reason == "agent_deleted"), "{letters:?}");
}
