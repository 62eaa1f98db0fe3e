//! The most memory that a server can ever use, whatever its clients and publishers do: a sum of terms, each computed from
//! the configuration. docs/capacity.md has the same terms, and a test holds the two against each other.

use serde::Serialize;

use crate::config::{Config, NamespacePolicy};

/// A slot, a box for what is needed only at times, and an identity, with the allocator's rounding.
const CONNECTION: u64 = 600;
/// A subscription of a connection.
const SUBSCRIPTION: u64 = 48;
/// What a connection has beside its limits: a request's head, a batch of frames that is half sent.
const CONNECTION_BUFFERS: u64 = 16 << 10;
/// A page of missed events, without the event that makes it longer.
const PAGE: u64 = 64 << 10;
/// A channel in the hub, with a name of 200 bytes and without its history.
const HUB_CHANNEL: u64 = 500;
/// A channel in a shard, with a name of 200 bytes and its lanes.
const SHARD_CHANNEL: u64 = 700;
/// The lanes that a channel can have in a shard: a protocol and a coding each.
const LANES: u64 = 6;
/// The part of a log beyond `max_lag` (ARCHITECTURE.md, "Invariants").
const LOG_FACTOR: u64 = 3;
/// An event in a history beside its payload.
const HISTORY_EVENT: u64 = 100;
/// A remembered key of a publish, with 200 bytes and the ids.
const IDEMPOTENCY_KEY: u64 = 350;
/// The revocations that are remembered, on disk and in memory, with 200 bytes each, in the hub and in each shard's view.
const REVOCATIONS: u64 = 1_000_000 * 350;
/// The buffers and rings of a shard.
const SHARD: u64 = 8 << 20;
/// The program, the hub, the admin listener's threads, and the log's queue.
const PROCESS: u64 = 64 << 20;
/// Requests with a body that the admin listener reads at a time.
const ADMIN_BODIES: u64 = 64;
/// The memory of an idle TCP connection in the kernel.
const KERNEL_CONNECTION: u64 = 4300;

/// One term of the sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Term {
    /// What the memory is for.
    pub(super) about: &'static str,
    /// How the bytes are computed, in the words of docs/capacity.md.
    pub(super) formula: &'static str,
    /// The bytes, for the numbers that were asked about.
    pub(super) bytes: u64,
}

/// For how many connections, channels and shards the memory is computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) connections: u64,
    pub(super) channels: u64,
    pub(super) shards: u64,
}

/// The namespace's value that allows the most, of all namespaces and the default.
fn largest(config: &Config, value: impl Fn(&NamespacePolicy) -> u64) -> u64 {
    let named = config.namespace.keys().map(|name| config.namespace(&format!("{name}:x")));
    named.chain([config.namespace("x")]).map(|policy| value(&policy)).max().unwrap_or(0)
}

/// The terms of the process's own memory.
#[rustfmt::skip]
pub(super) fn terms(config: &Config, numbers: Numbers) -> Vec<Term> {
    let Numbers { connections, channels, shards } = numbers;
    let limits = &config.limits;
    let max_lag = largest(config, |policy| policy.max_lag as u64);
    let history = largest(config, |policy| {
        (policy.history_events as u64).saturating_mul(HISTORY_EVENT).saturating_add(policy.history_bytes as u64)
    });
    let (replies, line) = (limits.replies as u64, config.feed.max_line as u64);
    let input = (limits.inbound.max(config.websocket.max_message).max(config.http.max_header)) as u64;
    let channels = channels.min(limits.channels as u64);
    let term = |about, formula, bytes: u128| Term { about, formula, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) };
    let times = |count: u64, bytes: u64| u128::from(count) * u128::from(bytes);
    vec![
        term("connections", "connections × (600 + 48 × `subscriptions`)",
            times(connections, SUBSCRIPTION.saturating_mul(limits.subscriptions as u64).saturating_add(CONNECTION))),
        term("input of connections", "connections × (the largest of `inbound`, `max_message`, `max_header` + 16 KiB)",
            times(connections, input.saturating_add(CONNECTION_BUFFERS))),
        term("output of connections", "connections × (`replies` + 64 KiB + `max_line`)",
            times(connections, replies.saturating_add(PAGE).saturating_add(line))),
        term("logs of slow clients", "channels × shards × 6 × 3 × `max_lag`",
            times(channels, max_lag.saturating_mul(LOG_FACTOR * LANES)).saturating_mul(u128::from(shards))),
        term("logs kept for resuming", "shards × `retained`", times(shards, limits.retained as u64)),
        term("queues to shards", "shards × (`queue` + `max_line`)",
            times(shards, (limits.queue as u64).saturating_add(line))),
        term("messages for the backend", "shards × `upstream`", times(shards, limits.upstream as u64)),
        term("channels", "channels × (500 + 700 × shards)",
            times(channels, SHARD_CHANNEL.saturating_mul(shards).saturating_add(HUB_CHANNEL))),
        term("histories", "channels × (`history_bytes` + 100 × `history_events`)", times(channels, history)),
        term("keys of publishes", "350 × `idempotency_keys`",
            times(config.feed.idempotency_keys as u64, IDEMPOTENCY_KEY)),
        term("revoked tokens", "350 × 1,000,000", u128::from(REVOCATIONS)),
        term("requests to the admin listener", "64 × 2 × `[feed] max_line`", times(2 * ADMIN_BODIES, line)),
        term("shards", "shards × 8 MiB", times(shards, SHARD)),
        term("the process", "64 MiB", u128::from(PROCESS)),
    ]
}

