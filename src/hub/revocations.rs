//! Revocations on disk, so that revoked tokens stay refused after a restart.
//!
//! The file has a line for each revocation, `SECONDS "ID"`, which is appended when the token is revoked and outlives a crash
//! of the process right after. Revocations that have ended are left out when the file is written anew: at a start, and
//! whenever the file has twice the lines that it had then. While the server runs this is done some lines at a time, to a
//! second file that takes the first one's place.
//!
//! A revocation that cannot be written is tried again until it can.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use arcstr::ArcStr;

use super::state_file::StateFile;
use crate::logic::auth::Revoked;

/// Lines that a file may have, at least, before it is written anew.
const LINES_MIN: usize = 1024;
/// Lines that are written at a time while the server runs.
const LINES_AT_ONCE: usize = 1000;

/// The reason why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationsError {
    /// The file could not be read or written.
    #[error("cannot {what} {path}, which keeps revoked tokens refused: {source}")]
    Io {
        /// The call that failed: "open", "read" or "write".
        what: &'static str,
        /// The path of the file.
        path: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A line of the file is no revocation.
    #[error(
        "line {line} of {path} should be seconds since 1970 and a token's id in quotes; remove the line, or the file"
    )]
    Malformed {
        /// The path of the file.
        path: String,
        /// The line's number, counted from 1.
        line: usize,
    },
}

/// A file with a line per revocation.
#[derive(Debug)]
struct Lines {
    file: StateFile,
    /// The bytes of whole lines: half a line after them is written over.
    length: u64,
    count: usize,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Lines> {
        Ok(Lines { file: StateFile::open(path)?, length: 0, count: 0 })
    }

    /// Appends lines. Returns whether the file had lost its name, and with it all lines before.
    fn append(&mut self, text: &str, count: usize) -> io::Result<bool> {
        let is_new = self.file.write_at(text.as_bytes(), self.length)?;
        if is_new {
            (self.length, self.count) = (0, 0);
        }
        self.length += text.len() as u64;
        self.count += count;
        Ok(is_new)
    }
}

/// The file that is being written anew.
#[derive(Debug)]
struct Anew {
    lines: Lines,
    /// The revocation that was copied last.
    last: Option<(u64, ArcStr)>,
    /// The thread that waits for the disk, once all is copied.
    syncing: Option<JoinHandle<io::Result<()>>>,
}

/// All revocations, in memory and on disk; by default in memory only.
#[derive(Debug, Default)]
pub struct Revocations {
    known: Revoked,
    path: PathBuf,
    lines: Option<Lines>,
    /// Lines from which on the file is written anew.
    lines_max: usize,
    anew: Option<Anew>,
    /// Revocations that could not be written yet.
    unwritten: Vec<(ArcStr, u64)>,
}

