//! What the clients of the kill suite do not do: they register, change and remove agents, define workflows and their next versions,
//! send messages that die and are replayed, or removed, and make API keys and give them another secret.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Api, eventually};
use tokio::{sync::watch, task::JoinSet};

/// What the server said yes to.
#[derive(Debug, Default)]
pub(super) struct Made {
    agents: Vec<String>,
    workflows: Vec<String>,
    /// Messages that nobody will ever take.
    messages: Vec<String>,
    /// Dead letters that were replayed and then removed, with their messages.
    purged: Vec<(String, String)>,
    /// What opens the doors.
    keys: Vec<String>,
}

/// A client that does one thing after the other.
pub(super) struct Extras {
    urls: watch::Sender<String>,
    stop: Arc<AtomicBool>,
    client: JoinSet<Made>,
}

impl Extras {
    /// `absent`: an agent that nobody runs.
    pub(super) fn start(url: String, absent: String) -> Self {
        let (urls, current) = watch::channel(url);
        let stop = Arc::new(AtomicBool::new(false));
        let (one, until, mut client) = (Client { urls: current, absent }, Arc::clone(&stop), JoinSet::new());
        client.spawn(async move { one.run(&until).await });
        Self { urls, stop, client }
    }

    pub(super) fn moved_to(&self, url: String) {
        self.urls.send_replace(url);
    }

    /// Lets it finish what it is at.
    pub(super) async fn stop(mut self) -> Made {
        self.stop.store(true, Ordering::Relaxed);
        let made = self.client.join_next().await.expect("there is a client");
        made.expect("the client does not panic")
    }
}

struct Client {
    urls: watch::Receiver<String>,
    absent: String,
}

