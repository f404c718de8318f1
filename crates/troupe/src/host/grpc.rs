//! The gRPC port: every service's methods, reflection and health.

use std::{convert::Infallible, time::Duration};

use contracts::{
    FILE_DESCRIPTOR_SET,
    access::v1::denial_service_server,
    agent_runner::v1::agent_runner_service_server,
    communication::v1::{
        agent_session_service_server, credential_service_server, dead_letter_service_server, message_service_server,
        task_service_server, topic_service_server,
    },
    orchestrator::v1::{execution_service_server, workflow_service_server},
    registry::v1::registry_service_server,
};
use lifecycle::{Checks, HealthStatus, Shutdown, overall};
use rpc::{Deadlines, Denials, Door, Guard, Tls};
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder as Reflection;

use super::prompt::Prompt;

/// Calls of one connection that may be under way at once: sessions and watches stay open for long.
const MAX_STREAMS: u32 = 4096;
/// How long a client may take to begin, and to finish a handshake.
const BEGIN: Duration = Duration::from_secs(10);
/// Agents that vanished without a word are noticed after these two.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);

/// All routes on one server.
#[derive(Debug)]
pub(crate) struct Grpc {
    routes: Routes,
    denials: Denials,
    door: Option<Door>,
    tls: Option<Tls>,
}

impl Grpc {
    /// The services' routes, with reflection, health and what was refused beside them. Says that it serves until `health` says otherwise.
    pub(crate) fn new(
        services: impl IntoIterator<Item = Routes>,
        health: &HealthReporter,
        denials: &Denials,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let reflection = || {
            Reflection::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let health = tonic_health::server::HealthService::from_health_reporter(health.clone());
        let own = Routes::new(tonic_health::pb::health_server::HealthServer::new(health))
            .add_service(reflection().build_v1()?)
            // Older tools know only this one.
            .add_service(reflection().build_v1alpha()?)
            .add_service(denials.server());
        // Each has a fallback for unknown methods, and together they can have one.
        let merged = services
            .into_iter()
            .fold(own.into_axum_router(), |all, routes| all.merge(routes.into_axum_router().reset_fallback()));
        Ok(Self { routes: Routes::from(merged).prepare(), denials: denials.clone(), door: None, tls: None })
    }

    /// Lets in only whom the door does.
    pub(crate) fn guarded(self, door: Option<Door>) -> Self {
        Self { door, ..self }
    }

    /// Lets in only who shows a certificate of the same authority.
    pub(crate) fn over_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Serves until the shutdown drains and every call has ended.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> Result<(), tonic::transport::Error> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let incoming = incoming.map(|accepted| accepted.map(|stream| Prompt::new(stream, BEGIN)));
        let mut server = Server::builder();
        if let Some(tls) = &self.tls {
            server = server.tls_config(tls.server().timeout(BEGIN))?;
        }
        server
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
            // Whoever is not let in makes no spans.
            .layer(Guard::new(self.door).noting(self.denials))
            .layer(trace::ServerLayer)
            .layer(Deadlines)
            .add_routes(self.routes)
            .serve_with_incoming_shutdown(incoming, async move { shutdown.draining().await })
            .await
    }
}

/// What each process serves, by the names that health knows; the server as a whole is known besides.
pub(crate) const REGISTRY: [&str; 2] = [registry_service_server::SERVICE_NAME, denial_service_server::SERVICE_NAME];
pub(crate) const COMMUNICATION: [&str; 7] = [
    agent_session_service_server::SERVICE_NAME,
    task_service_server::SERVICE_NAME,
    message_service_server::SERVICE_NAME,
    dead_letter_service_server::SERVICE_NAME,
    topic_service_server::SERVICE_NAME,
    credential_service_server::SERVICE_NAME,
    denial_service_server::SERVICE_NAME,
];
pub(crate) const ORCHESTRATOR: [&str; 3] = [
    workflow_service_server::SERVICE_NAME,
    execution_service_server::SERVICE_NAME,
    denial_service_server::SERVICE_NAME,
];
pub(crate) const AGENT_RUNNER: [&str; 2] =
    [agent_runner_service_server::SERVICE_NAME, denial_service_server::SERVICE_NAME];
