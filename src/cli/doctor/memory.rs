//! The most memory that a server can ever use, whatever its clients and publishers do: a sum of terms, each computed from
//! the configuration. docs/capacity.md has the same terms, and a test holds the two against each other.

use serde::Serialize;

use crate::config::Config;
use crate::{hub, shard};

/// A slot (80 bytes), a box for what is needed only at times (192), and an identity, with the allocator's rounding.
const CONNECTION: u64 = 800;
/// The secrets of a TLS connection, with the allocator's rounding.
const TLS_CONNECTION: u64 = 240;
/// A TLS handshake that is under way, as measured, without the client's bytes, which count as input.
const HANDSHAKE: u64 = 6 << 10;
/// A subscription and its place among a channel's readers, with the room of lists that grow by doubling.
const SUBSCRIPTION: u64 = 48;
/// A channel in a shard, with a name of 200 bytes and its lanes.
const SHARD_CHANNEL: u64 = 700;
/// How many times the counted bytes the allocator may need while blocks of many sizes are freed and taken.
const ALLOCATOR: u64 = 3;
/// An event may be framed in this many lanes, with a copy of each, when the budget is used up.
const FRAMES_OF_EVENT: u64 = 10;
/// The part of a log beyond what it needs: a whole chunk, which may have twice the room.
const LOG_FACTOR: u64 = 4;
/// A connection to the feed beside a line in the making, which may have twice the room: answers.
const FEED_ANSWERS: u64 = 512 << 10;
/// A remembered key of a publish, with 200 bytes and the ids.
const IDEMPOTENCY_KEY: u64 = 512;
/// The revocations that are remembered, on disk and in memory, with 200 bytes each, in the hub and in each shard's view.
const REVOCATIONS: u64 = 1_000_000 * 350;
/// The buffers and rings of a shard.
const SHARD: u64 = 16 << 20;
/// The program, the admin listener's threads, and the log's queue.
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

/// The terms of the process's own memory. `available` is the memory that the process may use, if that is known.
#[rustfmt::skip]
pub(super) fn terms(config: &Config, numbers: Numbers, available: Option<u64>) -> Vec<Term> {
    let Numbers { connections, channels, shards } = numbers;
    let (limits, feed) = (&config.limits, &config.feed);
    let line = feed.max_line as u64;
    let channels = channels.min(limits.channels as u64);
    let per_shard = shard::lag_memory(config, available, usize::try_from(shards).unwrap_or(usize::MAX));
    let term = |about, formula, bytes: u128| Term { about, formula, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) };
    let times = |count: u64, bytes: u64| u128::from(count) * u128::from(bytes);
    vec![
        term("connections", "connections × (800 + 48 × `subscriptions`)",
            times(connections, SUBSCRIPTION.saturating_mul(limits.subscriptions as u64).saturating_add(CONNECTION))),
        term("TLS, if a listener speaks it", "connections × 240 + shards × `handshakes_max` × 6 KiB", match config.server.listen_tls.is_empty() {
            true => 0,
            false => times(connections, TLS_CONNECTION) + times(shards, HANDSHAKE.saturating_mul(config.tls.handshakes_max as u64)),
        }),
        term("slow clients: logs, pages, output, input", "3 × `lag_memory`",
            times(shards, per_shard.saturating_mul(ALLOCATOR))),
        term("the event that is framed when that is used up", "shards × 10 × `max_line`",
            times(shards, line.saturating_mul(FRAMES_OF_EVENT))),
        term("logs kept for resuming", "shards × 4 × `retained`",
            times(shards, (limits.retained as u64).saturating_mul(LOG_FACTOR))),
        term("queues to shards", "shards × (`queue` + `max_line`)",
            times(shards, (limits.queue as u64).saturating_add(line))),
        term("messages for the backend", "shards × `upstream`", times(shards, limits.upstream as u64)),
        term("channels in shards", "channels × 700 × shards", times(channels, SHARD_CHANNEL.saturating_mul(shards))),
        term("names, histories, answers and lines in the hub", "`hub_memory`",
            u128::from(hub::memory_max(limits, available))),
        term("connections to the feed", "`[feed] max_connections` × (2 × `max_line` + 512 KiB)",
            times(feed.max_connections as u64, line.saturating_mul(2).saturating_add(FEED_ANSWERS))),
        term("keys of publishes", "512 × `idempotency_keys`", times(feed.idempotency_keys as u64, IDEMPOTENCY_KEY)),
        term("revoked tokens", "350 × 1,000,000", u128::from(REVOCATIONS)),
        term("requests to the admin listener", "64 × 2 × `max_line`", times(2 * ADMIN_BODIES, line)),
        term("shards", "shards × 16 MiB", times(shards, SHARD)),
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
        terms(config, SOME, Some(8 << 30)).into_iter().find(|term| term.about == about).unwrap().bytes
    }

    #[test]
    fn the_document_has_the_same_terms() {
        let document = include_str!("../../../docs/capacity.md");
        let rows: Vec<String> = terms(&Config::default(), SOME, None)
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
        assert_eq!(bytes(&config, "connections"), 1000 * (800 + 48 * 100));
        assert_eq!(
            bytes(&config, "slow clients: logs, pages, output, input"),
            6 << 30,
            "a quarter of the memory, thrice"
        );
        assert_eq!(bytes(&config, "the event that is framed when that is used up"), 20 << 20);
        assert_eq!(bytes(&config, "logs kept for resuming"), 2 * (64 << 20));
        assert_eq!(bytes(&config, "queues to shards"), 2 * (65 << 20));
        assert_eq!(bytes(&config, "messages for the backend"), 2 << 20);
        assert_eq!(bytes(&config, "channels in shards"), 10 * 1400);
        assert_eq!(bytes(&config, "names, histories, answers and lines in the hub"), 2 << 30);
        assert_eq!(bytes(&config, "connections to the feed"), 1024 * (2 << 20) + (512 << 20));
        assert_eq!(bytes(&config, "keys of publishes"), 51_200_000);
        config.limits.lag_memory = 10 << 20;
        config.limits.hub_memory = 20 << 20;
        config.limits.channels = 3;
        assert_eq!(bytes(&config, "slow clients: logs, pages, output, input"), 30 << 20);
        assert_eq!(bytes(&config, "names, histories, answers and lines in the hub"), 20 << 20);
        assert_eq!(bytes(&config, "channels in shards"), 3 * 1400, "no more channels than there may be");
    }

    #[test]
    fn no_configuration_overflows() {
        let mut config = Config::default();
        config.limits.queue = usize::MAX;
        config.limits.subscriptions = usize::MAX;
        config.limits.channels = usize::MAX;
        let most = Numbers { connections: u64::MAX, channels: u64::MAX, shards: u64::MAX };
        assert_eq!(total(&terms(&config, most, None)), u64::MAX);
        assert_eq!(kernel(most, Some(u64::MAX), 4096), (u64::MAX, Some(u64::MAX)));
    }

    #[test]
    fn sizes_are_readable() {
        let sizes = [0, 2048, 5 << 20, 20 << 30].map(readable);
        assert_eq!(sizes, ["0 KiB", "2 KiB", "5 MiB", "20 GiB"]);
    }
}
