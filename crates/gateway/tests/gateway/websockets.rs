//! Sockets: what is told over them, who may open one, and what ends one.

use std::{net::SocketAddr, time::Duration};

use gateway::{ApiKey, Cors, RateLimit, Settings};
use serde_json::{Value, json};
use settings::Secret;
use testkit::websocket::{WebSocket, opcode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    access::{create, protected},
    backend::EVENTS,
    connections::{served, served_by},
    rig::Rig,
};

const PATH: &str = "/api/v1/ws";
const ADMIN: &str = "an-admin-key-of-the-tests";
const MISSING: &str = "exe_00000000000000000000000000";

async fn open(address: SocketAddr) -> WebSocket {
    WebSocket::open(address, PATH, &[]).await.unwrap()
}

fn subscribe(execution: &str, after: u64) -> Value {
    json!({ "type": "subscribe", "execution_id": execution, "after": after })
}

/// What is told of an execution, in its order: the types, and the sequence of each event.
async fn told(socket: &mut WebSocket, execution: &str) -> (Vec<String>, Vec<u64>) {
    let (mut types, mut sequences) = (Vec::new(), Vec::new());
    loop {
        let told = socket.heard().await.unwrap();
        assert_eq!(told["execution_id"], execution, "{told}");
        let kind = told["type"].as_str().unwrap().to_owned();
        sequences.extend(told["event"]["sequence"].as_u64());
        types.push(kind.clone());
        if ["ended", "problem"].contains(&kind.as_str()) {
            types.dedup();
            return (types, sequences);
        }
    }
}

