//! What the services can do can be had over REST: each RPC has a route that calls it, or a reason why it has none.

use std::collections::{BTreeMap, BTreeSet};

use access::{Permission, RPCS};
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::rig::{self, Rig};

/// RPCs, without `/troupe.` and `.v1`, and the routes that call them.
const REACHED: &[(&str, &str)] = &[
    ("communication.DeadLetterService/GetDeadLetter", "GET /api/v1/dead-letters/{id}"),
    ("communication.DeadLetterService/ListDeadLetters", "GET /api/v1/dead-letters"),
    ("communication.DeadLetterService/PurgeDeadLetter", "DELETE /api/v1/dead-letters/{id}"),
    ("communication.DeadLetterService/PurgeDeadLetters", "POST /api/v1/dead-letters/purge"),
    ("communication.DeadLetterService/ReplayDeadLetter", "POST /api/v1/dead-letters/{id}/replay"),
    ("communication.DeadLetterService/ReplayDeadLetters", "POST /api/v1/dead-letters/replay"),
    ("communication.MessageService/GetMessage", "GET /api/v1/messages/{id}"),
    ("communication.MessageService/ListMessages", "GET /api/v1/messages"),
    ("communication.MessageService/SendMessage", "POST /api/v1/messages"),
    ("communication.MessageService/SendMessage", "POST /api/v1/agents/{id}/message"),
    ("communication.TopicService/Publish", "POST /api/v1/topics/{topic}"),
    ("communication.TopicService/Subscribe", "GET /api/v1/topics/{pattern}/events"),
    ("orchestrator.ExecutionService/CancelExecution", "POST /api/v1/executions/{id}/cancel"),
    ("orchestrator.ExecutionService/CheckLiveness", "GET /api/v1/liveness"),
    ("orchestrator.ExecutionService/ExplainExecution", "GET /api/v1/executions/{id}/explain"),
    ("orchestrator.ExecutionService/GetExecution", "GET /api/v1/executions/{id}"),
    ("orchestrator.ExecutionService/ListEvents", "GET /api/v1/executions/{id}/events"),
    ("orchestrator.ExecutionService/ListExecutions", "GET /api/v1/executions"),
    ("orchestrator.ExecutionService/PauseExecution", "POST /api/v1/executions/{id}/pause"),
    ("orchestrator.ExecutionService/ResumeExecution", "POST /api/v1/executions/{id}/resume"),
    ("orchestrator.ExecutionService/RetryExecution", "POST /api/v1/executions/{id}/retry"),
    ("orchestrator.ExecutionService/SignalExecution", "POST /api/v1/executions/{id}/signals/{name}"),
    ("orchestrator.ExecutionService/StartExecution", "POST /api/v1/workflows/{id}/execute"),
    ("orchestrator.ExecutionService/VerifyExecution", "GET /api/v1/executions/{id}/verify"),
    // The same route, asked for a stream.
    ("orchestrator.ExecutionService/WatchEvents", "GET /api/v1/executions/{id}/events"),
    ("orchestrator.WorkflowService/ArchiveWorkflow", "DELETE /api/v1/workflows/{id}"),
    ("orchestrator.WorkflowService/CreateWorkflow", "POST /api/v1/workflows"),
    ("orchestrator.WorkflowService/GetWorkflow", "GET /api/v1/workflows/{id}"),
    ("orchestrator.WorkflowService/ListWorkflows", "GET /api/v1/workflows"),
    ("orchestrator.WorkflowService/UpdateWorkflow", "PUT /api/v1/workflows/{id}"),
    ("registry.RegistryService/DeleteAgent", "DELETE /api/v1/agents/{id}"),
    ("registry.RegistryService/GetAgent", "GET /api/v1/agents/{id}"),
    ("registry.RegistryService/ListAgents", "GET /api/v1/agents"),
    ("registry.RegistryService/RegisterAgent", "POST /api/v1/agents"),
    ("registry.RegistryService/SelectAgents", "GET /api/v1/agents/select"),
    ("registry.RegistryService/UpdateAgent", "PUT /api/v1/agents/{id}"),
];

const ONE_RUNNER: &str = "it is about one process among several, and a gateway knows no runner: whatever agent of its kinds is registered \
    (`POST /api/v1/agents`) a runner hosts by itself, and `GET /api/v1/agents` says of all of them how they do";
const SESSION: &str =
    "a session is a stream in both directions, which agents open at communication over gRPC (docs/agents.md)";

