//! A runner between a registry and a communication that the test plays, all inside one process.

#![expect(clippy::unwrap_used, reason = "a test panics where the world it plays breaks")]

mod example;
mod peers;

use std::{sync::Arc, time::Duration};

use agent_runner::{Peers, Service, Settings};
use contracts::{
    agent_runner::v1::{
        ListHostedAgentsRequest, LoadAgentRequest, UnloadAgentRequest,
        agent_runner_service_client::AgentRunnerServiceClient,
    },
    registry::v1::Agent,
};
use domain::SystemClock;
use errors::Error;
use lifecycle::{Shutdown, Tasks};
use serde_json::{Value, json};

use peers::{Communication, Registry};

struct World {
    runner: AgentRunnerServiceClient<contracts::Link>,
    registry: Registry,
    communication: Communication,
    tasks: Tasks,
    folder: tempfile::TempDir,
    _service: Service,
}

impl World {
    async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings =
            Settings { files_dir: folder.path().to_owned(), default_agents: false, ..Settings::default() };
        change(&mut settings);
        let (registry, communication) = (Registry::default(), Communication::default());
        let peers = Peers { communication: communication.link(), registry: registry.link() };
        let tasks = Tasks::new(Shutdown::new());
        let service = agent_runner::start(settings, peers, Arc::new(SystemClock), &tasks).await.unwrap();
        let runner = AgentRunnerServiceClient::new(service.link().under(&access::ActingAs::service("test")));
        Self { runner, registry, communication, tasks, folder, _service: service }
    }

    /// The outcome of one task of the agent.
    async fn run(&self, agent: &str, action: &str, input: Value) -> Result<Value, (String, bool)> {
        self.communication.run(agent, action, &input, 1).await
    }

    async fn hosted(&mut self) -> Vec<(String, bool)> {
        let listed = self.runner.list_hosted_agents(ListHostedAgentsRequest {}).await.unwrap().into_inner();
        listed.agents.into_iter().map(|agent| (agent.name, agent.connected)).collect()
    }

    async fn until_hosted(&mut self, wanted: &[(&str, bool)]) {
        let wanted: Vec<_> = wanted.iter().map(|(name, connected)| ((*name).to_owned(), *connected)).collect();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.hosted().await;
            if found == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{found:?} instead of {wanted:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn agent(id: &str, agent_type: &str, config: &Value) -> Agent {
    Agent {
        id: id.into(),
        namespace: "default".into(),
        agent_type: agent_type.into(),
        name: id.into(),
        config: config.to_string().into(),
        ..Agent::default()
    }
}

#[tokio::test]
async fn every_registered_agent_of_a_built_in_kind_is_hosted_until_it_is_deleted() {
    let mut world = World::start(|_| {}).await;
    world.registry.upsert(agent("a1", "echo", &json!({})));
    world.registry.upsert(agent("a2", "mine", &json!({})));
    world.until_hosted(&[("a1", true)]).await;
    assert_eq!(world.run("a1", "anything", json!({ "x": 1 })).await, Ok(json!({ "x": 1 })));
    world.registry.delete("a1");
    world.until_hosted(&[]).await;

    world.registry.break_streams();
    world.registry.upsert(agent("a3", "echo", &json!({})));
    world.until_hosted(&[("a3", true)]).await;
    world.tasks.shutdown().drain();
    world.tasks.join(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn an_agent_with_a_faulty_configuration_stays_offline_until_it_is_mended() {
    let mut world = World::start(|_| {}).await;
    world.registry.upsert(agent("v", "decision", &json!({ "otherwise": { "chose": "red" } })));
    world.until_hosted(&[("v", false)]).await;
    world.registry.upsert(agent("v", "decision", &json!({ "otherwise": { "choose": "red" } })));
    world.until_hosted(&[("v", true)]).await;
    let asked = json!({ "question": "?", "options": ["green", "red"], "context": {}, "strategy": "majority" });
    let ballot = world.run("v", "vote", asked).await.unwrap();
    assert_eq!((&ballot["choice"], &ballot["ranking"]), (&json!("red"), &json!(["red", "green"])));
}

#[tokio::test]
async fn agents_can_be_loaded_and_unloaded_by_call() {
    let mut world = World::start(|_| {}).await;
    let load = |agent_type: &str, config: Value| LoadAgentRequest {
        agent_type: agent_type.into(),
        name: "one".into(),
        config: config.to_string().into(),
        ..LoadAgentRequest::default()
    };
    let unknown: Error = world.runner.load_agent(load("nonsense", json!({}))).await.unwrap_err().into();
    assert_eq!(unknown.reason, "unknown_agent_kind");
    let faulty: Error = world.runner.load_agent(load("http", json!({ "allow": "x" }))).await.unwrap_err().into();
    assert_eq!((faulty.reason, faulty.violations[0].field.as_str()), ("agent_config_invalid", "/config/allow"));

    let agent_id = world.runner.load_agent(load("echo", json!({}))).await.unwrap().into_inner().agent_id;
    world.until_hosted(&[("one", true)]).await;
    let unload = UnloadAgentRequest { namespace: String::new(), agent_id };
    assert!(world.runner.unload_agent(unload.clone()).await.unwrap().into_inner().unloaded);
    assert!(!world.runner.unload_agent(unload).await.unwrap().into_inner().unloaded);
    world.until_hosted(&[]).await;
}

#[tokio::test]
async fn a_newcomer_finds_one_agent_of_every_kind() {
    let mut world = World::start(|settings| settings.default_agents = true).await;
    let kinds = ["coordinator", "data", "decision", "echo", "http"];
    world.until_hosted(&kinds.map(|kind| (kind, true))).await;
}

#[tokio::test]
async fn echo_fails_as_told_and_sleeps() {
    let mut world = World::start(|_| {}).await;
    world.registry.upsert(agent("e", "echo", &json!({})));
    world.until_hosted(&[("e", true)]).await;
    let fail = json!({ "code": "broken", "retryable": true, "until_attempt": 2 });
    assert_eq!(world.communication.run("e", "fail", &fail, 1).await, Err(("broken".into(), true)));
    assert_eq!(world.communication.run("e", "fail", &fail, 2).await, Ok(json!({ "attempt": 2 })));
    assert_eq!(world.run("e", "sleep", json!({ "ms": 1 })).await, Ok(json!({ "slept_ms": 1 })));
}

#[tokio::test]
async fn data_reads_works_on_rows_and_writes() {
    let mut world = World::start(|_| {}).await;
    world.registry.upsert(agent("d", "data", &json!({})));
    world.until_hosted(&[("d", true)]).await;
    std::fs::write(world.folder.path().join("in.csv"), "name,mag,zone\na,5.5,x\nb,6.1,y\nc,,x\n").unwrap();
    let then = json!([{ "filter": { "where": "row.mag != null" } }, { "map": { "fields": { "twice": "row.mag * 2.0" }, "keep": true } },
        { "sort": { "by": [{ "field": "mag", "order": "desc" }] } }]);
    let read = world.run("d", "read_csv", json!({ "path": "in.csv", "then": then })).await.unwrap();
    assert_eq!(
        read,
        json!({ "rows": [{ "name": "b", "mag": 6.1, "zone": "y", "twice": 12.2 }, { "name": "a", "mag": 5.5, "zone": "x", "twice": 11.0 }], "count": 2 })
    );

    let compute = json!({ "n": { "function": "count" }, "top": { "function": "max", "field": "mag" } });
    let grouped = world
        .run("d", "aggregate", json!({ "rows": read["rows"], "group_by": ["zone"], "compute": compute }))
        .await
        .unwrap();
    assert_eq!(grouped["rows"], json!([{ "zone": "y", "n": 1, "top": 6.1 }, { "zone": "x", "n": 1, "top": 5.5 }]));

    let with = json!([{ "zone": "x", "label": "X", "name": "zone x" }]);
    let joined = world
        .run("d", "join", json!({ "rows": grouped["rows"], "with": with, "on": ["zone"], "kind": "left" }))
        .await
        .unwrap();
    assert_eq!(joined["rows"][1], json!({ "zone": "x", "n": 1, "top": 5.5, "label": "X", "name": "zone x" }));
    assert_eq!(joined["count"], 2);

    let write = json!({ "path": "output/out.jsonl", "rows": joined["rows"] });
    assert_eq!(world.run("d", "write_jsonl", write).await.unwrap()["count"], 2);
    let back = world.run("d", "read_jsonl", json!({ "path": "output/out.jsonl" })).await.unwrap();
    assert_eq!(back["rows"], joined["rows"]);
    for (action, input, code) in [
        ("read_csv", json!({ "path": "../in.csv" }), "path_not_allowed"),
        ("read_csv", json!({ "path": "none.csv" }), "file_not_found"),
        ("filter", json!({ "rows": [{}], "where": "row.a.b > 1" }), "expression"),
        ("filter", json!({ "rows": [{}], "where": "1 +" }), "invalid_expression"),
        ("filter", json!({ "rows": [1], "where": "true" }), "invalid_input"),
        ("sort", json!({ "rows": [], "by": [], "more": 1 }), "invalid_input"),
    ] {
        assert_eq!(world.run("d", action, input).await, Err((code.into(), false)), "{action}");
    }
}

#[tokio::test]
async fn decisions_score_and_apply_rules_and_vote() {
    let mut world = World::start(|_| {}).await;
    let config = json!({
        "rules": [{ "when": "context.mag >= 6.0", "choose": "red", "because": "magnitude {{ context.mag }}" }],
        "criteria": [{ "name": "calm", "expression": "option == 'green' ? 1.0 : 0.0" }],
    });
    world.registry.upsert(agent("v", "decision", &config));
    world.until_hosted(&[("v", true)]).await;
    let ask = |mag: f64| json!({ "question": "?", "options": ["red", "green"], "context": { "mag": mag }, "strategy": "ranked" });
    assert_eq!(
        world.run("v", "vote", ask(6.5)).await.unwrap(),
        json!({ "choice": "red", "ranking": ["red", "green"], "rationale": "magnitude 6.5" })
    );
    assert_eq!(world.run("v", "vote", ask(1.5)).await.unwrap()["ranking"], json!(["green", "red"]));
    let none = json!({ "question": "?", "options": ["blue"], "context": { "mag": 7.0 } });
    assert_eq!(world.run("v", "vote", none).await, Err(("not_an_option".into(), false)));

    let criteria = json!([{ "name": "price", "direction": "lower" }, { "name": "quality", "weight": 3 }]);
    let items = json!([{ "id": 1, "price": 10, "quality": 1 }, { "id": 2, "price": 20, "quality": 5 }]);
    let scored = world.run("v", "score", json!({ "items": items, "criteria": criteria })).await.unwrap();
    assert_eq!(
        (&scored["best"]["id"], &scored["ranked"][0]["score"], &scored["ranked"][1]["score"]),
        (&json!(2), &json!(0.75), &json!(0.25))
    );
    let rules = json!([{ "when": "context.n > 9", "outcome": "many" }, { "when": "context.n > 0", "outcome": "some" }]);
    let ruled =
        world.run("v", "rules", json!({ "context": { "n": 3 }, "rules": rules, "otherwise": "none" })).await.unwrap();
    assert_eq!((&ruled["outcome"], &ruled["rule"]), (&json!("some"), &json!("1")));
}

#[tokio::test]
async fn a_coordinator_delegates_gathers_summarises_and_reports() {
    let mut world = World::start(|_| {}).await;
    world.registry.upsert(agent("c", "coordinator", &json!({})));
    world.registry.upsert(agent("e", "echo", &json!({})));
    world.until_hosted(&[("c", true), ("e", true)]).await;
    let input = json!({ "to": { "agent_id": "e" }, "action": "echo", "parts": [1, 2, 3], "deadline": "20s" });
    let done = world.run("c", "delegate", input).await.unwrap();
    assert_eq!((&done["outputs"], &done["succeeded"]), (&json!([1, 2, 3]), &json!(3)));
    let input = json!({ "to": { "agent_id": "e" }, "action": "fail", "parts": [{}], "deadline": "20s" });
    assert_eq!(world.run("c", "delegate", input).await, Err(("delegation_failed".into(), false)));

    let gathered = world
        .run("c", "gather", json!({ "lists": { "a": [{ "v": 1 }], "b": [{ "v": 2 }], "c": null }, "source": "from" }))
        .await
        .unwrap();
    assert_eq!(
        gathered,
        json!({ "count": 2, "counts": { "a": 1, "b": 1, "c": 0 }, "items": [{ "v": 1, "from": "a" }, { "v": 2, "from": "b" }] })
    );
    let figures = json!({ "sum": { "function": "sum", "field": "v" } });
    let summary = world
        .run("c", "summarise", json!({ "items": gathered["items"], "figures": figures, "group_by": ["from"] }))
        .await
        .unwrap();
    assert_eq!(
        (&summary["figures"], &summary["groups"][1]),
        (&json!({ "sum": 3 }), &json!({ "from": "b", "count": 1, "sum": 2 }))
    );
    let report = json!({ "template": "# {{ title }}\n{% for i in items %}- {{ i.v }}\n{% endfor %}", "data": { "title": "T", "items": gathered["items"] } });
    assert_eq!(world.run("c", "report", report).await.unwrap(), json!({ "lines": 3, "report": "# T\n- 1\n- 2\n" }));
}

#[tokio::test]
async fn http_calls_only_what_is_allowed() {
    let server = peers::http_server().await;
    let allowed = format!("127.0.0.1:{}", server.port);
    let mut world = World::start(|settings| settings.http_allow = vec![allowed.clone()]).await;
    world.registry.upsert(agent("h", "http", &json!({})));
    world.until_hosted(&[("h", true)]).await;
    let get = |path: &str| json!({ "url": format!("http://{allowed}{path}"), "timeout": "20s" });
    let answer = world.run("h", "request", get("/ok")).await.unwrap();
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!({ "ok": true })));
    for (input, code, retryable) in [
        (get("/missing"), "http_status", false),
        (get("/broken"), "http_status", true),
        (get("/away"), "host_not_allowed", false),
        (json!({ "url": "http://example.org/" }), "host_not_allowed", false),
        (json!({ "url": "file:///etc/hostname" }), "url_not_allowed", false),
        (json!({ "url": get("/hang")["url"], "timeout": "50ms" }), "http_timeout", true),
    ] {
        assert_eq!(world.run("h", "request", input.clone()).await, Err((code.into(), retryable)), "{input}");
    }
}
