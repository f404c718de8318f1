//! The definitions of docs/patterns.md on the built product, with an agent that ends its tasks when a test says so. What each means
//! is checked more closely on the engine alone (`crates/workflow/tests/patterns`).

mod scripts;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use agent_sdk::{Agent, Failure, Payload, Shutdown, Task};
use serde_json::{Value, json};
use testkit::{Api, Cluster, Server, Setup, TOKEN, TWO_ORCHESTRATORS, eventually};
use tokio::sync::oneshot;

use self::scripts::{Move, Script, scripts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pattern_means_on_one_server_what_it_is_to_mean() {
    let server = Server::start().await;
    let desk = Desk::open(&agent_sdk::Server::at(server.grpc_url()));
    play_all(&server.api(), &desk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pattern_means_in_a_cluster_what_it_is_to_mean() {
    let cluster = Cluster::start(Setup { size: TWO_ORCHESTRATORS, ..Setup::default() }).await;
    let address = format!("http://{}", cluster.communications()[0]);
    let desk = Desk::open(&agent_sdk::Server::at(address).token(TOKEN));
    play_all(&cluster.api(), &desk).await;
}

#[test]
fn every_pattern_that_can_be_written_is_played() {
    let mut played: Vec<u32> = scripts().iter().map(|script| script.pattern).collect();
    played.dedup();
    let written: Vec<u32> = (1..=43).filter(|number| !definition(*number).is_null()).collect();
    assert_eq!((played, written.len()), (written.clone(), 39));
}

async fn play_all(api: &Api, desk: &Desk) {
    let mut plays = tokio::task::JoinSet::new();
    let mut defined = BTreeMap::new();
    for script in scripts() {
        let workflow = match defined.get(&script.pattern) {
            Some(known) => String::clone(known),
            None => api.define(&definition(script.pattern)).await,
        };
        defined.insert(script.pattern, workflow.clone());
        let (api, desk) = (api.clone(), desk.clone());
        plays.spawn(async move { play(&api, &desk, &workflow, &script).await });
    }
    while let Some(played) = plays.join_next().await {
        played.expect("every script is played to its end");
    }
    assert_eq!(desk.all_out(), Vec::<String>::new(), "nobody is still at work for an execution that has ended");
}

async fn play(api: &Api, desk: &Desk, workflow: &str, script: &Script) {
    let number = script.pattern;
    let mut execution = api.execute(workflow, &script.input).await;
    let whole = execution.clone();
    for step in &script.moves {
        match step {
            Move::Out(wanted) => desk.wait_for(&execution, wanted, number).await,
            Move::Done(unit, output) => desk.end(api, &execution, unit, output, number).await,
            Move::Signal(name, payload) => {
                let path = format!("/api/v1/executions/{execution}/signals/{name}");
                let answer = api.post(&path, &json!({ "payload": payload })).await;
                assert!(answer.status < 300, "pattern {number}: {answer:?}");
            }
            Move::Cancel => {
                let answer = api.post(&format!("/api/v1/executions/{execution}/cancel"), &json!({})).await;
                assert!(answer.status < 300, "pattern {number}: {answer:?}");
            }
            Move::State(step, wanted) => {
                eventually(&format!("pattern {number}: {step} is {wanted}"), async || {
                    let shown = api.get(&format!("/api/v1/executions/{execution}")).await.expect(200);
                    let states = states(&shown["steps"], step);
                    if states.iter().any(|state| state == wanted) { Ok(()) } else { Err(shown) }
                })
                .await;
            }
            Move::Child(step) => execution = child(api, &execution, step).await,
        }
    }
    let ended = api.ended(&whole).await;
    assert_eq!(ended["status"], script.status, "pattern {number}: {ended:#}");
    if let Some(output) = &script.output {
        assert_eq!(&ended["output"], output, "pattern {number}");
    }
    let verified = api.get(&format!("/api/v1/executions/{whole}/verify")).await.expect(200);
    assert_eq!(verified["faults"], json!([]), "pattern {number}");
}

/// The states of all steps with this id, in blocks and instances too.
fn states(steps: &Value, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for step in steps.as_array().into_iter().flatten() {
        if step["step_id"] == id {
            found.extend(step["state"].as_str().map(str::to_owned));
        }
        found.extend(states(&step["steps"], id));
        found.extend(states(&step["instances"], id));
    }
    found
}

/// The child execution of a step, once it has one.
async fn child(api: &Api, execution: &str, step: &str) -> String {
    eventually("the step has a child", async || {
        let shown = api.get(&format!("/api/v1/executions/{execution}")).await.expect(200);
        let of_step = shown["steps"].as_array().into_iter().flatten().find(|found| found["step_id"] == step);
        of_step.and_then(|found| found["child_id"].as_str()).map(str::to_owned).ok_or(shown.clone())
    })
    .await
}

/// The definition of a pattern in the docs; null where it has none.
fn definition(number: u32) -> Value {
    const TEXT: &str = include_str!("../../docs/patterns.md");
    let section = TEXT.split("\n### ").find(|section| section.starts_with(&format!("{number}. ")));
    let yaml = section.and_then(|section| section.split_once("```yaml\n")?.1.split_once("```"));
    yaml.map_or(Value::Null, |(yaml, _)| serde_saphyr::from_str(yaml).expect("the docs are right"))
}

/// What the agent has in hand: tasks by their ids.
type InHand = BTreeMap<String, oneshot::Sender<Value>>;

/// An agent of the type `worker`, whose tasks end when they are told to.
#[derive(Clone)]
struct Desk {
    in_hand: Arc<Mutex<InHand>>,
    _session: Arc<tokio::task::JoinSet<()>>,
}

impl Desk {
    fn open(server: &agent_sdk::Server) -> Self {
        let in_hand = Arc::<Mutex<InHand>>::default();
        let worker = Agent::builder("worker").max_in_flight(200).any_action({
            let in_hand = Arc::clone(&in_hand);
            move |task| work(task, Arc::clone(&in_hand))
        });
        let connection = worker.connect(server.clone());
        let mut session = tokio::task::JoinSet::new();
        session.spawn(async move {
            let ended = connection.run_until(Shutdown::new()).await;
            panic!("the agent has ended: {ended:?}");
        });
        Self { in_hand, _session: Arc::new(session) }
    }

    fn in_hand(&self) -> MutexGuard<'_, InHand> {
        self.in_hand.lock().expect("no holder panics")
    }

    fn all_out(&self) -> Vec<String> {
        self.in_hand().keys().cloned().collect()
    }

    /// Waits until the tasks that are out of an execution are those of these units.
    async fn wait_for(&self, execution: &str, wanted: &[&str], pattern: u32) {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        eventually(&format!("pattern {pattern}: out are {wanted:?}"), async || {
            let ids = self.all_out();
            let mut out: Vec<&str> = ids.iter().filter(|id| is_of(id, execution)).map(|id| unit(id)).collect();
            out.sort_unstable();
            if out == wanted { Ok(()) } else { Err(out.join(" ")) }
        })
        .await;
    }

    /// Ends a task of a unit with an output, once it is out. What follows from that has begun afterwards, as far as is recorded with
    /// it, so that it is seen where nothing should.
    async fn end(&self, api: &Api, execution: &str, name: &str, output: &Value, pattern: u32) {
        let before = completed(api, execution).await;
        eventually(&format!("pattern {pattern}: {name} is out"), async || {
            let mut in_hand = self.in_hand();
            let found = in_hand.keys().find(|id| is_of(id, execution) && unit(id) == name).cloned();
            let Some(work) = found.and_then(|id| in_hand.remove(&id)) else {
                return Err(in_hand.keys().cloned().collect::<Vec<_>>());
            };
            work.send(output.clone()).map_err(|_| vec!["it was withdrawn".to_owned()])
        })
        .await;
        eventually(&format!("pattern {pattern}: the end of {name} is recorded"), async || {
            let now = completed(api, execution).await;
            if now > before { Ok(()) } else { Err(now) }
        })
        .await;
    }
}

/// How many ends of its steps an execution has in its log.
async fn completed(api: &Api, execution: &str) -> usize {
    eventually("the child is there", async || {
        let shown = api.get(&format!("/api/v1/executions/{execution}")).await;
        if shown.status == 200 { Ok(()) } else { Err(shown) }
    })
    .await;
    let events = api.events(execution).await;
    let kinds = events.iter().filter_map(|event| event["type"].as_str());
    kinds.filter(|kind| ["step_completed", "step_repeated", "step_compensated"].contains(kind)).count()
}

/// The name of the unit that a task is of: `a` of `exe_…/a@2/1`.
fn unit(task: &str) -> &str {
    let unit = task.split('/').nth(1).unwrap_or_default();
    unit.split('@').next().unwrap_or_default()
}

fn is_of(task: &str, execution: &str) -> bool {
    task.split('/').next() == Some(execution)
}

/// Is at a task until it is told its output, or the task is withdrawn.
async fn work(task: Task, in_hand: Arc<Mutex<InHand>>) -> Result<Payload, Failure> {
    let (end, told) = oneshot::channel();
    let _gone = Gone { id: task.id.clone(), in_hand: Arc::clone(&in_hand) };
    in_hand.lock().expect("no holder panics").insert(task.id.clone(), end);
    let output = told.await.map_err(|_| Failure::fatal("gone", "nobody tells it any more"))?;
    Ok(Payload::from_value(&output))
}

/// Takes a task out of the agent's hands when its future goes.
struct Gone {
    id: String,
    in_hand: Arc<Mutex<InHand>>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.in_hand.lock().expect("no holder panics").remove(&self.id);
    }
}
