//! The table of configuration keys: name, type, default, what the value must be, flag, and the text that explains it.
//!
//! A new key is one entry here. Its field, its form in the file, its flag, its check, `ringcast config print` and
//! docs/configuration.md come from the entry; `ringcast config docs` writes that page.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::logic::protocol::http::FIELDS_MAX;

use super::address::{AdminAddress, ListenAddress, Network};
use super::check::{is_cookie_name, is_leeway, is_log_level, is_node_name};
use super::load::ConfigError;
use super::section::{Flag, Key, Must, Section, be, one_of, section, sections, written, written_section};
use super::units;
use super::values::{
    BackplaneKind, ClientAuth, LogFormat, LogOutput, Mode, ReadFrom, Replicas, SlowPolicy, Storage, TlsVersion, Verdict,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// The shortest time that the server's clock of 100 ms can tell from none.
const TICK: Duration = Duration::from_millis(100);
const WEEK: Duration = Duration::from_hours(7 * 24);
const MONTH: Duration = Duration::from_hours(30 * 24);
const DECADE: Duration = Duration::from_hours(3650 * 24);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

sections! {
    server: Server,
    feed: Feed,
    http: Http,
    websocket: WebSocket,
    heartbeat: Heartbeat,
    auth: Auth,
    tls: Tls,
    http2: Http2,
    limits: Limits,
    backplane: Backplane,
    log: Log,
    admin: Admin,
    diagnostics: Diagnostics,
}

section! {
    /// Where clients connect, and how many may.
    Server {
        /// Addresses that clients connect to: `ADDR:PORT`, `[V6]:PORT`, or `unix:PATH` for a proxy on the same host. A proxy
        /// that connects over TCP runs out of ports at some ten thousand connections; over a Unix socket it does not.
        listen: Vec<ListenAddress> as "units::texts" =
            vec![ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            flag Flag { name: "listen", value: "ADDRESS", variable: "RINGCAST_LISTEN" };
        /// Addresses that clients connect to with TLS (`https://`, `wss://`), in the same form. The certificates are under
        /// `[tls]`. With such addresses `listen` may be empty.
        listen_tls: Vec<ListenAddress> as "units::texts" = Vec::new(),
            flag Flag { name: "tls", value: "ADDRESS", variable: "RINGCAST_TLS" };
        /// Threads that hold connections; 0 means one per usable core. Each thread has a descriptor table of its own, so each
        /// may hold as many connections as `LimitNOFILE` says.
        shards: usize = 0, must ..=1024, flag Flag { name: "shards", value: "N", variable: "RINGCAST_SHARDS" };
        /// Pin each shard to a core. Shards are never pinned if there are more of them than cores; turn this off if other
        /// programs keep the same cores busy.
        pin: bool = true, flag Flag { name: "pin", value: "BOOL", variable: "RINGCAST_PIN" };
        /// Give a new connection to the shard of the core that its packets arrive on (`SO_INCOMING_CPU`), not to any shard.
        /// Use this only if the network card has a queue per core ([tuning/nic](../tuning/README.md)): with fewer queues,
        /// some shards get all connections. Needs `pin`.
        steer: bool = false;
        /// Connections over all shards. Further clients are answered 503 with `Retry-After`.
        max_connections: usize = 1_000_000, must 1..=1_000_000_000;
        /// Connections from one address (of IPv6, from one /64); 0 for no limit. Further clients are answered 429 with
        /// `Retry-After`.
        per_address: u32 = 0, must ..=1_000_000_000;
        /// Connections of one user, by the token's `sub`; 0 for no limit. Further ones are answered 429 with `Retry-After`.
        per_user: u32 = 0, must ..=1_000_000_000;
        /// New connections from one address per second, after a burst of as many; 0 for no limit. Further clients are
        /// answered 429 with `Retry-After`.
        connect_rate: u32 = 0, must ..=1_000_000;
        /// The time for a request from its first byte to its last, and for a new connection to send a request. (The kernel
        /// first keeps a connection without input to itself for a second.)
        handshake_timeout: Duration as "units::duration" = secs(10), must TICK..=WEEK;
        /// The time for which an open connection may wait for its next request.
        keep_alive: Duration as "units::duration" = secs(75), must TICK..=WEEK;
        /// Proxies whose `Forwarded`, or else `X-Forwarded-For`, is believed with each request: networks such as
        /// `"10.0.0.0/8"`, and `"unix:"` for the peers of a `unix:` listener. The client's address counts for `per_address`
        /// and `connect_rate`, and is shown in the log and to the backend.
        trusted_proxies: Vec<Network> as "units::texts" = Vec::new();
        /// The trusted proxies, and the peers of `unix:` listeners, begin each connection with a PROXY protocol header
        /// (version 1 or 2). A connection of theirs without a header is dropped.
        proxy_protocol: bool = false;
        /// The time that a stopping server (SIGTERM) takes at most. Clients are let go over the first half of it.
        drain_timeout: Duration as "units::duration" = secs(30), must TICK..=WEEK;
        /// The directory of the files that outlive the process: the mark that keeps ids from going backwards, and the list of
        /// revoked tokens. Empty: `$STATE_DIRECTORY`, else the directory of the feed's socket.
        state_dir: PathBuf = PathBuf::new();
        /// The mode of `unix:` listeners, in octal.
        unix_mode: Mode as "units::text" = Mode(0o660);
    }
}

section! {
    /// The publishers' socket.
    Feed {
        /// The publishers' Unix socket. Empty: `$RUNTIME_DIRECTORY/feed.sock`, else `$XDG_RUNTIME_DIR/ringcast/feed.sock`,
        /// else `./ringcast.sock`.
        path: PathBuf = PathBuf::new(), flag Flag { name: "feed", value: "PATH", variable: "RINGCAST_FEED" };
        /// The mode of the socket, in octal: it says which users may connect.
        mode: Mode as "units::text" = Mode(0o660);
        /// The group of the socket, by name or number; empty for the group of the process.
        group: String = String::new();
        /// The longest command.
        max_line: usize as "units::size" = MIB, must KIB..=GIB;
        /// Connections of publishers and backends. Further ones are told so and closed. Each takes up to three descriptors,
        /// and the feed leaves some of the process's to everything else.
        max_connections: usize = 1024, must 1..=1_000_000;
        /// Users (names or numbers) who may connect; empty for all whom `mode` lets in. The kernel tells the user of each
        /// connection.
        allow_users: Vec<String> = Vec::new();
        /// Users who may connect and only read: `stats`, `history`, `presence`, `channels`, `connections`, `trace`,
        /// `untrace`, and listening to `connections`.
        readers: Vec<String> = Vec::new();
        /// The time for which the `key` of a publish is remembered.
        idempotency_window: Duration as "units::duration" = secs(120), must ..=MONTH;
        /// The number of keys that are remembered; beyond it the oldest are forgotten early.
        idempotency_keys: usize = 100_000, must ..=100_000_000;
    }
}

section! {
    /// Requests, event streams and polls.
    Http {
        /// The longest request head. Longer ones are answered 431 or 414.
        max_header: usize as "units::size" = 8 * KIB, must 256..=64 * KIB;
        /// The most header fields of a request. A request with more is answered 431.
        max_header_fields: usize = 64, must 8..=FIELDS_MAX;
        /// Origins whose pages may read streams and polls: `"https://app.example.com"`, `"https://*.example.com"`, `"*"`.
        /// Without any, those of `[websocket] origins`.
        cors_origins: Vec<String> = Vec::new();
        /// Bytes of comment at the start of an event stream, for proxies that hold back the first kilobytes of an answer.
        sse_padding: usize as "units::size" = 0, must ..=64 * KIB;
        /// The time that event streams are told to wait before they reconnect.
        retry: Duration as "units::duration" = secs(3), must ..=WEEK;
        /// The time for which a poll without `wait` is held.
        poll_wait: Duration as "units::duration" = secs(25), must ..=WEEK;
        /// The longest time for which a poll is held, whatever its `wait` says.
        poll_wait_max: Duration as "units::duration" = secs(60), must TICK..=WEEK;
    }
}

section! {
    /// What WebSocket clients may send.
    WebSocket {
        /// The longest message from a client. A longer one ends the connection with close code 1009.
        max_message: usize as "units::size" = 64 * KIB, must 128..=GIB;
        /// Origins whose pages may connect, beside those of the server's own host. Clients without an `Origin` are no
        /// browsers and may always connect. Without any, those of `[http] cors_origins` except `"*"`.
        origins: Vec<String> = Vec::new();
        /// Messages (and pings) from one client per second; 0 for no limit. More end the connection with close code 1008.
        message_rate: u32 = 1000, must ..=1_000_000_000;
        /// Bytes of messages from one client per second; 0 for no limit. More end the connection with close code 1008.
        byte_rate: usize as "units::size" = 0, must ..=1024 * GIB;
    }
}

section! {
    /// How silence is broken, and how broken connections are found.
    ///
    /// Heartbeats are spread: each connection's interval is up to a fifth shorter, by an amount of its own.
    Heartbeat {
        /// The silence after which an event stream gets a comment line.
        sse: Duration as "units::duration" = secs(25), must TICK..=WEEK;
        /// The silence after which a WebSocket client is pinged.
        ws: Duration as "units::duration" = secs(30), must TICK..=WEEK;
        /// The time in which a WebSocket client must answer a ping.
        reap: Duration as "units::duration" = secs(30), must TICK..=WEEK;
        /// The time for which sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`). It finds stream clients that have
        /// vanished; `[limits] stall_timeout` finds those that have stopped reading.
        tcp_user_timeout: Duration as "units::duration" = secs(60), must TICK..=WEEK;
    }
}

section! {
    /// Tokens and the right to subscribe. [security.md](security.md) says how tokens are used. Key files are read again when they change
    /// and on SIGHUP.
    Auth {
        /// Let clients without a token subscribe to every channel, also from other hosts. A listener that other hosts can
        /// reach needs this, keys, or `ask_backend`.
        allow_anonymous: bool = false,
            flag Flag { name: "allow-anonymous", value: "BOOL", variable: "RINGCAST_ALLOW_ANONYMOUS" };
        /// Keys that tokens are signed with, each with the keys of `[[auth.keys]]`, as in
        /// `{ alg = "ES256", pem_file = "key.pem" }`.
        keys: Vec<TokenKey> = Vec::new();
        /// A file with a JSON Web Key Set of further keys; empty for none. The `alg` of a key counts, else the usual one of
        /// its kind: RS256, ES256 or ES384, EdDSA, HS256.
        jwks_file: PathBuf = PathBuf::new();
        /// Issuers whose tokens are accepted (`iss`), a text or a list; empty for any.
        issuer: Vec<String> as "units::one_or_many" = Vec::new();
        /// Audiences of which a token must name one (`aud`), a text or a list. Without any, a token must name no
        /// audience; `"any"` accepts every token.
        audience: Vec<String> as "units::one_or_many" = Vec::new();
        /// The difference between clocks that is allowed for `exp` and `nbf`.
        leeway: Duration as "units::duration" = secs(0), must be("whole seconds, at most 1h", is_leeway);
        /// The cookie that may hold the token; empty for none.
        cookie: String = String::new(), must be("the name of a cookie, or empty", |name: &String| is_cookie_name(name));
        /// Ask the backend that listens on the feed with `authorize` about clients without a token:
        /// [security.md](security.md#the-backends-own-decision).
        ask_backend: bool = false;
        /// The time in which the backend must answer.
        ask_timeout: Duration as "units::duration" = secs(2), must TICK..=WEEK;
        /// The decision if the backend does not answer, or none listens.
        ask_default: Verdict = Verdict::Deny, must one_of();
        /// The time in which a WebSocket without a token in its request must send one.
        token_timeout: Duration as "units::duration" = secs(10), must TICK..=WEEK;
    }
}

section! {
    /// A key that tokens are signed with: an algorithm, and the key in exactly one of four forms (`secret`, `secret_file`,
    /// `pem`, `pem_file`).
    TokenKey {
        /// The algorithm: `HS256`, `HS384`, `HS512`, `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384` or
        /// `EdDSA`.
        alg: String = String::new(), must be("an algorithm, as in \"ES256\"", |alg: &String| !alg.is_empty());
        /// The key is for tokens with this `kid` only; empty for tokens of any.
        kid: String = String::new();
        /// A shared secret, as text.
        secret: String = String::new();
        /// A file that holds nothing but a shared secret.
        secret_file: PathBuf = PathBuf::new();
        /// A public key in PEM.
        pem: String = String::new();
        /// A file with a public key in PEM.
        pem_file: PathBuf = PathBuf::new();
    }
}

section! {
    /// TLS for the addresses of `[server] listen_tls`. [security.md](security.md#tls) says what it protects and how. The files
    /// are read again when they change and on SIGHUP; connections that are open keep what they have.
    Tls {
        /// The file of the server's certificate in PEM, with the chain that leads to its authority.
        chain: PathBuf = PathBuf::new(), flag Flag { name: "cert", value: "FILE", variable: "RINGCAST_CERT" };
        /// The file of the certificate's private key in PEM. Handshakes with an ECDSA key (P-256) cost a
        /// fraction of those with RSA.
        key: PathBuf = PathBuf::new(), flag Flag { name: "key", value: "FILE", variable: "RINGCAST_KEY" };
        /// Further certificates, each with the keys of `[[tls.certificates]]`, as in
        /// `{ chain = "b.example.pem", key = "b.example.key" }`. A client gets the one whose names have the name that it asks
        /// for (SNI), or else the first.
        certificates: Vec<Certificate> = Vec::new();
        /// The oldest version of the protocol that is spoken.
        min_version: TlsVersion = TlsVersion::V12, must one_of();
        /// Refuse clients that ask for a name which no certificate has, or for none.
        strict_sni: bool = false;
        /// Let clients that come back resume with a ticket, without the certificate and its check. The keys that tickets are
        /// sealed with change every twelve hours and outlive a restart in `[server] state_dir`.
        tickets: bool = true;
        /// Ask clients for a certificate: `optional` serves clients without one as any other, `required` refuses them in the
        /// handshake. A client's certificate stands in the place of a token: its first alternative name (DNS name, e-mail
        /// address or URI) or else its common name is the user, and `cert:` with the serial number in hexadecimal digits is the id
        /// that `revoke` takes. A token that the client sends too takes precedence.
        client_auth: ClientAuth = ClientAuth::Off, must one_of();
        /// The file of the authorities in PEM that sign clients' certificates. It is read again as the server's own are.
        client_ca: PathBuf = PathBuf::new();
        /// The channels that clients with a certificate may subscribe to: patterns as in a token's `channels`, where `{sub}` is
        /// the user.
        client_channels: Vec<String> = vec!["*".to_owned()];
        /// Speak HTTP/2 with clients that can (ALPN `h2`): any number of event streams then share one connection, where browsers
        /// allow six per host over HTTP/1.1.
        http2: bool = true;
        /// Handshakes under way, per shard. Further connections wait in the kernel.
        handshakes_max: usize = 4096, must 1..=1_000_000;
    }
}

section! {
    /// HTTP/2, over TLS (`[tls] http2`) or in clear text.
    Http2 {
        /// Streams that a client may have open at a time on one connection. Further ones are refused, and clients wait or connect
        /// again.
        streams: u32 = 100, must 1..=10_000;
        /// Speak HTTP/2 without TLS with clients that begin so (prior knowledge), on the addresses of `[server] listen`. This is for
        /// proxies; browsers do not.
        cleartext: bool = false;
    }
}

section! {
    /// A certificate of the server.
    Certificate {
        /// The file of the certificate in PEM, with the chain that leads to its authority.
        chain: PathBuf = PathBuf::new(), must be("a file", |path: &PathBuf| !path.as_os_str().is_empty());
        /// The file of the certificate's private key in PEM.
        key: PathBuf = PathBuf::new(), must be("a file", |path: &PathBuf| !path.as_os_str().is_empty());
    }
}

section! {
    /// The bounds of what is held in memory.
    Limits {
        /// Channels per connection.
        subscriptions: usize = 100, must 1..=1_000_000;
        /// Channels per shard, and channels of publishers in the hub: those with an event of theirs.
        channels: usize = 1_000_000, must 1..=1_000_000_000;
        /// Channels in the hub that exist only because clients follow them or publish to them. Clients that ask for further
        /// ones are refused; publishers and their channels are not concerned.
        followed_channels: usize = 4_000_000, must 1..=1_000_000_000;
        /// Bytes of channels' names, histories, answers to publishers and lines for listening backends in the hub. Beyond it
        /// the oldest events leave their histories early, and new names are refused. 0 for a quarter of the host's memory,
        /// or of the memory that the process may use (a cgroup's limit), but at least 256 MiB.
        hub_memory: usize as "units::size" = 0,
            must be("0, or at least 16MiB", |bytes: &usize| *bytes == 0 || *bytes >= 16 * MIB);
        /// Bytes that are held of what a client has sent: requests and messages that are not whole yet, that wait for the
        /// backend, or that come behind a held poll. `max_header` of a request, or `max_message` of a message, counts
        /// instead if it is larger. The kernel keeps further bytes.
        inbound: usize as "units::size" = 64 * KIB, must KIB..=GIB;
        /// Bytes, per shard, of clients' messages that the backend or the hub has not taken yet. Beyond it the clients with
        /// further messages are not read.
        upstream: usize as "units::size" = MIB, must KIB..=1024 * GIB;
        /// Bytes of replies that may wait for a client. Beyond it the client is not read until it has taken them.
        replies: usize as "units::size" = 64 * KIB, must KIB..=GIB;
        /// Bytes that may wait in the queue to a shard. Beyond it publishers are slowed down.
        queue: usize as "units::size" = 64 * MIB, must 64 * KIB..=1024 * GIB;
        /// Bytes of events, per shard, that all clients have read and that are kept for cheap resumes (for at most 30 s).
        retained: usize as "units::size" = 16 * MIB, must ..=1024 * GIB;
        /// Bytes of memory that slow clients may make the server hold, divided among the shards: logs that are kept because a
        /// client is behind, missed events and replies that wait to be taken, and input that is not whole yet. Beyond it the
        /// clients that are furthest behind are disconnected (`slow`). 0 stands for a quarter of the host's memory, or of the
        /// control group's limit, and at least 64 MiB.
        lag_memory: usize as "units::size" = 0,
            must be("0, or at least 1MiB", |bytes: &usize| *bytes == 0 || *bytes >= MIB);
        /// Unsent bytes that the kernel takes per connection (`TCP_NOTSENT_LOWAT`).
        not_sent: usize as "units::size" = 64 * KIB, must 4 * KIB..=GIB;
        /// Connections that may wait to be accepted, per shard; `net.core.somaxconn` caps it.
        backlog: u32 = 4096, must 1..=1_000_000;
        /// Requests on one connection per second, after ten times as many at once; 0 for no limit. Further ones are answered
        /// 429 with `Retry-After`. Connections of a trusted proxy or over a Unix socket do not count, because they carry the
        /// requests of many clients. Each shard counts for itself, here and in the keys below.
        request_rate: u32 = 1000, must ..=1_000_000;
        /// Requests from one address (of IPv6, from one /64) per second, in the same way; 0 for no limit. Here and below the
        /// addresses of this host and those of trusted proxies do not count: a client behind a proxy counts by its own.
        request_rate_address: u32 = 50_000, must ..=1_000_000;
        /// Requests of one user per second, in the same way; 0 for no limit.
        request_rate_user: u32 = 50_000, must ..=1_000_000;
        /// Tokens from one address that do not verify, per second, after ten times as many at once; 0 for no limit. Beyond it no
        /// token of the address is looked at: requests are answered 429 with `Retry-After`.
        failed_tokens: u32 = 100, must ..=1_000_000;
        /// Tokens within a WebSocket that may fail one after the other. The last one ends the connection with close code
        /// 1008.
        token_tries: u32 = 3, must 1..=1000;
        /// Channels that the shard does not know yet and one connection names, per second, after ten times as many at once (or
        /// twice `subscriptions`, if that is more); 0 for no limit. Further ones are refused, by 429 with `Retry-After` or an error
        /// reply.
        new_names: u32 = 100, must ..=1_000_000;
        /// The same for all connections of one address; 0 for no limit.
        new_names_address: u32 = 50_000, must ..=1_000_000;
        /// The same for all connections of one user; 0 for no limit.
        new_names_user: u32 = 50_000, must ..=1_000_000;
        /// Channels with presence that one connection joins, per second, after ten times as many at once (or twice
        /// `subscriptions`, if that is more); 0 for no limit. Further ones are refused as above.
        joins: u32 = 20, must ..=1_000_000;
        /// The same for all connections of one address; 0 for no limit.
        joins_address: u32 = 50_000, must ..=1_000_000;
        /// The same for all connections of one user; 0 for no limit.
        joins_user: u32 = 1000, must ..=1_000_000;
        /// The time in which a client must take some of the bytes that wait for it. A client that takes none is disconnected, on
        /// every listener and whatever its namespace says of slow clients.
        stall_timeout: Duration as "units::duration" = secs(10), must TICK..=WEEK;
    }
}

section! {
    /// What may differ between kinds of channels. `NAME` is what stands before the first `:` of a channel's name.
    /// `[namespace."*"]` is for all other channels, and for the keys that a namespace does not set.
    NamespacePolicy, written as Namespace {
        /// Events that the history of a channel holds at most; 0 for no history.
        history_events: usize = 1000, must ..=1_000_000_000;
        /// Bytes that the history of a channel holds at most.
        history_bytes: usize as "units::size" = MIB, must ..=1024 * GIB;
        /// The age at which an event leaves the history.
        history_ttl: Duration as "units::duration" = secs(600), must ..=DECADE;
        /// Framed bytes that a client whose connection takes no more may be behind.
        max_lag: usize as "units::size" = 256 * KIB, must 4 * KIB..=1024 * GIB;
        /// What happens to a client that is further behind. `catch_up`: it goes on from history in place, page by page, and is
        /// told of a gap where history does not reach back so far. `disconnect`: it is cut off (close code 1013, or the stream's
        /// end) and resumes from history. `gap`: it is told of the loss and goes on from the oldest event that is kept.
        /// `latest`: it goes on from the newest event.
        slow: SlowPolicy = SlowPolicy::CatchUp, must one_of();
        /// Count the users on each channel, and publish when they come and go: [protocol.md](protocol.md#presence).
        presence: bool = false;
        /// Let WebSocket clients publish where the `publish` of their tokens allows it.
        client_publish: bool = false;
        /// The channels need no token. Without keys under `[auth]` no channel needs one.
        public: bool = false;
    }
}

section! {
    /// The source of ids and order: this process, or a log that several nodes read ([cluster.md](cluster.md)).
    Backplane {
        /// The kind: `local` is this process, `redis` a stream of Redis or Valkey, `nats` one of NATS JetStream. A `url`
        /// decides it too.
        kind: BackplaneKind = BackplaneKind::Local, must one_of();
        /// The broker: `redis://HOST:PORT`, `rediss://…` for TLS, or `redis+sentinel://HOST:PORT,HOST:PORT/MASTER`;
        /// `nats://HOST:PORT,HOST:PORT`, or `tls://…`. A name and a password may stand before the host, as in
        /// `redis://NAME:PASSWORD@HOST:PORT`, and for NATS a token alone.
        url: String = String::new(), flag Flag { name: "backplane", value: "URL", variable: "RINGCAST_BACKPLANE" };
        /// The file that has the password, so that the URL does not.
        password_file: PathBuf = PathBuf::new();
        /// The file with the certificates that the broker's is checked against; empty for those of the host.
        ca_file: PathBuf = PathBuf::new();
        /// The file with this node's certificate, if the broker asks for one.
        cert_file: PathBuf = PathBuf::new();
        /// The file with the key of that certificate.
        key_file: PathBuf = PathBuf::new();
        /// The file with a NATS user's credentials (`.creds`), or with the seed of its key.
        credentials_file: PathBuf = PathBuf::new();
        /// The name of the cluster, which its log is named after: `ringcast:{NAME}`, and with NATS `RC_NAME`.
        name: String = "main".into(), must be("1 to 64 letters, digits, dashes and underscores", |name: &String| is_node_name(name));
        /// The name of this node, which connections' names begin with. Empty for a random one at each start.
        node: String = String::new(), must be("up to 64 letters, digits, dashes and underscores", |name: &String| name.is_empty() || is_node_name(name)),
            flag Flag { name: "node", value: "NAME", variable: "RINGCAST_NODE" };
        /// The age up to which the log is kept. A node reads so much at its start, and histories on all nodes reach back no
        /// further. It must be at least the greatest `history_ttl` and `idempotency_window`.
        retention: Duration as "units::duration" = secs(600), must secs(10)..=MONTH;
        /// The size up to which the log is kept, about.
        retention_bytes: usize as "units::size" = GIB, must MIB..=1024 * GIB;
        /// The time for which a publisher waits while the broker is away, before it is told that nothing was published.
        publish_timeout: Duration as "units::duration" = secs(5), must TICK..=WEEK;
        /// The bytes of events that may wait for the broker. Beyond it publishers are held.
        pending: usize as "units::size" = 16 * MIB, must 64 * KIB..=16 * GIB;
        /// The time for which a client waits that comes from a node which has read further.
        resume_wait: Duration as "units::duration" = secs(5), must ..=secs(9);
        /// The replicas that must have an event before its publisher is answered: `auto` is 1 with Sentinels, else 0. With NATS
        /// more than half of `replicas` have it in any case.
        ack_replicas: Replicas as "units::text" = Replicas::Auto;
        /// The server that entries are read from as they come, with Redis: `primary`, or `replica` for one of its replicas, if it has
        /// any. Replicas take the load of many nodes, and an event is acknowledged once a replica has it.
        read_from: ReadFrom = ReadFrom::Primary, must one_of();
        /// The servers that keep the log, if this node makes the stream of NATS. A stream that exists is not altered.
        replicas: usize = 1, must 1..=5;
        /// The storage of the log, if this node makes the stream of NATS: `file` or `memory`.
        storage: Storage = Storage::File, must one_of();
        /// The time after which `/readyz` answers 503 while the broker is away; 0 for never, as it is away for all nodes at
        /// once. Clients are served in any case.
        unready_after: Duration as "units::duration" = secs(30), must ..=WEEK;
    }
}

section! {
    /// Log lines.
    Log {
        /// The form of log lines: a JSON object per line, or for people. `auto` is for people if the output is a terminal.
        format: LogFormat = LogFormat::Auto, must one_of(),
            flag Flag { name: "log-format", value: "FORMAT", variable: "RINGCAST_LOG_FORMAT" };
        /// The stream that log lines are written to; journald keeps both.
        output: LogOutput = LogOutput::Stderr, must one_of();
        /// The lines that are written: `error`, `warn`, `info`, `debug`, or directives such as `info,ringcast::shard=debug`.
        level: String = "info".into(), must be("a level, or directives such as \"info,ringcast::shard=debug\"", |level: &String| is_log_level(level)),
            flag Flag { name: "log-level", value: "LEVEL", variable: "RINGCAST_LOG_LEVEL" };
        /// Lines about connections that come and go, per second and shard. Further ones are counted (`lines_suppressed`),
        /// and the count is logged once a second.
        connections_per_second: u32 = 100, must ..=1_000_000;
    }
}

section! {
    /// The admin listener: health, metrics, the API and the dashboard ([operations.md](operations.md#the-admin-api)).
    Admin {
        /// The address of the admin listener: `ADDR:PORT`, or `off` for none. Without a token it must be an address of this
        /// host alone.
        listen: AdminAddress as "units::text" = AdminAddress::At(SocketAddr::from(([127, 0, 0, 1], 8081))),
            flag Flag { name: "admin", value: "ADDRESS", variable: "RINGCAST_ADMIN" };
        /// The token that every request but those for health must present, as `Authorization: Bearer …`; empty for none.
        /// Without it, requests for contents (channels, events, users, connections) and changes are refused once `[auth]` has
        /// keys or `ask_backend`.
        token: String = String::new();
        /// Names by which requests and pages may call this host, beside its addresses, `localhost` and its own name. A proxy
        /// that passes on its own name needs this.
        hosts: Vec<String> = Vec::new();
    }
}

section! {
    /// For tests of the server.
    Diagnostics {
        /// The path of a WebSocket echo for conformance suites, such as `"/echo"`; empty for none.
        echo_path: String = String::new(),
            must be("a path that starts with /, or empty", |path: &String| path.is_empty() || path.starts_with('/'));
    }
}