impl Revocations {
    /// Reads the revocations that have not ended at `now_s`, in seconds since 1970.
    ///
    /// # Errors
    /// If the file cannot be read or written, or holds something else than revocations.
    pub fn open(path: &Path, now_s: u64) -> Result<Revocations, RevocationsError> {
        let mut lines = Lines::open(path).map_err(|source| failed("open", path, source))?;
        let bytes = lines.file.read().map_err(|source| failed("read", path, source))?;
        let mut read = Vec::new();
        // A last line without its end was cut short by a power failure or a full disk.
        for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let malformed = || RevocationsError::Malformed { path: path.display().to_string(), line: read.len() + 1 };
            let entry = parse(line).ok_or_else(malformed)?;
            read.push(entry);
        }
        lines.count = read.len();
        let known = Revoked::collect(read, now_s);
        let is_whole = bytes.last().is_none_or(|byte| *byte == b'\n') && known.len() == lines.count;
        lines.length = bytes.len() as u64;
        let mut revocations = Revocations { known, path: path.into(), ..Revocations::default() };
        if !is_whole {
            lines = revocations.write_all().map_err(|source| failed("write", path, source))?;
        }
        revocations.lines_max = LINES_MIN.max(lines.count * 2);
        revocations.lines = Some(lines);
        Ok(revocations)
    }

    /// Opens the file of a predecessor that still runs, without reading or writing it. The revocations come by
    /// `restore`.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn of_predecessor(path: &Path) -> Result<Revocations, RevocationsError> {
        let lines = Lines::open(path).map_err(|source| failed("open", path, source))?;
        Ok(Revocations { path: path.into(), lines: Some(lines), lines_max: LINES_MIN, ..Revocations::default() })
    }

    /// Adds a revocation of a predecessor, which the file has unless it `is_unwritten`.
    pub(super) fn restore(&mut self, id: ArcStr, until_s: u64, is_unwritten: bool) {
        if is_unwritten {
            self.unwritten.push((id.clone(), until_s));
        }
        self.known.add(id, until_s);
    }

    /// Goes on behind the lines that a predecessor has written.
    pub(super) fn restore_extent(&mut self, bytes: u64, count: u64) {
        let Some(lines) = &mut self.lines else { return };
        (lines.length, lines.count) = (bytes, count as usize);
        self.lines_max = LINES_MIN.max(lines.count * 2);
    }

    /// The bytes and the number of the file's lines.
    pub(super) fn extent(&self) -> (u64, u64) {
        self.lines.as_ref().map_or((0, 0), |lines| (lines.length, lines.count as u64))
    }

    /// All revocations, each with the time of its end and whether it is not written yet.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ArcStr, u64, bool)> {
        let unwritten: std::collections::HashSet<&ArcStr> = self.unwritten.iter().map(|(id, _)| id).collect();
        self.known.iter().map(move |(id, until_s)| (id, until_s, unwritten.contains(id)))
    }

    /// The tokens that are refused.
    pub fn known(&self) -> &Revoked {
        &self.known
    }

    /// Adds the revocation of a token, which is refused until `until_s`, in seconds since 1970.
    ///
    /// # Errors
    /// If the file cannot be written; the token is refused all the same, until the process ends.
    pub fn add(&mut self, id: &ArcStr, until_s: u64) -> Result<(), RevocationsError> {
        self.known.add(id.clone(), until_s);
        self.write(&line(id, until_s), 1).map_err(|source| {
            self.unwritten.push((id.clone(), until_s));
            failed("write", &self.path, source)
        })
    }

    /// Does some of what is left to do: writes revocations that could not be written before, forgets those that are over
    /// at `now_s`, and writes the file anew.
    ///
    /// # Errors
    /// If a file cannot be written; this is tried again with the next call.
    pub fn go_on(&mut self, now_s: u64) -> Result<(), RevocationsError> {
        self.known.tidy(now_s);
        let count = self.unwritten.len().min(LINES_AT_ONCE);
        if count > 0 {
            let rest = self.unwritten.len() - count;
            let text: String = self.unwritten[rest..].iter().map(|(id, until_s)| line(id, *until_s)).collect();
            self.write(&text, count).map_err(|source| failed("write", &self.path, source))?;
            self.unwritten.drain(rest..rest + count);
        }
        self.go_on_anew().map_err(|source| {
            // The old file has everything, and is kept until there is room for another one.
            self.anew = None;
            failed("write", &self.path, source)
        })
    }

    /// Appends lines to the file, and to the one that is to take its place.
    fn write(&mut self, text: &str, count: usize) -> io::Result<()> {
        let Some(lines) = &mut self.lines else { return Ok(()) };
        if lines.append(text, count)? {
            // The file was removed from outside: the new one must have every revocation.
            self.unwritten = self.known.iter().map(|(id, until_s)| (id.clone(), until_s)).collect();
        }
        if let Some(anew) = &mut self.anew
            && anew.lines.append(text, count).is_err()
        {
            self.anew = None;
        }
        Ok(())
    }

    fn path_anew(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".new");
        path.into()
    }

    /// Writes the whole file anew at once, for a start.
    fn write_all(&self) -> io::Result<Lines> {
        let mut lines = Lines::open(&self.path_anew())?;
        let text: String = self.known.iter().map(|(id, until_s)| line(id, until_s)).collect();
        lines.append(&text, self.known.len())?;
        lines.file.cut(lines.length)?;
        lines.file.descriptor()?.sync_data()?;
        lines.file.rename(&self.path)?;
        Ok(lines)
    }

    /// Takes the next step of writing the file anew, if it is time for that.
    fn go_on_anew(&mut self) -> io::Result<()> {
        let Some(mut anew) = self.anew.take() else {
            if self.lines.as_ref().is_some_and(|lines| lines.count >= self.lines_max) {
                let lines = Lines::open(&self.path_anew())?;
                lines.file.cut(0)?;
                self.anew = Some(Anew { lines, last: None, syncing: None });
            }
            return Ok(());
        };
        match anew.syncing.take() {
            None => {
                let next: Vec<_> = self.known.after(anew.last.as_ref()).take(LINES_AT_ONCE).cloned().collect();
                let text: String = next.iter().map(|(until_s, id)| line(id, *until_s)).collect();
                anew.lines.append(&text, next.len())?;
                anew.last = next.last().cloned();
                // Revocations that come later are appended to both files.
                if next.len() < LINES_AT_ONCE {
                    let file = anew.lines.file.descriptor()?;
                    let sync = move || file.sync_data();
                    anew.syncing = Some(std::thread::Builder::new().name("revocations".into()).spawn(sync)?);
                }
                self.anew = Some(anew);
            }
            Some(thread) if thread.is_finished() => {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("the thread that waits for the disk has ended")))?;
                anew.lines.file.rename(&self.path)?;
                self.lines_max = LINES_MIN.max(anew.lines.count * 2);
                self.lines = Some(anew.lines);
            }
            Some(thread) => {
                anew.syncing = Some(thread);
                self.anew = Some(anew);
            }
        }
        Ok(())
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> RevocationsError {
    RevocationsError::Io { what, path: path.display().to_string(), source }
}

fn line(id: &str, until_s: u64) -> String {
    format!("{until_s} {}\n", serde_json::Value::from(id))
}

