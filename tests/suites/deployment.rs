//! What `docker compose up` promises, read from its files, since no container runs here: everything is there and in order, no
//! secret is in clear, nobody is root, and every setting is one.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};
use tokio::process::Command;

const SERVICES: &[&str] = &["registry", "communication", "orchestrator", "agent-runner", "gateway"];
const SERVERS: &[&str] = &["postgres", "rabbitmq", "redis", "jaeger", "prometheus"];
/// What runs to its end, once.
const ONCE: &[&str] = &["secrets", "migrate"];

fn read(path: &str) -> String {
    fs::read_to_string(testkit::workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The services of the compose file, by their names.
fn compose() -> BTreeMap<String, Value> {
    let services = yaml("docker-compose.yml")["services"].as_object().expect("there are services").clone();
    services.into_iter().collect()
}

/// What a service waits for, and for what of it.
fn waits(service: &Value) -> BTreeMap<&str, &str> {
    let Some(waits) = service["depends_on"].as_object() else { return BTreeMap::new() };
    waits
        .iter()
        .map(|(name, wait)| (name.as_str(), wait["condition"].as_str().expect("a wait has a condition")))
        .collect()
}

#[test]
fn everything_is_there_shows_its_health_and_starts_in_order() {
    let compose = compose();
    let names: Vec<_> = compose.keys().map(String::as_str).collect();
    let mut wanted = [SERVICES, SERVERS, ONCE].concat();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for (name, service) in &compose {
        assert!(service["profiles"].is_null(), "{name} starts with everything else");
        let is_once = ONCE.contains(&name.as_str());
        assert_eq!(service["healthcheck"]["test"].is_array(), !is_once, "{name}");
        assert_eq!(service["restart"], if is_once { "no" } else { "unless-stopped" }, "{name}");
        for (other, condition) in waits(service) {
            let wanted = if ONCE.contains(&other) { "service_completed_successfully" } else { "service_healthy" };
            assert_eq!(condition, wanted, "{name} waits for {other}");
        }
    }
    for name in ["registry", "communication", "orchestrator", "gateway"] {
        assert!(waits(&compose[name]).contains_key("migrate"), "{name} needs its tables");
    }
    for (name, needs) in [
        ("migrate", ["postgres", "secrets"].as_slice()),
        ("communication", &["rabbitmq", "registry"]),
        ("orchestrator", &["communication", "registry"]),
        ("agent-runner", &["communication", "registry"]),
        ("gateway", &["communication", "orchestrator", "registry"]),
    ] {
        for need in needs {
            assert!(waits(&compose[name]).contains_key(need), "{name} needs {need}");
        }
    }
    for (name, service) in compose.iter().filter(|(name, _)| SERVICES.contains(&name.as_str())) {
        let variable = format!("TROUPE_{}__REDIS__URL_FILE", name.to_uppercase());
        assert_eq!(
            !service["environment"][variable].is_null(),
            waits(service).contains_key("redis"),
            "{name} and Redis"
        );
    }
    // Who reads secrets waits until there are some.
    for name in SERVERS.iter().filter(|name| **name != "jaeger") {
        assert!(waits(&compose[*name]).contains_key("secrets"), "{name}");
    }
    assert!(compose["rabbitmq"]["image"].as_str().is_some_and(|image| image.ends_with("-management")));
}

#[test]
fn our_processes_are_one_image_that_is_built_once_and_runs_as_nobody_special() {
    let compose = compose();
    for name in SERVICES {
        let service = &compose[*name];
        assert_eq!(service["command"], json!(["serve", name]));
        assert_eq!((&service["image"], &service["pull_policy"]), (&compose["migrate"]["image"], &json!("never")));
        assert!(service["build"].is_null(), "{name}");
        assert!(service["user"].is_null() && service["privileged"].is_null(), "{name} is who its image says");
        assert_eq!((&service["cap_drop"], &service["read_only"]), (&json!(["ALL"]), &json!(true)), "{name}");
    }
    let path = compose["migrate"]["build"]["dockerfile"].as_str().expect("it is built");
    let dockerfile = read(path);
    let lines: Vec<_> = dockerfile.lines().map(str::trim).collect();
    let stages: Vec<_> = lines.iter().filter(|line| line.starts_with("FROM ")).collect();
    assert_eq!(stages.len(), 2, "a stage that builds, and one that runs");
    assert!(!stages[1].contains("rust"), "{}", stages[1]);
    let user = lines.iter().rfind(|line| line.starts_with("USER ")).expect("the image has a user");
    assert!(!user.contains("root") && !user.contains(" 0"), "{user}");
    assert!(dockerfile.contains("--mount=type=cache"), "dependencies are compiled once");
    assert!(dockerfile.contains("cargo build --release --locked --bin troupe"));
    assert!(lines.iter().any(|line| line.starts_with("HEALTHCHECK")));
    assert!(dockerfile.contains("CMD [\"troupe\", \"healthcheck\""));
}

#[test]
fn the_builder_gets_what_the_image_is_made_of() {
    let dockerfile = read("deploy/docker/Dockerfile");
    let ignored = read(".dockerignore");
    let allowed: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let copied =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    let mut sources = Vec::new();
    for line in copied {
        let words: Vec<_> = line.split_whitespace().filter(|word| !word.starts_with("--")).collect();
        let (_, from) = words.split_last().expect("a copy has a destination");
        sources.extend(from.iter().map(|word| (*word).to_owned()));
    }
    for source in &sources {
        assert!(testkit::workspace().join(source).exists(), "{source} is copied");
        assert!(
            allowed.iter().any(|name| source == name || source.starts_with(&format!("{name}/"))),
            "{source} is left out"
        );
    }
    // Cargo wants every member of the workspace, whatever is built.
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec().expect("cargo metadata answers");
    for package in metadata.packages {
        let path =
            package.manifest_path.strip_prefix(testkit::workspace()).expect("members are below the root").to_owned();
        assert!(sources.iter().any(|source| path.as_str().starts_with(source.as_str())), "{path} is not copied");
    }
}

#[test]
fn no_secret_is_in_clear() {
    for (name, service) in compose() {
        let Some(environment) = service["environment"].as_object() else { continue };
        for (variable, value) in environment {
            let is_secret = ["PASS", "TOKEN", "KEY", "SECRET"].iter().any(|word| variable.contains(word));
            let is_place = variable.contains("DATABASE__URL")
                || variable.contains("RABBITMQ__URL")
                || variable.contains("REDIS__URL");
            if is_secret || is_place {
                assert!(variable.ends_with("_FILE"), "{name} has {variable} in clear");
                assert!(
                    value.as_str().is_some_and(|path| path.starts_with("/run/secrets/")),
                    "{name}: {variable}={value}"
                );
            }
        }
    }
    let text = read("docker-compose.yml");
    assert!(!text.contains("://troupe:") && !text.contains("guest"), "no credentials in URLs");
    // Each has a volume that nobody else but their maker sees.
    let of = |service: &Value| -> Vec<String> {
        let volumes = service["volumes"].as_array().cloned().unwrap_or_default();
        let secrets = volumes.iter().filter_map(Value::as_str).filter(|volume| volume.starts_with("secrets-"));
        secrets.map(str::to_owned).collect()
    };
    for (name, service) in compose().iter().filter(|(name, _)| *name != "secrets") {
        let own = of(service);
        assert!(own.len() <= 1, "{name} sees {own:?}");
        assert!(own.iter().all(|volume| volume.ends_with(":ro")), "{name} changes {own:?}");
        let is_ours = SERVICES.contains(&name.as_str()) || name == "migrate";
        assert!(own.iter().all(|volume| volume.starts_with("secrets-troupe:") == is_ours), "{name} sees {own:?}");
    }
}

#[test]
fn only_loopback_is_published() {
    for (name, service) in compose() {
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().is_some_and(|port| port.starts_with("127.0.0.1:")), "{name}: {port}");
        }
    }
}

