//! What outlives the process, and belongs to one server at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

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

/// Keeps other servers from the same state files. The kernel lets go of it when the process ends, however it does.
#[derive(Debug)]
pub(super) struct StateLock {
    folder: PathBuf,
    /// The files' name, which is the feed's: several servers may share a directory.
    name: String,
    _file: File,
}

/// Locks the state, if no other server has. It writes nothing that another one has open, and of two servers that start
/// together it stops one before they could take each other's sockets for stale.
pub(super) fn lock(config: &Config) -> Result<StateLock, StartError> {
    let folder = &config.server.state_dir;
    let failed = |source| StartError::State { path: folder.display().to_string(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let name = config.feed.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // The file stays: if it were removed, two servers could each lock one of the same name.
    let path = folder.join(format!("{name}.lock"));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StartError::StateInUse(path.display().to_string()),
        TryLockError::Error(source) => failed(source),
    })?;
    Ok(StateLock { folder: folder.clone(), name, _file: file })
}

/// Opens the state files, which writes them anew: so it comes after whatever shows that there is another server already.
pub(super) fn open(lock: &StateLock) -> Result<State, StartError> {
    let path = |suffix: &str| lock.folder.join(format!("{}.{suffix}", lock.name));
    let ids = IdSource::open(&path("ids"), unix_ms())?;
    let revocations = Revocations::open(&path("revoked"), unix_ms() / 1000)?;
    Ok(State { ids, revocations })
}
