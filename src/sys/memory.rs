//! How the kernel backs this process's memory.

use std::io;

/// Keeps transparent huge pages from this process: with them a page of 2 MiB becomes resident for the first
/// byte that is touched in it, and every thread's heap touches its own.
pub fn refuse_huge_pages() -> io::Result<()> {
    // SAFETY: takes no pointers; the unused arguments must be zero.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives memory that the calling thread's allocations no longer need back to the kernel.
///
/// The allocator does so by itself only while it is allocating: what a burst has left behind would stay for as long
/// as nothing happens.
pub fn give_back() {
    // SAFETY: takes no pointers; it only tidies the calling thread's heap.
    unsafe { libmimalloc_sys::mi_collect(false) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_can_be_given_back_while_other_memory_is_in_use() {
        let kept: Vec<Box<[u8]>> = (0..1000).map(|n| vec![n as u8; 1000].into()).collect();
        drop((0..1000).map(|n| vec![n as u8; 100_000]).collect::<Vec<_>>());
        super::give_back();
        assert!(kept.iter().enumerate().all(|(n, bytes)| bytes.iter().all(|byte| *byte == n as u8)));
    }

    #[test]
    fn the_kernel_agrees() {
        super::refuse_huge_pages().unwrap();
        // SAFETY: takes no pointers.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) }, 1);
    }
}
