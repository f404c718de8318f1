//! `troupe dev`, which has all services in one process.

use testkit::{Server, within};

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
const SETTINGS: [(&str, &str); 2] =
    [("TROUPE_ORCHESTRATOR__HISTORY_RETENTION", "0s"), ("TROUPE_ORCHESTRATOR__SWEEP_INTERVAL", "1s")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_on_sqlite_may_die_at_every_point() {
    let wanted = wanted();
    let mut server = Server::start_with(&SETTINGS).await;
    let agent = prepare(&server.api()).await;
    let absent = absent_agent(&server.api()).await;
    let driver = Driver::start(vec![server.url()], vec![agent]);
    let extras = Extras::start(server.url(), absent);
    let (mut outcomes, mut accepted) = (super::Outcomes::new(), Accepted::default());
    let rounds = 0..wanted.rounds();
    for point in wanted.on_sqlite().into_iter().flat_map(|point| rounds.clone().map(move |_| point)) {
        let mut met = load(&wanted, &driver).await;
        die(&mut server, &point, &driver, &extras).await;
        server.restart().await;
        driver.moved_to(server.url());
        extras.moved_to(server.url());
        met.extend(driver.accepted());
        if wanted.is_thorough() {
            check_all(&server.api().patient(), &met).await;
        }
        note(&mut outcomes, &point, &met);
        accepted.extend(met);
    }
    let made = extras.stop().await;
    accepted.extend(driver.stop().await);
    println!("{} executions and {} messages were accepted", accepted.executions.len(), accepted.messages.len());
    check_all(&server.api(), &accepted).await;
    made.check(&server.api()).await;
    check_nothing_left(&server.api(), &server.url()).await;
    assert!(!server.log().contains("panicked"), "{}", server.log());
    report("sqlite", &outcomes);
}

/// Under load, at the point.
async fn die(server: &mut Server, point: &Point, driver: &Driver, extras: &Extras) {
    let times = passing(point);
    println!("{}, passing {times}", point.name);
    server.kill().await;
    if server.restart_with(&[("TROUPE_CRASH_POINT", &order(point, times))]).await {
        driver.moved_to(server.url());
        extras.moved_to(server.url());
        if point.how == How::Stop {
            server.terminate();
        }
        let has_ended = || std::future::ready(if server.has_ended() { Ok(()) } else { Err("it lives") });
        within(PATIENCE, point.name, has_ended).await;
    }
    assert_died_there(&server.log(), point);
}
