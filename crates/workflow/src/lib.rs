#![doc = include_str!("../README.md")]

mod command;
pub mod decision;
pub mod definition;
mod effect;
mod event;
mod execution;
pub mod expression;
mod failure;
pub mod invariant;
pub mod plan;
mod schema;
mod task_id;
mod unit;

pub use command::{Command, Rejected, Start};
pub use decision::Ballot;
pub use definition::{Definition, Fault, Limits};
pub use effect::{Effect, Errand, ErrandKind, Lock, LockKind, TaskOrder, Telling};
pub use event::{Carried, DecodeError, Ending, Event, KeptSignal, Parent, Recorded, SkipReason, Voter, chain};
pub use execution::{
    Counts, Execution, Explanation, Overlay, Status, StepState, StepView, TaskPlace, Transition, Wait, WaitKind,
};
pub use failure::Failure;
pub use invariant::{Breach, Invariant};
pub use plan::Plan;
pub use schema::{InputSchema, Misfit};
pub use unit::{FrameId, Holder, Purpose, StepIndex, TaskKey, Unit};

/// Who may do a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Any live agent of this type.
    AgentType(String),
    /// Any live agent with this capability.
    Capability(String),
    /// This agent.
    AgentId(domain::AgentId),
}
