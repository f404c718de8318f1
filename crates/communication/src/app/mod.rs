//! What communication does, without knowing how it is called or stored.
//!
//! Tasks, updates and messages keep the contract's types here: they pass through unread, and their payloads are shared
//! buffers from one stream's frame to the next.

pub(crate) mod agents;
pub(crate) mod hub;
pub(crate) mod letters;
pub(crate) mod outgoing;
pub(crate) mod record;