/// The secrets are made as they are read: each path that a setting names is one that the script makes.
#[tokio::test]
async fn the_secrets_are_those_that_are_read_and_stay_as_they_are() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let compose = compose();
    let mounts = compose["secrets"]["volumes"].as_array().expect("it has volumes").clone();
    let mounts = mounts.iter().filter_map(Value::as_str).filter_map(|mount| mount.strip_prefix("secrets-"));
    let readers: Vec<_> = mounts.map(|mount| mount.split(':').next().unwrap_or_default().to_owned()).collect();
    for reader in &readers {
        fs::create_dir(folder.path().join(reader)).expect("a folder can be made");
    }
    let script = testkit::workspace().join("deploy/docker/secrets.sh");
    let contents = async || {
        // Whoever runs the tests may not give files away, which is the last thing that it does.
        let made = Command::new("sh").arg(&script).arg(folder.path()).output().await.expect("sh runs");
        let error = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(made.status.success() || error.contains("chgrp"), "{error}");
        let mut contents = BTreeMap::new();
        for reader in &readers {
            for file in fs::read_dir(folder.path().join(reader)).expect("the folder can be read") {
                let path = file.expect("the folder can be read").path();
                let name = path.file_name().and_then(|name| name.to_str()).expect("names are text").to_owned();
                contents.insert(format!("{reader}/{name}"), fs::read_to_string(&path).expect("it can be read"));
            }
        }
        contents
    };
    let made = contents().await;
    assert_eq!(contents().await, made, "databases were made with them");
    for (name, service) in &compose {
        let text = service.to_string();
        let read = text.split("/run/secrets/").skip(1).filter_map(|rest| rest.split(['"', ' ', ':']).next());
        for path in read.filter(|path| path.contains('/')) {
            assert!(made.contains_key(path.trim_end_matches([')', '\\'])), "{name} reads {path}, of {:?}", made.keys());
        }
    }
    assert!(made["troupe/token"].len() >= 16 && made["troupe/api-key"].len() >= 16);
    // Whoever reads metrics can do nothing else.
    let of_prometheus: Vec<_> = made.iter().filter(|(path, _)| path.starts_with("prometheus/")).collect();
    assert_eq!(of_prometheus, [(&"prometheus/metrics-token".to_owned(), &made["troupe/metrics-token"])]);
    assert!(made["rabbitmq/rabbitmq.conf"].contains(&made["rabbitmq/password"]));
    assert!(made["troupe/amqp-url"].contains(&made["rabbitmq/password"]));
    assert!(made["troupe/database-url"].contains(&made["postgres/password"]));
    assert!(made["troupe/redis-url"].contains(&made["redis/password"]));
}

