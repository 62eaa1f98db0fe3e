//! Servers with few descriptors, and with a small disk.

use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Starts something with a limit on descriptors, which the processes that it starts inherit.
pub fn with_descriptors<T>(limit: u64, start: impl FnOnce() -> T) -> T {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the limit to a valid place.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) }, 0);
    let few = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: reads a valid limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const few) }, 0);
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(start));
    // SAFETY: reads a valid limit.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const before) };
    assert_eq!(result, 0, "raising the limit again needs root: {}", std::io::Error::last_os_error());
    started.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A disk of a few kilobytes in memory.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts the disk.
    pub fn mount(size: &str) -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let (source, options) = (CString::new("tmpfs").unwrap(), CString::new(format!("size={size}")).unwrap());
        let target = c_path(folder.path());
        // SAFETY: all texts end with a zero and outlive the call.
        let result = unsafe {
            libc::mount(source.as_ptr(), target.as_ptr(), source.as_ptr(), 0, options.as_ptr().cast())
        };
        assert_eq!(result, 0, "mounting a small disk needs root: {}", std::io::Error::last_os_error());
        SmallDisk { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Fills the disk to its last byte.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        for size in [4096, 512, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    /// Makes room again.
    pub fn empty(&self) {
        let _ = std::fs::remove_file(self.filler());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = c_path(self.folder.path());
        // SAFETY: the path ends with a zero and outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).unwrap()
}
