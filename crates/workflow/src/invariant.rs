//! What must always hold: I1 to I8, by name, and each predicate once.
//!
//! The engine's tests, both simulators and production ask the same predicates. Where one does not hold, that is a [`Breach`]:
//! a test fails of it, and production counts it by the invariant's name and says which execution it is.
//!
//! | | predicate |
//! | --- | --- |
//! | I1 | [`shown_is_committed`] |
//! | I2 | [`continues_the_log`] |
//! | I3 | [`Once`]; [`crate::Execution::breaches`]: what is out is the present attempt of what it is for |
//! | I4 | [`knows_what_is_owed`] |
//! | I5 | [`is_what_the_log_says`]; [`crate::Execution::breaches`]: what is counted along the way is what counting anew gives |
//! | I6 | [`chained`], [`follows`] |
//! | I7 | [`owes_a_wakeup`]; [`crate::Execution::breaches`]: whatever waits is known to wait |
//! | I8 | [`crate::Execution::rests`]; [`crate::Execution::breaches`]: what is ready is in a queue |

use std::collections::BTreeSet;

use domain::Timestamp;

use crate::{Event, Execution, TaskKey, Unit, chain};

/// What must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Nothing is acknowledged before the event that records it is committed.
    I1,
    /// Whoever has lost a shard can append nothing: every event is written where the log ends.
    I2,
    /// Effects may repeat, and count once.
    I3,
    /// Whoever takes an execution over knows everything that it owes.
    I4,
    /// Memory, summary and log say the same.
    I5,
    /// A changed or missing event is found.
    I6,
    /// What has not ended owes a wake-up.
    I7,
    /// What has been accepted ends, and then owes nothing.
    I8,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 8] = [Self::I1, Self::I2, Self::I3, Self::I4, Self::I5, Self::I6, Self::I7, Self::I8];

    /// `I1` to `I8`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I6 => "I6",
            Self::I7 => "I7",
            Self::I8 => "I8",
        }
    }

    /// It does not hold.
    pub fn breach(self, what: impl Into<String>) -> Breach {
        Breach { invariant: self, what: what.into() }
    }
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", .invariant.as_str())]
pub struct Breach {
    /// Which.
    pub invariant: Invariant,
    /// For people.
    pub what: String,
}

fn holds(does: bool, breach: impl FnOnce() -> Breach) -> Result<(), Breach> {
    if does { Ok(()) } else { Err(breach()) }
}

/// I1: what a caller is shown, or may forget, ends no later than what is committed. Both are sequence numbers.
pub fn shown_is_committed(shown: u64, committed: u64) -> Result<(), Breach> {
    holds(shown <= committed, || Invariant::I1.breach(format!("event {shown} is shown, {committed} are committed")))
}

/// I2: what is written continues the log as it was: nobody else has written to it.
pub fn continues_the_log(last: u64, first: u64) -> Result<(), Breach> {
    holds(first == last + 1, || Invariant::I2.breach(format!("event {first} is written where {} is next", last + 1)))
}

/// I4: of what an execution owes when it is taken over, so many things nobody has begun or looks for.
pub fn knows_what_is_owed(lost: usize) -> Result<(), Breach> {
    holds(lost == 0, || Invariant::I4.breach(format!("of what it owes {lost} things are known to nobody")))
}

/// I5: replay gives this state.
pub fn is_what_the_log_says(state: &Execution, replayed: &Execution) -> Result<(), Breach> {
    holds(state.is_same_as(replayed), || Invariant::I5.breach("the state in memory is not what the log replays to"))
}

/// I6: no event is missing between this one and the last.
pub fn follows(last: u64, sequence: u64) -> Result<(), Breach> {
    holds(sequence == last + 1, || Invariant::I6.breach(format!("event {} is missing", last + 1)))
}

/// I6: an event is what was written: its hash fits. Answers with it.
pub fn chained(
    previous: &[u8; 32],
    sequence: u64,
    at: Timestamp,
    data: &[u8],
    hash: &[u8],
) -> Result<[u8; 32], Breach> {
    let expected = chain(previous, sequence, at, data);
    let breach = || Invariant::I6.breach(format!("event {sequence} is not what was written: its hash does not fit"));
    holds(hash == expected, breach).map(|()| expected)
}

/// I7: what has not ended has something that will wake it.
pub fn owes_a_wakeup(execution: &Execution) -> Result<(), Breach> {
    let is_owed = execution.status().is_terminal() || execution.last_sequence() == 0 || execution.wakeups() > 0;
    holds(is_owed, || Invariant::I7.breach("it has not ended, and nothing will wake it"))
}

