//! What `dev` and `serve` have in common: ports, logs, signals, and a stop in two stages.

pub(crate) mod grpc;
mod prompt;

use std::{net::SocketAddr, path::Path, pin::pin, time::Duration};

use anyhow::{Context as _, anyhow};
use futures::future::{Either, select};
use lifecycle::{Shutdown, TaskFailed, Tasks};
use telemetry::{LogFormat, Telemetry};
use tokio::net::TcpListener;

/// How long what runs may take to finish.
const EDGE_GRACE: Duration = Duration::from_secs(10);
/// How long the last commits may take after that.
const CORE_GRACE: Duration = Duration::from_secs(10);

/// Options of the log.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// What is logged, such as `info` or `warn,orchestrator=debug`
    #[arg(long, env = "TROUPE_LOG", default_value = "warn", value_name = "FILTER")]
    log: String,
    /// How logs look; the default of `dev` is readable, of `serve` json
    #[arg(long, value_enum, env = "TROUPE_LOG_FORMAT")]
    log_format: Option<Format>,
}

impl LogArgs {
    /// Sets up logs, and the spans of the process, under its name.
    pub(crate) fn install(
        &self,
        service: &str,
        settings: &telemetry::Settings,
        otherwise: LogFormat,
    ) -> anyhow::Result<Telemetry> {
        let format = self.log_format.map_or(otherwise, LogFormat::from);
        Telemetry::install(service, settings, &self.log, format).context("cannot set up logs and spans")
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// Lines for people
    Readable,
    /// One JSON object per line
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Readable => Self::Readable,
            Format::Json => Self::Json,
        }
    }
}

pub(crate) async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| match address.port() {
        0 => format!("cannot listen on {address}"),
        port => format!(
            "cannot listen on {address}; if port {port} is taken, choose another with {flag} {}:0",
            address.ip()
        ),
    })
}

/// The two stages of a stop: each with its own tasks.
#[derive(Debug)]
pub(crate) struct Stages {
    pub(crate) stop: Shutdown,
    /// Takes work in.
    pub(crate) edge: Tasks,
    /// What the edge stands on; drains after it.
    pub(crate) core: Tasks,
}

impl Stages {
    pub(crate) fn new() -> Self {
        let stop = Shutdown::new();
        let edge = Tasks::new(stop.child());
        Self { stop, edge, core: Tasks::new(Shutdown::new()) }
    }

    /// Waits until a stop is asked for, or a task has died that the process cannot do without.
    pub(crate) async fn stopping(&self) {
        // All arms are cancel-safe.
        tokio::select! {
            () = self.stop.draining() => {}
            () = self.edge.shutdown().draining() => {}
            () = self.core.shutdown().draining() => {}
        }
        self.stop.drain();
    }

    pub(crate) fn cut(&self) {
        self.stop.cut();
        self.core.shutdown().cut();
    }

    /// Waits for what runs: first the edge, which may take in work for `delay` still, then what it stands on.
    pub(crate) async fn end(&self, delay: Duration) -> Result<(), TaskFailed> {
        let edge = self.edge.clone().join(EDGE_GRACE + delay).await;
        self.core.shutdown().drain();
        let core = self.core.clone().join(CORE_GRACE).await;
        edge.and(core)
    }
}

/// Runs `serving` to its end, while signals drain and cut it.
pub(crate) async fn until_stopped(
    stages: &Stages,
    serving: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let signals = pin!(lifecycle::on_signals(stages.stop.clone()));
    match select(signals, pin!(serving)).await {
        Either::Right((outcome, _)) => outcome,
        Either::Left((signals, serving)) => {
            stages.cut();
            let outcome = serving.await;
            signals.context("cannot listen for signals")?;
            outcome
        }
    }
}

/// With what the gateway knows people again. A new API key is told once, on standard error: whoever starts the gateway is its
/// first user. `secret` is where its own secret is where the settings do not say.
pub(crate) fn credentials(
    settings: &gateway::Settings,
    secret: Option<&Path>,
    shared: Option<access::Keys>,
) -> anyhow::Result<gateway::Credentials> {
    let file = settings.api_key_file.clone().unwrap_or_default();
    let told = |key: &str| {
        eprintln!("a new API key was made, and is kept in {}; clients present it as X-API-Key:\n{key}", file.display());
    };
    let api_key = gateway::ApiKey::of(settings, told)?;
    Ok(gateway::Credentials { api_key, secret: gateway::secret(settings, secret)?, shared, metrics: None })
}

/// An error with what to do about it, where that is known.
pub(crate) fn told(error: anyhow::Error) -> anyhow::Error {
    let hint = error.chain().find_map(|cause| {
        if cause.is::<store::OpenError>() {
            return Some(
                "a database does not open. If its file is damaged, restore the data directory from a backup, or move the \
                 file away to begin with an empty one; if a newer release wrote it, run that release",
            );
        }
        cause.is::<settings::Error>().then_some("docs/configuration.md lists every setting; --print-config shows the effective ones")
    });
    match hint {
        Some(hint) => anyhow!("{error:#}\nhint: {hint}"),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use lifecycle::OnExit;

    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = bind(taken.local_addr().unwrap(), "--http").await.unwrap_err();
        assert!(error.to_string().contains("--http 127.0.0.1:0"), "{error}");
    }

    #[tokio::test]
    async fn a_core_task_that_dies_stops_the_edge() {
        let stages = Stages::new();
        stages.core.spawn("worker", OnExit::StopService, async { Err("disk full") });
        let edge = stages.edge.shutdown().clone();
        stages.edge.spawn("front", OnExit::StopService, async move {
            edge.draining().await;
            Ok::<(), Infallible>(())
        });
        stages.stopping().await;
        stages.edge.join(EDGE_GRACE).await.unwrap();
        assert_eq!(stages.core.join(CORE_GRACE).await.unwrap_err().task, "worker");
    }

    #[tokio::test]
    async fn the_core_outlives_the_edge_in_a_drain() {
        let stages = Stages::new();
        stages.stop.drain();
        stages.stopping().await;
        assert!(stages.edge.shutdown().is_draining());
        assert!(!stages.core.shutdown().is_draining());
    }
}
