//! The sections and keys, with their defaults. docs/configuration.md names every one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::logic::event::namespace_of;
use crate::logic::history::HistoryLimits;

use super::address::{ListenAddress, Network};
use super::units;

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[feed]`
    pub feed: Feed,
    /// `[http]`
    pub http: Http,
    /// `[websocket]`
    pub websocket: WebSocket,
    /// `[heartbeat]`
    pub heartbeat: Heartbeat,
    /// `[auth]`
    pub auth: Auth,
    /// `[limits]`
    pub limits: Limits,
    /// `[backplane]`
    pub backplane: Backplane,
    /// `[log]`
    pub log: Log,
    /// `[admin]`
    pub admin: Admin,
    /// `[diagnostics]`
    pub diagnostics: Diagnostics,
    /// `[namespace.NAME]`, as written; [`Config::namespace`] has what holds.
    pub namespace: BTreeMap<String, Namespace>,
    /// Whether to publish and show the demo (a flag, not a key).
    #[serde(skip)]
    pub demo: bool,
}

impl Config {
    /// What holds for a channel: its namespace's own keys, then those of `"*"`, then the defaults.
    pub fn namespace(&self, channel: &str) -> NamespacePolicy {
        let fallback = self.namespace.get("*");
        let own = self.namespace.get(namespace_of(channel)).filter(|_| channel.contains(':'));
        NamespacePolicy::of(own, fallback)
    }
}

/// `[server]`: where to listen and how many clients to take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where clients connect.
    pub listen: Vec<ListenAddress>,
    /// Threads that hold connections; 0 for one per usable core.
    pub shards: usize,
    /// Whether each shard is pinned to a core.
    pub pin: bool,
    /// Connections, over all shards.
    pub max_connections: usize,
    /// Connections from one address; 0 for no limit.
    pub per_address: u32,
    /// How long a client may take for its request.
    #[serde(with = "units::duration")]
    pub handshake_timeout: Duration,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// How long a stopping server takes to let its clients go.
    #[serde(with = "units::duration")]
    pub drain_timeout: Duration,
    /// Where the server keeps what must outlive it; empty for `$STATE_DIRECTORY`, else beside the feed's socket.
    pub state_dir: PathBuf,
    /// The mode of Unix sockets that clients (a proxy) connect to, in octal.
    pub unix_mode: String,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: vec![ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            shards: 0,
            pin: true,
            max_connections: 1_000_000,
            per_address: 0,
            handshake_timeout: Duration::from_secs(10),
            trusted_proxies: Vec::new(),
            drain_timeout: Duration::from_secs(30),
            state_dir: PathBuf::new(),
            unix_mode: "0660".into(),
        }
    }
}

/// `[feed]`: the publishers' socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Feed {
    /// The socket's path; empty for the default place.
    pub path: PathBuf,
    /// The socket's mode, in octal.
    pub mode: String,
    /// The socket's group; empty for the process's.
    pub group: String,
    /// The longest line.
    #[serde(with = "units::size")]
    pub max_line: usize,
    /// Users (names or numbers) who may connect; empty for all whom the mode lets in.
    pub allow_users: Vec<String>,
    /// How long a `key` is remembered.
    #[serde(with = "units::duration")]
    pub idempotency_window: Duration,
    /// How many keys are remembered.
    pub idempotency_keys: usize,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed {
            path: PathBuf::new(),
            mode: "0660".into(),
            group: String::new(),
            max_line: 1 << 20,
            allow_users: Vec::new(),
            idempotency_window: Duration::from_secs(120),
            idempotency_keys: 100_000,
        }
    }
}

/// `[http]`: requests, event streams and polls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// The longest request head.
    #[serde(with = "units::size")]
    pub max_header: usize,
    /// Origins whose pages may read answers: `https://app.example.com`, `https://*.example.com`, `*`.
    pub cors_origins: Vec<String>,
    /// Bytes of comment at the start of an event stream, for proxies that hold back the first kilobytes.
    #[serde(with = "units::size")]
    pub sse_padding: usize,
    /// What event streams are told to wait before reconnecting.
    #[serde(with = "units::duration")]
    pub retry: Duration,
    /// How long a poll without `wait` is held.
    #[serde(with = "units::duration")]
    pub poll_wait: Duration,
    /// How long a poll may be held.
    #[serde(with = "units::duration")]
    pub poll_wait_max: Duration,
}

