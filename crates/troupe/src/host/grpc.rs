//! The gRPC port: every service's methods, reflection and health.

use std::time::Duration;

use contracts::{
    FILE_DESCRIPTOR_SET,
    agent_runner::v1::agent_runner_service_server,
    communication::v1::{
        agent_session_service_server, dead_letter_service_server, message_service_server, task_service_server,
    },
    orchestrator::v1::{execution_service_server, workflow_service_server},
    registry::v1::registry_service_server,
};
use lifecycle::Shutdown;
use rpc::{Guard, Token};
use tokio::net::TcpListener;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder as Reflection;

/// Calls of one connection that may be under way at once: sessions and watches stay open for long.
const MAX_STREAMS: u32 = 4096;
/// Agents that vanished without a word are noticed after these two.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);

/// All routes on one server.
#[derive(Debug)]
pub(crate) struct Grpc {
    routes: Routes,
    guard: Guard,
}

impl Grpc {
    /// The services' routes, with reflection and health beside them. Says that it serves until `health` says otherwise.
    pub(crate) fn new(
        services: impl IntoIterator<Item = Routes>,
        health: &HealthReporter,
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
            .add_service(reflection().build_v1alpha()?);
        // Each has a fallback for unknown methods, and together they can have one.
        let merged = services
            .into_iter()
            .fold(own.into_axum_router(), |all, routes| all.merge(routes.into_axum_router().reset_fallback()));
        Ok(Self { routes: Routes::from(merged).prepare(), guard: Guard::new(None) })
    }

    /// Lets in only who presents the token.
    pub(crate) fn guarded(self, token: Option<Token>) -> Self {
        Self { guard: Guard::new(token), ..self }
    }

    /// Serves until the shutdown drains and every call has ended.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> Result<(), tonic::transport::Error> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
            // Whoever is not let in makes no spans.
            .layer(self.guard)
            .layer(trace::ServerLayer)
            .add_routes(self.routes)
            .serve_with_incoming_shutdown(incoming, async move { shutdown.draining().await })
            .await
    }
}

/// The services that health knows; the empty name is the server as a whole.
const SERVICES: [&str; 9] = [
    "",
    registry_service_server::SERVICE_NAME,
    agent_session_service_server::SERVICE_NAME,
    task_service_server::SERVICE_NAME,
    message_service_server::SERVICE_NAME,
    dead_letter_service_server::SERVICE_NAME,
    workflow_service_server::SERVICE_NAME,
    execution_service_server::SERVICE_NAME,
    agent_runner_service_server::SERVICE_NAME,
];

/// Tells those who ask that new work is taken.
pub(crate) async fn serving(health: &HealthReporter) {
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
}

/// Tells those who ask that none is taken any more.
pub(crate) async fn not_serving(health: &HealthReporter) {
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
}

#[cfg(test)]
mod tests {
    use lifecycle::{OnExit, Tasks};
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    use super::*;

    #[tokio::test]
    async fn health_is_served_and_turns_when_a_drain_begins() {
        let tasks = Tasks::new(Shutdown::new());
        let health = HealthReporter::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let grpc = Grpc::new([Routes::default(), Routes::default()], &health).unwrap();
        tasks.spawn("grpc", OnExit::StopService, grpc.serve(listener, tasks.shutdown().clone()));

        let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        let mut client = HealthClient::new(channel);
        let status =
            |answer: tonic::Response<tonic_health::pb::HealthCheckResponse>| answer.into_inner().status().as_str_name();
        assert_eq!(status(client.check(HealthCheckRequest::default()).await.unwrap()), "SERVING");
        not_serving(&health).await;
        assert_eq!(status(client.check(HealthCheckRequest::default()).await.unwrap()), "NOT_SERVING");
        drop(client);
        tasks.shutdown().drain();
        tasks.join(Duration::from_secs(30)).await.unwrap();
    }
}
