//! Shards: one thread per core, each with its own listeners, connections, logs, heartbeats and ring.
//!
//! `driver` turns readiness into bits and has the shard turn; `turn` is the only place that changes its state. The turn
//! works on two tables, `slots` (the connections) and `lanes` (the channels' logs and their readers), through parts that
//! own the rest: `wire` (ring, reads, sends), `walk`, `resume`, `access`, `accept`, `upstream`, `deadlines`, `drain`,
//! `survey`. A part knows neither another part nor the shard: what concerns others it returns as an effect (`context`).

mod accept;
mod access;
mod admission;
mod batch;
mod closing;
mod connection;
mod context;
mod deadlines;
mod drain;
mod driver;
#[cfg(feature = "faults")]
mod faults;
mod identities;
mod io;
mod lag;
mod lanes;
mod merge;
mod next;
mod polls;
mod rates;
mod resume;
mod settings;
mod slots;
mod subscriptions;
mod survey;
mod turn;
mod upstream;
mod waiting;
mod walk;
mod wire;

use std::sync::Arc;

use crate::config::Config;
use crate::figures::ShardFigures;
use crate::link::{FromHub, ToHub};
use crate::logic::auth::{Keyring, Revoked};

pub use crate::logic::reason::Reason;
pub use admission::Admission;
pub use driver::run;

/// What a shard listens on.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port that it shares with the other shards, each with a queue of its own.
    Tcp(std::net::TcpListener),
    /// A Unix socket whose one queue all shards take from.
    Unix(Arc<std::os::unix::net::UnixListener>),
    /// A socket that the service manager has opened and keeps: connections wait there while the server is away.
    Inherited(Arc<socket2::Socket>),
    /// A Unix socket for this process alone, whose connections may see the server's own channel.
    Own(std::os::unix::net::UnixListener),
}

/// Everything a shard is made of.
pub struct ShardParts {
    /// Its number, from 0 on.
    pub index: u16,
    /// The core to run on, if it is to be pinned.
    pub core: Option<usize>,
    /// The configuration.
    pub config: Arc<Config>,
    /// What it listens on.
    pub listeners: Vec<Listener>,
    /// Its end of the queue from the hub.
    pub from_hub: FromHub,
    /// Its end of the queue to the hub.
    pub to_hub: ToHub,
    /// What it shares with the other shards.
    pub admission: Arc<Admission>,
    /// Where it publishes its figures.
    pub figures: Arc<ShardFigures>,
    /// The keys by which tokens are verified; without any, none are asked for.
    pub keyring: Option<Arc<Keyring>>,
    /// The tokens that were revoked before the start.
    pub revoked: Revoked,
    /// The page that is shown at `/`, if one is.
    pub page: Option<&'static str>,
    /// Told that the shard serves, or why it cannot.
    pub started: crossbeam_channel::Sender<Result<(), String>>,
}

#[cfg(test)]
mod tests;