impl Default for Http {
    fn default() -> Http {
        Http {
            max_header: 8192,
            cors_origins: Vec::new(),
            sse_padding: 0,
            retry: Duration::from_secs(3),
            poll_wait: Duration::from_secs(25),
            poll_wait_max: Duration::from_secs(60),
        }
    }
}

/// `[websocket]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocket {
    /// The longest message from a client.
    #[serde(with = "units::size")]
    pub max_message: usize,
    /// Origins whose pages may connect, beside the server's own host.
    pub origins: Vec<String>,
}

impl Default for WebSocket {
    fn default() -> WebSocket {
        WebSocket { max_message: 64 * 1024, origins: Vec::new() }
    }
}

/// `[heartbeat]`: how silence is broken and the dead are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heartbeat {
    /// After this much silence an event stream gets a comment.
    #[serde(with = "units::duration")]
    pub sse: Duration,
    /// After this much silence a WebSocket client is pinged.
    #[serde(with = "units::duration")]
    pub ws: Duration,
    /// How long it may take to answer.
    #[serde(with = "units::duration")]
    pub reap: Duration,
    /// How long sent bytes may stay unacknowledged until a connection counts as broken.
    #[serde(with = "units::duration")]
    pub tcp_user_timeout: Duration,
}

impl Default for Heartbeat {
    fn default() -> Heartbeat {
        Heartbeat {
            sse: Duration::from_secs(25),
            ws: Duration::from_secs(30),
            reap: Duration::from_secs(30),
            tcp_user_timeout: Duration::from_secs(60),
        }
    }
}

/// `[auth]`: who may subscribe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// Whether everyone may subscribe to every channel, also from other hosts.
    pub allow_anonymous: bool,
    /// What verifying tokens would need. This version does not, and says so instead of letting everyone in.
    #[serde(flatten, skip_serializing)]
    pub tokens: BTreeMap<TokenKey, toml::Value>,
}

/// Keys of `[auth]` that have no effect yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKey {
    /// Keys that tokens are signed with.
    Keys,
    /// A file of them.
    JwksFile,
    /// Who must have issued a token.
    Issuer,
    /// Whom it must be for.
    Audience,
    /// By how much clocks may differ.
    Leeway,
    /// The cookie that holds it.
    Cookie,
}

/// `[limits]`: the bounds of what is held in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Channels per connection.
    pub subscriptions: usize,
    /// Channels, per shard and in the hub.
    pub channels: usize,
    /// Bytes of further requests that a connection may have sent ahead.
    #[serde(with = "units::size")]
    pub inbound: usize,
    /// Bytes of replies that may wait for a connection before nothing more is read from it.
    #[serde(with = "units::size")]
    pub replies: usize,
    /// Bytes that may wait in the queue to a shard before publishers are slowed down.
    #[serde(with = "units::size")]
    pub queue: usize,
    /// Bytes of events per shard that are kept for cheap resumes after everyone has read them.
    #[serde(with = "units::size")]
    pub retained: usize,
    /// Unsent bytes the kernel takes per connection.
    #[serde(with = "units::size")]
    pub not_sent: usize,
    /// Connections that may wait to be accepted, per shard.
    pub backlog: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            subscriptions: 100,
            channels: 1_000_000,
            inbound: 64 * 1024,
            replies: 64 * 1024,
            queue: 64 << 20,
            retained: 16 << 20,
            not_sent: 64 * 1024,
            backlog: 4096,
        }
    }
}

/// `[backplane]`: where ids and order come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backplane {
    /// `local`: this process.
    pub kind: String,
    /// Where a broker is; of no use to `local`.
    pub url: String,
}

