//! Everything that a starting server opens: the feed, the state files, and the listeners for admins and clients.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};

use tracing::info;

use crate::config::{AdminAddress, Config, ListenAddress};
use crate::sys::socket::{SocketFile, UnixListenError};

use super::StartError;
use super::feed_file;
use super::handover::Taking;
use super::listeners::{FromManager, Listeners};
use super::state::{self, State, StateLock};

/// The open sockets and files.
pub(super) struct Sockets {
    /// The publishers' socket; `None` if the hub gets it from a predecessor.
    pub(super) feed: Option<UnixListener>,
    /// The file of the publishers' socket, unless the service manager has opened that.
    pub(super) feed_file: Option<SocketFile>,
    /// The state files.
    pub(super) state: State,
    /// Keeps other servers from the state files.
    pub(super) lock: StateLock,
    /// The admin listener, unless it is switched off.
    pub(super) admin: Option<TcpListener>,
    /// The listeners of the shards.
    pub(super) clients: Listeners,
    /// Socket files that are this process's to remove.
    pub(super) files: Vec<SocketFile>,
}

impl Sockets {
    /// Opens the listeners of `shards` shards and everything else. Clients come last: if anything is in the way, a server
    /// that already runs has lost none of them.
    ///
    /// `cores` are those that the shards are pinned to, if they are.
    ///
    /// # Errors
    /// If something is in use, or cannot be opened.
    pub(super) fn open(
        config: &Config,
        shards: usize,
        cores: Option<&[usize]>,
        inherited: FromManager,
    ) -> Result<Sockets, StartError> {
        let mut lock = state::lock(config).map_err(|error| name_the_feed(error, config, inherited.feed.is_some()))?;
        let (feed, feed_file) = open_feed(config, inherited.feed)?;
        let state = state::open(&mut lock)?;
        let admin = open_admin(config)?;
        let mut clients = Listeners::open(config, shards, cores, inherited.clients)?;
        let files = std::mem::take(&mut clients.files);
        Ok(Sockets { feed: Some(feed), feed_file, state, lock, admin, clients, files })
    }

    /// Takes from a predecessor what belongs to no thread, and opens its state. The files of sockets are the predecessor's until
    /// [`files_of_predecessor`].
    ///
    /// # Errors
    /// If something cannot be opened.
    pub(super) fn of_predecessor(config: &Config, taking: &mut Taking, shards: usize) -> Result<Sockets, StartError> {
        let lock = match std::mem::take(&mut taking.locks) {
            // A predecessor that has ended has no lock any more.
            locks if locks.is_empty() => state::lock(config)?,
            locks => state::handed_over(config, locks.into_iter().map(File::from).collect()),
        };
        let state = state::open_of_predecessor(&lock)?;
        let admin = match taking.admin(config) {
            Some(listener) => {
                info!(address = %listener.local_addr()?, "admin listening");
                Some(listener)
            }
            None => open_admin(config)?,
        };
        let clients = Listeners::of_predecessor(taking.addresses(), shards);
        Ok(Sockets { feed: None, feed_file: None, state, lock, admin, clients, files: Vec::new() })
    }
}

/// The files of sockets that a predecessor has bound: that of the feed, if it was not the service manager's, and those of
/// clients' listeners. They are removed when the server stops.
pub(super) fn files_of_predecessor(config: &Config, has_feed_file: bool) -> (Option<SocketFile>, Vec<SocketFile>) {
    let feed = has_feed_file.then(|| SocketFile::at(&config.feed.path).ok()).flatten();
    let paths = config.server.addresses().filter_map(|address| match address {
        ListenAddress::Unix(path) => SocketFile::at(path).ok(),
        ListenAddress::Tcp(_) => None,
    });
    (feed, paths.collect())
}

/// Names the feed if the server that has locked the state serves the same feed, as it most often does.
fn name_the_feed(error: StartError, config: &Config, is_inherited: bool) -> StartError {
    match error {
        StartError::StateInUse(_) if !is_inherited && UnixStream::connect(&config.feed.path).is_ok() => {
            UnixListenError::InUse(config.feed.path.display().to_string()).into()
        }
        error => error,
    }
}

/// Opens the feed, unless the service manager has. A server on the same feed is noticed here, before anything is touched
/// that it has open.
fn open_feed(
    config: &Config,
    inherited: Option<UnixListener>,
) -> Result<(UnixListener, Option<SocketFile>), StartError> {
    if let Some(listener) = inherited {
        return Ok((listener, None));
    }
    let (listener, file) = feed_file::bind(&config.feed)?;
    Ok((listener, Some(file)))
}

/// Opens the admin listener, unless it is switched off.
fn open_admin(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let AdminAddress::At(address) = config.admin.listen else { return Ok(None) };
    let failed = |source| StartError::Listen { address: format!("{address} (admin)"), source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    info!(address = %listener.local_addr()?, "admin listening");
    Ok(Some(listener))
}
