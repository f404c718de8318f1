//! The gateway through its router: a real database, fakes behind.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod access;
mod answers;
mod audit;
mod backend;
mod bad_input;
mod conditional;
mod connections;
mod document;
mod events;
mod guards;
mod idempotency;
mod lasting;
mod limits;
mod lists;
mod reach;
mod resources;
mod rig;
mod tls;
mod tokens;
mod topics;
mod websockets;
