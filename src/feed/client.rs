//! A blocking client of the feed: for the command line, the demo, the bench and tests.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// How long the server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Why a command has no answer, or was refused.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The socket cannot be connected to.
    #[error("cannot connect to the feed at {path}: {hint}")]
    Connect {
        /// The socket's path.
        path: String,
        /// The kernel's error, with a remedy where there is one.
        hint: String,
    },
    /// The connection broke.
    #[error("the connection to the feed broke: {0}")]
    Io(#[from] io::Error),
    /// The server refused the command.
    #[error("{message} ({code})")]
    Refused {
        /// The code, for programs.
        code: String,
        /// The message, for people.
        message: String,
    },
    /// The server sent a line that is not an answer.
    #[error("the server sent a line that is not JSON: {0}")]
    Nonsense(String),
}

/// A connection to the feed.
#[derive(Debug)]
pub struct FeedClient {
    reader: BufReader<UnixStream>,
    next_reference: u64,
}

impl FeedClient {
    /// Connects to the feed's socket.
    ///
    /// # Errors
    /// If the socket cannot be connected to.
    pub fn connect(path: &Path) -> Result<FeedClient, FeedError> {
        let failed = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => {
                    "there is no such socket; is the server running, and is this its feed?".into()
                }
                io::ErrorKind::ConnectionRefused => "no server listens there; is it running?".into(),
                io::ErrorKind::PermissionDenied => {
                    "this user may not; see [feed] mode and group in the server's configuration".into()
                }
                _ => error.to_string(),
            };
            FeedError::Connect { path: path.display().to_string(), hint }
        };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(FeedClient { reader: BufReader::new(stream), next_reference: 1 })
    }

    /// Sends a command, an object without a `ref`, with a `ref` of its own, and waits for its answer.
    ///
    /// # Errors
    /// If the connection breaks, or the server refuses the command.
    pub fn call(&mut self, command: impl Serialize) -> Result<Value, FeedError> {
        let reference = self.send(command)?;
        loop {
            let answer = self.receive()?;
            if answer["ref"] == reference {
                return check(answer);
            }
            if answer["ref"].is_null() {
                check(answer)?;
            }
        }
    }

    /// Sends a command without waiting for its answer; returns its `ref`.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn send(&mut self, command: impl Serialize) -> Result<u64, FeedError> {
        let reference = self.next_reference;
        self.next_reference += 1;
        let command = serde_json::to_string(&command).map_err(io::Error::from)?;
        // A command is an object with at least its `op`.
        let members = command.strip_prefix('{').unwrap_or("}");
        let line = format!("{{\"ref\":{reference},{members}\n");
        self.reader.get_mut().write_all(line.as_bytes())?;
        Ok(reference)
    }

    /// Lets [`Self::receive`] wait for ever, as connections that listen need it.
    ///
    /// # Errors
    /// If the kernel refuses to set this.
    pub fn wait_for_ever(&mut self) -> Result<(), FeedError> {
        Ok(self.reader.get_mut().set_read_timeout(None)?)
    }

    /// The next line from the server, whichever command it answers.
    ///
    /// # Errors
    /// If the connection breaks, or the line is not JSON.
    pub fn receive(&mut self) -> Result<Value, FeedError> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        serde_json::from_str(&line).map_err(|_| FeedError::Nonsense(line))
    }
}

/// Turns an answer with the member `error` into an error.
///
/// # Errors
/// If the answer is a refusal.
pub fn check(answer: Value) -> Result<Value, FeedError> {
    let Some(error) = answer.get("error") else { return Ok(answer) };
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_string();
    Err(FeedError::Refused { code: text("code"), message: text("message") })
}
