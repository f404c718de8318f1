#![doc = include_str!("../README.md")]

mod api;
mod app;
mod error;
mod metrics;
mod settings;
mod store;
mod workers;

use std::sync::Arc;

use contracts::{Link, registry::v1::registry_service_server::RegistryServiceServer};
use domain::Clock;
use lifecycle::{Checks, Complaint, HealthStatus, Shutdown, Tasks};
use tonic::service::Routes;

use self::{
    api::Api,
    app::{Directory, Leases, Registry},
};
pub use self::{error::StartError, settings::Settings, store::MIGRATIONS};

/// A running registry.
#[derive(Clone)]
pub struct Service {
    registry: Arc<Registry>,
    server: RegistryServiceServer<Api>,
}

/// Opens the database and reads every agent. Nobody is alive before communication has said so.
///
/// `edge` drains before `tasks` do, and ends what callers watch.
pub async fn start(
    settings: Settings,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
    edge: Shutdown,
) -> Result<Service, StartError> {
    let store = store::open(&settings.database).await?;
    let leases = Leases { lease: settings.lease, late_after: settings.late_after };
    let directory = Directory::new(leases, settings.watch_buffer);
    let registry = Registry::load(store, clock, directory, settings.max_config.0).await.map_err(StartError::Load)?;
    let registry = Arc::new(registry);
    workers::spawn(&registry, tasks);
    let server = RegistryServiceServer::new(Api::new(Arc::clone(&registry), edge))
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    Ok(Service { registry, server })
}

impl Service {
    /// Its gRPC service.
    pub fn routes(&self) -> Routes {
        Routes::new(self.server.clone())
    }

    /// The same, called in process.
    pub fn link(&self) -> Link {
        Link::local(self.server.clone())
    }

    /// How the things do that it needs.
    pub fn checks(&self) -> Checks {
        let registry = Arc::clone(&self.registry);
        Checks::new().with("database", HealthStatus::Unhealthy, move || {
            let registry = Arc::clone(&registry);
            async move {
                registry.ping().await.map_err(|error| Complaint::failed(HealthStatus::Unhealthy, errors::chain(&error)))
            }
        })
    }

    /// Closes the database; after its tasks have ended.
    pub async fn close(self) {
        self.registry.close().await;
    }
}
