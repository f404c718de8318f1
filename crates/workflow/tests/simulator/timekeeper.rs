//! That nothing comes early and no deadline is missed, by the times that the log names and the clock alone.

use std::collections::BTreeMap;

use domain::Timestamp;
use workflow::{Event, Failure, Plan, Purpose, StepIndex, plan::StepKind};

/// What is due when.
#[derive(Default)]
pub(crate) struct Timekeeper {
    /// Ends of sleeps, of waits for signals, and of votes.
    waits: BTreeMap<StepIndex, Timestamp>,
    /// Next attempts of work, and of undos.
    retries: BTreeMap<(StepIndex, Option<u32>, Purpose), Timestamp>,
    deadline: Option<Timestamp>,
    /// Its end is settled, so that no deadline counts.
    is_lost: bool,
}

impl Timekeeper {
    /// Takes in an event that was decided at `now`.
    pub(crate) fn see(&mut self, plan: &Plan, event: &Event, now: Timestamp) -> Result<(), String> {
        match event {
            Event::Accepted { deadline, .. } | Event::Retried { deadline, .. } => {
                (self.deadline, self.is_lost) = (*deadline, false);
                self.retries.clear();
                let expected = plan.timeout.map(|timeout| now + timeout);
                if *deadline != expected {
                    return Err(format!("the deadline is {deadline:?}, not {expected:?}"));
                }
            }
            Event::SleepStarted { step, until } => self.wait(*step, Some(*until)),
            Event::SignalAwaited { step, until, .. } => self.wait(*step, *until),
            Event::DecisionOpened { step, deadline, .. } => self.wait(*step, *deadline),
            Event::StepRetrying { task, at, .. } => {
                self.retries.insert((task.step, task.index, task.purpose), *at);
            }
            Event::StepScheduled { task, .. } => {
                let due = self.retries.remove(&(task.step, task.index, task.purpose));
                return due.map_or(Ok(()), |due| reached(due, now));
            }
            Event::StepCompleted { step, output, .. } => {
                let ends_by_time = match &plan.steps[*step as usize].kind {
                    StepKind::Sleep(_) => true,
                    // A signal that came has its payload in the log already.
                    StepKind::Signal { .. } => output.is_some(),
                    StepKind::Task { .. } | StepKind::Decision(_) => false,
                };
                return if ends_by_time { self.wait_is_over(*step, now) } else { Ok(()) };
            }
            Event::BallotMissed { step, failure, .. } if failure.code == "deadline" => {
                return self.wait_is_over(*step, now);
            }
            Event::StepFailed { step, failure, .. } if failure.code == "signal_timeout" => {
                return self.wait_is_over(*step, now);
            }
            Event::CompensationStarted { failure } => return self.lost(failure.as_ref(), now),
            Event::Failed { failure } => return self.lost(Some(failure), now),
            Event::Completed { .. } | Event::Cancelled { .. } => self.is_lost = true,
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

    fn wait(&mut self, step: StepIndex, until: Option<Timestamp>) {
        match until {
            Some(until) => drop(self.waits.insert(step, until)),
            None => drop(self.waits.remove(&step)),
        }
    }

    fn wait_is_over(&self, step: StepIndex, now: Timestamp) -> Result<(), String> {
        let until = self.waits.get(&step).ok_or("a wait without an end ended by time")?;
        reached(*until, now)
    }

    fn lost(&mut self, failure: Option<&Failure>, now: Timestamp) -> Result<(), String> {
        // The end of what was undone repeats why.
        let is_repeated = std::mem::replace(&mut self.is_lost, true);
        if is_repeated || failure.is_none_or(|failure| failure.code != "execution_timeout") {
            return Ok(());
        }
        reached(self.deadline.ok_or("it has no deadline")?, now)
    }
}

fn reached(due: Timestamp, now: Timestamp) -> Result<(), String> {
    if due <= now { Ok(()) } else { Err(format!("it was due at {due}, and it is only {now}")) }
}
