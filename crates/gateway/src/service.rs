//! The gateway as one part of a process.

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use axum::Router;
use contracts::Link;
use domain::Clock;
use lifecycle::{Checks, Complaint, HealthStatus, OnExit, Shutdown, Tasks};
use store::Redis;
use telemetry::Telemetry;
use tokio::net::TcpListener;

use crate::{
    ApiKey, Settings, StartError, api,
    app::{App, Parts},
    connections::{self, Limits},
    idempotency::{self, Idempotency, Store},
    middleware, peers,
};

/// The services that the gateway calls, and what it shows of its own process.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Agents.
    pub registry: Link,
    /// Workflows and executions.
    pub orchestrator: Link,
    /// Messages and dead letters.
    pub communication: Link,
    /// The process's metrics, for `/metrics`; without, that page is empty.
    pub telemetry: Option<Telemetry>,
}

/// A started gateway.
pub struct Gateway {
    app: Arc<App>,
    router: Router,
}

/// Opens the database and starts the janitor. Serves nobody yet: see [`Gateway::serve`].
pub async fn start(
    settings: Settings,
    api_key: Option<ApiKey>,
    peers: Peers,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<Gateway, StartError> {
    let store = idempotency::open(&settings.database).await?;
    let idempotency = Idempotency::new(Arc::clone(&store), Arc::clone(&clock), settings.idempotency_ttl);
    let redis = Redis::open(&settings.redis, "gateway")?;
    let checks = peers::checks(&peers).and(checks(&store, redis.as_ref()));
    let shutdown = tasks.shutdown().clone();
    let app = Arc::new(App::new(settings, peers, Parts { clock, shutdown, idempotency, api_key, redis, checks }));
    let janitor = Arc::clone(&app);
    tasks.spawn("gateway.janitor", OnExit::Continue, async move {
        // Both arms are cancel-safe: a statement that is dropped is undone.
        tokio::select! {
            () = janitor.idempotency.sweep() => {}
            () = janitor.shutdown.draining() => {}
        }
        Ok::<(), Infallible>(())
    });
    let (router, _) = api::router().split_for_parts();
    let router = middleware::apply(api::with_pages(router), &app).with_state(Arc::clone(&app));
    Ok(Gateway { app, router })
}

/// How the servers do that the gateway needs.
fn checks(store: &Arc<dyn Store>, redis: Option<&Redis>) -> Checks {
    let store = Arc::clone(store);
    let checks =
        Checks::new().with("database", HealthStatus::Unhealthy, move || {
            let store = Arc::clone(&store);
            async move {
                store.ping().await.map_err(|error| Complaint::failed(HealthStatus::Unhealthy, errors::chain(&error)))
            }
        });
    let Some(redis) = redis.cloned() else { return checks };
    // Without it replicas count requests each for itself.
    checks.with("redis", HealthStatus::Degraded, move || {
        let redis = redis.clone();
        async move {
            redis
                .health()
                .await
                .into_result()
                .map(drop)
                .map_err(|error| Complaint::failed(HealthStatus::Degraded, errors::chain(&error)))
        }
    })
}

impl Gateway {
    /// Everything that it serves, to be driven without a socket. Cloning is cheap.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Serves HTTP until the shutdown drains and the requests in work have ended, or until it cuts.
    ///
    /// The caller has checked with [`check_listen`](crate::check_listen) that it may listen there.
    pub fn serve(
        &self,
        listener: TcpListener,
        shutdown: Shutdown,
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let router = self.router.clone();
        let settings = &self.app.settings;
        let limits = Limits { most: settings.max_connections, head: settings.head_timeout };
        let drain_delay = settings.drain_delay;
        async move {
            let draining = shutdown.clone();
            let serving = connections::serve(listener, router, limits, async move {
                draining.draining().await;
                // Whoever sends clients here has been told by now, or will be: until then they are let in.
                tokio::time::sleep(drain_delay).await;
            });
            tokio::select! {
                () = serving => Ok(()),
                () = shutdown.cutting() => Ok(()),
            }
        }
    }

    /// How long it lets clients in after a drain was asked for.
    pub fn drain_delay(&self) -> Duration {
        self.app.settings.drain_delay
    }

    /// Closes the database; call it after the tasks have ended.
    pub async fn close(self) {
        self.app.idempotency.close().await;
    }
}
