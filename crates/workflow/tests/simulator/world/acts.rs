//! What agents, voters, clients, time and the shell do to an execution.

use std::time::Duration;

use domain::{AgentId, Payload, SignalId};
use rand::Rng;
use serde_json::json;
use workflow::{Command, Failure, Holder, StepIndex, TaskKey, Unit, Voter, plan::StepKind};

use super::World;

impl World {
    pub(super) fn pick_task(&mut self) -> Option<TaskKey> {
        let tasks: Vec<_> = self.agents.keys().copied().collect();
        (!tasks.is_empty()).then(|| tasks[self.rng.random_range(0..tasks.len())])
    }

    pub(super) fn answer_one(&mut self) -> Result<(), String> {
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
    pub(super) fn next_holder(&self) -> Option<Holder> {
        let is_free = |holder: Holder| self.granted.is_none_or(|granted| granted == holder);
        self.queued.iter().copied().find(|holder| *holder == Holder::Execution || is_free(*holder))
    }

    /// The shell did something itself, or a lock is granted, both perhaps once more.
    pub(super) fn run_errand(&mut self) -> Result<(), String> {
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

    pub(super) fn answer(&mut self, task: TaskKey, outcome: Result<Payload, Failure>) -> Result<(), String> {
        let agent_id = Some(AgentId::from_parts(2, 2));
        self.say(Command::TaskEnded { task, agent_id, begun_at: Some(self.now), outcome })
    }

    pub(super) fn outcome(&mut self, is_vote: bool, good: f64) -> Result<Payload, Failure> {
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
    pub(super) fn answer_stale(&mut self) -> Result<(), String> {
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

    pub(super) fn pass_time(&mut self) -> Result<(), String> {
        self.now = match (self.rng.random_range(0..4), self.execution.next_due()) {
            (0, Some(due)) => due,
            (1, Some(due)) => due - Duration::from_millis(1),
            // A clock may jump back.
            (2, _) if self.rng.random_bool(0.2) => self.now - Duration::from_secs(5),
            _ => self.now + Duration::from_millis(self.rng.random_range(0..20_000)),
        };
        self.say(Command::Tick)
    }

    pub(super) fn find_voters(&mut self) -> Result<(), String> {
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
    pub(super) fn find_nobody(&mut self) -> Result<(), String> {
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

    pub(super) fn signal(&mut self) -> Result<(), String> {
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
}
