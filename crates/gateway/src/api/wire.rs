//! Conversions between the contracts and the API's words.

use contracts::{communication::v1 as communication, orchestrator::v1 as orchestrator, registry::v1 as registry};
use domain::{Payload, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{app, problem::Problem, words::Moment};

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $wire:ty { $($(#[$variant_doc:meta])* $variant:ident,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub(crate) enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// From the contract's number.
            pub(crate) fn from_wire(number: i32) -> Result<Self, Problem> {
                match <$wire>::try_from(number) {
                    $(Ok(<$wire>::$variant) => Ok(Self::$variant),)*
                    Ok(<$wire>::Unspecified) | Err(_) => Err(app::lacking(concat!("a ", stringify!($name)))),
                }
            }
        }

        impl From<$name> for i32 {
            fn from(state: $name) -> Self {
                match state {
                    $($name::$variant => <$wire>::$variant.into(),)*
                }
            }
        }
    )*};
}

states! {
    /// Whether an agent can work.
    AgentStatus = registry::AgentStatus {
        /// Connected, with room for work.
        Idle,
        /// Connected, without room.
        Busy,
        /// Connected, but its last heartbeat is late.
        Degraded,
        /// Not connected.
        Offline,
    }

    /// Whether a workflow can be executed.
    WorkflowStatus = orchestrator::WorkflowStatus {
        /// It can.
        Active,
        /// It cannot any more.
        Archived,
    }

    /// Where an execution is.
    ExecutionStatus = orchestrator::ExecutionStatus {
        /// It waits for its turn among those with its `concurrency_key`.
        Queued,
        /// Steps run or wait.
        Running,
        /// Nothing new starts.
        Paused,
        /// It failed or was cancelled, and what completed is being undone.
        Compensating,
        /// Ended well.
        Completed,
        /// Ended by a failure.
        Failed,
        /// Ended by a cancel.
        Cancelled,
    }

    /// Where a step is.
    StepState = orchestrator::StepState {
        /// Its dependencies have not ended.
        Pending,
        /// Its task is out; no agent has it yet.
        Scheduled,
        /// Its task is out, and no live agent fits.
        WaitingForAgent,
        /// An agent has it.
        Running,
        /// An attempt failed; the next one is due later.
        Retrying,
        /// It waits for a signal or for time.
        Waiting,
        /// Ended well.
        Completed,
        /// Ended by a failure.
        Failed,
        /// Never started.
        Skipped,
        /// Withdrawn.
        Cancelled,
        /// Its undo is at work.
        Compensating,
        /// Undone.
        Compensated,
    }

    /// Where a message is on its way.
    MessageStatus = communication::MessageStatus {
        /// Recorded.
        Accepted,
        /// In the mailbox.
        Queued,
        /// The agent holds it.
        Delivered,
        /// The agent has dealt with it.
        Acked,
        /// It is a dead letter.
        Dead,
    }

    /// What died.
    DeadLetterKind = communication::DeadLetterKind {
        /// A message to an agent.
        Message,
        /// A task of an execution.
        Task,
    }
}

impl ExecutionStatus {
    /// Is it one that never changes by itself?
    pub(crate) const fn is_terminal(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Cancelled => true,
            Self::Queued | Self::Running | Self::Paused | Self::Compensating => false,
        }
    }
}

/// A moment that may be absent.
pub(crate) fn moment(timestamp: Option<prost_types::Timestamp>) -> Result<Option<Moment>, Problem> {
    let read = |at: prost_types::Timestamp| Timestamp::from_seconds_and_nanos(at.seconds, at.nanos).map(Moment);
    timestamp.map(read).transpose().map_err(|_| app::lacking("a readable time"))
}

/// A moment that is always there.
pub(crate) fn required_moment(timestamp: Option<prost_types::Timestamp>) -> Result<Moment, Problem> {
    moment(timestamp)?.ok_or_else(|| app::lacking("a time"))
}

/// A moment for a service behind.
pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = at.to_seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }
}

/// A JSON value, absent where the field is empty. It passes through as its text.
pub(crate) fn payload(bytes: &[u8]) -> Result<Option<Payload>, Problem> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Payload::from_slice(bytes).map(Some).map_err(|_| app::lacking("readable JSON"))
}

/// A text, absent where the field is empty.
pub(crate) fn text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
