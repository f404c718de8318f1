//! The cluster on purpose, not at random: shards that move, and doors that stay closed.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use testkit::{Api, CERT_NAME, Cluster, Network, Setup, TOKEN, TWO_OF_EACH, TWO_ORCHESTRATORS, eventually, troupe};

/// I2: a replica that was stopped for longer than its lease wakes up with timers that are due, and decides; what it decides is
/// not written, since the shards are another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_owner_that_wakes_up_writes_nothing() {
    const COUNT: usize = 40;
    let mut cluster = Cluster::start(Setup { size: TWO_ORCHESTRATORS, ..Setup::default() }).await;
    let api = cluster.api();
    let nap = json!({
        "name": "nap",
        "steps": [{ "id": "sleep", "sleep": "2s" }, { "id": "after", "agent_type": "echo", "depends_on": ["sleep"] }],
    });
    let workflow = api.define(&nap).await;
    let mut executions = Vec::new();
    for _ in 0..COUNT {
        let started = api.post(&format!("/api/v1/workflows/{workflow}/execute"), &json!({})).await.expect(202);
        executions.push(started["execution_id"].as_str().expect("an execution has an id").to_owned());
    }
    cluster.pause("orchestrator-1");
    for id in &executions {
        // Calls that had been sent to the one that was stopped end as unavailable; the others wait for the new owner.
        eventually("the other replica has taken it over and ended it", async || {
            let answer = api.get(&format!("/api/v1/executions/{id}")).await;
            if answer.status == 200 && answer.body["status"] == "completed" { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    cluster.resume("orchestrator-1");
    eventually("the one that wakes up is fenced off", async || {
        let logs = cluster.log("orchestrator-1");
        if logs.contains("another replica has taken shards of this one") { Ok(()) } else { Err(logs) }
    })
    .await;
    // It gets its share again, and everything is as the other one left it.
    for id in &executions {
        let verified = api.get(&format!("/api/v1/executions/{id}/verify")).await.expect(200);
        assert_eq!(verified["faults"], json!([]), "{verified:#}");
        assert_eq!(api.ended(id).await["status"], "completed");
    }
    assert_eq!(cluster.ended(), [""; 0]);
}

/// A replica that stops gives its shards back at once, whoever watches and waits there: calls wait a moment, none fails, and
/// whoever waits for an end gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_hands_over_without_a_failed_call() {
    const COUNT: usize = 40;
    // So long a lease that nobody waits for its end here.
    let setup = Setup { size: TWO_ORCHESTRATORS, lease: "60s", ..Setup::default() };
    let mut cluster = Cluster::start(setup).await;
    let api = cluster.api();
    let workflow = api.define(&waiting()).await;
    let execute = format!("/api/v1/workflows/{workflow}/execute");
    let waits = futures::future::join_all((0..COUNT).map(|_| wait_for_end(&api, &execute)));
    let stop = async {
        let ids = all_executions(&api, COUNT).await;
        let mut watches = Vec::new();
        for id in &ids {
            let watch = api.request(Method::GET, &format!("/api/v1/executions/{id}/events"));
            watches.push(watch.header("accept", "text/event-stream").send().await.expect("the gateway answers"));
        }
        assert_eq!(cluster.stop("orchestrator-2").await, Some(0));
        let log = cluster.log("orchestrator-2");
        assert!(!log.contains("grace period over"), "nobody is waited for: {log}");
        for id in &ids {
            let signal = api.request(Method::POST, &format!("/api/v1/executions/{id}/signals/go")).json(&json!({}));
            let answer = api.send(signal.timeout(Duration::from_secs(9))).await.expect("the gateway answers");
            assert!(answer.status < 300, "{answer:?}");
        }
    };
    let (answers, ()) = tokio::join!(waits, stop);
    for answer in answers {
        assert_eq!((answer.status, &answer.body["status"]), (200, &json!("completed")));
    }
}

/// A gateway that stops answers whoever waits there: the execution is accepted, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_answers_those_who_wait() {
    const COUNT: usize = 8;
    let mut cluster = Cluster::start(Setup::default()).await;
    let api = cluster.api();
    let workflow = api.define(&waiting()).await;
    let execute = format!("/api/v1/workflows/{workflow}/execute");
    let waits = futures::future::join_all((0..COUNT).map(|_| wait_for_end(&api, &execute)));
    let name = cluster.names("gateway").remove(0);
    let stop = async {
        all_executions(&api, COUNT).await;
        assert_eq!(cluster.stop(&name).await, Some(0));
        let log = cluster.log(&name);
        assert!(!log.contains("grace period over"), "nobody is cut off: {log}");
    };
    let (answers, ()) = tokio::join!(waits, stop);
    for answer in answers {
        assert_eq!((answer.status, &answer.body["status"]), (202, &json!("running")));
    }
}

/// Whatever stops is drained: of two of each, one of every service that a gateway calls goes and comes back under load, and no request
/// fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_fails_no_request() {
    let mut cluster = Cluster::start(Setup { size: TWO_OF_EACH, ..Setup::default() }).await;
    let api = cluster.api();
    let echo = json!({ "name": "echo", "steps": [{ "id": "one", "agent_type": "echo", "input": "${{ input.n }}" }] });
    let workflow = api.define(&echo).await;
    let agent = json!({ "agent_type": "echo", "name": "box", "config": {} });
    let agent = api.post("/api/v1/agents", &agent).await.expect(201)["id"].as_str().expect("an id").to_owned();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..4_u64 {
        let (api, workflow, agent, stopped) = (api.clone(), workflow.clone(), agent.clone(), stopped.clone());
        clients.spawn(async move {
            let (mut executions, mut number) = (Vec::new(), client);
            while !*stopped.borrow() {
                number += 4;
                let path = format!("/api/v1/workflows/{workflow}/execute");
                let started = api.post(&path, &json!({ "input": { "n": number } })).await.expect(202);
                executions.push(started["execution_id"].as_str().expect("an id").to_owned());
                api.post(&format!("/api/v1/agents/{agent}/message"), &json!({ "payload": number })).await.expect(202);
                for path in [format!("/api/v1/agents/{agent}"), "/api/v1/executions?limit=5".to_owned()] {
                    let answer = api.send(api.request(Method::GET, &path)).await.expect("the gateway answers");
                    assert_eq!(answer.status, 200, "{path}: {answer:?}");
                }
            }
            executions
        });
    }
    for name in
        ["registry-1", "communication-1", "orchestrator-1", "agent-runner-1", "communication-2", "orchestrator-2"]
    {
        assert_eq!(cluster.stop(name).await, Some(0), "{name}");
        assert!(!cluster.log(name).contains("grace period over"), "{name} was not waited for");
        cluster.restart(name).await;
    }
    stop.send_replace(true);
    let mut count = 0;
    while let Some(executions) = clients.join_next().await {
        for execution in executions.expect("no request fails") {
            assert_eq!(api.ended(&execution).await["status"], "completed");
            count += 1;
        }
    }
    assert!(count > 4, "there was load: {count}");
}

