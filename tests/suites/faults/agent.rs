//! An agent of the test's own, which does with a message what the message says: see [`Fate`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agent_sdk::{Agent, Message, Refusal, Server, Shutdown};
use serde_json::{Value, json};
use testkit::{Api, TOKEN};
use tokio::{sync::Notify, task::JoinSet};

use crate::kill::mail::{FATES, Fate, Mailbox};

/// How long it is at a message, so that a session that dies has several in hand.
const WORK: Duration = Duration::from_millis(10);
/// How long what is given back for ever stays away; what is given back for a while comes again when the server says.
const SOON: Duration = Duration::from_millis(20);

/// The agent, with a session at every communication.
pub(super) struct Obedient {
    id: String,
    seen: Arc<Seen>,
    deaths: Arc<AtomicU64>,
    _sessions: JoinSet<()>,
}

impl Obedient {
    /// Registers it, and lets it work until this value goes.
    pub(super) async fn start(api: &Api, communications: Vec<String>) -> Self {
        let agent = json!({ "agent_type": "obedient", "name": "obedient-1", "config": {}, "capabilities": [] });
        let agent = api.post("/api/v1/agents", &agent).await.expect(201);
        let id = agent["id"].as_str().expect("an agent has an id").to_owned();
        let (seen, deaths) = (Arc::<Seen>::default(), Arc::<AtomicU64>::default());
        let mut sessions = JoinSet::new();
        for address in communications {
            let (id, seen, deaths) = (id.clone(), Arc::clone(&seen), Arc::clone(&deaths));
            sessions.spawn(async move {
                loop {
                    run_until_death(&id, &address, &seen).await;
                    deaths.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { id, seen, deaths, _sessions: sessions }
    }

    /// What is sent to it.
    pub(super) fn mailbox(&self) -> Mailbox {
        Mailbox { agent: self.id.clone(), fates: FATES }
    }

    /// How often one of its sessions has died by itself.
    pub(super) fn deaths(&self) -> u64 {
        self.deaths.load(Ordering::Relaxed)
    }

    /// How often a message came that had come before.
    pub(super) fn again(&self) -> u32 {
        self.seen.lock().expect("no handler panicked").values().map(|times| times - 1).sum()
    }
}

/// How often each message has come, by its id.
type Seen = Mutex<HashMap<String, u32>>;

/// One session, until a message says that it is to die: the connection is dropped where it stands, with what it has in hand.
async fn run_until_death(id: &str, address: &str, seen: &Arc<Seen>) {
    let death = Arc::new(Notify::new());
    let (seen, dies) = (Arc::clone(seen), Arc::clone(&death));
    let agent = Agent::builder("obedient").agent_id(id).on_message(move |_, message| {
        let (seen, dies) = (Arc::clone(&seen), Arc::clone(&dies));
        async move { obey(&message, &seen, &dies).await }
    });
    let server = Server::at(format!("http://{address}")).token(TOKEN);
    tokio::select! {
        ended = agent.connect(server).run_until(Shutdown::new()) => panic!("the agent has ended: {ended:?}"),
        () = death.notified() => {}
    }
}

async fn obey(message: &Message, seen: &Seen, death: &Notify) -> Result<(), Refusal> {
    let payload: Value = message.payload()?;
    let fate = Fate::of(&payload).unwrap_or_else(|| panic!("it says nothing: {payload}"));
    let times = {
        let mut seen = seen.lock().expect("no handler panicked");
        let times = seen.entry(message.id.clone()).or_default();
        *times += 1;
        *times
    };
    tokio::time::sleep(WORK).await;
    let give_back = |delay| Err(Refusal::Retry { reason: "not now".to_owned(), delay });
    match fate {
        Fate::AckAfter(most) if times <= most => give_back(Duration::ZERO),
        Fate::AckAfterDeath if times == 1 => {
            death.notify_one();
            std::future::pending().await
        }
        Fate::Ack | Fate::AckAfter(_) | Fate::AckAfterDeath => Ok(()),
        Fate::Reject => Err(Refusal::Reject { reason: "never".to_owned() }),
        Fate::GiveBack => give_back(SOON),
    }
}
