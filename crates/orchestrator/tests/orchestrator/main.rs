//! The orchestrator as its callers see it: over its own gRPC services, in process, on a real database file, between a
//! communication service and a registry that the tests play.

#![expect(clippy::unwrap_used, reason = "a test fails where the world it plays breaks")]

mod communication;
mod continuing;
mod control;
mod durability;
mod errands;
mod exchange;
mod locks;
mod mail;
mod reading;
mod registry;
mod strangers;
mod tasks;
mod workflows;
mod world;