/// A workflow that waits for the signal `go`.
fn waiting() -> serde_json::Value {
    json!({ "name": "wait", "steps": [{ "id": "go", "signal": { "name": "go" } }] })
}

/// Starts an execution and waits for its end as long as one may.
async fn wait_for_end(api: &Api, execute: &str) -> testkit::Answer {
    api.post(execute, &json!({ "wait_ms": 60_000 })).await
}

/// The ids of all executions, when there are so many.
async fn all_executions(api: &Api, count: usize) -> Vec<String> {
    let all = eventually("all are accepted", async || {
        let all = api.all("/api/v1/executions").await;
        if all.len() == count { Ok(all) } else { Err(all.len()) }
    });
    all.await.iter().filter_map(|execution| Some(execution["id"].as_str()?.to_owned())).collect()
}

/// The executions of a replica that dies go on elsewhere when its lease has ended. How long that took is printed:
/// `TROUPE_TAKEOVER_LEASE` sets the lease, 2s where it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_orchestrators_executions_go_on_elsewhere() {
    const COUNT: usize = 100;
    let lease = std::env::var("TROUPE_TAKEOVER_LEASE").unwrap_or_else(|_| "2s".to_owned());
    let mut cluster = Cluster::start(Setup { size: TWO_ORCHESTRATORS, lease: &lease, ..Setup::default() }).await;
    let api = cluster.api();
    let step = json!({ "id": "after", "agent_type": "echo", "depends_on": ["go"] });
    let wait = json!({ "name": "wait", "steps": [{ "id": "go", "signal": { "name": "go" } }, step] });
    let workflow = api.define(&wait).await;
    let mut executions = Vec::new();
    for _ in 0..COUNT {
        executions.push(api.execute(&workflow, &json!({})).await);
    }
    cluster.kill("orchestrator-1").await;
    let killed = Instant::now();
    futures::future::join_all(executions.iter().map(|id| go_on(&api, id))).await;
    println!("lease {lease}: the last of {COUNT} executions has gone on {:?} after the kill", killed.elapsed());
}

