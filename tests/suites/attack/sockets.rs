//! Sockets of clients that mean no good: frames that are none, that are too large or never end, clients that answer nothing, and
//! that read nothing.

use std::{net::SocketAddr, time::Duration};

use futures::future::{join, join_all};
use reqwest::Method;
use serde_json::json;
use testkit::websocket::{WebSocket, opcode};
use tokio::time::timeout;

use super::{ADMIN, Product, admin};

const PATIENCE: Duration = Duration::from_mins(1);
/// What all of them together may cost, in bytes.
const MOST_MEMORY: u64 = 300 << 20;
/// No socket in use.
const NONE_OPEN: &str = "gateway_websockets 0";

async fn open(to: SocketAddr) -> WebSocket {
    WebSocket::open(to, "/api/v1/ws", &[("X-API-Key", ADMIN)]).await.expect("it is opened")
}

/// What is counted.
async fn metrics(product: &Product) -> String {
    let request = product.api().request(Method::GET, "/metrics").header("x-api-key", ADMIN);
    request.send().await.expect("an answer comes").text().await.expect("a text")
}

async fn until_counted(product: &Product, line: &str) {
    testkit::within(PATIENCE, line, async || {
        let metrics = metrics(product).await;
        if metrics.lines().any(|found| found == line) { Ok(()) } else { Err(metrics) }
    })
    .await;
}

/// A message that goes on and on.
async fn parts(socket: &mut WebSocket, first: &[u8], more: &[u8]) {
    drop(socket.frame(opcode::TEXT_BEGUN, first).await);
    for _ in 0..20_000 {
        if socket.frame(opcode::MORE, more).await.is_err() {
            break;
        }
    }
}

/// Does its worst until it is cut off; the code that it is told, or 1006.
async fn abuse(to: SocketAddr, number: usize) -> u16 {
    let mut socket = open(to).await;
    let large = vec![b'a'; 1 << 20];
    match number % 7 {
        // A frame that is too large, and one that says that it is as large as can be.
        0 => drop(socket.frame(opcode::TEXT, &large).await),
        1 => {
            let promise = [opcode::BINARY, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
            drop(socket.raw(&promise).await);
            drop(socket.raw(&large).await);
        }
        // A message without end: of small parts, and of parts with nothing in them.
        2 => parts(&mut socket, b"{", b"a").await,
        3 => parts(&mut socket, b"", b"").await,
        // Pings, and texts that mean nothing, as many as there is time for.
        4 => {
            for number in 0..20_000_u32 {
                let sent = socket.frame(opcode::PING, &number.to_be_bytes()).await;
                if sent.is_err() || socket.frame(opcode::TEXT, b"nonsense").await.is_err() {
                    break;
                }
            }
        }
        // Pings as large as can be, whose answers nobody reads.
        5 => {
            // A frame with a mask that changes nothing.
            let ping = [&[opcode::PING, 0x80 | 0x7d, 0, 0, 0, 0][..], &[b'a'; 125]].concat();
            let many = ping.repeat(4_000);
            for _ in 0..100 {
                if socket.raw(&many).await.is_err() {
                    break;
                }
            }
        }
        // Nothing at all.
        _ => {}
    }
    socket.closed().await
}

async fn abuse_of_websockets_hurts_nobody(mut product: Product) {
    let (api, to) = (product.api(), product.address());
    let before = product.memory()[0];
    let all = join_all((0..63).map(|number| timeout(PATIENCE, abuse(to, number))));
    let others = async {
        for _ in 0..20 {
            let served = timeout(PATIENCE, admin(&api, Method::GET, "/api/v1/agents", None)).await;
            served.expect("others are served").expect(200);
        }
    };
    let (all, ()) = join(all, others).await;
    for (number, code) in all.into_iter().enumerate() {
        let code = code.expect("each is cut off");
        // Reset, where more was under way than anybody reads.
        let expected = match number % 7 {
            0..=2 => [1009, 1006],
            4 => [1008, 1006],
            5 => [4429, 1006],
            _ => [4408, 4408],
        };
        assert!(expected.contains(&code), "{number}: {code}");
    }
    until_counted(&product, NONE_OPEN).await;
    // Whose they were is counted, too.
    let counted =
        "gateway_key_requests_total{key=\"configured\",method=\"GET\",endpoint=\"/api/v1/ws\",status=\"1xx\"} 63";
    until_counted(&product, counted).await;
    let more = product.memory()[0].saturating_sub(before);
    assert!(more < MOST_MEMORY, "{more} bytes more");
    product.is_well();
}

const IMPATIENT: &[(&str, &str)] = &[("keep_alive", "\"3s\"")];

both_ways!(abuse_of_websockets_hurts_nobody, IMPATIENT);

async fn slow_readers_are_cut_off(mut product: Product) {
    const READERS: usize = 4;
    /// Of a megabyte each.
    const EXECUTIONS: usize = 8;
    let (api, to) = (product.api(), product.address());
    let definition = json!({ "name": "large", "steps": [{ "id": "a", "agent_type": "nobody" }] });
    let workflow = admin(&api, Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
    let path = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().expect("an id"));
    let input = json!({ "input": { "text": "la".repeat(500_000) } });
    let mut subscribe = Vec::new();
    for _ in 0..EXECUTIONS {
        let started = admin(&api, Method::POST, &path, Some(&input)).await.expect(202);
        subscribe.push(json!({ "type": "subscribe", "execution_id": started["execution_id"] }));
    }
    let other = admin(&api, Method::POST, &path, Some(&json!({}))).await.expect(202);
    let other = format!("/api/v1/executions/{}", other["execution_id"].as_str().expect("an id"));
    let before = product.memory()[0];
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut reader = open(to).await;
        // Far more than fits what lies between here and there; nothing of it is read.
        for subscribe in &subscribe {
            reader.say(subscribe).await.expect("it can be said");
        }
        readers.push(reader);
    }
    for _ in 0..20 {
        // From the same orchestrator, whose answers to the readers nobody takes.
        let served = timeout(PATIENCE, admin(&api, Method::GET, &other, None)).await;
        served.expect("others are served").expect(200);
    }
    until_counted(&product, &format!("gateway_websockets_closed_total{{reason=\"slow\"}} {READERS}")).await;
    until_counted(&product, NONE_OPEN).await;
    let more = product.memory()[0].saturating_sub(before);
    assert!(more < MOST_MEMORY, "{more} bytes more");
    // Streams have their room again.
    let mut socket = open(to).await;
    socket.say(&subscribe[0]).await.expect("it can be said");
    assert_eq!(socket.heard().await.expect("it is answered")["type"], "subscribed");
    drop(readers);
    product.is_well();
}

both_ways!(slow_readers_are_cut_off);
