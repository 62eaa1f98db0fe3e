//! The configuration in a shard's terms: times in ticks, policies by number.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Limits, SlowPolicy};
use crate::logic::protocol::http::HeadLimits;
use crate::logic::wheel::Tick;

use super::rates::{Rate, TalkLimits};

/// The shard's coarse time, in milliseconds per tick.
pub(super) const TICK_MS: u64 = 100;

/// Ticks in a second.
pub(super) const TICKS_PER_SECOND: Tick = (1000 / TICK_MS) as Tick;

/// A duration in ticks, rounded up.
pub(super) fn ticks(duration: Duration) -> Tick {
    u32::try_from(duration.as_millis().div_ceil(u128::from(TICK_MS))).unwrap_or(u32::MAX / 2).min(u32::MAX / 2)
}

/// A namespace's settings that concern a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// The most framed bytes of a client's backlog.
    pub(super) max_lag: u64,
    /// The treatment of a client with a larger backlog.
    pub(super) slow: SlowPolicy,
    /// Whether the hub counts the users on the namespace's channels.
    pub(super) presence: bool,
}

/// The rates that a client may have as a connection, as an address and as a user.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    pub(super) connection: Rate,
    pub(super) address: Rate,
    pub(super) user: Rate,
}

impl Shares {
    /// The rates of a connection, an address and a user, in this order; see [`Rate::per_second`].
    fn per_second(units: [u32; 3], burst_min: usize) -> Shares {
        let [connection, address, user] = units.map(|units| Rate::per_second(units, burst_min));
        Shares { connection, address, user }
    }
}

/// The limits on rates.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateLimits {
    pub(super) requests: Shares,
    pub(super) new_names: Shares,
    /// Joining channels with presence.
    pub(super) joins: Shares,
    /// The tokens of an address that do not verify.
    pub(super) failed_tokens: Rate,
}

impl RateLimits {
    fn new(limits: &Limits) -> RateLimits {
        // A client may name all of its channels at once, and again when it comes back.
        let channels = limits.subscriptions.saturating_mul(2);
        RateLimits {
            requests: Shares::per_second(
                [limits.request_rate, limits.request_rate_address, limits.request_rate_user],
                0,
            ),
            new_names: Shares::per_second(
                [limits.new_names, limits.new_names_address, limits.new_names_user],
                channels,
            ),
            joins: Shares::per_second([limits.joins, limits.joins_address, limits.joins_user], channels),
            failed_tokens: Rate::per_second(limits.failed_tokens, 0),
        }
    }
}

/// The configuration, and the values that a shard has derived from it.
pub(super) struct Settings {
    pub(super) config: Arc<Config>,
    pub(super) head: HeadLimits,
    pub(super) handshake: Tick,
    /// The time that an open connection may wait for its next request.
    pub(super) keep_alive: Tick,
    /// The time that a finished connection may take to close.
    pub(super) linger: Tick,
    pub(super) heartbeat_sse: Tick,
    pub(super) heartbeat_ws: Tick,
    pub(super) reap: Tick,
    pub(super) drain: Tick,
    pub(super) token_timeout: Tick,
    pub(super) ask_timeout: Tick,
    pub(super) talk: TalkLimits,
    /// The rates of each connection, each address and each user.
    pub(super) rates: RateLimits,
    /// The time in which a client must take some of the bytes that wait for it.
    pub(super) stall: Tick,
    /// The most bytes that are held of what a client has sent: of a request, and of a message.
    pub(super) held_request_max: usize,
    pub(super) held_message_max: usize,
    pub(super) retry_ms: u64,
    pub(super) trusted: bool,
    /// The bytes of memory that slow clients may make the shard hold.
    pub(super) lag_memory: u64,
}

impl Settings {
    pub(super) fn new(config: Arc<Config>, lag_memory: u64) -> Settings {
        Settings {
            head: HeadLimits { head_bytes_max: config.http.max_header, fields_max: config.http.max_header_fields },
            handshake: ticks(config.server.handshake_timeout).max(1),
            keep_alive: ticks(config.server.keep_alive).max(1),
            linger: ticks(Duration::from_secs(2)),
            heartbeat_sse: ticks(config.heartbeat.sse).max(1),
            heartbeat_ws: ticks(config.heartbeat.ws).max(1),
            reap: ticks(config.heartbeat.reap).max(1),
            drain: ticks(config.server.drain_timeout).max(1),
            ask_timeout: ticks(config.auth.ask_timeout).max(1),
            token_timeout: ticks(config.auth.token_timeout).max(1),
            talk: TalkLimits {
                messages_max: config.websocket.message_rate,
                bytes_max: config.websocket.byte_rate as u64,
            },
            rates: RateLimits::new(&config.limits),
            stall: ticks(config.limits.stall_timeout).max(1),
            held_request_max: config.limits.inbound.max(config.http.max_header),
            held_message_max: config.limits.inbound.max(config.websocket.max_message),
            retry_ms: config.http.retry.as_millis() as u64,
            lag_memory,
            trusted: !config.server.trusted_proxies.is_empty(),
            config,
        }
    }

    /// Whether `ip` is a trusted proxy, which may name its clients' addresses.
    pub(super) fn trusts(&self, ip: IpAddr) -> bool {
        self.config.server.trusted_proxies.iter().any(|network| network.contains(ip))
    }

    /// The policy of a channel.
    pub(super) fn policy(&self, channel: &str) -> Policy {
        let policy = self.config.namespace(channel);
        Policy { max_lag: policy.max_lag as u64, slow: policy.slow, presence: policy.presence }
    }
}

/// The different policies of all namespaces, so that a channel holds only a policy's number.
#[derive(Debug, Default)]
pub(super) struct Policies(Vec<Policy>);

impl Policies {
    /// The number of a policy.
    pub(super) fn number(&mut self, policy: Policy) -> u16 {
        let index = self.0.iter().position(|known| *known == policy).unwrap_or_else(|| {
            self.0.push(policy);
            self.0.len() - 1
        });
        // The number fits: there are at most as many policies as namespaces.
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// The policy of that number.
    pub(super) fn get(&self, number: u16) -> Policy {
        self.0[usize::from(number)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_up() {
        assert_eq!(ticks(Duration::from_millis(1)), 1);
        assert_eq!(ticks(Duration::from_secs(25)), 250);
        assert_eq!(ticks(Duration::MAX), u32::MAX / 2);
    }

    #[test]
    fn equal_policies_share_a_number() {
        let mut policies = Policies::default();
        let gap = Policy { max_lag: 1, slow: SlowPolicy::Gap, presence: false };
        let latest = Policy { max_lag: 1, slow: SlowPolicy::Latest, presence: false };
        assert_eq!(policies.number(gap), 0);
        assert_eq!(policies.number(latest), 1);
        assert_eq!(policies.number(gap), 0);
        assert_eq!(policies.get(1), latest);
    }
}
