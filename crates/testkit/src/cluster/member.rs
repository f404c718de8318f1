//! One process of a cluster, which may not run at times.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use nix::sys::signal::Signal;

use crate::process::Process;

pub(super) struct Member {
    pub(super) service: &'static str,
    /// Its gRPC, or the gateway's HTTP.
    pub(super) listen: SocketAddr,
    /// What is logged, and how.
    log: (String, String),
    process: Option<Process>,
}

impl Member {
    pub(super) fn new(service: &'static str, listen: SocketAddr, log: (&str, &str)) -> Self {
        Self { service, listen, log: (log.0.to_owned(), log.1.to_owned()), process: None }
    }

    pub(super) async fn start(&mut self, directory: &Path, name: &str) -> anyhow::Result<()> {
        self.start_with(directory, name, &[]).await
    }

    /// With more in its environment, this once.
    pub(super) async fn start_with(
        &mut self,
        directory: &Path,
        name: &str,
        more: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        self.process = None;
        let mut command = Process::command(&log_path(directory, name))?;
        let (what, how) = &self.log;
        command.args(["serve", self.service, "--log-format", how, "--log", what, "--config"]);
        command.arg(directory.join(format!("{name}.toml"))).envs(more.iter().copied());
        self.process = Some(Process::start(command).await?.0);
        Ok(())
    }

    pub(super) async fn kill(&mut self) {
        self.take().kill().await;
    }

    /// None where it does not end.
    pub(super) async fn stop(&mut self) -> Option<ExitStatus> {
        self.take().stop().await
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::has_ended)
    }

    pub(super) const fn is_started(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("the process runs").signal(signal);
    }

    pub(super) fn memory(&self) -> u64 {
        self.process.as_ref().expect("the process runs").memory()
    }

    fn take(&mut self) -> Process {
        self.process.take().expect("the process runs")
    }
}

fn log_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.log"))
}

/// What it has logged so far.
pub(super) fn log(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(log_path(directory, name)).unwrap_or_default()
}
