//! Frames of HTTP/2 (RFC 9113) that mean harm, to where agents are served: each connection alone costs more than it should, where
//! nothing is bounded.

use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Product, TOKEN, admin};

/// Far more than an answer takes while others do their worst.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long each attacker goes on.
const FLOOD: Duration = Duration::from_secs(6);
/// What all of them together may cost, in bytes.
const MOST_MEMORY: u64 = 400 << 20;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that nobody remembers, with a name of its own (RFC 7541, 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut length = text.len();
        let mut bytes = Vec::new();
        // A number in seven bits, or in as many sevens as it wants (5.1).
        if length < 127 {
            bytes.push(length as u8);
        } else {
            bytes.push(127);
            length -= 127;
            while length >= 128 {
                bytes.push((length % 128) as u8 | 128);
                length /= 128;
            }
            bytes.push(length as u8);
        }
        [bytes, text.as_bytes().to_vec()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

/// The head of a call that is let in.
pub(super) fn head(path: &str) -> Vec<u8> {
    [
        // POST, http
        vec![0x83, 0x86],
        field(":path", path),
        field(":authority", "localhost"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
        field("authorization", &format!("Bearer {TOKEN}")),
    ]
    .concat()
}

const LIST: &str = "/troupe.communication.v1.MessageService/ListMessages";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// What an attacker says first, and then again and again; `#` counts on.
struct Attack {
    name: &'static str,
    first: Vec<u8>,
    again: Box<dyn Fn(u32) -> Vec<u8> + Send>,
    times: u32,
    /// Does the server hang up?
    is_ended: bool,
}

fn attack(name: &'static str, is_ended: bool, times: u32, again: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Attack {
    let first = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    Attack { name, first, again: Box::new(again), times, is_ended }
}

fn stream(number: u32) -> u32 {
    2 * number + 1
}

fn attacks() -> Vec<Attack> {
    let open = |number: u32| frame(HEADERS, END_HEADERS, stream(number), &head(LIST));
    let zero_window = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat();
    let reflect = move |number: u32| {
        // Everything about a service, which nobody reads.
        let name = "troupe.orchestrator.v1.ExecutionService";
        let message = [&[0, 0, 0, 0, name.len() as u8 + 2, 0x22, name.len() as u8], name.as_bytes()].concat();
        [frame(HEADERS, END_HEADERS, stream(number), &head(REFLECT)), frame(DATA, END_STREAM, stream(number), &message)]
            .concat()
    };
    // One field that is remembered, and then told as often as fits: a few bytes become many (an HPACK bomb).
    let bomb = |number: u32| {
        let mut block = head(LIST);
        block.extend([0x40, 1, b'a', 127, 0x81, 0x1e]);
        block.extend([b'a'; 4_000]);
        block.extend([0xbe; 10_000]);
        frame(HEADERS, END_HEADERS, stream(number), &block)
    };
    vec![
        // CVE-2023-44487
        attack("rapid reset", true, 100_000, move |number| {
            [open(number), frame(RESET, 0, stream(number), &[0, 0, 0, 8])].concat()
        }),
        // CVE-2024-27316 and its like
        attack("endless head", true, 20_000, |number| match number {
            0 => frame(HEADERS, 0, 1, &head(LIST)),
            _ => frame(CONTINUATION, 0, 1, &field("x-a", &"a".repeat(16_000))),
        }),
        attack("endless head of nothing", true, 200_000, |number| match number {
            0 => frame(HEADERS, 0, 1, &head(LIST)),
            _ => frame(CONTINUATION, 0, 1, &[]),
        }),
        attack("bomb in a head", false, 500, bomb),
        // CVE-2019-9515, CVE-2019-9512: nobody reads what each of them is answered with.
        attack("settings", false, 200_000, |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        attack("pings", false, 200_000, |_| frame(PING, 0, 0, &[0; 8])),
        // CVE-2019-9518
        attack("nothing", true, 500_000, move |number| match number {
            0 => open(0),
            _ => frame(DATA, 0, 1, &[]),
        }),
        attack("priorities", false, 200_000, |number| frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 9])),
        attack("windows", true, 200_000, |_| frame(WINDOW, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        attack("many calls that do not go on", false, 50_000, open),
        // CVE-2019-9517
        Attack { first: zero_window, ..attack("answers that nobody reads", false, 20_000, reflect) },
        attack("a frame of 16 MiB", true, 1, |_| frame(DATA, 0, 1, &vec![0; (1 << 24) - 1])),
        attack("unknown frames", false, 100_000, |number| frame((number % 200) as u8 + 40, 255, number, b"words")),
        attack("no frames", true, 2_000, |number| format!("GET /{number} HTTP/1.1\r\n\r\n").into_bytes()),
    ]
}

/// Says all of it, or as much as is taken in time. Answers whether the server has hung up.
async fn carry_out(attack: &Attack, product: std::net::SocketAddr) -> bool {
    let mut connection = TcpStream::connect(product).await.expect("it takes connections");
    let flood = async {
        connection.write_all(&attack.first).await?;
        for number in 0..attack.times {
            connection.write_all(&(attack.again)(number)).await?;
        }
        connection.flush().await
    };
    if matches!(timeout(FLOOD, flood).await, Ok(Err(_))) {
        return true;
    }
    let mut rest = Vec::new();
    timeout(PATIENCE / 3, connection.read_to_end(&mut rest)).await.is_ok()
}

/// One that means no harm is answered.
async fn is_answered(product: std::net::SocketAddr) {
    let mut connection = TcpStream::connect(product).await.expect("it takes connections");
    let said = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(PING, 0, 0, b"are you?")].concat();
    connection.write_all(&said).await.expect("it can be said");
    let answer = frame(PING, 1, 0, b"are you?");
    let mut heard = Vec::new();
    while !heard.windows(answer.len()).any(|part| part == answer) {
        assert_ne!(connection.read_buf(&mut heard).await.expect("it can be read"), 0, "it has hung up: {heard:?}");
    }
}

async fn floods_wash_nobody_away(mut product: Product) {
    let (api, address) = (product.api(), product.grpc());
    is_answered(address).await;
    let before = product.memory();
    let attacks = attacks();
    let flood = join_all(attacks.iter().map(|attack| carry_out(attack, address)));
    let others = async {
        let mut most = before;
        for _ in 0..20 {
            timeout(PATIENCE, is_answered(address)).await.expect("others are answered");
            let served = timeout(PATIENCE, admin(&api, Method::GET, "/api/v1/messages", None)).await;
            served.expect("others are served").expect(200);
            let now = product.memory();
            most = [most[0].max(now[0]), most[1].max(now[1])];
            tokio::time::sleep(FLOOD / 20).await;
        }
        most
    };
    let (ended, most) = futures::future::join(flood, others).await;
    for (attack, is_ended) in attacks.iter().zip(ended) {
        assert!(is_ended || !attack.is_ended, "{} goes on", attack.name);
    }
    for (before, most) in before.iter().zip(most) {
        assert!(most < before + MOST_MEMORY, "from {before} to {most} bytes");
    }
    is_answered(address).await;
    admin(&api, Method::GET, "/api/v1/messages", None).await.expect(200);
    product.is_well();
}

both_ways!(floods_wash_nobody_away);
