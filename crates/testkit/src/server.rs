//! `troupe dev` as a process of its own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{Api, command};

/// How long the server may take to say that it is ready, or to end when asked to.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running `troupe dev`, on ports that were free, with its own data directory that outlives kills and restarts and goes
/// with this value.
pub struct Server {
    directory: TempDir,
    environment: Vec<(String, String)>,
    child: Child,
    http: String,
    grpc: String,
}

impl Server {
    /// Starts one on an empty data directory.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with settings from the environment.
    ///
    /// # Panics
    /// Where it does not become ready.
    pub async fn start_with(environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        match spawn(directory.path(), &environment).await {
            Ok((child, http, grpc)) => Self { directory, environment, child, http, grpc },
            Err(error) => panic!("troupe dev did not start: {error:#}\n{}", log_of(directory.path())),
        }
    }

    /// `http://127.0.0.1:…`
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// `http://127.0.0.1:…` of gRPC.
    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// A client for its API.
    pub fn api(&self) -> Api {
        Api::new(self.url())
    }

    /// Where its databases are.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        log_of(self.directory.path())
    }

    /// SIGKILL, at once.
    ///
    /// # Panics
    /// Where the process cannot be killed.
    pub async fn kill(&mut self) {
        self.child.start_kill().expect("the process can be killed");
        self.child.wait().await.expect("a killed process ends");
    }

    /// Starts it again on the same data and, since ports of this machine may be taken meanwhile, on new ports.
    ///
    /// # Panics
    /// Where it does not become ready.
    pub async fn restart(&mut self) {
        match spawn(self.directory.path(), &self.environment).await {
            Ok((child, http, grpc)) => (self.child, self.http, self.grpc) = (child, http, grpc),
            Err(error) => panic!("troupe dev did not start again: {error:#}\n{}", self.log()),
        }
    }

    /// The same with more in its environment, this once. False where it ends before it is ready.
    pub async fn restart_with(&mut self, more: &[(&str, &str)]) -> bool {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment: Vec<_> = self.environment.iter().cloned().chain(more).collect();
        match spawn(self.directory.path(), &environment).await {
            Ok((child, http, grpc)) => {
                (self.child, self.http, self.grpc) = (child, http, grpc);
                true
            }
            Err(_) => false,
        }
    }

    /// SIGTERM; it may take its time.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn terminate(&self) {
        let pid = self.child.id().expect("the process still runs");
        signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).expect("a running process can be signalled");
    }

    /// SIGTERM, and its exit code.
    ///
    /// # Panics
    /// Where it does not end.
    pub async fn stop(&mut self) -> Option<i32> {
        self.terminate();
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .expect("troupe dev drains in time")
            .expect("its status can be had");
        status.code()
    }

    /// Has it ended by itself?
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

async fn spawn(directory: &Path, environment: &[(String, String)]) -> anyhow::Result<(Child, String, String)> {
    let log = std::fs::File::options().create(true).append(true).open(directory.join("stderr.log"))?;
    let mut child = Command::new(command::binary())
        .args(["dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--data-dir"])
        .arg(directory.join("data"))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(command::workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("cannot run the binary")?;
    let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
    let addresses = timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await? {
            if let Some(addresses) = parse_ready(&line) {
                return Ok(addresses);
            }
        }
        bail!("it ended before it was ready")
    })
    .await
    .context("it was not ready in time")??;
    Ok((child, addresses.0, addresses.1))
}

/// `ready http=127.0.0.1:8080 grpc=127.0.0.1:50051`
fn parse_ready(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix("ready ")?;
    let value =
        |name: &str| rest.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    Some((value("http")?, value("grpc")?))
}

fn log_of(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("stderr.log")).unwrap_or_default()
}