fn parse(line: &[u8]) -> Option<(ArcStr, u64)> {
    let (until_s, id) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    Some((serde_json::from_str::<String>(id).ok()?.into(), until_s.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn ids(revocations: &Revocations) -> Vec<(String, u64)> {
        let mut ids: Vec<_> = revocations.known().iter().map(|(id, until)| (id.to_string(), until)).collect();
        ids.sort();
        ids
    }

    #[test]
    fn a_revocation_is_known_after_a_crash_until_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.revoked");
        let mut revocations = Revocations::open(&path, 100).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"", "nothing is written where nothing is revoked");
        revocations.add(&"a".into(), 200).unwrap();
        revocations.add(&"two\nlines \"and\" ü".into(), 300).unwrap();
        drop(revocations);
        let mut after = Revocations::open(&path, 150).unwrap();
        assert_eq!(ids(&after), [("a".into(), 200), ("two\nlines \"and\" ü".into(), 300)]);
        after.add(&"b".into(), 400).unwrap();
        drop(after);
        let after = Revocations::open(&path, 200).unwrap();
        assert_eq!(ids(&after), [("b".into(), 400), ("two\nlines \"and\" ü".into(), 300)]);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2, "what is over is left out");
    }

    #[test]
    fn half_a_line_at_the_end_is_left_out_and_any_other_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.revoked");
        // The second text ends within a character.
        for half in [&b"200 \"a\"\n300 \"b"[..], b"200 \"a\"\n300 \"\xc3"] {
            fs::write(&path, half).unwrap();
            assert_eq!(ids(&Revocations::open(&path, 100).unwrap()), [("a".into(), 200)]);
        }
        for damaged in [&b"200 \"a\"\nnonsense\n"[..], b"200 \"a\"\n300 \"\xc3\"\n", b"200 \"a\"\n\n\n"] {
            fs::write(&path, damaged).unwrap();
            let error = Revocations::open(&path, 100).unwrap_err();
            assert!(matches!(error, RevocationsError::Malformed { line: 2, .. }), "{error}");
        }
        fs::write(&path, "200 \"a\"").unwrap();
        assert_eq!(ids(&Revocations::open(&path, 100).unwrap()), []);
    }

    fn line_count(path: &Path) -> usize {
        fs::read_to_string(path).unwrap().lines().count()
    }

    #[test]
    fn the_file_does_not_grow_with_revocations_that_are_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.revoked");
        let mut revocations = Revocations::open(&path, 0).unwrap();
        for second in 0..20_000 {
            revocations.add(&format!("t{second}").into(), second + 10).unwrap();
            revocations.go_on(second).unwrap();
            while revocations.anew.as_ref().and_then(|anew| anew.syncing.as_ref()).is_some_and(|t| !t.is_finished()) {
                std::thread::yield_now();
            }
        }
        let lines = line_count(&path);
        assert!(lines < 2 * LINES_MIN, "{lines} lines for 10 that are not over");
        assert!(revocations.known().contains("t19999", 20_000));
        assert_eq!(Revocations::open(&path, 20_000).unwrap().known().len(), 9);
    }

    #[test]
    fn revocations_that_come_while_the_file_is_written_anew_are_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.revoked");
        let mut revocations = Revocations::open(&path, 0).unwrap();
        for n in 0..3 * LINES_AT_ONCE {
            revocations.add(&format!("old{n}").into(), 100).unwrap();
        }
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
        let before = inode();
        let mut added = 0;
        while inode() == before {
            revocations.go_on(1).unwrap();
            // Before and after those that were copied already.
            for until_s in [50, 150] {
                revocations.add(&format!("new{added}").into(), until_s).unwrap();
                added += 1;
            }
        }
        assert!(added > 6);
        revocations.add(&"after".into(), 100).unwrap();
        let read = Revocations::open(&path, 1).unwrap();
        assert_eq!(ids(&read), ids(&revocations));
    }

    #[test]
    fn a_revocation_that_cannot_be_written_holds_and_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.revoked");
        let mut revocations = Revocations::open(&path, 0).unwrap();
        revocations.add(&"first".into(), 10).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = revocations.add(&"a".into(), 10).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert!(revocations.known().contains("a", 0));
        assert!(revocations.go_on(0).is_err());
        fs::remove_dir(&path).unwrap();
        revocations.go_on(0).unwrap();
        revocations.go_on(0).unwrap();
        revocations.add(&"b".into(), 10).unwrap();
        let all = ["a", "b", "first"].map(|id| (id.to_owned(), 10));
        assert_eq!(ids(&Revocations::open(&path, 0).unwrap()), all, "the lost file's too");
    }

    #[test]
    fn a_start_with_many_lines_reads_each_once_and_leaves_out_those_that_are_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.revoked");
        let text: String = (0..300_000).map(|n| line(&format!("t{n}"), 100 + n % 3)).collect();
        fs::write(&path, text).unwrap();
        let revocations = Revocations::open(&path, 101).unwrap();
        assert_eq!((revocations.known().len(), line_count(&path)), (100_000, 100_000));
    }
}
