//! The feed from a publisher's side.

pub mod client;
