//! `troupe dev` as a process of its own.

use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{Api, process::Process};

/// A running `troupe dev`, on ports that were free, with its own data directory that outlives kills and restarts and goes
/// with this value.
pub struct Server {
    directory: TempDir,
    environment: Vec<(String, String)>,
    process: Process,
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
            Ok((process, http, grpc)) => Self { directory, environment, process, http, grpc },
            Err(error) => panic!("troupe dev did not start: {error:#}\n{}", log_of(directory.path())),
        }
    }

    /// Starts one on data that was made elsewhere, which it takes over.
    ///
    /// # Panics
    /// Where the data cannot be moved, or it does not become ready.
    pub async fn start_on(data: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::rename(data, directory.path().join("data")).expect("data can be moved");
        match spawn(directory.path(), &[]).await {
            Ok((process, http, grpc)) => Self { directory, environment: Vec::new(), process, http, grpc },
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
        self.process.kill().await;
    }

    /// Starts it again on the same data and, since ports of this machine may be taken meanwhile, on new ports.
    ///
    /// # Panics
    /// Where it does not become ready.
    pub async fn restart(&mut self) {
        match spawn(self.directory.path(), &self.environment).await {
            Ok((process, http, grpc)) => (self.process, self.http, self.grpc) = (process, http, grpc),
            Err(error) => panic!("troupe dev did not start again: {error:#}\n{}", self.log()),
        }
    }

    /// The same with more in its environment, this once. False where it ends before it is ready.
    pub async fn restart_with(&mut self, more: &[(&str, &str)]) -> bool {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment: Vec<_> = self.environment.iter().cloned().chain(more).collect();
        match spawn(self.directory.path(), &environment).await {
            Ok((process, http, grpc)) => {
                (self.process, self.http, self.grpc) = (process, http, grpc);
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
        self.process.signal(Signal::SIGTERM);
    }

    /// SIGTERM, and its exit code.
    ///
    /// # Panics
    /// Where it does not end.
    pub async fn stop(&mut self) -> Option<i32> {
        self.process.stop().await.expect("troupe dev drains in time").code()
    }

    /// What it has in memory, in bytes.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn memory(&self) -> u64 {
        self.process.memory()
    }

    /// Has it ended by itself?
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }
}

async fn spawn(directory: &Path, environment: &[(String, String)]) -> anyhow::Result<(Process, String, String)> {
    let mut command = Process::command(&directory.join("stderr.log"))?;
    command.args(["dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--data-dir"]).arg(directory.join("data"));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let (process, said) = Process::start(command).await?;
    let (http, grpc) = addresses(&said).with_context(|| format!("it said {said:?}"))?;
    Ok((process, http, grpc))
}

/// `http=127.0.0.1:8080 grpc=127.0.0.1:50051`
fn addresses(said: &str) -> Option<(String, String)> {
    let value =
        |name: &str| said.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    Some((value("http")?, value("grpc")?))
}

fn log_of(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("stderr.log")).unwrap_or_default()
}
