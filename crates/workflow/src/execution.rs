//! The state of one run of a plan.

use std::sync::Arc;

use domain::{ExecutionId, Payload, Timestamp};

use crate::{Command, Effect, Event, Failure, Plan, Recorded, Rejected};

/// Where an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Steps run or wait.
    Running,
    /// Nothing new starts.
    Paused,
    /// It is lost, and what completed is being undone.
    Compensating,
    /// Ended well.
    Completed,
    /// Ended by a failure.
    Failed,
    /// Ended by a cancel.
    Cancelled,
}

/// One run of a plan: small, rebuilt by replaying its events.
#[derive(Clone, Debug)]
pub struct Execution {
    plan: Arc<Plan>,
}

impl Execution {
    /// Before its first event.
    pub fn new(plan: Arc<Plan>) -> Self {
        Self { plan }
    }

    /// Decides a command and everything that follows from it, and applies the events as they are decided. The shell gives
    /// each the next sequence number. Nothing has happened before they are committed: on a failed commit the shell drops
    /// this state and replays the log.
    pub fn transition(&mut self, command: Command, now: Timestamp) -> Result<Vec<Event>, Rejected> {
        let _ = (command, now);
        todo!()
    }

    /// Applies one event of the log: replay.
    pub fn apply(&mut self, recorded: &Recorded) {
        let _ = recorded;
        todo!()
    }

    /// What must be done after `event` is committed.
    pub fn effects(&self, event: &Event) -> Vec<Effect> {
        let _ = event;
        todo!()
    }

    /// Everything that is owed now: what a shell does after it has rebuilt the state from the log.
    pub fn outstanding(&self) -> Vec<Effect> {
        todo!()
    }

    /// When `Command::Tick` has something to do next.
    pub fn next_due(&self) -> Option<Timestamp> {
        todo!()
    }

    /// Where it is.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Its id, after the first event.
    pub fn id(&self) -> Option<ExecutionId> {
        todo!()
    }

    /// The sequence number of the newest event applied.
    pub fn last_sequence(&self) -> u64 {
        todo!()
    }

    /// Its output, where it completed.
    pub fn output(&self) -> Option<&Payload> {
        todo!()
    }

    /// Why it failed, or is being compensated.
    pub fn failure(&self) -> Option<&Failure> {
        todo!()
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }
}
