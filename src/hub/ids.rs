//! The node's ids: they never go backwards, not even across a restart with the clock set back.
//!
//! A mark on disk is the millisecond up to which ids may have been given. It is written ahead, so that giving an id costs
//! no write. A start and a clean stop write the last id itself, so that ids do not run ahead of the clock.
//!
//! The mark is one line, `MILLISECONDS CHECKSUM`, which is always written in place: that needs neither a descriptor nor
//! room on the disk, and a line within one sector is written whole or not at all.

use std::io;
use std::path::Path;

use super::state_file::StateFile;
use crate::logic::id::Id;

/// The distance between the newest id and the mark that is written ahead.
const RESERVE_MS: u64 = 10_000;
/// The distance from the clock up to which a mark is believed: 400 days, in milliseconds.
const AHEAD_MAX_MS: u64 = 400 * DAY_MS;
/// The same for a mark without a checksum, in which a damaged digit cannot be told from a right one.
const UNCHECKED_AHEAD_MAX_MS: u64 = DAY_MS;
const DAY_MS: u64 = 86_400_000;

/// The source of ids.
#[derive(Debug)]
pub struct IdSource {
    last: Id,
    mark_ms: u64,
    file: StateFile,
}

/// The reason why the mark cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The file could not be read or written.
    #[error("cannot {what} {path}, which keeps ids from going backwards: {source}")]
    Io {
        /// The call that failed: "open", "read" or "write".
        what: &'static str,
        /// The path of the file.
        path: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The file holds something else than a mark, or a mark with another checksum.
    #[error(
        "{path} should hold the last id's milliseconds and their checksum but holds {found:?}: it is damaged; if the clock is right, remove it"
    )]
    Damaged {
        /// The path of the file.
        path: String,
        /// The beginning of its text.
        found: String,
    },
    /// The mark is further ahead of the clock than can be.
    #[error(
        "{path} says that ids were given up to {ahead_days} days from now: set the clock right, or remove the file if the clock is right"
    )]
    Implausible {
        /// The path of the file.
        path: String,
        /// The distance between the clock and the mark.
        ahead_days: u64,
    },
}

impl IdSource {
    /// Starts after every id that the mark at `path` covers, and writes the first mark, which covers no id yet.
    ///
    /// # Errors
    /// If the file cannot be opened, read or written, or holds no mark that can be believed at `now_ms`, in milliseconds
    /// since 1970.
    pub fn open(path: &Path, now_ms: u64) -> Result<IdSource, MarkError> {
        let failed = |what, source| MarkError::Io { what, path: path.display().to_string(), source };
        let is_new = !path.exists();
        let mut file = StateFile::open(path).map_err(|source| failed("open", source))?;
        let bytes = file.read().map_err(|source| failed("read", source))?;
        let mark_ms = match String::from_utf8_lossy(&bytes).trim_matches('\0') {
            _ if is_new => 0,
            // A power failure came before the kernel wrote the text to disk. The file's time of writing is known, and no
            // mark was further ahead of it.
            "" => file.written_ms() + RESERVE_MS,
            text => read_mark(text, path, now_ms)?,
        };
        // All ids of the mark's millisecond may have been given.
        let last = Id::new(now_ms.max(mark_ms + 1), 0);
        let mut ids = IdSource { last, mark_ms: 0, file };
        // No id has been given yet, and a start that fails must not push ids ahead of the clock.
        ids.write_mark(last.ms())?;
        ids.file.cut(mark_line(0).len() as u64).map_err(|source| failed("write", source))?;
        Ok(ids)
    }

    /// Opens the mark of a predecessor that still runs, without reading or writing it. [`IdSource::restore`] says where ids go
    /// on.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn of_predecessor(path: &Path) -> Result<IdSource, MarkError> {
        let failed = |source| MarkError::Io { what: "open", path: path.display().to_string(), source };
        let file = StateFile::open(path).map_err(failed)?;
        Ok(IdSource { last: Id::ZERO, mark_ms: 0, file })
    }

    /// Goes on after a predecessor's last id. The mark on disk is the predecessor's.
    pub fn restore(&mut self, last: Id, mark_ms: u64) {
        (self.last, self.mark_ms) = (last, mark_ms);
    }

    /// The millisecond up to which the mark on disk covers ids.
    pub fn mark_ms(&self) -> u64 {
        self.mark_ms
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
        let written = self.file.write_at(mark_line(mark_ms).as_bytes(), 0);
        written.map_err(|source| {
            let path = self.file.path().display().to_string();
            MarkError::Io { what: "write", path, source }
        })?;
        self.mark_ms = mark_ms;
        Ok(())
    }
}

