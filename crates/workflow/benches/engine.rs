//! How fast the pure engine is: transitions of whole executions, with and without the bytes of their events, and the replay of a
//! log. `make bench-engine` runs it; docs/benchmarks.md quotes it.
//!
//! An element of the throughput is a transition, of a replay it is an event.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where what it expects is not there")]

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use domain::{AgentId, ExecutionId, Namespace, Payload, Timestamp, WorkflowId};
use serde_json::{Value, json};
use workflow::{Command, Definition, Effect, Event, Execution, Limits, Plan, Recorded, Start, Status, chain};

/// When everything happens.
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// Events of the log that is replayed.
const LOG: usize = 1_000;

/// An execution from its start to its end, as commands.
struct Life {
    plan: Arc<Plan>,
    commands: Vec<Command>,
}

impl Life {
    /// Every task is answered with its own input, in the order in which they were given out.
    fn of(definition: &Value) -> Self {
        let definition = Definition::parse(definition.to_string().as_bytes(), Limits::default()).unwrap();
        let plan = Arc::new(definition.plan);
        let mut execution = Execution::new(Arc::clone(&plan));
        let mut commands = vec![start()];
        let mut next = 0;
        while let Some(command) = commands.get(next).cloned() {
            next += 1;
            for effect in execution.transition(command, NOW).unwrap().effects {
                let Effect::Dispatch(order) = effect else { continue };
                commands.push(Command::TaskEnded {
                    task: order.task,
                    agent_id: Some(AgentId::from_parts(9, 9)),
                    begun_at: Some(NOW),
                    outcome: Ok(order.input),
                });
            }
        }
        assert_eq!(execution.status(), Status::Completed);
        Self { plan, commands }
    }

    /// Decides and applies; answers with how many events that were.
    fn live(&self, commands: Vec<Command>) -> usize {
        let mut execution = Execution::new(Arc::clone(&self.plan));
        commands.into_iter().map(|command| black_box(execution.transition(command, NOW).unwrap()).events.len()).sum()
    }

    /// The same, with each event's bytes and hash, as the log has them: all that there is to a transition but its commit.
    fn live_and_encode(&self, commands: Vec<Command>) -> [u8; 32] {
        let mut execution = Execution::new(Arc::clone(&self.plan));
        let (mut hash, mut sequence) = ([0; 32], 0);
        for command in commands {
            for event in execution.transition(command, NOW).unwrap().events {
                sequence += 1;
                hash = chain(&hash, sequence, NOW, &black_box(event.encode()));
            }
        }
        hash
    }

    fn log(&self) -> Vec<Event> {
        let mut execution = Execution::new(Arc::clone(&self.plan));
        self.commands.iter().flat_map(|command| execution.transition(command.clone(), NOW).unwrap().events).collect()
    }
}

fn start() -> Command {
    Command::Start(Start {
        execution_id: ExecutionId::from_parts(1, 1),
        namespace: Namespace::default(),
        workflow_id: WorkflowId::from_parts(1, 1),
        workflow_version: 1,
        // 200 bytes, as those of `troupe bench chain3`.
        input: Payload::from_value(&json!({ "payload": "x".repeat(186) })),
        traceparent: String::new(),
        parent: None,
    })
}

/// Sequential steps, each of which gives its input to the next.
fn chain_of(length: usize) -> Value {
    let step = |number: usize| match number {
        0 => json!({ "id": "s0", "agent_type": "echo", "input": "${{ input }}" }),
        _ => {
            let before = format!("s{}", number - 1);
            let input = format!("${{{{ steps.{before}.output }}}}");
            json!({ "id": format!("s{number}"), "agent_type": "echo", "input": input, "depends_on": [before] })
        }
    };
    let output = format!("${{{{ steps.s{}.output }}}}", length - 1);
    json!({ "name": "chain", "steps": (0..length).map(step).collect::<Vec<_>>(), "output": output })
}

/// Parallel steps and one that reads them all.
fn fan_of(width: usize) -> Value {
    let ids: Vec<_> = (0..width).map(|number| format!("s{number}")).collect();
    let step = |(number, id): (usize, &String)| json!({ "id": id, "agent_type": "echo", "input": { "n": number } });
    let mut steps: Vec<_> = ids.iter().enumerate().map(step).collect();
    let outputs: Vec<_> = ids.iter().map(|id| format!("${{{{ steps.{id}.output.n }}}}")).collect();
    steps.push(json!({ "id": "join", "agent_type": "echo", "input": outputs, "depends_on": ids }));
    json!({ "name": "fan", "steps": steps, "output": "${{ steps.join.output }}", "config": { "max_parallel": width } })
}

fn lives(criterion: &mut Criterion) {
    for (name, definition) in [("chain3", chain_of(3)), ("fan100", fan_of(100)), ("fan6000", fan_of(6_000))] {
        let life = Life::of(&definition);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(life.commands.len() as u64));
        let commands = || life.commands.clone();
        group.bench_function("decide and apply", |bencher| {
            bencher.iter_batched(commands, |commands| life.live(commands), BatchSize::SmallInput);
        });
        group.bench_function("decide, apply and encode", |bencher| {
            bencher.iter_batched(commands, |commands| life.live_and_encode(commands), BatchSize::SmallInput);
        });
        group.finish();
    }
}

fn replay(criterion: &mut Criterion) {
    // Accepted, each step scheduled and completed, and the end.
    let life = Life::of(&chain_of((LOG - 2) / 2));
    let log: Vec<_> = life.log().iter().map(Event::encode).collect();
    assert_eq!(log.len(), LOG);
    let mut group = criterion.benchmark_group("replay of 1000 events");
    group.throughput(Throughput::Elements(LOG as u64));
    group.bench_function("decode and apply", |bencher| {
        bencher.iter(|| {
            let mut execution = Execution::new(Arc::clone(&life.plan));
            for (index, bytes) in log.iter().enumerate() {
                let event = Event::decode(bytes).unwrap();
                execution.apply(&Recorded { sequence: index as u64 + 1, at: NOW, event });
            }
            execution
        });
    });
    group.finish();
}

criterion_group!(benches, lives, replay);
criterion_main!(benches);
