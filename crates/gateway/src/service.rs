//! The gateway as one part of a process.

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use ::store::{Database, Redis};
use axum::Router;
use contracts::{Link, Links};
use domain::Clock;
use lifecycle::{Checks, Complaint, HealthStatus, OnExit, Shutdown, Tasks};
use telemetry::Telemetry;
use tokio::net::TcpListener;

use crate::{
    Credentials, Settings, StartError, api,
    app::{App, Parts},
    audit::{AuditStore, Log},
    auth::Auth,
    connections::{self, Limits},
    denials,
    idempotency::{self, Idempotency},
    middleware, peers, revocations, store,
    tls::Tls,
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
    /// Every replica of it, since each has sessions of its own that end with their credentials.
    pub communications: Links,
    /// Every replica of every service that has a port of its own, since what it refuses there waits in it for the audit log.
    pub denials: Vec<Links>,
    /// The process's metrics, for `/metrics`; without, that page is empty.
    pub telemetry: Option<Telemetry>,
}

/// A started gateway.
pub struct Gateway {
    app: Arc<App>,
    router: Router,
    tls: Option<Arc<Tls>>,
    database: Database,
}

/// How often it is written down which keys were used, and what has expired is removed.
const TIDY_EVERY: Duration = Duration::from_mins(1);

/// Opens the database and starts the janitors and the audit log. Serves nobody yet: see [`Gateway::serve`].
pub async fn start(
    settings: Settings,
    credentials: Credentials,
    peers: Peers,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<Gateway, StartError> {
    let tls = settings.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
    let database = store::open(&settings.database).await?;
    let idempotency = Idempotency::new(idempotency::over(&database), Arc::clone(&clock), settings.idempotency_ttl);
    let auth = Auth::new(&settings, credentials, &database, &clock).await?;
    let (audit, writer) = Log::new(store::over!(AuditStore, database), Arc::clone(&clock));
    let redis = Redis::open(&settings.redis, "gateway")?;
    let checks = peers::checks(&peers).and(checks(&database, redis.as_ref()));
    let shutdown = tasks.shutdown().clone();
    let communications = peers.communications.clone();
    let doors = peers.denials.clone();
    let parts = Parts { clock, shutdown: shutdown.clone(), idempotency, auth, audit, redis, checks };
    let app = Arc::new(App::new(settings, peers, parts));
    tasks.spawn("gateway.audit", OnExit::StopService, async move {
        writer.run(shutdown).await;
        Ok::<(), Infallible>(())
    });
    let janitor = Arc::clone(&app);
    tasks.spawn("gateway.janitor", OnExit::Continue, async move {
        // All arms are cancel-safe: a statement that is dropped is undone.
        tokio::select! {
            () = janitor.idempotency.sweep() => {}
            () = tidy(&janitor) => {}
            () = janitor.auth.tokens.follow() => {}
            () = janitor.shutdown.draining() => {}
        }
        Ok::<(), Infallible>(())
    });
    let telling = Arc::clone(&app);
    tasks.spawn("gateway.revocations", OnExit::StopService, async move {
        // Both arms are cancel-safe: what was not told is told by the next, or by another gateway.
        tokio::select! {
            () = revocations::follow(&telling.auth.tokens, communications) => {}
            () = telling.shutdown.draining() => {}
        }
        Ok::<(), Infallible>(())
    });
    let noting = Arc::clone(&app);
    tasks.spawn("gateway.denials", OnExit::StopService, async move {
        // Both arms are cancel-safe, but for what was handed over a moment ago: it is lost, as in a crash.
        tokio::select! {
            () = denials::follow(&noting, doors) => {}
            () = noting.shutdown.draining() => {}
        }
        Ok::<(), Infallible>(())
    });
    if let Some(tls) = tls.clone() {
        let shutdown = app.shutdown.clone();
        tasks.spawn("gateway.certificate", OnExit::Continue, async move {
            // Both arms are cancel-safe: a certificate is taken whole.
            tokio::select! {
                () = tls.follow() => {}
                () = shutdown.draining() => {}
            }
            Ok::<(), Infallible>(())
        });
    }
    let (router, _) = api::router().split_for_parts();
    let router = middleware::apply(api::with_pages(router), &app).with_state(Arc::clone(&app));
    Ok(Gateway { app, router, tls, database })
}

async fn tidy(app: &App) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        app.auth.keys.tidy().await;
        app.auth.tokens.tidy().await;
    }
}

/// How the servers do that the gateway needs.
fn checks(database: &Database, redis: Option<&Redis>) -> Checks {
    let database = database.clone();
    let checks = Checks::new().with("database", HealthStatus::Unhealthy, move || {
        let database = database.clone();
        async move {
            database.ping().await.map_err(|error| Complaint::failed(HealthStatus::Unhealthy, errors::chain(&error)))
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
        let (tls, router) = (self.tls.clone(), self.router.clone());
        let settings = &self.app.settings;
        let limits = Limits { most: settings.max_connections, head: settings.head_timeout };
        let drain_delay = settings.drain_delay;
        let audit = self.app.audit.clone();
        async move {
            let draining = shutdown.clone();
            let serving = connections::serve(listener, tls, router, limits, async move {
                draining.draining().await;
                // Whoever sends clients here has been told by now, or will be: until then they are let in.
                tokio::time::sleep(drain_delay).await;
            });
            tokio::select! {
                () = serving => {}
                () = shutdown.cutting() => {}
            }
            audit.close();
            Ok(())
        }
    }

    /// How long it lets clients in after a drain was asked for.
    pub fn drain_delay(&self) -> Duration {
        self.app.settings.drain_delay
    }

    /// Closes the database; call it after the tasks have ended.
    pub async fn close(self) {
        self.app.auth.keys.tidy().await;
        self.database.close().await;
    }
}
