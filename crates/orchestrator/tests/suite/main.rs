//! An orchestrator on a real database, between a fake communication and a fake registry.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod calls;
mod durability;
mod fakes;
mod steps;
mod world;
