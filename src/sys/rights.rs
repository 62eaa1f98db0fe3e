//! Sockets over which descriptors travel (unix(7), SCM_RIGHTS): whole messages in order, between two threads or two
//! processes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// The most descriptors of one message: the kernel's `SCM_MAX_FD`.
pub const RIGHTS_MAX: usize = 253;

/// The room for control data of a message with [`RIGHTS_MAX`] descriptors, in words, so that it is aligned for its header.
const CONTROL_WORDS: usize = (RIGHTS_MAX * size_of::<RawFd>()) / size_of::<u64>() + 4;

/// The time after which a sender tries again while too many descriptors are under way (`ETOOMANYREFS`).
const CROWDED_PAUSE: Duration = Duration::from_millis(1);

/// Two connected sockets, which block.
///
/// # Errors
/// If the kernel has no descriptors or no memory.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
    Ok((one.into(), other.into()))
}

/// Listens at a path, for processes of the same user: the file's mode is 0600 before the first one can connect. A file that is
/// there already is removed, so the caller must know that no other process listens there.
///
/// # Errors
/// If the path is too long for a socket, or a system call fails.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let address = SockAddr::unix(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.bind(&address)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(16)?;
    Ok(socket.into())
}

/// Connects to a listener at a path.
///
/// # Errors
/// If no process listens there, or this one may not connect.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Waits for a connection and accepts it.
///
/// # Errors
/// If the listener is none, or the kernel has no descriptors.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(socket2::SockRef::from(&listener).accept()?.0.into())
}

/// The id of this process's effective user.
pub fn own_user() -> u32 {
    // SAFETY: takes no pointers and cannot fail.
    unsafe { libc::geteuid() }
}

/// The number of this process, as the kernel names peers.
pub fn own_process() -> i32 {
    std::process::id().cast_signed()
}

/// Bounds the time that a send or a receive on the socket waits; after it they fail with `WouldBlock`.
///
/// # Errors
/// If the descriptor is no socket.
pub fn set_patience(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    let socket = socket2::SockRef::from(&socket);
    socket.set_write_timeout(Some(patience))?;
    socket.set_read_timeout(Some(patience))
}

/// The control data of one message.
#[repr(C)]
struct Control([u64; CONTROL_WORDS]);

/// Whether a send on the socket would not wait. A socket that has failed counts as one: the send says why.
pub fn is_writable(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry, which lives through the call; with no time to wait, the call returns at once.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

/// Sends one message with up to [`RIGHTS_MAX`] descriptors, whole or not at all. The receiver gets descriptors of its own.
///
/// # Errors
/// `WouldBlock` after the socket's patience, `BrokenPipe` if the peer has gone, or the kernel's other reason.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], rights: &[BorrowedFd<'_>]) -> io::Result<()> {
    if rights.len() > RIGHTS_MAX || bytes.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = Control([0; CONTROL_WORDS]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: `msghdr` is plain numbers and pointers, for which all zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !rights.is_empty() {
        let length = (rights.len() * size_of::<RawFd>()) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: both functions only compute; the space of 253 descriptors is within `control`.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: the control data is larger than one header, so the first header lies within it; the data after it has
        // room for `rights.len()` numbers, and each is written unaligned-safe through a raw pointer of its type.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (place, right) in rights.iter().enumerate() {
                data.add(place).write_unaligned(right.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: the message points to `bytes` and to `control`, which both live through the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // The receiver takes descriptors out of the queue meanwhile.
            Some(libc::ETOOMANYREFS) => std::thread::sleep(CROWDED_PAUSE),
            _ => return Err(error),
        }
    }
}

/// Receives one message into `buffer` and appends its descriptors, which are closed on exec. Returns the message's length; 0 if
/// the peer has gone.
///
/// # Errors
/// `WouldBlock` after the socket's patience; `InvalidData` if the message or its descriptors do not fit.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], rights: &mut Vec<OwnedFd>) -> io::Result<usize> {
    take(socket, buffer, rights, 0)
}

/// As [`receive`], but the message stays in the queue. The next look is at the message behind it if the socket has an offset for looks
/// (`SO_PEEK_OFF`).
///
/// # Errors
/// As [`receive`].
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8], rights: &mut Vec<OwnedFd>) -> io::Result<usize> {
    take(socket, buffer, rights, libc::MSG_PEEK)
}

