//! Files that outlive the process.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The end that a file must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlives {
    /// The file survives the end of the process, also a sudden one.
    Process,
    /// The file survives the end of the host too. Writing it waits for the disk.
    Host,
}

/// Writes beside the file and renames, so that a crash leaves the old file or the new one.
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
