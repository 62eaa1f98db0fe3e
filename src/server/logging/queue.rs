//! The queue of log lines, and the thread that writes them: only that thread ever waits for the log's reader.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tracing::warn;

use crate::figures::ServerFigures;

/// Lines that may wait to be written.
const LINES_MAX: usize = 16_384;
/// Bytes of lines that may wait to be written.
const BYTES_MAX: usize = 4 << 20;
/// Bytes that are written with one system call, unless one line is longer.
const BATCH_BYTES: usize = 64 << 10;
/// The interval at which dropped lines are reported in the log.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The pause before the next try if the output is in non-blocking mode and takes nothing.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The queue's end for the threads that log. Handing over a line never waits.
#[derive(Clone)]
pub(in crate::server) struct Lines {
    sender: Sender<Vec<u8>>,
    progress: Arc<Progress>,
}

/// The state of the queue, which the writer and the threads that log share.
struct Progress {
    /// Lines that were handed over.
    given: AtomicU64,
    /// Lines that were written or dropped.
    done: AtomicU64,
    /// Bytes of lines that wait.
    waiting_bytes: AtomicUsize,
    begun: Instant,
    /// The time at which the output last took bytes, in milliseconds since `begun` and one more; 0 while nothing is being
    /// written.
    writing_since_ms: AtomicU64,
    figures: Arc<ServerFigures>,
}

impl Progress {
    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64 + 1
    }

    fn drop_lines(&self, lines: u64) {
        self.figures.log_lines_dropped.fetch_add(lines, Ordering::Relaxed);
        self.done.fetch_add(lines, Ordering::Release);
    }
}

impl Lines {
    /// Hands a line to the writer; a line for which there is no room is dropped and counted.
    pub(super) fn give(&self, line: &[u8]) {
        let Progress { given, waiting_bytes, .. } = &*self.progress;
        given.fetch_add(1, Ordering::Relaxed);
        let is_room = waiting_bytes.fetch_add(line.len(), Ordering::Relaxed) + line.len() <= BYTES_MAX;
        if !is_room || self.sender.try_send(line.to_vec()).is_err() {
            waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.progress.drop_lines(1);
        }
    }

    /// Waits until the lines that were handed over until now are written, for `wait` at most; returns whether they are.
    pub(in crate::server) fn flush(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let given = self.progress.given.load(Ordering::Acquire);
        while self.progress.done.load(Ordering::Acquire) < given {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// The time for which the log's reader has taken nothing although a line is being written.
    pub(in crate::server) fn waiting(&self) -> Duration {
        match self.progress.writing_since_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.progress.now_ms().saturating_sub(since)),
        }
    }
}

/// Starts the thread that writes lines to `output`, and returns the queue to it.
///
/// # Errors
/// If the thread cannot be started.
pub(super) fn start(output: File, figures: Arc<ServerFigures>) -> io::Result<Lines> {
    let (sender, lines) = crossbeam_channel::bounded(LINES_MAX);
    let progress = Arc::new(Progress {
        given: AtomicU64::new(0),
        done: AtomicU64::new(0),
        waiting_bytes: AtomicUsize::new(0),
        begun: Instant::now(),
        writing_since_ms: AtomicU64::new(0),
        figures,
    });
    let mut writer = Writer { output, lines, progress: progress.clone(), reported: 0, reported_at: Instant::now() };
    std::thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
    Ok(Lines { sender, progress })
}

/// The thread that writes lines, and what the log has been told of dropped ones.
struct Writer {
    output: File,
    lines: Receiver<Vec<u8>>,
    progress: Arc<Progress>,
    /// Dropped lines that the log tells of.
    reported: u64,
    reported_at: Instant,
}

