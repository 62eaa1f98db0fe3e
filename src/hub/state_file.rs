//! State files: files that outlive the process.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The failure that a file must outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlives {
    /// The end of the process, also by a crash.
    Process,
    /// The end of the host, also by a power failure. Writing waits for the disk.
    Host,
}

/// Replaces a file: the text is written beside it and renamed, so that a crash leaves the old file or the new one.
pub(super) fn replace(path: &Path, text: &str, mode: u32, outlives: Outlives) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    file.write_all(text.as_bytes())?;
    if outlives == Outlives::Host {
        file.sync_data()?;
    }
    fs::rename(&beside, path)
}
