//! Faults on purpose, in builds with the feature `faults` alone: tests see whether the rest of the server notices
//! them.

use std::path::PathBuf;
use std::time::Duration;

/// If the file that `RINGCAST_FAULT_STALL` names is there, removes it and stops the calling shard for good.
pub(super) fn stall_if_asked(shard: u16) {
    let Some(file) = std::env::var_os("RINGCAST_FAULT_STALL").map(PathBuf::from) else { return };
    if shard == 0 && file.exists() && std::fs::remove_file(&file).is_ok() {
        tracing::warn!(shard, "stalled on purpose");
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
}
