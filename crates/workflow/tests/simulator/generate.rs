//! Random workflows in which everything of the language occurs, in everything else, and in which much goes wrong.

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
    let count = rng.random_range(1..=7);
    let config = config(rng);
    let mut writer = Writer { rng, next: 0, enclosing: Vec::new() };
    let steps = writer.steps(count, 0);
    let mut definition = json!({ "name": "simulated", "steps": steps, "config": config });
    match rng.random_range(0..20) {
        0..6 => definition["output"] = json!("${{ steps.s0.output }}"),
        6 => definition["output"] = json!("${{ input.nothing }}"),
        _ => {}
    }
    let plan = match Definition::parse(definition.to_string().as_bytes(), Limits::default()) {
        Ok(definition) => Arc::new(definition.plan),
        Err(faults) => panic!("the generator made a faulty workflow: {faults:?}\n{definition}"),
    };
    let items: Vec<_> = (0..rng.random_range(0..=4)).collect();
    let input =
        json!({ "items": items, "yes": true, "no": false, "round": 1, "at": "2023-11-14T22:13:50Z", "key": "k" });
    Generated { definition, plan, input: Payload::from_value(&input) }
}

fn config(rng: &mut ChaCha8Rng) -> Value {
    let mut config = json!({ "max_parallel": rng.random_range(1..=4) });
    if rng.random_bool(0.2) {
        config["timeout"] = json!(format!("{}s", rng.random_range(1..=120)));
    }
    match rng.random_range(0..20) {
        0 | 1 => config["concurrency_key"] = json!("${{ input.key }}"),
        2 if rng.random_bool(0.3) => config["concurrency_key"] = json!("${{ input.round }}"),
        _ => {}
    }
    config
}

/// Writes steps whose ids are `s0`, `s1`, and so on, through all blocks.
struct Writer<'a> {
    rng: &'a mut ChaCha8Rng,
    next: usize,
    /// Steps of scopes around, and earlier ones beside: what a `cancel` may name.
    enclosing: Vec<String>,
}

