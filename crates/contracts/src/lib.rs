//! The contracts between the services, generated from `proto/`: messages, servers, clients and the descriptor set.
//!
//! Generated types stop at a service's `api/`; nothing else belongs here but [`Link`], over which clients call, [`Links`] for
//! those that call every replica, and the [`deadline`] under which they call.

pub mod deadline;
mod link;

pub use link::{Boxed, Link, Links, Replica};

/// All contracts as an encoded `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/troupe.bin"));

/// The largest message that servers and clients accept, in bytes: a definition of 4 MiB and an execution of 10,000 steps fit.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// The largest head of an answer that clients accept, in bytes: what is wrong with a definition travels there, up to 1,000 faults.
pub const MAX_HEAD_BYTES: u32 = 4 << 20;

macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $proto:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Version 1, the only one.
            #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
            pub mod v1 {
                tonic::include_proto!($proto);
            }
        }
    };
}

package!(
    /// What every service serves: what its door has refused.
    access,
    "troupe.access.v1"
);
package!(
    /// What an agent-runner serves.
    agent_runner,
    "troupe.agent_runner.v1"
);
package!(
    /// What communication serves: agent sessions, tasks, messages and dead letters.
    communication,
    "troupe.communication.v1"
);
package!(
    /// What the orchestrator serves: workflows and executions.
    orchestrator,
    "troupe.orchestrator.v1"
);
package!(
    /// What the registry serves: agents.
    registry,
    "troupe.registry.v1"
);
