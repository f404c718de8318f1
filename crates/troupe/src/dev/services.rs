//! INTERIM.
use super::{
    Stages,
    data_dir::DataDir,
    grpc::{self, Grpc},
};
use lifecycle::OnExit;
use serde::Serialize;
use telemetry::Telemetry;
use tokio::net::TcpListener;
use tonic_health::server::HealthReporter;
pub(super) mod gateway {
    use std::net::SocketAddr;
    pub(crate) fn check_listen(_a: SocketAddr) -> Result<(), std::io::Error> {
        Ok(())
    }
    #[derive(Debug, serde::Serialize)]
    pub(crate) struct Settings {
        pub listen: SocketAddr,
    }
}
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    pub(super) gateway: gateway::Settings,
}
impl Settings {
    pub(super) fn load(_f: Option<&std::path::Path>) -> Result<Self, settings::Error> {
        Ok(Self { gateway: gateway::Settings { listen: ([127, 0, 0, 1], 8080).into() } })
    }
    pub(super) fn place(&mut self, d: &DataDir) {
        let _ = d.database("x");
    }
}
pub(super) struct Services {
    health: HealthReporter,
}
impl Services {
    pub(super) async fn start(
        _s: &Settings,
        stages: &Stages,
        _t: Telemetry,
        _http: TcpListener,
        grpc: TcpListener,
    ) -> anyhow::Result<Self> {
        let health = HealthReporter::new();
        let g = Grpc::new([], &health)?;
        stages.edge.spawn("grpc", OnExit::StopService, g.serve(grpc, stages.edge.shutdown().clone()));
        Ok(Self { health })
    }
    pub(super) async fn not_serving(&self) {
        grpc::not_serving(&self.health).await;
    }
    pub(super) async fn close(self) {}
}
