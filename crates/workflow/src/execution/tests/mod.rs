//! One rule of the semantics per test. The simulator shows that they hold together; these show what they are.
#![expect(clippy::needless_pass_by_value, reason = "documents are written in place")]

mod compensation;
mod control;
mod decisions;
mod explain;
mod flow;
mod groups;
mod instances;
mod retries;
mod waits;

use std::{sync::Arc, time::Duration};

use domain::{AgentId, ExecutionId, Namespace, Payload, SignalId, Timestamp, WorkflowId};
use serde_json::{Value, json};

use super::{Execution, Overlay, Status, StepState, TaskPlace, Transition};
use crate::{
    Command, Definition, Effect, Event, Failure, Holder, Limits, Recorded, Rejected, Start, TaskKey, Unit, Voter,
};

/// An execution, the time, and what it asked of the world.
struct Stage {
    execution: Execution,
    now: Timestamp,
    effects: Vec<Effect>,
    events: Vec<Event>,
}

impl Stage {
    /// Starts a workflow with these steps.
    fn with(steps: Value) -> Self {
        Self::of(json!({ "name": "w", "steps": steps }), json!({}))
    }

    fn of(definition: Value, input: Value) -> Self {
        let plan = Definition::parse(definition.to_string().as_bytes(), Limits::default()).unwrap().plan;
        let mut stage = Self {
            execution: Execution::new(Arc::new(plan)),
            now: Timestamp::from_millis(1_700_000_000_000),
            effects: Vec::new(),
            events: Vec::new(),
        };
        stage.say(Command::Start(Start { input: Payload::from_value(&input), ..start() }));
        stage
    }

    fn try_say(&mut self, command: Command) -> Result<usize, Rejected> {
        let Transition { events, effects } = self.execution.transition(command, self.now)?;
        self.effects.extend(effects);
        assert_eq!(self.execution.breaches(), []);
        let count = events.len();
        self.events.extend(events);
        Ok(count)
    }

    fn say(&mut self, command: Command) -> usize {
        self.try_say(command).unwrap()
    }

    /// `a/1`, `b[0]/2`, `a/undo/1`: a task without its execution.
    fn task(&self, name: &str) -> TaskKey {
        let id = format!("{}/{name}", self.execution.id().unwrap());
        self.execution.plan().parse_task_id(&id).unwrap().1
    }

    fn name(&self, task: TaskKey) -> String {
        let id = self.execution.plan().task_id(self.execution.id().unwrap(), task);
        id.split_once('/').unwrap().1.to_owned()
    }

    fn end(&mut self, task: &str, outcome: Result<Value, Failure>) -> usize {
        let outcome = outcome.map(|value| Payload::from_value(&value));
        let agent_id = Some(AgentId::from_parts(9, 9));
        self.say(Command::TaskEnded { task: self.task(task), agent_id, begun_at: None, outcome })
    }

    fn complete(&mut self, task: &str) {
        assert_ne!(self.end(task, Ok(json!(task))), 0, "{task} is not out");
    }

    fn fail(&mut self, task: &str) {
        assert_ne!(self.end(task, Err(Failure::fatal("broken", "for good"))), 0, "{task} is not out");
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.say(Command::Tick);
    }

    fn signal(&mut self, number: u128, name: &str, value: Value) -> Result<usize, Rejected> {
        let id = SignalId::from_parts(1, number);
        self.try_say(Command::Signal {
            id,
            name: name.into(),
            payload: Payload::from_value(&value),
            sender: "me".into(),
        })
    }

    /// Names of the tasks that are out.
    fn out(&self) -> Vec<String> {
        self.execution.tasks_out().into_iter().map(|task| self.name(task)).collect()
    }

    /// Names of the tasks that were withdrawn.
    fn withdrawn(&self) -> Vec<String> {
        let task = |effect: &Effect| match effect {
            Effect::Withdraw { task, .. } => Some(self.name(*task)),
            _ => None,
        };
        self.effects.iter().filter_map(task).collect()
    }

    /// The input with which the task was dispatched.
    fn input(&self, name: &str) -> Value {
        self.execution.task_order(self.task(name)).unwrap().input.to_value()
    }

    fn state(&self, step: &str) -> StepState {
        self.execution.steps().into_iter().find(|view| view.step_id == step).unwrap().state
    }

    fn status(&self) -> Status {
        self.execution.status()
    }

    fn output(&self) -> Value {
        self.execution.output().unwrap().to_value()
    }

    fn failure(&self) -> (&str, Option<&str>) {
        let failure = self.execution.failure().unwrap();
        (&failure.code, failure.step_id.as_deref())
    }
}

pub(super) fn start() -> Start {
    Start {
        execution_id: ExecutionId::from_parts(1, 1),
        namespace: Namespace::default(),
        workflow_id: WorkflowId::from_parts(1, 1),
        workflow_version: 3,
        input: Payload::null(),
        traceparent: String::new(),
        parent: None,
    }
}

struct InHand(TaskPlace);

impl Overlay for InHand {
    fn task(&self, _: TaskKey) -> TaskPlace {
        self.0.clone()
    }

    fn place(&self, _: Holder) -> Option<u32> {
        Some(2)
    }

    fn trouble(&self, _: TaskKey) -> Option<&str> {
        Some("the mailbox is full")
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn voter(number: u32) -> Voter {
    Voter { agent_id: AgentId::from_parts(1, u128::from(number)), name: format!("voter {number}"), weight: 1.0 }
}

/// The step itself, in the execution's own frame.
fn unit(step: u32) -> Unit {
    Unit { frame: 0, step, index: None }
}
