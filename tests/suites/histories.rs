//! Data of each release on SQLite, opened by this one: it migrates, what has ended is as it was, and what lives goes on to the
//! right end.
//!
//! `tests/histories/<format>/data` is the data directory of a process that died in the middle of putting its journal in place;
//! `executions.json` says of each execution how it had ended, or which signals bring it to which end; `migrations` names what had made
//! its tables. `make record-histories`
//! keeps those of the present format, once.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use testkit::{Api, Server, eventually, within};

use crate::kill::{check_all, check_nothing_left, driver::Driver, prepare};

/// What is written now: the version with which it was written first, and what is new in it. A change of what the databases have gets
/// a name of its own here, so that it is kept as well. Of tables that is noticed below; of how events and packs are written, whoever
/// changes it has to think of it.
const FORMAT: &str = "0.1.0-keys";

/// What makes the tables, a line each.
fn migrations() -> String {
    let folder = testkit::workspace().join("migrations/sqlite");
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.expect("the folder can be read").path()).collect()
    };
    let mut names: Vec<_> = files(&folder)
        .iter()
        .flat_map(|service| files(service))
        .map(|file| file.strip_prefix(&folder).expect("it is below").display().to_string() + "\n")
        .collect();
    names.sort_unstable();
    names.concat()
}

#[test]
fn data_of_the_present_format_is_kept() {
    let kept = fs::read_to_string(folder().join(FORMAT).join("migrations")).unwrap_or_default();
    assert_eq!(kept, migrations(), "give `FORMAT` another name, and keep its data with `make record-histories`");
}

fn folder() -> PathBuf {
    testkit::workspace().join("tests/histories")
}

/// What is under way: a loop of a block that waits, within a mutex, after work that can be undone; a child that waits; and a signal
/// that nobody has taken yet.
fn living() -> [Value; 2] {
    let echo = |id: &str, input: &str| json!({ "id": id, "agent_type": "echo", "action": "echo", "input": input });
    let mut first = echo("first", "${{ input.n }}");
    first["compensate"] = json!({ "agent_type": "echo", "action": "unfirst" });
    let mut say = echo("say", "${{ steps.wait.output }}");
    say["depends_on"] = json!(["wait"]);
    let wait = json!({ "id": "wait", "signal": { "name": "go" } });
    let rounds = json!({
        "id": "rounds", "depends_on": ["first"], "loop": { "while": "iteration < 3" },
        "mutex": { "name": "held", "scope": "global" },
        "block": { "steps": [wait, say], "output": "${{ steps.say.output }}" },
    });
    let child = json!({ "id": "child", "workflow": { "name": "living-child", "input": { "n": "${{ input.n }}" } } });
    let late = json!({ "id": "late", "signal": { "name": "early" }, "depends_on": ["rounds", "child"] });
    let config = json!({ "concurrency_key": "living", "concurrency_limit": 1 });
    let output = "${{ [steps.first.output, steps.rounds.output, steps.child.output, steps.late.output] }}";
    let parent = json!({ "name": "living", "steps": [first, rounds, child, late], "config": config, "output": output });
    let wait = json!({ "id": "wait", "signal": { "name": "grow" } });
    let child = json!({ "name": "living-child", "steps": [wait], "output": "${{ steps.wait.output + input.n }}" });
    [child, parent]
}

async fn signal(api: &Api, execution: &str, name: &str, payload: &Value) {
    let path = format!("/api/v1/executions/{execution}/signals/{name}");
    let answer = api.post(&path, &json!({ "payload": payload })).await;
    assert!(answer.status < 300, "{answer:#?}");
}

/// Waits until an execution waits for so many things of this kind.
async fn waits(api: &Api, execution: &str, kind: &str, count: usize) -> Value {
    eventually(kind, || async {
        let explained = api.get(&format!("/api/v1/executions/{execution}/explain")).await.expect(200);
        let waits = explained["waits"].as_array().expect("a list").clone();
        let found = waits.iter().filter(|wait| wait["kind"] == kind).count();
        if found == count { Ok(Value::from(waits)) } else { Err(explained) }
    })
    .await
}

/// How all executions that have ended did so.
async fn ended(api: &Api) -> Vec<Value> {
    let mut executions = Vec::new();
    for execution in api.all("/api/v1/executions").await {
        let id = execution["id"].as_str().or(execution["execution_id"].as_str()).expect("an id").to_owned();
        let shown = api.get(&format!("/api/v1/executions/{id}")).await.expect(200);
        if shown["ended_at"].is_string() {
            executions.push(json!({ "id": id, "status": shown["status"], "output": shown["output"] }));
        }
    }
    executions
}

/// Has begun anew many times, and waits; of its earlier runs some are removed.
async fn pruned(api: &Api) -> String {
    let again = json!({ "status": "continued", "input": { "round": "${{ input.round + 1 }}" } });
    let definition = json!({
        "name": "rounds",
        "steps": [
            { "id": "work", "agent_type": "echo", "action": "echo", "input": "${{ input.round }}" },
            { "id": "again", "depends_on": ["work"], "when": "input.round < 150", "end": again },
            { "id": "wait", "when": "input.round == 150", "signal": { "name": "go" } },
        ],
        "output": "${{ steps.wait.output }}",
    });
    let workflow = api.define(&definition).await;
    let id = api.execute(&workflow, &json!({ "round": 1 })).await;
    waits(api, &id, "signal", 1).await;
    eventually("earlier runs go", || async {
        let sequences: Vec<_> =
            api.events(&id).await.iter().map(|event| event["sequence"].as_u64().expect("a number")).collect();
        if sequences.windows(2).any(|pair| pair[0] + 1 != pair[1]) { Ok(()) } else { Err(sequences.len()) }
    })
    .await;
    id
}