impl Writer {
    /// Writes lines until no thread can log any more.
    fn run(&mut self) {
        let mut batch = Vec::new();
        loop {
            let first = match self.has_dropped() {
                false => self.lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
                true => self.lines.recv_deadline(self.reported_at + REPORT_EVERY),
            };
            match first {
                Ok(line) => self.write(line, &mut batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.has_dropped() && self.reported_at.elapsed() >= REPORT_EVERY {
                self.report();
            }
        }
    }

    /// Writes a line, and with it those that wait behind it.
    fn write(&mut self, first: Vec<u8>, batch: &mut Vec<u8>) {
        batch.clear();
        let mut lines = 0;
        for line in std::iter::once(first).chain(self.lines.try_iter()) {
            lines += 1;
            batch.extend_from_slice(&line);
            if batch.len() >= BATCH_BYTES {
                break;
            }
        }
        let result = self.write_all(batch);
        self.progress.waiting_bytes.fetch_sub(batch.len(), Ordering::Relaxed);
        self.progress.writing_since_ms.store(0, Ordering::Relaxed);
        match result {
            Ok(()) => drop(self.progress.done.fetch_add(lines, Ordering::Release)),
            // The reader has gone. Another one may come if the output is a named pipe.
            Err(_) => self.progress.drop_lines(lines),
        }
        if batch.capacity() > 2 * BATCH_BYTES {
            batch.shrink_to(BATCH_BYTES);
        }
    }

    /// Writes bytes, and notes whenever the output takes some.
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.note_progress();
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    bytes = &bytes[taken..];
                    self.note_progress();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn note_progress(&self) {
        self.progress.writing_since_ms.store(self.progress.now_ms(), Ordering::Relaxed);
    }

    fn has_dropped(&self) -> bool {
        self.progress.figures.log_lines_dropped.load(Ordering::Relaxed) > self.reported
    }

    /// Logs the number of lines that were dropped since the last report.
    fn report(&mut self) {
        let dropped = self.progress.figures.log_lines_dropped.load(Ordering::Relaxed);
        warn!(
            lines = dropped - self.reported,
            "log lines were dropped because the log's reader did not take them in time"
        );
        self.reported_at = Instant::now();
        // A report that was dropped itself is made again.
        if self.progress.figures.log_lines_dropped.load(Ordering::Relaxed) == dropped {
            self.reported = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    const LONG: Duration = Duration::from_secs(20);

    fn queue() -> (Lines, UnixStream, Arc<ServerFigures>) {
        let (output, reader) = UnixStream::pair().unwrap();
        let figures = Arc::new(ServerFigures::default());
        (start(OwnedFd::from(output).into(), figures.clone()).unwrap(), reader, figures)
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let (lines, mut reader, figures) = queue();
        for number in 0..1000 {
            lines.give(format!("{number}\n").as_bytes());
        }
        assert!(lines.flush(LONG));
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        let mut read = vec![0; expected.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read == expected.as_bytes());
        assert_eq!((figures.log_lines_dropped.load(Ordering::Relaxed), lines.waiting()), (0, Duration::ZERO));
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (lines, mut reader, figures) = queue();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let count = 3 * BYTES_MAX / line.len();
        for _ in 0..count {
            lines.give(&line);
        }
        let dropped = figures.log_lines_dropped.load(Ordering::Relaxed);
        assert!(dropped > count as u64 / 3, "{dropped} of {count}");
        assert!(!lines.flush(Duration::from_millis(20)));
        let deadline = Instant::now() + LONG;
        while lines.waiting() < Duration::from_millis(50) {
            assert!(Instant::now() < deadline, "the wait is not seen");
            std::thread::sleep(Duration::from_millis(1));
        }
        // Everything that was not dropped is written once the reader goes on.
        let mut read = vec![0; (count - dropped as usize) * line.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read.chunks(line.len()).all(|read| read == line));
        assert!(lines.flush(LONG));
        assert_eq!(lines.progress.waiting_bytes.load(Ordering::Relaxed), 0);
        lines.give(b"again\n");
        let mut again = [0; 6];
        reader.read_exact(&mut again).unwrap();
        assert_eq!(&again, b"again\n");
    }

    #[test]
    fn lines_for_a_reader_that_has_gone_are_dropped() {
        let (lines, reader, figures) = queue();
        drop(reader);
        lines.give(b"x\n");
        assert!(lines.flush(LONG));
        assert_eq!(figures.log_lines_dropped.load(Ordering::Relaxed), 1);
    }
}
