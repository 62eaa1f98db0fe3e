//! The promises, and how an attack is measured against them.

use std::time::Duration;

use super::honest::Seen;
use super::watch::Measured;
use super::{UNMENDED, is_full, show};

/// A promise that holds under every attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// An honest client's event is in time.
    Latency,
    /// No turn of a shard or of the hub is long.
    Turn,
    /// The memory beyond the honest load is within its budget.
    Memory,
    /// The memory is given back after the attack.
    GivenBack,
    /// Publishers are not refused because of clients.
    Publishers,
    /// Every honest client gets every event, in order, on the connection that it has.
    Order,
    /// The admin listener answers.
    Admin,
    /// Channels that nobody follows and nobody has published to are forgotten.
    Names,
    /// The attack's own promise, as the attack describes it.
    Own,
}

/// The memory that the configuration of the attacks allows beyond connections and channels, by the formula of
/// docs/capacity.md: thrice `lag_memory` (32 MiB), the queues to two shards, `hub_memory` (64 MiB), and an event that is being
/// framed in each shard.
const MEMORY_MAX: u64 = 320 << 20;

/// The limits of one form of the suite.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub latency: Duration,
    pub turn: Duration,
    /// The time that the server waited for a processor is added to the limits of time, up to this. An attack that keeps
    /// all threads of the server busy has them wait for each other too, so this has to have an end.
    pub busy_max: Duration,
    pub memory: u64,
    pub left_over: u64,
    pub give_back: Duration,
    /// The time in which names that nobody follows any more are forgotten.
    pub forget: Duration,
    /// The names that may be left beyond those of the honest load.
    pub spare_names: u64,
}

/// The limits that hold. Those of the small form are far above the promises, because a machine that is busy with other
/// things delays turns and events too; the faults that they are to find are of seconds and of hundreds of megabytes.
pub fn limits() -> Limits {
    let small = Limits {
        latency: Duration::from_secs(2),
        turn: Duration::from_secs(1),
        busy_max: Duration::from_secs(3),
        memory: MEMORY_MAX,
        left_over: 32 << 20,
        give_back: Duration::from_secs(60),
        forget: Duration::from_secs(10),
        spare_names: 100,
    };
    match is_full() {
        true => {
            let (latency, turn) = (Duration::from_millis(100), Duration::from_millis(50));
            Limits { latency, turn, busy_max: Duration::ZERO, ..small }
        }
        false => small,
    }
}

/// What was measured of one attack.
#[derive(Debug)]
pub struct Row {
    pub attack: &'static str,
    pub front: &'static str,
    pub seen: Seen,
    pub measured: Measured,
    pub memory_before: u64,
    pub memory_after: u64,
    /// How long it took until the memory was given back; `None` if it was not in time.
    pub given_back: Option<Duration>,
    /// Channels that the hub still knew after [`Limits::forget`], beyond those of the honest load.
    pub names_left: u64,
    /// What the attack says of its own promise, if it was broken.
    pub own: Option<String>,
}

impl Row {
    /// The memory of the attack: the most that there was beyond the honest load.
    pub fn memory(&self) -> u64 {
        self.measured.memory_peak.saturating_sub(self.memory_before)
    }

    /// The promises that were broken, each with how.
    pub fn broken(&self) -> Vec<(Promise, String)> {
        let limits = limits();
        let mut broken = Vec::new();
        let mut check = |promise, is_kept: bool, how: String| {
            if !is_kept {
                broken.push((promise, how));
            }
        };
        let p99 = self.seen.quantile(0.99);
        let noise = self.measured.starved.min(limits.busy_max);
        check(Promise::Latency, p99 <= limits.latency + noise, format!("honest p99 {}", millis(p99)));
        let turns = [("shard", Some(self.measured.shard_turn)), ("hub", self.measured.hub_turn)];
        for (thread, turn) in turns.into_iter().filter_map(|(thread, turn)| Some((thread, turn?))) {
            check(
                Promise::Turn,
                turn.above < limits.turn + noise,
                format!("a {thread}'s turn above {}", millis(turn.above)),
            );
        }
        check(Promise::Memory, self.memory() <= limits.memory, format!("{} MiB", self.memory() >> 20));
        let left = self.memory_after.saturating_sub(self.memory_before);
        check(Promise::GivenBack, self.given_back.is_some(), format!("{} MiB kept", left >> 20));
        check(Promise::Publishers, self.seen.refused.is_empty(), summary(&self.seen.refused));
        check(Promise::Order, self.seen.broken.is_empty(), self.seen.broken.join("; "));
        check(Promise::Admin, self.measured.unanswered == 0, format!("{} unanswered", self.measured.unanswered));
        check(Promise::Names, self.names_left <= limits.spare_names, format!("{} names kept", self.names_left));
        check(Promise::Own, self.own.is_none(), self.own.clone().unwrap_or_default());
        broken
    }
}

/// How often each text occurs.
fn summary(texts: &[String]) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    texts.iter().for_each(|text| *counts.entry(text).or_default() += 1);
    counts.iter().map(|(text, count)| format!("{count} × {text}")).collect::<Vec<_>>().join(", ")
}

fn millis(duration: Duration) -> String {
    match duration {
        Duration::MAX => "∞".into(),
        _ => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
    }
}

/// The heading of [`line`]'s columns.
pub const HEADING: &str = "| attack | front | longest turn | hub's | honest p99 | max | memory | given back | refused | starved | broken promises |\n\
     |---|---|---|---|---|---|---|---|---|---|---|";

/// A row of the table.
pub fn line(row: &Row, excluded: &[Promise]) -> String {
    let turn = row.measured.shard_turn;
    let turn = match turn.at_most {
        Duration::MAX => format!("> {}", millis(turn.above)),
        _ if turn.at_most != turn.above => format!("≤ {}", millis(turn.at_most)),
        _ => millis(turn.at_most),
    };
    let broken = row.broken().into_iter().filter(|(promise, _)| !excluded.contains(promise));
    let broken: Vec<String> = broken.map(|(promise, how)| format!("{promise:?}: {how}")).collect();
    format!(
        "| {} | {} | {turn} | {} | {} | {} | {:.1} MiB | {} | {} | {} | {} |",
        row.attack,
        row.front,
        row.measured.hub_turn.map_or("?".into(), |turn| millis(turn.at_most)),
        millis(row.seen.quantile(0.99)),
        millis(row.seen.quantile(1.0)),
        row.memory() as f64 / f64::from(1 << 20),
        row.given_back.map_or("no".into(), |time| format!("{:.1} s", time.as_secs_f64())),
        row.seen.refused.len(),
        millis(row.measured.starved),
        broken.join("; "),
    )
}

/// The promises of a row that are asserted and were broken. Says which rows of [`UNMENDED`] were kept after all.
pub fn verdict(row: &Row, excluded: &[Promise]) -> Vec<String> {
    let broken = row.broken();
    let unmended = |promise| UNMENDED.iter().find(|(attack, known, _)| *attack == row.attack && *known == promise);
    for (attack, promise, missing) in UNMENDED.iter().filter(|(attack, ..)| *attack == row.attack) {
        if !broken.iter().any(|(one, _)| one == promise) {
            show(&format!("{attack} kept {promise:?}, which UNMENDED lists for want of {missing}"));
        }
    }
    let asserted =
        broken.into_iter().filter(|(promise, _)| !excluded.contains(promise) && unmended(*promise).is_none());
    asserted.map(|(promise, how)| format!("{} ({}): {promise:?}: {how}", row.attack, row.front)).collect()
}