pub(crate) const ALL: [&str; 11] = [
    REGISTRY[0],
    COMMUNICATION[0],
    COMMUNICATION[1],
    COMMUNICATION[2],
    COMMUNICATION[3],
    COMMUNICATION[4],
    COMMUNICATION[5],
    ORCHESTRATOR[0],
    ORCHESTRATOR[1],
    AGENT_RUNNER[0],
    denial_service_server::SERVICE_NAME,
];
/// Between two looks at how the service does.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long anything may take to show that it works.
const PATIENCE: Duration = Duration::from_secs(2);
/// The server as a whole.
const WHOLE: &str = "";

/// Tells those who ask that new work is taken.
pub(crate) async fn serving(health: &HealthReporter, services: &[&'static str]) {
    for service in services.iter().chain([&WHOLE]) {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
}

/// Tells those who ask, for as long as it is polled, whether the service has what it cannot do without.
pub(crate) async fn follow(health: &HealthReporter, services: &[&'static str], checks: &Checks) -> Infallible {
    let mut was_healthy = true;
    loop {
        let is_healthy = overall(&checks.run(PATIENCE).await) != HealthStatus::Unhealthy;
        if is_healthy != was_healthy {
            tracing::warn!(is_healthy, "the service's health has changed");
            if is_healthy {
                serving(health, services).await;
            } else {
                not_serving(health, services).await;
            }
            was_healthy = is_healthy;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Tells those who ask that none is taken any more.
pub(crate) async fn not_serving(health: &HealthReporter, services: &[&'static str]) {
    for service in services.iter().chain([&WHOLE]) {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use domain::SystemClock;
    use lifecycle::{Complaint, OnExit, Tasks};
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    use super::*;

    #[test]
    fn health_knows_every_service_of_the_contracts() {
        let of_rpcs = access::RPCS.iter().filter_map(|(path, _)| path[1..].split('/').next());
        let (wanted, known): (BTreeSet<_>, BTreeSet<_>) = (of_rpcs.collect(), ALL.into_iter().collect());
        assert_eq!(known, wanted);
    }

    #[tokio::test]
    async fn health_is_served_and_turns_when_a_drain_begins() {
        let tasks = Tasks::new(Shutdown::new());
        let health = HealthReporter::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let grpc =
            Grpc::new([Routes::default(), Routes::default()], &health, &Denials::new(Arc::new(SystemClock))).unwrap();
        tasks.spawn("grpc", OnExit::StopService, grpc.serve(listener, tasks.shutdown().clone()));

        let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        let mut client = HealthClient::new(channel);
        let status =
            |answer: tonic::Response<tonic_health::pb::HealthCheckResponse>| answer.into_inner().status().as_str_name();
        serving(&health, &REGISTRY).await;
        for name in [WHOLE, REGISTRY[0]] {
            let request = || HealthCheckRequest { service: name.to_owned() };
            assert_eq!(status(client.check(request()).await.unwrap()), "SERVING");
            not_serving(&health, &REGISTRY).await;
            assert_eq!(status(client.check(request()).await.unwrap()), "NOT_SERVING");
            serving(&health, &REGISTRY).await;
        }
        let elsewhere = HealthCheckRequest { service: ORCHESTRATOR[0].to_owned() };
        assert_eq!(client.check(elsewhere).await.unwrap_err().code(), tonic::Code::NotFound);
        drop(client);
        tasks.shutdown().drain();
        tasks.join(Duration::from_secs(30)).await.unwrap();
    }

    #[tokio::test]
    async fn health_follows_what_the_service_cannot_do_without() {
        let health = HealthReporter::new();
        serving(&health, &REGISTRY).await;
        let service = tonic_health::server::HealthService::from_health_reporter(health.clone());
        let client =
            HealthClient::new(contracts::Link::local(tonic_health::pb::health_server::HealthServer::new(service)));
        let is_away = Arc::new(AtomicBool::new(true));
        let database = Arc::clone(&is_away);
        let checks = Checks::new().with("database", HealthStatus::Unhealthy, move || {
            let is_away = database.load(Ordering::Relaxed);
            async move { if is_away { Err(Complaint::unhealthy("away")) } else { Ok(()) } }
        });
        let becomes = |wanted: ServingStatus| {
            let mut client = client.clone();
            async move {
                let request = || HealthCheckRequest { service: REGISTRY[0].to_owned() };
                while client.check(request()).await.unwrap().into_inner().status != wanted as i32 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        tokio::select! {
            never = follow(&health, &REGISTRY, &checks) => match never {},
            () = async {
                becomes(ServingStatus::NotServing).await;
                is_away.store(false, Ordering::Relaxed);
                becomes(ServingStatus::Serving).await;
            } => {}
        }
    }
}
