//! `troupe serve`: processes that refuse to be open, say how they do, and log for machines.

use std::process::Stdio;

use serde_json::{Value, json};
use testkit::{Cluster, Setup, binary, eventually, own_address, troupe, troupe_with};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// Nobody listens for everybody without something to ask for.
#[tokio::test]
async fn a_process_that_would_be_open_to_all_does_not_start() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("troupe.toml");
    let database = |name: &str| folder.path().join(name).display().to_string();
    let settings = format!(
        "[registry]\ndatabase = {{ path = {:?} }}\n[gateway]\ndatabase = {{ path = {:?} }}\n",
        database("registry.db"),
        database("gateway.db")
    );
    std::fs::write(&file, settings).expect("the settings can be written");
    let file = file.display().to_string();
    for (service, setting, wanted) in [
        ("registry", "TROUPE_SERVE__LISTEN", "serve.token_file"),
        ("registry", "TROUPE_SERVE__HTTP", "serve.token_file"),
        ("gateway", "TROUPE_GATEWAY__LISTEN", "gateway.api_key"),
    ] {
        let output = troupe_with(&[(setting, "0.0.0.0:0")], &["serve", service, "--config", &file]).await;
        assert_eq!(output.code, Some(1), "{service}: {} {}", output.stdout, output.stderr);
        assert!(output.stderr.contains(wanted), "{service} says what it wants: {}", output.stderr);
        assert!(!output.stdout.contains("ready"), "{service}: {}", output.stdout);
    }
}

/// The key that opens everything is told once, to whoever starts the first gateway.
#[tokio::test]
async fn a_gateways_first_key_is_told_once() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let (database, key) = (folder.path().join("gateway.db"), folder.path().join("api-key"));
    let file = folder.path().join("troupe.toml");
    let settings = format!(
        "[serve]\nregistry = \"127.0.0.1:1\"\ncommunication = \"127.0.0.1:1\"\norchestrator = \"127.0.0.1:1\"\n\
         [gateway]\nlisten = \"127.0.0.1:0\"\napi_key_file = {key:?}\ndatabase = {{ path = {database:?} }}\n"
    );
    std::fs::write(&file, settings).expect("the settings can be written");
    let mut told = Vec::new();
    for _ in 0..2 {
        let mut gateway = start("gateway", &file, &[]);
        gateway.ready().await;
        told.push(gateway.ended_log().await);
    }
    let made = std::fs::read_to_string(&key).expect("the key is kept");
    assert_eq!(told.iter().map(|log| log.matches(made.trim()).count()).collect::<Vec<_>>(), [1, 0], "{told:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_says_how_what_it_depends_on_does() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let mut ports = Vec::new();
    let wanted: [(&str, &[&str]); 4] = [
        ("registry-1", &["database"]),
        ("communication-1", &["broker", "database", "redis", "registry"]),
        ("orchestrator-1", &["communication", "database", "redis", "registry"]),
        ("agent-runner-1", &["communication", "registry"]),
    ];
    for (name, dependencies) in wanted {
        let http = own_address().to_string();
        assert_eq!(cluster.stop(name).await, Some(0), "{name}");
        assert!(cluster.restart_with(name, &[("TROUPE_SERVE__HTTP", &http)]).await, "{}", cluster.log(name));
        let report = eventually(&format!("{name} is well"), async || {
            let report = health(&http).await;
            if report["status"] == "healthy" { Ok(report) } else { Err(report) }
        })
        .await;
        let checks = report["checks"].as_array().expect("there is a list of them");
        let mut names: Vec<_> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, dependencies, "{name}: {report:#}");
        assert!(
            checks.iter().all(|check| check["latency_ms"].as_f64().is_some_and(|latency| latency >= 0.0)),
            "{report:#}"
        );
        ports.push((name, http));
    }
    cluster.servers().control("kill", "redis");
    for (name, http) in &ports[1..3] {
        eventually(&format!("{name} goes on without Redis"), async || {
            let report = health(http).await;
            let redis = report["checks"].as_array().into_iter().flatten().find(|check| check["name"] == "redis");
            let is_told =
                redis.is_some_and(|redis| redis["status"] != "healthy" && redis["details"]["needed"] == false);
            if is_told && report["status"] == "degraded" { Ok(()) } else { Err(report) }
        })
        .await;
    }
}

