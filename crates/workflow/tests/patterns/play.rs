//! An execution of a pattern, with the world around it played by hand.

use std::{cell::Cell, thread};

use domain::{AgentId, ExecutionId, Namespace, Payload, SignalId, Timestamp, WorkflowId};
use serde_json::{Value, json};
use workflow::{
    Command, Effect, Errand, ErrandKind, Event, Execution, Failure, Recorded, Rejected, Start, Status, StepState,
    StepView, TaskKey, Telling, Transition,
};

use crate::{book::Book, recorded};

pub(crate) struct Play {
    pub(crate) execution: Execution,
    now: Timestamp,
    signals: u128,
    log: Vec<Recorded>,
    pub(crate) effects: Vec<Effect>,
    definition: Value,
}

/// Its history is kept, by the name of its test.
impl Drop for Play {
    fn drop(&mut self) {
        thread_local!(static PLAYS: Cell<u32> = const { Cell::new(0) });
        let number = PLAYS.replace(PLAYS.get() + 1);
        if !thread::panicking() {
            let name = thread::current().name().unwrap_or_default().replace("::", "-");
            let log: Vec<_> = self.log.iter().map(|recorded| (recorded.at, recorded.event.encode())).collect();
            let entries = log.iter().map(|(at, data)| (*at, data.as_slice()));
            recorded::keep(&format!("{name}-{number}"), &self.definition, entries);
        }
    }
}

impl Play {
    /// The pattern with this number, begun with this input.
    pub(crate) fn pattern(number: u32, input: Value) -> Self {
        Self::of(&Book::read().definition(number), &input)
    }

    pub(crate) fn of(definition: &Value, input: &Value) -> Self {
        let mut play = Self {
            execution: Execution::new(recorded::plan(&definition.to_string())),
            definition: definition.clone(),
            now: Timestamp::from_millis(1_700_000_000_000),
            signals: 0,
            log: Vec::new(),
            effects: Vec::new(),
        };
        let start = Start {
            execution_id: ExecutionId::from_parts(1, 1),
            namespace: Namespace::default(),
            workflow_id: WorkflowId::from_parts(1, 1),
            workflow_version: 1,
            input: Payload::from_value(input),
            traceparent: String::new(),
            parent: None,
        };
        play.say(Command::Start(start)).unwrap();
        play
    }

    pub(crate) fn say(&mut self, command: Command) -> Result<Vec<Event>, Rejected> {
        let Transition { events, effects } = self.execution.transition(command, self.now)?;
        assert_eq!(self.execution.breaches(), []);
        for event in &events {
            let sequence = self.log.len() as u64 + 1;
            self.log.push(Recorded { sequence, at: self.now, event: event.clone() });
        }
        self.effects.extend(effects);
        let mut replayed = Execution::new(self.execution.plan().clone());
        for recorded in &self.log {
            let event = Event::decode(&recorded.event.encode()).unwrap();
            replayed.apply(&Recorded { event, ..recorded.clone() });
        }
        assert!(replayed.is_same_as(&self.execution), "replay gives another state");
        Ok(events)
    }

    /// Tasks that are out with agents, by the names of their units: `a`, `b[2]`.
    pub(crate) fn out(&self) -> Vec<String> {
        self.execution.tasks_out().into_iter().map(|task| self.name(task)).collect()
    }

    fn name(&self, task: TaskKey) -> String {
        let id = self.execution.plan().task_id(self.execution.id().unwrap(), task);
        let unit = id.split('/').nth(1).unwrap();
        unit.split('@').next().unwrap().to_owned()
    }

    fn task(&self, name: &str) -> TaskKey {
        let task = self.execution.tasks_out().into_iter().find(|task| self.name(*task) == name);
        task.unwrap_or_else(|| panic!("{name} is not out; out are {:?}", self.out()))
    }

    /// An agent ends the task of this unit well.
    pub(crate) fn done(&mut self, name: &str, output: Value) {
        self.ended(self.task(name), Ok(output));
    }

    /// Agents end these tasks well, with `null`.
    pub(crate) fn all_done<const N: usize>(&mut self, names: [&str; N]) {
        for name in names {
            self.done(name, Value::Null);
        }
    }

    pub(crate) fn ended(&mut self, task: TaskKey, outcome: Result<Value, Failure>) {
        let outcome = outcome.map(|output| Payload::from_value(&output));
        let agent_id = Some(AgentId::from_parts(9, 9));
        self.say(Command::TaskEnded { task, agent_id, begun_at: None, outcome }).unwrap();
    }

    pub(crate) fn signal(&mut self, name: &str, payload: Value) {
        self.signals += 1;
        let id = SignalId::from_parts(1, self.signals);
        let payload = Payload::from_value(&payload);
        self.say(Command::Signal { id, name: name.to_owned(), payload, sender: String::new() }).unwrap();
    }

    /// The signal that it is to give an execution next, with its payload: that was done.
    pub(crate) fn told(&mut self) -> (String, Value) {
        let tell = |effect: &Effect| match effect {
            Effect::Run(Errand { task, what: ErrandKind::Tell { to: Telling::Signal { name, .. }, payload, .. } }) => {
                Some((*task, name.clone(), payload.to_value()))
            }
            _ => None,
        };
        let at = self.effects.iter().position(|effect| tell(effect).is_some()).expect("it has something to tell");
        let (task, name, payload) = tell(&self.effects.remove(at)).unwrap();
        self.ended(task, Ok(json!({ "signal_id": "sig" })));
        (name, payload)
    }

    pub(crate) fn status(&self) -> Status {
        self.execution.status()
    }

    pub(crate) fn output(&self) -> Value {
        self.execution.output().map_or(json!("none"), Payload::to_value)
    }

    /// The first step with this id, in a block too.
    pub(crate) fn state(&self, id: &str) -> StepState {
        fn find(views: &[StepView], id: &str) -> Option<StepState> {
            let inside = |view: &StepView| find(&view.steps, id).or_else(|| find(&view.instances, id));
            views.iter().find_map(|view| if view.step_id == id { Some(view.state) } else { inside(view) })
        }
        find(&self.execution.steps(), id).unwrap_or_else(|| panic!("there is no step {id}"))
    }

    /// Names of tasks that were taken from their agents.
    pub(crate) fn withdrawn(&self) -> Vec<String> {
        let task = |effect: &Effect| match effect {
            Effect::Withdraw { task, .. } => Some(self.name(*task)),
            _ => None,
        };
        self.effects.iter().filter_map(task).collect()
    }
}
