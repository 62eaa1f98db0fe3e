//! Descriptor tables: a private one per thread, each with the whole `RLIMIT_NOFILE` to itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Gives the calling thread its own descriptor table, a copy of the process's in which only standard input,
/// output and error and `keep` are open.
///
/// Closing the copies does not close the originals, which the other threads keep. The copies must be closed because an open
/// copy of another thread's socket would keep the socket open after that thread has closed it.
///
/// # Errors
/// If the kernel refuses, as with too little memory.
pub fn isolate(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    // SAFETY: unshare takes no pointers; CLONE_FILES only replaces this thread's own table by a copy.
    if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).chain(0..3).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut first = 0;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: this runs right after the thread got a table of its own, which holds only copies: no owner in this thread
    // relies on the numbers that are closed here, and the owners in other threads keep their table.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft `RLIMIT_NOFILE` to the hard limit, and returns it: the most descriptors that a table may hold.
///
/// # Errors
/// If the limits cannot be read.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives on this stack frame for both calls.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        let before = std::mem::replace(&mut limit.rlim_cur, limit.rlim_max);
        // SAFETY: as above.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
            // A sandbox may forbid raising the limit; then the present one holds.
            limit.rlim_cur = before;
        }
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_thread_has_only_what_it_keeps_and_others_keep_theirs() {
        let (kept, kept_peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let (other, _other_peer) = std::os::unix::net::UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                isolate(&[kept.as_fd()]).unwrap();
                assert!(kept.take_error().is_ok());
                assert_eq!(other.take_error().unwrap_err().raw_os_error(), Some(libc::EBADF));
            });
            thread.join().unwrap();
        });
        assert!(other.take_error().is_ok());
        assert!(kept_peer.take_error().is_ok());
    }

    #[test]
    fn the_limit_is_known() {
        assert!(raise_descriptor_limit().unwrap() >= 256);
    }
}
