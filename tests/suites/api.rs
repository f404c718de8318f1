//! What clients of the API can go by: in one process, and whichever gateway of a cluster they come to.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Api, Cluster, Server, Setup, TWO_OF_EACH, websocket::WebSocket};
use tokio::time::timeout;

/// Far more than anything here takes; only a failing test waits so long.
const DEADLINE: Duration = Duration::from_mins(1);

/// A promise as two tests: of one process, and of two gateways of a cluster.
macro_rules! both_ways {
    ($promise:ident) => {
        mod $promise {
            use super::*;

            #[tokio::test]
            async fn at_home() {
                let server = Server::start().await;
                Box::pin(super::$promise(&server.api(), &server.api())).await;
            }

            #[tokio::test]
            async fn in_a_cluster() {
                let cluster = Cluster::start(Setup { size: TWO_OF_EACH, ..Setup::default() }).await;
                let [one, other] = cluster.urls().try_into().expect("two gateways");
                Box::pin(super::$promise(&Api::new(one), &Api::new(other))).await;
            }
        }
    };
}

fn definition(name: &str, step: &str) -> Value {
    json!({ "name": name, "steps": [{ "id": step, "agent_type": "echo", "input": step }] })
}

fn address(api: &Api) -> SocketAddr {
    api.url().trim_start_matches("http://").parse().expect("an address")
}

async fn with_tag(api: &Api, method: Method, path: &str, header: &str, tag: &str, body: Option<&Value>) -> Answer {
    let request = api.request(method, path).header(header, tag);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    api.send(request).await.expect("the gateway answers")
}

/// The one that was made; all others have heard that it was changed, or is gone.
fn winner(answers: Vec<Answer>) -> Answer {
    let (mut made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!(made.len(), 1, "{made:#?} {refused:#?}");
    for Answer { status, body, .. } in refused {
        let code = body["code"].as_str().unwrap_or_default();
        let is_told = match status {
            412 => code == "precondition_failed",
            404 => code == "agent_not_found",
            409 => code == "workflow_archived",
            _ => false,
        };
        assert!(is_told, "{status}: {body}");
    }
    made.remove(0)
}

async fn of_all_who_have_seen_the_same_one_wins(one: &Api, other: &Api) {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let gateway = |number: usize| if number.is_multiple_of(2) { one } else { other };
    for (things, new, change) in [
        (
            "agents",
            json!({ "agent_type": "nobody", "name": "new" }),
            (|name| json!({ "name": name })) as fn(&str) -> Value,
        ),
        ("workflows", definition("new", "x"), |name| definition("new", name)),
    ] {
        let made = one.post(&format!("/api/v1/{things}"), &new).await;
        let path = format!("/api/v1/{things}/{}", made.body["id"].as_str().expect("an id"));
        let mut tag = made.header("etag").to_owned();
        for round in 0..3 {
            let changes = join_all(names.iter().enumerate().map(async |(number, name)| {
                // What is there already is no change.
                let body = change(&format!("{name}{round}"));
                with_tag(gateway(number), Method::PUT, &path, "If-Match", &tag, Some(&body)).await
            }));
            let won = winner(changes.await);
            assert_ne!(won.header("etag"), tag, "{path}");
            won.header("etag").clone_into(&mut tag);
            let revision = won.body.get("revision").or(won.body.get("version"));
            assert_eq!(revision, Some(&json!(round + 2)), "{path}");
        }
        // Who removes it is one of them.
        let last = join_all(names.iter().enumerate().map(async |(number, name)| {
            let body = change(name);
            let (method, body) = if number < 4 { (Method::PUT, Some(&body)) } else { (Method::DELETE, None) };
            with_tag(gateway(number), method, &path, "If-Match", &tag, body).await
        }));
        let (changed, removed): (Vec<_>, Vec<_>) =
            last.await.into_iter().enumerate().partition(|(number, _)| *number < 4);
        let [changed, mut removed] =
            [changed, removed].map(|answers| answers.into_iter().map(|(_, answer)| answer).collect::<Vec<_>>());
        if things == "workflows" {
            // To archive what is archived is no change: each hears that it was done.
            let archived =
                removed.iter().filter(|answer| answer.body["message"].to_string().ends_with(" archived\"")).count();
            assert!(archived <= 1, "{removed:#?}");
            removed.retain(|answer| !answer.body["message"].to_string().contains("already"));
        }
        winner(changed.into_iter().chain(removed).collect());
    }
}

both_ways!(of_all_who_have_seen_the_same_one_wins);

async fn what_a_client_has_is_not_sent_again(one: &Api, other: &Api) {
    let workflow = one.define(&definition("w", "x")).await;
    let execution = one.execute(&workflow, &json!({})).await;
    one.ended(&execution).await;
    for path in [format!("/api/v1/workflows/{workflow}"), format!("/api/v1/executions/{execution}")] {
        let tag = one.get(&path).await.header("etag").to_owned();
        let known = with_tag(other, Method::GET, &path, "If-None-Match", &tag, None).await;
        assert_eq!((known.status, known.header("etag"), &known.body), (304, tag.as_str(), &Value::Null), "{path}");
        with_tag(other, Method::GET, &path, "If-None-Match", "\"1.0\"", None).await.expect(200);
    }
}

both_ways!(what_a_client_has_is_not_sent_again);

async fn lists_have_the_order_and_the_fields_that_are_asked_for(one: &Api, other: &Api) {
    let mut newest = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        one.post("/api/v1/agents", &json!({ "agent_type": "nobody", "name": name })).await.expect(201);
        let workflow = one.define(&definition(name, "x")).await;
        newest.insert(0, one.execute(&workflow, &json!({})).await);
    }
    for things in ["agents?type=nobody&", "workflows?", "executions?"] {
        let read = async |sort: &str| {
            let path = format!("/api/v1/{things}limit=2&fields=id,created_at&sort={sort}");
            testkit::eventually("all of them are seen", async || {
                let items = other.all(&path).await;
                if items.len() == 5 { Ok(items) } else { Err(items) }
            })
            .await
        };
        let back = read("-created_at").await;
        let mut forth = read("created_at").await;
        assert!(forth.is_sorted_by_key(|item| item["created_at"].to_string()), "{things}: {forth:?}");
        assert!(forth.iter().all(|item| item.as_object().is_some_and(|item| item.len() == 2)), "{things}: {forth:?}");
        forth.reverse();
        assert_eq!(back, forth, "{things}");
        if things == "executions?" {
            assert_eq!(back.iter().map(|item| item["id"].as_str().unwrap_or_default()).collect::<Vec<_>>(), newest);
        }
    }
}

