//! A cluster of two orchestrators and one of each other service, on PostgreSQL, RabbitMQ and Redis.

use testkit::{Cluster, Setup, TWO_ORCHESTRATORS, within};

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
    prepare,
};

/// What a continued execution has left goes with the next sweep.
const ORCHESTRATOR: &str = "history_retention = \"0s\"\nsweep_interval = \"1s\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_a_cluster_may_die_at_every_point() {
    let wanted = wanted();
    let mut cluster =
        Cluster::start(Setup { size: TWO_ORCHESTRATORS, orchestrator: ORCHESTRATOR, ..Setup::default() }).await;
    let agent = prepare(&cluster.api()).await;
    let absent = absent_agent(&cluster.api()).await;
    let driver = Driver::start(cluster.urls(), vec![agent]);
    let extras = Extras::start(cluster.url(), absent);
    let (mut outcomes, mut accepted) = (super::Outcomes::new(), Accepted::default());
    let rounds = 0..wanted.rounds();
    for point in wanted.on_cluster().into_iter().flat_map(|point| rounds.clone().map(move |_| point)) {
        let mut met = load(&wanted, &driver).await;
        die(&mut cluster, &point).await;
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

/// Under load, at the point; then it is there again.
async fn die(cluster: &mut Cluster, point: &Point) {
    let times = passing(point);
    println!("{}, passing {times}", point.name);
    let (name, other) = (format!("{}-1", point.service()), "orchestrator-2");
    if point.how == How::HandOver {
        // The one that is to hand over has everything, until the other is back.
        cluster.kill(other).await;
    }
    cluster.kill(&name).await;
    let before = cluster.log(&name).len();
    if cluster.restart_with(&name, &[("TROUPE_CRASH_POINT", &order(point, times))]).await {
        match point.how {
            How::Load | How::Start | How::Migration => {}
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
