//! The scripts that start servers: they touch no folder but their own, and listen for nobody but this machine.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output},
};

use testkit::{Servers, workspace};

fn run(script: &str, arguments: &[&str]) -> Output {
    Command::new(workspace().join("deploy/native").join(script)).args(arguments).output().unwrap()
}

#[track_caller]
fn assert_refused(script: &str, verb: &str, folder: &Path, why: &str) {
    let output = run(script, &[verb, folder.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains(why), "{script} {verb} {}: {told}", folder.display());
}

#[test]
fn what_they_did_not_make_is_left_alone() {
    let own = tempfile::tempdir().unwrap();
    fs::write(own.path().join("precious"), "").unwrap();
    let link = own.path().with_extension("link");
    symlink(own.path(), &link).unwrap();
    let open = tempfile::tempdir().unwrap();
    for marker in ["ports", ".troupe-cluster"] {
        fs::write(open.path().join(marker), "").unwrap();
    }
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for script in ["servers.sh", "cluster.sh"] {
        for verb in ["up", "down"] {
            assert_refused(script, verb, own.path(), "not ours to");
            assert_refused(script, verb, &link, "is a link");
            assert_refused(script, verb, open.path(), "can be written to by others");
        }
        assert!(own.path().join("precious").exists() && open.path().join("ports").exists());
        assert!(run(script, &["down", "/tmp/troupe-that-is-not-there"]).status.success());
    }
    fs::remove_file(link).unwrap();
}

#[test]
fn what_cannot_be_installed_is_named() {
    let output = Command::new("/bin/bash")
        .arg(workspace().join("deploy/native/install.sh"))
        .args(["python3-venv", "no-such-program"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("missing: python3-venv no-such-program"), "{told}");
}

/// The addresses at which somebody listens on one of these ports, as the system has them: hexadecimal.
fn listening(ports: &[u16]) -> Vec<String> {
    const LISTENS: &str = "0A";
    let sockets = ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| fs::read_to_string(file).unwrap_or_default());
    let found = sockets.iter().flat_map(|text| text.lines().skip(1)).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (fields.get(3) == Some(&LISTENS) && ports.contains(&port)).then(|| address.to_owned())
    });
    found.collect()
}

#[test]
fn every_port_of_the_servers_is_on_loopback_alone() {
    const LOOPBACK: [&str; 2] = ["0100007F", "00000000000000000000000001000000"];
    let servers = Servers::private(&[]);
    let text = fs::read_to_string(servers.folder.join("ports")).unwrap();
    let ports: Vec<u16> = text.lines().filter_map(|line| line.split_once('=')?.1.parse().ok()).collect();
    let addresses = listening(&ports);
    // PostgreSQL, Redis, RabbitMQ, and Erlang's two besides.
    assert!(ports.len() == 5 && addresses.len() >= 5, "{text} {addresses:?}");
    assert!(addresses.iter().all(|address| LOOPBACK.contains(&&**address)), "{text} {addresses:?}");
}
