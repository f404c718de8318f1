//! Clients that start, signal, pause and cancel executions and send messages, and that try again under the same
//! `Idempotency-Key` until they are answered, wherever the server is by then.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Api, eventually};
use tokio::{sync::watch, task::JoinSet};

use super::kinds::{KINDS, Kind, Then};

/// Clients at work at once.
const CLIENTS: usize = 6;

/// What the server said yes to.
#[derive(Default)]
pub(crate) struct Accepted {
    /// Executions, with their kind and number.
    pub(crate) executions: HashMap<String, (usize, u64)>,
    /// Messages.
    pub(crate) messages: Vec<String>,
}

/// The clients.
pub(crate) struct Driver {
    url: watch::Sender<String>,
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<Accepted>>,
    clients: JoinSet<()>,
}

impl Driver {
    pub(crate) fn start(url: String, agent: &str) -> Self {
        let (url, _) = watch::channel(url);
        let driver = Self { url, stop: Arc::default(), accepted: Arc::default(), clients: JoinSet::new() };
        driver.spawn_clients(agent)
    }

    fn spawn_clients(mut self, agent: &str) -> Self {
        let numbers = Arc::new(AtomicU64::new(0));
        for _ in 0..CLIENTS {
            let client =
                Client { url: self.url.subscribe(), agent: agent.to_owned(), accepted: Arc::clone(&self.accepted) };
            let (stop, numbers) = (Arc::clone(&self.stop), Arc::clone(&numbers));
            self.clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.run_one(numbers.fetch_add(1, Ordering::Relaxed)).await;
                    // A trickle, not a flood: the test is about moments, and every execution is checked in the end.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
        self
    }

    /// The server listens elsewhere now.
    pub(crate) fn moved_to(&self, url: String) {
        self.url.send_replace(url);
    }

    /// Lets every client finish what it is at.
    pub(crate) async fn stop(mut self) -> Accepted {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        std::mem::take(&mut self.accepted.lock().expect("no client panicked"))
    }
}

struct Client {
    url: watch::Receiver<String>,
    agent: String,
    accepted: Arc<Mutex<Accepted>>,
}

impl Client {
    async fn run_one(&self, number: u64) {
        let place = usize::try_from(number).expect("a small number") % (KINDS.len() + 1);
        let Some(kind) = KINDS.get(place) else { return self.send_message(number).await };
        let workflows =
            self.until(200, Method::GET, &format!("/api/v1/workflows?name={}", kind.name), "", &Value::Null).await;
        let workflow = workflows["items"][0]["id"].as_str().expect("a workflow has an id").to_owned();
        let body = json!({ "input": Kind::input(number) });
        let started = self
            .until(202, Method::POST, &format!("/api/v1/workflows/{workflow}/execute"), &format!("run-{number}"), &body)
            .await;
        let execution = started["execution_id"].as_str().expect("an execution has an id").to_owned();
        self.accepted.lock().expect("no client panicked").executions.insert(execution.clone(), (place, number));
        self.go_on(kind.then, &format!("/api/v1/executions/{execution}"), number).await;
    }

    async fn go_on(&self, then: Then, path: &str, number: u64) {
        match then {
            Then::Watch => {}
            Then::Signal => {
                let key = format!("signal-{number}");
                self.until(
                    0,
                    Method::POST,
                    &format!("{path}/signals/go"),
                    &key,
                    &json!({ "payload": { "go": number } }),
                )
                .await;
            }
            Then::Cancel => {
                self.until(0, Method::POST, &format!("{path}/cancel"), "", &json!({ "reason": "the test says so" }))
                    .await;
            }
            Then::Pause => {
                self.until(0, Method::POST, &format!("{path}/pause"), "", &json!({})).await;
                self.until(0, Method::POST, &format!("{path}/resume"), "", &json!({})).await;
            }
        }
    }

    async fn send_message(&self, number: u64) {
        let path = format!("/api/v1/agents/{}/message", self.agent);
        let sent = self
            .until(202, Method::POST, &path, &format!("message-{number}"), &json!({ "payload": { "n": number } }))
            .await;
        let id = sent["message_id"].as_str().expect("a message has an id").to_owned();
        self.accepted.lock().expect("no client panicked").messages.push(id);
    }

    /// Tries until the server answers with `status`; 0 is any final answer: 2xx, or 409 from an execution that has ended.
    async fn until(&self, status: u16, method: Method, path: &str, key: &str, body: &Value) -> Value {
        eventually(path, || async {
            let api = Api::new(self.url.borrow().clone());
            let mut request = api.request(method.clone(), path).timeout(Duration::from_secs(10));
            if !key.is_empty() {
                request = request.header("Idempotency-Key", key);
            }
            if method == Method::POST {
                request = request.json(body);
            }
            let answer = api.send(request).await.map_err(|error| error.to_string())?;
            match answer.status {
                // What the server refuses for good is a fault of the test or of the product, and no try changes it.
                400..=499 if !(status == 0 && answer.status == 409) => panic!("{method} {path}: {answer:#?}"),
                got if got == status || (status == 0 && got < 500) => Ok(answer.body),
                _ => Err(format!("{answer:?}")),
            }
        })
        .await
    }
}
