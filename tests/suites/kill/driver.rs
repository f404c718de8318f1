//! Clients that start, signal, pause and cancel executions and send messages, and that try again under the same
//! `Idempotency-Key` until they are answered, wherever the server is by then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Api, eventually};
use tokio::{sync::watch, task::JoinSet};

use super::{
    kinds::{KINDS, Kind, Then},
    mail::{Fate, Mailbox},
};

/// Clients at work at once.
const CLIENTS: usize = 6;

/// What the server said yes to.
#[derive(Default)]
pub(crate) struct Accepted {
    /// Executions, with their kind and number.
    pub(crate) executions: HashMap<String, (usize, u64)>,
    /// Messages, with the end that each must come to.
    pub(crate) messages: HashMap<String, Fate>,
    /// What clients were told when they had to try again, and how often.
    pub(crate) refusals: BTreeMap<String, u64>,
}

/// The clients.
pub(crate) struct Driver {
    urls: watch::Sender<Vec<String>>,
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<Accepted>>,
    clients: JoinSet<()>,
}

impl Driver {
    /// Of the gateways at `urls`.
    pub(crate) fn start(urls: Vec<String>, mailboxes: Vec<Mailbox>) -> Self {
        let (urls, _) = watch::channel(urls);
        let driver = Self { urls, stop: Arc::default(), accepted: Arc::default(), clients: JoinSet::new() };
        driver.spawn_clients(&mailboxes.into())
    }

    fn spawn_clients(mut self, mailboxes: &Arc<[Mailbox]>) -> Self {
        let numbers = Arc::new(AtomicU64::new(0));
        for _ in 0..CLIENTS {
            let client = Client {
                urls: self.urls.subscribe(),
                turn: AtomicUsize::new(0),
                mailboxes: Arc::clone(mailboxes),
                accepted: Arc::clone(&self.accepted),
            };
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
        self.urls.send_replace(vec![url]);
    }

    /// What was accepted since the last time; clients may not have done with it yet.
    pub(crate) fn accepted(&self) -> Accepted {
        std::mem::take(&mut self.accepted.lock().expect("no client panicked"))
    }

    /// Lets every client finish what it is at.
    pub(crate) async fn stop(mut self) -> Accepted {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        self.accepted()
    }
}

impl Accepted {
    /// Counts what was accepted, and told, before.
    pub(crate) fn extend(&mut self, before: Self) {
        self.executions.extend(before.executions);
        self.messages.extend(before.messages);
        for (how, times) in before.refusals {
            *self.refusals.entry(how).or_default() += times;
        }
    }
}

struct Client {
    urls: watch::Receiver<Vec<String>>,
    /// Which gateway is asked next.
    turn: AtomicUsize,
    mailboxes: Arc<[Mailbox]>,
    accepted: Arc<Mutex<Accepted>>,
}

impl Client {
    async fn run_one(&self, number: u64) {
        let place = usize::try_from(number).expect("a small number") % (KINDS.len() + 1);
        let Some(kind) = KINDS.get(place) else { return self.send_messages(number).await };
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

    /// To each mailbox, all that it gets at once.
    async fn send_messages(&self, number: u64) {
        let each =
            |mailbox: &Mailbox| mailbox.fates.iter().map(|fate| (mailbox.agent.clone(), *fate)).collect::<Vec<_>>();
        let messages = self.mailboxes.iter().flat_map(each);
        join_all(messages.map(|(agent, fate)| self.send_message(number, agent, fate))).await;
    }

    async fn send_message(&self, number: u64, agent: String, fate: Fate) {
        let path = format!("/api/v1/agents/{agent}/message");
        let key = format!("message-{number}-{agent}-{fate:?}");
        let sent = self.until(202, Method::POST, &path, &key, &json!({ "payload": fate.payload() })).await;
        let id = sent["message_id"].as_str().expect("a message has an id").to_owned();
        self.accepted.lock().expect("no client panicked").messages.insert(id, fate);
    }

    /// Tries until the server answers with `status`; 0 is any final answer: 2xx, or 409 from an execution that has ended.
    async fn until(&self, status: u16, method: Method, path: &str, key: &str, body: &Value) -> Value {
        eventually(path, || async {
            let api = Api::new(self.next_url());
            let mut request = api.request(method.clone(), path).timeout(Duration::from_secs(10));
            if !key.is_empty() {
                request = request.header("Idempotency-Key", key);
            }
            if method == Method::POST {
                request = request.json(body);
            }
            let answer = api.send(request).await.map_err(|error| {
                self.refused("no answer");
                error.to_string()
            })?;
            match answer.status {
                got if got == status || (status == 0 && (got < 300 || got == 409)) => Ok(answer.body),
                503 | 504 => {
                    let code = answer.body["code"].as_str().unwrap_or_else(|| panic!("no problem: {answer:#?}"));
                    let has_pause = answer.status == 504 || !answer.header("retry-after").is_empty();
                    assert!(has_pause, "no word of when to try again: {answer:#?}");
                    self.refused(&format!("{} {code}", answer.status));
                    Err(format!("{answer:?}"))
                }
                // What is promised is an answer, 503 or 504. Anything else is a fault of the product.
                _ => panic!("{method} {path}: {answer:#?}"),
            }
        })
        .await
    }

    fn next_url(&self) -> String {
        let urls = self.urls.borrow();
        urls[self.turn.fetch_add(1, Ordering::Relaxed) % urls.len()].clone()
    }

    fn refused(&self, how: &str) {
        let mut accepted = self.accepted.lock().expect("no client panicked");
        *accepted.refusals.entry(how.to_owned()).or_default() += 1;
    }
}
