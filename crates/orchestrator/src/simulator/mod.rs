//! A deterministic simulator of the orchestrator: several replicas of the real thing (workers, exchange, app), each with a
//! clock of its own, over a database, a communication service and agents that are simulated, with everything going wrong that
//! can. One seed is one history, and the same again each time: everything runs in one thread, time stands still while anybody
//! has something to do, and all chance is drawn from the seed.
//!
//! What goes wrong: a replica ends before a commit, after it, or at any point of its code that waits for something; it is
//! stopped for longer than its lease, and goes on; it leaves; its clock jumps. The database is slow, fails, or does what it is
//! told and is not heard. Streams are late and break with what is under way on them; communication begins anew; tasks go
//! through the message broker, sessions are lost, agents bring results twice, and to others than they had the task from. Calls
//! between replicas break before they happen or after ([`doors`]).
//!
//! What is checked, as it happens ([`database`], [`communication`], [`clients`]) and at the end ([`history`]):
//! - I1: what a caller is shown is committed, and so is every result that is acknowledged.
//! - I2: every event is written where the log ends, once, whoever woke up late.
//! - I3: what goes out is committed; no attempt is in the log twice; nothing happens to what has ended.
//! - I4, I8: when trouble is over, whatever was accepted ends, and as it does in a world without trouble where that is certain.
//! - I5: every summary is what the log replays to, and so is what the replicas have in memory.
//! - I6: the hashes fit.
//! - I7: no sweeper has anything to repair, at any time, and at the end nobody finds anything stuck.
//! - No result is left with communication, and no task.
//! - A lock that executions share is held by no more than its limit at any time, everybody in its queue gets their turn, and when
//!   all have ended nobody has any. A child belongs to a task that went out, is there once, and ends, also where nobody wants it.
//!
//! It can fail. [`Sabotage`] breaks the simulated world in five ways, each of which a test sees found out. These were broken
//! in the real code by hand, each alone; the number is the first history that was found to be wrong:
//!
//! | broken | history | by |
//! | --- | ---: | --- |
//! | results are acknowledged before the commit | 2 | I1 |
//! | callers are answered before the commit | 0 | I1 |
//! | a result whose commit failed is acknowledged | 2 | I1 |
//! | memory is kept after a commit that failed | 2 | I1 |
//! | batches that build on a failed one are committed | 137 | I2 |
//! | a start that is tried again is taken for a new one | 21 | I2 |
//! | shards that are being given up may be taken again at once | 37 | I2 |
//! | tasks go out before the commit | 0 | I3 |
//! | a result counts whose attempt is over, in shell and engine | 1,315 | the end |
//! | shards are served without what was read of them | 8 | I1 |
//! | what is out is not looked for after a takeover | 0 | I7 |
//! | timers are not armed after a takeover | 11 | I7 |
//! | tasks of a stream that has ended are not looked for | 46 | I8 |
//! | what was not said for lack of a lease is not said later | 166 | I8 |
//! | a lock is asked for, or given back, before the commit | 68 | two have it |
//! | locks are compared with what waits for its commit | 918 | two have it |
//! | what has ended keeps its locks where its process died | 8 | the end |
//! | a child does not ask whether it is wanted | 33 | the end |
//! | a parent does not look which children have ended | 448 | the end |
//!
//! Two more changed nothing, since something else keeps the same promise: a replica that hears of results of shards that it
//! has lost may not speak of them, and before a shard is held again nothing of its last epoch is under way.
//!
//! What it has found, each mended since: a keeper that took shards again while their last batch was under way; a read of a log that
//! ended after its shard was lost and had come back; a batch that was called committed though an execution had been left out of
//! it; a command that decided nothing, answered from memory that was old; a verification that compared such memory.
//!
//! - `TROUPE_SIM_SEED=n` runs exactly the history with this seed, and prints it (with `--no-capture`).
//! - `TROUPE_SIM_SEEDS=n` runs so many histories instead of [`SEEDS`].

mod agents;
mod clients;
mod communication;
mod connection;
mod database;
mod doors;
mod ground;
mod history;
mod locks;
mod process;
mod registry;
mod workflows;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::{
    ground::{Ground, Sabotage},
    history::Tally,
};

/// Histories of a run that nobody has asked for more of.
const SEEDS: u64 = 1_000;
/// Tests that share the histories, so that they run side by side.
const SHARES: u64 = 4;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not `{text}`")))
}

/// One history in a runtime of its own. The fault, where there is one; and what was told, where somebody listens.
fn history(seed: u64, sabotage: Sabotage, is_told: bool) -> (Result<Tally, String>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut told = String::new();
    let run = AssertUnwindSafe(|| {
        runtime.block_on(async {
            let ground = Ground::new(seed, sabotage, is_told);
            let tally = history::live(&ground).await;
            told = ground.told();
            ground.breached().map_or(Ok(tally), Err)
        })
    });
    let ended = catch_unwind(run).unwrap_or_else(|_| Err("it panicked".to_owned()));
    (ended, told)
}

fn share(number: u64) {
    let only = variable("TROUPE_SIM_SEED");
    let seeds = only.map_or_else(|| 0..variable("TROUPE_SIM_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let is_whole = seeds.end - seeds.start >= SEEDS;
    let mut total = Tally::default();
    for seed in seeds.filter(|seed| seed % SHARES == number) {
        let (ended, told) = history(seed, Sabotage::None, only.is_some());
        if only.is_some() {
            println!("history {seed}:\n{told}");
        }
        match ended {
            Ok(tally) => total.add(&tally),
            Err(fault) => {
                let told = if only.is_some() { told } else { history(seed, Sabotage::None, true).1 };
                panic!(
                    "{told}\nhistory {seed}: {fault}\n\
                     again: TROUPE_SIM_SEED={seed} cargo nextest run -p orchestrator --lib simulator:: --no-capture"
                )
            }
        }
    }
    println!("{total:?}");
    // A simulator that never meets a situation proves nothing about it.
    if is_whole {
        assert!(total.has_seen_everything(), "some situation never came about: {total:?}");
    }
}

#[test]
fn every_history_keeps_the_invariants_and_ends_first_share() {
    share(0);
}

#[test]
fn every_history_keeps_the_invariants_and_ends_second_share() {
    share(1);
}

#[test]
fn every_history_keeps_the_invariants_and_ends_third_share() {
    share(2);
}

#[test]
fn every_history_keeps_the_invariants_and_ends_fourth_share() {
    share(3);
}

#[test]
fn a_seed_is_the_same_history_each_time() {
    for seed in 0..40 {
        let (first, second) = (history(seed, Sabotage::None, true).1, history(seed, Sabotage::None, true).1);
        let differs = first.lines().zip(second.lines()).find(|(one, other)| one != other);
        assert_eq!(differs, None, "history {seed}");
        assert_eq!(first.len(), second.len(), "history {seed}");
    }
}

#[test]
fn whatever_the_world_breaks_is_found() {
    /// Histories until then.
    const MOST: u64 = 400;
    let broken =
        [Sabotage::NoEpochs, Sabotage::LostCommits, Sabotage::ChangedEvents, Sabotage::TwoOwners, Sabotage::LostTasks];
    for sabotage in broken {
        let found = (0..MOST).find_map(|seed| history(seed, sabotage, false).0.err().map(|fault| (seed, fault)));
        let (seed, fault) = found.unwrap_or_else(|| panic!("{sabotage:?} is not found in {MOST} histories"));
        println!("{sabotage:?}: history {seed}: {fault}");
    }
}
