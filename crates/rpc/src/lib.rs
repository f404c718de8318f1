#![doc = include_str!("../README.md")]

mod balance;
mod client;
mod deadline;
mod denials;
mod dial;
mod guard;
mod methods;
mod metrics;
mod replica;
mod replicas;
mod resolve;
mod tls;
mod token;

pub use client::{Caller, ConnectError};
pub use deadline::{Deadlines, UnderDeadlines};
pub use denials::Denials;
pub use guard::{Door, Guard, Guarded};
pub use replicas::{Replicas, ReplicasError};
pub use tls::{Tls, TlsError, TlsSettings};
pub use token::Token;
