//! Shards: one thread per core, each with listeners, connections, logs, heartbeats and a ring of its own.
//!
//! `driver` turns readiness into bits and has the shard turn; only `turn` changes the shard's state. The turn works
//! on two
//! tables, `slots` (the connections) and `lanes` (the channels' logs and their readers), through parts that own the
//! rest:
//! `wire` (ring, reads, sends), `walk`, `resume`, `access`, `accept`, `upstream`, `deadlines`, `drain`, `survey`. A
//! part
//! knows neither another part nor the shard: a change that concerns others is returned as an effect (`context`).

mod accept;
mod access;
mod account;
mod admission;
mod batch;
mod closing;
mod connection;
mod context;
mod deadlines;
mod drain;
mod driver;
#[cfg(debug_assertions)]
mod faults;
mod frames;
mod h2;
mod identities;
mod io;
mod lag;
mod lanes;
mod limits;
mod memory;
mod merge;
mod next;
mod opening;
mod polls;
mod rates;
mod records;
mod refusals;
mod resume;
mod settings;
mod slots;
mod subscriptions;
mod survey;
mod tls;
mod turn;
mod unused;
mod upstream;
mod waiting;
mod walk;
mod wire;

use std::sync::{Arc, RwLock};

use crate::config::Config;
use crate::figures::ShardFigures;
use crate::link::handover::{Adopting, Mailbox};
use crate::link::{FromHub, ToHub};
use crate::logic::auth::{Keyring, Revoked};
use crate::logic::tls::TlsSettings;

pub use crate::logic::reason::Reason;
pub use account::lag_memory;
pub use admission::Admission;
pub use driver::run;

/// A listener of a shard.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub kind: ListenerKind,
    /// The clients speak TLS.
    pub is_tls: bool,
}

/// The socket of a listener.
#[derive(Debug)]
pub enum ListenerKind {
    /// A TCP port that all shards share; each has a queue of its own.
    Tcp(std::net::TcpListener),
    /// A Unix socket whose one queue all shards take connections from.
    Unix(Arc<std::os::unix::net::UnixListener>),
    /// A socket that the service manager has opened and keeps: connections wait there while the server is away.
    Inherited(Arc<socket2::Socket>),
}

/// The pages of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// The page at `/`.
    pub page: &'static str,
    /// The client library at `/ringcast.js`.
    pub library: &'static str,
}

/// Everything that a shard is made of.
pub struct ShardParts {
    /// The shard's number, from 0 on.
    pub index: u16,
    /// The core that the shard's thread is pinned to, if it is pinned.
    pub core: Option<usize>,
    /// The configuration.
    pub config: Arc<Config>,
    /// The bytes of memory that slow clients may make the shard hold: its part of `[limits] lag_memory`.
    pub lag_memory: u64,
    /// The shard's listeners.
    pub listeners: Vec<Listener>,
    /// The shard's end of the queue from the hub.
    pub from_hub: FromHub,
    /// The shard's end of the queue to the hub.
    pub to_hub: ToHub,
    /// The counters of connections that all shards share.
    pub admission: Arc<Admission>,
    /// The figures that the shard publishes for other threads.
    pub figures: Arc<ShardFigures>,
    /// The keys by which tokens are verified; `None` if clients need no token.
    pub keyring: Option<Arc<Keyring>>,
    /// The tokens that were revoked before the start.
    pub revoked: Revoked,
    /// The pages that are served, if there are some.
    pub pages: Option<Pages>,
    /// What handshakes are made with, if there are listeners for TLS. Another thread replaces it when the certificates have
    /// changed.
    pub tls: Option<Arc<RwLock<TlsSettings>>>,
    /// The socket through which the shard gets the one for a hand-over's records.
    pub mailbox: Option<Mailbox>,
    /// The shard's part if it takes a predecessor's over.
    pub adopting: Option<Adopting>,
    /// The channel on which the shard reports that it serves, or the error because of which it cannot.
    pub started: crossbeam_channel::Sender<Result<(), String>>,
}

#[cfg(test)]
mod tests;
