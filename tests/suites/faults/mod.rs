//! Faults in a cluster under load, two processes of every service: they are killed, stopped for longer than a lease, and rolled,
//! their servers die, and their connections are cut, at random moments; nothing that was accepted is lost, and nothing happens
//! twice.
//!
//! `TROUPE_FAULTS` says how many (one of each unless set); the seed is printed and `TROUPE_FAULTS_SEED` repeats the choices (the
//! machine's own timing of course does not repeat).

mod agent;
mod fault;
mod report;

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use testkit::{Cluster, Setup, TWO_OF_EACH};

use self::{
    agent::Obedient,
    fault::{Deck, FAULTS, Fault},
};
use crate::kill::{
    check_all, check_nothing_left,
    driver::{Accepted, Driver},
    from_environment,
    mail::{DELIVERY_LIMIT, Dealt, check_messages},
    prepare,
};

/// How often something was done, and what was looked at after it.
#[derive(Debug, Default)]
struct Times {
    done: u32,
    executions: usize,
    messages: usize,
    /// What clients got instead of an answer since the fault before was over, and how often.
    refusals: BTreeMap<String, u64>,
}

/// What became of all messages.
#[derive(Debug)]
struct Mail {
    dealt: Dealt,
    /// How often a message came again that had come to the agent before.
    again: u32,
    /// How often a session ended with messages in hand.
    deaths: u64,
}

impl Times {
    fn count(&mut self, met: &Accepted) {
        self.done += 1;
        self.executions += met.executions.len();
        self.messages += met.messages.len();
        for (how, times) in &met.refusals {
            *self.refusals.entry(how.clone()).or_default() += times;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_in_a_cluster_nothing_accepted_is_lost_or_done_twice() {
    let faults = from_environment("TROUPE_FAULTS", || FAULTS.len() as u64);
    let seed = from_environment("TROUPE_FAULTS_SEED", rand::random);
    println!("{faults} faults, TROUPE_FAULTS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let setup = Setup { size: TWO_OF_EACH, is_proxied: true, delivery_limit: DELIVERY_LIMIT, ..Setup::default() };
    let mut cluster = Cluster::start(setup).await;
    let echo = prepare(&cluster.api()).await;
    let obedient = Obedient::start(&cluster.api(), cluster.communications()).await;
    let driver = Driver::start(cluster.urls(), vec![echo, obedient.mailbox()]);
    let (mut done, mut deck, mut accepted) = (BTreeMap::<Fault, Times>::new(), Deck::default(), Accepted::default());
    for fault in fault::shuffled(usize::try_from(faults).expect("a small number"), &mut random) {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
        println!("{fault:?}");
        fault.apply(&mut cluster, &mut deck, &mut random).await;
        assert_eq!(cluster.ended(), [""; 0], "ended by itself:\n{}", cluster.logs());
        // Whatever the fault has met, and what came before it: it ends as it must while others go on.
        let met = driver.accepted();
        check_all(&cluster.api().patient(), &met).await;
        done.entry(fault).or_default().count(&met);
        accepted.extend(met);
    }
    let last = driver.stop().await;
    check_all(&cluster.api(), &last).await;
    accepted.extend(last);
    let (executions, messages) = (accepted.executions.len(), accepted.messages.len());
    println!("{done:?}: {executions} executions and {messages} messages were accepted; {:?}", accepted.refusals);
    assert!(executions as u64 >= faults, "the driver must have been at work");
    check_nothing_left(&cluster.api(), &cluster.url()).await;
    crate::kill::mail::check_none_waits(&cluster.api()).await;
    // What has ended stays as it has ended.
    let dealt = check_messages(&cluster.api(), &accepted.messages).await;
    let mail = Mail { dealt, again: obedient.again(), deaths: obedient.deaths() };
    println!("{mail:?}");
    assert!(mail.deaths >= faults, "sessions must have died");
    drop(obedient);
    assert!(!cluster.logs().contains("panicked"), "{}", cluster.logs());
    for name in cluster.names("").into_iter().rev() {
        assert_eq!(cluster.stop(&name).await, Some(0), "{name}: {}", cluster.logs());
    }
    if let Some(path) = std::env::var_os("TROUPE_FAULTS_REPORT") {
        report::write(path.as_ref(), &done, (deck.cut.len(), cluster.connections().pairs().len()), &accepted, &mail);
    }
}
