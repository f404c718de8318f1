//! Clients that are slow, many, or all at once.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{Method, header::HeaderMap};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{ADMIN, Product, admin, asked, with};

/// Far more than an answer takes while others do their worst.
const PATIENCE: Duration = Duration::from_secs(30);

async fn others_are_served_while_some_say_half_a_word(mut product: Product) {
    let api = product.api();
    let post = format!(
        "POST /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {ADMIN}\r\nContent-Type: application/json\r\n"
    );
    let words: [Vec<u8>; 6] = [
        Vec::new(),
        b"GET /health/live HTTP/1.1\r\nHost: local".to_vec(),
        format!("{post}Content-Length: 1000000\r\n\r\n{{").into_bytes(),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n5\r\n{{\"a").into_bytes(),
        format!("{post}Expect: 100-continue\r\nContent-Length: 10\r\n\r\n").into_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ];
    let mut silent = Vec::new();
    for number in 0..240 {
        let mut stream = TcpStream::connect(product.address()).await.expect("it takes connections");
        stream.write_all(&words[number % words.len()]).await.expect("it can be sent");
        silent.push(stream);
    }
    for _ in 0..20 {
        let served = timeout(PATIENCE, admin(&api, Method::GET, "/api/v1/agents", None)).await;
        served.expect("others are served").expect(200);
    }
    drop(silent);
    product.is_well();
}

both_ways!(others_are_served_while_some_say_half_a_word);

/// Requests that two parsers could read differently.
async fn a_request_is_one_request(mut product: Product) {
    let smuggled = "GET /api/v1/auth/keys HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let length = smuggled.len();
    for head in [
        format!(
            "POST /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        format!(
            "POST /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: {length}\r\n\r\n{smuggled}"
        ),
        format!("POST /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n{smuggled}"),
        format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-A: {}\r\n\r\n", "a".repeat(1 << 20)),
        format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-A: a\r\n".repeat(10_000)),
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(1 << 20)),
        "GET /../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /docs/..%2f..%2f..%2fetc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET http://127.0.0.1:22/ HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n".to_owned(),
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "\0\0\0\0".to_owned(),
    ] {
        let mut stream = TcpStream::connect(product.address()).await.expect("it takes connections");
        // It may answer and close before it has all.
        let _: Result<(), _> = stream.write_all(head.as_bytes()).await;
        let _: Result<(), _> = stream.shutdown().await;
        let mut said = Vec::new();
        let _: Result<_, _> =
            timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it is answered, or closed");
        let said = String::from_utf8_lossy(&said);
        let first: String = head.chars().take(60).collect();
        assert!(
            !said.contains("root:x:") && !said.contains("SSH-") && !said.contains("\"items\""),
            "{first:?}: {said}"
        );
        assert!(!said.contains(" 5"), "{first:?}: {said:.40}");
    }
    product.is_well();
}

both_ways!(a_request_is_one_request);

async fn a_hundred_requests_with_one_key_are_one_execution(mut product: Product) {
    let api = product.api();
    let definition = json!({ "name": "w", "steps": [{ "id": "a", "agent_type": "echo" }] });
    let workflow = admin(&api, Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
    let id = workflow["id"].as_str().expect("an id");
    let execute = format!("/api/v1/workflows/{id}/execute");
    let mut headers: HeaderMap = with("x-api-key", ADMIN);
    headers.extend(with("idempotency-key", "one-order"));
    let input = json!({ "input": 1 });
    let all = (0..100).map(|_| asked(&api, Method::POST, &execute, headers.clone(), Some(&input)));
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().all(|answer| answer.status < 500), "{answers:?}");
    let ids: BTreeSet<_> = answers.iter().filter_map(|answer| answer.body["execution_id"].as_str()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let listed = admin(&api, Method::GET, &format!("/api/v1/executions?workflow_id={id}"), None).await.expect(200);
    assert_eq!(listed["items"].as_array().expect("a list").len(), 1);
    // The first answer is kept, and another body under the key is refused.
    let again = asked(&api, Method::POST, &execute, headers.clone(), Some(&input)).await;
    assert_eq!(Some(again.body["execution_id"].as_str().expect("an id")), ids.first().copied());
    assert_eq!(asked(&api, Method::POST, &execute, headers, Some(&json!({ "input": 2 }))).await.status, 422);
    product.is_well();
}

both_ways!(a_hundred_requests_with_one_key_are_one_execution);
