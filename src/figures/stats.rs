//! The server's figures put together from what the hub and the shards publish. Reading them costs those threads nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::logic::json;
use crate::sys::process;

use super::{
    BUCKETS, Figure, HubFigures, Label, Measure, NodeSeen, NodesSeen, ServerFigures, ServerState, ServerTable,
    ShardFigures, ShardTable,
};

/// Every figure of the server.
#[derive(Debug, Default)]
pub struct Stats {
    /// What holds for the server as a whole.
    pub state: Arc<ServerState>,
    /// The counters of the server as a whole.
    pub server: Arc<ServerFigures>,
    /// The hub's figures.
    pub hub: Arc<HubFigures>,
    /// The nodes of the cluster.
    pub nodes: Arc<NodesSeen>,
    /// The shards' figures, by the shards' numbers.
    pub shards: Vec<Arc<ShardFigures>>,
}

impl Stats {
    /// How many rounds the hub and each shard have gone, by the thread's name: a thread whose rounds stand still hangs.
    pub fn rounds(&self) -> Vec<(String, u64)> {
        let shard = |(index, shard): (usize, &Arc<ShardFigures>)| {
            (format!("shard-{index}"), shard.counters.turns.load(Ordering::Relaxed))
        };
        let hub = ("hub".to_owned(), self.hub.rounds.load(Ordering::Relaxed));
        std::iter::once(hub).chain(self.shards.iter().enumerate().map(shard)).collect()
    }

    /// Appends `{"node":{…},"process":{…},"nodes":[{…}],"shards":[{…}]}`, where each counter is a member by its name.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let usage = process::usage();
        let all = All {
            node: Node {
                counters: Counters { figures: HubFigures::FIGURES, values: self.hub.values().collect() },
                connections: self.state.connections(),
                ready: self.state.is_ready(),
            },
            process: Process {
                counters: Counters {
                    figures: ServerTable::<AtomicU64>::FIGURES,
                    values: self.server.values().collect(),
                },
                version: env!("CARGO_PKG_VERSION"),
                memory_bytes: usage.memory_bytes,
                cpu_ms: usage.cpu.as_millis() as u64,
                uptime_ms: usage.uptime.as_millis() as u64,
            },
            nodes: self.nodes.get(),
            shards: self.shards.iter().map(|shard| Shard::new(shard)).collect(),
        };
        json::write(&all, out);
    }
}

#[derive(Serialize)]
struct All<'a> {
    node: Node<'a>,
    process: Process<'a>,
    nodes: Vec<NodeSeen>,
    shards: Vec<Shard<'a>>,
}

#[derive(Serialize)]
struct Node<'a> {
    #[serde(flatten)]
    counters: Counters<'a>,
    connections: usize,
    ready: bool,
}

#[derive(Serialize)]
struct Process<'a> {
    #[serde(flatten)]
    counters: Counters<'a>,
    version: &'static str,
    memory_bytes: u64,
    cpu_ms: u64,
    uptime_ms: u64,
}

#[derive(Serialize)]
struct Shard<'a> {
    #[serde(flatten)]
    counters: Counters<'a>,
    measures: BTreeMap<&'static str, Distribution>,
}

/// A distribution. The upper bound of each bucket is twice the one before, and the last bucket has none.
#[derive(Serialize)]
struct Distribution {
    /// The upper bound of the first bucket.
    first: u64,
    counts: [u64; BUCKETS],
    sum: u64,
}

impl Shard<'_> {
    fn new(figures: &ShardFigures) -> Shard<'_> {
        let distribution = |measure: Measure| {
            let (counts, sum) = figures.measures.get(measure);
            (measure.name(), Distribution { first: measure.bound(0).unwrap_or_default(), counts, sum })
        };
        Shard {
            counters: Counters {
                figures: ShardTable::<AtomicU64>::FIGURES,
                values: figures.counters.values().collect(),
            },
            measures: Measure::ALL.into_iter().map(distribution).collect(),
        }
    }
}

/// The counters of a table: a number each, or an object for a list.
struct Counters<'a> {
    figures: &'static [Figure],
    values: Vec<&'a [AtomicU64]>,
}

impl Serialize for Counters<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(Some(self.figures.len()))?;
        for (figure, values) in self.figures.iter().zip(&self.values) {
            let mut numbers = values.iter().map(|value| value.load(Ordering::Relaxed));
            match figure.label {
                Label::Each { values: labels, .. } => {
                    members.serialize_entry(figure.name, &labels.iter().zip(numbers).collect::<BTreeMap<_, _>>())?;
                }
                Label::None | Label::Of(_) => members.serialize_entry(figure.name, &numbers.next())?,
            }
        }
        members.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_counter_is_a_member_by_its_name() {
        let stats = Stats { shards: vec![Arc::default(), Arc::default()], ..Stats::default() };
        stats.hub.events_published.store(4, Ordering::Relaxed);
        stats.shards[1].counters.sends.store(7, Ordering::Relaxed);
        stats.shards[1].counters.closed[0].store(3, Ordering::Relaxed);
        stats.state.set_started();
        let mut out = b" ".to_vec();
        stats.write_json(&mut out);
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&value["node"]["events_published"], &value["node"]["ready"]), (&4.into(), &true.into()));
        assert_eq!(value["nodes"], serde_json::json!([]));
        let node =
            |name: &str| NodeSeen { name: name.into(), version: "1".into(), position: "7-1".into(), silent_ms: 5 };
        stats.nodes.set(vec![node("b"), node("a")]);
        let mut out = Vec::new();
        stats.write_json(&mut out);
        let nodes = &serde_json::from_slice::<Value>(&out).unwrap()["nodes"];
        let expected = serde_json::json!({ "name": "a", "version": "1", "position": "7-1", "silent_ms": 5 });
        assert_eq!((&nodes[0], &nodes[1]["name"]), (&expected, &"b".into()));
        let shard = &value["shards"][1];
        assert_eq!((&shard["sends"], &shard["closed"]["client"]), (&7.into(), &3.into()));
        assert_eq!(shard["measures"]["lag_bytes"]["first"], 256);
        for figure in ShardTable::<u64>::FIGURES {
            assert!(!shard[figure.name].is_null(), "{}", figure.name);
        }
        assert!(
            HubFigures::FIGURES.iter().all(|figure| value["node"][figure.name] == 4 || value["node"][figure.name] == 0)
        );
    }

    #[test]
    fn threads_are_named_with_their_rounds() {
        let stats = Stats { shards: vec![Arc::default()], ..Stats::default() };
        stats.hub.rounds.store(5, Ordering::Relaxed);
        stats.shards[0].counters.turns.store(9, Ordering::Relaxed);
        assert_eq!(stats.rounds(), [("hub".to_owned(), 5), ("shard-0".to_owned(), 9)]);
    }
}
