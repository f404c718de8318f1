//! The five services as processes of their own, any number of each, on servers that can be killed and over connections that can
//! be cut.

mod member;
mod network;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use self::member::Member;
pub use self::network::Connections;
use crate::{Api, Servers, troupe};

/// How many processes there are of a service, in the order in which they are started.
pub type Size = [(&'static str, usize)];

/// One of everything, two orchestrators.
pub const TWO_ORCHESTRATORS: &Size =
    &[("registry", 1), ("communication", 1), ("orchestrator", 2), ("agent-runner", 1), ("gateway", 1)];
/// One of everything.
pub const ONE_OF_EACH: &Size =
    &[("registry", 1), ("communication", 1), ("orchestrator", 1), ("agent-runner", 1), ("gateway", 1)];
/// Two of everything.
pub const TWO_OF_EACH: &Size =
    &[("registry", 2), ("communication", 2), ("orchestrator", 2), ("agent-runner", 2), ("gateway", 2)];

/// What the processes present to each other, and agents of one's own to communication.
pub const TOKEN: &str = "a-token-of-the-tests-that-is-long";
/// The name in all certificates of an encrypted cluster.
pub const CERT_NAME: &str = "troupe.internal";
const CERTS: &str = "certs";

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// How many of each service.
    pub size: &'a Size,
    /// More settings, in the words of the file: first more of the gateway's, then sections of their own.
    pub settings: &'a str,
    /// More settings of the orchestrators, in the words of the file.
    pub orchestrator: &'a str,
    /// How long an orchestrator holds its shards without renewing.
    pub lease: &'a str,
    /// How many shards executions are spread over.
    pub shards: u32,
    /// Hand-overs of a task or message before it is a dead letter.
    pub delivery_limit: u32,
    /// What the processes log, as `--log` has it, and how, as `--log-format` has it.
    pub log: (&'a str, &'a str),
    /// Do connections go through proxies, so that they can be cut? It costs time.
    pub is_proxied: bool,
    /// Do the processes speak TLS with each other? See [`Cluster::certs`].
    pub is_encrypted: bool,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            size: ONE_OF_EACH,
            settings: "",
            orchestrator: "",
            lease: "2s",
            shards: 64,
            delivery_limit: 5,
            log: ("info", "readable"),
            is_proxied: false,
            is_encrypted: false,
        }
    }
}

/// A running cluster. Its data goes with this value.
pub struct Cluster {
    directory: TempDir,
    servers: Servers,
    processes: BTreeMap<String, Member>,
    connections: Connections,
    /// The names of the processes, in the order in which they are started.
    order: Vec<String>,
}

impl Cluster {
    /// Starts one on empty tables.
    ///
    /// # Panics
    /// Where something does not become ready.
    pub async fn start(setup: Setup<'_>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let servers = Servers::private(&["postgres", "rabbitmq", "redis"]);
        let mut processes = BTreeMap::new();
        let mut order = Vec::new();
        for (service, count) in setup.size {
            for number in 1..=*count {
                let name = format!("{service}-{number}");
                processes.insert(name.clone(), Member::new(service, own_address(), setup.log));
                order.push(name);
            }
        }
        let connections = Connections::new(&processes, &servers, setup.is_proxied).await;
        if setup.is_encrypted {
            make_certs(directory.path()).await;
        }
        for (name, process) in &processes {
            let tls = if setup.is_encrypted { tls_settings(directory.path(), process.service) } else { String::new() };
            let text = tls + &connections.settings(name, process, &processes, &servers, &setup) + setup.settings;
            std::fs::write(directory.path().join(format!("{name}.toml")), text).expect("the settings can be written");
        }
        let mut cluster = Self { directory, servers, processes, connections, order };
        for name in cluster.names("") {
            cluster.restart(&name).await;
        }
        cluster
    }

    /// The names of the processes of a service; of all where it is empty.
    pub fn names(&self, service: &str) -> Vec<String> {
        let is_of = |name: &&String| service.is_empty() || self.processes[*name].service == service;
        self.order.iter().filter(is_of).cloned().collect()
    }

    /// Where each gateway answers, as `http://127.0.0.1:…`.
    pub fn urls(&self) -> Vec<String> {
        self.names("gateway").iter().map(|name| format!("http://{}", self.processes[name].listen)).collect()
    }

    /// The same of the first.
    pub fn url(&self) -> String {
        self.urls().swap_remove(0)
    }

