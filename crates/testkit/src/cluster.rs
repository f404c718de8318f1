//! The five services as processes of their own, on a PostgreSQL that can be killed.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
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

use crate::{Api, Servers, command};

/// How long a process may take to say that it is ready, or to end when asked to.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many processes there are of a service, in the order in which they are started.
pub type Size = [(&'static str, usize)];

/// One of everything, two orchestrators.
pub const TWO_ORCHESTRATORS: &Size =
    &[("registry", 1), ("communication", 1), ("orchestrator", 2), ("agent-runner", 1), ("gateway", 1)];

/// A running cluster. Its data goes with this value.
pub struct Cluster {
    directory: TempDir,
    servers: Servers,
    http: SocketAddr,
    processes: BTreeMap<String, Process>,
    /// The names of the processes, in the order in which they are started.
    order: Vec<String>,
}

struct Process {
    service: &'static str,
    listen: SocketAddr,
    child: Option<Child>,
}

impl Cluster {
    /// Starts one on empty tables, with more settings of the gateway in the words of the file.
    ///
    /// # Panics
    /// Where something does not become ready.
    pub async fn start(size: &Size, settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let servers = Servers::private(&["postgres"]);
        let mut processes = BTreeMap::new();
        let mut order = Vec::new();
        for (service, count) in size {
            for number in 1..=*count {
                let name = format!("{service}-{number}");
                processes.insert(name.clone(), Process { service, listen: free_address(), child: None });
                order.push(name);
            }
        }
        let mut cluster = Self { directory, servers, http: free_address(), processes, order };
        cluster.write_settings(settings);
        for name in cluster.names("") {
            cluster.restart(&name).await;
        }
        cluster
    }

    fn write_settings(&self, more: &str) {
        let of = |service: &str| {
            let processes = self.processes.values().filter(|process| process.service == service);
            processes.map(|process| process.listen.to_string()).collect::<Vec<_>>().join(",")
        };
        let database = format!("database = {{ url = {:?} }}", self.servers.postgres());
        let text = format!(
            "[serve]\nregistry = {:?}\ncommunication = {:?}\norchestrator = {:?}\ntoken = \"a token of the tests\"\n\
             [registry]\n{database}\n[communication]\n{database}\n[orchestrator]\n{database}\nlease = \"2s\"\n\
             [gateway]\n{database}\nlisten = {:?}\n{more}",
            of("registry"),
            of("communication"),
            of("orchestrator"),
            self.http.to_string(),
        )
        .replace("a token of the tests", "a-token-of-the-tests");
        std::fs::write(self.directory.path().join("troupe.toml"), text).expect("the settings can be written");
    }

    /// The names of the processes of a service; of all where it is empty.
    pub fn names(&self, service: &str) -> Vec<String> {
        let is_of = |name: &&String| service.is_empty() || self.processes[*name].service == service;
        self.order.iter().filter(is_of).cloned().collect()
    }

    /// `http://127.0.0.1:…`
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// A client for its API.
    pub fn api(&self) -> Api {
        Api::new(self.url())
    }

    /// What every process has logged so far.
    pub fn logs(&self) -> String {
        let log = |name: &String| format!("--- {name}\n{}", log_of(self.directory.path(), name));
        self.order.iter().map(log).collect::<Vec<_>>().join("\n")
    }

    /// What a process has logged so far.
    pub fn log(&self, name: &str) -> String {
        log_of(self.directory.path(), name)
    }

    /// SIGKILL, at once.
    ///
    /// # Panics
    /// Where the process cannot be killed.
    pub async fn kill(&mut self, name: &str) {
        let mut child = self.take(name);
        child.start_kill().expect("the process can be killed");
        child.wait().await.expect("a killed process ends");
    }

    /// SIGTERM, and its exit code.
    ///
    /// # Panics
    /// Where it does not end.
    pub async fn stop(&mut self, name: &str) -> Option<i32> {
        self.signal(name, Signal::SIGTERM);
        let mut child = self.take(name);
        let status = timeout(PATIENCE, child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{name} does not drain in time: {}", self.logs()));
        status.expect("its status can be had").code()
    }

    /// Stops a process where it stands, until [`Self::resume`].
    pub fn pause(&mut self, name: &str) {
        self.signal(name, Signal::SIGSTOP);
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self, name: &str) {
        self.signal(name, Signal::SIGCONT);
    }

    /// Starts a process that does not run.
    ///
    /// # Panics
    /// Where it does not become ready.
    pub async fn restart(&mut self, name: &str) {
        let process = self.processes.get_mut(name).expect("there is a process of this name");
        match spawn(self.directory.path(), name, process).await {
            Ok(child) => process.child = Some(child),
            Err(error) => panic!("{name} did not start: {error:#}\n{}", log_of(self.directory.path(), name)),
        }
    }

    /// Which processes have ended by themselves.
    pub fn ended(&mut self) -> Vec<String> {
        let has_ended =
            |process: &mut Process| process.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        self.processes.iter_mut().filter_map(|(name, process)| has_ended(process).then(|| name.clone())).collect()
    }

    /// The servers that the cluster stands on.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    fn take(&mut self, name: &str) -> Child {
        self.processes.get_mut(name).and_then(|process| process.child.take()).expect("the process runs")
    }

    fn signal(&self, name: &str, signal: Signal) {
        let pid = self.processes[name].child.as_ref().and_then(Child::id).expect("the process runs");
        signal::kill(Pid::from_raw(pid.cast_signed()), signal).expect("a running process can be signalled");
    }
}

impl Drop for Cluster {
    /// A test that fails shows what its processes have logged last.
    fn drop(&mut self) {
        const LINES: usize = 150;
        if std::thread::panicking() {
            for name in &self.order {
                let log = log_of(self.directory.path(), name);
                let lines: Vec<_> = log.lines().collect();
                eprintln!("--- {name}\n{}", lines[lines.len().saturating_sub(LINES)..].join("\n"));
            }
        }
    }
}

async fn spawn(directory: &Path, name: &str, process: &Process) -> anyhow::Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(log_path(directory, name))?;
    let mut child = Command::new(command::binary())
        .args(["serve", process.service, "--log-format", "readable", "--log", "info", "--config"])
        .arg(directory.join("troupe.toml"))
        .env("TROUPE_SERVE__LISTEN", process.listen.to_string())
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
    Ok(child)
}

/// An address that nothing listens on now. Processes keep theirs over restarts, as the others know them by it.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    listener.local_addr().expect("a listener has an address")
}

fn log_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.log"))
}

fn log_of(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(log_path(directory, name)).unwrap_or_default()
}
