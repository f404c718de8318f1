#![doc = include_str!("../README.md")]

mod context;
mod grpc;
mod scope;

pub use context::{adopt, adopt_headers, link, traceparent, traceparent_of};
pub use grpc::{ClientLayer, ServerLayer, TracedClient, TracedServer};
pub use scope::{CORRELATION_ID, Ids, Scope, ids};
