//! The sockets that clients connect to: the server's own, or those that a service manager has opened for it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use socket2::Socket;
use tracing::info;

use crate::config::{Config, ListenAddress, check_exposure};
use crate::shard::{Listener, ListenerKind};
use crate::sys::inherited::{self, Handed, Inherited};
use crate::sys::socket::{self, SocketFile, TcpOptions};

use super::StartError;

/// The service manager's name for the feed's socket; all other sockets are for clients.
const FEED_NAME: &str = "feed";
/// The service manager's name for the sockets of clients that speak TLS.
const TLS_NAME: &str = "tls";

/// The listeners of all shards.
pub(super) struct Listeners {
    /// The listeners of each shard.
    pub(super) by_shard: Vec<Vec<Listener>>,
    /// The TCP addresses, with the ports that the kernel has chosen.
    pub(super) addresses: Vec<SocketAddr>,
    /// The same of those that speak TLS.
    pub(super) tls_addresses: Vec<SocketAddr>,
    /// Socket files that are this process's to remove.
    pub(super) files: Vec<SocketFile>,
}

/// The sockets that the service manager has opened.
pub(super) struct FromManager {
    /// The feed's socket.
    pub(super) feed: Option<UnixListener>,
    /// The sockets for clients.
    pub(super) clients: Vec<Inherited>,
    /// What an earlier process has left, by name.
    pub(super) kept: Vec<(String, OwnedFd)>,
}

/// Takes the service manager's sockets, if there are any.
///
/// # Errors
/// If one of them is not of the kind that is needed.
pub(super) fn inherit() -> Result<FromManager, StartError> {
    let Handed { sockets, kept } = inherited::take().map_err(|error| StartError::Inherited(error.to_string()))?;
    let (feeds, clients): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|socket| socket.name == FEED_NAME);
    Ok(FromManager { feed: the_feed(feeds)?, clients, kept })
}

/// The one socket for the feed, if there is one.
fn the_feed(feeds: Vec<Inherited>) -> Result<Option<UnixListener>, StartError> {
    let mut feeds = feeds.into_iter();
    let Some(feed) = feeds.next() else { return Ok(None) };
    if feeds.next().is_some() || !feed.socket.local_addr()?.is_unix() {
        let message = "there must be one socket named feed, and it must be a Unix socket";
        return Err(StartError::Inherited(message.into()));
    }
    Ok(Some(UnixListener::from(OwnedFd::from(feed.socket))))
}

impl Listeners {
    /// The listeners of a predecessor, which its shards send to those of this process.
    pub(super) fn of_predecessor([addresses, tls_addresses]: [Vec<SocketAddr>; 2], shards: usize) -> Listeners {
        for (address, tls) in
            addresses.iter().map(|address| (address, false)).chain(tls_addresses.iter().map(|a| (a, true)))
        {
            info!(%address, tls, "listening");
        }
        let by_shard = (0..shards).map(|_| Vec::new()).collect();
        Listeners { by_shard, addresses, tls_addresses, files: Vec::new() }
    }

    /// Takes the service manager's sockets for clients; if there are none, opens the addresses of the configuration.
    ///
    /// `cores` are those that the shards are pinned to, if they are.
    ///
    /// # Errors
    /// If an address cannot be listened on, or must not be open to other hosts.
    pub(super) fn open(
        config: &Config,
        shards: usize,
        cores: Option<&[usize]>,
        inherited: Vec<Inherited>,
    ) -> Result<Listeners, StartError> {
        let mut listeners = Listeners {
            by_shard: (0..shards).map(|_| Vec::new()).collect(),
            addresses: Vec::new(),
            tls_addresses: Vec::new(),
            files: Vec::new(),
        };
        let options = TcpOptions {
            backlog: i32::try_from(config.limits.backlog).unwrap_or(i32::MAX),
            not_sent_low_water: u32::try_from(config.limits.not_sent).unwrap_or(u32::MAX),
            user_timeout: config.heartbeat.tcp_user_timeout,
        };
        if !inherited.is_empty() {
            listeners.take_clients(inherited, config, &options)?;
            return Ok(listeners);
        }
        // All ports are checked before the first is opened: addresses of this configuration may overlap each other.
        for address in config.server.addresses() {
            if let ListenAddress::Tcp(wanted) = address {
                check_port(*wanted)?;
            }
        }
        let plain = config.server.listen.iter().map(|address| (address, false));
        for (address, is_tls) in plain.chain(config.server.listen_tls.iter().map(|address| (address, true))) {
            match address {
                ListenAddress::Unix(path) => listeners.open_unix(path, config, is_tls)?,
                ListenAddress::Tcp(wanted) => {
                    listeners.open_tcp(*wanted, &options, cores.filter(|_| config.server.steer), is_tls)?;
                }
            }
        }
        Ok(listeners)
    }

