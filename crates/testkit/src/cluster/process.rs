//! One process of a cluster.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::command;

/// How long a process may take to say that it is ready, or to end when asked to.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) struct Process {
    pub(super) service: &'static str,
    /// Its gRPC, or the gateway's HTTP.
    pub(super) listen: SocketAddr,
    child: Option<Child>,
}

impl Process {
    pub(super) const fn new(service: &'static str, listen: SocketAddr) -> Self {
        Self { service, listen, child: None }
    }

    pub(super) async fn start(&mut self, directory: &Path, name: &str) -> anyhow::Result<()> {
        self.start_with(directory, name, &[]).await
    }

    pub(super) async fn start_with(
        &mut self,
        directory: &Path,
        name: &str,
        more: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        self.child = None;
        let log = std::fs::File::options().create(true).append(true).open(log_path(directory, name))?;
        let mut child = Command::new(command::binary())
            .args(["serve", self.service, "--log-format", "readable", "--log", "info", "--config"])
            .arg(directory.join(format!("{name}.toml")))
            .envs(more.iter().copied())
            .current_dir(command::workspace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot run the binary")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        let ready = timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("ready ") {
                    return Ok(());
                }
            }
            bail!("it ended before it was ready")
        });
        ready.await.context("it was not ready in time")??;
        self.child = Some(child);
        Ok(())
    }

    pub(super) async fn kill(&mut self) {
        let mut child = self.take();
        child.start_kill().expect("the process can be killed");
        child.wait().await.expect("a killed process ends");
    }

    /// None where it does not end.
    pub(super) async fn stop(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let mut child = self.take();
        let status = timeout(PATIENCE, child.wait()).await.ok()?;
        Some(status.expect("its status can be had"))
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    pub(super) const fn is_started(&self) -> bool {
        self.child.is_some()
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id).expect("the process runs");
        signal::kill(Pid::from_raw(pid.cast_signed()), signal).expect("a running process can be signalled");
    }

    fn take(&mut self) -> Child {
        self.child.take().expect("the process runs")
    }
}

fn log_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.log"))
}

/// What it has logged so far.
pub(super) fn log(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(log_path(directory, name)).unwrap_or_default()
}