/// Redis over TLS, with a certificate that the machine trusts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_reached_over_tls() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let certs = folder.path().join("certs").display().to_string();
    let address = own_address();
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let made = troupe(&cluster.url(), &["certs", "--dir", &certs, "--host", &host]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let [cert, key, authority] = ["gateway.pem", "gateway-key.pem", "ca.pem"].map(|file| format!("{certs}/{file}"));
    let mut redis = Command::new("redis-server");
    redis.args(["--port", "0", "--bind", &host, "--save", "", "--tls-port", &port, "--tls-auth-clients", "no"]);
    redis.args(["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &authority]);
    let _redis =
        redis.current_dir(folder.path()).stdout(Stdio::null()).kill_on_drop(true).spawn().expect("Redis starts");
    let url = format!("rediss://{address}");
    for (trusted, is_healthy) in [(authority.as_str(), true), ("/dev/null", false)] {
        assert_eq!(cluster.stop("gateway-1").await, Some(0));
        let environment = [("TROUPE_GATEWAY__REDIS__URL", url.as_str()), ("SSL_CERT_FILE", trusted)];
        assert!(cluster.restart_with("gateway-1", &environment).await, "{}", cluster.log("gateway-1"));
        eventually("Redis is healthy where its certificate is trusted", async || {
            let report = health(cluster.url().trim_start_matches("http://")).await;
            let redis = report["checks"].as_array().into_iter().flatten().find(|check| check["name"] == "redis");
            if redis.is_some_and(|redis| (redis["status"] == "healthy") == is_healthy) { Ok(()) } else { Err(report) }
        })
        .await;
    }
}

/// What images ask with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthcheck_tells_a_process_that_is_ready_from_one_that_is_not() {
    let mut cluster = Cluster::start(Setup { is_encrypted: true, ..Setup::default() }).await;
    let gateway = troupe(&cluster.url(), &["healthcheck"]).await;
    assert_eq!((gateway.code, gateway.stdout.trim()), (Some(0), "ready"), "{}", gateway.stderr);
    let settings = cluster.settings("orchestrator-1").display().to_string();
    let address = cluster.address("orchestrator-1").to_string();
    let ask = ["healthcheck", "--grpc", &address, "--config", &settings];
    let ready = troupe(&cluster.url(), &ask).await;
    assert_eq!((ready.code, ready.stdout.trim()), (Some(0), "ready"), "{}", ready.stderr);
    let without_certificate = troupe(&cluster.url(), &["healthcheck", "--grpc", &address]).await;
    assert_eq!(without_certificate.code, Some(1), "{}", without_certificate.stdout);
    cluster.kill("orchestrator-1").await;
    for ask in [&ask[..], &["healthcheck"]] {
        eventually("it says so", async || {
            let output = troupe(&cluster.url(), ask).await;
            if output.code == Some(1) { Ok(()) } else { Err(output.stdout) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_process_logs_for_machines_where_nothing_is_said() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("troupe.toml");
    let settings = format!("[registry]\ndatabase = {{ path = {:?} }}\n", folder.path().join("registry.db"));
    std::fs::write(&file, settings).expect("the settings can be written");
    let mut registry = start("registry", &file, &[("TROUPE_SERVE__LISTEN", "127.0.0.1:0")]);
    registry.ready().await;
    let log = registry.ended_log().await;
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    assert!(!lines.is_empty(), "it says when it starts and stops");
    for line in &lines {
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line:#}");
    }
}

/// A process with what it logs.
struct Started {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

fn start(service: &str, file: &std::path::Path, environment: &[(&str, &str)]) -> Started {
    let mut command = Command::new(binary());
    command.args(["serve", service, "--log", "info", "--config"]).arg(file).envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the binary starts");
    let lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
    Started { child, lines }
}

impl Started {
    async fn ready(&mut self) {
        while let Some(line) = self.lines.next_line().await.expect("its output can be read") {
            if line.starts_with("ready ") {
                return;
            }
        }
        panic!("it ended before it was ready: {}", self.log().await);
    }

    /// What it has logged when it has ended, as it is asked to.
    async fn ended_log(mut self) -> String {
        let pid = self.child.id().expect("it runs").to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().await.expect("it can be asked to end");
        assert!(asked.success());
        self.log().await
    }

    async fn log(&mut self) -> String {
        use tokio::io::AsyncReadExt as _;
        let mut log = String::new();
        let mut errors = self.child.stderr.take().expect("its log is piped");
        let read = tokio::time::timeout(std::time::Duration::from_mins(1), errors.read_to_string(&mut log));
        read.await.expect("it ends in time").expect("its log can be read");
        log
    }
}

async fn health(address: &str) -> Value {
    let answer = reqwest::get(format!("http://{address}/health/ready")).await;
    match answer {
        Ok(answer) => answer.json().await.unwrap_or_else(|error| json!({ "error": error.to_string() })),
        Err(error) => json!({ "error": error.to_string() }),
    }
}
