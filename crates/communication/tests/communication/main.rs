//! Communication as its callers see it: over its own gRPC services, in process, on a real database file, with a registry
//! that is a fake behind the real contract.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod credentials;
mod messages;
mod presence;
mod registry;
mod replicas;
mod sessions;
mod tasks;
mod topics;
mod world;
