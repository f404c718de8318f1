//! What there is to schedule, and its names: steps, instances and voters, in the frame in which they run.

use serde::{Deserialize, Serialize};

/// The place of a step in its plan, from 0: first the steps of the definition in their order, then those of its blocks.
pub type StepIndex = u32;

/// One activation of a scope, from 0 in the order in which they begin: the execution itself, one run of a block, one vote.
pub type FrameId = u32;

/// A step, an instance of its `for_each`, or a voter, in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Unit {
    /// In which frame; 0 is the execution itself until it is continued.
    #[serde(default, skip_serializing_if = "is_first")]
    pub frame: FrameId,
    /// The step.
    pub step: StepIndex,
    /// The instance or voter; absent for the step itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first(frame: &FrameId) -> bool {
    *frame == 0
}

impl Unit {
    /// The step itself, of which this may be an instance.
    #[must_use]
    pub fn whole(self) -> Self {
        Self { index: None, ..self }
    }

    /// An instance or voter of the step.
    #[must_use]
    pub fn instance(self, index: u32) -> Self {
        Self { index: Some(index), ..self }
    }

    pub(crate) fn task(self, purpose: Purpose, attempt: u32) -> TaskKey {
        TaskKey { unit: self, purpose, attempt }
    }
}

/// What a task is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The step's work.
    #[default]
    Work,
    /// The undo of the step's work.
    Undo,
}

/// One attempt of a unit's work or of its undo: what a task id spells out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskKey {
    /// Whose.
    pub unit: Unit,
    /// Work or undo.
    #[serde(default, skip_serializing_if = "is_work")]
    pub purpose: Purpose,
    /// From 1; counts on through iterations, and when a failed execution is retried, so that no task has the id of another.
    pub attempt: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_work(purpose: &Purpose) -> bool {
    *purpose == Purpose::Work
}

/// Who holds a lock, or waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// The execution: it takes its turn among those with its `concurrency_key`.
    Execution,
    /// A unit of a step with a global `mutex`.
    Unit(Unit),
}
