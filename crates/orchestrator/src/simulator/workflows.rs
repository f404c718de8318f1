//! Random small workflows, and how an execution of one ends where nothing goes wrong.

use std::sync::Arc;

use contracts::communication::v1::task_result::Outcome;
use domain::{Clock as _, ExecutionId, ManualClock, Namespace, Payload, SignalId, Timestamp, WorkflowId};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use workflow::{Command, Effect, Errand, ErrandKind, Execution, Failure, Plan, Start, Status, Voter};

use super::agents;
use crate::workers::failed_child;

/// A workflow.
pub(super) struct Generated {
    pub(super) definition: Value,
    /// Does it end in one way only, whatever is late and whoever is first?
    pub(super) is_certain: bool,
}

pub(super) fn generate(rng: &mut ChaCha8Rng, number: usize) -> Generated {
    let is_certain = rng.random_bool(0.7);
    let count = rng.random_range(1..=5);
    let steps: Vec<_> = (0..count).map(|number| step(rng, number, is_certain)).collect();
    let mut definition = json!({ "name": format!("simulated-{number}"), "steps": steps });
    let mut config = json!({ "max_parallel": rng.random_range(1..=4) });
    if !is_certain && rng.random_bool(0.3) {
        config["timeout"] = json!(format!("{}s", rng.random_range(2..=20)));
    }
    if rng.random_bool(0.2) {
        let limit = rng.random_range(1..=2);
        config["concurrency_key"] = json!(format!("at most {limit}"));
        config["concurrency_limit"] = json!(limit);
    }
    definition["config"] = config;
    if steps_of(&definition).any(|step| step.get("emit").is_some()) {
        // What came of it names a signal whose id nobody foresees.
        definition["output"] = json!("done");
    }
    // What waits for a signal in one run may find none in the next.
    let is_told = |step: &Value| step.get("emit").or(step.get("signal")).is_some();
    if rng.random_bool(0.25) && !steps_of(&definition).any(is_told) {
        go_on_anew(&mut definition);
    }
    Generated { definition, is_certain }
}

/// When everything in it has ended, it is continued, twice.
fn go_on_anew(definition: &mut Value) {
    let all: Vec<_> = steps_of(definition).map(|step| step["id"].clone()).collect();
    let input = json!({ "items": "${{ input.items }}", "yes": true, "no": false, "round": "${{ input.round + 1 }}" });
    let again = json!({ "id": "again", "depends_on": all, "when": "input.round < 2",
                        "end": { "status": "continued", "input": input } });
    if let Some(steps) = definition["steps"].as_array_mut() {
        steps.push(again);
    }
}

fn step(rng: &mut ChaCha8Rng, number: usize, is_certain: bool) -> Value {
    let upstream: Vec<_> = (0..number).filter(|_| rng.random_bool(0.5)).map(|number| format!("s{number}")).collect();
    let mut step = Map::new();
    step.insert("id".into(), format!("s{number}").into());
    match rng.random_range(0..20) {
        0..9 => task(rng, &mut step, is_certain),
        9..14 => {
            task(rng, &mut step, is_certain);
            step.insert("for_each".into(), "${{ input.items }}".into());
            step.insert("max_parallel".into(), json!(rng.random_range(1..=3)));
        }
        14..16 => decision(rng, &mut step, is_certain),
        16 => signal(rng, &mut step, is_certain),
        17 => child(rng, &mut step, is_certain),
        18 => {
            let told = json!({ "execution": "${{ execution.id }}", "signal": SIGNAL, "payload": { "number": "any" } });
            step.insert("emit".into(), told);
        }
        _ => drop(step.insert("sleep".into(), format!("{}ms", rng.random_range(50..=3_000)).into())),
    }
    if !step.contains_key("workflow") && rng.random_bool(0.15) {
        step.insert("mutex".into(), json!({ "name": MUTEX, "scope": "global" }));
    }
    if !upstream.is_empty() {
        step.insert("depends_on".into(), json!(upstream));
        if !is_certain && rng.random_bool(0.3) {
            step.insert("join".into(), json!("any"));
        }
    }
    match rng.random_range(0..12) {
        0 => drop(step.insert("when".into(), json!("input.no"))),
        1 => drop(step.insert("when".into(), json!("input.yes"))),
        _ => {}
    }
    match rng.random_range(0..8) {
        0..4 => drop(step.insert("on_failure".into(), json!("continue"))),
        4 => drop(step.insert("on_failure".into(), json!({ "fallback": { "instead": 1 } }))),
        _ => {}
    }
    Value::Object(step)
}

