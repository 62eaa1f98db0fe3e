//! The nodes of a cluster, as the hub knows them, for `stats` and the dashboard.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// A node that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeSeen {
    /// The name by which operators know it; empty until it has said so.
    pub name: Box<str>,
    /// Its version.
    pub version: Box<str>,
    /// The newest entry that it had applied when it said so last.
    pub position: String,
    /// The time since its newest entry, by the log's clock, in milliseconds.
    pub silent_ms: u64,
}

/// The nodes, which the hub sets once a second. A process with a local order has none.
#[derive(Debug, Default)]
pub struct NodesSeen(Mutex<Vec<NodeSeen>>);

impl NodesSeen {
    /// Sets the nodes, which are shown in the order of their names.
    pub fn set(&self, mut nodes: Vec<NodeSeen>) {
        nodes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    /// The nodes in the order of their names.
    pub fn get(&self) -> Vec<NodeSeen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
