//! Memory of this process: huge pages, and giving memory back to the kernel.

use std::io;

/// Keeps transparent huge pages from this process: with them, touching one byte makes 2 MiB resident, and every thread's
/// heap touches pages of its own.
///
/// # Errors
/// If the kernel refuses.
pub fn refuse_huge_pages() -> io::Result<()> {
    // SAFETY: takes no pointers; the unused arguments must be zero.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives free memory of the calling thread's heap back to the kernel.
///
/// The allocator does so by itself only while it is allocating: in an idle process the memory of a past burst would stay.
pub fn give_back() {
    // SAFETY: takes no pointers; the call only tidies the calling thread's heap.
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
