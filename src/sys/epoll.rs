//! epoll, for the load harness: its clients must not use the same code as the server that they measure.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The events that a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Reported as long as there are bytes to read, or the peer has gone.
    Readable,
    /// Reported once per change, for reading, writing and the peer's going: one registration for a
    /// socket's whole life, from the end of its `connect` on.
    Edges,
}

/// A change that the kernel reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The number that the descriptor was added with.
    pub token: u64,
    /// There may be bytes to read.
    pub readable: bool,
    /// There may be room to write; of a pending `connect`: it has succeeded or failed.
    pub writable: bool,
    /// The peer has closed its side, or the connection is broken: read until the end.
    pub hung_up: bool,
}

/// Room for the changes that one [`Epoll::wait`] reports.
pub struct Events {
    raw: Vec<libc::epoll_event>,
    len: usize,
}

impl Events {
    /// Room for `capacity` changes per wait; at least one.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { raw: vec![libc::epoll_event { events: 0, u64: 0 }; capacity.max(1)], len: 0 }
    }

    /// The number of changes that the last wait reported.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the last wait reported nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The change at `index`, which must be below [`Events::len`]. By index rather than by iterator, so
    /// that whoever handles one may borrow everything else mutably.
    pub fn get(&self, index: usize) -> Ready {
        // Copied out whole: the C struct is packed, its fields must not be borrowed.
        let event = self.raw[..self.len][index];
        let (bits, token) = (event.events, event.u64);
        Ready {
            token,
            readable: bits & libc::EPOLLIN as u32 != 0,
            writable: bits & libc::EPOLLOUT as u32 != 0,
            hung_up: bits & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0,
        }
    }
}

/// An epoll instance of the kernel.
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// A new, empty instance.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by the kernel and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(raw) } })
    }

    /// Watches `fd` until it is closed, or taken out by [`Epoll::remove`].
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let bits = match interest {
            Interest::Readable => libc::EPOLLIN | libc::EPOLLRDHUP,
            Interest::Edges => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
        };
        let mut event = libc::epoll_event { events: bits as u32, u64: token };
        // SAFETY: `event` lives through the call; both descriptors are open for its length.
        let done = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Stops watching `fd`, for one that stays open.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: deleting reads no event; both descriptors are open for the call's length.
        let done =
            unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), std::ptr::null_mut()) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for changes, at most `timeout` (rounded up to milliseconds; for ever without one). An interrupted
    /// wait reports nothing.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let timeout_ms =
            timeout.map_or(-1, |timeout| i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        let capacity = i32::try_from(events.raw.len()).unwrap_or(i32::MAX);
        events.len = 0;
        // SAFETY: `raw` has room for `capacity` entries, all initialised, and is borrowed mutably meanwhile.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.raw.as_mut_ptr(), capacity, timeout_ms) };
        match usize::try_from(count) {
            Ok(count) => events.len = count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_millis(1));

    #[test]
    fn reports_bytes_and_the_end_of_the_peer() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        let mut events = Events::with_capacity(8);
        epoll.add(far.as_fd(), 7, Interest::Readable).unwrap();
        epoll.wait(&mut events, SOON).unwrap();
        assert!(events.is_empty());

        near.write_all(b"x").unwrap();
        for _ in 0..2 {
            epoll.wait(&mut events, SOON).unwrap();
            assert_eq!(events.len(), 1, "unread bytes are reported again");
            assert_eq!(events.get(0), Ready { token: 7, readable: true, writable: false, hung_up: false });
        }
        drop(near);
        // Another test may just be copying the descriptor table, and hold the other end open a moment longer.
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let mut saw_end = false;
        while !saw_end && std::time::Instant::now() < deadline {
            epoll.wait(&mut events, SOON).unwrap();
            saw_end = !events.is_empty() && events.get(0).hung_up;
        }
        assert!(saw_end, "the end of the peer is reported");
        epoll.remove(far.as_fd()).unwrap();
        epoll.wait(&mut events, SOON).unwrap();
        assert!(events.is_empty());
    }

    #[test]
    fn edges_are_reported_once() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        let mut events = Events::with_capacity(8);
        epoll.add(far.as_fd(), 1, Interest::Edges).unwrap();
        epoll.wait(&mut events, SOON).unwrap();
        assert!(events.get(0).writable);
        epoll.wait(&mut events, SOON).unwrap();
        assert!(events.is_empty());
        near.write_all(b"x").unwrap();
        epoll.wait(&mut events, SOON).unwrap();
        assert!(events.get(0).readable);
    }
}