/// Every variable is a setting of the product, and comes to be what it says.
#[tokio::test]
async fn every_variable_is_a_setting() {
    let compose = compose();
    for name in SERVICES {
        let environment = compose[*name]["environment"].as_object().expect("it has an environment");
        let variables = environment.iter().map(|(name, value)| (name, value.as_str().expect("values are texts")));
        let asked =
            Command::new(testkit::binary()).args(["serve", name, "--print-config"]).envs(variables).output().await;
        let asked = asked.expect("the binary runs");
        assert!(asked.status.success(), "{name}: {}", String::from_utf8_lossy(&asked.stderr));
        let settings: Value = serde_json::from_slice(&asked.stdout).expect("settings are JSON");
        let own = format!("TROUPE_{}__", name.replace('-', "_").to_uppercase());
        for (variable, value) in environment {
            let (table, rest) = match (variable.strip_prefix("TROUPE_SERVE__"), variable.strip_prefix(&own)) {
                (Some(rest), _) => ("serve", rest),
                (None, Some(rest)) => (*name, rest),
                (None, None) => continue,
            };
            let pointer = format!("/{table}/{}", rest.to_lowercase().replace("__", "/"));
            let found = settings.pointer(&pointer).unwrap_or_else(|| panic!("{name} does not know {variable}"));
            let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            assert_eq!(Some(found.as_str()), value.as_str(), "{variable}");
        }
    }
    let known = ["OTEL_", "TROUPE_LOG"];
    for (variable, _) in compose["registry"]["environment"].as_object().expect("it has an environment") {
        let is_of =
            |service: &&str| variable.starts_with(&format!("TROUPE_{}__", service.replace('-', "_").to_uppercase()));
        let is_setting = SERVICES.iter().any(is_of) || variable.starts_with("TROUPE_SERVE__");
        assert!(is_setting || known.iter().any(|prefix| variable.starts_with(prefix)), "{variable} is nobody's");
    }
}

#[test]
fn the_metrics_of_every_process_are_read() {
    let prometheus = yaml("deploy/prometheus/prometheus.yml");
    let jobs = prometheus["scrape_configs"].as_array().expect("there are jobs");
    let found = |service: &str, port: u64| {
        let sources = jobs.iter().flat_map(|job| job["dns_sd_configs"].as_array().into_iter().flatten());
        sources.into_iter().any(|source| {
            source["port"] == port && source["names"].as_array().is_some_and(|names| names.contains(&json!(service)))
        })
    };
    let compose = compose();
    for name in SERVICES {
        let variable = if *name == "gateway" { "TROUPE_GATEWAY__LISTEN" } else { "TROUPE_SERVE__HTTP" };
        let listen = compose[*name]["environment"][variable].as_str().expect("it listens");
        let port = listen.rsplit(':').next().and_then(|port| port.parse().ok()).expect("it has a port");
        assert!(found(name, port), "{name} at {port}");
    }
    for name in ["gateway", "troupe"] {
        let job = jobs.iter().find(|job| job["job_name"] == name).expect("there is a job");
        let file = &job["authorization"]["credentials_file"];
        assert_eq!(file, "/run/secrets/troupe/metrics-token", "{name} wants the token of metrics");
        assert!(job.get("http_headers").is_none(), "and no key: {job}");
    }
}
