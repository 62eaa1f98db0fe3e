//! A look at the broker for `ringcast doctor`, which changes nothing there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{Backplane, BackplaneKind};

use super::broker::BrokerError;

/// The time for the whole look.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// The difference of clocks, in milliseconds, that an operator should know of.
const SKEW_MAX_MS: u64 = 1000;

/// How much something matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// It is as it should be.
    Fine,
    /// It could be better, or cannot be told.
    Note,
    /// A promise does not hold, or will not under load.
    Warn,
    /// Nodes do not start, or cannot publish.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// How much it matters.
    pub grade: Grade,
    /// What it is.
    pub about: &'static str,
    /// How it is.
    pub found: String,
    /// Why that hurts; empty if it does not.
    pub why: &'static str,
    /// What to change; empty if nothing.
    pub change: String,
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Probes(pub(super) Vec<Probed>);

// A build without any broker has nothing to look at.
#[cfg_attr(not(any(feature = "redis", feature = "nats")), allow(dead_code))]
impl Probes {
    pub(super) fn fine(&mut self, about: &'static str, found: impl Into<String>) {
        self.add(Grade::Fine, about, found, "", "");
    }

    pub(super) fn add(
        &mut self,
        grade: Grade,
        about: &'static str,
        found: impl Into<String>,
        why: &'static str,
        change: impl Into<String>,
    ) {
        self.0.push(Probed { grade, about, found: found.into(), why, change: change.into() });
    }

    /// Adds what holds if `holds`, and otherwise what does not.
    pub(super) fn check(
        &mut self,
        holds: bool,
        about: &'static str,
        found: impl Into<String>,
        (grade, why, change): (Grade, &'static str, &str),
    ) {
        match holds {
            true => self.fine(about, found),
            false => self.add(grade, about, found, why, change),
        }
    }

    /// Compares the broker's clock with this host's.
    pub(super) fn clock(&mut self, broker_ms: u64) {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        let skew_ms = now_ms.abs_diff(broker_ms);
        let why = "figures of how long events take are wrong by it, and windows of keys follow the broker's clock";
        let change = "synchronize the clocks of both hosts (chrony)";
        let found = format!("{skew_ms} ms from this host's");
        self.check(skew_ms <= SKEW_MAX_MS, "broker's clock", found, (Grade::Warn, why, change));
    }

    fn unreachable(&mut self, error: &BrokerError) {
        let why = "no node can join the cluster, and nothing is published";
        self.add(Grade::Fail, "broker", error.to_string(), why, "check [backplane] url, the network, and the login");
    }
}

/// Looks at the broker of a configuration. `line_max` is the longest line of the feed, in bytes. Without a broker nothing is
/// found.
pub fn probe(config: &Backplane, line_max: usize) -> Vec<Probed> {
    let mut probes = Probes::default();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let looked = runtime.block_on(async {
        let look = async {
            match config.kind {
                #[cfg(feature = "redis")]
                BackplaneKind::Redis => super::redis::probe(config, &mut probes).await,
                #[cfg(feature = "nats")]
                BackplaneKind::Nats => super::nats::probe(config, line_max, &mut probes).await,
                BackplaneKind::Local => Ok(()),
                #[allow(unreachable_patterns)]
                kind => Err(BrokerError::Refused(format!("this build has no backplane of the kind {kind:?}"))),
            }
        };
        let silent = || BrokerError::Away("the broker does not answer".into());
        tokio::time::timeout(LOOK_MAX, look).await.unwrap_or_else(|_| Err(silent()))
    });
    let _ = line_max;
    if let Err(error) = looked {
        probes.unreachable(&error);
    }
    probes.0
}