/// A data directory of the present format, with what is to be expected of it.
async fn record(folder: &Path) {
    let retention =
        [("TROUPE_ORCHESTRATOR__HISTORY_RETENTION", "0s"), ("TROUPE_ORCHESTRATOR__SWEEP_INTERVAL", "200ms")];
    let mut server = Server::start_with(&retention).await;
    let api = server.api();
    let driver = Driver::start(vec![server.url()], vec![prepare(&api).await]);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let accepted = driver.stop().await;
    check_all(&api, &accepted).await;
    check_nothing_left(&api, &server.url()).await;
    let [child, parent] = living();
    api.define(&child).await;
    let parent = api.define(&parent).await;
    let first = api.execute(&parent, &json!({ "n": 1 })).await;
    waits(&api, &first, "signal", 1).await;
    waits(&api, &first, "child", 1).await;
    signal(&api, &first, "go", &json!(10)).await;
    signal(&api, &first, "early", &json!("early")).await;
    // It has its turn after the first.
    let second = api.execute(&parent, &json!({ "n": 2 })).await;
    waits(&api, &second, "turn", 1).await;
    let shown = api.get(&format!("/api/v1/executions/{first}")).await.expect(200);
    let child = shown["steps"].as_array().and_then(|steps| steps.iter().find(|step| step["step_id"] == "child"));
    let child = child.expect("a step that has a child")["child_id"].clone();
    let pruned = pruned(&api).await;
    let mut executions = ended(&api).await;
    executions.push(json!({ "id": pruned, "then": [[pruned, "go", 9]], "status": "completed", "output": 9 }));
    let then = [json!([child, "grow", 5]), json!([first, "go", 20]), json!([first, "go", 30])];
    let output = json!([1, 30, 6, "early"]);
    executions.push(json!({ "id": first, "then": then, "status": "completed", "output": output }));
    let then = json!([[second, "stop", null]]);
    executions.push(json!({ "id": second, "then": then, "status": "cancelled", "output": null }));
    server.kill().await;
    // What was committed last stays in the journal.
    assert!(server.restart_with(&[("TROUPE_CRASH_POINT", "orchestrator.settle.before")]).await, "{}", server.log());
    let late = json!({ "name": "late", "steps": [{ "id": "wait", "signal": { "name": "go" } }], "output": "${{ steps.wait.output }}" });
    let api = server.api();
    let late = api.define(&late).await;
    let late = api.execute(&late, &json!({})).await;
    executions.push(json!({ "id": late, "then": [[late, "go", 7]], "status": "completed", "output": 7 }));
    within(Duration::from_mins(1), "it dies", || {
        std::future::ready(if server.has_ended() { Ok(()) } else { Err("it lives") })
    })
    .await;
    copy(&server.data_directory(), &folder.join("data")).expect("data can be copied");
    let text = serde_json::to_string_pretty(&executions).expect("JSON prints");
    fs::write(folder.join("executions.json"), text + "\n").expect("a file can be written");
    fs::write(folder.join("migrations"), migrations()).expect("a file can be written");
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_each_release_is_migrated_and_goes_on() {
    let present = folder().join(FORMAT);
    if std::env::var_os("TROUPE_RECORD_HISTORIES").is_some() && !present.exists() {
        record(&present).await;
    }
    let releases: Vec<_> =
        fs::read_dir(folder()).expect("a folder").map(|entry| entry.expect("a file").path()).collect();
    assert!(!releases.is_empty());
    for release in releases {
        go_on(&release).await;
    }
}

/// With a copy: what is kept stays as it was written.
async fn go_on(release: &Path) {
    let text = fs::read_to_string(release.join("executions.json")).expect("what to expect");
    let executions: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let data = tempfile::tempdir().expect("a temporary directory");
    copy(&release.join("data"), data.path()).expect("data can be copied");
    let mut server = Server::start_on(data.path()).await;
    let api = server.api();
    assert!(executions.len() > 20, "{}: too few: {}", release.display(), executions.len());
    for execution in &executions {
        let id = execution["id"].as_str().expect("an id");
        for then in execution["then"].as_array().into_iter().flatten() {
            let [to, name] = [&then[0], &then[1]].map(|text| text.as_str().expect("a name"));
            match name {
                "stop" => {
                    let path = format!("/api/v1/executions/{to}/cancel");
                    assert!(api.post(&path, &json!({ "reason": "it is over" })).await.status < 300);
                }
                name => signal(&api, to, name, &then[2]).await,
            }
        }
        let ended = api.ended(id).await;
        assert_eq!(ended["status"], execution["status"], "{}: {ended:#}", release.display());
        assert_eq!(ended["output"], execution["output"], "{}: {ended:#}", release.display());
        let verified = api.get(&format!("/api/v1/executions/{id}/verify")).await.expect(200);
        assert_eq!(verified["faults"], json!([]), "{}: {verified:#}", release.display());
    }
    check_nothing_left(&api, &server.url()).await;
    assert_eq!(server.stop().await, Some(0), "{}", server.log());
}
