//! Servers and clients over real connections: who is let in, which replica is called, and how often.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod door;
mod drain;
mod rig;
mod safety;
mod tls;
