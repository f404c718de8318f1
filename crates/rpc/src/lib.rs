#![doc = include_str!("../README.md")]

mod balance;
mod client;
mod guard;
mod token;

pub use client::{ConnectError, Replicas, connect, connect_each};
pub use guard::{Guard, Guarded};
pub use token::Token;
