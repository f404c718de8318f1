//! That nothing comes early and no deadline is missed, by the times that the log names and the clock alone.

use std::collections::BTreeMap;

use domain::Timestamp;
use workflow::{Event, Plan, Purpose, Unit, plan::StepKind};

/// What is due when.
#[derive(Default)]
pub(crate) struct Timekeeper {
    /// Ends of sleeps, of waits for signals, and of votes.
    waits: BTreeMap<Unit, Timestamp>,
    /// Next attempts of work, and of undos.
    retries: BTreeMap<(Unit, Purpose), Timestamp>,
    deadline: Option<Timestamp>,
    /// Its end is settled, so that no deadline counts.
    pub(crate) is_lost: bool,
}

impl Timekeeper {
    /// Takes in an event that was decided at `now`.
    pub(crate) fn see(&mut self, plan: &Plan, event: &Event, now: Timestamp) -> Result<(), String> {
        match event {
            Event::Accepted { deadline, .. } | Event::Retried { deadline, .. } | Event::Continued { deadline, .. } => {
                (self.deadline, self.is_lost) = (*deadline, false);
                self.retries.clear();
                let expected = plan.timeout.map(|timeout| now + timeout);
                if *deadline != expected {
                    return Err(format!("the deadline is {deadline:?}, not {expected:?}"));
                }
            }
            Event::SleepStarted { unit, until } => self.wait(*unit, Some(*until)),
            Event::SignalAwaited { unit, until, .. } | Event::BlockEntered { unit, until, .. } => {
                self.retried(*unit, Purpose::Work, now)?;
                self.wait(*unit, *until);
            }
            Event::DecisionOpened { unit, deadline, .. } => self.wait(*unit, *deadline),
            Event::StepRetrying { task, at, .. } => drop(self.retries.insert((task.unit, task.purpose), *at)),
            Event::StepScheduled { task, .. } => return self.retried(task.unit, task.purpose, now),
            Event::StepCompleted { unit, output, .. } | Event::StepRepeated { unit, output } => {
                let is_whole = plan.steps[unit.step as usize].for_each.is_some() && unit.index.is_none();
                let ends_by_time = match &plan.steps[unit.step as usize].kind {
                    StepKind::Sleep(_) | StepKind::SleepUntil(_) => self.waits.contains_key(unit),
                    // A signal that came has its payload in the log already.
                    StepKind::Signal { .. } => output.is_some() && self.waits.contains_key(unit),
                    _ => false,
                };
                let ended = if ends_by_time && !is_whole { self.wait_is_over(*unit, now) } else { Ok(()) };
                self.waits.remove(unit);
                return ended;
            }
            Event::BallotMissed { unit, failure, .. } if failure.code == "deadline" => {
                return self.wait_is_over(*unit, now);
            }
            Event::StepFailed { unit, failure, .. } if failure.code == "signal_timeout" => {
                let is_signal = matches!(plan.steps[unit.step as usize].kind, StepKind::Signal { .. });
                if is_signal && self.waits.contains_key(unit) {
                    return self.wait_is_over(*unit, now);
                }
            }
            Event::ScopeFailed { failure, .. } if failure.code == "execution_timeout" => {
                self.is_lost = true;
                return reached(self.deadline.ok_or("it has no deadline")?, now);
            }
            Event::CompensationResumed => self.is_lost = true,
            _ => {}
        }
        Ok(())
    }

    /// After a transition: what ends with its deadline has ended.
    pub(crate) fn check(&self, now: Timestamp) -> Result<(), String> {
        match self.deadline.filter(|deadline| *deadline <= now && !self.is_lost) {
            Some(deadline) => Err(format!("it goes on after its deadline {deadline}")),
            None => Ok(()),
        }
    }

    fn retried(&mut self, unit: Unit, purpose: Purpose, now: Timestamp) -> Result<(), String> {
        self.retries.remove(&(unit, purpose)).map_or(Ok(()), |due| reached(due, now))
    }

    fn wait(&mut self, unit: Unit, until: Option<Timestamp>) {
        match until {
            Some(until) => drop(self.waits.insert(unit, until)),
            None => drop(self.waits.remove(&unit)),
        }
    }

    fn wait_is_over(&self, unit: Unit, now: Timestamp) -> Result<(), String> {
        let until = self.waits.get(&unit).ok_or("a wait without an end ended by time")?;
        reached(*until, now)
    }
}

fn reached(due: Timestamp, now: Timestamp) -> Result<(), String> {
    if due <= now { Ok(()) } else { Err(format!("it was due at {due}, and it is only {now}")) }
}