impl Writer<'_> {
    fn steps(&mut self, count: usize, depth: usize) -> Vec<Value> {
        let known = self.enclosing.len();
        let mut siblings: Vec<String> = Vec::new();
        let mut steps = Vec::new();
        for _ in 0..count {
            let id = format!("s{}", self.next);
            self.next += 1;
            steps.push(self.step(&id, &siblings, depth));
            self.enclosing.push(id.clone());
            siblings.push(id);
        }
        self.enclosing.truncate(known);
        steps
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    fn pick(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count)
    }

    fn step(&mut self, id: &str, siblings: &[String], depth: usize) -> Value {
        let upstream: Vec<_> = siblings.iter().filter(|_| self.rng.random_bool(0.4)).cloned().collect();
        let mut step = Map::new();
        step.insert("id".into(), id.into());
        let ends = self.work(&mut step, id, &upstream, depth);
        self.join(&mut step, &upstream);
        // One that goes on anew has its condition already, or it would go round and round.
        match if step.contains_key("when") { 15 } else { self.pick(16) } {
            0..3 => drop(step.insert("when".into(), json!("input.no"))),
            3..5 => drop(step.insert("when".into(), json!("input.yes"))),
            5 if self.chance(0.3) => drop(step.insert("when".into(), json!("input.nothing"))),
            _ => {}
        }
        if self.chance(0.3) {
            step.insert("on_skip".into(), json!("done"));
        }
        if !ends {
            self.layers(&mut step);
        }
        Value::Object(step)
    }

    /// What the step does. Is it one that cannot have layers around?
    fn work(&mut self, step: &mut Map<String, Value>, id: &str, upstream: &[String], depth: usize) -> bool {
        match self.pick(24) {
            8..10 => self.decision(step),
            10..12 => self.signal(step),
            12 => drop(step.insert("sleep".into(), format!("{}s", self.rng.random_range(1..=30)).into())),
            13 => drop(step.insert("sleep_until".into(), json!("${{ input.at }}"))),
            14..18 if depth < 3 => self.block(step, id, depth),
            18 => {
                step.insert("workflow".into(), json!({ "name": "child", "input": "${{ input.items }}" }));
                self.group(step);
            }
            19..21 => self.emit(step),
            21 => return self.cancel(step, upstream),
            22 if self.chance(0.4) => return self.end(step),
            _ => self.task(step, upstream),
        }
        false
    }

    fn join(&mut self, step: &mut Map<String, Value>, upstream: &[String]) {
        if upstream.is_empty() {
            return;
        }
        step.insert("depends_on".into(), json!(upstream));
        match self.pick(6) {
            0 => drop(step.insert("join".into(), json!("any"))),
            1 => drop(step.insert("join".into(), json!({ "count": 1 + self.pick(upstream.len()) }))),
            _ => return,
        }
        if self.chance(0.6) {
            step.insert("cancel_rest".into(), json!(true));
        }
    }

    /// Whatever goes with every kind of work.
    fn layers(&mut self, step: &mut Map<String, Value>) {
        if self.chance(0.25) {
            let items = if self.chance(0.05) { "${{ input.yes }}" } else { "${{ input.items }}" };
            step.insert("for_each".into(), items.into());
            if self.chance(0.5) {
                step.insert("max_parallel".into(), json!(self.rng.random_range(1..=3)));
            }
            match self.pick(8) {
                0 => drop(step.insert("complete_when".into(), json!("completed >= 2"))),
                1 => drop(step.insert("complete_when".into(), json!("last == null || completed > total / 2"))),
                2 if self.chance(0.2) => drop(step.insert("complete_when".into(), json!("input.nothing"))),
                _ => {}
            }
            if self.chance(0.3) {
                step.insert("detach".into(), json!(true));
            }
        } else if step.contains_key("workflow") && self.chance(0.2) {
            step.insert("detach".into(), json!(true));
        }
        match self.pick(12) {
            0 => drop(step.insert("loop".into(), json!({ "until": "iteration >= 1" }))),
            1 => drop(step.insert("loop".into(), json!({ "while": "iteration < 2" }))),
            2 => drop(step.insert("loop".into(), json!({ "until": "last == null", "max_iterations": 3 }))),
            _ => {}
        }
        match self.pick(10) {
            0 => drop(step.insert("mutex".into(), json!("m"))),
            1 => drop(step.insert("mutex".into(), json!({ "name": "m-${{ input.key }}", "scope": "global" }))),
            _ => {}
        }
        match self.pick(8) {
            0..3 => drop(step.insert("on_failure".into(), json!("continue"))),
            3 => drop(step.insert("on_failure".into(), json!({ "fallback": { "instead": "${{ input.items }}" } }))),
            4 if self.chance(0.2) => {
                step.insert("on_failure".into(), json!({ "fallback": "${{ input.nothing }}" }));
            }
            _ => {}
        }
        self.compensate(step);
    }

    fn task(&mut self, step: &mut Map<String, Value>, upstream: &[String]) {
        let (key, value) = self.target();
        step.insert(key.into(), value);
        let input = match (self.pick(12), upstream.first()) {
            (0, _) => Value::Null,
            (1, _) if self.chance(0.3) => json!("${{ input.nothing }}"),
            (2..8, Some(first)) => json!({ "of": format!("${{{{ steps.{first}.output }}}}") }),
            _ => json!({ "items": "${{ input.items }}" }),
        };
        step.insert("input".into(), input);
        self.retry(step);
    }

    fn block(&mut self, step: &mut Map<String, Value>, id: &str, depth: usize) {
        // It may not withdraw itself from before it has begun; from inside it may.
        self.enclosing.push(id.to_owned());
        let count = self.rng.random_range(1..=3);
        let steps = self.steps(count, depth + 1);
        self.enclosing.pop();
        let mut block = json!({ "steps": steps });
        if self.chance(0.05) {
            block["output"] = json!("${{ input.nothing }}");
        }
        step.insert("block".into(), block);
        self.group(step);
    }

    /// What a block and a child execution can have.
    fn group(&mut self, step: &mut Map<String, Value>) {
        if self.chance(0.3) {
            step.insert("timeout".into(), json!(format!("{}s", self.rng.random_range(1..=40))));
        }
        if self.chance(0.4) {
            self.retry(step);
        }
    }

    fn emit(&mut self, step: &mut Map<String, Value>) {
        let emit = match self.pick(4) {
            0 => json!({ "topic": "a.${{ input.key }}", "payload": "${{ input.items }}" }),
            1 => json!({ "agent_id": AgentId::from_parts(1, 9), "payload": 1 }),
            2 if self.chance(0.2) => json!({ "topic": "${{ input.items }}" }),
            _ => json!({ "execution": "${{ execution.id }}", "signal": "go" }),
        };
        step.insert("emit".into(), emit);
        self.retry(step);
    }

    fn cancel(&mut self, step: &mut Map<String, Value>, upstream: &[String]) -> bool {
        if self.enclosing.is_empty() {
            self.task(step, upstream);
            return false;
        }
        let count = self.rng.random_range(1..=2);
        let known = self.enclosing.len();
        let places: Vec<_> = (0..count).map(|_| self.pick(known)).collect();
        let named: Vec<_> = places.into_iter().map(|place| self.enclosing[place].clone()).collect();
        step.insert("cancel".into(), json!(named));
        true
    }

    fn end(&mut self, step: &mut Map<String, Value>) -> bool {
        let end = match self.pick(6) {
            0 => json!({ "output": "${{ input.items }}" }),
            1 => json!({ "status": "failed", "error": { "code": "stopped", "message": "${{ input.key }}" } }),
            2 => json!({ "status": "cancelled", "reason": "enough" }),
            3 if self.chance(0.2) => json!({ "output": "${{ input.nothing }}" }),
            _ => {
                step.insert("when".into(), json!("input.round == 1"));
                let input = json!({ "items": [1], "yes": true, "no": false, "round": 2, "key": "k", "at": "2020-01-01T00:00:00Z" });
                json!({ "status": "continued", "input": input })
            }
        };
        step.insert("end".into(), end);
        true
    }

    /// Who does it: one of many, or one.
    fn target(&mut self) -> (&'static str, Value) {
        match self.pick(3) {
            0 => ("agent_type", json!("worker")),
            1 => ("capability", json!("work.hard")),
            _ => ("agent_id", json!(AgentId::from_parts(1, 9))),
        }
    }

    fn decision(&mut self, step: &mut Map<String, Value>) {
        let count = self.rng.random_range(1..=4_u32);
        let voters = if self.chance(0.3) {
            let ids: Vec<_> = (0..count).map(|voter| AgentId::from_parts(1, u128::from(voter))).collect();
            json!({ "agents": ids })
        } else {
            let key = ["capability", "agent_type"][self.pick(2)];
            json!({ key: "voter", "count": count })
        };
        let mut decision = json!({
            "question": "Which?",
            "options": ["left", "right"],
            "voters": voters,
            "quorum": self.rng.random_range(1..=count),
            "strategy": Strategy::ALL[self.pick(Strategy::ALL.len())],
        });
        if self.chance(0.5) {
            decision["deadline"] = json!(format!("{}s", self.rng.random_range(1..=40)));
        }
        step.insert("decision".into(), decision);
        self.retry(step);
    }

    fn signal(&mut self, step: &mut Map<String, Value>) {
        let name = ["go", "stop"][self.pick(2)];
        let mut signal = json!({ "name": name });
        if self.chance(0.2) {
            signal["transient"] = json!(true);
        }
        if self.chance(0.6) {
            signal["timeout"] = json!(format!("{}s", self.rng.random_range(1..=40)));
            match self.pick(6) {
                0 | 1 => signal["on_timeout"] = json!("reject"),
                2 => signal["on_timeout"] = json!({ "fallback": null }),
                3 => signal["on_timeout"] = json!({ "fallback": "${{ input.items }}" }),
                4 if self.chance(0.3) => signal["on_timeout"] = json!({ "fallback": "${{ input.nothing }}" }),
                _ => {}
            }
        }
        step.insert("signal".into(), signal);
    }

    fn retry(&mut self, step: &mut Map<String, Value>) {
        let retry = json!({
            "max_attempts": self.rng.random_range(1..=3),
            "initial_interval": "1s",
            "jitter": self.chance(0.5),
        });
        step.insert("retry".into(), retry);
    }

    fn compensate(&mut self, step: &mut Map<String, Value>) {
        let (key, value) = self.target();
        let mut compensate = json!({ key: value, "action": "undo" });
        match self.pick(10) {
            0..3 => {}
            3 => compensate["input"] = json!("${{ input.nothing }}"),
            4 => compensate["input"] = json!({ "items": "${{ input.items }}" }),
            _ => return,
        }
        step.insert("compensate".into(), compensate);
    }
}
