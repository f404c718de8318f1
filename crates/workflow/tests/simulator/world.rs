//! The world around one execution: a log, agents, clients, time, and bad luck.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use domain::{AgentId, ExecutionId, Namespace, Payload, SignalId, Timestamp, WorkflowId};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use workflow::{
    Command, Effect, Event, Execution, Failure, Holder, Overlay, Plan, Recorded, Rejected, Start, Status, StepIndex,
    TaskKey, TaskPlace, Transition, Unit, Voter, WaitKind, plan::StepKind,
};

use crate::{generate::Generated, observer::Observer};

/// More transitions than any simulated execution needs once everybody answers.
const PATIENCE: usize = 5_000;

/// How often what came about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    events: BTreeMap<&'static str, u64>,
    replays: u64,
    lost_commits: u64,
    stale_results: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        for (kind, count) in &other.events {
            *self.events.entry(kind).or_default() += count;
        }
        self.replays += other.replays;
        self.lost_commits += other.lost_commits;
        self.stale_results += other.stale_results;
    }

    /// There are 36 kinds of events.
    pub(crate) fn has_seen_everything(&self) -> bool {
        self.events.len() == 36 && self.replays > 0 && self.lost_commits > 0 && self.stale_results > 0
    }
}

/// An agent's knowledge: nothing.
struct Nowhere;

impl Overlay for Nowhere {
    fn task(&self, _: TaskKey) -> TaskPlace {
        TaskPlace::Unknown
    }

    fn place(&self, _: Holder) -> Option<u32> {
        None
    }
}

/// One execution and everything around it.
pub(crate) struct World {
    rng: ChaCha8Rng,
    plan: Arc<Plan>,
    now: Timestamp,
    execution: Execution,
    /// What is on disk: sequence, time, bytes.
    log: Vec<(u64, Timestamp, Vec<u8>)>,
    observer: Observer,
    /// Tasks in the hands of agents, and whether they are a vote.
    agents: BTreeMap<TaskKey, bool>,
    /// What the shell has been asked to do itself.
    errands: BTreeSet<TaskKey>,
    wanted: BTreeMap<Unit, (u32, u32)>,
    /// Who waits for a lock, and who has the one mutex that executions share.
    queued: BTreeSet<Holder>,
    granted: Option<Holder>,
    tokens: u64,
    signals: u128,
    pub(crate) tally: Tally,
}

impl World {
    pub(crate) fn new(generated: &Generated, rng: ChaCha8Rng, seed: u64) -> Result<Self, String> {
        let plan = generated.plan.clone();
        let mut world = Self {
            rng,
            execution: Execution::new(plan.clone()),
            plan,
            now: Timestamp::from_millis(1_700_000_000_000),
            log: Vec::new(),
            observer: Observer::default(),
            agents: BTreeMap::new(),
            errands: BTreeSet::new(),
            wanted: BTreeMap::new(),
            queued: BTreeSet::new(),
            granted: None,
            tokens: 0,
            signals: 0,
            tally: Tally::default(),
        };
        let start = Start {
            execution_id: ExecutionId::from_parts(1, u128::from(seed)),
            namespace: Namespace::default(),
            workflow_id: WorkflowId::from_parts(1, 1),
            workflow_version: 1,
            input: generated.input.clone(),
            traceparent: String::new(),
            parent: None,
        };
        world.say(Command::Start(start))?;
        Ok(world)
    }

    /// A turbulent time, then a fair one, in which it must end.
    pub(crate) fn live(mut self) -> Result<Self, String> {
        for _ in 0..self.rng.random_range(0..80) {
            self.happen()?;
        }
        self.end_fairly()?;
        self.replay()?;
        Ok(self)
    }

