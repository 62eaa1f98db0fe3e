//! Memory of this process: huge pages, and giving memory back to the kernel.

use std::io;
use std::path::Path;

use super::process::kib;

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

/// The bytes of memory that this process may use: the host's memory, or the smallest limit of the process's control group
/// and the groups above it (`memory.max` of version 2). `None` where the kernel does not tell.
pub fn available() -> Option<u64> {
    let total = kib(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal");
    total.into_iter().chain(group_limit(Path::new("/"))).min()
}

/// The smallest memory limit of this process's control groups, read below `root`.
fn group_limit(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |group: &Path| std::fs::read_to_string(root.join("sys/fs/cgroup").join(group).join("memory.max"));
    let limits = Path::new(path).ancestors().filter_map(|group| limit(group).ok());
    limits.filter_map(|text| text.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_smallest_limit_of_all_groups_above_holds() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(super::group_limit(root), None);
        std::fs::create_dir_all(root.join("proc/self")).unwrap();
        std::fs::write(root.join("proc/self/cgroup"), "1:name=x:/\n0::/a/b\n").unwrap();
        std::fs::create_dir_all(root.join("sys/fs/cgroup/a/b")).unwrap();
        assert_eq!(super::group_limit(root), None);
        std::fs::write(root.join("sys/fs/cgroup/a/b/memory.max"), "max\n").unwrap();
        assert_eq!(super::group_limit(root), None);
        std::fs::write(root.join("sys/fs/cgroup/a/memory.max"), "5000\n").unwrap();
        assert_eq!(super::group_limit(root), Some(5000));
        std::fs::write(root.join("sys/fs/cgroup/a/b/memory.max"), "7000\n").unwrap();
        assert_eq!(super::group_limit(root), Some(5000));
    }

    #[test]
    fn this_process_may_use_some_memory() {
        assert!(super::available().unwrap() > 16 << 20);
    }

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
