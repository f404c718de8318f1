//! The words that every service shares: ids, names, topics, time and payloads.
//!
//! Nothing here does I/O but [`SystemClock`], and nothing here knows a service.

mod clock;
mod id;
mod name;
mod payload;
mod topic;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp, TimestampError, TimestampOutOfRange};
pub use id::{
    AgentId, ApiKeyId, DeadLetterId, ExecutionId, IdError, InstanceId, MessageId, ReplicaId, SessionId, SignalId,
    WorkflowId,
};
pub use name::{NameError, Namespace, check_name};
pub use payload::{Payload, PayloadError};
pub use topic::{MAX_TOPIC, Topic, TopicError, TopicPattern};
