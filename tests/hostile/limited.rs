//! Servers with few descriptors, and with a small disk.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::server::DESCRIPTORS;

/// Has a server started with so many descriptors.
pub fn with_descriptors<T>(limit: u64, start: impl FnOnce() -> T) -> T {
    DESCRIPTORS.set(limit);
    let started = start();
    DESCRIPTORS.set(0);
    started
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
        let result =
            unsafe { libc::mount(source.as_ptr(), target.as_ptr(), source.as_ptr(), 0, options.as_ptr().cast()) };
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
