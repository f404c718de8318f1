//! What an execution waits for, in words.

use domain::{AgentId, Timestamp};

use super::{
    Execution, Status,
    state::{Phase, Run},
};
use crate::{Holder, Purpose, Target, TaskKey, Unit, plan::StepKind};

/// More waits than anybody reads.
const MOST: usize = 100;

/// Where a task that is out is: only the shell knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskPlace {
    /// On its way.
    Unknown,
    /// In a queue; agents for it are alive, and busy.
    Queued,
    /// In a queue, and no live agent fits.
    WaitingForAgent {
        /// Since when.
        since: Timestamp,
    },
    /// An agent has it.
    HandedOver {
        /// Which.
        agent_id: Option<AgentId>,
        /// Since when.
        since: Timestamp,
    },
}

/// What the shell knows and the log does not.
pub trait Overlay {
    /// Where a task that is out is.
    fn task(&self, task: TaskKey) -> TaskPlace;
    /// How many are before it in the queue of a lock, where that is known.
    fn place(&self, holder: Holder) -> Option<u32>;
    /// Why the last try of an errand came to nothing, where it is to be tried again.
    fn trouble(&self, task: TaskKey) -> Option<&str>;
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitKind {
    /// No live agent fits.
    Agent,
    /// An agent is at work, or will be.
    Result,
    /// The next attempt is due later.
    Retry,
    /// A signal.
    Signal,
    /// Time.
    Time,
    /// Voters, or their ballots.
    Votes,
    /// Somebody ends the pause.
    Resume,
    /// `max_parallel` tasks are out.
    Slot,
    /// Another has its mutex.
    Lock,
    /// Its turn among those with its `concurrency_key`.
    Turn,
    /// A child execution.
    Child,
}

impl WaitKind {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Result => "result",
            Self::Retry => "retry",
            Self::Signal => "signal",
            Self::Time => "time",
            Self::Votes => "votes",
            Self::Resume => "resume",
            Self::Slot => "slot",
            Self::Lock => "lock",
            Self::Turn => "turn",
            Self::Child => "child",
        }
    }
}

/// One thing that an execution waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The step; empty where the execution as a whole waits.
    pub step_id: String,
    /// Which unit of it; absent where the execution as a whole waits.
    pub unit: Option<Unit>,
    /// What for.
    pub kind: WaitKind,
    /// A sentence for people.
    pub text: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

/// What an execution waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// A sentence for people.
    pub summary: String,
    /// The longest waiting first, at most 100.
    pub waits: Vec<Wait>,
}

impl Execution {
    /// What it waits for, and since when.
    pub fn explain(&self, overlay: &dyn Overlay) -> Explanation {
        let mut waits = Vec::new();
        if self.status() == Status::Paused {
            let text = "It is paused: nothing new starts until somebody resumes it.".to_owned();
            waits.push(Wait { since: self.state.paused, ..Self::whole(WaitKind::Resume, text) });
        }
        if let Some(turn) = self.state.turn.as_ref().filter(|_| self.state.is_queued()) {
            waits.push(Wait { since: Some(turn.since), ..Self::whole(WaitKind::Turn, Self::turn_text(turn, overlay)) });
        }
        for (_, frame) in self.state.frames.iter() {
            for &unit in &frame.undoing {
                let undo = self.state.run(unit).and_then(|run| run.undo.as_deref());
                waits.extend(undo.and_then(|undo| self.task_wait(unit, undo, Purpose::Undo, overlay)));
            }
        }
        for &unit in &self.state.active {
            waits.extend(self.unit_wait(unit, overlay));
            waits.extend(self.instances_wait(unit));
        }
        if !self.state.queue.is_empty() && self.state.is_full(&self.plan) {
            let (queued, slots) = (self.state.queue.len(), self.plan.max_parallel);
            let text = format!("{queued} tasks wait for one of the {slots} slots of `config.max_parallel`.");
            waits.push(Self::whole(WaitKind::Slot, text));
        }
        waits.sort_by_key(|wait| wait.since);
        let summary = self.summary(&waits) + &self.deadline_text() + &self.history_text();
        waits.truncate(MOST);
        Explanation { summary, waits }
    }

    fn whole(kind: WaitKind, text: String) -> Wait {
        Wait { step_id: String::new(), unit: None, kind, text, since: None, until: None }
    }

    fn turn_text(turn: &super::state::Turn, overlay: &dyn Overlay) -> String {
        let place = match overlay.place(Holder::Execution) {
            Some(place) => format!("; {place} are before it"),
            None => String::new(),
        };
        let (key, limit) = (&turn.lock.name, turn.lock.limit);
        format!("It waits for its turn: of the executions with the key `{key}` {limit} run at once{place}.")
    }