/// RPCs that no route calls, besides those that services alone may call; and why.
const KEPT: &[(&str, &str)] = &[
    ("agent_runner.AgentRunnerService/ListHostedAgents", ONE_RUNNER),
    ("agent_runner.AgentRunnerService/LoadAgent", ONE_RUNNER),
    ("agent_runner.AgentRunnerService/UnloadAgent", ONE_RUNNER),
    ("communication.AgentSessionService/OpenSession", SESSION),
    ("communication.AgentSessionService/RenewSession", SESSION),
    (
        "registry.RegistryService/WatchAgents",
        "it keeps a list in a process fresh; who is outside asks for the list, or for one agent with `If-None-Match`",
    ),
];

fn short(path: &str) -> String {
    path.trim_start_matches("/troupe.").replace(".v1.", ".")
}

#[test]
fn every_rpc_has_a_route_or_a_reason_and_what_is_of_services_alone_has_none() {
    let document = serde_json::to_value(gateway::document()).unwrap();
    for (rpc, route) in REACHED {
        let (method, path) = route.split_once(' ').unwrap();
        assert!(document["paths"][path][method.to_lowercase()].is_object(), "{rpc}: there is no {route}");
    }
    let with_route: BTreeSet<_> = REACHED.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
    let with_reason: BTreeSet<_> = KEPT.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
    assert_eq!(with_route.intersection(&with_reason).next(), None, "one of them is wrong");
    let of_services = |permission| permission == Permission::Internal;
    let outside = RPCS.iter().filter(|(_, rule)| !of_services(rule.permission)).map(|(path, _)| short(path));
    assert_eq!(with_route.union(&with_reason).cloned().collect::<BTreeSet<_>>(), outside.collect());
}

/// What is sent to a route, where that is anything.
fn body(route: &str) -> Option<Value> {
    let definition = json!({ "name": "reached", "steps": [{ "id": "a", "agent_type": "echo" }] });
    Some(match route {
        "POST /api/v1/agents" => json!({ "agent_type": "echo", "name": "reached" }),
        "POST /api/v1/messages" => json!({ "to": "type:echo", "payload": 1 }),
        "POST /api/v1/workflows" | "PUT /api/v1/workflows/{id}" => definition,
        "POST /api/v1/dead-letters/purge" | "POST /api/v1/dead-letters/replay" => json!({ "all": true }),
        "POST /api/v1/agents/{id}/message"
        | "POST /api/v1/topics/{topic}"
        | "POST /api/v1/executions/{id}/signals/{name}" => json!({ "payload": 1 }),
        "PUT /api/v1/agents/{id}" => json!({ "name": "renamed" }),
        _ => return None,
    })
}

/// `SendMessage` as `send_message`.
fn snake(name: &str) -> String {
    name.chars().fold(String::new(), |mut snake, char| {
        if char.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(char.to_ascii_lowercase());
        snake
    })
}

#[tokio::test]
async fn a_route_calls_the_rpc_that_it_stands_for() {
    let rig = Rig::start().await;
    let execution = rig.execution().await;
    let agent = rig.post("/api/v1/agents", &json!({ "agent_type": "echo", "name": "a" })).await.expect(201);
    let ids = BTreeMap::from([
        ("agents", agent["id"].as_str().unwrap().to_owned()),
        ("executions", execution),
        ("workflows", rig.workflow().await),
        ("messages", "msg_01jx4q3nd8e5r0cawm6n8gs3kt".to_owned()),
        ("dead-letters", "dlt_01jx4q3nd8e5r0cawm6n8gs3kt".to_owned()),
    ]);
    for (rpc, route) in REACHED {
        let (method, template) = route.split_once(' ').unwrap();
        let id = template.split('/').nth(3).and_then(|kind| ids.get(kind)).map_or("", String::as_str);
        let words = [("{id}", id), ("{name}", "go"), ("{topic}", "a.b"), ("{pattern}", "a.*")];
        let mut path = words.iter().fold(template.to_owned(), |path, (name, word)| path.replace(name, word));
        if template.ends_with("/select") {
            path.push_str("?of=type:echo");
        }
        let mut request = match body(route) {
            Some(body) => rig::json(method.parse().unwrap(), &path, &body),
            None => rig::request(method.parse::<Method>().unwrap(), &path).body(Body::empty()).unwrap(),
        };
        let name = snake(rpc.rsplit('/').next().unwrap());
        if ["watch_events", "subscribe"].contains(&name.as_str()) {
            request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
        }
        rig.backend.state().calls.clear();
        let answer = rig.send(request).await;
        let calls = rig.backend.state().calls.clone();
        assert!(calls.contains(&name.as_str()), "{route} calls {calls:?}, and not {rpc}: {answer:?}");
    }
}