fn take(socket: BorrowedFd<'_>, buffer: &mut [u8], rights: &mut Vec<OwnedFd>, flags: libc::c_int) -> io::Result<usize> {
    let mut control = Control([0; CONTROL_WORDS]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: as in `send`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let length = loop {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = size_of::<Control>() as _;
        // SAFETY: the message points to `buffer` and `control`, which live through the call and are as long as it says.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC | flags) };
        match usize::try_from(received) {
            Ok(length) => break length,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    take_rights(&message, rights);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than it may be"));
    }
    Ok(length)
}

/// Takes the descriptors out of a received message's control data.
fn take_rights(message: &libc::msghdr, rights: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel has filled the control data and set its length; the macros stay within that.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: `header` points to a header within the control data.
        let (level, kind, length) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: only computes.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = length.saturating_sub(empty) / size_of::<RawFd>();
            // SAFETY: the header's length says that `count` descriptors follow it.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for place in 0..count {
                // SAFETY: within the data of this header; the kernel has just put each descriptor into this thread's table,
                // and nobody else owns it.
                rights.push(unsafe { OwnedFd::from_raw_fd(data.add(place).read_unaligned()) });
            }
        }
        // SAFETY: `message` and `header` are those from above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{fdtable, socket};
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_travel_in_their_order_up_to_the_most_of_a_message() {
        let (one, other) = pair().unwrap();
        let pairs: Vec<_> = (0..RIGHTS_MAX).map(|_| UnixStream::pair().unwrap()).collect();
        let rights: Vec<_> = pairs.iter().map(|(near, _)| near.as_fd()).collect();
        send(one.as_fd(), b"all", &rights).unwrap();
        let too_many = [&rights[..], &rights[..1]].concat();
        assert_eq!(send(one.as_fd(), b"x", &too_many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let (mut buffer, mut received) = ([0; 16], Vec::new());
        assert_eq!(receive(other.as_fd(), &mut buffer, &mut received).unwrap(), 3);
        assert_eq!((&buffer[..3], received.len()), (&b"all"[..], RIGHTS_MAX));
        for (number, fd) in received.into_iter().enumerate() {
            UnixStream::from(fd).write_all(&[number as u8]).unwrap();
            let mut byte = [0; 1];
            (&pairs[number].1).read_exact(&mut byte).unwrap();
            assert_eq!(byte, [number as u8]);
        }
    }

    #[test]
    fn a_message_is_whole_or_an_error_and_an_end_is_told() {
        let (one, other) = pair().unwrap();
        send(one.as_fd(), &[7; 100], &[one.as_fd()]).unwrap();
        let mut received = Vec::new();
        let error = receive(other.as_fd(), &mut [0; 99], &mut received).unwrap_err();
        assert_eq!((error.kind(), received.len()), (io::ErrorKind::InvalidData, 1));
        drop((one, received));
        assert_eq!(receive(other.as_fd(), &mut [0; 9], &mut Vec::new()).unwrap(), 0);
        assert_eq!(send(other.as_fd(), b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn patience_ends_a_wait() {
        let (one, other) = pair().unwrap();
        set_patience(one.as_fd(), Duration::from_millis(10)).unwrap();
        assert_eq!(receive(one.as_fd(), &mut [0; 9], &mut Vec::new()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(is_writable(one.as_fd()));
        let full = (0..10_000).find_map(|_| send(one.as_fd(), &[0; 4096], &[]).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(!is_writable(one.as_fd()));
        drop(other);
        assert!(is_writable(one.as_fd()));
    }

    #[test]
    fn a_thread_with_a_table_of_its_own_gets_descriptors_through_its_mailbox() {
        let (mailbox, letter) = pair().unwrap();
        let thread = std::thread::spawn(move || {
            fdtable::isolate(&[mailbox.as_fd()]).unwrap();
            let mut received = Vec::new();
            receive(mailbox.as_fd(), &mut [0; 8], &mut received).unwrap();
            UnixStream::from(received.remove(0)).write_all(b"here").unwrap();
        });
        let (near, mut far) = UnixStream::pair().unwrap();
        send(letter.as_fd(), b"x", &[near.as_fd()]).unwrap();
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        thread.join().unwrap();
        assert_eq!(text, "here");
    }

    #[test]
    fn a_listener_is_this_users_alone_and_takes_the_place_of_a_stale_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.handover");
        drop(listen(&path).unwrap());
        let listener = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let near = connect(&path).unwrap();
        let far = accept(listener.as_fd()).unwrap();
        assert_eq!(socket::peer(far.as_fd()).unwrap().uid, own_user());
        send(near.as_fd(), b"x", &[]).unwrap();
        assert_eq!(receive(far.as_fd(), &mut [0; 9], &mut Vec::new()).unwrap(), 1);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "no socket").unwrap();
        assert!(listen(&path).is_err());
    }
}
