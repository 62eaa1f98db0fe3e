//! What outlives the process, and belongs to one server at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;

use crate::config::Config;
use crate::hub::ids::IdSource;
use crate::hub::revocations::Revocations;
use crate::sys::clock::unix_ms;

use super::StartError;

/// The state files, opened.
pub(super) struct State {
    pub(super) ids: IdSource,
    pub(super) revocations: Revocations,
    /// To be kept until the process ends.
    pub(super) lock: StateLock,
}

/// Keeps other servers from the same state files. The kernel lets go of it when the process ends, however it does.
#[derive(Debug)]
pub(super) struct StateLock {
    _file: File,
}

/// Opens the state files, if no other server has.
///
/// Opening them writes them anew, so it comes after whatever shows that there is another server already.
pub(super) fn open(config: &Config) -> Result<State, StartError> {
    let folder = &config.server.state_dir;
    let failed = |source| StartError::State { path: folder.display().to_string(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    // By the feed's name, so that several servers may share a directory.
    let name = config.feed.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // The file stays: if it were removed, two servers could each lock one of the same name.
    let path = folder.join(format!("{name}.lock"));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StartError::StateInUse(path.display().to_string()),
        TryLockError::Error(source) => failed(source),
    })?;
    let ids = IdSource::open(&folder.join(format!("{name}.ids")), unix_ms())?;
    let revocations = Revocations::open(&folder.join(format!("{name}.revoked")), unix_ms() / 1000)?;
    Ok(State { ids, revocations, lock: StateLock { _file: file } })
}
