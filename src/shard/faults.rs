//! Faults on purpose, in debug builds alone: tests see whether the rest of the server notices them.

use std::path::PathBuf;
use std::time::Duration;

/// Stops the calling shard for good if the file that `RINGCAST_FAULT_STALL` names is there, and panics if the one that
/// `RINGCAST_FAULT_PANIC` names is. The file is removed before.
pub(super) fn fail_if_asked(shard: u16) {
    if shard == 0 && is_asked("RINGCAST_FAULT_STALL") {
        tracing::warn!(shard, "stalled on purpose");
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
    assert!(shard != 0 || !is_asked("RINGCAST_FAULT_PANIC"), "panicked on purpose\nin two lines");
}

fn is_asked(variable: &str) -> bool {
    let file = std::env::var_os(variable).map(PathBuf::from);
    file.is_some_and(|file| file.exists() && std::fs::remove_file(&file).is_ok())
}
