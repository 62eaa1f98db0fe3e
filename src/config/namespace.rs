//! The values that hold for a channel.

use crate::logic::event::namespace_of;
use crate::logic::history::HistoryLimits;

use super::table::{Config, NamespacePolicy};

impl Config {
    /// The values that hold for a channel: those of its namespace, then those of `"*"`, then the defaults.
    pub fn namespace(&self, channel: &str) -> NamespacePolicy {
        let own = self.namespace.get(namespace_of(channel)).filter(|_| channel.contains(':'));
        let layers = [self.namespace.get("*"), own];
        layers.into_iter().flatten().fold(NamespacePolicy::default(), |policy, layer| layer.over(policy))
    }
}

impl NamespacePolicy {
    /// What the history of a channel may hold.
    pub fn history(&self) -> HistoryLimits {
        HistoryLimits {
            events_max: self.history_events,
            bytes_max: self.history_bytes,
            age_max_ms: u64::try_from(self.history_ttl.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SlowPolicy;
    use super::*;

    #[test]
    fn a_namespace_inherits_what_it_does_not_set() {
        let config: Config = toml::from_str(
            "[namespace.\"*\"]\nhistory_events = 5\nslow = \"gap\"\n[namespace.orders]\nmax_lag = \"8KiB\"\nslow = \"latest\"",
        )
        .unwrap();
        let orders = config.namespace("orders:1");
        assert_eq!((orders.history().events_max, orders.max_lag, orders.slow), (5, 8192, SlowPolicy::Latest));
        assert_eq!(config.namespace("other").slow, SlowPolicy::Gap);
        assert_eq!(config.namespace("orders").slow, SlowPolicy::Gap, "a name without colon has no namespace");
        assert_eq!(Config::default().namespace("x").slow, SlowPolicy::CatchUp);
    }
}
