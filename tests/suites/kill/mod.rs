//! SIGKILL at random moments while executions of every kind run: nothing that was accepted is lost, nothing happens twice.
//!
//! `TROUPE_KILLS` says how often (100 unless set); the seed of the moments is printed and `TROUPE_KILL_SEED` repeats it (the
//! machine's own timing of course does not repeat).

pub(crate) mod driver;
mod kinds;
pub(crate) mod mail;

use std::{collections::HashMap, time::Duration};

use futures::{StreamExt as _, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use testkit::{Api, Server, eventually};

use self::{
    driver::{Accepted, Driver},
    kinds::{KINDS, Kind},
    mail::{Dealt, Fate, Mailbox},
};

pub(crate) fn from_environment(name: &str, default: impl FnOnce() -> u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or_else(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_or_done_twice_when_the_process_is_killed() {
    let kills = from_environment("TROUPE_KILLS", || 100);
    let seed = from_environment("TROUPE_KILL_SEED", rand::random);
    println!("{kills} kills, TROUPE_KILL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let mut server = Server::start().await;
    let mailbox = prepare(&server.api()).await;
    let driver = Driver::start(vec![server.url()], vec![mailbox]);
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        assert!(!server.has_ended(), "it ended by itself:\n{}", server.log());
        server.kill().await;
        server.restart().await;
        driver.moved_to(server.url());
    }
    let accepted = driver.stop().await;
    println!("{} executions and {} messages were accepted", accepted.executions.len(), accepted.messages.len());
    assert!(accepted.executions.len() as u64 >= kills, "the driver must have been at work");

    check_all(&server.api(), &accepted).await;
    check_nothing_left(&server.api(), &server.url()).await;
    mail::check_none_waits(&server.api()).await;
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_eq!(server.stop().await, Some(0), "{}", server.log());

    server.restart().await;
    check_nothing_left(&server.api(), &server.url()).await;
}

/// Workflows and voters; answers with the mailbox of an agent that acknowledges everything.
pub(crate) async fn prepare(api: &Api) -> Mailbox {
    for kind in KINDS {
        api.define(&kind.definition()).await;
    }
    for (name, choice) in [("ada", "go"), ("ben", "stay"), ("cyd", "go")] {
        let config = json!({ "otherwise": { "choose": choice, "because": "always" } });
        let agent = json!({ "agent_type": "decision", "name": name, "capabilities": ["kill.vote"], "config": config });
        api.post("/api/v1/agents", &agent).await.expect(201);
    }
    let mailbox = json!({ "agent_type": "echo", "name": "mailbox", "config": {}, "capabilities": [] });
    let agent = api.post("/api/v1/agents", &mailbox).await.expect(201);
    Mailbox { agent: agent["id"].as_str().expect("an agent has an id").to_owned(), fates: &[Fate::Ack] }
}

/// Answers with what became of the messages.
pub(crate) async fn check_all(api: &Api, accepted: &Accepted) -> Dealt {
    /// Looked at together.
    const AT_ONCE: usize = 8;
    stream::iter(&accepted.executions)
        .for_each_concurrent(AT_ONCE, |(id, &(kind, number))| check_execution(api, id, &KINDS[kind], number))
        .await;
    mail::check_messages(api, &accepted.messages).await
}

async fn check_execution(api: &Api, id: &str, kind: &Kind, number: u64) {
    let execution = api.ended(id).await;
    assert_eq!(execution["status"], kind.status, "{}: {execution:#}", kind.name);
    assert_eq!(execution["output"], (kind.output)(number), "{}: {execution:#}", kind.name);
    check_log(kind, &api.events(id).await);
    let verified = api.get(&format!("/api/v1/executions/{id}/verify")).await.expect(200);
    assert_eq!(verified["faults"], json!([]), "{}: {verified:#}", kind.name);
}

/// Each result was used once, and each thing that must happen did.
fn check_log(kind: &Kind, events: &[Value]) {
    let mut counts = HashMap::<&str, usize>::new();
    let mut ended = HashMap::<String, usize>::new();
    // Of what was continued, earlier runs may be gone.
    let mut may_have_gap = events.iter().any(|event| event["type"] == "continued");
    let mut expected = 1;
    for event in events {
        let sequence = event["sequence"].as_u64().expect("an event has a number");
        let is_gap = sequence > expected && expected > 1 && std::mem::take(&mut may_have_gap);
        assert!(sequence == expected || is_gap, "the log of {} has no gaps: {events:#?}", kind.name);
        expected = sequence + 1;
        let name = event["type"].as_str().expect("an event has a type");
        *counts.entry(name).or_default() += 1;
        if matches!(name, "step_completed" | "step_failed" | "ballot_cast" | "step_compensated") {
            let data = &event["data"];
            let (frame, step, index, voter) = (&data["frame"], &data["step"], &data["index"], &data["voter"]);
            *ended.entry(format!("{name} {frame} {step} {index} {voter}")).or_default() += 1;
        }
    }
    for &(name, expected) in kind.events {
        assert_eq!(counts.get(name), Some(&expected), "{name} in the log of {}: {events:#?}", kind.name);
    }
    for (what, times) in ended {
        assert_eq!(times, 1, "{what} in the log of {}: {events:#?}", kind.name);
    }
}

/// Every execution is terminal, no message waits, and no execution owes a wake-up that nobody will give.
pub(crate) async fn check_nothing_left(api: &Api, url: &str) {
    // A child that nobody wants any more finds that out by itself where nobody could tell it.
    for status in ["queued", "running", "paused", "compensating"] {
        eventually(status, || async {
            let left = api.all(&format!("/api/v1/executions?status={status}")).await;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
        })
        .await;
    }
    let verified = testkit::troupe(url, &["verify", "--all", "--json"]).await;
    assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
    let liveness = api.get("/api/v1/liveness").await.expect(200);
    assert_eq!(liveness["repaired"], 0, "the sweeper found what nothing would have woken: {liveness:#}");
}