fn task(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>, is_certain: bool) {
    let (key, value) = target(rng);
    step.insert(key.into(), value);
    step.insert("input".into(), json!({ "items": "${{ input.items }}" }));
    retry(rng, step);
    if !is_certain && rng.random_bool(0.3) {
        step.insert("timeout".into(), json!(format!("{}ms", rng.random_range(100..=3_000))));
    }
    if !is_certain && rng.random_bool(0.2) {
        step.insert("heartbeat_timeout".into(), json!(format!("{}ms", rng.random_range(100..=1_000))));
    }
    if rng.random_bool(0.3) {
        let (key, value) = target(rng);
        step.insert("compensate".into(), json!({ key: value, "action": "undo" }));
    }
}

/// A child, which ends in one way only.
fn child(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>, is_certain: bool) {
    let waits = rng.random_bool(0.3);
    let fails = !waits && rng.random_bool(0.3);
    let input = json!({ "items": "${{ input.items }}", "waits": waits, "fails": fails });
    step.insert("workflow".into(), json!({ "name": CHILD, "input": input }));
    if waits {
        step.insert("timeout".into(), json!("2s"));
    } else if !is_certain && rng.random_bool(0.3) {
        step.insert("timeout".into(), json!(format!("{}ms", rng.random_range(100..=3_000))));
    }
    if !is_certain && rng.random_bool(0.3) {
        step.insert("for_each".into(), "${{ input.items }}".into());
    }
    step.insert("retry".into(), json!({ "max_attempts": rng.random_range(1..=2), "initial_interval": "100ms" }));
}

/// What children are executions of. With a mutex that their parents do not hold meanwhile.
pub(super) fn child_definition() -> Value {
    json!({ "name": CHILD, "steps": [
        { "id": "nap", "sleep": "300ms", "mutex": { "name": MUTEX, "scope": "global" } },
        { "id": "task", "agent_type": "worker", "on_failure": "continue", "depends_on": ["nap"] },
        { "id": "wait", "when": "input.waits", "signal": { "name": "never" } },
        { "id": "end", "when": "input.fails", "depends_on": ["task"],
          "end": { "status": "failed", "error": { "code": "asked_for", "message": "as asked" } } },
    ], "output": "${{ input.items }}" })
}

/// The name of it.
const CHILD: &str = "simulated-child";
/// The one mutex that executions share.
const MUTEX: &str = "shared";

fn steps_of(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["steps"].as_array().into_iter().flatten()
}

fn target(rng: &mut ChaCha8Rng) -> (&'static str, Value) {
    match rng.random_range(0..4) {
        0 | 1 => ("agent_type", json!("worker")),
        2 => ("capability", json!("work.hard")),
        _ => ("agent_id", json!(agents::voter(agents::VOTERS))),
    }
}

fn retry(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>) {
    let attempts = rng.random_range(1..=3);
    let interval = format!("{}ms", rng.random_range(10..=500));
    step.insert("retry".into(), json!({ "max_attempts": attempts, "initial_interval": interval, "jitter": false }));
}

fn decision(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>, is_certain: bool) {
    let count = rng.random_range(1..=3_u32);
    let voters = if rng.random_bool(0.3) {
        json!({ "agents": (0..count).map(|number| agents::voter(number.into())).collect::<Vec<_>>() })
    } else {
        json!({ "capability": "voter", "count": count })
    };
    let mut decision = json!({
        "question": "Which?", "options": ["left", "right"], "voters": voters,
        "quorum": if is_certain { count } else { rng.random_range(1..=count) }, "strategy": "majority",
    });
    if !is_certain && rng.random_bool(0.5) {
        decision["deadline"] = json!(format!("{}ms", rng.random_range(200..=5_000)));
    }
    step.insert("decision".into(), decision);
    retry(rng, step);
}

fn signal(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>, is_certain: bool) {
    let mut signal = json!({ "name": SIGNAL });
    if !is_certain && rng.random_bool(0.5) {
        signal["timeout"] = json!(format!("{}ms", rng.random_range(200..=5_000)));
    }
    step.insert("signal".into(), signal);
}

/// The one signal that workflows wait for.
pub(super) const SIGNAL: &str = "go";

