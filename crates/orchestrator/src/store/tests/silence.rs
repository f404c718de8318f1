//! Connections of PostgreSQL that say nothing any more.

use testkit::{Network, Proxy, Servers};

use super::*;

/// More often than the log has connections: none is lost to the silence before.
const ROUNDS: u64 = 3;

#[tokio::test]
async fn a_silent_connection_fails_a_commit_and_keeps_no_other_from_being_made() {
    let servers = Servers::shared();
    let server = servers.address("postgres");
    let proxy = Proxy::to(server).await;
    let url = servers.database().await.replace(&server.to_string(), &proxy.address().to_string());
    assert!(url.contains(&proxy.address().to_string()), "the way leads through the proxy");
    let place = Database { statement_timeout: Duration::from_secs(1), ..Database::postgres(url) };
    let store = open(&place).await.unwrap();
    store.make_shards(1).await.unwrap();
    let held = store.claim("one", 1, LEASE, false).await.unwrap();
    let first = summary(1);
    store.append("one", &append(vec![event(&first, 1)], vec![first.clone()], &held)).await.unwrap();
    let within = Duration::from_secs(20);
    for round in 0..ROUNDS {
        let next = Summary { last_sequence: round + 2, ..first.clone() };
        let more = append(vec![event(&next, round + 2)], vec![next.clone()], &held);
        proxy.set(Network::Silent);
        let silent = tokio::time::timeout(within, store.append("one", &more)).await.expect("it is given up");
        assert!(!silent.unwrap_err().is_of_one(), "nobody's events are to blame");
        tokio::time::timeout(within, store.live(&[0])).await.expect("it is given up").unwrap_err();
        // What was under way may come late: the events are in the log, or not.
        proxy.set(Network::Open);
        let renewed = tokio::time::timeout(within, store.renew("one", LEASE)).await.expect("it has a connection");
        assert_eq!(renewed.unwrap(), held);
        tokio::time::timeout(within, store.live(&[0])).await.expect("it has a connection").unwrap();
    }
    store.close().await;
}