/// Reading what a dead replica had may take longer than a lease: meanwhile the lease is renewed, and nobody else is in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_that_takes_longer_than_a_lease_succeeds() {
    const COUNT: usize = 200;
    const LATE_BY: Duration = Duration::from_millis(15);
    // Two shards, one for each.
    let setup = Setup { size: TWO_ORCHESTRATORS, lease: "1s", shards: 2, is_proxied: true, ..Setup::default() };
    let mut cluster = Cluster::start(setup).await;
    let api = cluster.api();
    let workflow = api.define(&waiting()).await;
    let mut executions = Vec::new();
    for _ in 0..COUNT {
        executions.push(api.execute(&workflow, &json!({})).await);
    }
    let connection = ("orchestrator-2".to_owned(), "postgres".to_owned());
    cluster.connections().set(&connection, Network::Slow(LATE_BY));
    cluster.kill("orchestrator-1").await;
    eventually("the other one has read it all", async || {
        let log = cluster.log("orchestrator-2");
        let took = log.lines().filter(|line| line.contains("took shards over")).count();
        if took >= 2 { Ok(()) } else { Err(log) }
    })
    .await;
    cluster.connections().set(&connection, Network::Open);
    futures::future::join_all(executions.iter().map(|id| go_on(&api, id))).await;
    assert!(!cluster.log("orchestrator-2").contains("another replica has taken"), "its own shard it never lost");
}

