//! The pure part: events, ids, logs, cursors, history, the timer wheel and the protocols.
//!
//! Nothing here knows a socket, a thread, a clock or a source of randomness: time and seeds are
//! arguments, so every rule can be tested without a server.

pub mod auth;
pub mod cells;
pub mod event;
pub mod history;
pub mod id;
pub mod idempotency;
pub mod json;
pub mod log;
pub mod names;
pub mod protocol;
pub mod reason;
pub mod sparse;
pub mod wheel;
