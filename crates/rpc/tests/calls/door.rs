//! Who is let in, and which replica is called.

use contracts::registry::v1::GetAgentRequest;
use rpc::{Caller, Replicas, Token};
use settings::Secret;
use tokio::net::TcpListener;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::rig::{Registry, Served, client, tasks};

fn token(text: &str) -> Token {
    Token::new(&Secret::new(text)).expect("it is long enough")
}

#[tokio::test]
async fn nobody_comes_in_without_the_token_and_a_check_of_health_is_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Served::on(listener, &Registry::default(), Some(token("0123456789abcdef")), None);
    let replicas = served.replicas();
    let caller = Caller::new(tasks());
    let call = async |presented: Option<Token>| {
        let caller = caller.clone().with_token(presented);
        let answer = client(&caller, &replicas).get_agent(GetAgentRequest::default()).await;
        answer.map(drop).map_err(|status| status.code())
    };
    assert_eq!(call(None).await, Err(Code::Unauthenticated));
    assert_eq!(call(Some(token("another-token-of-16"))).await, Err(Code::Unauthenticated));
    assert_eq!(call(Some(token("0123456789abcdef"))).await, Ok(()));
    let mut probe = HealthClient::new(caller.connect("registry", &replicas).unwrap());
    probe.check(HealthCheckRequest::default()).await.unwrap();
    let watched = probe.watch(HealthCheckRequest::default()).await;
    assert_eq!(watched.map(drop).map_err(|status| status.code()), Err(Code::Unauthenticated), "it never ends");
    let caller = caller.with_token(Some(token("0123456789abcdef")));
    let mut probe = HealthClient::new(caller.connect("registry", &replicas).unwrap());
    probe.watch(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_call_goes_past_replicas_that_cannot_be_reached() {
    let served = Served::start(&Registry::default()).await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let caller = Caller::new(tasks());
    let replicas: Replicas = format!("{dead},{}", served.address).parse().unwrap();
    let alive = client(&caller, &replicas);
    let calls = (0..20).map(|_| {
        let mut client = alive.clone();
        async move { client.get_agent(GetAgentRequest::default()).await }
    });
    for answer in futures::future::join_all(calls).await {
        answer.unwrap();
    }
    let replicas: Replicas = dead.to_string().parse().unwrap();
    let gone = client(&caller, &replicas).get_agent(GetAgentRequest::default()).await;
    assert_eq!(gone.unwrap_err().code(), Code::Unavailable);
}

/// The system takes connections for a process that is stopped, as this listener does that never accepts.
#[tokio::test]
async fn a_call_goes_past_replicas_that_take_connections_and_say_nothing() {
    let registry = Registry::default();
    let served = Served::start(&registry).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let replicas = format!("{},{}", silent.local_addr().unwrap(), served.address).parse().unwrap();
    let mut client = client(&Caller::new(tasks()), &replicas);
    for _ in 0..4 {
        // It must not be sent twice, so it must not have been sent to the silent one.
        client.register_agent(contracts::registry::v1::RegisterAgentRequest::default()).await.unwrap();
    }
    assert_eq!(registry.calls(), 4);
}

#[tokio::test]
async fn a_name_is_called_at_its_addresses() {
    let registry = Registry::default();
    let served = Served::start(&registry).await;
    let replicas = format!("localhost:{}", served.address.port()).parse().unwrap();
    let owner = tasks();
    let mut client = client(&Caller::new(owner.clone()), &replicas);
    for _ in 0..10 {
        client.get_agent(GetAgentRequest::default()).await.unwrap();
    }
    assert_eq!(registry.calls(), 10);
    owner.shutdown().cut();
}
