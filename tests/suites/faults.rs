//! Faults in a cluster under load: processes are killed, stopped for longer than a lease, and rolled, and PostgreSQL is killed,
//! at random moments; nothing that was accepted is lost, and nothing happens twice.
//!
//! `TROUPE_FAULTS` says how many (16 unless set); the seed is printed and `TROUPE_FAULTS_SEED` repeats the choices (the
//! machine's own timing of course does not repeat).

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use testkit::{Cluster, TWO_ORCHESTRATORS};

use crate::kill::{check_all, check_nothing_left, driver::Driver, from_environment, prepare};

/// Longer than the lease of the tests' clusters.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(4);

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL, and a start a while later.
    Kill(&'static str),
    /// SIGSTOP for longer than a lease, then SIGCONT: it wakes up with shards that are another's by then.
    Pause(&'static str),
    /// SIGTERM and a start, of every process of the service, one after the other.
    Roll(&'static str),
    /// The database dies, and starts again.
    KillPostgres,
}

const FAULTS: [Fault; 10] = [
    Fault::Kill("orchestrator"),
    Fault::Pause("orchestrator"),
    Fault::Roll("orchestrator"),
    Fault::Kill("communication"),
    Fault::Kill("registry"),
    Fault::Kill("agent-runner"),
    Fault::Kill("gateway"),
    Fault::Roll("communication"),
    Fault::Roll("agent-runner"),
    Fault::KillPostgres,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_in_a_cluster_nothing_accepted_is_lost_or_done_twice() {
    let faults = from_environment("TROUPE_FAULTS", || 16);
    let seed = from_environment("TROUPE_FAULTS_SEED", rand::random);
    println!("{faults} faults, TROUPE_FAULTS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let mut cluster = Cluster::start(TWO_ORCHESTRATORS, "").await;
    let agent = prepare(&cluster.api()).await;
    let driver = Driver::start(cluster.url(), &agent);
    let mut done = BTreeMap::<Fault, u32>::new();
    for number in 0..faults {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
        // Each kind in turn, in an order of its own every time around.
        let place = usize::try_from(number).expect("a small number") % FAULTS.len();
        let fault = FAULTS[(place * 7 + random.random_range(0..2)) % FAULTS.len()];
        println!("{fault:?}");
        apply(&mut cluster, fault, &mut random).await;
        *done.entry(fault).or_default() += 1;
        assert_eq!(cluster.ended(), [""; 0], "ended by itself:\n{}", cluster.logs());
    }
    let accepted = driver.stop().await;
    let (executions, messages) = (accepted.executions.len(), accepted.messages.len());
    println!("{done:?}: {executions} executions and {messages} messages were accepted");
    assert!(executions as u64 >= faults, "the driver must have been at work");
    check_all(&cluster.api(), &accepted).await;
    check_nothing_left(&cluster.api(), &cluster.url()).await;
    assert!(!cluster.logs().contains("panicked"), "{}", cluster.logs());
    for name in cluster.names("").into_iter().rev() {
        assert_eq!(cluster.stop(&name).await, Some(0), "{name}: {}", cluster.logs());
    }
    if let Some(path) = std::env::var_os("TROUPE_FAULTS_REPORT") {
        std::fs::write(path, report(&done, executions, messages)).expect("the report can be written");
    }
}

/// What docs/reliability.md says.
fn report(done: &BTreeMap<Fault, u32>, executions: usize, messages: usize) -> String {
    let row = |(fault, times): (&Fault, &u32)| {
        let what = match fault {
            Fault::Kill(service) => format!("SIGKILL of one {service}, started again up to 3 s later"),
            Fault::Pause(service) => format!("SIGSTOP of one {service} for 4 s, then SIGCONT"),
            Fault::Roll(service) => format!("SIGTERM and start of every {service} in turn"),
            Fault::KillPostgres => "immediate stop of PostgreSQL, and start".to_owned(),
        };
        format!("| {what} | {times} | nothing lost, nothing twice |")
    };
    let rows = done.iter().map(row).collect::<Vec<_>>().join("\n");
    format!(
        "# Reliability\n\n\
         Written by `make test-faults`: a cluster of two orchestrators and one of each other service on PostgreSQL, with a lease of\n\
         2 s, under load (executions with retries, signals, fan-out, decisions, timeouts and undos, and mailbox messages), while\n\
         these things were done to it at random moments.\n\n\
         | fault | times | outcome |\n| --- | ---: | --- |\n{rows}\n\n\
         All {executions} executions that were accepted ended as they must with the right output, each result once in its log, and\n\
         every log replays to what memory says; all {messages} accepted messages were acknowledged; the sweeper found nothing that\n\
         would not have been woken.\n"
    )
}

async fn apply(cluster: &mut Cluster, fault: Fault, random: &mut StdRng) {
    let any = |cluster: &Cluster, service: &str, random: &mut StdRng| {
        let names = cluster.names(service);
        names[random.random_range(0..names.len())].clone()
    };
    match fault {
        Fault::Kill(service) => {
            let name = any(cluster, service, random);
            cluster.kill(&name).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..3_000))).await;
            cluster.restart(&name).await;
        }
        Fault::Pause(service) => {
            let name = any(cluster, service, random);
            cluster.pause(&name);
            tokio::time::sleep(LONGER_THAN_A_LEASE).await;
            cluster.resume(&name);
        }
        Fault::Roll(service) => {
            for name in cluster.names(service) {
                assert_eq!(cluster.stop(&name).await, Some(0), "{name}: {}", cluster.logs());
                cluster.restart(&name).await;
            }
        }
        Fault::KillPostgres => {
            cluster.servers().control("kill", "postgres");
            cluster.servers().control("start", "postgres");
        }
    }
}
