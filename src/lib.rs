//! ringcast: an io_uring, thread-per-core connection server.
//!
//! It holds many SSE, WebSocket and long-poll clients on one Linux host and fans out to them the
//! events that a backend publishes on a local Unix socket. ARCHITECTURE.md is the map; in short:
//!
//! - [`cli`] is the command line; `bench` (the Cargo feature `bench`) is the load harness.
//! - [`server`] starts, drains and stops the threads.
//! - [`control`] is the admin listener: health, metrics, API, dashboard (one thread).
//! - [`shard`] owns connections (one thread per core); [`hub`] owns order, ids and history (one thread).
//! - [`backplane`] speaks with a broker whose log gives the order to several nodes (one thread).
//! - [`figures`] has the server's counters, and the state that its threads share.
//! - [`link`] has the queues between hub and shards.
//! - [`feed`] is a client of the publishers' Unix socket.
//! - [`config`] reads what an operator may set.
//! - [`logic`] is pure: bytes in, bytes out; no sockets, no threads, no clock, no randomness.
//! - [`sys`] is the only place with `unsafe` and with direct system calls; it holds no policy.
//!
//! A module imports only from those below it in this list; `logic` and `sys` know neither each other
//! nor anything above. `tests/tidy.rs` checks it.
#![deny(unsafe_code)]

pub mod backplane;
#[cfg(feature = "bench")]
pub mod bench;
pub mod cli;
pub mod config;
pub mod control;
pub mod feed;
pub mod figures;
pub mod hub;
pub mod link;
pub mod logic;
pub mod server;
pub mod shard;
#[allow(unsafe_code)]
pub mod sys;
