//! The API does what its OpenAPI document says: `schemathesis`, with every check, against the built binary.

use std::{path::PathBuf, process::Stdio, time::Duration};

use testkit::Server;
use tokio::{process::Command, time::timeout};

const ADMIN: &str = "an-admin-key-of-the-tests-that-is-long";
/// Longer than either takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(10);

/// What schemathesis finds, with so many examples of each operation, and with more arguments.
async fn finds_nothing(mut server: Server, examples: &str, more: &[&str]) {
    let schemathesis = std::env::var_os("SCHEMATHESIS")
        .map_or_else(|| testkit::workspace().join("target/venv/bin/schemathesis"), PathBuf::from);
    assert!(schemathesis.exists(), "{} is missing; `make test` installs it", schemathesis.display());
    let output = Command::new(schemathesis)
        .arg("--config-file")
        .arg(testkit::workspace().join("tests/schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", server.url()), "--checks", "all", "--max-examples"])
        .arg(std::env::var("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| examples.into()))
        .args(["--request-timeout", "20", "--no-color", "--continue-on-failure", "--seed"])
        .arg(std::env::var("SCHEMATHESIS_SEED").unwrap_or_else(|_| "1".into()))
        .args(more)
        .current_dir(server.data_directory())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, output).await.expect("it comes to an end").expect("schemathesis starts");
    let report = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{report}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert!(!server.has_ended());
}

#[tokio::test]
async fn the_api_keeps_to_its_openapi_document() {
    Box::pin(finds_nothing(Server::start().await, "20", &[])).await;
}

/// With an administrator's key; whether it is needed where the document says so is a check, too, which asks without it.
#[tokio::test]
async fn so_does_an_api_that_wants_a_key() {
    let environment = [("TROUPE_GATEWAY__API_KEY", ADMIN), ("TROUPE_GATEWAY__RATE_LIMIT__PER_MINUTE", "0")];
    let server = Server::start_with(&environment).await;
    let key = format!("X-API-Key: {ADMIN}");
    // Nothing besides the key: two credentials are refused.
    let arguments = ["--header", &key, "--generation-with-security-parameters", "false"];
    Box::pin(finds_nothing(server, "5", &arguments)).await;
}