    fn happen(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..100) {
            0..38 => self.answer_one(),
            38..43 => self.answer_stale(),
            43..48 => {
                // Its agent died, and nobody noticed yet.
                self.pick_task().map(|task| self.agents.remove(&task));
                Ok(())
            }
            48..60 => self.pass_time(),
            60..63 => self.find_voters(),
            63 => self.find_nobody(),
            64..75 => self.signal(),
            75..76 => self.say(Command::Cancel { reason: "enough".into() }),
            76..80 => self.say(Command::Pause),
            80..86 => self.say(Command::Resume),
            86..90 => self.say(Command::Retry { lost: None }),
            90..94 => self.lose_commit(),
            _ => self.crash(),
        }
    }

    /// One transition, its commit, its effects, and every check there is.
    fn say(&mut self, command: Command) -> Result<(), String> {
        let answered = match &command {
            Command::TaskEnded { task, .. } => Some(*task),
            _ => None,
        };
        let expected = self.expected_refusal(&command);
        let shown = format!("{command:?}");
        let before = self.execution.last_sequence();
        let twin = self.rng.random_bool(0.1).then(|| (self.execution.clone(), command.clone()));
        let made = match (self.execution.transition(command, self.now), expected) {
            (Ok(made), None) => made,
            (Err(refusal), Some(expected)) if refusal == expected => Transition::default(),
            (outcome, expected) => return Err(format!("{shown} gave {outcome:?}, not {expected:?}")),
        };
        if let Some((twin, command)) = twin {
            self.compare(twin, command, &made).map_err(|fault| format!("after {shown}: {fault}\n{}", self.told()))?;
        }
        let Transition { events, effects } = made;
        for (event, sequence) in events.iter().zip(before + 1..) {
            *self.tally.events.entry(event.kind()).or_default() += 1;
            self.log.push((sequence, self.now, event.encode()));
        }
        self.observer
            .see(&self.plan, &events, &effects, answered, self.now)
            .and_then(|()| self.check())
            .map_err(|fault| format!("after {shown} at {}: {fault}\n{}", self.now, self.told()))?;
        for effect in effects {
            // A crash between commit and effect: whoever repairs it finds it in `outstanding`.
            if !self.rng.random_bool(0.03) {
                self.perform(&effect);
            }
        }
        Ok(())
    }

    /// The same state and command give the same events, and after them nothing is left to be done now.
    fn compare(&self, mut twin: Execution, command: Command, made: &Transition) -> Result<(), String> {
        let again = twin.transition(command, self.now).unwrap_or_default();
        if again != *made || !twin.is_same_as(&self.execution) {
            return Err(format!("the same command gave {made:?}, then {again:?}"));
        }
        match twin.transition(Command::Tick, self.now) {
            Err(Rejected::AlreadyStarted) => Ok(()),
            Ok(more) if more == Transition::default() => Ok(()),
            more => Err(format!("it had not settled; a tick gave {more:?}")),
        }
    }

    fn expected_refusal(&self, command: &Command) -> Option<Rejected> {
        let status = self.execution.status();
        let is_lost = self.observer.is_lost;
        match command {
            Command::Cancel { .. } | Command::Resume => status.is_terminal().then_some(Rejected::Ended),
            Command::Pause => (status.is_terminal() || status == Status::Compensating).then_some(Rejected::Ended),
            Command::Retry { .. } => match status {
                Status::Failed | Status::Cancelled if !self.observer.not_undone.is_empty() => None,
                Status::Failed => self.observer.was_compensated.then_some(Rejected::Compensated),
                _ => Some(Rejected::NotFailed),
            },
            Command::Signal { id, .. } if *id <= SignalId::from_parts(1, self.signals) => None,
            Command::Signal { .. } if is_lost => Some(Rejected::Ended),
            Command::Signal { name, .. } if !signals(&self.plan).contains_key(name) => Some(Rejected::UnknownSignal),
            Command::Signal { .. }
            | Command::Start(_)
            | Command::Tick
            | Command::TaskEnded { .. }
            | Command::Granted { .. }
            | Command::VotersFound { .. } => None,
        }
    }

    fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::Dispatch(order) => drop(self.agents.insert(order.task, order.action == "vote")),
            Effect::Withdraw { task, .. } => {
                // It may have answered already: its answer must be dropped.
                if self.rng.random_bool(0.7) {
                    self.agents.remove(task);
                }
            }
            Effect::Run(errand) => drop(self.errands.insert(errand.task)),
            Effect::FindVoters { unit, count, quorum, .. } => drop(self.wanted.insert(*unit, (*count, *quorum))),
            Effect::Acquire { holder, .. } => drop(self.queued.insert(*holder)),
            Effect::Release { holder, .. } => {
                self.queued.remove(holder);
                self.granted = self.granted.filter(|granted| granted != holder);
            }
            Effect::CancelChild { .. } | Effect::Ended => {}
        }
    }

    fn check(&self) -> Result<(), String> {
        let execution = &self.execution;
        if let Some(breach) = execution.breaches().first() {
            return Err(breach.clone());
        }
        if execution.next_due().is_some_and(|due| due <= self.now) {
            return Err("what is due was left undone: it would spin".into());
        }
        let steps = execution.steps();
        for (unit, expected) in &self.observer.outputs {
            let Some(view) = steps.iter().find(|view| view.unit == *unit) else { continue };
            let output = view.output.as_ref().map(Payload::to_value);
            if !output.as_ref().is_some_and(|output| begins_with(output, expected)) {
                return Err(format!("the output of {unit:?} is {output:?}, not {expected}"));
            }
        }
        if execution.last_sequence() != self.log.len() as u64 {
            return Err(format!("its sequence is {}, of {} events", execution.last_sequence(), self.log.len()));
        }
        let is_over = execution.status().is_terminal();
        if is_over != (execution.wakeups() == 0) {
            return Err(format!("I7: {} things will wake what is {:?}", execution.wakeups(), execution.status()));
        }
        if !is_over && execution.explain(&Nowhere).waits.is_empty() {
            return Err("it does not say what it waits for".into());
        }
        let status = execution.status();
        let is_held = self.observer.is_paused && !is_over && status != Status::Compensating;
        if (status == Status::Queued)
            != (self.observer.is_queued && !is_over && !is_held && status != Status::Compensating)
        {
            return Err(format!("it is {status:?}, and queued: {}", self.observer.is_queued));
        }
        if is_held != (status == Status::Paused) {
            return Err(format!("it is {status:?}, and paused: {is_held}"));
        }
        let names = signals(&self.plan);
        for wait in execution.explain(&Nowhere).waits.iter().filter(|wait| wait.kind == WaitKind::Signal) {
            let name = names.keys().find(|name| wait.text.contains(&format!("`{name}`")));
            let step = self.plan.steps.iter().find(|step| step.id == wait.step_id);
            let transient = matches!(step.map(|step| &step.kind), Some(StepKind::Signal { transient: true, .. }));
            if name.is_some_and(|name| self.observer.has_unused(name)) && !transient {
                return Err(format!("{} waits for a signal that is there", wait.step_id));
            }
        }
        if execution.tasks_out().into_iter().collect::<BTreeSet<_>>() != self.observer.out {
            return Err(format!("out are {:?}, the log says {:?}", execution.tasks_out(), self.observer.out));
        }
        let errands: BTreeSet<_> = execution.errands().map(|errand| errand.task).collect();
        if errands != self.observer.errands {
            return Err(format!("errands are {errands:?}, the log says {:?}", self.observer.errands));
        }
        if execution.output().is_some() != (execution.status() == Status::Completed) {
            return Err("only what completed has an output".into());
        }
        Ok(())
    }

    /// The log so far, an event a line.
    pub(crate) fn told(&self) -> String {
        let lines = self.log.iter().map(|(_, at, bytes)| format!("  {at} {}", String::from_utf8_lossy(bytes)));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn pick_task(&mut self) -> Option<TaskKey> {
        let tasks: Vec<_> = self.agents.keys().copied().collect();
        (!tasks.is_empty()).then(|| tasks[self.rng.random_range(0..tasks.len())])
    }

    fn answer_one(&mut self) -> Result<(), String> {
        if self.rng.random_bool(0.2) {
            return self.run_errand();
        }
        let Some(task) = self.pick_task() else { return self.say(Command::Tick) };
        let is_vote = self.agents.remove(&task).unwrap_or_default();
        let outcome = self.outcome(is_vote, 0.7);
        // Some results come twice.
        if self.rng.random_bool(0.1) {
            self.answer(task, outcome.clone())?;
        }
        self.answer(task, outcome)
    }

    /// Whoever may have the lock that it waits for.
    fn next_holder(&self) -> Option<Holder> {
        let is_free = |holder: Holder| self.granted.is_none_or(|granted| granted == holder);
        self.queued.iter().copied().find(|holder| *holder == Holder::Execution || is_free(*holder))
    }

    /// The shell did something itself, or a lock is granted, both perhaps once more.
    fn run_errand(&mut self) -> Result<(), String> {
        if let Some(task) = self.errands.first().copied() {
            if self.rng.random_bool(0.9) {
                self.errands.remove(&task);
            }
            let outcome = self.outcome(false, 0.7);
            return self.answer(task, outcome);
        }
        let Some(holder) = self.next_holder() else { return self.say(Command::Tick) };
        if holder != Holder::Execution {
            self.granted = Some(holder);
        }
        if self.rng.random_bool(0.9) {
            self.queued.remove(&holder);
        }
        self.say(Command::Granted { holder })
    }

    fn answer(&mut self, task: TaskKey, outcome: Result<Payload, Failure>) -> Result<(), String> {
        let agent_id = Some(AgentId::from_parts(2, 2));
        self.say(Command::TaskEnded { task, agent_id, begun_at: Some(self.now), outcome })
    }

    fn outcome(&mut self, is_vote: bool, good: f64) -> Result<Payload, Failure> {
        self.tokens += 1;
        let token = self.tokens;
        if self.rng.random_bool(good) {
            let choice = ["left", "right"][self.rng.random_range(0..2)];
            let result = match is_vote {
                true if self.rng.random_bool(0.05) => json!("what?"),
                true if self.rng.random_bool(0.3) => {
                    let rest = if choice == "left" { "right" } else { "left" };
                    json!({ "ranking": [choice, rest], "rationale": token.to_string() })
                }
                true => json!({ "choice": choice, "rationale": token.to_string() }),
                false => json!({ "token": token }),
            };
            return Ok(Payload::from_value(&result));
        }
        if self.rng.random_bool(0.7) {
            Err(Failure { details: Some(Payload::null()), ..Failure::retryable("busy", "not now") })
        } else {
            Err(Failure::fatal("broken", "never"))
        }
    }

    /// An answer to an attempt that is not at work any more changes nothing (I3).
    fn answer_stale(&mut self) -> Result<(), String> {
        self.say(Command::Tick)?;
        let stale: Vec<_> =
            self.observer.tasks().into_iter().filter(|task| !self.execution.is_current(*task)).collect();
        if stale.is_empty() {
            return Ok(());
        }
        let task = stale[self.rng.random_range(0..stale.len())];
        let before = self.log.len();
        let outcome = self.outcome(false, 0.5);
        self.answer(task, outcome)?;
        self.tally.stale_results += 1;
        if self.log.len() == before { Ok(()) } else { Err(format!("the stale {task:?} counted\n{}", self.told())) }
    }

    fn pass_time(&mut self) -> Result<(), String> {
        self.now = match (self.rng.random_range(0..4), self.execution.next_due()) {
            (0, Some(due)) => due,
            (1, Some(due)) => due - Duration::from_millis(1),
            // A clock may jump back.
            (2, _) if self.rng.random_bool(0.2) => self.now - Duration::from_secs(5),
            _ => self.now + Duration::from_millis(self.rng.random_range(0..20_000)),
        };
        self.say(Command::Tick)
    }

    fn find_voters(&mut self) -> Result<(), String> {
        let wanted: Vec<_> = self.wanted.iter().map(|(unit, counts)| (*unit, *counts)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let (unit, (count, quorum)) = wanted[self.rng.random_range(0..wanted.len())];
        // The search may have been told twice, or too late.
        if self.rng.random_bool(0.8) {
            self.wanted.remove(&unit);
        }
        let found = self.rng.random_range(quorum.min(count)..=count);
        let first = self.rng.random_range(0..5);
        let mut voters = Vec::new();
        for number in 0..found {
            let agent_id = AgentId::from_parts(3, u128::from(first + number));
            let weight = if self.rng.random_bool(0.05) { f64::NAN } else { self.rng.random_range(-0.1..3.0) };
            voters.push(Voter { agent_id, name: format!("voter {number}"), weight });
        }
        self.say(Command::VotersFound { unit, voters })
    }

    /// A search that found nobody, or that nobody asked for, changes nothing.
    fn find_nobody(&mut self) -> Result<(), String> {
        self.say(Command::Tick)?;
        let steps = self.plan.steps.len() as StepIndex;
        let step = self.rng.random_range(0..=steps);
        let voter = Voter { agent_id: AgentId::from_parts(3, 99), name: "stray".into(), weight: 1.0 };
        let is_decision =
            self.plan.steps.get(step as usize).is_some_and(|step| matches!(step.kind, StepKind::Decision(_)));
        let voters = if is_decision { Vec::new() } else { vec![voter] };
        let before = self.log.len();
        let unit = Unit { frame: 0, step, index: None };
        self.say(Command::VotersFound { unit, voters })?;
        if self.log.len() == before { Ok(()) } else { Err(format!("a stray voter counted\n{}", self.told())) }
    }

    fn signal(&mut self) -> Result<(), String> {
        let is_new = self.signals == 0 || self.rng.random_bool(0.8);
        let number = if is_new { self.signals + 1 } else { self.signals };
        let name = ["go", "stop", "unknown"][self.rng.random_range(0..3)].to_owned();
        let payload =
            if self.rng.random_bool(0.3) { Payload::null() } else { Payload::from_value(&json!(number as u64)) };
        let id = SignalId::from_parts(1, number);
        let before = self.log.len();
        self.say(Command::Signal { id, name, payload, sender: String::new() })?;
        // One that was refused leaves its id unused.
        if is_new && self.log[before..].iter().any(|(_, _, bytes)| bytes.starts_with(b"{\"signal_received\"")) {
            self.signals = number;
        }
        Ok(())
    }

    /// The commit of a transition fails: nothing of it has happened.
    fn lose_commit(&mut self) -> Result<(), String> {
        let command = match self.pick_task() {
            Some(task) => {
                let is_vote = self.agents.get(&task).copied().unwrap_or_default();
                let outcome = self.outcome(is_vote, 0.5);
                Command::TaskEnded { task, agent_id: None, begun_at: None, outcome }
            }
            None => Command::Tick,
        };
        let _ = self.execution.transition(command, self.now + Duration::from_secs(1));
        self.execution = self.replayed()?;
        self.tally.lost_commits += 1;
        self.recover()
    }

    fn crash(&mut self) -> Result<(), String> {
        self.replay()?;
        if self.rng.random_bool(0.7) {
            self.agents.clear();
        }
        self.errands.clear();
        self.queued.clear();
        self.wanted.clear();
        self.recover()
    }

    /// Rebuilds the state from the log as it is on disk, and compares (I5).
    fn replay(&mut self) -> Result<(), String> {
        let replayed = self.replayed()?;
        if !replayed.is_same_as(&self.execution) {
            return Err(format!("replay gives\n{replayed:#?}\nand not\n{:#?}\n{}", self.execution, self.told()));
        }
        self.execution = replayed;
        self.tally.replays += 1;
        Ok(())
    }

    fn replayed(&self) -> Result<Execution, String> {
        let mut execution = Execution::new(self.plan.clone());
        for (sequence, at, bytes) in &self.log {
            let event = Event::decode(bytes).map_err(|error| format!("{error:?}"))?;
            execution.apply(&Recorded { sequence: *sequence, at: *at, event });
        }
        Ok(execution)
    }

    /// What a shell does after it has rebuilt the state (I4).
    fn recover(&mut self) -> Result<(), String> {
        let owed = self.execution.outstanding();
        // Whoever keeps the locks asks now and then whether they are still wanted.
        self.granted = self.granted.filter(|holder| self.execution.holds(*holder));
        self.queued.retain(|holder| self.execution.holds(*holder));
        let out = self.execution.tasks_out().into_iter().collect();
        self.observer.dispatched(&owed, &out).map_err(|fault| format!("I4: {fault}\n{}", self.told()))?;
        for effect in &owed {
            self.perform(effect);
        }
        self.say(Command::Tick)
    }

    /// All agents answer, all voters are found, somebody gives every signal: it ends (I8).
    fn end_fairly(&mut self) -> Result<(), String> {
        for _ in 0..PATIENCE {
            if self.execution.status().is_terminal() {
                return Ok(());
            }
            if self.execution.status() == Status::Paused {
                self.say(Command::Resume)?;
            }
            self.recover()?;
            // Nobody answers what was not sent.
            let task = self.execution.tasks_out().first().copied();
            if let Some((task, is_vote)) = task.and_then(|task| self.agents.remove_entry(&task)) {
                let outcome = self.outcome(is_vote, 0.95);
                self.answer(task, outcome)?;
            } else if !self.errands.is_empty() || self.next_holder().is_some() {
                self.run_errand()?;
            } else if !self.wanted.is_empty() && !self.execution.outstanding().is_empty() {
                self.find_voters()?;
            } else if let Some(due) = self.execution.next_due().filter(|_| self.rng.random_bool(0.5)) {
                self.now = due.max(self.now);
                self.say(Command::Tick)?;
            } else if self.execution.status() != Status::Compensating {
                self.signal()?;
            }
        }
        Err(format!("I8: it does not end: {:?}\n{}", self.execution.explain(&Nowhere), self.told()))
    }
}

/// Names of signals, and whether one that nobody waits for is kept.
fn signals(plan: &Plan) -> BTreeMap<String, bool> {
    let mut signals = BTreeMap::new();
    for name in ["go", "stop"] {
        let waits = plan.steps.iter().filter_map(|step| match &step.kind {
            StepKind::Signal { name: waited, transient, .. } => {
                format!("{waited:?}").contains(&format!("\"{name}\"")).then_some(!transient)
            }
            _ => None,
        });
        if let Some(keeps) = waits.reduce(|keeps, also| keeps || also) {
            signals.insert(name.to_owned(), keeps);
        }
    }
    signals
}

/// Of a list that was cut off nobody but the state knows how many instances behind the last one there are: all are `null`.
fn begins_with(output: &Value, expected: &Value) -> bool {
    match (output, expected) {
        (Value::Array(output), Value::Array(expected)) => {
            output.starts_with(expected) && output[expected.len()..].iter().all(Value::is_null)
        }
        _ => output == expected,
    }
}
