//! Words with line breaks in them, wherever a text is taken: none of them writes a line of a log.
//!
//! Most of what clients say is logged nowhere. That what is logged breaks no line is tested where lines are written, in `telemetry`.

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Cluster, ONE_OF_EACH, Server, Setup};

use super::{ADMIN, Product, TOKEN, admin, texts};

/// In what is logged of nobody.
const FORGED: &str = "forged-by-nobody";
/// What every process logs, down to what is for debugging.
const ALL: &str = "debug";

/// A line of either kind of log behind everything that somebody could take for the end of a line.
fn word() -> String {
    let readable = format!("2026-01-01T00:00:00.000000Z ERROR {FORGED}");
    let json = format!(r#"{{"timestamp":"2026-01-01T00:00:00.000000Z","level":"ERROR","message":"{FORGED}"}}"#);
    let breaks = ["\n", "\r\n", "\r", "\u{85}", "\u{2028}", "\u{2029}", "\u{b}", "\u{c}"];
    breaks.iter().fold("a".to_owned(), |word, end| format!("{word}{end}{readable}{end}{json}{end}"))
}

/// Says the word in every text of every route, and as an agent.
async fn say(product: &Product) {
    let api = product.api();
    let word = word();
    let calls = texts::all_calls(&api).await;
    let all = calls.iter().flat_map(|call| call.places().into_iter().map(move |place| (call, place)));
    let said = futures::stream::iter(all).map(|(call, place)| {
        let (api, asked) = (&api, call.with(&place, &word));
        async move { asked.send(api).await }
    });
    let said = said.buffer_unordered(8).fold(0, async |all, one| all + usize::from(one.is_some())).await;
    assert!(said > 80, "{said} requests");
    fail_with(product, &word).await;
    // A key that is none, a token that names its key so, and a host.
    for (name, value) in [("x-api-key", &word), ("authorization", &format!("Bearer {word}")), ("host", &word)] {
        let value: String = value.chars().filter(|char| !char.is_control() && char.is_ascii()).collect();
        let request = api.request(Method::GET, "/api/v1/agents").header(name, value);
        assert!(api.send(request).await.expect("an answer comes").status >= 400);
    }
}

/// An agent says it of itself, and when its work fails.
async fn fail_with(product: &Product, word: &str) {
    let server = || agent_sdk::Server::at(format!("http://{}", product.grpc())).token(TOKEN);
    let named = agent_sdk::Agent::builder("guest").name(word).action("a", |_: agent_sdk::Task| async { Ok(json!(1)) });
    let refused = named.connect(server()).run_until(agent_sdk::Shutdown::new()).await;
    assert!(refused.is_err(), "a name is one line");
    let text = word.to_owned();
    let fail = move |_: agent_sdk::Task| {
        let text = text.clone();
        async move { Err::<Value, _>(agent_sdk::Failure::fatal("failed", text)) }
    };
    let shutdown = agent_sdk::Shutdown::new();
    let failing = agent_sdk::Agent::builder("guest").name("guest").action("a", fail).connect(server());
    let mut running = tokio::task::JoinSet::new();
    running.spawn(failing.run_until(shutdown.clone()));
    let step = json!({ "id": "a", "agent_type": "guest", "action": "a", "retry": { "max_attempts": 1 } });
    let definition = json!({ "name": "fails", "steps": [step] });
    let api = product.api();
    let workflow = admin(&api, Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
    let execute = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().expect("an id"));
    let ended = admin(&api, Method::POST, &execute, Some(&json!({ "wait_ms": 60_000 }))).await.expect(200);
    assert_eq!((&ended["status"], &ended["failure"]["message"]), (&json!("failed"), &json!(word)), "{ended}");
    shutdown.drain();
    for stopped in running.join_all().await {
        stopped.expect("it stops when asked to");
    }
}

/// The lines of a log, as whoever goes by any of the line breaks reads it.
fn lines(log: &str) -> impl Iterator<Item = &str> {
    let breaks = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}', '\u{b}', '\u{c}'];
    log.split(breaks).filter(|line| !line.is_empty())
}

#[tokio::test]
async fn words_write_no_line_of_a_log_for_people() {
    let environment = [
        ("TROUPE_GATEWAY__API_KEY", ADMIN),
        ("TROUPE_GATEWAY__RATE_LIMIT__PER_MINUTE", "0"),
        ("TROUPE_LOG", ALL),
        ("TROUPE_SERVE__TOKEN", TOKEN),
    ];
    let mut product = Product::Embedded(Box::new(Server::start_with(&environment).await));
    say(&product).await;
    product.is_well();
    let Product::Embedded(server) = &product else { unreachable!("it was made above") };
    let log = server.log();
    let levels = ["ERROR", "WARN", "INFO", "DEBUG"];
    let of_ours = |line: &str| {
        let words: Vec<_> = line.split_whitespace().take(2).collect();
        words.len() == 2 && words[0].ends_with('Z') && levels.contains(&words[1])
    };
    for line in lines(&log) {
        // It greets without a time.
        let is_forged = line.contains(FORGED) && (!of_ours(line) || line.starts_with("2026-01-01"));
        assert!(!is_forged, "{line:?}");
    }
}

#[tokio::test]
async fn words_write_no_line_of_a_log_for_machines() {
    let settings = format!("api_key = {ADMIN:?}\n");
    let setup = Setup { size: ONE_OF_EACH, settings: &settings, log: (ALL, "json"), ..Setup::default() };
    let mut product = Product::Cluster(Box::new(Cluster::start(setup).await));
    say(&product).await;
    product.is_well();
    let Product::Cluster(cluster) = &product else { unreachable!("it was made above") };
    for (service, _) in ONE_OF_EACH {
        let log = cluster.log(&format!("{service}-1"));
        // A text may hold what only few take for the end of a line; a document ends where JSON says.
        for line in log.lines() {
            let document: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
            assert!(document["target"].is_string() && document["message"] != FORGED, "{line}");
        }
    }
}