/// The line of a mark; all lines have the same length.
fn mark_line(mark_ms: u64) -> String {
    format!("{mark_ms:014} {:08x}\n", checksum(mark_ms))
}

/// A checksum of a mark (FNV-1a), by which damage of any of its digits is noticed.
fn checksum(mark_ms: u64) -> u32 {
    mark_ms.to_be_bytes().iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Reads a mark, with or without a checksum.
fn read_mark(text: &str, path: &Path, now_ms: u64) -> Result<u64, MarkError> {
    let damaged = || MarkError::Damaged { path: path.display().to_string(), found: text.chars().take(40).collect() };
    let (digits, sum) = match text.trim().split_once(' ') {
        Some((digits, sum)) => (digits, Some(sum)),
        None => (text.trim(), None),
    };
    let mark_ms = digits.parse().ok().filter(|ms| *ms < Id::MAX.ms()).ok_or_else(damaged)?;
    if sum.is_some_and(|sum| u32::from_str_radix(sum, 16) != Ok(checksum(mark_ms))) {
        return Err(damaged());
    }
    let ahead_max_ms = if sum.is_some() { AHEAD_MAX_MS } else { UNCHECKED_AHEAD_MAX_MS };
    let ahead_ms = mark_ms.saturating_sub(now_ms);
    if ahead_ms > ahead_max_ms {
        return Err(MarkError::Implausible { path: path.display().to_string(), ahead_days: ahead_ms / DAY_MS });
    }
    Ok(mark_ms)
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
            let written = StateFile::open(&path).unwrap().written_ms();
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
    fn a_damaged_mark_is_an_error_not_a_zero_and_no_other_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ids");
        let line = mark_line(1_000_000);
        let mut damaged = vec!["abc".to_owned(), u64::MAX.to_string(), Id::MAX.ms().to_string()];
        // Each digit of a mark, and each of its checksum.
        for place in (0..line.len() - 1).filter(|place| line.as_bytes()[*place] != b' ') {
            let mut other = line.clone().into_bytes();
            other[place] = if other[place] == b'7' { b'6' } else { b'7' };
            damaged.push(String::from_utf8(other).unwrap());
        }
        for mark in damaged {
            std::fs::write(&path, &mark).unwrap();
            let error = IdSource::open(&path, 1_000_000).unwrap_err();
            assert!(matches!(error, MarkError::Damaged { .. }), "{mark}: {error}");
        }
        std::fs::write(&path, line).unwrap();
        assert_eq!(IdSource::open(&path, 5).unwrap().last(), Id::new(1_000_001, 0));
    }

    #[test]
    fn a_mark_far_ahead_of_the_clock_is_refused_and_one_without_a_checksum_sooner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ids");
        let now_ms = 1_700_000_000_000;
        let opened = |text: String| {
            std::fs::write(&path, text).unwrap();
            IdSource::open(&path, now_ms)
        };
        for (days, sum) in [(1, false), (400, true)] {
            let text = |ms: u64| if sum { mark_line(ms) } else { format!("{ms}\n") };
            assert_eq!(opened(text(now_ms + days * DAY_MS)).unwrap().last().ms(), now_ms + days * DAY_MS + 1);
            let error = opened(text(now_ms + (days + 1) * DAY_MS)).unwrap_err();
            assert!(matches!(error, MarkError::Implausible { ahead_days, .. } if ahead_days == days + 1), "{error}");
        }
    }

    #[test]
    fn a_mark_needs_no_room_and_no_descriptor_and_stays_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ids");
        std::fs::write(&path, "1000000\n").unwrap();
        let mut ids = IdSource::open(&path, 1_000_000).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
        let before = inode(&path);
        for round in 0..3 {
            ids.reserve(1_000_000 + round * RESERVE_MS).unwrap();
            assert_eq!((inode(&path), std::fs::read(&path).unwrap().len()), (before, mark_line(0).len()));
        }
    }
}
