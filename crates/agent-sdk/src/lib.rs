#![doc = include_str!("../README.md")]

mod agent;
mod context;
mod failure;
mod message;
mod output;
mod server;
mod session;
mod task;
mod tokens;

pub use agent::{Agent, AgentBuilder, Connection, Error};
pub use context::{Context, RequestError, SendError};
pub use failure::{Failure, Refusal};
pub use message::{Message, Outgoing, Recipient};
pub use output::{IntoOutput, Output};
pub use server::{Server, ServerError};
pub use task::{Progress, Task};

/// What most agents need besides this crate's own types.
pub use contracts::Link;
pub use domain::Payload;
pub use lifecycle::Shutdown;
pub use tokio_util::sync::CancellationToken;
