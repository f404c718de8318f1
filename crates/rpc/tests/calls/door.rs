//! Who is let in, and which replica is called.

use std::{sync::Arc, time::Duration};

use access::{Keys, Kind, Principal, Reach, Role, RootSecret, Signer};
use contracts::communication::v1::agent_session_service_client::AgentSessionServiceClient;
use contracts::registry::v1::{
    GetAgentRequest, HeartbeatRequest, RegisterAgentRequest, registry_service_client::RegistryServiceClient,
};
use domain::{Namespace, SystemClock};
use rpc::{Caller, Door, Replicas, Token};
use settings::Secret;
use tokio::net::TcpListener;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::rig::{Registry, Served, client, tasks};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn keys(text: &str) -> Keys {
    Keys::of(&RootSecret::new(&Secret::new(text)), Arc::new(SystemClock))
}

fn door() -> Door {
    Door::new(Token::new(&Secret::new(TOKEN)).expect("it is long enough"), keys(TOKEN), "registry")
}

#[tokio::test]
async fn nobody_comes_in_who_does_not_say_who_they_are_and_a_check_of_health_is_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Served::on(listener, &Registry::default(), Some(door()), None);
    let replicas = served.replicas();
    let caller = Caller::new(tasks());
    let call = async |signer: Option<Signer>| {
        let caller = caller.clone().with_signer(signer);
        let answer = client(&caller, &replicas).get_agent(GetAgentRequest::default()).await;
        answer.map(drop).map_err(|status| status.code())
    };
    assert_eq!(call(None).await, Err(Code::Unauthenticated));
    assert_eq!(call(Some(Signer::service(keys("another-token-of-16"), "test"))).await, Err(Code::Unauthenticated));
    assert_eq!(call(Some(Signer::service(keys(TOKEN), "test"))).await, Ok(()));
    let mut probe = HealthClient::new(caller.connect("registry", &replicas).unwrap());
    probe.check(HealthCheckRequest::default()).await.unwrap();
    let watched = probe.watch(HealthCheckRequest::default()).await;
    assert_eq!(watched.map(drop).map_err(|status| status.code()), Err(Code::Unauthenticated), "it never ends");
    let caller = caller.with_signer(Some(Signer::service(keys(TOKEN), "test")));
    let mut probe = HealthClient::new(caller.connect("registry", &replicas).unwrap());
    probe.watch(HealthCheckRequest::default()).await.unwrap();
}

/// Whoever reads what is said to one service says it to no other.
#[tokio::test]
async fn what_is_said_to_another_service_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = Registry::default();
    let served = Served::on(listener, &registry, Some(door()), None);
    let caller = Caller::new(tasks()).with_signer(Some(Signer::service(keys(TOKEN), "orchestrator")));
    for (service, expected) in [("registry", None), ("communication", Some(Code::Unauthenticated))] {
        let link = caller.connect(service, &served.replicas()).unwrap();
        let answer = RegistryServiceClient::new(link).get_agent(GetAgentRequest::default()).await;
        assert_eq!(answer.err().map(|status| status.code()), expected, "{service}");
    }
    assert_eq!(registry.calls(), 1);
}

/// An agent works over its session.
#[tokio::test]
async fn an_agents_token_opens_a_session_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Served::on(listener, &Registry::default(), Some(door()), None);
    let reach = Reach::Namespace(Namespace::default());
    let agent = Some(domain::AgentId::from_parts(1, 1));
    let agent = Principal { agent, ..Principal::of_role(Kind::Token, "agt_1", Role::Agent, reach) };
    let token = keys(TOKEN).agent_token(&agent, "fam_1", Duration::from_mins(1)).unwrap();
    let mut request = tonic::Request::new(GetAgentRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let caller = Caller::new(tasks());
    let answer = client(&caller, &served.replicas()).get_agent(request).await;
    assert_eq!(answer.map(drop).map_err(|status| status.code()), Err(Code::Unauthenticated));
}

/// What a process says of whom it calls for is good for a minute: a session would outlive it, and what they have shown.
#[tokio::test]
async fn a_session_is_opened_by_an_agent_or_a_process_for_itself_and_for_nobody_who_is_called_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Served::on(listener, &Registry::default(), Some(door()), None);
    let caller = Caller::new(tasks());
    let opened = async |signer: Signer| {
        let link = caller.clone().with_signer(Some(signer)).connect("registry", &served.replicas()).unwrap();
        let mut client = AgentSessionServiceClient::new(link);
        let call = client.open_session(tokio_stream::empty());
        call.await.map(drop).map_err(|status| status.code())
    };
    // Whoever is let in finds no such service here.
    assert_eq!(opened(Signer::service(keys(TOKEN), "agent-runner")).await, Err(Code::Unimplemented));
    let admin = Arc::new(Principal::of_role(Kind::Key, "key_1", Role::Admin, Reach::Everything));
    let called_for = access::acting_as(admin, opened(Signer::gateway(keys(TOKEN)))).await;
    assert_eq!(called_for, Err(Code::Unauthenticated));
}

/// A gateway calls for whoever asks it, and the service looks again: what its client may not, it may not for them.
#[tokio::test]
async fn who_is_called_for_may_do_no_more_than_they_may() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = Registry::default();
    let served = Served::on(listener, &registry, Some(door()), None);
    let gateway = Caller::new(tasks()).with_signer(Some(Signer::gateway(keys(TOKEN))));
    let client = client(&gateway, &served.replicas());
    let as_role = async |role: Role| {
        let mut client = client.clone();
        let principal = Principal::of_role(Kind::Key, "key_1", role, Reach::Everything);
        let call = async move {
            let read = client.get_agent(GetAgentRequest::default()).await;
            let wrote = client.register_agent(RegisterAgentRequest::default()).await;
            let beat = client.heartbeat(HeartbeatRequest::default()).await;
            [read.map(drop), wrote.map(drop), beat.map(drop)].map(|answer| answer.err().map(|status| status.code()))
        };
        access::acting_as(Arc::new(principal), call).await
    };
    let denied = Some(Code::PermissionDenied);
    assert_eq!(as_role(Role::Viewer).await, [None, denied, denied]);
    assert_eq!(as_role(Role::Admin).await, [None, None, denied], "what services tell each other is theirs alone");
    assert_eq!(registry.calls(), 3);
}

/// The token itself still opens, for agents and operators that were given it; but it is no service.
#[tokio::test]
async fn whoever_has_the_token_is_an_operator_and_no_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Served::on(listener, &Registry::default(), Some(door()), None);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", served.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let bearing = |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        Ok(request)
    };
    let mut client = RegistryServiceClient::with_interceptor(channel, bearing);
    client.get_agent(GetAgentRequest::default()).await.unwrap();
    let refused = client.heartbeat(HeartbeatRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
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
