//! The pure part: events, ids, logs, cursors, history, the timer wheel, sessions and the formats that protocols are
//! made of.
//!
//! Nothing here knows a socket, a thread, a clock or a source of randomness: time and random numbers are
//! arguments, so every rule can be tested without a server.

pub mod auth;
pub mod cells;
pub mod code;
pub mod ends;
pub mod entry;
pub mod event;
pub mod h2;
pub mod handover;
pub mod history;
pub mod id;
pub mod idempotency;
pub mod json;
pub mod line_budget;
pub mod log;
pub mod names;
pub mod protocol;
pub mod rate;
pub mod reason;
pub mod refusal;
pub mod retry;
pub mod session;
pub mod sparse;
pub mod tls;
pub mod wheel;