both_ways!(lists_have_the_order_and_the_fields_that_are_asked_for);

/// What is told of an execution until it has ended, or until so many events have come: their numbers.
async fn heard(socket: &mut WebSocket, most: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < most {
        let told = timeout(DEADLINE, socket.heard()).await.expect("something is told").expect("it stays open");
        match told["type"].as_str() {
            Some("subscribed") => {}
            Some("event") => numbers.extend(told["event"]["sequence"].as_u64()),
            Some("ended") => break,
            _ => panic!("{told}"),
        }
    }
    numbers
}

async fn a_client_goes_on_after_the_last_event_that_it_has(one: &Api, other: &Api) {
    let steps: Vec<_> = ["a", "b", "c"].map(|id| json!({ "id": id, "agent_type": "echo" })).into();
    let workflow = one.define(&json!({ "name": "w", "steps": steps })).await;
    let path = format!("/api/v1/workflows/{workflow}/execute");
    let execution = one.execute(&workflow, &json!({})).await;
    let subscribe = |after: u64| json!({ "type": "subscribe", "execution_id": execution, "after": after });
    let open = async |api: &Api| WebSocket::open(address(api), "/api/v1/ws", &[]).await.expect("it is opened");

    // Over a socket: from the beginning, while it runs; and at another gateway from where the first one broke off.
    let mut first = open(one).await;
    first.say(&subscribe(0)).await.expect("it can be said");
    let mut numbers = heard(&mut first, 2).await;
    drop(first);
    let mut second = open(other).await;
    second.say(&subscribe(2)).await.expect("it can be said");
    numbers.extend(heard(&mut second, usize::MAX).await);
    let log = other.events(&execution).await;
    assert_eq!(numbers, (1..=log.len() as u64).collect::<Vec<_>>());

    // Over a stream the same.
    let request = other.request(Method::GET, &format!("/api/v1/executions/{execution}/events"));
    let request = request.header("Accept", "text/event-stream").header("Last-Event-ID", "3").send();
    let text = request.await.expect("it is answered").text().await.expect("it ends");
    let ids: Vec<u64> = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert_eq!(ids, (4..=log.len() as u64).collect::<Vec<_>>());

    // Or waits for the end itself: as long as it likes, and no longer.
    let done = other.post(&path, &json!({ "wait_ms": 60_000 })).await.expect(200);
    assert_eq!(done["status"], "completed");
    let never = one.define(&json!({ "name": "n", "steps": [{ "id": "a", "agent_type": "nobody" }] })).await;
    let path = format!("/api/v1/workflows/{never}/execute");
    let running = other.post(&path, &json!({ "wait_ms": 10 })).await.expect(202);
    assert!(running["execution_id"].is_string(), "{running}");
}

both_ways!(a_client_goes_on_after_the_last_event_that_it_has);
