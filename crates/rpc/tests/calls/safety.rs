//! Deadlines, retries, and what is refused before it does harm.

use std::time::Duration;

use contracts::{
    deadline,
    registry::v1::{GetAgentRequest, RegisterAgentRequest, WatchAgentsRequest},
};
use futures::future::join_all;
use rpc::Caller;
use tonic::Code;

use crate::rig::{Registry, Served, client, tasks};

#[tokio::test]
async fn a_deadline_shrinks_along_the_chain_of_calls() {
    let (first, second) = (Registry::default(), Registry::default());
    let (front, back) = (Served::start(&first).await, Served::start(&second).await);
    let caller = Caller::new(tasks());
    first.calls_in_turn(client(&caller, &back.replicas()));
    let mut client = client(&caller, &front.replicas());
    let given = Duration::from_secs(20);
    deadline::within(given, client.get_agent(GetAgentRequest::default())).await.unwrap().unwrap();
    assert!(first.remaining() < given);
    assert!(second.remaining() < first.remaining(), "{:?} {:?}", second.remaining(), first.remaining());
    // A call of which nobody says how long it may take has a deadline too.
    client.get_agent(GetAgentRequest::default()).await.unwrap();
    assert!(second.remaining() > given);
}

#[tokio::test]
async fn a_call_past_its_deadline_ends_everywhere() {
    let (first, second) = (Registry::default(), Registry::default());
    let (front, back) = (Served::start(&first).await, Served::start(&second).await);
    let caller = Caller::new(tasks());
    first.calls_in_turn(client(&caller, &back.replicas()));
    let _closed = second.close_gate();
    let mut request = tonic::Request::new(GetAgentRequest::default());
    request.set_timeout(Duration::from_millis(300));
    let late = client(&caller, &front.replicas()).get_agent(request).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    // Servers that still worked on it would not end in time.
    front.drain().await;
    back.drain().await;
}

#[tokio::test]
async fn a_stream_is_never_cut() {
    let served = Served::start(&Registry::default()).await;
    let mut client = client(&Caller::new(tasks()), &served.replicas());
    let mut request = tonic::Request::new(WatchAgentsRequest::default());
    request.set_timeout(Duration::from_millis(50));
    let mut stream = client.watch_agents(request).await.unwrap().into_inner();
    let message = tokio::time::timeout(Duration::from_millis(200), stream.message()).await;
    assert!(message.is_err(), "it is open, and says nothing");
}

#[tokio::test]
async fn only_what_may_be_repeated_is_sent_again() {
    let registry = Registry::default();
    let served = Served::start(&registry).await;
    let mut client = client(&Caller::new(tasks()), &served.replicas());
    registry.is_unavailable_for(2);
    client.get_agent(GetAgentRequest::default()).await.unwrap();
    assert_eq!(registry.calls(), 3);
    registry.is_unavailable_for(1);
    let refused = client.register_agent(RegisterAgentRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "as it was told"));
    assert_eq!(registry.calls(), 4);
}

/// One that is cut off from its database says so, and the next one is asked.
#[tokio::test]
async fn what_one_replica_cannot_do_now_another_is_asked_for() {
    let (away, well) = (Registry::default(), Registry::default());
    let (first, second) = (Served::start(&away).await, Served::start(&well).await);
    let replicas = format!("{},{}", first.address, second.address).parse().unwrap();
    let client = client(&Caller::new(tasks()), &replicas);
    away.is_unavailable_for(usize::MAX);
    for _ in 0..6 {
        client.clone().get_agent(GetAgentRequest::default()).await.unwrap();
    }
    assert_eq!(well.calls(), 6);
}

#[tokio::test]
async fn a_service_in_trouble_does_not_get_many_times_the_calls() {
    const CALLS: usize = 300;
    let registry = Registry::default();
    let served = Served::start(&registry).await;
    let client = client(&Caller::new(tasks()), &served.replicas());
    registry.is_unavailable_for(usize::MAX);
    let calls = (0..CALLS).map(|_| {
        let mut client = client.clone();
        async move { client.get_agent(GetAgentRequest::default()).await }
    });
    assert!(join_all(calls).await.into_iter().all(|answer| answer.unwrap_err().code() == Code::Unavailable));
    // Ten retries a second for ten seconds, and one for every five calls; without a budget it were six times the calls.
    assert!(registry.calls() > CALLS && registry.calls() <= CALLS + 200, "{}", registry.calls());
}

#[tokio::test]
async fn too_many_calls_at_once_are_refused_and_do_not_pile_up() {
    let registry = Registry::default();
    let served = Served::start(&registry).await;
    let client = client(&Caller::new(tasks()).with_max_calls(2), &served.replicas());
    let gate = registry.close_gate();
    let calls = (0..3).map(|_| {
        let (mut client, gate) = (client.clone(), gate.clone());
        async move {
            let answer = client.get_agent(GetAgentRequest::default()).await;
            // The one that is refused lets the others go.
            gate.add_permits(2);
            answer.map_err(errors::Error::from)
        }
    });
    let mut refused = join_all(calls).await.into_iter().filter_map(Result::err);
    assert_eq!(refused.next().expect("one is too many").reason, "overloaded");
    assert!(refused.next().is_none());
}
