//! Real parts for tests: the built `troupe` binary as a process that can be killed, a client for its API, and waiting for
//! conditions instead of sleeping.
//!
//! Everything here fails loudly: a missing binary or a server that does not come up ends the test with what to do about it
//! and with the server's own words.

mod api;
mod command;
mod server;
mod wait;

pub use api::{Answer, Api};
pub use command::{Output, binary, troupe, workspace};
pub use server::Server;
pub use wait::{eventually, within};
