//! How the kernel backs this process's memory.

use std::io;

/// Keeps transparent huge pages from this process: with them a page of 2 MiB becomes resident for the first
/// byte that is touched in it, and every thread's heap touches its own.
pub fn refuse_huge_pages() -> io::Result<()> {
    // SAFETY: takes no pointers; the unused arguments must be zero.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_agrees() {
        super::refuse_huge_pages().unwrap();
        // SAFETY: takes no pointers.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) }, 1);
    }
}