/// The sum of terms.
pub(super) fn total(terms: &[Term]) -> u64 {
    terms.iter().fold(0, |sum, term| sum.saturating_add(term.bytes))
}

/// The memory of idle connections in the kernel, and the most that the kernel lets TCP have, `tcp_mem` pages of `page`
/// bytes; the kernel's part is no memory of the process.
pub(super) fn kernel(numbers: Numbers, tcp_mem: Option<u64>, page: u64) -> (u64, Option<u64>) {
    (numbers.connections.saturating_mul(KERNEL_CONNECTION), tcp_mem.map(|pages| pages.saturating_mul(page)))
}

/// Bytes for people.
pub(super) fn readable(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Numbers = Numbers { connections: 1000, channels: 10, shards: 2 };

    fn bytes(config: &Config, about: &str) -> u64 {
        terms(config, SOME).into_iter().find(|term| term.about == about).unwrap().bytes
    }

    #[test]
    fn the_document_has_the_same_terms() {
        let document = include_str!("../../../docs/capacity.md");
        let rows: Vec<String> = terms(&Config::default(), SOME)
            .iter()
            .map(|term| format!("| {} | {} |", term.about, term.formula))
            .collect();
        let table: Vec<&str> =
            document.lines().skip_while(|line| *line != "| memory for | at most |").skip(2).take(rows.len()).collect();
        assert!(table == rows, "the table in docs/capacity.md must be:\n{}", rows.join("\n"));
    }

    #[test]
    fn each_term_follows_its_keys() {
        let mut config = Config::default();
        assert_eq!(bytes(&config, "connections"), 1000 * (600 + 48 * 100));
        assert_eq!(bytes(&config, "input of connections"), 1000 * (65_536 + 16_384));
        assert_eq!(bytes(&config, "output of connections"), 1000 * (65_536 + 65_536 + 1_048_576));
        assert_eq!(bytes(&config, "logs of slow clients"), 10 * 2 * 6 * 3 * 262_144);
        assert_eq!(bytes(&config, "logs kept for resuming"), 2 * (16 << 20));
        assert_eq!(bytes(&config, "queues to shards"), 2 * (65 << 20));
        assert_eq!(bytes(&config, "messages for the backend"), 2 << 20);
        assert_eq!(bytes(&config, "channels"), 10 * 1900);
        assert_eq!(bytes(&config, "histories"), 10 * (1_048_576 + 100_000));
        assert_eq!(bytes(&config, "keys of publishes"), 35_000_000);
        config.http.max_header = 1 << 20;
        config.limits.channels = 3;
        let namespaces = "[big]\nhistory_bytes = \"1GiB\"\nhistory_events = 0\n[\"*\"]\nmax_lag = \"8KiB\"";
        config.namespace = toml::from_str(namespaces).unwrap();
        assert_eq!(bytes(&config, "input of connections"), 1000 * (1_048_576 + 16_384));
        assert_eq!(
            bytes(&config, "histories"),
            3 << 30,
            "the namespace with the most, and no more channels than there may be"
        );
        assert_eq!(bytes(&config, "logs of slow clients"), 3 * 2 * 6 * 3 * 8192);
    }

    #[test]
    fn no_configuration_overflows() {
        let mut config = Config::default();
        config.limits.queue = usize::MAX;
        config.limits.subscriptions = usize::MAX;
        config.limits.channels = usize::MAX;
        let most = Numbers { connections: u64::MAX, channels: u64::MAX, shards: u64::MAX };
        assert_eq!(total(&terms(&config, most)), u64::MAX);
        assert_eq!(kernel(most, Some(u64::MAX), 4096), (u64::MAX, Some(u64::MAX)));
    }

    #[test]
    fn sizes_are_readable() {
        let sizes = [0, 2048, 5 << 20, 20 << 30].map(readable);
        assert_eq!(sizes, ["0 KiB", "2 KiB", "5 MiB", "20 GiB"]);
    }
}