    /// Where a process listens.
    ///
    /// # Panics
    /// Where there is none of this name.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.processes[name].listen
    }

    /// A client for the API of the first gateway.
    pub fn api(&self) -> Api {
        Api::new(self.url())
    }

    /// The file with the settings of a process.
    pub fn settings(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.toml"))
    }

    /// Where communication answers agents, as `host:port`.
    pub fn communications(&self) -> Vec<String> {
        self.names("communication").iter().map(|name| self.processes[name].listen.to_string()).collect()
    }

    /// The folder that `troupe certs` has filled, where the processes speak TLS. All certificates are made out to [`CERT_NAME`].
    pub fn certs(&self) -> PathBuf {
        self.directory.path().join(CERTS)
    }

    /// What every process has logged so far.
    pub fn logs(&self) -> String {
        let log = |name: &String| format!("--- {name}\n{}", self.log(name));
        self.order.iter().map(log).collect::<Vec<_>>().join("\n")
    }

    /// The URL of the database that all of them have.
    pub fn postgres(&self) -> &str {
        self.servers.postgres()
    }

    /// What a process has logged so far.
    pub fn log(&self, name: &str) -> String {
        member::log(self.directory.path(), name)
    }

    /// SIGKILL, at once.
    ///
    /// # Panics
    /// Where the process cannot be killed.
    pub async fn kill(&mut self, name: &str) {
        self.process(name).kill().await;
    }

    /// SIGTERM, and its exit code.
    ///
    /// # Panics
    /// Where it does not end.
    pub async fn stop(&mut self, name: &str) -> Option<i32> {
        match self.process(name).stop().await {
            Some(status) => status.code(),
            None => panic!("{name} does not drain in time: {}", self.logs()),
        }
    }

    /// Stops a process where it stands, until [`Self::resume`].
    pub fn pause(&mut self, name: &str) {
        self.process(name).signal(Signal::SIGSTOP);
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self, name: &str) {
        self.process(name).signal(Signal::SIGCONT);
    }

    /// Starts a process that does not run.
    ///
    /// # Panics
    /// Where it does not become ready.
    pub async fn restart(&mut self, name: &str) {
        let directory = self.directory.path().to_owned();
        if let Err(error) = self.process(name).start(&directory, name).await {
            panic!("{name} did not start: {error:#}\n{}", self.log(name));
        }
    }

    /// The same with more in its environment, this once. False where it ends before it is ready.
    pub async fn restart_with(&mut self, name: &str, more: &[(&str, &str)]) -> bool {
        let directory = self.directory.path().to_owned();
        self.process(name).start_with(&directory, name, more).await.is_ok()
    }

    /// Was a process started, and not killed or stopped since?
    pub fn is_started(&mut self, name: &str) -> bool {
        self.process(name).is_started()
    }

    /// Has a process ended by itself?
    pub fn has_ended(&mut self, name: &str) -> bool {
        self.process(name).has_ended()
    }

    /// SIGTERM; it may take its time.
    pub fn terminate(&mut self, name: &str) {
        self.process(name).signal(Signal::SIGTERM);
    }

    /// Which processes have ended by themselves.
    pub fn ended(&mut self) -> Vec<String> {
        self.processes.iter_mut().filter_map(|(name, process)| process.has_ended().then(|| name.clone())).collect()
    }

    /// What a process has in memory, in bytes.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn memory(&self, name: &str) -> u64 {
        self.processes[name].memory()
    }

    /// The servers that the cluster stands on.
    pub const fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The connections that go through proxies.
    pub const fn connections(&self) -> &Connections {
        &self.connections
    }

    fn process(&mut self, name: &str) -> &mut Member {
        self.processes.get_mut(name).expect("there is a process of this name")
    }
}

impl Drop for Cluster {
    /// A test that fails shows what its processes have logged last.
    fn drop(&mut self) {
        const LINES: usize = 150;
        if std::thread::panicking() {
            for name in &self.order {
                let log = self.log(name);
                let lines: Vec<_> = log.lines().collect();
                eprintln!("--- {name}\n{}", lines[lines.len().saturating_sub(LINES)..].join("\n"));
            }
        }
    }
}

async fn make_certs(directory: &Path) {
    let folder = directory.join(CERTS);
    let made = troupe("", &["certs", "--dir", &folder.display().to_string(), "--host", CERT_NAME]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
}

/// The first lines of the file with a process's settings.
fn tls_settings(directory: &Path, service: &str) -> String {
    let file = |name: &str| directory.join(CERTS).join(name).display().to_string();
    format!(
        "[serve.tls]\nca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}\nserver_name = {CERT_NAME:?}\n",
        file("ca.pem"),
        file(&format!("{service}.pem")),
        file(&format!("{service}-key.pem")),
    )
}

/// An address of loopback that is nobody else's: no port that is chosen by the system for something else can be in the way, now
/// or after a restart.
pub fn own_address() -> SocketAddr {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let octet = |number: u32| u8::try_from(1 + number % 250).unwrap_or(1);
    let process = std::process::id();
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    SocketAddr::from((Ipv4Addr::new(127, octet(process / 250), octet(process), number), 50051))
}
