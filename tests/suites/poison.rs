//! A task that ends every process which works on it: it dies, its execution fails and says so, nobody else is disturbed, and
//! when the agent is mended a replay completes it.

use std::process::Stdio;

use serde_json::{Value, json};
use testkit::{Api, Server, eventually, troupe};
use tokio::process::Command;

/// Deliveries of a task before it is a dead letter, as communication has it where nothing is set.
const DELIVERY_LIMIT: usize = 5;

/// Runs the agent, and starts it again whenever it ends: what any supervisor does. Never comes back.
async fn supervised(server: &Server, more: &[&str]) {
    let program = testkit::binary().with_file_name("examples").join("fragile-agent");
    loop {
        let mut agent = Command::new(&program)
            .arg(server.grpc_url())
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `make build` builds it", program.display()));
        agent.wait().await.expect("its end can be waited for");
    }
}

/// The poisoned execution's only dead letter.
async fn letter(api: &Api) -> Value {
    let letters = api.all("/api/v1/dead-letters?kind=task&include_replayed=true").await;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    letters[0].clone()
}

#[tokio::test]
async fn a_task_that_kills_its_agent_dies_alone_and_lives_again_when_the_agent_is_mended() {
    let server = Server::start().await;
    let api = server.api();
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
        let letter = letter(&api).await;
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
        assert_eq!(task["hand_overs"].as_array().map(Vec::len), Some(DELIVERY_LIMIT), "{letter:#}");
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
        () = supervised(&server, &[]) => unreachable!("it goes on"),
    };

    let replayed = async {
        let replay = ["dead-letters", "replay", &id];
        let told = troupe(&server.url(), &replay).await;
        assert_eq!(told.code, Some(0), "{}", told.stderr);
        assert!(told.stdout.contains(&poisoned), "{}", told.stdout);
        let ended = api.ended(&poisoned).await;
        assert_eq!(
            (&ended["status"], &ended["output"]),
            (&json!("completed"), &json!({ "poison": true })),
            "{ended:#}"
        );
        assert!(letter(&api).await["replayed_at"].is_string());
        let events = api.events(&poisoned).await.len();
        let told = troupe(&server.url(), &replay).await;
        assert_eq!(
            (told.code, api.events(&poisoned).await.len()),
            (Some(0), events),
            "a second replay changes nothing"
        );
        // Of many, those that are replayed already are left out.
        let many = troupe(&server.url(), &["--json", "dead-letters", "replay", "--all"]).await;
        let answer: Value = serde_json::from_str(&many.stdout).expect("the answer is JSON");
        assert_eq!((many.code, &answer), (Some(0), &json!({ "replayed": 0, "failures": [] })));
        let purged = troupe(&server.url(), &["dead-letters", "purge", &id]).await;
        assert_eq!(purged.code, Some(0), "{}", purged.stderr);
        eventually("the letter is gone", async || {
            let left = api.all("/api/v1/dead-letters?include_replayed=true").await;
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    };
    tokio::select! {
        () = replayed => {}
        () = supervised(&server, &["mended"]) => unreachable!("it goes on"),
    }
}
