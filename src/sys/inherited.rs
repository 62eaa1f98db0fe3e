//! Sockets that a service manager has opened for this process (sd_listen_fds(3)).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::Socket;

use super::socket::option;

/// A listening socket that came with the process.
#[derive(Debug)]
pub struct Inherited {
    /// The name that the service manager gives it (`FileDescriptorName=`); empty if it gives none.
    pub name: String,
    /// The socket: nonblocking, closed on exec.
    pub socket: Socket,
}

/// What came with the process.
#[derive(Debug, Default)]
pub struct Handed {
    /// The listening sockets.
    pub sockets: Vec<Inherited>,
    /// What an earlier process of this program has had the service manager keep, by its name without [`KEPT`].
    pub kept: Vec<(String, OwnedFd)>,
}

/// The beginning of the names of what this program has the service manager keep.
pub const KEPT: &str = "ringcast.";

/// Takes the descriptors that were handed over. A second call gets none, nor does a process that none were meant for.
///
/// # Errors
/// If the variables make no sense, or a descriptor is no listening stream socket and no kept one.
pub fn take() -> io::Result<Handed> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Handed::default());
    }
    // The crate's function with names refuses a process that has inherited the names but no descriptors.
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut handed = Handed::default();
    for fd in sd_notify::listen_fds()? {
        let name = names.next().unwrap_or_default();
        let kept = name.strip_prefix(KEPT);
        match kept {
            Some(_) => check_open(fd)?,
            None => check(fd)?,
        }
        // SAFETY: the service manager has opened this descriptor for this process alone; the check has seen that it is open;
        // and nothing else in this process takes it, because this happens once.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        if let Some(name) = kept {
            handed.kept.push((name.to_owned(), owned));
            continue;
        }
        let socket = Socket::from(owned);
        socket.set_nonblocking(true)?;
        handed.sockets.push(Inherited { name: name.to_owned(), socket });
    }
    Ok(handed)
}

/// Whether a descriptor is open.
fn check_open(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointers; the kernel checks the descriptor.
    let result = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a descriptor is a listening stream socket.
fn check(fd: RawFd) -> io::Result<()> {
    // SAFETY: both options that are asked for below are one `c_int`.
    let option = |name| unsafe { option::<libc::c_int>(fd, libc::SOL_SOCKET, name) };
    let is_fit = option(libc::SO_TYPE)? == libc::SOCK_STREAM && option(libc::SO_ACCEPTCONN)? == 1;
    if is_fit { Ok(()) } else { Err(io::Error::other(format!("descriptor {fd} is no listening stream socket"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn only_listening_streams_will_do() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(check(listener.as_raw_fd()).is_ok());
        let (pair, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(check(pair.as_raw_fd()).unwrap_err().to_string().contains("no listening"));
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(check(datagram.as_raw_fd()).is_err());
    }

    #[test]
    fn without_a_manager_there_are_none() {
        let handed = take().unwrap();
        assert!(handed.sockets.is_empty() && handed.kept.is_empty());
    }
}
