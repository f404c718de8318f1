//! A replica that is stopped under load loses nothing.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use contracts::registry::v1::{GetAgentRequest, RegisterAgentRequest};
use futures::future::join_all;
use rpc::{Caller, Replicas};
use tokio::net::TcpListener;

use crate::rig::{Client, Registry, Served, client, tasks};

const CLIENTS: usize = 16;
const STOPS: usize = 20;

/// Calls until it is over; answers with the names that it was told are registered.
async fn load(mut client: Client, number: usize, is_over: &AtomicBool) -> Vec<String> {
    let mut names = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        client.get_agent(GetAgentRequest::default()).await.expect("a read does not fail");
        let name = format!("{number}-{}", names.len());
        let request = RegisterAgentRequest { name: name.clone(), ..RegisterAgentRequest::default() };
        client.register_agent(request).await.expect("a write does not fail");
        names.push(name);
    }
    names
}

/// Stops and starts one of the two in turn, while the other goes on.
async fn rolling(registry: &Registry, mut served: Vec<Served>) {
    for stop in 0..STOPS {
        let seen = registry.calls();
        let one = served.remove(0);
        let address = one.address;
        one.drain().await;
        let again = listen(address);
        served.push(Served::on(again, registry, None, None));
        // A pause would do as well, but calls tell that clients go on.
        while registry.calls() < seen + 10 * (stop + 1) {
            tokio::task::yield_now().await;
        }
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_stopped_under_load_fail_no_call_and_do_none_twice() {
    let registry = Registry::default();
    let served = vec![Served::start(&registry).await, Served::start(&registry).await];
    let replicas: Replicas = format!("{},{}", served[0].address, served[1].address).parse().unwrap();
    let caller = Caller::new(tasks());
    let is_over = AtomicBool::new(false);
    let rolling = async {
        rolling(&registry, served).await;
        is_over.store(true, Ordering::Relaxed);
    };
    // Links of their own: each has its own connections, and its own luck.
    let clients = (0..CLIENTS).map(|number| load(client(&caller, &replicas), number, &is_over));
    let (names, ()) = tokio::join!(join_all(clients), rolling);
    let registered = registry.registered();
    let names: Vec<_> = names.into_iter().flatten().collect();
    assert!(names.len() > STOPS);
    assert_eq!(registered.len(), names.len());
    for name in names {
        assert_eq!(registered[&name], 1, "{name}");
    }
}
