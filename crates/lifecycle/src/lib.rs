//! How long-lived work starts and stops: a [`Shutdown`] token that everybody watches, and [`Tasks`] that own what is spawned;
//! and how it does meanwhile: [`Checks`] ask the things that a service needs. Where it may end in the middle is named:
//! [`crash_point`].
//!
//! A first signal drains: no new work, what runs may finish. A second signal, or the grace period's end, cuts. A task that
//! ends by itself with an error, or panics, stops the whole process with a failing exit code: a service that lost one of its
//! parts must not look alive. There are no globals; two services live in one test side by side.

mod crash;
mod health;
mod shutdown;
mod tasks;

pub use crash::crash_point;
pub use health::{Checked, Checks, Complaint, HealthStatus, overall};
pub use shutdown::{Shutdown, on_signals};
pub use tasks::{OnExit, TaskFailed, Tasks};