impl Client {
    async fn run(&self, stop: &AtomicBool) -> Made {
        let mut made = Made::default();
        let mut number = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let key = |what: &str| format!("{what}-{number}");
            let agent = json!({ "agent_type": "nobody", "name": key("extra"), "capabilities": [] });
            let agent = self.until(201, "/api/v1/agents", &key("agent"), &agent).await;
            let path = format!("/api/v1/agents/{}", text(&agent["id"]));
            self.change(&[200], Method::PUT, &path, &json!({ "capabilities": [key("changed")] })).await;
            made.agents.push(text(&agent["id"]));
            let gone = json!({ "agent_type": "nobody", "name": key("gone"), "capabilities": [] });
            let gone = self.until(201, "/api/v1/agents", &key("gone"), &gone).await;
            // Where the answer is lost it is not there any more.
            self.change(&[200, 404], Method::DELETE, &format!("/api/v1/agents/{}", text(&gone["id"])), &Value::Null)
                .await;
            let steps = json!([{ "id": "a", "agent_type": "echo", "action": "echo" }]);
            let workflow = json!({ "name": key("extra"), "steps": steps });
            let mut next = workflow.clone();
            let workflow = self.until(201, "/api/v1/workflows", &key("workflow"), &workflow).await;
            next["description"] = json!("changed");
            let path = format!("/api/v1/workflows/{}", text(&workflow["id"]));
            self.change(&[200], Method::PUT, &path, &next).await;
            made.workflows.push(text(&workflow["id"]));
            let message = json!({ "payload": { "n": number }, "expires_in": "1s" });
            let path = format!("/api/v1/agents/{}/message", self.absent);
            let message = self.until(202, &path, &key("expires"), &message).await;
            made.messages.push(text(&message["message_id"]));
            // Of those before, whichever have died by now.
            self.until(200, "/api/v1/dead-letters/replay", "", &json!({ "kind": "message", "reason": "expired" }))
                .await;
            self.purge(&mut made).await;
            made.keys.extend(self.keys(&key("extra")).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        made
    }

    /// Removes the first letter that was replayed.
    async fn purge(&self, made: &mut Made) {
        let path = "/api/v1/dead-letters?kind=message&reason=expired&include_replayed=true&limit=500";
        let letters = self.insist(&[200], &Method::GET, path, "", &Value::Null).await;
        let letters = letters["items"].as_array().expect("a page has letters");
        let Some(letter) = letters.iter().find(|letter| letter["replayed_at"].is_string()) else { return };
        // Where the answer is lost it is not there any more.
        let path = format!("/api/v1/dead-letters/{}", text(&letter["id"]));
        self.change(&[200, 404], Method::DELETE, &path, &Value::Null).await;
        made.purged.push((text(&letter["id"]), text(&letter["subject_id"])));
    }

    /// A new key, and the secret that it was given after its first. Where an answer is lost nobody has what it said, and another is
    /// made.
    async fn keys(&self, name: &str) -> [String; 2] {
        let key = json!({ "name": name, "role": "viewer" });
        let first = self.until(201, "/api/v1/auth/keys", "", &key).await;
        let path = format!("/api/v1/auth/keys/{}/rotate", text(&first["key"]["id"]));
        let second = self.until(200, &path, "", &json!({ "overlap": "1h" })).await;
        [text(&first["secret"]), text(&second["secret"])]
    }

    /// Tries until the server answers with `status`.
    async fn until(&self, status: u16, path: &str, key: &str, body: &Value) -> Value {
        self.insist(&[status], &Method::POST, path, key, body).await
    }

    /// The same of what may be repeated as it is.
    async fn change(&self, statuses: &[u16], method: Method, path: &str, body: &Value) {
        self.insist(statuses, &method, path, "", body).await;
    }

    async fn insist(&self, statuses: &[u16], method: &Method, path: &str, key: &str, body: &Value) -> Value {
        eventually(path, || async {
            let api = Api::new(self.urls.borrow().clone());
            let mut request = api.request(method.clone(), path).timeout(Duration::from_secs(10));
            if !body.is_null() {
                request = request.json(body);
            }
            if !key.is_empty() {
                request = request.header("Idempotency-Key", key);
            }
            let answer = api.send(request).await.map_err(|error| error.to_string())?;
            match answer.status {
                got if statuses.contains(&got) => Ok(answer.body),
                503 | 504 => Err(format!("{answer:?}")),
                _ => panic!("{path}: {answer:#?}"),
            }
        })
        .await
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("it has an id").to_owned()
}

impl Made {
    /// Everything is there, once; what has died was replayed once.
    pub(super) async fn check(&self, api: &Api) {
        let agents = api.all("/api/v1/agents?type=nobody").await;
        let ids: Vec<_> = agents.iter().map(|agent| text(&agent["id"])).collect();
        for id in &self.agents {
            assert!(ids.contains(id), "{id} was registered, and is not there");
        }
        let changed = |agent: &&Value| agent["name"].as_str().is_some_and(|name| name.starts_with("extra"));
        for agent in agents.iter().filter(changed) {
            let capability = text(&agent["name"]).replace("extra", "changed");
            assert_eq!(agent["capabilities"], json!([capability]), "it was changed: {agent:#}");
        }
        // And the one that gets the messages.
        assert_eq!(agents.len(), self.agents.len() + 1, "each was registered once: {agents:#?}");
        for id in &self.workflows {
            let workflow = api.get(&format!("/api/v1/workflows/{id}")).await.expect(200);
            let same = api.all(&format!("/api/v1/workflows?name={}", text(&workflow["name"]))).await;
            assert_eq!(same.len(), 1, "it was defined once: {same:#?}");
            assert_eq!((&workflow["version"], &workflow["description"]), (&json!(2), &json!("changed")));
        }
        for key in &self.keys {
            let request = api.request(Method::GET, "/api/v1/agents?limit=1").header("X-API-Key", key);
            let answer = api.send(request).await.expect("the server answers");
            assert_eq!(answer.status, 200, "a key that was given opens: {answer:#?}");
        }
        let letters = api.all("/api/v1/dead-letters?kind=message&include_replayed=true").await;
        let is_purged = |letter: &&Value| self.purged.iter().any(|(id, _)| letter["id"] == **id);
        assert_eq!(letters.iter().find(is_purged), None, "it was removed");
        eventually("every message has died, and was replayed", || async {
            let replay = json!({ "kind": "message", "reason": "expired" });
            api.post("/api/v1/dead-letters/replay", &replay).await.expect(200);
            let letters = api.all("/api/v1/dead-letters?kind=message&include_replayed=true").await;
            let is_over = |id: &&String| {
                letters.iter().any(|letter| letter["subject_id"] == ***id && letter["replayed_at"].is_string())
            };
            let was_over = |id: &&String| self.purged.iter().any(|(_, message)| message == *id);
            let left: Vec<_> = self.messages.iter().filter(|id| !is_over(id) && !was_over(id)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    }
}
