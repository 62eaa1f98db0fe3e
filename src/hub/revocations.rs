//! Revocations on disk, so that revoked tokens stay refused after a restart.
//!
//! The file has a line for each revocation, `SECONDS "ID"`, which is appended when the token is revoked and outlives a crash
//! of the process right after. Revocations that have ended are left out when the file is written anew: at a start, and
//! whenever the file has twice the lines that it had then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use arcstr::ArcStr;

use super::state_file::{self, Outlives};
use crate::logic::auth::Revoked;

/// The file's mode: other users need not know which tokens there are.
const MODE: u32 = 0o600;
/// Lines that a file may have, at least, before it is written anew.
const LINES_MIN: usize = 1024;

/// The reason why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationsError {
    /// The file could not be read or written.
    #[error("cannot {what} {path}, which keeps revoked tokens refused: {source}")]
    Io {
        /// The call that failed: "read" or "write".
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

/// All revocations, in memory and on disk; by default in memory only.
#[derive(Debug, Default)]
pub struct Revocations {
    known: Revoked,
    path: Option<PathBuf>,
    /// The file, open from the first revocation on.
    file: Option<File>,
    lines: usize,
    /// Lines from which on the file is written anew.
    lines_max: usize,
}

impl Revocations {
    /// Reads the revocations that have not ended at `now_s`, in seconds since 1970.
    ///
    /// # Errors
    /// If the file cannot be read or written, or holds something else than revocations.
    pub fn open(path: &Path, now_s: u64) -> Result<Revocations, RevocationsError> {
        let mut revocations = Revocations { path: Some(path.into()), lines_max: LINES_MIN, ..Revocations::default() };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(revocations),
            Err(source) => return Err(failed("read", path, source)),
        };
        // A last line without its end was cut short by a power failure or a full disk.
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        for (index, line) in lines.enumerate() {
            let malformed = || RevocationsError::Malformed { path: path.display().to_string(), line: index + 1 };
            let (id, until_s) = parse(line).ok_or_else(malformed)?;
            revocations.known.add(id, until_s);
        }
        revocations.known.tidy(now_s);
        revocations.write_all(path).map_err(|source| failed("write", path, source))?;
        Ok(revocations)
    }

    /// The tokens that are refused.
    pub fn known(&self) -> &Revoked {
        &self.known
    }

    /// Adds the revocation of a token, which is refused until `until_s`, in seconds since 1970.
    ///
    /// # Errors
    /// If the file cannot be written; the token is refused all the same, until the process ends.
    pub fn add(&mut self, id: &ArcStr, until_s: u64, now_s: u64) -> Result<(), RevocationsError> {
        self.known.add(id.clone(), until_s);
        let Some(path) = self.path.clone() else { return Ok(()) };
        let written = if self.lines >= self.lines_max {
            self.known.tidy(now_s);
            self.write_all(&path)
        } else {
            self.append(&path, &line(id, until_s))
        };
        written.map_err(|source| {
            // The file may end with half a line: the next revocation writes it anew.
            self.lines_max = 0;
            failed("write", &path, source)
        })
    }

    fn append(&mut self, path: &Path, line: &str) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(OpenOptions::new().append(true).create(true).mode(MODE).open(path)?),
        };
        file.write_all(line.as_bytes())?;
        self.lines += 1;
        Ok(())
    }

    fn write_all(&mut self, path: &Path) -> io::Result<()> {
        let text: String = self.known.iter().map(|(id, until_s)| line(id, until_s)).collect();
        state_file::replace(path, &text, MODE, Outlives::Host)?;
        self.file = None;
        self.lines = self.known.len();
        self.lines_max = LINES_MIN.max(self.lines * 2);
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
        assert!(!path.exists(), "nothing is written where nothing is revoked");
        revocations.add(&"a".into(), 200, 100).unwrap();
        revocations.add(&"two\nlines \"and\" ü".into(), 300, 100).unwrap();
        drop(revocations);
        let mut after = Revocations::open(&path, 150).unwrap();
        assert_eq!(ids(&after), [("a".into(), 200), ("two\nlines \"and\" ü".into(), 300)]);
        after.add(&"b".into(), 400, 150).unwrap();
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

    #[test]
    fn the_file_does_not_grow_with_revocations_that_are_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.revoked");
        let mut revocations = Revocations::open(&path, 0).unwrap();
        for second in 0..5_000 {
            revocations.add(&format!("t{second}").into(), second + 10, second).unwrap();
        }
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 3 * LINES_MIN, "{lines} lines for 10 that are not over");
        assert!(revocations.known().contains("t4999", 5_000));
    }

    #[test]
    fn a_revocation_that_cannot_be_written_holds_and_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let path = state.join("x.revoked");
        let mut revocations = Revocations::open(&path, 0).unwrap();
        let error = revocations.add(&"a".into(), 10, 0).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert!(revocations.known().contains("a", 0));
        fs::create_dir(&state).unwrap();
        revocations.add(&"b".into(), 10, 0).unwrap();
        assert_eq!(ids(&Revocations::open(&path, 0).unwrap()), [("a".into(), 10), ("b".into(), 10)]);
    }
}
