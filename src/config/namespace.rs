//! `[namespace.NAME]`: what may differ between kinds of channels.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::logic::history::HistoryLimits;

use super::units;

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
    /// Whether it is known who is on a channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<bool>,
    /// Whether clients may publish where their tokens say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_publish: Option<bool>,
    /// Whether its channels need no token.
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
    /// Whether it needs no token.
    pub public: bool,
    /// Whether it is known who is on a channel.
    pub presence: bool,
    /// Whether clients may publish where their tokens say so.
    pub client_publish: bool,
}

impl NamespacePolicy {
    pub(super) fn of(own: Option<&Namespace>, fallback: Option<&Namespace>) -> NamespacePolicy {
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
            public: pick(own, fallback, |n| n.public, false),
            presence: pick(own, fallback, |n| n.presence, false),
            client_publish: pick(own, fallback, |n| n.client_publish, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
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
