//! The sections and keys, with their defaults. docs/configuration.md names every one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::logic::event::namespace_of;

use super::address::{ListenAddress, Network};
use super::namespace::{Namespace, NamespacePolicy};
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
    /// Whether a new connection goes to the shard of the core that its packets arrive on.
    pub steer: bool,
    /// Connections, over all shards.
    pub max_connections: usize,
    /// Connections from one address (of IPv6, one /64); 0 for no limit.
    pub per_address: u32,
    /// Connections of one user; 0 for no limit.
    pub per_user: u32,
    /// New connections from one address per second, after a burst of as many; 0 for no limit.
    pub connect_rate: u32,
    /// How long a client may take for its request.
    #[serde(with = "units::duration")]
    pub handshake_timeout: Duration,
    /// Proxies whose word about their clients' addresses is believed.
    pub trusted_proxies: Vec<Network>,
    /// Whether these proxies begin each connection with a PROXY protocol header.
    pub proxy_protocol: bool,
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
            steer: false,
            max_connections: 1_000_000,
            per_address: 0,
            per_user: 0,
            connect_rate: 0,
            handshake_timeout: Duration::from_secs(10),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
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
    /// Users who may connect and only look.
    pub readers: Vec<String>,
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
            readers: Vec::new(),
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
    /// Messages from one client per second; 0 for no limit.
    pub message_rate: u32,
    /// Bytes of messages from one client per second; 0 for no limit.
    #[serde(with = "units::size")]
    pub byte_rate: usize,
}

impl Default for WebSocket {
    fn default() -> WebSocket {
        WebSocket { max_message: 64 * 1024, origins: Vec::new(), message_rate: 0, byte_rate: 0 }
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

/// What holds where nobody decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Not let in.
    #[default]
    Deny,
    /// Let in.
    Allow,
}

/// `[auth]`: who may subscribe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Whether clients without a token may subscribe to every channel, also from other hosts.
    pub allow_anonymous: bool,
    /// Keys that tokens are signed with.
    pub keys: Vec<TokenKey>,
    /// A JSON Web Key Set with more of them; empty for none.
    pub jwks_file: PathBuf,
    /// Who may issue tokens; empty for anyone who has a key.
    #[serde(with = "units::one_or_many")]
    pub issuer: Vec<String>,
    /// Whom tokens must be for, one of these; empty for anyone.
    #[serde(with = "units::one_or_many")]
    pub audience: Vec<String>,
    /// By how much clocks may differ.
    #[serde(with = "units::duration")]
    pub leeway: Duration,
    /// The cookie that may hold the token; empty for none.
    pub cookie: String,
    /// How long a WebSocket that came without a token may take to send one.
    #[serde(with = "units::duration")]
    pub token_timeout: Duration,
    /// Whether the backend that listens on the feed is asked about clients without a token.
    pub ask_backend: bool,
    /// How long it may take to answer.
    #[serde(with = "units::duration")]
    pub ask_timeout: Duration,
    /// What holds if it does not, or nobody listens.
    pub ask_default: Verdict,
}

impl Default for Auth {
    fn default() -> Auth {
        Auth {
            allow_anonymous: false,
            keys: Vec::new(),
            jwks_file: PathBuf::new(),
            issuer: Vec::new(),
            audience: Vec::new(),
            leeway: Duration::ZERO,
            cookie: String::new(),
            token_timeout: Duration::from_secs(10),
            ask_backend: false,
            ask_timeout: Duration::from_secs(2),
            ask_default: Verdict::Deny,
        }
    }
}

impl Auth {
    /// Whether tokens are verified.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty() || !self.jwks_file.as_os_str().is_empty()
    }
}

/// One of `[auth] keys`: an algorithm, and the key in one of four forms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenKey {
    /// `HS256`, `HS384`, `HS512`, `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384` or `EdDSA`.
    pub alg: String,
    /// Only for tokens with this `kid`; empty for those of any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kid: String,
    /// A shared secret, as text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// A file that holds nothing but a shared secret.
    #[serde(skip_serializing_if = "is_empty_path")]
    pub secret_file: PathBuf,
    /// A public key in PEM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pem: String,
    /// A file with a public key in PEM.
    #[serde(skip_serializing_if = "is_empty_path")]
    pub pem_file: PathBuf,
}

fn is_empty_path(path: &Path) -> bool {
    path.as_os_str().is_empty()
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
    /// Bytes that clients of a shard may have said or published until the backend or the hub has taken them.
    #[serde(with = "units::size")]
    pub upstream: usize,
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
            upstream: 1 << 20,
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

/// Where log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogOutput {
    /// Standard error, which journald keeps as well.
    #[default]
    Stderr,
    /// Standard output.
    Stdout,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// Where they go.
    pub output: LogOutput,
    /// `error`, `warn`, `info`, `debug`, or directives such as `info,ringcast::shard=debug`.
    pub level: String,
    /// Connected and disconnected lines per second and shard; what is over that is counted, not written. 0: none.
    pub connections_per_second: u32,
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Auto, output: LogOutput::Stderr, level: "info".into(), connections_per_second: 100 }
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
