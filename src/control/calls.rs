//! The control thread's connections to the feed: it commands the hub as any backend does.

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

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The hub refused.
    #[error("{message}")]
    Refused {
        /// A word for programs.
        code: String,
        /// A sentence for people.
        message: String,
    },
    /// The hub did not answer.
    #[error("the hub did not answer in time; a shard may be overloaded")]
    Late,
    /// The hub is gone.
    #[error("the hub is gone; the server is going away")]
    Gone,
}

/// An answer's members, each as it came.
pub(super) type Answer = BTreeMap<String, Box<RawValue>>;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A connection to the feed on which several commands may be under way.
pub(super) struct Feed {
    /// Lines to be written. Another task writes them: a command that is given up must not leave half a line.
    lines: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Waiting,
    next: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Takes a connection, and writes commands and reads answers for as long as it lasts.
    ///
    /// # Errors
    /// If the connection cannot be used without blocking.
    pub(super) fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Feed> {
        stream.set_nonblocking(true)?;
        let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
        let waiting = Waiting::default();
        let answers = waiting.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(answer) = serde_json::from_str::<Answer>(&line) else { continue };
                let reference = answer.get("ref").and_then(|reference| reference.get().parse().ok());
                let sender = reference.and_then(|reference: u64| lock(&answers).remove(&reference));
                // Whoever asked may have gone.
                let _ = sender.map(|sender| sender.send(answer));
            }
            lock(&answers).clear();
        });
        let (lines, mut waiting_lines) = mpsc::unbounded_channel::<Vec<u8>>();
        tokio::spawn(async move {
            while let Some(line) = waiting_lines.recv().await {
                if writer.write_all(&line).await.is_err() {
                    break;
                }
            }
        });
        Ok(Feed { lines, waiting, next: AtomicU64::new(1) })
    }

    /// Sends a command with its members, an object, and waits for its answer.
    pub(super) async fn call(&self, op: &str, members: &impl Serialize) -> Result<Answer, CallError> {
        let reference = self.next.fetch_add(1, Ordering::Relaxed);
        let mut line = Vec::new();
        json::write(&Line { op, reference, members }, &mut line);
        // Within a value that is sent as it came a line break is nothing but white space.
        line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        line.push(b'\n');
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(reference, sender);
        let forget = Forget { waiting: &self.waiting, reference };
        self.lines.send(line).map_err(|_| CallError::Gone)?;
        let answer = tokio::time::timeout(ANSWER_MAX, answer).await;
        drop(forget);
        let mut answer = answer.map_err(|_| CallError::Late)?.map_err(|_| CallError::Gone)?;
        let Some(error) = answer.get("error") else {
            // They belong to the feed alone.
            answer.remove("ref");
            answer.remove("ok");
            return Ok(answer);
        };
        let error: Value = serde_json::from_str(error.get()).unwrap_or_default();
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        Err(CallError::Refused { code: text("code"), message: text("message") })
    }
}

/// A command as it is sent.
#[derive(Serialize)]
struct Line<'a, M> {
    op: &'a str,
    #[serde(rename = "ref")]
    reference: u64,
    #[serde(flatten)]
    members: &'a M,
}

/// Forgets a command whose answer nobody waits for any more.
struct Forget<'a> {
    waiting: &'a Waiting,
    reference: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.reference);
    }
}
