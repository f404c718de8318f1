//! The world around one execution: a log, agents, clients, time, and bad luck.

mod acts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use domain::{ExecutionId, Namespace, Payload, SignalId, Timestamp, WorkflowId};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use workflow::{
    Command, Effect, Event, Execution, Holder, Overlay, Plan, Recorded, Rejected, Start, Status, TaskKey, TaskPlace,
    Transition, Unit, WaitKind,
    invariant::{Once, is_what_the_log_says},
    plan::StepKind,
};

use crate::{generate::Generated, observer::Observer};

/// More transitions than any simulated execution needs once everybody answers.
const PATIENCE: usize = 5_000;

/// Kinds of events that there are.
pub(crate) const KINDS: usize = 36;

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

    pub(crate) fn kinds(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn has_seen_everything(&self) -> bool {
        self.kinds() == KINDS && self.replays > 0 && self.lost_commits > 0 && self.stale_results > 0
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

    fn trouble(&self, _: TaskKey) -> Option<&str> {
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
    once: Once,
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
            once: Once::default(),
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
            self.once.see(event).map_err(|breach| format!("{breach}\n{}", self.told()))?;
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
            return Err(breach.to_string());
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
        let errands: BTreeSet<_> = execution.errands().collect();
        if errands != self.observer.errands {
            return Err(format!("errands are {errands:?}, the log says {:?}", self.observer.errands));
        }
        if execution.output().is_some() != (execution.status() == Status::Completed) {
            return Err("only what completed has an output".into());
        }
        Ok(())
    }

    /// The log so far.
    pub(crate) fn log(&self) -> impl Iterator<Item = (Timestamp, &[u8])> {
        self.log.iter().map(|(_, at, bytes)| (*at, bytes.as_slice()))
    }

    /// The log so far, an event a line.
    pub(crate) fn told(&self) -> String {
        let lines = self.log.iter().map(|(_, at, bytes)| format!("  {at} {}", String::from_utf8_lossy(bytes)));
        lines.collect::<Vec<_>>().join("\n")
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
        if let Err(breach) = is_what_the_log_says(&self.execution, &replayed) {
            return Err(format!(
                "{breach}: replay gives\n{replayed:#?}\nand not\n{:#?}\n{}",
                self.execution,
                self.told()
            ));
        }
        let short = self.replayed_from_its_run()?;
        is_what_the_log_says(&replayed, &short)
            .map_err(|breach| format!("{breach}: from the last run alone it gives {short:#?}\n{}", self.told()))?;
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

    /// The same from the first entry and those of the present run alone.
    fn replayed_from_its_run(&self) -> Result<Execution, String> {
        let mut execution = Execution::new(self.plan.clone());
        let run = self.log.iter().rposition(|(.., bytes)| Event::begins_a_run(bytes)).unwrap_or(1);
        for (sequence, at, bytes) in self.log.iter().take(1).chain(self.log.iter().skip(run)) {
            let event = Event::decode(bytes).map_err(|error| format!("{error:?}"))?;
            execution.apply(&Recorded { sequence: *sequence, at: *at, event });
        }
        Ok(execution)
    }

    /// What a shell does after it has rebuilt the state (I4).
    fn recover(&mut self) -> Result<(), String> {
        let owed = self.execution.outstanding();
        // Whoever keeps the locks asks now and then whether they are still wanted.
        self.granted = self.granted.filter(|holder| self.execution.lock_of(*holder).is_some());
        self.queued.retain(|holder| self.execution.lock_of(*holder).is_some());
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