    fn open_unix(&mut self, path: &Path, config: &Config, is_tls: bool) -> Result<(), StartError> {
        let listener = Arc::new(socket::listen_unix(path, config.server.unix_mode.0, None)?);
        self.files.push(SocketFile::at(path)?);
        let one = || Listener { kind: ListenerKind::Unix(listener.clone()), is_tls };
        self.by_shard.iter_mut().for_each(|listeners| listeners.push(one()));
        info!(address = %ListenAddress::Unix(path.to_path_buf()), tls = is_tls, "listening");
        Ok(())
    }

    fn open_tcp(
        &mut self,
        wanted: SocketAddr,
        options: &TcpOptions,
        steered: Option<&[usize]>,
        is_tls: bool,
    ) -> Result<(), StartError> {
        let mut actual = wanted;
        for (shard, listeners) in self.by_shard.iter_mut().enumerate() {
            let failed = |source| StartError::Listen { address: actual.to_string(), source };
            let listener = socket::listen_tcp(actual, options).map_err(failed)?;
            // Port 0 is any free port; all shards must have the same one.
            actual = listener.local_addr()?;
            if let Some(core) = steered.and_then(|cores| cores.get(shard)) {
                socket::steer_to(&listener, *core)?;
            }
            listeners.push(Listener { kind: ListenerKind::Tcp(listener), is_tls });
        }
        match is_tls {
            true => self.tls_addresses.push(actual),
            false => self.addresses.push(actual),
        }
        info!(address = %actual, tls = is_tls, "listening");
        Ok(())
    }

    /// Gives each shard a socket per address: one of its own if the manager has opened as many (with `ReusePort=`), else
    /// one that it shares with other shards.
    fn take_clients(&mut self, all: Vec<Inherited>, config: &Config, options: &TcpOptions) -> Result<(), StartError> {
        let mut by_address: Vec<(String, bool, Vec<Arc<Socket>>)> = Vec::new();
        for Inherited { socket, name } in all {
            let address = describe(&socket)?;
            let is_tls = name == TLS_NAME;
            if is_tls && config.tls.all().is_empty() {
                let message = format!("a socket named {TLS_NAME} needs a certificate: chain and key under [tls]");
                return Err(StartError::Inherited(message));
            }
            if let Some(tcp) = socket.local_addr()?.as_socket() {
                check_exposure(config, [&ListenAddress::Tcp(tcp)]).map_err(StartError::Open)?;
                socket::set_tcp_options(&socket, options)?;
                let addresses = if is_tls { &mut self.tls_addresses } else { &mut self.addresses };
                if !addresses.contains(&tcp) {
                    addresses.push(tcp);
                }
            }
            match by_address.iter_mut().find(|(known, ..)| *known == address) {
                Some((.., sockets)) => sockets.push(Arc::new(socket)),
                None => by_address.push((address, is_tls, vec![Arc::new(socket)])),
            }
        }
        for (address, is_tls, sockets) in by_address {
            info!(address, tls = is_tls, sockets = sockets.len(), "listening on what the service manager has opened");
            let shards = self.by_shard.len();
            // Every shard gets a socket, and every socket a shard: clients on a socket without a shard would wait for ever.
            for index in 0..shards.max(sockets.len()) {
                let socket = sockets[index % sockets.len()].clone();
                self.by_shard[index % shards].push(Listener { kind: ListenerKind::Inherited(socket), is_tls });
            }
        }
        Ok(())
    }
}

/// Refuses a port that another process listens on: the kernel would divide the clients between the two servers.
fn check_port(address: SocketAddr) -> Result<(), StartError> {
    // Port 0 stands for a free port.
    if address.port() == 0 {
        return Ok(());
    }
    socket::check_port(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse(address),
        _ => StartError::Listen { address: address.to_string(), source },
    })
}

/// The address of a socket, for the log.
fn describe(socket: &Socket) -> io::Result<String> {
    let address = socket.local_addr()?;
    Ok(match (address.as_socket(), address.as_pathname()) {
        (Some(tcp), _) => tcp.to_string(),
        (None, Some(path)) => format!("unix:{}", path.display()),
        (None, None) => "a Unix socket without a name".into(),
    })
}
