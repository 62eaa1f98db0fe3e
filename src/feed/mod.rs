//! The publishers' side of the feed.

pub mod client;
