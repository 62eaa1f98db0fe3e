//! Files that outlive the process.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes beside the file and renames, so that a crash leaves the old file or the new one.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?.write_all(text.as_bytes())?;
    fs::rename(&beside, path)
}
