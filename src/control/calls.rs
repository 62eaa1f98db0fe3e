//! The control thread's connections to the feed, by which it commands the hub as a backend does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::logic::json;

/// How long the hub may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The hub refused the command.
    #[error("{message}")]
    Refused {
        /// A word for programs.
        code: String,
        /// A sentence for people.
        message: String,
    },
    /// The command is longer than the hub reads.
    #[error("as a line of the feed this has {length} bytes, and [feed] max_line is {max}")]
    TooLong {
        /// The command's length, in bytes.
        length: usize,
        /// The longest length allowed.
        max: usize,
    },
    /// The hub did not answer in time. It may still carry the command out.
    #[error("the hub did not answer in time, and may still do it; a shard may be overloaded")]
    Late,
    /// The hub has ended.
    #[error("the hub has ended; the server is going away")]
    Gone,
}

/// An answer's members, each as the hub wrote it.
pub(super) type Answer = BTreeMap<String, Box<RawValue>>;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A connection to the feed on which several commands may be under way.
pub(super) struct Feed {
    /// Lines to be written, each with its command's number. A task of its own writes them, so that a command that is given
    /// up does not leave half a line. The queue holds one line; further ones wait with their commands.
    lines: mpsc::Sender<(u64, Vec<u8>)>,
    waiting: Waiting,
    next: AtomicU64,
    max_line: usize,
}

/// Locks a mutex, also if a thread has panicked while it held it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Takes a connection, and starts the tasks that write commands of `max_line` bytes at most and read answers. A line
    /// that answers no command goes to `hear`.
    ///
    /// # Errors
    /// If the connection cannot be used without blocking.
    pub(super) fn new(
        stream: std::os::unix::net::UnixStream,
        max_line: usize,
        hear: impl Fn(Answer) + Send + 'static,
    ) -> io::Result<Feed> {
        stream.set_nonblocking(true)?;
        let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
        let waiting = Waiting::default();
        let answers = waiting.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(answer) = serde_json::from_str::<Answer>(&line) else { continue };
                let Some(reference) = answer.get("ref") else {
                    hear(answer);
                    continue;
                };
                let reference: Option<u64> = reference.get().parse().ok();
                let sender = reference.and_then(|reference| lock(&answers).remove(&reference));
                // The command may have been given up.
                let _ = sender.map(|sender| sender.send(answer));
            }
            lock(&answers).clear();
        });
        let wanted = waiting.clone();
        let (lines, mut waiting_lines) = mpsc::channel::<(u64, Vec<u8>)>(1);
        tokio::spawn(async move {
            while let Some((reference, line)) = waiting_lines.recv().await {
                // A command that was given up meanwhile must not be carried out, because its client may send it again.
                let is_wanted = lock(&wanted).contains_key(&reference);
                if is_wanted && writer.write_all(&line).await.is_err() {
                    break;
                }
            }
        });
        Ok(Feed { lines, waiting, next: AtomicU64::new(1), max_line })
    }

    /// Sends a command with its members, an object, and waits for its answer.
    pub(super) async fn call(&self, op: &str, members: &impl Serialize) -> Result<Answer, CallError> {
        let reference = self.next.fetch_add(1, Ordering::Relaxed);
        let mut line = Vec::new();
        json::write(&Line { op, reference, members }, &mut line);
        // A value that is sent as it came may have line breaks, but only as white space between its tokens.
        line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        // The hub's answer to a line that is too long has no `ref`.
        if line.len() > self.max_line {
            return Err(CallError::TooLong { length: line.len(), max: self.max_line });
        }
        line.push(b'\n');
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(reference, sender);
        let forget = Forget { waiting: &self.waiting, reference };
        let answered = async {
            self.lines.send((reference, line)).await.map_err(|_| CallError::Gone)?;
            answer.await.map_err(|_| CallError::Gone)
        };
        let answer = tokio::time::timeout(ANSWER_MAX, answered).await;
        drop(forget);
        let mut answer = answer.map_err(|_| CallError::Late)??;
        let Some(error) = answer.get("error") else {
            // These members belong to the feed.
            answer.remove("ref");
            answer.remove("ok");
            return Ok(answer);
        };
        let error: Value = serde_json::from_str(error.get()).unwrap_or_default();
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        Err(CallError::Refused { code: text("code"), message: text("message") })
    }
}

/// A command as it stands on the feed.
#[derive(Serialize)]
struct Line<'a, M> {
    op: &'a str,
    #[serde(rename = "ref")]
    reference: u64,
    #[serde(flatten)]
    members: &'a M,
}

/// Forgets a command when its answer is no longer waited for.
struct Forget<'a> {
    waiting: &'a Waiting,
    reference: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.reference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A feed whose far end is held here, and which takes lines of a mebibyte.
    fn feed() -> (Arc<Feed>, BufReader<UnixStream>) {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        (Arc::new(Feed::new(near, 1 << 20, drop).unwrap()), BufReader::new(UnixStream::from_std(far).unwrap()))
    }

    async fn next_line(far: &mut BufReader<UnixStream>) -> Value {
        let mut line = String::new();
        far.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    #[tokio::test]
    async fn a_command_that_was_given_up_is_not_carried_out() {
        let (feed, mut far) = feed();
        // More than the socket takes, so that the first line is being written until the far end reads.
        let publish = |number: usize| {
            let feed = feed.clone();
            let members = json!({ "channel": "a", "data": "x".repeat(900_000), "number": number });
            tokio::spawn(async move { feed.call("publish", &members).await })
        };
        let calls: Vec<_> = (0..6).map(publish).collect();
        far.get_ref().readable().await.unwrap();
        while lock(&feed.waiting).len() < calls.len() {
            tokio::task::yield_now().await;
        }
        for call in calls {
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
        }
        assert!(lock(&feed.waiting).is_empty());
        let asker = feed.clone();
        let last = tokio::spawn(async move { asker.call("stats", &json!({})).await });
        // The line that was being written is written to its end; the lines behind it are not written.
        assert_eq!(next_line(&mut far).await["number"], 0);
        let line = next_line(&mut far).await;
        assert_eq!(line["op"], "stats");
        let answer = format!("{{\"ref\":{},\"ok\":true,\"stats\":1}}\n", line["ref"]);
        far.get_mut().write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(last.await.unwrap().unwrap()["stats"].get(), "1");
    }

    #[tokio::test]
    async fn a_line_is_at_most_as_long_as_the_hub_reads() {
        let (feed, mut far) = feed();
        // The op, a `ref` of one digit, and the quotation marks.
        let around = "{\"op\":\"publish\",\"ref\":1,\"data\":\"\"}".len();
        let call = |length: usize| json!({ "data": "x".repeat(length - around) });
        let error = feed.call("publish", &call((1 << 20) + 1)).await.unwrap_err();
        assert!(matches!(error, CallError::TooLong { length: 1_048_577, max: 1_048_576 }), "{error}");
        let fits = call(1 << 20);
        let sent = tokio::spawn(async move { feed.call("publish", &fits).await });
        let line = next_line(&mut far).await;
        assert_eq!(line.to_string().len(), 1 << 20);
        sent.abort();
    }
}
