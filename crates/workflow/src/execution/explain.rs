//! What an execution waits for, in words.

use domain::{AgentId, Timestamp};

use super::{
    Execution, Status,
    state::{Phase, Run, Unit},
};
use crate::{Purpose, StepIndex, Target, TaskKey, plan::StepKind};

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
        }
    }
}

/// One thing that an execution waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The step; empty where the execution as a whole waits.
    pub step_id: String,
    /// The instance or voter; absent for the step itself.
    pub index: Option<u32>,
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
        if let Some(undo) = self.state.undo.as_ref() {
            waits.extend(self.task_wait(undo.unit, &undo.run, Purpose::Undo, overlay));
        }
        for &step in &self.state.active {
            self.step_waits(step, overlay, &mut waits);
        }
        if self.is_full() {
            let (queued, slots) = (self.state.queue.len(), self.plan.max_parallel);
            let text = format!("{queued} tasks wait for one of the {slots} slots of `config.max_parallel`.");
            waits.push(Self::whole(WaitKind::Slot, text));
        }
        waits.sort_by_key(|wait| wait.since);
        let summary = self.summary(&waits);
        waits.truncate(MOST);
        Explanation { summary, waits }
    }

    fn is_full(&self) -> bool {
        !self.state.queue.is_empty() && self.state.work_out() >= self.plan.max_parallel as usize
    }

    fn whole(kind: WaitKind, text: String) -> Wait {
        Wait { step_id: String::new(), index: None, kind, text, since: None, until: None }
    }

    fn summary(&self, waits: &[Wait]) -> String {
        let because =
            self.failure().map(|failure| failure.message.as_str()).or(self.cancel_reason()).unwrap_or_default();
        match (self.status(), waits) {
            (Status::Completed, _) => "It completed; it waits for nothing.".to_owned(),
            (Status::Failed, _) => format!("It failed ({because}); it waits for nothing."),
            (Status::Cancelled, _) => format!("It was cancelled ({because}); it waits for nothing."),
            (Status::Compensating, _) => format!("Its completed steps are being undone ({because})."),
            (Status::Running | Status::Paused, []) => "It is between two steps.".to_owned(),
            (Status::Running | Status::Paused, [only]) => only.text.clone(),
            (Status::Running | Status::Paused, [first, ..]) => {
                format!("It waits for {} things; the first: {}", waits.len(), first.text)
            }
        }
    }

    fn step_waits(&self, step: StepIndex, overlay: &dyn Overlay, waits: &mut Vec<Wait>) {
        let run = &self.state.steps[step as usize];
        let unit = Unit { step, index: None };
        let id = &self.plan.steps[step as usize].id;
        let wait =
            |kind, text, until| Wait { step_id: id.clone(), index: None, kind, text, since: run.run.started_at, until };
        match (run.run.phase, &self.plan.steps[step as usize].kind) {
            (Phase::Awaiting(until), StepKind::Signal { name, .. }) => {
                let text = format!("Step `{id}` waits for the signal `{name}`.");
                waits.push(wait(WaitKind::Signal, text, until));
            }
            (Phase::Sleeping(until), _) => {
                waits.push(wait(WaitKind::Time, format!("Step `{id}` sleeps."), Some(until)));
            }
            (Phase::Deciding(until), StepKind::Decision(decision)) if run.voters.is_empty() => {
                let text = format!("Step `{id}` wants {} live voters.", decision.voters.count());
                waits.push(wait(WaitKind::Votes, text, until));
            }
            _ => {}
        }
        waits.extend(self.task_wait(unit, &run.run, Purpose::Work, overlay));
        for (index, instance) in run.instances.iter().enumerate().filter(|(_, run)| run.phase.is_active()) {
            let unit = Unit { step, index: Some(index as u32) };
            waits.extend(self.task_wait(unit, instance, Purpose::Work, overlay));
        }
    }

    /// The wait of a task, or for its next attempt.
    fn task_wait(&self, unit: Unit, run: &Run, purpose: Purpose, overlay: &dyn Overlay) -> Option<Wait> {
        let step = &self.plan.steps[unit.step as usize];
        let undo = if purpose == Purpose::Undo { "the undo of " } else { "" };
        let instance = unit.index.map_or_else(String::new, |index| format!("[{index}]"));
        let name = format!("{undo}step `{}{instance}`", step.id);
        let mut wait = Wait {
            step_id: step.id.clone(),
            index: unit.index,
            kind: WaitKind::Result,
            text: String::new(),
            since: run.started_at,
            until: None,
        };
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

fn describe(target: &Target) -> String {
    match target {
        Target::AgentType(name) => format!("agent of the type `{name}`"),
        Target::Capability(name) => format!("agent with the capability `{name}`"),
        Target::AgentId(id) => format!("session of the agent {id}"),
    }
}
