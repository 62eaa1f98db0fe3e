//! The files that outlive the process, and belong to one server at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::hub::ids::IdSource;
use crate::hub::revocations::Revocations;
use crate::sys::clock::unix_ms;

use super::StartError;

/// The state files, opened.
pub(super) struct State {
    pub(super) ids: IdSource,
    pub(super) revocations: Revocations,
}

/// Keeps other servers from the same state files. The kernel releases the lock when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct StateLock {
    folder: PathBuf,
    /// The common part of the files' names. It is the name of the feed's socket, so that several servers may share a
    /// directory.
    name: String,
    /// The locked files: the lock's own, which a cleaner may remove, and one of the state's.
    files: Vec<File>,
}

/// Locks the state, unless another server has locked it. Locking writes to no file that another server has open. It comes
/// before any socket is opened: of two servers that start together, one is stopped before it takes the sockets of the other
/// for stale ones.
///
/// # Errors
/// If another server has the lock, or the directory cannot be used.
pub(super) fn lock(config: &Config) -> Result<StateLock, StartError> {
    let folder = &config.server.state_dir;
    let failed = |source| StartError::State { path: folder.display().to_string(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let name = config.feed.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // The file is never removed: otherwise two servers could each lock a file of this name.
    let path = folder.join(format!("{name}.lock"));
    let mut file = OpenOptions::new();
    file.write(true).create(true).truncate(false).mode(0o600);
    let mut lock = StateLock { folder: folder.clone(), name, files: Vec::new() };
    lock.add(&path, &file)?;
    let ids = lock.path("ids");
    if ids.exists() {
        lock.add(&ids, OpenOptions::new().read(true))?;
    }
    Ok(lock)
}

/// The lock that a predecessor has handed over: the kernel keeps it as long as one of the descriptors is open.
pub(super) fn handed_over(config: &Config, files: Vec<File>) -> StateLock {
    let name = config.feed.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    StateLock { folder: config.server.state_dir.clone(), name, files }
}

impl StateLock {
    /// Copies of the locked files' descriptors.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub(super) fn descriptors(&self) -> std::io::Result<Vec<OwnedFd>> {
        self.files.iter().map(|file| Ok(file.try_clone()?.into())).collect()
    }

    /// The path of a state file.
    pub(super) fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.name))
    }

    /// Opens and locks one more file, which must not be a link.
    fn add(&mut self, path: &Path, options: &OpenOptions) -> Result<(), StartError> {
        let failed = |source| StartError::State { path: self.folder.display().to_string(), source };
        let file = options.clone().custom_flags(libc::O_NOFOLLOW).open(path).map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StartError::StateInUse(path.display().to_string()),
            TryLockError::Error(source) => failed(source),
        })?;
        self.files.push(file);
        Ok(())
    }
}

/// Opens the state files of a predecessor, which still runs and writes them.
///
/// # Errors
/// If a file cannot be opened.
pub(super) fn open_of_predecessor(lock: &StateLock) -> Result<State, StartError> {
    let ids = IdSource::of_predecessor(&lock.path("ids"))?;
    Ok(State { ids, revocations: Revocations::of_predecessor(&lock.path("revoked"))? })
}

/// Opens the state files. This writes them anew, so it comes after every check for another running server.
///
/// # Errors
/// If a file cannot be read or written.
pub(super) fn open(lock: &mut StateLock) -> Result<State, StartError> {
    let path = lock.path("ids");
    let ids = IdSource::open(&path, unix_ms())?;
    if lock.files.len() == 1 {
        // The file is new.
        lock.add(&path, OpenOptions::new().read(true))?;
    }
    let revocations = Revocations::open(&lock.path("revoked"), unix_ms() / 1000)?;
    Ok(State { ids, revocations })
}
