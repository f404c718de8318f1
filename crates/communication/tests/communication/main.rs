//! Communication as agents, orchestrators and senders see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails where it does not hold")]

mod messages;
mod rig;
mod tasks;
