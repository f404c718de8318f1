//! Servers and clients over real connections: who is let in, which replica is called, and how often.

mod door;
mod drain;
mod rig;
mod safety;
mod tls;
