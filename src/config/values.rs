//! The types of values that are neither numbers nor texts.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The permissions of a socket's file, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let is_octal = !text.is_empty() && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        mode.map(Mode).ok_or_else(|| format!("{text:?} is no octal mode; write one such as \"0660\""))
    }
}

/// The source of ids and order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BackplaneKind {
    /// This process.
    #[default]
    Local,
    /// A stream of Redis or Valkey.
    Redis,
    /// A stream of NATS JetStream.
    Nats,
}

/// The server that a node reads the log from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ReadFrom {
    /// The one that entries are written to.
    #[default]
    Primary,
    /// One of its replicas.
    Replica,
}

/// The place in which a broker keeps the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Its disk.
    #[default]
    File,
    /// Its memory: the log is lost when the server ends.
    Memory,
}

/// The number of replicas that must have an entry before it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicas {
    /// One if Sentinels watch over the primary, else none.
    #[default]
    Auto,
    /// So many.
    Count(u32),
}

impl Replicas {
    /// The number, by whether Sentinels watch over the primary.
    pub fn count(self, is_watched: bool) -> u32 {
        match self {
            Replicas::Auto => u32::from(is_watched),
            Replicas::Count(count) => count,
        }
    }
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Replicas::Auto => f.write_str("auto"),
            Replicas::Count(count) => count.fmt(f),
        }
    }
}

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Replicas, String> {
        match text {
            "auto" => Ok(Replicas::Auto),
            _ => text.parse().map(Replicas::Count).map_err(|_| format!("{text:?} is neither \"auto\" nor a number")),
        }
    }
}

/// The decision about a client that the backend was asked about and did not answer for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The client is refused.
    #[default]
    Deny,
    /// The client is let in.
    Allow,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2, with the AEAD suites alone.
    #[default]
    #[serde(rename = "1.2")]
    #[value(name = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    #[value(name = "1.3")]
    V13,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// Clients are not asked for one.
    #[default]
    Off,
    /// Clients are asked for one and may come without.
    Optional,
    /// Clients without one are refused in the handshake.
    Required,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people if the output is a terminal, else as JSON.
    #[default]
    Auto,
    /// A JSON object per line.
    Json,
    /// For people.
    Human,
}

/// The stream that log lines are written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogOutput {
    /// Standard error.
    #[default]
    Stderr,
    /// Standard output.
    Stdout,
}

/// What happens to a client that is further behind than its namespace allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum SlowPolicy {
    /// The client goes on from history in place, and is told of a gap where history does not reach back so far.
    #[default]
    CatchUp,
    /// The client is disconnected, so that it comes back and resumes from history.
    Disconnect,
    /// The client is told of the loss and goes on from the oldest event that is kept.
    Gap,
    /// The client goes on from the newest event.
    Latest,
}

/// The bytes of a budget of memory: those that are configured, or if that is 0 a quarter of what the process may use, and
/// at least `least`. `available` is what the process may use, if that is known.
pub fn memory_budget(configured: usize, available: Option<u64>, least: u64) -> u64 {
    match configured as u64 {
        0 => (available.unwrap_or_default() / 4).max(least),
        bytes => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [("0660", 0o660), ("660", 0o660), ("0", 0), ("777", 0o777)] {
            assert_eq!(text.parse(), Ok(Mode(mode)));
        }
        assert_eq!(Mode(0o660).to_string(), "0660");
        for bad in ["", "rw", "0680", "1000", "+660", "-1"] {
            assert!(bad.parse::<Mode>().is_err(), "{bad}");
        }
    }
}
