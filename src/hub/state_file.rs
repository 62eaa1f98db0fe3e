//! State files: files that outlive the process.
//!
//! A state file stays open, so that writing needs no descriptor at a time when there may be none. State files belong to
//! the server's user alone, and are never reached through a symbolic link.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The mode of state files: other users need not know what is in them.
const MODE: u32 = 0o600;

/// An open state file.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    file: File,
}

impl StateFile {
    /// Opens the file at `path`, which is made if there is none.
    ///
    /// # Errors
    /// If the file cannot be opened or made, is a symbolic link, or is no regular file.
    pub(super) fn open(path: &Path) -> io::Result<StateFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(MODE);
        // Opening a pipe must not wait for its other end.
        let opened = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => io::Error::new(error.kind(), "it is a symbolic link, which is not followed"),
            _ => error,
        })?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        if metadata.mode() & 0o077 != 0 {
            // A file of another user that this one may write keeps its mode.
            let _ = file.set_permissions(Permissions::from_mode(MODE));
        }
        Ok(StateFile { path: path.to_path_buf(), file })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole file.
    pub(super) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes bytes at an offset. The file is opened anew first if its name was taken from it, which is returned as `true`:
    /// the new file has none of the old bytes.
    ///
    /// # Errors
    /// If the bytes cannot be written. Some of them may have been.
    pub(super) fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        let is_gone = self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        if is_gone {
            self.file = StateFile::open(&self.path)?.file;
        }
        self.file.write_all_at(bytes, if is_gone { 0 } else { offset })?;
        Ok(is_gone)
    }

    /// Cuts the file off after so many bytes.
    pub(super) fn cut(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// The time at which the file was last written, in milliseconds since 1970; 0 if that is not known.
    pub(super) fn written_ms(&self) -> u64 {
        let written = self.file.metadata().and_then(|file| file.modified()).ok();
        let since = written.and_then(|written| written.duration_since(std::time::UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_millis() as u64)
    }

    /// A second descriptor of the file, with which another thread can wait for the disk.
    pub(super) fn descriptor(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Gives the file another name, in place of the file that has the name now.
    pub(super) fn rename(&mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.path = path.to_path_buf();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_its_user_alone_and_is_not_reached_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        let path = folder.path().join("new");
        StateFile::open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let open = folder.path().join("open");
        std::fs::write(&open, "x").unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(StateFile::open(&open).unwrap().read().unwrap(), b"x");
        assert_eq!(mode(&open), 0o600);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(StateFile::open(&link).unwrap_err().to_string().contains("symbolic link"));
        assert!(StateFile::open(folder.path()).is_err());
    }

    #[test]
    fn a_file_whose_name_was_taken_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut file = StateFile::open(&path).unwrap();
        assert!(!file.write_at(b"one", 0).unwrap());
        assert!(!file.write_at(b"two", 3).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(file.write_at(b"three", 6).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
    }
}
