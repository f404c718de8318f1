//! A registry that does as it is told, served for real.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use contracts::{
    Link, deadline,
    registry::v1::{
        DeleteAgentRequest, DeleteAgentResponse, GetAgentRequest, GetAgentResponse, HeartbeatRequest,
        HeartbeatResponse, ListAgentsRequest, ListAgentsResponse, RegisterAgentRequest, RegisterAgentResponse,
        SelectAgentsRequest, SelectAgentsResponse, UpdateAgentRequest, UpdateAgentResponse, WatchAgentsRequest,
        WatchAgentsResponse,
        registry_service_client::RegistryServiceClient,
        registry_service_server::{RegistryService, RegistryServiceServer},
    },
};
use lifecycle::{OnExit, Shutdown, Tasks};
use rpc::{Caller, Deadlines, Door, Guard, Replicas, Tls};
use tokio::{net::TcpListener, sync::Semaphore, time::Instant};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) type Client = RegistryServiceClient<Link>;

/// What the registry does, and what it has seen.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<State>);

#[derive(Default)]
struct State {
    calls: AtomicUsize,
    /// How many of the next calls are answered with UNAVAILABLE.
    unavailable: AtomicUsize,
    /// Calls wait for one of these, where there is one.
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// Whom it calls in turn.
    next: Mutex<Option<Client>>,
    /// What was left when a call came.
    remaining: Mutex<Option<Duration>>,
    /// How often each name was registered.
    registered: Mutex<HashMap<String, usize>>,
}

impl Registry {
    pub(crate) fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn is_unavailable_for(&self, calls: usize) {
        self.0.unavailable.store(calls, Ordering::SeqCst);
    }

    /// Nothing is answered until the gate gives permits.
    pub(crate) fn close_gate(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.0.gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    pub(crate) fn calls_in_turn(&self, next: Client) {
        *self.0.next.lock().unwrap() = Some(next);
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.0.remaining.lock().unwrap().expect("a call with a deadline came")
    }

    pub(crate) fn registered(&self) -> HashMap<String, usize> {
        self.0.registered.lock().unwrap().clone()
    }

    async fn work(&self) -> Result<(), Status> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        *self.0.remaining.lock().unwrap() = deadline::current().map(|at| at.duration_since(Instant::now()));
        let less = |left: usize| left.checked_sub(1);
        if self.0.unavailable.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return Err(Status::unavailable("as it was told"));
        }
        let gate = self.0.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.expect("the gate stays").forget();
        }
        let next = self.0.next.lock().unwrap().clone();
        if let Some(mut next) = next {
            next.get_agent(GetAgentRequest::default()).await?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    async fn get_agent(&self, _: Request<GetAgentRequest>) -> Result<Response<GetAgentResponse>, Status> {
        self.work().await?;
        Ok(Response::new(GetAgentResponse::default()))
    }

    async fn register_agent(
        &self,
        request: Request<RegisterAgentRequest>,
    ) -> Result<Response<RegisterAgentResponse>, Status> {
        self.work().await?;
        *self.0.registered.lock().unwrap().entry(request.into_inner().name).or_default() += 1;
        Ok(Response::new(RegisterAgentResponse::default()))
    }

    async fn update_agent(&self, _: Request<UpdateAgentRequest>) -> Result<Response<UpdateAgentResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_agent(&self, _: Request<DeleteAgentRequest>) -> Result<Response<DeleteAgentResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn select_agents(&self, _: Request<SelectAgentsRequest>) -> Result<Response<SelectAgentsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchAgentsStream = tokio_stream::Pending<Result<WatchAgentsResponse, Status>>;

    async fn watch_agents(&self, _: Request<WatchAgentsRequest>) -> Result<Response<Self::WatchAgentsStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }
}

/// A server of a registry.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    tasks: Tasks,
}

impl Served {
    pub(crate) async fn start(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, registry, None, None)
    }

    pub(crate) fn on(listener: TcpListener, registry: &Registry, door: Option<Door>, tls: Option<&Tls>) -> Self {
        let tasks = Tasks::new(Shutdown::new());
        let address = listener.local_addr().unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls.server()).unwrap();
        }
        let shutdown = tasks.shutdown().clone();
        let server = server
            .layer(Guard::new(door))
            .layer(Deadlines)
            .add_service(health)
            .add_service(RegistryServiceServer::new(registry.clone()))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), async move { shutdown.draining().await });
        tasks.spawn("server", OnExit::StopService, server);
        Self { address, tasks }
    }

    pub(crate) fn replicas(&self) -> Replicas {
        self.address.to_string().parse().unwrap()
    }

    /// Ends when the last call has, and every client has closed its connection.
    pub(crate) async fn drain(self) {
        self.tasks.shutdown().drain();
        let begun = Instant::now();
        self.tasks.join(PATIENCE).await.unwrap();
        assert!(begun.elapsed() < PATIENCE, "calls were cut");
    }
}

/// Owns what clients run.
pub(crate) fn tasks() -> Tasks {
    Tasks::new(Shutdown::new())
}

pub(crate) fn client(caller: &Caller, replicas: &Replicas) -> Client {
    Client::new(caller.connect("registry", replicas).unwrap())
}
