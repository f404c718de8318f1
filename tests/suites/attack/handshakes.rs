//! Handshakes of TLS that are none, at a gateway that has a certificate.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use reqwest::{Certificate, Client, tls::Version};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{ADMIN, Product};

const PATIENCE: Duration = Duration::from_secs(30);
const ALERT: u8 = 0x15;

/// The first words of a client that knows this version and none that is newer (RFC 5246, 7.4.1.2).
fn hello(version: [u8; 2]) -> Vec<u8> {
    let suites = [0x00, 0x04, 0x00, 0x2f, 0x00, 0x05];
    let hello = [&version[..], &[7; 32], &[0], &suites, &[1, 0]].concat();
    let handshake = [&[1, 0, 0, hello.len() as u8], &hello[..]].concat();
    [&[0x16, 3, 0, 0, handshake.len() as u8], &handshake[..]].concat()
}

/// What is answered, until the other end hangs up.
async fn answer(to: SocketAddr, words: &[u8]) -> Vec<u8> {
    let mut connection = TcpStream::connect(to).await.expect("it takes connections");
    // It may answer and close before it has all.
    let _: Result<(), _> = connection.write_all(words).await;
    let mut heard = Vec::new();
    // Closed, or reset where there was something that nobody has read.
    let _: Result<_, _> = timeout(PATIENCE, connection.read_to_end(&mut heard)).await.expect("it hangs up");
    heard
}

fn words() -> Vec<(&'static str, Vec<u8>)> {
    let part_of = |of: usize| hello([3, 3])[..of].to_vec();
    vec![
        ("nothing", Vec::new()),
        ("plain HTTP", b"GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("the beginning of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("SSL 2", [&[0x80, 0x1f, 1, 0, 2, 0, 6, 0, 0, 0, 16, 7, 0, 0xc0, 0, 0, 5][..], &[7; 16]].concat()),
        ("SSL 3", hello([3, 0])),
        ("TLS 1.0", hello([3, 1])),
        ("TLS 1.1", hello([3, 2])),
        ("no suite that is good", hello([3, 3])),
        ("half a head of a record", part_of(3)),
        ("half a hello", part_of(20)),
        ("a record that is too long", [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat()),
        ("a hello of 16 MiB", [&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[3; 200_000]].concat()),
        ("records without anything", [0x16, 3, 3, 0, 0].repeat(100_000)),
        ("changes of cipher", [0x14, 3, 3, 0, 1, 1].repeat(100_000)),
        ("warnings", [ALERT, 3, 3, 0, 2, 1, 90].repeat(100_000)),
        ("data before the handshake", [0x17, 3, 3, 0, 4, 1, 2, 3, 4].repeat(1_000)),
        ("a heartbeat that says too much", vec![0x18, 3, 3, 0, 3, 1, 0x40, 0]),
        ("zeros", vec![0; 100_000]),
    ]
}

async fn is_served(clients: &[Client], to: SocketAddr) {
    for client in clients {
        let url = format!("https://localhost:{}/api/v1/agents", to.port());
        let answer = timeout(PATIENCE, client.get(url).header("x-api-key", ADMIN).send()).await;
        assert_eq!(answer.expect("others are served").expect("over TLS").status(), 200);
    }
}

async fn handshakes_that_are_none(mut product: Product, ca: Vec<u8>) {
    let to = product.address();
    let client = |version: Version| {
        let root = Certificate::from_pem(&ca).expect("a certificate");
        let client = Client::builder().tls_certs_only([root]).resolve("localhost", to);
        // A connection of its own each time: each shakes hands.
        client.pool_max_idle_per_host(0).tls_version_max(version).build().expect("a client")
    };
    let clients = [client(Version::TLS_1_2), client(Version::TLS_1_3)];
    is_served(&clients, to).await;
    let before = product.memory()[0];
    let words = words();
    let attack = join_all(words.iter().map(|(_, words)| answer(to, words)));
    // Many that begin, and say no more.
    let half_open = join_all((0..200).map(|_| answer(to, &[0x16, 3, 1, 2, 0, 1, 0])));
    let others = async {
        for _ in 0..10 {
            is_served(&clients, to).await;
        }
    };
    let (answers, _, ()) = futures::future::join3(attack, half_open, others).await;
    for ((name, _), heard) in words.iter().zip(answers) {
        assert!(heard.is_empty() || heard[0] == ALERT, "{name} is answered with more than a refusal: {heard:?}");
    }
    let after = product.memory()[0];
    assert!(after < before + (100 << 20), "from {before} to {after} bytes");
    is_served(&clients, to).await;
    product.is_well();
}

/// Files for the gateway, in a folder of their own, and the certificate of the authority.
async fn certificates() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().display().to_string();
    let made = testkit::troupe("", &["certs", "--dir", &directory, "--force", "--host", "localhost"]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let ca = std::fs::read(folder.path().join("ca.pem")).expect("it is made");
    (folder, ca)
}

fn settings(folder: &tempfile::TempDir) -> [(&'static str, String); 3] {
    let file = |name: &str| format!("{:?}", folder.path().join(name).display().to_string());
    [
        ("tls.cert_file", file("gateway.pem")),
        ("tls.key_file", file("gateway-key.pem")),
        ("head_timeout", "\"5s\"".to_owned()),
    ]
}

#[tokio::test]
async fn handshakes_that_are_none_hurt_nobody_at_home() {
    let (folder, ca) = certificates().await;
    let settings = settings(&folder);
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    handshakes_that_are_none(Product::embedded_with(&settings).await, ca).await;
}

#[tokio::test]
async fn handshakes_that_are_none_hurt_nobody_in_a_cluster() {
    let (folder, ca) = certificates().await;
    let settings = settings(&folder);
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    handshakes_that_are_none(Product::cluster_with(&settings).await, ca).await;
}
