//! A task that ends every process which works on it: it dies, its execution fails and says so, nobody else is disturbed, and
//! when the agent is mended a replay completes it.

use std::{path::PathBuf, process::Stdio};

use futures::future::join_all;
use serde_json::{Value, json};
use testkit::{Api, Cluster, Server, Setup, TOKEN, TWO_OF_EACH, eventually, troupe};
use tokio::process::Command;

/// Deliveries of a task before it is a dead letter, as communication has it where nothing is set.
const DELIVERY_LIMIT: usize = 5;

/// A Troupe to poison.
struct Place {
    api: Api,
    /// Where agents connect, one process each.
    agents: Vec<String>,
    /// A file with what they present there.
    token: Option<PathBuf>,
    /// Every hand-over is remembered where there is one communication.
    remembers: bool,
}

impl Place {
    /// Runs the agents, and starts each again whenever it ends: what any supervisor does. Never comes back.
    async fn supervised(&self, more: &[&str]) {
        join_all(self.agents.iter().enumerate().map(|(number, address)| self.one(number, address, more))).await;
    }

    async fn one(&self, number: usize, address: &str, more: &[&str]) {
        let program = testkit::binary().with_file_name("examples").join("fragile-agent");
        loop {
            let mut agent = Command::new(&program);
            agent.arg(format!("fragile-{number}")).args(more).env("TROUPE_ADDRESS", address);
            if let Some(token) = &self.token {
                agent.env("TROUPE_TOKEN_FILE", token);
            }
            let agent = agent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            let mut agent =
                agent.spawn().unwrap_or_else(|error| panic!("{}: {error}; `make build` builds it", program.display()));
            agent.wait().await.expect("its end can be waited for");
        }
    }
}

#[tokio::test]
async fn a_task_that_kills_its_agent_dies_alone_and_lives_again_when_the_agent_is_mended() {
    let server = Server::start().await;
    let place = Place { api: server.api(), agents: vec![server.grpc_url()], token: None, remembers: true };
    is_poisoned_and_heals(&place).await;
}

/// With two of everything, and an agent at each communication: the task comes to the other through the broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_does_in_a_cluster() {
    let cluster = Cluster::start(Setup { size: TWO_OF_EACH, ..Setup::default() }).await;
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN).expect("the token can be written");
    let agents = cluster.communications().iter().map(|address| format!("http://{address}")).collect();
    let place = Place { api: cluster.api(), agents, token: Some(token), remembers: false };
    is_poisoned_and_heals(&place).await;
}

/// The poisoned execution's only dead letter.
async fn letter(api: &Api) -> Value {
    let letters = api.all("/api/v1/dead-letters?kind=task&include_replayed=true").await;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    letters[0].clone()
}

async fn is_poisoned_and_heals(place: &Place) {
    let api = &place.api;
    let step = json!({ "id": "job", "agent_type": "fragile", "action": "work", "input": "${{ input }}" });
    let workflow =
        api.define(&json!({ "name": "fragile", "steps": [step], "output": "${{ steps.job.output }}" })).await;
    // More than the agent holds at once, the poison among them: it is held together with others.
    let mut others = Vec::new();
    for number in 0..8 {
        others.push(api.execute(&workflow, &json!({ "number": number })).await);
    }
    let poisoned = api.execute(&workflow, &json!({ "poison": true })).await;
    for number in 8..24 {
        others.push(api.execute(&workflow, &json!({ "number": number })).await);
    }
    let died = async {
        let failed = api.ended(&poisoned).await;
        assert_eq!((&failed["status"], &failed["failure"]["code"]), (&json!("failed"), &json!("dead_lettered")));
        let letter = letter(api).await;
        let message = failed["failure"]["message"].as_str().expect("a failure has a message");
        let id = letter["id"].as_str().expect("a letter has an id").to_owned();
        assert!(message.contains("delivery_limit") && message.contains(&id), "{message}");
        assert_eq!((&letter["reason"], &letter["deliveries"]), (&json!("delivery_limit"), &json!(DELIVERY_LIMIT)));
        assert_eq!((&letter["target"], &letter["payload"]), (&json!("type:fragile"), &json!({ "poison": true })));
        let task = &letter["task"];
        assert_eq!(
            (&task["execution_id"], &task["step_id"], &task["attempt"], &task["action"]),
            (&json!(poisoned), &json!("job"), &json!(1), &json!("work"))
        );
        let listed = troupe(api.url(), &["dead-letters", "list"]).await;
        assert!(listed.code == Some(0) && listed.stdout.contains(&id), "{}{}", listed.stdout, listed.stderr);
        let shown = troupe(api.url(), &["--json", "dead-letters", "show", &id]).await;
        let shown: Value =
            serde_json::from_str(&shown.stdout).unwrap_or_else(|_| panic!("{}{}", shown.stdout, shown.stderr));
        assert_eq!((&shown["id"], &shown["reason"]), (&json!(id), &json!("delivery_limit")), "{shown:#}");
        let hand_overs = task["hand_overs"].as_array().map_or(0, Vec::len);
        assert!(if place.remembers { hand_overs == DELIVERY_LIMIT } else { hand_overs > 0 }, "{letter:#}");
        for (number, execution) in others.iter().enumerate() {
            let ended = api.ended(execution).await;
            assert_eq!(
                (&ended["status"], &ended["output"]["number"]),
                (&json!("completed"), &json!(number)),
                "{ended:#}"
            );
        }
        id
    };
    let id = tokio::select! {
        id = died => id,
        () = place.supervised(&[]) => unreachable!("it goes on"),
    };

    let replayed = async {
        let replay = ["dead-letters", "replay", &id];
        let told = troupe(api.url(), &replay).await;
        assert_eq!(told.code, Some(0), "{}", told.stderr);
        assert!(told.stdout.contains(&poisoned), "{}", told.stdout);
        let ended = api.ended(&poisoned).await;
        assert_eq!(
            (&ended["status"], &ended["output"]),
            (&json!("completed"), &json!({ "poison": true })),
            "{ended:#}"
        );
        assert!(letter(api).await["replayed_at"].is_string());
        let events = api.events(&poisoned).await.len();
        let told = troupe(api.url(), &replay).await;
        assert_eq!(
            (told.code, api.events(&poisoned).await.len()),
            (Some(0), events),
            "a second replay changes nothing"
        );
        // Of many, those that are replayed already are left out.
        let many = troupe(api.url(), &["--json", "dead-letters", "replay", "--all"]).await;
        let answer: Value = serde_json::from_str(&many.stdout).expect("the answer is JSON");
        assert_eq!((many.code, &answer), (Some(0), &json!({ "replayed": 0, "failures": [] })));
        let purged = troupe(api.url(), &["dead-letters", "purge", &id]).await;
        assert_eq!(purged.code, Some(0), "{}", purged.stderr);
        eventually("the letter is gone", async || {
            let left = api.all("/api/v1/dead-letters?include_replayed=true").await;
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    };
    tokio::select! {
        () = replayed => {}
        () = place.supervised(&["mended"]) => unreachable!("it goes on"),
    }
}