/// I3, of a log: each attempt goes out once, and each step, instance and voter has one result until the execution is retried.
#[derive(Debug, Default)]
pub struct Once {
    tasks: BTreeSet<TaskKey>,
    results: BTreeSet<(&'static str, Unit, Option<u32>)>,
}

impl Once {
    /// Reads the next event.
    pub fn see(&mut self, event: &Event) -> Result<(), Breach> {
        let (unit, voter) = match event {
            Event::Retried { .. } => {
                self.results.clear();
                return Ok(());
            }
            // The loop of a decision has it vote again.
            Event::DecisionOpened { unit: opened, .. } => {
                self.results.retain(|(_, unit, voter)| voter.is_none() || unit != opened);
                return Ok(());
            }
            Event::StepScheduled { task, .. } => {
                let is_new = self.tasks.insert(*task);
                return holds(is_new, || Invariant::I3.breach(format!("{task:?} goes out twice")));
            }
            Event::BallotCast { unit, voter, .. } => (*unit, Some(*voter)),
            Event::StepCompleted { unit, .. } | Event::StepFailed { unit, .. } | Event::StepCompensated { unit } => {
                (*unit, None)
            }
            _ => return Ok(()),
        };
        let is_new = self.results.insert((event.kind(), unit, voter));
        holds(is_new, || Invariant::I3.breach(format!("{unit:?} has a result twice: {}", event.kind())))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use domain::Payload;

    use super::*;
    use crate::{Ballot, Failure, Purpose};

    fn broken<T: fmt::Debug>(predicate: Result<T, Breach>) -> Invariant {
        predicate.unwrap_err().invariant
    }

    #[test]
    fn what_is_shown_and_written_fits_the_log() {
        shown_is_committed(3, 3).unwrap();
        assert_eq!(broken(shown_is_committed(4, 3)), Invariant::I1);
        continues_the_log(3, 4).unwrap();
        assert_eq!(broken(continues_the_log(3, 3)), Invariant::I2, "another wrote it");
        assert_eq!(broken(continues_the_log(3, 5)), Invariant::I2);
        knows_what_is_owed(0).unwrap();
        assert_eq!(broken(knows_what_is_owed(1)), Invariant::I4);
    }

    #[test]
    fn a_changed_and_a_missing_event_are_found() {
        let at = Timestamp::from_millis(1);
        let hash = chain(&[0; 32], 1, at, b"a");
        assert_eq!(chained(&[0; 32], 1, at, b"a", &hash).unwrap(), hash);
        assert_eq!(broken(chained(&[0; 32], 1, at, b"b", &hash)), Invariant::I6);
        assert_eq!(broken(chained(&[0; 32], 1, at, b"a", &hash[1..])), Invariant::I6);
        follows(1, 2).unwrap();
        assert_eq!(broken(follows(1, 3)), Invariant::I6);
    }

    #[test]
    fn each_attempt_goes_out_once_and_each_unit_has_one_result() {
        let unit = Unit { frame: 0, step: 1, index: None };
        let out = |attempt| Event::StepScheduled { task: unit.task(Purpose::Work, attempt), input: None };
        let done = || Event::StepCompleted { unit, output: None, agent_id: None, begun_at: None };
        let mut once = Once::default();
        for event in [out(1), out(2), done(), Event::Retried { steps: vec![1], deadline: None }, done()] {
            once.see(&event).unwrap();
        }
        assert_eq!(broken(once.see(&out(2))), Invariant::I3);
        assert_eq!(broken(once.see(&done())), Invariant::I3);
        let ballot = Ballot { choice: "a".to_owned(), ranking: Vec::new(), rationale: String::new() };
        let cast = |voter| Event::BallotCast { unit, voter, ballot: ballot.clone() };
        once.see(&cast(0)).unwrap();
        once.see(&cast(1)).unwrap();
        assert_eq!(broken(once.see(&cast(1))), Invariant::I3);
        let failed = |frame| Event::StepFailed {
            unit: Unit { frame, ..unit },
            failure: Failure::fatal("a", "b"),
            agent_id: None,
            fallback: Some(Payload::null()),
        };
        once.see(&failed(1)).unwrap();
        once.see(&failed(2)).unwrap();
        assert_eq!(broken(once.see(&failed(2))), Invariant::I3);
    }

    #[test]
    fn names_are_those_of_the_design() {
        let names: Vec<_> = Invariant::ALL.iter().map(|invariant| invariant.as_str()).collect();
        assert_eq!(names, ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8"]);
        assert_eq!(Invariant::I3.breach("twice").to_string(), "I3: twice");
    }
}
