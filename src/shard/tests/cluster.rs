//! A model of several nodes: real hubs and shards over one log in memory, which loses, trims, refuses, delays and repeats on
//! order. Nodes die and start anew, and clients move between all of them.
//!
//! For every client each event that was ever in the log, after the client's position, has come or lies in a gap that the
//! client was told of; all events come in the order of the log, once, and with the same ids.

use std::time::Duration;

use crate::hub::BareHub;
use crate::hub::order::{LogOrder, LogParts};
use crate::link::HubMessage;
use crate::link::backplane::{BrokerInbox, BrokerState, FromBroker, Loss, ToBroker, Unordered, to_broker};
use crate::logic::entry::{Content, Control, Entry, Origin};
use crate::logic::id::Id;

use super::*;

const NODES: usize = 3;
/// Entries that a trimmed log keeps at least.
const KEPT_MIN: usize = 5;
/// The time of the log after which nothing of a dead node is waited for.
const LONG_MS: u64 = 20_000;

/// The log, and everything that was ever in it.
struct Log {
    entries: Vec<Entry>,
    newest: Id,
    ever: Vec<(Id, usize)>,
    keys: std::collections::HashSet<String>,
}

/// A node, with the queue to its broker and what it has read.
struct Node {
    model: Model,
    mark: arcstr::ArcStr,
    inbox: BrokerInbox,
    queue: std::collections::VecDeque<Vec<Unordered>>,
    position: Id,
}

struct World {
    rng: fastrand::Rng,
    log: Log,
    nodes: Vec<Node>,
    started: u64,
    next_key: u64,
    /// Whether the broker loses nothing, so that keys hold on all nodes.
    is_safe: bool,
    figures: HashMap<&'static str, u64>,
}

fn channel_of(content: &Content) -> Option<usize> {
    match content {
        Content::Event(event) => CHANNELS.iter().position(|name| *name == &*event.channel),
        _ => None,
    }
}

impl Log {
    fn add(&mut self, origin: Option<Origin>, content: Content) {
        self.newest = Id::new(self.newest.ms() + 1, 0);
        let id = self.newest;
        let key = match &content {
            Content::Event(event) => event.key.as_ref().map(|key| key.to_string()),
            _ => None,
        };
        // What repeats a key is no event.
        let is_first = key.is_none_or(|key| self.keys.insert(key));
        if let Some(channel) = channel_of(&content).filter(|_| is_first) {
            self.ever.push((id, channel));
        }
        self.entries.push(Entry { id, at_ms: id.ms(), origin, content });
    }
}

impl World {
    fn new(seed: u64) -> World {
        // What the shards draw follows the seed too.
        fastrand::seed(seed);
        let log =
            Log { entries: Vec::new(), newest: Id::new(1_000_000, 0), ever: Vec::new(), keys: Default::default() };
        let is_safe = seed.is_multiple_of(2);
        let mut world = World {
            rng: fastrand::Rng::with_seed(seed),
            log,
            nodes: Vec::new(),
            started: 0,
            next_key: 0,
            is_safe,
            figures: HashMap::new(),
        };
        for _ in 0..NODES {
            let node = world.start_node();
            world.nodes.push(node);
        }
        world
    }

    fn count(&mut self, name: &'static str) {
        *self.figures.entry(name).or_default() += 1;
    }

    /// A new node, which has read the log up to its end.
    fn start_node(&mut self) -> Node {
        self.started += 1;
        // Nodes that were alive before are not asked for their state, as they have been silent for long.
        self.log.newest = Id::new(self.log.newest.ms() + LONG_MS, 0);
        let mark = arcstr::ArcStr::from(format!("n{}~1", self.started));
        let (queue, inbox) = to_broker().unwrap();
        let (caught_up, has_caught_up) = crossbeam_channel::bounded(1);
        let log = LogOrder::new(LogParts {
            queue,
            node: format!("n{}", self.started).as_str().into(),
            mark: mark.clone(),
            pending_max: 1 << 30,
            resume_wait: Duration::from_hours(1),
            needs_confirmation: false,
            caught_up,
        });
        let mut model = Model::with_hub(self.rng.u64(..), BATCHES_MAX, |_, to_shard, limits| {
            BareHub::over_log(log, vec![to_shard], Box::new(move |_| limits))
        });
        let from = self.log.entries.first().map_or(self.log.newest, |entry| entry.id.before());
        let until = self.log.entries.last().map_or(from, |entry| entry.id);
        let state = BrokerState::CatchingUp { from, until, now_ms: self.log.newest.ms() };
        model.hub.hear(HubMessage::Broker(FromBroker::State(state)), model.now_ms);
        let mut node = Node { model, mark, inbox, queue: Default::default(), position: from };
        while self.read(&mut node, usize::MAX) > 0 {}
        node.model.hub.hear(HubMessage::Broker(FromBroker::State(BrokerState::Live)), node.model.now_ms);
        node.model.hub.read_log();
        assert!(has_caught_up.try_recv().is_ok(), "the node has caught up");
        node
    }

