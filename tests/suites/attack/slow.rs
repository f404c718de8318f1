//! Clients that take their time, and connections on which nothing happens, more of them than there is room for.

use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{ADMIN, Product, admin, frames};

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// Says it a byte at a time, until the other end has heard enough; answers with what that says.
async fn slowly(to: std::net::SocketAddr, head: &[u8], body: &[u8]) -> String {
    let mut connection = TcpStream::connect(to).await.expect("it takes connections");
    connection.write_all(head).await.expect("it can be said");
    let (mut read, mut write) = connection.split();
    let mut heard = Vec::new();
    let say = async {
        for byte in body {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(PAUSE).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = say => {}
        // Closed, or reset where there was something that nobody has read.
        _ = read.read_to_end(&mut heard) => {}
    }
    String::from_utf8_lossy(&heard).into_owned()
}

async fn slow_bodies_end(mut product: Product) {
    let (api, to) = (product.api(), product.address());
    let head = |how: &str| {
        format!("POST /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {ADMIN}\r\nContent-Type: application/json\r\n{how}\r\n\r\n").into_bytes()
    };
    let chunks = b"1\r\n{\r\n".repeat(1_000);
    let spaces = vec![b' '; 10_000];
    let slow = join_all((0..60).map(|number| {
        let (head, body) = if number % 2 == 0 {
            (head("Content-Length: 10000"), &spaces)
        } else {
            (head("Transfer-Encoding: chunked"), &chunks)
        };
        async move { timeout(PATIENCE, slowly(to, &head, body)).await.expect("it is ended") }
    }));
    let others = async {
        for _ in 0..20 {
            let served = timeout(PATIENCE, admin(&api, Method::GET, "/api/v1/agents", None)).await;
            served.expect("others are served").expect(200);
        }
    };
    let (said, ()) = futures::future::join(slow, others).await;
    for said in said {
        assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("body_timeout"), "{said}");
    }
    product.is_well();
}

const IMPATIENT: &[(&str, &str)] =
    &[("body_timeout", "\"2s\""), ("head_timeout", "\"2s\""), ("max_connections", "100")];

both_ways!(slow_bodies_end, IMPATIENT);

async fn idle_connections_make_room(mut product: Product) {
    let (api, to) = (product.api(), product.address());
    let mut idle = Vec::new();
    for _ in 0..400 {
        // Beyond what the system keeps for a server that does not take them.
        if let Ok(Ok(connection)) = timeout(PAUSE, TcpStream::connect(to)).await {
            idle.push(connection);
        }
    }
    assert!(idle.len() > 100, "{} are more than there is room for", idle.len());
    for _ in 0..5 {
        let served = timeout(PATIENCE, admin(&api, Method::GET, "/api/v1/agents", None)).await;
        served.expect("others are served in time").expect(200);
    }
    product.is_well();
}

both_ways!(idle_connections_make_room, IMPATIENT);

async fn silent_agents_are_dropped(mut product: Product) {
    let (api, to) = (product.api(), product.grpc());
    let begun = Instant::now();
    let call = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frames::frame(4, 0, 0, &[]),
        frames::frame(1, 4, 1, &frames::head("/troupe.communication.v1.MessageService/SendMessage")),
        frames::frame(0, 0, 1, &[0, 0, 1, 0, 0]),
    ]
    .concat();
    // A byte of a message now and then, each in a frame of its own.
    let slow: Vec<_> = (0..40)
        .map(|_| {
            let call = call.clone();
            async move {
                let mut connection = TcpStream::connect(to).await.expect("it takes connections");
                connection.write_all(&call).await.expect("it can be said");
                while begun.elapsed() < PATIENCE / 2 {
                    if connection.write_all(&frames::frame(0, 0, 1, b" ")).await.is_err() {
                        break;
                    }
                    sleep(PAUSE).await;
                }
            }
        })
        .collect();
    let silent = (0..300).map(|number| async move {
        let words: [&[u8]; 3] = [b"", b"PRI * HTTP", b"\x16\x03\x01\x02\x00"];
        let mut connection = TcpStream::connect(to).await.expect("it takes connections");
        connection.write_all(words[number % 3]).await.expect("it can be said");
        let mut heard = Vec::new();
        timeout(PATIENCE, connection.read_to_end(&mut heard)).await.map(drop)
    });
    let others = async {
        for _ in 0..20 {
            let served = timeout(PATIENCE, admin(&api, Method::GET, "/api/v1/messages", None)).await;
            served.expect("others are served").expect(200);
            sleep(PAUSE).await;
        }
    };
    let (_, silent, ()) = futures::future::join3(join_all(slow), join_all(silent), others).await;
    assert!(silent.iter().all(Result::is_ok), "who says nothing is dropped");
    product.is_well();
}

both_ways!(silent_agents_are_dropped);
