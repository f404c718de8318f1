//! A cluster of two orchestrators and one of each other service, on PostgreSQL, RabbitMQ and Redis.

use serde_json::json;
use testkit::{Cluster, Setup, TWO_ORCHESTRATORS, eventually, within};

use super::{
    PATIENCE, absent_agent, assert_died_there,
    extras::Extras,
    load, note, order, passing, report,
    table::{How, Point},
    wanted,
};
use crate::kill::{
    check_all, check_nothing_left,
    driver::{Accepted, Driver},
    mail::{Fate, Mailbox},
    prepare,
};

/// What a continued execution has left goes with the next sweep.
const ORCHESTRATOR: &str = "history_retention = \"0s\"\nsweep_interval = \"1s\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_a_cluster_may_die_at_every_point() {
    let wanted = wanted();
    let mut cluster =
        Cluster::start(Setup { size: TWO_ORCHESTRATORS, orchestrator: ORCHESTRATOR, ..Setup::default() }).await;
    let mailbox = prepare(&cluster.api()).await;
    let absent = absent_agent(&cluster.api()).await;
    let driver = Driver::start(cluster.urls(), vec![mailbox.clone()]);
    let extras = Extras::start(cluster.url(), absent);
    let (mut outcomes, mut accepted) = (super::Outcomes::new(), Accepted::default());
    let rounds = 0..wanted.rounds();
    for point in wanted.on_cluster().into_iter().flat_map(|point| rounds.clone().map(move |_| point)) {
        let mut met = load(&wanted, &driver).await;
        met.extend(die(&mut cluster, &point, &mailbox).await);
        met.extend(driver.accepted());
        if wanted.is_thorough() {
            check_all(&cluster.api().patient(), &met).await;
        }
        note(&mut outcomes, &point, &met);
        accepted.extend(met);
    }
    let made = extras.stop().await;
    accepted.extend(driver.stop().await);
    println!("{} executions and {} messages were accepted", accepted.executions.len(), accepted.messages.len());
    check_all(&cluster.api().patient(), &accepted).await;
    made.check(&cluster.api().patient()).await;
    check_nothing_left(&cluster.api(), &cluster.url()).await;
    assert!(!cluster.logs().contains("panicked"), "{}", cluster.logs());
    report("postgres", &outcomes);
}

/// Under load, at the point; then it is there again. Answers with what was accepted for it besides.
async fn die(cluster: &mut Cluster, point: &Point, mailbox: &Mailbox) -> Accepted {
    let times = passing(point);
    println!("{}, passing {times}", point.name);
    let (name, other, agents) = (format!("{}-1", point.service()), "orchestrator-2", "agent-runner-1");
    let mut met = Accepted::default();
    if point.how == How::HandOver {
        // The one that is to hand over has everything, until the other is back.
        cluster.kill(other).await;
    }
    if point.how == How::Loss {
        // What is sent now waits in its mailbox.
        cluster.kill(agents).await;
        met.messages.insert(send(cluster, mailbox).await, Fate::Ack);
    }
    cluster.kill(&name).await;
    if point.how == How::Loss {
        let queue = format!("mailbox.default.{}", mailbox.agent);
        cluster.servers().rabbitmqctl(&["delete_queue", "-p", "/", &queue]);
    }
    let before = cluster.log(&name).len();
    if cluster.restart_with(&name, &[("TROUPE_CRASH_POINT", &order(point, times))]).await {
        match point.how {
            How::Load | How::Start | How::Loss | How::Migration => {}
            How::Stop => cluster.terminate(&name),
            How::HandOver => {
                has_everything(cluster, &name, before).await;
                cluster.restart(other).await;
            }
        }
        let has_ended = || std::future::ready(if cluster.has_ended(&name) { Ok(()) } else { Err("it lives") });
        within(PATIENCE, point.name, has_ended).await;
    }
    assert_died_there(&cluster.log(&name), point);
    if !cluster.is_started(other) {
        cluster.restart(other).await;
    }
    cluster.restart(&name).await;
    if !cluster.is_started(agents) {
        cluster.restart(agents).await;
    }
    met
}

/// A message to an agent, until it is recorded that RabbitMQ has it.
async fn send(cluster: &Cluster, to: &Mailbox) -> String {
    let path = format!("/api/v1/agents/{}/message", to.agent);
    let sent = cluster.api().post(&path, &json!({ "payload": Fate::Ack.payload() })).await.expect(202);
    let id = sent["message_id"].as_str().expect("a message has an id").to_owned();
    eventually("it is queued", || async {
        let message = cluster.api().get(&format!("/api/v1/messages/{id}")).await.expect(200);
        if message["status"] == "queued" { Ok(()) } else { Err(message) }
    })
    .await;
    id
}

/// Waits until an orchestrator has said that it has taken all shards, after this place of its log.
async fn has_everything(cluster: &Cluster, name: &str, after: usize) {
    let all = usize::try_from(Setup::default().shards).expect("a small number");
    let taken = || {
        let log = cluster.log(name);
        let counts =
            log[after..].lines().filter_map(|line| line.split_once("took shards over shards=")?.1.split(' ').next());
        counts.filter_map(|count| count.parse::<usize>().ok()).sum::<usize>()
    };
    let has_all = || std::future::ready(if taken() == all { Ok(()) } else { Err(taken()) });
    within(PATIENCE, "it takes all shards", has_all).await;
}
