//! The built binary, run as a command.

use std::{path::PathBuf, process::Stdio};

use tokio::process::Command;

/// The built `troupe`: `TROUPE_BIN`, or the one beside this test's own directory.
///
/// # Panics
/// Where there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TROUPE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running test has an executable");
    let path = test.ancestors().nth(2).expect("tests are built in target/<profile>/deps").join("troupe");
    assert!(path.exists(), "{} is missing; build it with `make build`, or run `make test`", path.display());
    path
}

/// `troupe <arguments>`, run to its end.
pub struct Output {
    /// The exit code; absent where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `troupe` against the server at `url`, from the workspace's root.
pub async fn troupe(url: &str, arguments: &[&str]) -> Output {
    troupe_with(&[("TROUPE_URL", url)], arguments).await
}

/// The same with this in its environment.
///
/// # Panics
/// Where it does not start, or does not end in time.
pub async fn troupe_with(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let output = Command::new(binary())
        .args(arguments)
        .envs(environment.iter().copied())
        .env("NO_COLOR", "1")
        .current_dir(workspace())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    // Some go through everything that there is.
    let output = tokio::time::timeout(10 * crate::wait::PATIENCE, output)
        .await
        .expect("the command ends in time")
        .expect("the command starts");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The root of the workspace: where the examples are.
pub fn workspace() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/testkit is two below the root").to_owned()
}
