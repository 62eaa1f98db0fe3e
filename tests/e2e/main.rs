//! End-to-end tests: the real binary with its real ring on free ports, used by clients that share no code with it.
//!
//! A test waits for the expected state, for a bounded time. No test relies on an operation taking a certain time.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod attacks;
mod backend;
mod bounds;
mod catching_up;
mod clients;
mod command_line;
mod drain;
mod faults;
mod feed;
mod handover;
mod http2;
mod http_cases;
mod limits;
mod logging;
mod memory;
mod order;
mod polls;
mod proxies;
mod proxy;
mod refusals;
mod resume;
mod server;
mod service;
mod slow;
mod soak;
mod state;
mod streams;
mod tls;
mod tls_clients;
mod tokens;
mod tuning;
mod watching;
mod websocket_cases;
mod websockets;
