//! What handlers share: clients of the services behind, records, limits.

use std::{future::Future, sync::Arc, time::Duration};

use contracts::{
    Link, MAX_MESSAGE_BYTES,
    communication::v1::{
        dead_letter_service_client::DeadLetterServiceClient, message_service_client::MessageServiceClient,
        topic_service_client::TopicServiceClient,
    },
    deadline,
    orchestrator::v1::{
        execution_service_client::ExecutionServiceClient, workflow_service_client::WorkflowServiceClient,
    },
    registry::v1::registry_service_client::RegistryServiceClient,
};
use domain::Clock;
use errors::{Code, Error};
use lifecycle::{Checks, Shutdown};
use store::Redis;
use tokio::sync::Semaphore;

use crate::{
    Peers, Settings, audit::Log, auth::Auth, idempotency::Idempotency, memory::Memory, middleware::Labels,
    problem::Problem, rate::Limiter,
};

/// The gateway's parts, shared by all requests.
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
    pub(crate) idempotency: Idempotency,
    /// Who may come in.
    pub(crate) auth: Auth,
    /// What was done, and was not.
    pub(crate) audit: Log,
    /// Who asks how often.
    pub(crate) limiter: Limiter,
    /// For the time when the registry cannot be reached.
    pub(crate) memory: Memory,
    /// Permits for requests in work.
    pub(crate) requests: Arc<Semaphore>,
    /// Permits for open event streams.
    pub(crate) streams: Arc<Semaphore>,
    /// Permits for open sockets.
    pub(crate) sockets: Arc<Semaphore>,
    /// Which keys are counted by themselves.
    pub(crate) labels: Labels,
    /// How the things do that the gateway needs.
    pub(crate) checks: Checks,
    peers: Peers,
}

/// What an [`App`] is made of, besides its settings and peers.
pub(crate) struct Parts {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
    pub(crate) idempotency: Idempotency,
    pub(crate) auth: Auth,
    pub(crate) audit: Log,
    pub(crate) redis: Option<Redis>,
    pub(crate) checks: Checks,
}

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $client:ident over $peer:ident;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name(&self) -> $client<Link> {
            $client::new(self.peers.$peer.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        }
    )*};
}

impl App {
    pub(crate) fn new(settings: Settings, peers: Peers, parts: Parts) -> Self {
        let Parts { clock, shutdown, idempotency, auth, audit, redis, checks } = parts;
        let requests = Arc::new(Semaphore::new(settings.max_requests));
        let streams = Arc::new(Semaphore::new(settings.max_streams));
        // Others are to find room to connect, however many stay.
        let sockets = Arc::new(Semaphore::new((settings.max_connections / 2).max(1)));
        let memory = Memory::new(Arc::clone(&clock));
        let limiter = Limiter::new(&settings.rate_limit, !auth.is_open(), redis, Arc::clone(&clock));
        let labels = Labels::default();
        Self {
            settings,
            clock,
            shutdown,
            idempotency,
            auth,
            audit,
            limiter,
            memory,
            requests,
            streams,
            sockets,
            labels,
            checks,
            peers,
        }
    }

    clients! {
        /// Agents.
        agents: RegistryServiceClient over registry;
        /// Definitions.
        workflows: WorkflowServiceClient over orchestrator;
        /// Executions.
        executions: ExecutionServiceClient over orchestrator;
        /// Messages.
        messages: MessageServiceClient over communication;
        /// Topics.
        topics: TopicServiceClient over communication;
        /// Dead letters.
        dead_letters: DeadLetterServiceClient over communication;
    }

    /// The process's metrics as Prometheus reads them.
    pub(crate) fn render_metrics(&self) -> String {
        self.peers.telemetry.as_ref().map(telemetry::Telemetry::render_metrics).unwrap_or_default()
    }

    /// Waits for an answer, within the deadline of calls.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Error> {
        self.call_waiting(Duration::ZERO, call).await
    }

    /// Waits for an answer that may take `wait` longer than the deadline of calls.
    pub(crate) async fn call_waiting<T>(
        &self,
        wait: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Error> {
        match deadline::within(self.settings.call_timeout + wait, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner).map_err(Error::from),
            Err(elapsed) => {
                let message = "a service behind does not answer in time";
                Err(Error::new(Code::Timeout, "backend_timeout", message).caused_by(elapsed))
            }
        }
    }
}

/// What an answer must hold but does not: a fault of the service behind.
pub(crate) fn lacking(what: &'static str) -> Problem {
    Problem::internal(format!("an answer from a service behind lacks {what}"))
}
