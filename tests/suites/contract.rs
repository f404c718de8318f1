//! The API does what its OpenAPI document says: `schemathesis`, with every check, against the built binary.

use std::{path::PathBuf, process::Stdio};

use testkit::Server;
use tokio::process::Command;

#[tokio::test]
async fn the_api_keeps_to_its_openapi_document() {
    let schemathesis = std::env::var_os("SCHEMATHESIS")
        .map_or_else(|| testkit::workspace().join("target/venv/bin/schemathesis"), PathBuf::from);
    assert!(schemathesis.exists(), "{} is missing; `make test` installs it", schemathesis.display());
    let mut server = Server::start().await;
    let directory = server.data_directory();
    let output = Command::new(schemathesis)
        .arg("--config-file")
        .arg(testkit::workspace().join("tests/schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", server.url()), "--checks", "all", "--max-examples"])
        .arg(std::env::var("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "20".into()))
        .args(["--request-timeout", "20", "--no-color", "--continue-on-failure", "--seed"])
        .arg(std::env::var("SCHEMATHESIS_SEED").unwrap_or_else(|_| "1".into()))
        .current_dir(directory)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("schemathesis starts");
    let report = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{report}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert!(!server.has_ended());
}
