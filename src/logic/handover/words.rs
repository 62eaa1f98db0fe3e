//! The words with which a server and its successor agree, each a message of JSON.

use serde::{Deserialize, Serialize};

/// The number of the format of records. It changes only if fields could not carry a change.
pub const FORMAT: u32 = 1;

/// The features of the format that this version knows beside those of [`FORMAT`].
pub const FEATURES: &[&str] = &[];

/// What the process that connects wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// To take everything over.
    TakeOver,
    /// To know whether that could be.
    Probe,
    /// To have everything left with the service manager for the next process.
    Park,
}

/// The first word of the process that connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it wants.
    pub wish: Wish,
    /// The format of records that it reads.
    pub format: u32,
    /// The features that it knows.
    pub features: Vec<String>,
    /// Its version.
    pub version: String,
    /// The number of its shards; 0 in a probe.
    pub shards: usize,
    /// The addresses that it would listen on, those for TLS among them.
    pub listen: Vec<String>,
    /// The folder of its state.
    pub state_dir: String,
}

/// Connections that are not handed over, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetGo {
    /// The reason, as a word.
    pub reason: String,
    /// The number of connections.
    pub connections: u64,
}

/// The running server's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The format of records that it writes.
    pub format: u32,
    /// The features that it knows.
    pub features: Vec<String>,
    /// Its version.
    pub version: String,
    /// The number of its process.
    pub pid: u32,
    /// The number of its shards.
    pub shards: usize,
    /// Its connections of clients.
    pub connections: u64,
    /// Its connections of the feed.
    pub publishers: u64,
    /// The bytes of histories, which both processes hold for a moment.
    pub history_bytes: u64,
    /// The longest time for which it pauses, in milliseconds.
    pub pause_max_ms: u64,
    /// Connections that would not be handed over.
    pub let_go: Vec<LetGo>,
    /// Whether the feed's file is its own, and not the service manager's.
    pub has_feed_file: bool,
    /// The service manager's socket for notifications, which only the service's main process is told.
    #[serde(default)]
    pub notify_socket: Option<String>,
    /// The time within which the service manager wants a sign of life, in microseconds.
    #[serde(default)]
    pub watchdog_us: Option<u64>,
    /// The TCP addresses that it listens on.
    pub addresses: Vec<String>,
    /// The same of those for TLS.
    pub tls_addresses: Vec<String>,
}

/// One word of a process to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub enum Word {
    /// The beginning.
    Hello(Hello),
    /// The running server would hand over.
    Offer(Box<Offer>),
    /// The running server does not, or the successor cannot.
    Refused {
        /// The reason, a sentence without its end.
        reason: String,
    },
    /// The sockets come with it over which the state will come: one for each shard, and then the hub's.
    Carriers,
    /// The successor's threads are waiting.
    Ready,
    /// The descriptors come with it that belong to no thread: this listener, the locks, and the admin listener if there is one.
    Files {
        /// Whether the last one is the admin listener.
        has_admin: bool,
    },
    /// The successor has everything, and has touched nothing.
    Prepared,
    /// The running server's last decision: everything is the successor's.
    Go {
        /// The time for which clients were waited for, in milliseconds.
        #[serde(default)]
        pause_ms: u64,
        /// The connections that are not handed over.
        #[serde(default)]
        left: u64,
    },
}

impl Word {
    /// The word's message.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Text, numbers, lists and booleans cannot fail to be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Word> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_were_written_and_unknown_members_are_skipped() {
        let hello = Hello {
            wish: Wish::TakeOver,
            format: FORMAT,
            features: vec!["x".into()],
            version: "1".into(),
            shards: 2,
            listen: vec!["127.0.0.1:0".into()],
            state_dir: "/x".into(),
        };
        for word in
            [Word::Hello(hello), Word::Ready, Word::Refused { reason: "no".into() }, Word::Go { pause_ms: 3, left: 1 }]
        {
            assert_eq!(Word::from_bytes(&word.to_bytes()), Some(word));
        }
        assert_eq!(
            Word::from_bytes(br#"{"word":"files","has_admin":true,"more":[1]}"#),
            Some(Word::Files { has_admin: true })
        );
        for bad in [&b"{}"[..], b"", b"{\"word\":\"other\"}", b"\xff"] {
            assert_eq!(Word::from_bytes(bad), None);
        }
    }
}