    fn summary(&self, waits: &[Wait]) -> String {
        let because =
            self.failure().map(|failure| failure.message.as_str()).or(self.cancel_reason()).unwrap_or_default();
        let not_undone = self.not_undone_text();
        match (self.status(), waits) {
            (Status::Completed, _) => "It completed; it waits for nothing.".to_owned(),
            (Status::Failed, _) => format!("It failed ({because}); it waits for nothing.{not_undone}"),
            (Status::Cancelled, _) => format!("It was cancelled ({because}); it waits for nothing.{not_undone}"),
            (Status::Compensating, _) => format!("Its completed steps are being undone ({because})."),
            (Status::Queued | Status::Running | Status::Paused, []) => "It is between two steps.".to_owned(),
            (Status::Queued | Status::Running | Status::Paused, [only]) => only.text.clone(),
            (Status::Queued | Status::Running | Status::Paused, [first, ..]) => {
                format!("It waits for {} things; the first: {}", waits.len(), first.text)
            }
        }
    }

    /// Which undos have failed for good.
    fn not_undone_text(&self) -> String {
        const MOST: usize = 3;
        let names: Vec<_> = self.state.not_undone.iter().take(MOST).map(|unit| self.name(*unit)).collect();
        let more = match self.state.not_undone.len().saturating_sub(MOST) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        if names.is_empty() {
            return String::new();
        }
        format!(" The undo of {}{more} failed; `retry` tries that again.", names.join(", "))
    }

    /// Until when it may take.
    fn deadline_text(&self) -> String {
        match self.state.deadline.filter(|_| !self.status().is_terminal() && self.status() != Status::Compensating) {
            Some(until) => format!(" What has not ended by {until} fails with `execution_timeout`."),
            None => String::new(),
        }
    }

    /// Where its present run began, and whether its history is about to be too long.
    fn history_text(&self) -> String {
        let continued = match self.continued_at() {
            Some(at) => format!(" It was continued at {at}, with event {}.", self.began_at()),
            None => String::new(),
        };
        let (length, most) = (self.history(), self.plan.max_history);
        if length <= self.plan.long_history() || self.status().is_terminal() {
            return continued;
        }
        format!(
            "{continued} Its history has {length} entries, and with more than {most} it fails with `history_too_long`: it is \
             to end with `continued` before that."
        )
    }

    /// `step `a[3]``, and for what is inside a block `step `b / a[3]``; where it loops, with how often it has done so.
    fn name(&self, unit: Unit) -> String {
        let mut names = Vec::new();
        let mut next = Some(unit);
        while let Some(unit) = next {
            let is_vote = self.state.frames.get(unit.frame).is_some_and(|frame| frame.scope.is_none());
            let step = &self.plan.steps[unit.step as usize];
            let index = unit.index.map(|index| format!("[{index}]")).unwrap_or_default();
            let repeat = step.repeat.as_ref().filter(|_| step.for_each.is_none() || unit.index.is_some());
            let round = repeat.and(self.state.run(unit)).map(|run| format!(" (iteration {})", run.iteration));
            names.push(format!("{}{index}{}", step.id, round.unwrap_or_default()));
            next = self.state.frames.get(unit.frame).and_then(|frame| frame.parent);
            // A voter is named as one of the decision, which is not named twice.
            if is_vote {
                next = next.and_then(|unit| self.state.frames.get(unit.frame)).and_then(|frame| frame.parent);
            }
        }
        names.reverse();
        format!("step `{}`", names.join(" / "))
    }

    /// What instances of a step wait for that has as many at work as it may.
    fn instances_wait(&self, unit: Unit) -> Option<Wait> {
        let run = self.state.run(unit)?;
        let slots = self.plan.steps[unit.step as usize].for_each.as_ref()?.max_parallel;
        let many = self.state.step(unit)?.many.as_deref()?;
        let waiting = many.instances.len().saturating_sub(many.queued as usize);
        if run.phase != Phase::Expanded || waiting == 0 || many.working < slots {
            return None;
        }
        let text =
            format!("{waiting} instances of {} wait for one of its {slots} slots (`max_parallel`).", self.name(unit));
        Some(Wait { kind: WaitKind::Slot, text, ..self.wait(unit, run) })
    }