/// Signals that an execution needs at most.
pub(super) fn signals(plan: &Plan) -> usize {
    plan.steps.iter().filter(|step| matches!(step.kind, workflow::plan::StepKind::Signal { .. })).count()
}

pub(super) fn signal_command(number: u128) -> Command {
    let payload = Payload::from_value(&json!({ "number": "any" }));
    Command::Signal { id: SignalId::from_parts(1, number), name: SIGNAL.to_owned(), payload, sender: String::new() }
}

pub(super) fn input(items: usize) -> Payload {
    Payload::from_value(&json!({ "items": (0..items).collect::<Vec<_>>(), "yes": true, "no": false, "round": 0 }))
}

/// Runs an execution in a world without trouble. A child never needs `child` itself.
pub(super) fn ideal(
    plan: &Arc<Plan>,
    child: &Arc<Plan>,
    id: ExecutionId,
    input: Payload,
    seed: u64,
) -> (Status, Option<Payload>) {
    /// More than any small execution takes.
    const PATIENCE: usize = 10_000;
    let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
    let mut execution = Execution::new(Arc::clone(plan));
    let start = Start {
        execution_id: id,
        namespace: Namespace::default(),
        workflow_id: WorkflowId::from_parts(1, 1),
        workflow_version: 1,
        input,
        traceparent: String::new(),
        parent: None,
    };
    let mut commands = vec![Command::Start(start)];
    commands.extend((0..signals(plan) as u128).map(signal_command));
    commands.reverse();
    for _ in 0..PATIENCE {
        if execution.status().is_terminal() {
            break;
        }
        let told = execution
            .errands()
            .filter_map(|task| execution.errand(task))
            .find(|errand| matches!(errand.what, ErrandKind::Tell { .. }));
        let command = if let Some(Errand { task, .. }) = told {
            // To itself: refused where nothing in it waits for such a signal, or ever will.
            let signal = signal_command(1_000_000 + u128::from(task.unit.step));
            let outcome = match execution.transition(signal, clock.now()) {
                Ok(_) => Ok(Payload::null()),
                Err(refused) => Err(Failure::fatal("signal_unknown", refused.to_string())),
            };
            Command::TaskEnded { task, agent_id: None, begun_at: None, outcome }
        } else {
            commands.pop().or_else(|| next(&execution, child, id, seed)).unwrap_or_else(|| {
                if let Some(due) = execution.next_due() {
                    clock.set(clock.now().max(due));
                }
                Command::Tick
            })
        };
        // A signal that comes after the end.
        let _ = execution.transition(command, clock.now());
    }
    (execution.status(), execution.output().cloned())
}

/// What the outside owes to an execution, where it owes something.
fn next(execution: &Execution, child: &Arc<Plan>, id: ExecutionId, seed: u64) -> Option<Command> {
    execution.outstanding().into_iter().find_map(|effect| answer(execution, effect, child, id, seed))
}

fn answer(execution: &Execution, effect: Effect, plan: &Arc<Plan>, id: ExecutionId, seed: u64) -> Option<Command> {
    match effect {
        Effect::Acquire { holder, .. } => Some(Command::Granted { holder }),
        Effect::Run(Errand { task, what: ErrandKind::Start { child, input, .. } }) => {
            let outcome = match ideal(plan, plan, child, input, seed) {
                (Status::Completed, output) => Ok(output.unwrap_or_else(Payload::null)),
                (Status::Failed, _) => Err(failed_child(child, None)),
                // It goes on until it is not waited for any more.
                _ => return None,
            };
            Some(Command::TaskEnded { task, agent_id: None, begun_at: None, outcome })
        }
        Effect::Dispatch(order) => {
            let task_id = execution.plan().task_id(id, order.task);
            let outcome = match agents::outcome(seed, &task_id, order.action == "vote") {
                Outcome::Output(output) => Ok(Payload::from_slice(&output).unwrap()),
                Outcome::Failure(failure) => {
                    let failed = Failure::fatal(failure.code, failure.message);
                    Err(Failure { retryable: failure.retryable, ..failed })
                }
            };
            Some(Command::TaskEnded { task: order.task, agent_id: None, begun_at: None, outcome })
        }
        Effect::FindVoters { unit, count, .. } => {
            let voter = |number: u32| Voter {
                agent_id: agents::voter(number.into()),
                name: format!("voter-{number}"),
                weight: 1.0,
            };
            Some(Command::VotersFound { unit, voters: (0..count).map(voter).collect() })
        }
        _ => None,
    }
}
