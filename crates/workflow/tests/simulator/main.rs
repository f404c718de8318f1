//! Thousands of random lives of random workflows: results good and bad, duplicates, losses, stale attempts, timers early and
//! late, cancels, pauses, retries, signals, crashes. After every transition all invariants are checked, by the engine's own
//! predicates and by an observer that knows only the log; at the end all agents answer, and every execution must have ended.
//!
//! - `TROUPE_SIM_SEED=n` runs exactly the history with this seed, and prints it (with `--no-capture`).
//! - `TROUPE_SIM_RUNS=n` runs so many histories instead of 12,000.

mod generate;
mod observer;
#[path = "../recorded/mod.rs"]
#[expect(clippy::unwrap_used, reason = "a test fails where what it expects is not there")]
mod recorded;
mod timekeeper;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const RUNS: u64 = 12_000;
/// Tests that share the histories, so that they run side by side.
const SHARES: u64 = 4;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not `{text}`")))
}

/// One history, with everything in it drawn from the seed.
fn history(seed: u64) -> Result<world::World, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let generated = generate::workflow(&mut rng);
    let run = AssertUnwindSafe(|| world::World::new(&generated, rng, seed)?.live());
    match catch_unwind(run) {
        Ok(outcome) => outcome.map_err(|fault| format!("{fault}\nthe workflow: {}", generated.definition)),
        Err(_) => Err(format!("it panicked\nthe workflow: {}", generated.definition)),
    }
}

fn share(number: u64) {
    let only = variable("TROUPE_SIM_SEED");
    let is_told = only.is_some();
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TROUPE_SIM_RUNS").unwrap_or(RUNS),
    };
    let is_whole = seeds.end - seeds.start >= RUNS;
    let mut total = world::Tally::default();
    for seed in seeds.filter(|seed| seed % SHARES == number) {
        match history(seed) {
            Ok(world) => {
                if is_told {
                    println!("history {seed}:\n{}", world.told());
                }
                total.add(&world.tally);
            }
            Err(fault) => panic!(
                "history {seed}: {fault}\nagain: TROUPE_SIM_SEED={seed} cargo nextest run -p workflow --test simulator --no-capture"
            ),
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

/// The first histories that have a kind of event that none before had: they are kept with each release.
#[test]
fn a_few_histories_have_every_kind_of_event() {
    /// Histories with many kinds of events, so that these meet.
    const ANYWAY: u64 = 12;
    let mut total = world::Tally::default();
    for seed in 0..RUNS {
        let (mut rng, seen) = (ChaCha8Rng::seed_from_u64(seed), total.kinds());
        let definition = generate::workflow(&mut rng).definition;
        let world = history(seed).unwrap_or_else(|fault| panic!("history {seed}: {fault}"));
        total.add(&world.tally);
        if total.kinds() > seen || seed < ANYWAY {
            recorded::keep(&format!("simulated-{seed}"), &definition, world.log());
        }
        if total.kinds() == world::KINDS {
            return;
        }
    }
    panic!("some kind of event never came about: {total:?}");
}
