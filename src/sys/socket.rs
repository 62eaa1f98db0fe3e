//! Sockets: listeners with everything their connections inherit, accepting, receiving, sending.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::accounts;

/// Options that accepted connections inherit from their listener, so that setting them costs no call per connection.
#[derive(Clone, Copy, Debug)]
pub struct TcpOptions {
    /// The most connections that may wait to be accepted (the kernel caps it at `net.core.somaxconn`).
    pub backlog: i32,
    /// Unsent bytes that the kernel takes per connection before it reports that there is no room.
    pub not_sent_low_water: u32,
    /// The time for which sent bytes may stay unacknowledged before the kernel breaks the connection.
    pub user_timeout: Duration,
}

/// Opens a nonblocking TCP listener that shares its port with others of this process (`SO_REUSEPORT`).
pub fn listen_tcp(address: SocketAddr, options: &TcpOptions) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    set_tcp_options(&socket, options)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// The time for which a port may be in use before [`check_port`] gives up: after a process was killed whose ring polled its
/// listeners, the kernel may take a moment to close them.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
/// The interval at which [`check_port`] tries again.
const PORT_LOOK_EVERY: Duration = Duration::from_millis(20);

/// Checks that no process listens on a port, waiting for a moment if one does. [`listen_tcp`] would share the port with
/// another process of the same user, and the kernel would divide the clients between them.
///
/// # Errors
/// `AddrInUse` if a process listens there, or the kernel's other reason why the address cannot be used.
pub fn check_port(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        // With the address reused but the port not shared, only a listener is in the way (socket(7)), and no connections
        // that wait for their end.
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        match socket.bind(&SockAddr::from(address)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(PORT_LOOK_EVERY);
            }
            result => return result,
        }
    }
}

/// Prefers a listener, among those on the same port, for connections whose packets arrive on `core` (`SO_INCOMING_CPU`,
/// socket(7)).
pub fn steer_to(listener: &std::net::TcpListener, core: usize) -> io::Result<()> {
    socket2::SockRef::from(listener).set_cpu_affinity(core)
}

/// The time, in seconds, for which the kernel keeps a silent connection from [`accept`]; one is the least.
static SILENCE: libc::c_int = 1;

/// Sets the options that connections inherit, and that a connection is accepted when the client's first bytes are there or
/// it has been silent for a second (`TCP_DEFER_ACCEPT`, tcp(7)). The backlog is set by listening.
pub fn set_tcp_options(socket: &Socket, options: &TcpOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    socket.set_tcp_notsent_lowat(options.not_sent_low_water)?;
    defer_accept(socket)
}

fn defer_accept(socket: &Socket) -> io::Result<()> {
    // SAFETY: a pointer to a constant int, with its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const SILENCE).cast(),
            size_of_val(&SILENCE) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Why a Unix socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum UnixListenError {
    /// Another process is listening there.
    #[error("{0} is in use: another process is listening on it")]
    InUse(String),
    /// There is a file at the path that is no socket.
    #[error("{0} exists and is no socket; move it away or choose another path")]
    NotASocket(String),
    /// There is no group of the name that was asked for.
    #[error("cannot give {path} to the group {group:?}: there is no such group on this host")]
    NoGroup {
        /// The path asked for.
        path: String,
        /// The name of the group.
        group: String,
    },
    /// A system call has failed.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The path asked for.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Opens a nonblocking Unix stream listener at `path`, with `mode` and, if given, `group` (a name or number).
///
/// A socket file whose listener is gone is replaced.
///
/// # Errors
/// If a process listens there, the file is no socket, there is no such group, or a system call fails.
pub fn listen_unix(path: &Path, mode: u32, group: Option<&str>) -> Result<UnixListener, UnixListenError> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let name = path.display().to_string();
    let failed = |source: io::Error| UnixListenError::Io { path: name.clone(), source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(UnixListenError::NotASocket(name)),
        Ok(_) if is_stale(path) => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(UnixListenError::InUse(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder).map_err(failed)?;
            }
        }
        Err(error) => return Err(failed(error)),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
    if let Some(group) = group {
        let no_group = || UnixListenError::NoGroup { path: name.clone(), group: group.into() };
        let gid = accounts::group_id(group).map_err(failed)?.ok_or_else(no_group)?;
        // A sandbox may forbid a change of owner even if it changes nothing.
        if std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(path).map_err(failed)?) != gid {
            std::os::unix::fs::chown(path, None, Some(gid)).map_err(failed)?;
        }
    }
    // Before `listen`: no client can connect while the file still has the mode that the umask has left.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    socket.listen(1024).map_err(failed)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Whether the listener of a Unix socket is gone. After a process was killed whose ring polled the socket, the kernel may
/// take a moment to close it: so a socket whose process is gone counts as stale too.
fn is_stale(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(stream) => peer_process(stream.as_fd()).is_some_and(is_gone),
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}

/// Whether a process has ended. The kernel gives the number 0 for a process in another PID namespace (a container beside
/// this one): its state is unknown here, and it has just taken a connection, so it counts as running.
fn is_gone(process: i32) -> bool {
    // SAFETY: no pointers; signal 0 is never sent, the kernel only checks whether it could be (kill(2)).
    process > 0
        && unsafe { libc::kill(process, 0) } < 0
        && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

/// The file of a Unix socket that this process has bound. Dropping this removes the file, unless another process has put
/// a file of its own in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// The file's device and inode.
    file: (u64, u64),
}

impl SocketFile {
    /// Notes the file at `path`, where a socket was just bound.
    ///
    /// # Errors
    /// If there is no file.
    pub fn at(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.into(), file: device_and_inode(path)? })
    }
}

