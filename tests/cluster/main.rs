//! Several nodes on one log: real servers on a real Redis or NATS, each test with a broker and nodes of its own.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::expect_used)]

mod broker;
#[path = "../e2e/clients.rs"]
mod clients;
mod delivery;
mod failover;
mod failures;
mod nats;
mod nats_server;
mod network;
mod operators;
mod people;
mod proxy;
#[path = "../e2e/server.rs"]
mod server;
mod starting;
