//! What outlives a process in a service manager's care (`FDSTORE=1` of sd_notify(3)): files without a name, and descriptors in the
//! queue of a socket pair, of which the manager keeps one end.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::rights::{self, RIGHTS_MAX};

/// The time that a queue has to take a message. Nobody reads it, so a full one stays full.
const PATIENCE: Duration = Duration::from_millis(1);

/// A file in memory without a name, which is gone with its last descriptor.
///
/// # Errors
/// If the kernel has no descriptors or no memory.
pub fn file(name: &CStr) -> io::Result<File> {
    // SAFETY: the name ends with a zero and lives through the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// The writing end of descriptors in the queues of socket pairs.
#[derive(Debug, Default)]
pub struct Queues {
    /// The end that is written to now.
    near: Option<OwnedFd>,
    /// The other ends, to be kept.
    far: Vec<OwnedFd>,
}

impl Queues {
    /// Appends descriptors. One queue holds some 70,000 of them, and then another one begins.
    ///
    /// # Errors
    /// If the kernel has no descriptors or no memory.
    pub fn push(&mut self, all: &[OwnedFd]) -> io::Result<()> {
        for some in all.chunks(RIGHTS_MAX) {
            let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
            let sent = self.near.as_ref().map(|near| rights::send(near.as_fd(), &[0], &some));
            match sent {
                Some(Ok(())) => continue,
                Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            let (near, far) = rights::pair()?;
            rights::set_patience(near.as_fd(), PATIENCE)?;
            rights::send(near.as_fd(), &[0], &some)?;
            self.near = Some(near);
            self.far.push(far);
        }
        Ok(())
    }

    /// The ends that hold the descriptors, in their order.
    pub fn into_ends(self) -> Vec<OwnedFd> {
        self.far
    }
}

/// Reads descriptors from the queues of [`Queues`] and leaves them there, so that another process can read them again.
#[derive(Debug)]
pub struct Peeks {
    ends: std::vec::IntoIter<OwnedFd>,
    end: Option<OwnedFd>,
    read: std::collections::VecDeque<OwnedFd>,
}

impl Peeks {
    /// Reads from the first descriptor on.
    pub fn new(ends: Vec<OwnedFd>) -> Peeks {
        Peeks { ends: ends.into_iter(), end: None, read: std::collections::VecDeque::new() }
    }

    /// The next `count` descriptors.
    ///
    /// # Errors
    /// If there are fewer, or a queue cannot be read.
    pub fn next(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        while self.read.len() < count {
            if self.end.is_none() {
                let end = self.ends.next().ok_or(io::ErrorKind::UnexpectedEof)?;
                // The offset counts from the queue's beginning, and moves on with each message that is looked at (socket(7)).
                peek_from_the_beginning(end.as_fd())?;
                self.end = Some(end);
            }
            let Some(end) = &self.end else { continue };
            let mut rights = Vec::new();
            match rights::peek(end.as_fd(), &mut [0], &mut rights) {
                Ok(0) => self.end = None,
                Ok(_) => self.read.extend(rights),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.end = None,
                Err(error) => return Err(error),
            }
        }
        Ok(self.read.drain(..count).collect())
    }
}

/// Has the next look at a socket's queue begin with its first message.
fn peek_from_the_beginning(socket: BorrowedFd<'_>) -> io::Result<()> {
    let offset: libc::c_int = 0;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a `c_int` on this stack frame, as the length says.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, (&raw const offset).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_file_in_memory_is_read_by_any_of_its_descriptors() {
        let mut file = file(c"x").unwrap();
        file.write_all(b"kept").unwrap();
        let mut other = file.try_clone().unwrap();
        drop(file);
        other.rewind().unwrap();
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kept");
    }

    #[test]
    fn descriptors_are_read_again_and_again_after_their_writer_has_gone() {
        let (sockets, peers): (Vec<OwnedFd>, Vec<UnixStream>) =
            (0..700).map(|_| UnixStream::pair().unwrap()).map(|(one, other)| (OwnedFd::from(one), other)).unzip();
        let mut queues = Queues::default();
        for some in sockets.chunks(100) {
            queues.push(some).unwrap();
        }
        drop(sockets);
        let ends = queues.into_ends();
        for _ in 0..2 {
            let again = ends.iter().map(|end| end.try_clone().unwrap()).collect();
            let mut peeks = Peeks::new(again);
            let mut read = Vec::new();
            for count in [1, 0, 299, 400] {
                read.extend(peeks.next(count).unwrap());
            }
            assert_eq!(peeks.next(1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            for (number, (one, mut peer)) in read.into_iter().zip(&peers).enumerate() {
                UnixStream::from(one).write_all(&[number as u8]).unwrap();
                let mut byte = [0];
                peer.read_exact(&mut byte).unwrap();
                assert_eq!(byte[0], number as u8);
            }
        }
        drop(ends);
        assert_eq!((&peers[699]).read(&mut [0]).unwrap(), 0, "nobody has the descriptors any more");
    }

    #[test]
    fn a_full_queue_is_followed_by_another() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let socket = OwnedFd::from(socket);
        let mut queues = Queues::default();
        for _ in 0..400 {
            queues.push(std::slice::from_ref(&socket)).unwrap();
        }
        let ends = queues.into_ends();
        assert!(ends.len() > 1, "{}", ends.len());
        assert_eq!(Peeks::new(ends).next(400).unwrap().len(), 400);
    }
}
