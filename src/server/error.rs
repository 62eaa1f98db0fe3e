//! Why the server does not start.

use std::io;
use std::net::SocketAddr;

use crate::config::ConfigError;
use crate::hub::ids::MarkError;
use crate::hub::revocations::RevocationsError;
use crate::sys::socket::UnixListenError;

use super::{certificates, keys};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Another process listens on the port.
    #[error("{0} is in use: another process is listening on it; stop that server, or choose another address")]
    PortInUse(SocketAddr),
    /// A socket that the service manager has opened is not of the kind that is needed.
    #[error("cannot use the sockets that the service manager has opened: {0}")]
    Inherited(String),
    /// All clients could subscribe from other hosts, and the configuration does not say that they may.
    #[error(transparent)]
    Open(ConfigError),
    /// A Unix socket cannot be listened on.
    #[error(transparent)]
    Unix(#[from] UnixListenError),
    /// The state directory cannot be used.
    #[error("cannot use the state directory {path}: {source}")]
    State {
        /// The path of the directory.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Another server has locked the state files.
    #[error("another server uses the same state: it has locked {0}; stop it, or give this one a state_dir of its own")]
    StateInUse(String),
    /// The mark that keeps ids from going backwards cannot be used.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The list of revoked tokens cannot be read or written.
    #[error(transparent)]
    Revocations(#[from] RevocationsError),
    /// The cluster's log cannot be used.
    #[error("cannot join the cluster ([backplane]): {0}")]
    Backplane(String),
    /// A shard or the hub cannot start.
    #[error("{0}")]
    Thread(String),
    /// The keys for tokens cannot be used.
    #[error(transparent)]
    Keys(#[from] keys::LoadError),
    /// The TLS certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] certificates::CertificateError),
    /// A user in `allow_users` or `readers` does not exist.
    #[error("[feed] {0} names {1:?}, but there is no such user on this host")]
    NoUser(&'static str, String),
    /// The running server could not be taken over, and goes on.
    #[error("cannot take over: {0}")]
    TakeOver(String),
    /// The level of the log is none, and no directives either.
    #[error("[log] level {0}")]
    LogLevel(String),
    /// The limit of descriptors leaves none for clients.
    #[error(
        "the limit of open files is {limit}, and a server of {shards} shards needs at least {least} to serve anybody; raise \
         LimitNOFILE in the unit (ulimit -n), or lower [server] shards"
    )]
    Descriptors {
        /// The limit.
        limit: u64,
        /// The least limit that the server starts with.
        least: u64,
        /// The number of shards.
        shards: usize,
    },
    /// Another system call has failed.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}