#[tokio::test]
async fn an_execution_is_followed_from_the_event_that_is_known_to_its_end() {
    let rig = Rig::start().await;
    let execution = rig.execution().await;
    let log = rig.get(&format!("/api/v1/executions/{execution}/events")).await.expect(200);
    served_by(rig, async |address| {
        let mut socket = open(address).await;
        socket.say(&subscribe(&execution, 0)).await.unwrap();
        assert_eq!(
            socket.heard().await.unwrap(),
            json!({ "type": "subscribed", "execution_id": execution, "after": 0 })
        );
        let first = socket.heard().await.unwrap();
        assert_eq!((&first["type"], &first["event"]), (&json!("event"), &log["items"][0]), "as the log has it");
        let (types, sequences) = told(&mut socket, &execution).await;
        assert_eq!((types, sequences), (vec!["event".to_owned(), "ended".to_owned()], (2..=EVENTS).collect()));
        socket.say(&subscribe(&execution, 3)).await.unwrap();
        let (types, sequences) = told(&mut socket, &execution).await;
        assert_eq!((types.len(), sequences), (3, vec![4, 5]));
        socket.say(&json!({ "type": "unsubscribe", "execution_id": execution })).await.unwrap();
        assert_eq!(socket.heard().await.unwrap()["type"], "unsubscribed");
        socket.frame(opcode::CLOSE, &1000_u16.to_be_bytes()).await.unwrap();
        assert_eq!(socket.closed().await, 1000);
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_is_told_and_the_socket_goes_on() {
    served(Settings { max_streams: 1, ..Settings::default() }, async |address| {
        let mut socket = open(address).await;
        for (said, code, execution) in [
            (subscribe(MISSING, 0), "execution_not_found", json!(MISSING)),
            (json!({ "type": "subscribe" }), "request_invalid", Value::Null),
            (json!({ "type": "sing" }), "request_invalid", Value::Null),
            (json!([]), "request_invalid", Value::Null),
        ] {
            socket.say(&said).await.unwrap();
            let told = socket.heard().await.unwrap();
            assert_eq!((&told["type"], &told["problem"]["code"]), (&json!("problem"), &json!(code)), "{told}");
            assert_eq!(told["execution_id"], execution, "{told}");
            assert!(told["problem"]["request_id"].as_str().unwrap().starts_with("req_"), "{told}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_none_of_a_websocket_hears_what_it_must_be() {
    let rig = Rig::start().await;
    let refused = rig.get(PATH).await;
    assert_eq!(refused.expect(426)["code"], "upgrade_required");
    assert_eq!((refused.header("upgrade"), refused.header("sec-websocket-version")), ("websocket", "13"));
}

/// Why one is not opened.
async fn refusal(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    let head = WebSocket::open(address, path, headers).await.unwrap_err();
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_credential_is_presented_in_a_header_or_as_a_protocol_and_never_in_the_address() {
    let rig = protected().await;
    let (viewer, _) = create(&rig, ADMIN, &json!({ "name": "v", "role": "viewer" })).await;
    let (agent, _) = create(&rig, ADMIN, &json!({ "name": "n", "role": "viewer", "scopes": ["agents:read"] })).await;
    served_by(rig, async |address| {
        assert_eq!(refusal(address, PATH, &[]).await, "401");
        for query in ["?api_key=", "?access_token=", "?X-API-Key="] {
            assert_eq!(refusal(address, &format!("{PATH}{query}{viewer}"), &[]).await, "401", "{query}");
        }
        assert_eq!(refusal(address, PATH, &[("X-API-Key", "trk_wrong")]).await, "401");
        assert_eq!(refusal(address, PATH, &[("Sec-WebSocket-Protocol", "troupe.v1, troupe.key.wrong")]).await, "401");
        assert_eq!(refusal(address, PATH, &[("X-API-Key", &agent)]).await, "403", "it may not read executions");
        for headers in
            [("X-API-Key", viewer.clone()), ("Sec-WebSocket-Protocol", format!("troupe.key.{viewer}, troupe.v1"))]
        {
            let socket = WebSocket::open(address, PATH, &[(headers.0, &headers.1)]).await.unwrap();
            let head = socket.head().to_lowercase();
            assert_eq!(head.contains("sec-websocket-protocol: troupe.v1\r\n"), headers.0 != "X-API-Key", "{head}");
            assert!(!head.contains("trk_"), "{head}");
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_follows_what_is_in_another_namespace() {
    let rig = protected().await;
    let (blue, _) = create(&rig, ADMIN, &json!({ "name": "b", "role": "viewer", "namespace": "blue" })).await;
    served_by(rig, async |address| {
        assert_eq!(refusal(address, PATH, &[("X-API-Key", &blue), ("X-Namespace", "red")]).await, "403");
        let mut socket = WebSocket::open(address, PATH, &[("X-API-Key", &blue)]).await.unwrap();
        let mut said = subscribe(MISSING, 0);
        for (namespace, code) in
            [("red", "namespace_forbidden"), ("blue", "execution_not_found"), ("Blue!", "request_invalid")]
        {
            said["namespace"] = json!(namespace);
            socket.say(&said).await.unwrap();
            assert_eq!(socket.heard().await.unwrap()["problem"]["code"], code, "{namespace}");
        }
    })
    .await;
}

#[tokio::test]
async fn pages_of_allowed_origins_alone_open_one() {
    let cors = Cors { allowed_origins: vec!["https://desk.example".to_owned()], ..Cors::default() };
    served(Settings { cors, ..Settings::default() }, async |address| {
        for (origin, is_allowed) in [
            ("https://desk.example", true),
            ("http://localhost", true),
            ("https://evil.example", false),
            ("null", false),
        ] {
            let opened = WebSocket::open(address, PATH, &[("Origin", origin)]).await;
            assert_eq!(opened.is_ok(), is_allowed, "{origin}: {opened:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_says_what_may_not_be_said_is_told_by_a_code() {
    served(Settings::default(), async |address| {
        let large = vec![b' '; 17 << 10];
        let cases: [(&str, u8, &[u8], u16); 4] = [
            ("a frame that is too large", opcode::TEXT, &large, 1009),
            ("bytes", opcode::BINARY, b"{}", 1003),
            ("no UTF-8", opcode::TEXT, b"\xff\xfe", 1007),
            ("a reserved opcode", 0x83, b"", 1002),
        ];
        for (what, first, payload, code) in cases {
            let mut socket = open(address).await;
            socket.frame(first, payload).await.unwrap();
            assert_eq!(socket.closed().await, code, "{what}");
        }
        let mut unmasked = open(address).await;
        unmasked.raw(&[opcode::TEXT, 2, b'{', b'}']).await.unwrap();
        assert_eq!(unmasked.closed().await, 1002);
        // A length is believed no more than what comes.
        let mut promised = open(address).await;
        promised.raw(&[opcode::TEXT, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(promised.closed().await, 1009);
        // In parts it is as long as in one.
        let mut parts = open(address).await;
        parts.frame(opcode::TEXT_BEGUN, &[b' '; 100]).await.unwrap();
        let mut sent = 0;
        while sent < 400 && parts.frame(opcode::MORE, &[b' '; 100]).await.is_ok() {
            sent += 1;
        }
        assert!([1009, 1006].contains(&parts.closed().await), "reset where more was under way");
        let mut nonsense = open(address).await;
        for _ in 0..16 {
            nonsense.frame(opcode::TEXT, b"{").await.unwrap();
        }
        assert_eq!(nonsense.closed().await, 1008);
    })
    .await;
}

#[tokio::test]
async fn a_message_in_parts_is_one() {
    served(Settings::default(), async |address| {
        let mut socket = open(address).await;
        let said = subscribe(MISSING, 0).to_string();
        socket.frame(opcode::TEXT_BEGUN, &said.as_bytes()[..20]).await.unwrap();
        socket.frame(opcode::PING, b"in between").await.unwrap();
        socket.frame(opcode::MORE, b"").await.unwrap();
        socket.frame(opcode::MORE | 0x80, &said.as_bytes()[20..]).await.unwrap();
        assert_eq!(socket.next().await.unwrap(), (opcode::PONG, b"in between".to_vec()));
        assert_eq!(socket.heard().await.unwrap()["problem"]["code"], "execution_not_found");
    })
    .await;
}

#[tokio::test]
async fn who_answers_no_ping_is_cut_off_and_who_does_stays() {
    let settings = Settings { keep_alive: Duration::from_millis(200), ..Settings::default() };
    served(settings, async |address| {
        let (mut silent, mut alive) = (open(address).await, open(address).await);
        // Whatever else it says is no answer.
        silent.frame(opcode::PONG, b"unasked").await.unwrap();
        let stays = async {
            for _ in 0..4 {
                let (first, payload) = alive.next().await.unwrap();
                assert_eq!(first, opcode::PING);
                alive.frame(opcode::PONG, &payload).await.unwrap();
            }
        };
        let (closed, ()) = futures::future::join(silent.closed(), stays).await;
        assert_eq!(closed, 4408);
        alive.say(&subscribe(MISSING, 0)).await.unwrap();
        assert_eq!(alive.heard().await.unwrap()["type"], "problem");
    })
    .await;
}

#[tokio::test]
async fn a_stop_and_the_end_of_a_credential_end_it() {
    let rig = protected().await;
    let (brief, _) = create(&rig, ADMIN, &json!({ "name": "k", "role": "viewer", "expires_in": "5s" })).await;
    let mut open = served_by(rig, async |address| {
        let mut brief = WebSocket::open(address, PATH, &[("X-API-Key", &brief)]).await.unwrap();
        assert_eq!(brief.heard().await.unwrap_err(), 4401);
        WebSocket::open(address, PATH, &[("X-API-Key", ADMIN)]).await.unwrap()
    })
    .await;
    assert_eq!(open.closed().await, 1012);
}

/// A stream from behind ends early where a shard moves, and that is no end of the execution.
#[tokio::test]
async fn a_stream_that_ends_early_is_no_end_of_the_execution() {
    let rig = Rig::start().await;
    let execution = rig.execution().await;
    let backend = rig.backend.clone();
    backend.state().early_ends = 2;
    backend.state().calls.clear();
    served_by(rig, async |address| {
        let mut socket = open(address).await;
        socket.say(&subscribe(&execution, 0)).await.unwrap();
        let (types, sequences) = told(&mut socket, &execution).await;
        assert_eq!(
            (types, sequences),
            (["subscribed", "event", "ended"].map(str::to_owned).into(), vec![1, 2, 3, 4, 5])
        );
    })
    .await;
    assert_eq!(backend.state().calls.iter().filter(|call| **call == "watch_events").count(), 3);
}

/// What is answered over a connection of its own, with the head.
async fn answered(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {ADMIN}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_revoked_key_and_its_tokens_end_what_was_opened_with_them() {
    let rig = protected().await;
    let (key, id) = create(&rig, ADMIN, &json!({ "name": "k", "role": "viewer" })).await;
    let exchange = json!({ "grant_type": "api_key" });
    let pair = rig.asked(&key, http::Method::POST, "/api/v1/auth/token", Some(&exchange)).await.expect(200);
    let bearer = format!("troupe.v1, troupe.bearer.{}", pair["access_token"].as_str().unwrap());
    served_by(rig, async |address| {
        let mut by_key = WebSocket::open(address, PATH, &[("X-API-Key", &key)]).await.unwrap();
        let mut by_token = WebSocket::open(address, PATH, &[("Sec-WebSocket-Protocol", &bearer)]).await.unwrap();
        for socket in [&mut by_key, &mut by_token] {
            socket.say(&subscribe(MISSING, 0)).await.unwrap();
            assert_eq!(socket.heard().await.unwrap()["problem"]["code"], "execution_not_found");
        }
        let revoked = answered(address, &format!("DELETE /api/v1/auth/keys/{id}")).await;
        assert!(revoked.starts_with("HTTP/1.1 200 "), "{revoked}");
        // At once nothing new is told, and soon nothing at all.
        by_key.say(&subscribe(MISSING, 0)).await.unwrap();
        assert_eq!(by_key.heard().await.unwrap()["problem"]["code"], "key_revoked");
        assert_eq!([by_key.closed().await, by_token.closed().await], [4401; 2]);
    })
    .await;
}

#[tokio::test]
async fn what_is_denied_over_a_socket_is_noted() {
    let rig = protected().await;
    let (blue, id) = create(&rig, ADMIN, &json!({ "name": "b", "role": "viewer", "namespace": "blue" })).await;
    served_by(rig, async |address| {
        let mut socket = WebSocket::open(address, PATH, &[("X-API-Key", &blue)]).await.unwrap();
        let mut said = subscribe(MISSING, 0);
        said["namespace"] = json!("red");
        socket.say(&said).await.unwrap();
        assert_eq!(socket.heard().await.unwrap()["problem"]["code"], "namespace_forbidden");
        testkit::eventually("it is noted", async || {
            let answer = answered(address, "GET /api/v1/audit?namespace=red").await;
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let page: Value = serde_json::from_str(body).unwrap();
            let noted = page["items"][0].clone();
            if noted.is_null() { Err(answer) } else { Ok(noted) }
        })
        .await;
        let noted = answered(address, "GET /api/v1/audit?namespace=red").await;
        for told in ["GET /api/v1/ws", "namespace_forbidden", "denied", MISSING, &format!("key:{id}")] {
            assert!(noted.contains(told), "{told}: {noted}");
        }
    })
    .await;
}

#[tokio::test]
async fn sockets_leave_room_for_others() {
    served(Settings { max_connections: 6, ..Settings::default() }, async |address| {
        let mut sockets = Vec::new();
        for _ in 0..3 {
            sockets.push(open(address).await);
        }
        assert_eq!(refusal(address, PATH, &[]).await, "503");
        let live = answered(address, "GET /health/live").await;
        assert!(live.starts_with("HTTP/1.1 200 "), "{live}");
        drop(sockets.pop());
        testkit::eventually("there is room again", async || WebSocket::open(address, PATH, &[]).await.map(drop)).await;
    })
    .await;
}

#[tokio::test]
async fn each_subscription_counts_as_a_request() {
    let settings = Settings {
        api_key: Some(Secret::new(ADMIN)),
        // The socket itself, and two more.
        rate_limit: RateLimit { burst: Some(3), ..RateLimit::of(1) },
        ..Settings::default()
    };
    let key = ApiKey::of(&settings, |_| ()).unwrap();
    let rig = Rig::with_key(settings, key).await;
    let backend = rig.backend.clone();
    served_by(rig, async |address| {
        let mut socket = WebSocket::open(address, PATH, &[("X-API-Key", ADMIN)]).await.unwrap();
        let mut codes = Vec::new();
        for _ in 0..4 {
            socket.say(&subscribe(MISSING, 0)).await.unwrap();
            let told = socket.heard().await.unwrap();
            assert_eq!(told["retry_after"].is_u64(), codes.len() > 1, "{told}");
            codes.push(told["problem"]["code"].as_str().unwrap().to_owned());
        }
        assert_eq!(codes, ["execution_not_found", "execution_not_found", "rate_limited", "rate_limited"]);
    })
    .await;
    assert_eq!(backend.state().calls, ["watch_events"; 2], "nothing is done for what is refused");
}

#[tokio::test]
async fn a_subscription_takes_the_room_of_a_stream_and_gives_it_back() {
    let settings = Settings {
        api_key: Some(Secret::new(ADMIN)),
        rate_limit: RateLimit::of(0),
        max_streams: 1,
        ..Settings::default()
    };
    let key = ApiKey::of(&settings, |_| ()).unwrap();
    let rig = Rig::with_key(settings, key).await;
    rig.backend.state().is_live = true;
    let definition = json!({ "name": "w", "steps": [{ "id": "a", "agent_type": "echo" }] });
    let workflow = rig.asked(ADMIN, http::Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
    let path = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().unwrap());
    let mut ids = Vec::new();
    for _ in 0..2 {
        let started = rig.asked(ADMIN, http::Method::POST, &path, Some(&json!({}))).await.expect(202);
        ids.push(started["execution_id"].as_str().unwrap().to_owned());
    }
    served_by(rig, async |address| {
        let mut socket = WebSocket::open(address, PATH, &[("X-API-Key", ADMIN)]).await.unwrap();
        socket.say(&subscribe(&ids[0], EVENTS)).await.unwrap();
        assert_eq!(socket.heard().await.unwrap()["type"], "subscribed");
        socket.say(&subscribe(&ids[1], EVENTS)).await.unwrap();
        assert_eq!(socket.heard().await.unwrap()["problem"]["code"], "overloaded");
        // Anew is not one more.
        socket.say(&json!({ "type": "unsubscribe", "execution_id": ids[0] })).await.unwrap();
        assert_eq!(socket.heard().await.unwrap()["type"], "unsubscribed");
        socket.say(&subscribe(&ids[1], EVENTS)).await.unwrap();
        assert_eq!(socket.heard().await.unwrap()["type"], "subscribed");
        drop(socket);
        let mut other = WebSocket::open(address, PATH, &[("X-API-Key", ADMIN)]).await.unwrap();
        loop {
            other.say(&subscribe(&ids[0], EVENTS)).await.unwrap();
            if other.heard().await.unwrap()["type"] == "subscribed" {
                break;
            }
        }
    })
    .await;
}
