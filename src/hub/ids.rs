//! The node's ids: they never go backwards, not even across a restart with the clock set back.
//!
//! A mark on disk is the millisecond up to which ids may have been given. It is written ahead, so that giving an id costs
//! no write. A start and a clean stop write the last id itself, so that ids do not run ahead of the clock.

use std::io;
use std::path::{Path, PathBuf};

use super::state_file::{self, Outlives};
use crate::logic::id::Id;

/// The distance between the newest id and the mark that is written ahead.
const RESERVE_MS: u64 = 10_000;

/// The source of ids.
#[derive(Debug)]
pub struct IdSource {
    last: Id,
    mark_ms: u64,
    path: PathBuf,
}

/// The reason why the mark cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The file could not be read or written.
    #[error("cannot {what} {path}, which keeps ids from going backwards: {source}")]
    Io {
        /// The call that failed: "read" or "write".
        what: &'static str,
        /// The path of the file.
        path: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The file holds something else than a mark.
    #[error(
        "{path} should hold one number (the last id's milliseconds) but holds {found:?}; remove it if that is right"
    )]
    Malformed {
        /// The path of the file.
        path: String,
        /// The beginning of its text.
        found: String,
    },
}

impl IdSource {
    /// Starts after every id that the mark at `path` covers, and writes the first mark, which covers no id yet.
    ///
    /// # Errors
    /// If the file cannot be read or written, or holds something else than a mark.
    pub fn open(path: &Path, now_ms: u64) -> Result<IdSource, MarkError> {
        let mark_ms = match std::fs::read_to_string(path) {
            // A power failure came before the kernel wrote the text to disk. The file's time of writing is known, and no
            // mark was further ahead of it.
            Ok(text) if text.trim_matches('\0').is_empty() => written_ms(path) + RESERVE_MS,
            Ok(text) => text.trim().parse().ok().filter(|ms| *ms < Id::MAX.ms()).ok_or_else(|| {
                MarkError::Malformed { path: path.display().to_string(), found: text.chars().take(40).collect() }
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(MarkError::Io { what: "read", path: path.display().to_string(), source }),
        };
        // All ids of the mark's millisecond may have been given.
        let last = Id::new(now_ms.max(mark_ms + 1), 0);
        let mut ids = IdSource { last, mark_ms: 0, path: path.to_path_buf() };
        // No id has been given yet, and a start that fails must not push ids ahead of the clock.
        ids.write_mark(last.ms())?;
        Ok(ids)
    }

    /// The last id that was given, or an id before all that will be given.
    pub fn last(&self) -> Id {
        self.last
    }

    /// Whether the next id at `now_ms` is covered by the mark. If not, [`IdSource::reserve`] must come first.
    pub fn is_reserved(&self, now_ms: u64) -> bool {
        self.last.next(now_ms).ms() < self.mark_ms
    }

    /// Moves the mark on if less than half of the time that it reserves is left.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn reserve(&mut self, now_ms: u64) -> Result<(), MarkError> {
        let next = self.last.ms().max(now_ms);
        if next + RESERVE_MS / 2 >= self.mark_ms { self.write_mark(next + RESERVE_MS) } else { Ok(()) }
    }

    /// Gives the next id.
    pub fn next(&mut self, now_ms: u64) -> Id {
        self.last = self.last.next(now_ms);
        self.last
    }

    /// Writes the last id down, for a clean stop.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn close(&mut self) -> Result<(), MarkError> {
        self.write_mark(self.last.ms())
    }

    fn write_mark(&mut self, mark_ms: u64) -> Result<(), MarkError> {
        let written = state_file::replace(&self.path, &format!("{mark_ms}\n"), 0o666, Outlives::Process);
        written.map_err(|source| MarkError::Io { what: "write", path: self.path.display().to_string(), source })?;
        self.mark_ms = mark_ms;
        Ok(())
    }
}

/// The time at which a file was last written, in milliseconds since 1970; 0 if that is not known.
fn written_ms(path: &Path) -> u64 {
    let written = std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let since = written.and_then(|written| written.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_on_after_a_crash_with_the_clock_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ids");
        let mut ids = IdSource::open(&path, 1_000_000).unwrap();
        let mut last = ids.next(1_000_000);
        for now in [1_000_000, 1_004_000, 1_009_000, 1_020_000] {
            ids.reserve(now).unwrap();
            assert!(ids.is_reserved(now));
            last = ids.next(now);
        }
        drop(ids);
        let mut after = IdSource::open(&path, 5).unwrap();
        assert!(after.last() > last);
        assert!(after.next(5) > last);
    }

    #[test]
    fn a_clean_stop_does_not_push_ids_ahead_of_the_clock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ids");
        for round in 0..5 {
            let mut ids = IdSource::open(&path, 1_000_000 + round * 10).unwrap();
            assert_eq!(ids.last().ms(), 1_000_000 + round * 10);
            ids.next(1_000_000 + round * 10);
            ids.close().unwrap();
        }
    }

    #[test]
    fn an_empty_mark_is_made_up_for_by_when_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids");
        for mark in ["", "\0\0\0\0"] {
            std::fs::write(&path, mark).unwrap();
            let written = written_ms(&path);
            assert!(written > 0);
            let ids = IdSource::open(&path, 5).unwrap();
            assert!(ids.last().ms() > written + RESERVE_MS, "{:?}", ids.last());
        }
    }

    #[test]
    fn starts_that_come_to_nothing_do_not_push_ids_ahead_of_the_clock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ids");
        for round in 0..100 {
            let mut ids = IdSource::open(&path, 1_000_000).unwrap();
            assert_eq!(ids.last().ms(), 1_000_000 + round);
            assert!(!ids.is_reserved(1_000_000), "the first id waits for its mark");
            ids.reserve(1_000_000).unwrap();
            assert!(ids.is_reserved(1_000_000));
            ids.close().unwrap();
        }
    }

    #[test]
    fn a_damaged_mark_is_an_error_not_a_zero() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ids");
        for mark in ["abc".to_owned(), u64::MAX.to_string(), Id::MAX.ms().to_string()] {
            std::fs::write(&path, &mark).unwrap();
            assert!(matches!(IdSource::open(&path, 5), Err(MarkError::Malformed { .. })), "{mark}");
        }
    }
}