/// Gives an execution the signal that it waits for, as often as it takes, and waits for its end.
async fn go_on(api: &Api, id: &str) {
    eventually("its signal is taken", || async {
        // With a key: a signal whose answer was lost with the orchestrator may be recorded, and the execution over.
        let request = api.request(Method::POST, &format!("/api/v1/executions/{id}/signals/go"));
        match api.send(request.header("idempotency-key", id).json(&json!({}))).await {
            Ok(answer) if answer.status < 300 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    eventually("it goes on to its end", || async {
        // 503 for as long as nobody has its shard.
        match api.send(api.request(Method::GET, &format!("/api/v1/executions/{id}"))).await {
            Ok(answer) if answer.body["status"] == "completed" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// While RabbitMQ is away messages and executions are accepted, agents work, and mail flows again by itself afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_broker_everything_is_accepted_and_it_flows_when_the_broker_is_back() {
    const COUNT: usize = 20;
    let cluster = Cluster::start(Setup::default()).await;
    let api = cluster.api();
    let mailbox = json!({ "agent_type": "echo", "name": "mailbox" });
    let agent = api.post("/api/v1/agents", &mailbox).await.expect(201);
    let path = format!("/api/v1/agents/{}/message", agent["id"].as_str().expect("an agent has an id"));
    let workflow = api.define(&json!({ "name": "one", "steps": [{ "id": "one", "agent_type": "echo" }] })).await;
    // The agents are there before the broker goes.
    assert_eq!(api.ended(&api.execute(&workflow, &json!({})).await).await["status"], "completed");

    cluster.servers().control("kill", "rabbitmq");
    let (mut messages, mut executions) = (Vec::new(), Vec::new());
    for number in 0..COUNT {
        let sent = api.post(&path, &json!({ "payload": number })).await.expect(202);
        messages.push(sent["message_id"].as_str().expect("a message has an id").to_owned());
        executions.push(api.execute(&workflow, &json!({})).await);
    }
    for id in &executions {
        assert_eq!(api.ended(id).await["status"], "completed", "agents that are connected work without the broker");
    }
    cluster.servers().control("start", "rabbitmq");
    for id in &messages {
        eventually("the message is dealt with", || async {
            let message = api.get(&format!("/api/v1/messages/{id}")).await.expect(200);
            if message["status"] == "acked" { Ok(()) } else { Err(message) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_gateway_wants_its_key_and_the_processes_their_token() {
    let key = "a-key-of-the-tests";
    let settings = format!("api_key = {key:?}\n");
    let cluster = Cluster::start(Setup { size: TWO_ORCHESTRATORS, settings: &settings, ..Setup::default() }).await;
    let api = cluster.api();
    let refused = api.get("/api/v1/executions").await;
    assert_eq!((refused.status, &refused.body["code"]), (401, &json!("unauthenticated")));
    api.get("/health/ready").await.expect(200);
    let wrong = troupe(&cluster.url(), &["ps", "--api-key", "another-key-of-16"]).await;
    assert!(wrong.code == Some(1) && wrong.stderr.contains("X-API-Key"), "{}", wrong.stderr);
    let right = troupe(&cluster.url(), &["ps", "--api-key", key]).await;
    assert_eq!(right.code, Some(0), "{}", right.stderr);
}

/// Encrypted, two of each: executions and agents that an agent-runner hosts work as ever; an agent of one's own comes in with the
/// token and a certificate of the authority, and with neither missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_cluster_lets_in_agents_with_a_certificate_and_the_token() {
    let cluster = Cluster::start(Setup { size: TWO_OF_EACH, is_encrypted: true, ..Setup::default() }).await;
    let api = cluster.api();
    let steps = json!([
        { "id": "hosted", "agent_type": "echo", "input": { "n": 1 } },
        { "id": "own", "agent_type": "guest", "action": "greet", "depends_on": ["hosted"] },
    ]);
    let workflow = api.define(&json!({ "name": "guests", "steps": steps, "output": "${{ steps.own.output }}" })).await;
    let execution = api.execute(&workflow, &json!({})).await;

    let read = |name: &str| std::fs::read(cluster.certs().join(name)).expect("the certificates are there");
    let server = || {
        let address = format!("https://{}", cluster.communications()[1]);
        agent_sdk::Server::at(address).ca(read("ca.pem")).server_name(CERT_NAME)
    };
    let guest = |server: agent_sdk::Server| {
        let greet = |_: agent_sdk::Task| async { Ok(json!("hello")) };
        agent_sdk::Agent::builder("guest").action("greet", greet).connect(server)
    };
    let identity = (read("agent-runner.pem"), read("agent-runner-key.pem"));

    let refused = guest(server().identity(&identity.0, &identity.1)).run_until(agent_sdk::Shutdown::new()).await;
    let refused = refused.expect_err("there is no token").to_string();
    assert!(refused.contains("refuses the session"), "{refused}");

    let shutdown = agent_sdk::Shutdown::new();
    let mut agents = tokio::task::JoinSet::new();
    // It has no certificate.
    agents.spawn(guest(server().token(TOKEN)).run_until(shutdown.clone()));
    let echo = api.define(&json!({ "name": "echo", "steps": [{ "id": "one", "agent_type": "echo" }] })).await;
    assert_eq!(api.ended(&api.execute(&echo, &json!({})).await).await["status"], "completed");
    let waits = api.get(&format!("/api/v1/executions/{execution}")).await.expect(200);
    assert_eq!(waits["status"], "running", "nobody has let the agent in: {waits:#}");

    let welcome = guest(server().token(TOKEN).identity(&identity.0, &identity.1));
    agents.spawn(welcome.run_until(shutdown.clone()));
    let ended = api.ended(&execution).await;
    assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!("hello")));
    shutdown.drain();
    for stopped in agents.join_all().await {
        stopped.expect("both stop when asked to, the one that was never let in too");
    }
}