#[tokio::test]
async fn a_message_goes_to_a_type_a_capability_or_an_agent() {
    use contracts::communication::v1::message::Recipient;
    let rig = Rig::start().await;
    let agent = "agt_01jx4q3nd8e5r0cawm6n8gs3kt";
    for (to, expected) in [
        ("type:echo", Recipient::AgentType("echo".to_owned())),
        ("capability:credit.score", Recipient::Capability("credit.score".to_owned())),
        (agent, Recipient::AgentId(agent.to_owned())),
    ] {
        let body = json!({ "to": to, "payload": { "n": 1 }, "type": "greeting", "priority": 7, "expires_in": "30s" });
        let first = rig.post_with_key("/api/v1/messages", to, &body).await;
        let id = first.expect(202)["message_id"].as_str().unwrap().to_owned();
        assert_eq!(first.header("location"), format!("/api/v1/messages/{id}"));
        assert_eq!(rig.post_with_key("/api/v1/messages", to, &body).await.expect(202), first.json());
        let sent = rig.backend.state().messages[&id].clone();
        assert_eq!((sent.recipient, sent.r#type.as_str(), sent.priority), (Some(expected), "greeting", Some(7)));
        assert!(sent.expires_at.is_some());
    }
    for wrong in [json!("echo"), json!("type:"), json!("kind:echo"), json!({ "agent_type": "echo" }), Value::Null] {
        let refused = rig.post("/api/v1/messages", &json!({ "to": wrong, "payload": 1 })).await.expect(400);
        assert_eq!(refused["errors"][0]["pointer"], "/to", "{refused}");
    }
    let refused = rig.post("/api/v1/messages", &json!({ "payload": 1 })).await.expect(400);
    assert_eq!(refused["errors"][0]["code"], "missing_field", "{refused}");
}

#[tokio::test]
async fn agents_are_chosen_as_it_is_said() {
    use contracts::registry::v1::{SelectionStrategy, select_agents_request::Target};
    let rig = Rig::start().await;
    for name in ["a", "b", "c"] {
        let agent = json!({ "agent_type": "echo", "name": name, "capabilities": ["greet"] });
        rig.post("/api/v1/agents", &agent).await.expect(201);
    }
    let chosen = rig.get("/api/v1/agents/select?of=capability:greet&count=2").await.expect(200);
    let ids: Vec<_> = chosen["agents"].as_array().unwrap().iter().map(|agent| agent["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2, "{chosen}");
    let excluded = ids.join(",");
    let path = format!("/api/v1/agents/select?of=type:echo&count=5&strategy=sticky&key=k&exclude={excluded}");
    let rest = rig.get(&path).await.expect(200);
    assert_eq!(rest["agents"].as_array().unwrap().len(), 1, "{rest}");
    let asked = rig.backend.state().selections.last().cloned().unwrap();
    assert_eq!(asked.strategy(), SelectionStrategy::Sticky);
    assert_eq!((asked.target, asked.key.as_str()), (Some(Target::AgentType("echo".to_owned())), "k"));
    for (query, field) in [
        ("", "of"),
        ("?of=echo", "of"),
        ("?of=type:echo&count=0", "count"),
        ("?of=type:echo&strategy=best", "strategy"),
        ("?of=type:echo&exclude=x", "exclude"),
        ("?of=type:echo&type=x", "type"),
    ] {
        let refused = rig.get(&format!("/api/v1/agents/select{query}")).await.expect(400);
        assert_eq!(refused["errors"][0]["field"], field, "{query}: {refused}");
    }
}

#[tokio::test]
async fn executions_are_listed_by_several_statuses_and_by_time() {
    use contracts::orchestrator::v1::ExecutionStatus;
    let rig = Rig::start().await;
    let query = "status=running,failed&created_after=2026-01-31T12:00:00Z&created_before=2026-02-01T12:00:00%2B02:00";
    rig.get(&format!("/api/v1/executions?{query}")).await.expect(200);
    let asked = rig.backend.state().listings.pop().unwrap();
    assert_eq!(asked.statuses, [i32::from(ExecutionStatus::Running), i32::from(ExecutionStatus::Failed)]);
    let seconds = |at: Option<prost_types::Timestamp>| at.unwrap().seconds;
    assert_eq!(seconds(asked.created_before) - seconds(asked.created_after), 22 * 60 * 60);
    for wrong in ["status=running,", "status=running,running", "status=", "created_after=yesterday", "created_before=1"]
    {
        let refused = rig.get(&format!("/api/v1/executions?{wrong}")).await.expect(400);
        assert_eq!(refused["errors"][0]["field"], wrong.split('=').next().unwrap(), "{refused}");
    }
}