    fn unit_wait(&self, unit: Unit, overlay: &dyn Overlay) -> Option<Wait> {
        let run = self.state.run(unit)?;
        let name = self.name(unit);
        let trouble = || overlay.trouble(unit.task(Purpose::Work, run.attempt));
        let (kind, text, until) = match (run.phase, &self.plan.steps[unit.step as usize].kind) {
            (Phase::Awaiting(until), _) => {
                let signal = run.signal.as_deref().unwrap_or_default();
                (WaitKind::Signal, format!("{name} waits for the signal `{signal}`."), until)
            }
            (Phase::Sleeping(until), _) => (WaitKind::Time, format!("{name} sleeps."), Some(until)),
            (Phase::Deciding(until), StepKind::Decision(decision)) if self.state.wants_voters(unit) => {
                (WaitKind::Votes, format!("{name} wants {} live voters.", decision.voters.count()), until)
            }
            (Phase::Locking, _) => (WaitKind::Lock, self.lock_text(unit, run, &name, overlay), None),
            (Phase::Child(until), StepKind::Workflow(child)) => {
                let id = self.child_of(unit, run).map(|id| format!(" ({id})")).unwrap_or_default();
                let text = match trouble() {
                    None => format!("{name} waits for its child execution of `{}`{id}.", child.name),
                    Some(why) => {
                        format!("{name} starts a child execution of `{}`{id}, so far in vain: {why}.", child.name)
                    }
                };
                (WaitKind::Child, text, until)
            }
            (Phase::Out, StepKind::Emit(_)) => {
                let trouble = trouble().map(|why| format!(", so far in vain: {why}"));
                (WaitKind::Result, format!("{name} is telling the outside{}.", trouble.unwrap_or_default()), None)
            }
            _ => return self.task_wait(unit, run, Purpose::Work, overlay),
        };
        Some(Wait { kind, text: capital(&text), until, ..self.wait(unit, run) })
    }

    fn lock_text(&self, unit: Unit, run: &Run, name: &str, overlay: &dyn Overlay) -> String {
        let Some(held) = &run.mutex else { return String::new() };
        let mutex = &held.key.name;
        let holder = self.state.mutexes.get(&held.key).and_then(|mutex| mutex.holders.last().copied());
        let who = match (holder, overlay.place(Holder::Unit(unit))) {
            (Some(holder), _) => format!("; {} has it", self.name(holder)),
            (None, Some(place)) => format!("; {place} are before it"),
            (None, None) => String::new(),
        };
        format!("{name} waits for the mutex `{mutex}`{who}.")
    }

    fn wait(&self, unit: Unit, run: &Run) -> Wait {
        Wait {
            step_id: self.plan.steps[unit.step as usize].id.clone(),
            unit: Some(unit),
            kind: WaitKind::Result,
            text: String::new(),
            since: run.started_at,
            until: None,
        }
    }

    /// The wait of a task, or for its next attempt.
    fn task_wait(&self, unit: Unit, run: &Run, purpose: Purpose, overlay: &dyn Overlay) -> Option<Wait> {
        let undo = if purpose == Purpose::Undo { "the undo of " } else { "" };
        let name = format!("{undo}{}", self.name(unit));
        let mut wait = self.wait(unit, run);
        if let Phase::Retrying(due) = run.phase {
            let why = run.failure.as_ref().map_or("", |failure| failure.message.as_str());
            wait.kind = WaitKind::Retry;
            wait.until = Some(due);
            wait.text = format!("Attempt {} of {name} failed ({why}); the next is due.", run.attempt);
            return Some(wait);
        }
        if run.phase != Phase::Out {
            return None;
        }
        let task = unit.task(purpose, run.attempt);
        match overlay.task(task) {
            TaskPlace::Unknown => wait.text = format!("The task of {name} is on its way to an agent."),
            TaskPlace::Queued => wait.text = format!("The task of {name} is queued; its agents are busy."),
            TaskPlace::WaitingForAgent { since } => {
                let order = self.task_order(task);
                let target = order.map_or_else(|| "agent".to_owned(), |order| describe(&order.target));
                wait.kind = WaitKind::Agent;
                wait.since = Some(since);
                wait.text = format!("The task of {name} waits for a live {target}.");
            }
            TaskPlace::HandedOver { agent_id, since } => {
                let agent = agent_id.map_or_else(|| "An agent".to_owned(), |agent| agent.to_string());
                wait.since = Some(since);
                wait.text = format!("{agent} works on {name}.");
            }
        }
        Some(wait)
    }
}

/// With a capital letter at the beginning.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn describe(target: &Target) -> String {
    match target {
        Target::AgentType(name) => format!("agent of the type `{name}`"),
        Target::Capability(name) => format!("agent with the capability `{name}`"),
        Target::AgentId(id) => format!("session of the agent {id}"),
    }
}
