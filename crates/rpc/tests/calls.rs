//! Servers and clients over real connections: who is let in, and which replica is called.

use std::time::Duration;

use lifecycle::{OnExit, Shutdown, Tasks};
use rpc::{Guard, Replicas, Token, connect};
use settings::Secret;
use tokio::net::TcpListener;
use tonic::{
    Code, Request,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

fn token(text: &str) -> Token {
    Token::new(&Secret::new(text)).expect("it is long enough")
}

#[tokio::test]
async fn nobody_comes_in_without_the_token_and_health_is_open() {
    let tasks = Tasks::new(Shutdown::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let replicas: Replicas = listener.local_addr().unwrap().to_string().parse().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .layer(Guard::new(Some(token("0123456789abcdef"))))
        .add_service(health)
        .serve_with_incoming(TcpIncoming::from(listener));
    tasks.spawn("server", OnExit::StopService, server);

    let call = async |presented: Option<&Token>, path: &'static str| {
        let mut client = tonic::client::Grpc::new(connect(&replicas, presented).unwrap());
        client.ready().await.unwrap();
        let codec = tonic_health_codec();
        let request = Request::new(HealthCheckRequest::default());
        let answer = client.unary::<_, tonic_health::pb::HealthCheckResponse, _>(request, path.parse().unwrap(), codec);
        answer.await.map(drop).map_err(|status| status.code())
    };
    let guarded = "/troupe.registry.v1.RegistryService/GetAgent";
    assert_eq!(call(None, guarded).await, Err(Code::Unauthenticated));
    assert_eq!(call(Some(&token("another-token-of-16")), guarded).await, Err(Code::Unauthenticated));
    assert_eq!(call(Some(&token("0123456789abcdef")), guarded).await, Err(Code::Unimplemented), "it is in");
    let mut probe = HealthClient::new(connect(&replicas, None).unwrap());
    probe.check(HealthCheckRequest::default()).await.unwrap();

    drop(probe);
    tasks.shutdown().cut();
    let _ = tasks.join(Duration::ZERO).await;
}

fn tonic_health_codec() -> tonic_prost::ProstCodec<HealthCheckRequest, tonic_health::pb::HealthCheckResponse> {
    tonic_prost::ProstCodec::default()
}

#[tokio::test]
async fn a_call_goes_past_replicas_that_cannot_be_reached() {
    let tasks = Tasks::new(Shutdown::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alive = listener.local_addr().unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().add_service(health).serve_with_incoming(TcpIncoming::from(listener));
    tasks.spawn("server", OnExit::StopService, server);

    let replicas: Replicas = format!("{dead},{alive}").parse().unwrap();
    let client = HealthClient::new(connect(&replicas, None).unwrap());
    let calls = (0..20).map(|_| {
        let mut client = client.clone();
        async move { client.check(HealthCheckRequest::default()).await }
    });
    for answer in futures::future::join_all(calls).await {
        answer.unwrap();
    }
    let replicas: Replicas = dead.to_string().parse().unwrap();
    let gone = HealthClient::new(connect(&replicas, None).unwrap()).check(HealthCheckRequest::default()).await;
    assert_eq!(gone.unwrap_err().code(), Code::Unavailable);
    tasks.shutdown().cut();
    let _ = tasks.join(Duration::ZERO).await;
}
