//! What the server counts: the counters of shards and hub, distributions, and the state of the server as a whole.
//!
//! A figure has one name everywhere. The Prometheus metric of a counter is `ringcast_` and the counter's name, or
//! `ringcast_hub_` for the hub's; the unit that ends the name becomes `_seconds` for times (`_us`, `_ms`), a total ends
//! in `_total`, and counters of one family are one metric with a label. In `stats` a figure has the counter's own name.

mod hub;
mod longest;
mod measures;
mod nodes;
mod server;
mod shard;
mod state;
mod stats;
mod table;

pub use hub::{HubFigures, HubTable};
pub use longest::Longest;
pub use measures::{BUCKETS, Measure, Measures, SharedMeasures};
pub use nodes::{NodeSeen, NodesSeen};
pub use server::{ServerFigures, ServerTable};
pub use shard::{Counters, Limit, ShardFigures, ShardTable};
pub use state::ServerState;
pub use stats::Stats;
pub use table::{Family, Figure, Kind, Label, Unit};