    /// Has a node read up to so many entries; returns how many it has.
    fn read(&mut self, node: &mut Node, most: usize) -> usize {
        // As in the hub's turn: shards are heard before the log is read.
        node.model.hear_shard();
        let hub = &mut node.model.hub;
        let position = node.position;
        let found: Vec<Entry> =
            self.log.entries.iter().filter(|entry| entry.id > position).take(most).cloned().collect();
        // As the driver does: a hole before the first entry is told.
        let trimmed = self.log.entries.first().filter(|first| first.id.before() > position);
        if let Some(first) = trimmed.filter(|_| self.is_hole(position)) {
            let (after, resumed) = (position, first.id.before());
            let gap = FromBroker::Gap { after, resumed, loss: Loss::Trimmed };
            hub.hear(HubMessage::Broker(gap), node.model.now_ms);
            *self.figures.entry("gaps by trimming").or_default() += 1;
        }
        let count = found.len();
        if let Some(last) = found.last() {
            node.position = last.id;
            node.inbox.note_read(&found);
            hub.hear(HubMessage::Broker(FromBroker::Entries(found)), node.model.now_ms);
        }
        hub.read_log();
        count
    }

    /// Whether an event that the log no longer has is after a position and before the first entry.
    fn is_hole(&self, position: Id) -> bool {
        let first = self.log.entries.first().map_or(Id::MAX, |entry| entry.id);
        self.log.ever.iter().any(|(id, _)| *id > position && *id < first)
    }

