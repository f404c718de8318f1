//! Random workflows in which everything of the language occurs, and in which much goes wrong.

use std::sync::Arc;

use domain::{AgentId, Payload};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use workflow::{Definition, Limits, Plan, plan::Strategy};

/// A workflow and an input for it.
pub(crate) struct Generated {
    pub(crate) definition: Value,
    pub(crate) plan: Arc<Plan>,
    pub(crate) input: Payload,
}

pub(crate) fn workflow(rng: &mut ChaCha8Rng) -> Generated {
    let count = rng.random_range(1..=8);
    let mut steps = Vec::new();
    for number in 0..count {
        steps.push(step(rng, number));
    }
    let mut definition = json!({ "name": "simulated", "steps": steps, "config": config(rng) });
    match rng.random_range(0..20) {
        0..8 => definition["output"] = json!("${{ steps.s0.output }}"),
        8 => definition["output"] = json!("${{ input.nothing }}"),
        _ => {}
    }
    let plan = match Definition::parse(definition.to_string().as_bytes(), Limits::default()) {
        Ok(definition) => Arc::new(definition.plan),
        Err(faults) => panic!("the generator made a faulty workflow: {faults:?}\n{definition}"),
    };
    let items: Vec<_> = (0..rng.random_range(0..=5)).collect();
    let input = json!({ "items": items, "yes": true, "no": false });
    Generated { definition, plan, input: Payload::from_value(&input) }
}

fn config(rng: &mut ChaCha8Rng) -> Value {
    let mut config = json!({ "max_parallel": rng.random_range(1..=4) });
    if rng.random_bool(0.2) {
        config["timeout"] = json!(format!("{}s", rng.random_range(1..=120)));
    }
    config
}

fn step(rng: &mut ChaCha8Rng, number: usize) -> Value {
    let upstream: Vec<_> = (0..number).filter(|_| rng.random_bool(0.4)).collect();
    let mut step = Map::new();
    step.insert("id".into(), format!("s{number}").into());
    match rng.random_range(0..20) {
        0..9 => task(rng, &mut step, &upstream),
        9..13 => for_each(rng, &mut step, &upstream),
        13..16 => decision(rng, &mut step),
        16..18 => signal(rng, &mut step),
        _ => {
            step.insert("sleep".into(), format!("{}s", rng.random_range(1..=30)).into());
        }
    }
    if !upstream.is_empty() {
        let ids: Vec<_> = upstream.iter().map(|number| format!("s{number}")).collect();
        step.insert("depends_on".into(), json!(ids));
        match rng.random_range(0..6) {
            0 => drop(step.insert("join".into(), json!("any"))),
            1 => drop(step.insert("join".into(), json!({ "count": rng.random_range(1..=upstream.len()) }))),
            _ => {}
        }
    }
    match rng.random_range(0..16) {
        0..3 => drop(step.insert("when".into(), json!("input.no"))),
        3..5 => drop(step.insert("when".into(), json!("input.yes"))),
        5 if rng.random_bool(0.3) => drop(step.insert("when".into(), json!("input.nothing"))),
        _ => {}
    }
    if rng.random_bool(0.3) {
        step.insert("on_skip".into(), json!("done"));
    }
    match rng.random_range(0..8) {
        0..3 => drop(step.insert("on_failure".into(), json!("continue"))),
        3 => drop(step.insert("on_failure".into(), json!({ "fallback": { "instead": "${{ input.items }}" } }))),
        4 if rng.random_bool(0.2) => {
            step.insert("on_failure".into(), json!({ "fallback": "${{ input.nothing }}" }));
        }
        _ => {}
    }
    Value::Object(step)
}

fn task(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>, upstream: &[usize]) {
    let (key, value) = target(rng);
    step.insert(key.into(), value);
    let input = match (rng.random_range(0..12), upstream.first()) {
        (0, _) => Value::Null,
        (1, _) if rng.random_bool(0.3) => json!("${{ input.nothing }}"),
        (2..8, Some(first)) => json!({ "of": format!("${{{{ steps.s{first}.output }}}}") }),
        _ => json!({ "items": "${{ input.items }}" }),
    };
    step.insert("input".into(), input);
    retry(rng, step);
    compensate(rng, step);
}

/// Who does it: one of many, or one.
fn target(rng: &mut ChaCha8Rng) -> (&'static str, Value) {
    match rng.random_range(0..3) {
        0 => ("agent_type", json!("worker")),
        1 => ("capability", json!("work.hard")),
        _ => ("agent_id", json!(AgentId::from_parts(1, 9))),
    }
}

fn for_each(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>, upstream: &[usize]) {
    task(rng, step, upstream);
    let items = if rng.random_bool(0.05) { "${{ input.yes }}" } else { "${{ input.items }}" };
    step.insert("for_each".into(), items.into());
    if rng.random_bool(0.5) {
        step.insert("max_parallel".into(), json!(rng.random_range(1..=3)));
    }
    if rng.random_bool(0.7) {
        step.insert("input".into(), json!({ "item": "${{ item }}", "index": "${{ index }}" }));
    }
}

fn decision(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>) {
    let count = rng.random_range(1..=4_u32);
    let voters = if rng.random_bool(0.3) {
        let ids: Vec<_> = (0..count).map(|voter| AgentId::from_parts(1, u128::from(voter))).collect();
        json!({ "agents": ids })
    } else {
        let key = ["capability", "agent_type"][rng.random_range(0..2)];
        json!({ key: "voter", "count": count })
    };
    let mut decision = json!({
        "question": "Which?",
        "options": ["left", "right"],
        "voters": voters,
        "quorum": rng.random_range(1..=count),
        "strategy": Strategy::ALL[rng.random_range(0..Strategy::ALL.len())],
    });
    if rng.random_bool(0.5) {
        decision["deadline"] = json!(format!("{}s", rng.random_range(1..=40)));
    }
    step.insert("decision".into(), decision);
    retry(rng, step);
}

fn signal(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>) {
    let name = ["go", "stop"][rng.random_range(0..2)];
    let mut signal = json!({ "name": name });
    if rng.random_bool(0.6) {
        signal["timeout"] = json!(format!("{}s", rng.random_range(1..=40)));
        match rng.random_range(0..6) {
            0 | 1 => signal["on_timeout"] = json!("reject"),
            2 => signal["on_timeout"] = json!({ "fallback": null }),
            3 => signal["on_timeout"] = json!({ "fallback": "${{ input.items }}" }),
            4 if rng.random_bool(0.3) => signal["on_timeout"] = json!({ "fallback": "${{ input.nothing }}" }),
            _ => {}
        }
    }
    step.insert("signal".into(), signal);
}

fn retry(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>) {
    let retry = json!({
        "max_attempts": rng.random_range(1..=3),
        "initial_interval": "1s",
        "jitter": rng.random_bool(0.5),
    });
    step.insert("retry".into(), retry);
}

fn compensate(rng: &mut ChaCha8Rng, step: &mut Map<String, Value>) {
    let (key, value) = target(rng);
    let mut compensate = json!({ key: value, "action": "undo" });
    match rng.random_range(0..10) {
        0..3 => {}
        3 => compensate["input"] = json!("${{ input.nothing }}"),
        4 => compensate["input"] = json!({ "items": "${{ input.items }}" }),
        _ => return,
    }
    step.insert("compensate".into(), compensate);
}
