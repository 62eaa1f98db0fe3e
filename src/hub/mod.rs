//! The hub: the single writer of order, ids and history.

pub mod ids;