impl SocketFile {
    /// Whether the file is still there, and no other one in its place.
    pub fn is_there(&self) -> bool {
        device_and_inode(&self.path).is_ok_and(|file| file == self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            // A file that cannot be removed is recognised as stale at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn device_and_inode(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The address of the peer of a connection; `None` for a Unix socket, or if the connection has ended.
pub fn peer_address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    socket2::SockRef::from(&fd).peer_addr().ok()?.as_socket()
}

/// The process at the other end of a Unix socket, as it was when it connected (unix(7), SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process's id; 0 if it is in another PID namespace.
    pub pid: i32,
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

/// Asks the kernel about the process at the other end of a Unix socket; for a listener's, about the one that called
/// `listen`.
///
/// # Errors
/// If it is no Unix socket.
pub fn peer(fd: BorrowedFd<'_>) -> io::Result<Peer> {
    // SAFETY: a `ucred` is what this option is, and plain numbers.
    let credentials = unsafe { option::<libc::ucred>(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED)? };
    Ok(Peer { pid: credentials.pid, uid: credentials.uid, gid: credentials.gid })
}

/// The id of the process at the other end of a Unix socket; for a listener's, of the one that called `listen`.
pub fn peer_process(fd: BorrowedFd<'_>) -> Option<i32> {
    peer(fd).ok().map(|peer| peer.pid)
}

/// A socket's option (getsockopt(2)). The kernel checks the descriptor.
///
/// # Safety
/// `T` must be what the kernel writes for this option, and nothing but numbers: all zero must be one of its values.
pub(super) unsafe fn option<T>(fd: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    // SAFETY: all zero is a `T`, as the caller promises.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: both pointers are to this stack frame, and the length says how much of it there is.
    let result = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Accepts one waiting connection, nonblocking and closed on exec; `None` if no connection waits.
///
/// The address is `None` for Unix sockets.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    // SAFETY: `try_init` hands a zeroed storage of the length it states; accept4 fills at most that much, and
    // the descriptor it returns is checked before it is owned.
    let accepted = unsafe {
        SockAddr::try_init(|storage, length| {
            let fd =
                libc::accept4(listener.as_raw_fd(), storage.cast(), length, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
        })
    };
    match accepted {
        Ok((fd, address)) => Ok(Some((fd, address.as_socket()))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Receives into `buffer` without blocking; 0 means that the peer has closed its side.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length are of one live, writable slice.
    let result = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// Sends as much of `bytes` as the kernel takes without blocking.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length are of one live slice.
    let result = unsafe {
        libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// Ends the sending direction: the peer reads everything sent so far and then the end.
pub fn shutdown_write(fd: BorrowedFd<'_>) {
    // SAFETY: no pointers. An error means that the connection is gone already, which is as good.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
}

/// Ends both directions, which the polls of the connection report. The connection must still be closed.
pub fn shutdown(fd: BorrowedFd<'_>) {
    // SAFETY: no pointers. An error means that the connection is gone already, which its polls report all the same.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Stops a listener and all copies of its descriptor: further clients are refused.
pub fn stop_listening(listener: BorrowedFd<'_>) {
    shutdown(listener);
}

/// The kernel's state of a TCP connection (tcp(7), TCP_INFO).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TcpState {
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u32,
    /// The mean deviation of the round-trip time, in microseconds.
    pub rtt_deviation_us: u32,
    /// The congestion window, in segments.
    pub congestion_window: u32,
    /// The size of a segment, in bytes.
    pub segment_bytes: u32,
    /// Segments sent and not acknowledged.
    pub unacknowledged: u32,
    /// Segments that the kernel takes for lost.
    pub lost: u32,
    /// Segments sent again since the connection began.
    pub retransmitted: u32,
    /// Consecutive time-outs of the oldest unacknowledged segment.
    pub timeouts: u8,
    /// Bytes in the kernel that the peer has not acknowledged, sent or not.
    pub queued_bytes: u32,
}

/// Asks the kernel for the state of a TCP connection.
///
/// # Errors
/// If the descriptor is no TCP connection.
pub fn tcp_state(fd: BorrowedFd<'_>) -> io::Result<TcpState> {
    // SAFETY: a `tcp_info` is what this option is, and plain numbers.
    let info = unsafe { option::<libc::tcp_info>(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO)? };
    let mut queued: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (tcp(7)) writes one `c_int`, which lives through the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpState {
        rtt_us: info.tcpi_rtt,
        rtt_deviation_us: info.tcpi_rttvar,
        congestion_window: info.tcpi_snd_cwnd,
        segment_bytes: info.tcpi_snd_mss,
        unacknowledged: info.tcpi_unacked,
        lost: info.tcpi_lost,
        retransmitted: info.tcpi_total_retrans,
        timeouts: info.tcpi_retransmits,
        queued_bytes: u32::try_from(queued).unwrap_or(0),
    })
}

/// Whether accepting failed because descriptors or memory have run out.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const OPTIONS: TcpOptions =
        TcpOptions { backlog: 16, not_sent_low_water: 65536, user_timeout: Duration::from_secs(30) };

    #[test]
    fn two_listeners_share_a_port_and_connections_inherit_options() {
        let first = listen_tcp("127.0.0.1:0".parse().unwrap(), &OPTIONS).unwrap();
        let address = first.local_addr().unwrap();
        let second = listen_tcp(address, &OPTIONS).unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        assert!(accept(first.as_fd()).unwrap().is_none() && accept(second.as_fd()).unwrap().is_none(), "it is silent");
        client.write_all(b"hi").unwrap();
        let (fd, peer) = loop {
            if let Some(accepted) = accept(first.as_fd()).unwrap().or(accept(second.as_fd()).unwrap()) {
                break accepted;
            }
        };
        assert_eq!(receive(fd.as_fd(), &mut [0; 8]).unwrap(), 2, "the bytes are there with the connection");
        assert_eq!(peer, client.local_addr().ok());
        assert_eq!(peer_address(fd.as_fd()), peer);
        assert!(socket2::SockRef::from(&fd).tcp_nodelay().unwrap());
        assert_eq!(socket2::SockRef::from(&fd).tcp_user_timeout().unwrap(), Some(OPTIONS.user_timeout));
        assert_eq!(receive(fd.as_fd(), &mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(send(fd.as_fd(), b"hello").unwrap(), 5);
        shutdown_write(fd.as_fd());
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        client.write_all(b"x").unwrap();
    }

    #[test]
    fn a_port_with_a_listener_is_noticed() {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &OPTIONS).unwrap();
        let address = listener.local_addr().unwrap();
        let taken = |address: SocketAddr| check_port(address).unwrap_err().kind() == io::ErrorKind::AddrInUse;
        assert!(taken(address));
        assert!(taken(SocketAddr::new(core::net::Ipv4Addr::UNSPECIFIED.into(), address.port())), "on any address, too");
        // Neither a connection that the listener leaves behind is in the way, nor a listener that stops in time.
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(b"hi").unwrap();
        let accepted = loop {
            if let Some((fd, _)) = accept(listener.as_fd()).unwrap() {
                break fd;
            }
        };
        let stopping = std::thread::spawn(move || drop(listener));
        check_port(address).unwrap();
        stopping.join().unwrap();
        drop(accepted);
        check_port(address).unwrap();
    }

    #[test]
    fn a_client_that_says_nothing_is_accepted_after_a_while() {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &OPTIONS).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives on this stack frame, and its count.
        assert_eq!(unsafe { libc::poll(&mut poll, 1, 20_000) }, 1);
        let (fd, _) = accept(listener.as_fd()).unwrap().unwrap();
        assert_eq!(receive(fd.as_fd(), &mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_connection_is_described() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let state = tcp_state(server.as_fd()).unwrap();
        assert!(state.congestion_window > 0 && state.segment_bytes > 0, "{state:?}");
        assert_eq!((state.lost, state.queued_bytes), (0, 0));
        drop(client);
        let (pipe, _) = UnixStream::pair().unwrap();
        assert!(tcp_state(pipe.as_fd()).is_err());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/feed.sock");
        let first = listen_unix(&path, 0o600, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(listen_unix(&path, 0o600, None), Err(UnixListenError::InUse(_))));
        drop(first);
        let second = listen_unix(&path, 0o660, Some("0")).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let (fd, address) = accept(second.as_fd()).unwrap().unwrap();
        assert_eq!((address, peer_address(fd.as_fd())), (None, None));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(listen_unix(&file, 0o600, None), Err(UnixListenError::NotASocket(_))));
        let no_group = listen_unix(&folder.path().join("x"), 0o600, Some("no-such-group"));
        assert!(matches!(no_group, Err(UnixListenError::NoGroup { .. })));
    }

    #[test]
    fn a_process_of_another_namespace_is_not_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = child.id() as i32;
        assert!(!is_gone(ended), "it has not been waited for");
        child.wait().unwrap();
        assert!(is_gone(ended));
        assert!(!is_gone(0) && !is_gone(-1), "of another namespace");
        assert!(!is_gone(std::process::id() as i32) && !is_gone(1));
    }

    #[test]
    fn a_socket_file_is_removed_only_by_the_process_that_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed.sock");
        let _first = listen_unix(&path, 0o600, None).unwrap();
        drop(SocketFile::at(&path).unwrap());
        assert!(!path.exists());
        let _second = listen_unix(&path, 0o600, None).unwrap();
        let file = SocketFile::at(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _third = listen_unix(&path, 0o600, None).unwrap();
        drop(file);
        assert!(path.exists(), "another one has taken its place");
        assert!(SocketFile::at(&folder.path().join("nothing")).is_err());
    }
}