    fn publish(&mut self, at: usize) {
        let channel = CHANNELS[self.rng.usize(..CHANNELS.len())];
        let key = match self.is_safe && self.rng.u8(..4) == 0 {
            true => {
                self.next_key += u64::from(self.rng.bool());
                format!(r#","key":"k{}""#, self.next_key)
            }
            false => String::new(),
        };
        let data = "x".repeat(self.rng.usize(..200));
        let line = format!(r#"{{"op":"publish","channel":"{channel}","data":"{data}"{key}}}"#);
        let model = &mut self.nodes[at].model;
        model.hub.execute(parse(line.as_bytes()).unwrap(), model.now_ms, &mut Vec::new()).unwrap();
    }

    /// Takes what a node hands to its broker.
    fn take(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        while let Some(ToBroker::Append { entries, .. }) = node.inbox.next() {
            node.queue.push_back(entries);
        }
    }

    /// Appends, refuses or leaves open what a node has handed over next.
    fn append(&mut self, at: usize) {
        self.take(at);
        let Some(entries) = self.nodes[at].queue.pop_front() else { return };
        let fate = self.rng.u8(..12);
        let (is_refused, is_appended) = (fate < 2, fate != 0);
        for Unordered { number, content } in entries {
            let node = &mut self.nodes[at];
            if is_refused && matches!(content, Content::Event(_)) {
                let is_certain = !is_appended;
                let refused = FromBroker::Refused { number, is_certain, why: "on order".into() };
                node.model.hub.hear(HubMessage::Broker(refused), node.model.now_ms);
                *self.figures.entry(if is_certain { "refused" } else { "unsure" }).or_default() += 1;
            }
            if is_appended {
                self.log.add(Some(Origin { node: node.mark.clone(), number }), content);
            }
        }
    }

    /// The log loses its newest entries, some of which nodes have read, and a node fences them.
    fn lose_tail(&mut self) {
        let kept = self.log.entries.len().saturating_sub(self.rng.usize(1..8));
        if kept == 0 {
            return;
        }
        self.count("tails lost");
        self.log.entries.truncate(kept);
        let after = self.log.entries[kept - 1].id;
        self.log.newest = Id::new(self.log.newest.ms() + 1, 0);
        self.log.add(None, Content::Control(Control::Fence { after }));
    }

    fn trim(&mut self) {
        let removed = self.log.entries.len().saturating_sub(KEPT_MIN + self.rng.usize(..20));
        if removed > 0 {
            self.log.entries.drain(..removed);
            self.count("trimmed");
        }
    }

    /// A node dies, and a new one takes its place. Its clients go elsewhere.
    fn replace(&mut self, at: usize) {
        self.count("nodes that died");
        while !self.nodes[at].model.clients.is_empty() {
            self.leave(at, 0);
        }
        let left = std::mem::take(&mut self.nodes[at].model.left);
        let to = (at + 1) % NODES;
        self.nodes[to].model.left.extend(left);
        self.nodes[at] = self.start_node();
    }

    fn with_log(&mut self, at: usize) -> &mut Model {
        let ever = self.log.ever.iter().map(|(id, channel)| Published { id: *id, channel: *channel });
        let node = &mut self.nodes[at];
        node.model.log = ever.collect();
        node.model.floor = node.position;
        &mut node.model
    }

    fn leave(&mut self, at: usize, client: usize) {
        self.with_log(at).leave(client);
    }

    /// A client comes to a node, new or with the position that it has from any node.
    fn connect(&mut self, at: usize) {
        let from = self.rng.usize(..NODES);
        let moved = std::mem::take(&mut self.nodes[from].model.left);
        self.nodes[at].model.left.extend(moved);
        // A position ahead of the node is waited for, and the client gets no answer before.
        let ahead = self.nodes[at].model.left.iter().map(|(id, _)| *id).max().unwrap_or_default();
        if ahead > self.nodes[at].position {
            self.count("positions ahead of the node");
            self.read_at(at, usize::MAX);
        }
        self.with_log(at).connect();
    }

    fn read_at(&mut self, at: usize, most: usize) -> usize {
        let mut node = self.nodes.swap_remove(at);
        let count = self.read(&mut node, most);
        self.nodes.push(node);
        let last = self.nodes.len() - 1;
        self.nodes.swap(at, last);
        count
    }

    fn step(&mut self) {
        let at = self.rng.usize(..NODES);
        match self.rng.u8(..24) {
            0..5 => self.publish(at),
            5..10 => self.append(at),
            10..14 => {
                let most = self.rng.usize(1..12);
                self.read_at(at, most);
            }
            14 | 15 if self.nodes[at].model.clients.len() < 5 => self.connect(at),
            16 if !self.nodes[at].model.clients.is_empty() => {
                let client = self.rng.usize(..self.nodes[at].model.clients.len());
                self.leave(at, client);
            }
            17 if !self.is_safe && self.rng.u8(..4) == 0 => self.lose_tail(),
            18 if !self.is_safe => self.trim(),
            19 if self.rng.u8(..8) == 0 => self.replace(at),
            20 | 21 if !self.nodes[at].model.clients.is_empty() => {
                let client = self.rng.usize(..self.nodes[at].model.clients.len());
                let bytes_max = self.rng.usize(1..9000);
                self.nodes[at].model.read(client, bytes_max);
            }
            _ => self.nodes[at].model.turns(2),
        }
        for at in 0..NODES {
            while let Some(client) = self.nodes[at].model.clients.iter().position(|client| client.is_over) {
                self.leave(at, client);
            }
        }
    }

    /// Appends and reads everything, and checks all clients.
    fn settle(&mut self) {
        for at in 0..NODES {
            self.take(at);
            while !self.nodes[at].queue.is_empty() {
                self.append(at);
            }
        }
        for at in 0..NODES {
            while self.read_at(at, usize::MAX) > 0 {}
        }
        let positions: Vec<Id> = self.nodes.iter().map(|node| node.position).collect();
        assert!(positions.windows(2).all(|two| two[0] == two[1]), "all nodes are at the end: {positions:?}");
        for at in 0..NODES {
            let model = self.with_log(at);
            model.settle();
            let found =
                ["events received", "gaps told"].map(|name| (name, model.figures.remove(name).unwrap_or_default()));
            for (name, figure) in found {
                *self.figures.entry(name).or_default() += figure;
            }
        }
    }
}

#[test]
fn the_model_of_several_nodes_holds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("RINGCAST_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGCAST_MODEL_SEEDS").unwrap_or(100),
    };
    let mut figures: HashMap<&str, u64> = HashMap::new();
    for seed in seeds.clone() {
        let run = || {
            let mut world = World::new(seed);
            (0..600).for_each(|_| world.step());
            world.settle();
            world.figures
        };
        let Ok(found) = std::panic::catch_unwind(run) else { panic!("RINGCAST_MODEL_SEED={seed} breaks it") };
        found.into_iter().for_each(|(name, figure)| *figures.entry(name).or_default() += figure);
    }
    println!("{seeds:?}: {figures:?}");
    let is_whole = seeds.end - seeds.start >= 100;
    assert!(!is_whole || figures.len() == 9, "everything has happened: {figures:?}");
}