impl Default for Backplane {
    fn default() -> Backplane {
        Backplane { kind: "local".into(), url: String::new() }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people if standard error is a terminal, else as JSON.
    #[default]
    Auto,
    /// A JSON object per line.
    Json,
    /// For people.
    Human,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, or directives such as `info,ringcast::shard=debug`.
    pub level: String,
    /// Connected and disconnected lines per second and shard; what is over that is counted, not written. 0: none.
    pub connections_per_second: u32,
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Auto, level: "info".into(), connections_per_second: 100 }
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where health and figures are served; `off` for nowhere.
    pub listen: String,
    /// What must be presented as `Authorization: Bearer …` to see figures; empty for nothing.
    pub token: String,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { listen: "127.0.0.1:8081".into(), token: String::new() }
    }
}

/// `[diagnostics]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Diagnostics {
    /// The path of a WebSocket echo for conformance suites; empty for none.
    pub echo_path: String,
}

/// What happens to a client that is behind by more than its namespace allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlowPolicy {
    /// It is disconnected, so that it comes back and resumes from history.
    #[default]
    Disconnect,
    /// It is told that something is lost and goes on from the oldest that is kept.
    Gap,
    /// It goes on from the newest event.
    Latest,
}

/// `[namespace.NAME]`, as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// Events a channel's history holds at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_events: Option<usize>,
    /// Bytes a channel's history holds at most.
    #[serde(with = "units::optional_size", skip_serializing_if = "Option::is_none")]
    pub history_bytes: Option<usize>,
    /// How old an event in history gets at most.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub history_ttl: Option<Duration>,
    /// By how many bytes a client may be behind.
    #[serde(with = "units::optional_size", skip_serializing_if = "Option::is_none")]
    pub max_lag: Option<usize>,
    /// What happens to a client that is behind further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<SlowPolicy>,
    /// Whether it is known who is on a channel; only `false` in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<bool>,
    /// Whether clients may publish; only `false` in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_publish: Option<bool>,
    /// Whether everyone may subscribe; only `true` in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
}

/// What holds for a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespacePolicy {
    /// What its history may hold.
    pub history: HistoryLimits,
    /// By how many bytes a client may be behind.
    pub max_lag: usize,
    /// What happens to a client that is behind further.
    pub slow: SlowPolicy,
}

impl NamespacePolicy {
    fn of(own: Option<&Namespace>, fallback: Option<&Namespace>) -> NamespacePolicy {
        fn pick<T>(
            own: Option<&Namespace>,
            fallback: Option<&Namespace>,
            key: fn(&Namespace) -> Option<T>,
            default: T,
        ) -> T {
            own.and_then(key).or_else(|| fallback.and_then(key)).unwrap_or(default)
        }
        let ttl = pick(own, fallback, |n| n.history_ttl, Duration::from_secs(600));
        NamespacePolicy {
            history: HistoryLimits {
                events_max: pick(own, fallback, |n| n.history_events, 1000),
                bytes_max: pick(own, fallback, |n| n.history_bytes, 1 << 20),
                age_max_ms: ttl.as_millis() as u64,
            },
            max_lag: pick(own, fallback, |n| n.max_lag, 256 * 1024),
            slow: pick(own, fallback, |n| n.slow, SlowPolicy::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_inherits_what_it_does_not_set() {
        let config: Config = toml::from_str(
            "[namespace.\"*\"]\nhistory_events = 5\nslow = \"gap\"\n[namespace.orders]\nmax_lag = \"8KiB\"\nslow = \"latest\"",
        )
        .unwrap();
        let orders = config.namespace("orders:1");
        assert_eq!((orders.history.events_max, orders.max_lag, orders.slow), (5, 8192, SlowPolicy::Latest));
        assert_eq!(config.namespace("other").slow, SlowPolicy::Gap);
        assert_eq!(config.namespace("orders").slow, SlowPolicy::Gap, "a name without colon has no namespace");
        assert_eq!(Config::default().namespace("x").slow, SlowPolicy::Disconnect);
    }
}
