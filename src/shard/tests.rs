//! A model of delivery: the real hub and a real shard, driven by hand in one thread, with socket pairs whose far ends
//! read only when the model says so. The model draws all of its steps from a seed.
//!
//! The modules below this one take the same hub and shard step by step through single cases.
//!
//! `RINGCAST_MODEL_SEEDS=10000 cargo test --release --lib model` tries more seeds; `RINGCAST_MODEL_SEED=N` repeats
//! one.
//! [`faulty`] puts a kernel with faults under the shard.

mod asking;
mod bounds;
mod carried;
mod client;
mod cluster;
pub(super) mod faulty;
mod floods;
mod handover;
mod memory;
mod parrot;
mod poll;
mod proxied;
mod secured;
mod steps;
mod subscribe;
pub(super) mod tables;
mod turns;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use super::account::used;
use super::connection::State;
use super::lanes::Following;
use super::resume::PAGES_ASKED_MAX;
use super::settings::Settings;
use super::turn::{Next, Shard, hooks};
use super::*;
use crate::hub::BareHub;
use crate::hub::ids::IdSource;
use crate::link::{HubInbox, ToShard, to_hub, to_shard_with};
use crate::logic::auth::Revoked;
use crate::logic::history::HistoryLimits;
use crate::logic::id::Id;
use crate::logic::protocol::feed::parse;
use crate::logic::reason::Reason;

use client::{Client, Speaks, say_to, take};

const CHANNELS: [&str; 8] = ["d:1", "d:2", "g:1", "g:2", "l:1", "l:2", "c:1", "c:2"];
const MAX_LAG: usize = 8192;
const HISTORY_EVENTS: usize = 40;
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

/// A published event as the model remembers it.
struct Published {
    id: Id,
    channel: usize,
}

struct Model {
    rng: fastrand::Rng,
    shard: Shard,
    hub: BareHub,
    inbox: HubInbox,
    now_ms: u64,
    log: Vec<Published>,
    /// A position that is known to be no later than what the hub has.
    floor: Id,
    clients: Vec<Client>,
    /// The protocols of the model's clients.
    languages: &'static [Speaks],
    /// What the clients shake hands with, if they speak TLS.
    tls: Option<Arc<rustls::ClientConfig>>,
    /// The clients speak HTTP/2, and share these connections.
    is_http_2: bool,
    connections: Vec<Rc<RefCell<carried::Connection>>>,
    /// The positions and channels of clients that have left, from which new clients resume.
    left: Vec<(Id, Vec<usize>)>,
    figures: HashMap<&'static str, u64>,
    /// The room for batches in the queue to the shard.
    batches_max: usize,
    /// Hub and shard are handed over to new ones now and then.
    hands_over: bool,
    folder: tempfile::TempDir,
}

fn is_lossy(channel: usize) -> bool {
    CHANNELS[channel].starts_with('l')
}

/// The memory of slow clients where it must be used up at times.
const LITTLE_MEMORY: u64 = 48 << 10;
/// The room for batches in the queue to the shard if the queue must never be full.
const BATCHES_MAX: usize = 4096;
/// The room for batches in the queue to the shard if the queue must be full at times.
const BATCHES_FEW: usize = 2;

impl Model {
    fn new(seed: u64) -> Model {
        Model::with_queue(seed, BATCHES_MAX)
    }

    fn with_queue(seed: u64, batches_max: usize) -> Model {
        Model::with_hub(seed, batches_max, |folder, to_shard, limits| {
            let ids = IdSource::open(&folder.join("x.ids"), 1_000_000).unwrap();
            BareHub::new(ids, vec![to_shard], Box::new(move |_| limits))
        })
    }

    /// A model with a hub that is made of a folder, the queue to the shard, and the limits of histories.
    fn with_hub(
        seed: u64,
        batches_max: usize,
        hub: impl FnOnce(&std::path::Path, ToShard, HistoryLimits) -> BareHub,
    ) -> Model {
        let mut config: Config = toml::from_str(
            "[namespace.c]\n[namespace.d]\nslow = \"disconnect\"\n[namespace.g]\nslow = \"gap\"\n[namespace.l]\nslow = \"latest\"",
        )
        .unwrap();
        for namespace in config.namespace.values_mut() {
            namespace.max_lag = Some(MAX_LAG);
        }
        config.limits.retained = 32 * 1024;
        let folder = tempfile::tempdir().unwrap();
        let now_ms = 1_000_000;
        let (to_hub, inbox) = to_hub().unwrap();
        let (to_shard, from_hub) = to_shard_with(1 << 20, batches_max, inbox.wake.clone()).unwrap();
        let limits = HistoryLimits { events_max: HISTORY_EVENTS, bytes_max: 1 << 20, age_max_ms: 1 << 40 };
        let hub = hub(folder.path(), to_shard, limits);
        let (started, _) = crossbeam_channel::bounded(1);
        let parts = ShardParts {
            index: 0,
            core: None,
            admission: Arc::new(Admission::new(&config.server)),
            config: Arc::new(config),
            lag_memory: u64::MAX,
            listeners: Vec::new(),
            from_hub,
            to_hub,
            figures: Arc::default(),
            keyring: None,
            revoked: Revoked::default(),
            pages: None,
            tls: None,
            mailbox: None,
            adopting: None,
            started,
        };
        let shard = Shard::new(parts, 10_000).unwrap();
        let rng = fastrand::Rng::with_seed(seed);
        Model {
            rng,
            shard,
            hub,
            inbox,
            now_ms,
            log: Vec::new(),
            floor: Id::ZERO,
            clients: Vec::new(),
            languages: &[Speaks::Sse, Speaks::Json],
            tls: None,
            is_http_2: false,
            connections: Vec::new(),
            left: Vec::new(),
            figures: HashMap::new(),
            batches_max,
            hands_over: false,
            folder,
        }
    }

    fn say(&mut self, line: &str) -> serde_json::Value {
        self.hear_shard();
        self.now_ms += self.rng.u64(0..3);
        let mut out = Vec::new();
        self.hub.execute(parse(line.as_bytes()).unwrap(), self.now_ms, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap_or_default()
    }

    fn hear_shard(&mut self) {
        while let Some(message) = self.inbox.next() {
            self.hub.hear(message, self.now_ms);
        }
    }

    /// One turn of the hub and the shard.
    fn turn(&mut self) -> Next {
        self.hear_shard();
        if self.shard.wire.io.faults.is_some() {
            // The clock retries connections for which the kernel had no memory, and the hub retries batches without
            // room.
            self.shard.note_tick();
            self.hub.hear_all([], self.now_ms);
        }
        let next = self.shard.turn().unwrap();
        self.shard.slots.check_invariants();
        self.shard.lanes.check_invariants();
        // A log holds a few times the largest allowed backlog, however slow its clients are.
        let lanes = CHANNELS.len() as u64 * 3;
        assert!(self.shard.lanes.kept_bytes <= lanes * 4 * MAX_LAG as u64 + (32 << 10), "memory is bounded");
        let Shard { slots, lanes, cx, .. } = &self.shard;
        let over = used(slots, lanes).saturating_sub(cx.settings.lag_memory);
        // The last event has a frame of at most 5000 bytes in each of three lanes, whose chunks may double.
        assert!(over <= 64 << 10, "what slow clients take is bounded: {over} bytes more");
        next
    }

    fn publish(&mut self) {
        let channel = self.rng.usize(..CHANNELS.len());
        for _ in 0..self.rng.usize(1..6) {
            let size = if self.rng.u8(..8) == 0 { self.rng.usize(..5000) } else { self.rng.usize(..200) };
            let line = format!(
                r#"{{"op":"publish","channel":"{}","data":"{}","ref":1}}"#,
                CHANNELS[channel],
                "x".repeat(size)
            );
            let id = self.say(&line)["id"].as_str().unwrap().parse().unwrap();
            assert!(self.log.last().is_none_or(|last| last.id < id));
            self.log.push(Published { id, channel });
        }
    }

    fn connect(&mut self) {
        let resumed = (!self.left.is_empty() && self.rng.bool()).then(|| {
            let index = self.rng.usize(..self.left.len());
            self.left.swap_remove(index)
        });
        let mut channels: Vec<usize> = (0..CHANNELS.len()).filter(|_| self.rng.u8(..3) == 0).collect();
        if channels.is_empty() {
            channels.push(self.rng.usize(..CHANNELS.len()));
        }
        let is_resumed = resumed.is_some();
        let mut since = self.newest();
        let mut after = String::new();
        if let Some((id, others)) = resumed {
            (since, channels) = (id, others);
            after = format!("&last_event_id={since}");
        }
        let speaks = self.languages[self.rng.usize(..self.languages.len())];
        let names: Vec<&str> = channels.iter().map(|channel| CHANNELS[*channel]).collect();
        let (path, fields) = match speaks {
            Speaks::Sse => ("/sse", ""),
            Speaks::Json => ("/ws", UPGRADE),
            Speaks::Parrot => ("/parrot/any", UPGRADE),
        };
        let target = format!("{path}?channel={}{after}", names.join(","));
        if self.is_http_2 {
            let (far, carried) = self.connect_carried(&target, speaks != Speaks::Sse);
            let new = Client::new(far, speaks, channels, since);
            return self.await_head(Client { is_resumed, carried: Some(carried), ..new });
        }
        let (_, far) = self.come(None);
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let secured = self.tls.as_ref().map(|config| Box::new(secured::Secured::new(config)));
        let mut client = Client { is_resumed, secured, ..Client::new(far, speaks, channels, since) };
        client.send(head.as_bytes());
        self.await_head(client);
    }

    /// Has a client that has asked for something read the answer's head.
    fn await_head(&mut self, client: Client) {
        self.clients.push(client);
        // A client that has the answer's head gets every event from there on.
        let index = self.clients.len() - 1;
        let rounds = if self.tls.is_some() { 400 } else { 50 };
        for round in 0..rounds {
            if round == rounds - 10 {
                // A shard without memory takes no position from the hub, and sends the head without it.
                self.shard.deadlines.pass(Duration::from_secs(2));
                self.shard.note_tick();
            }
            self.turn();
            self.read(index, 4096);
            if self.clients[index].has_head {
                break;
            }
        }
        // A shard without memory may cut it off before.
        assert!(self.clients[index].has_head || self.clients[index].is_over, "an answer comes");
        // The hub's ids begin after this one.
        let newest = self.newest().max(Id::new(1_000_000, 0));
        self.clients[index].on_head(newest);
    }

    fn read(&mut self, index: usize, bytes_max: usize) {
        let client = &mut self.clients[index];
        if let Some(carried) = &client.carried {
            let mut connection = carried.connection.borrow_mut();
            connection.read(bytes_max);
            client.is_over |= connection.take(carried.id, &mut client.bytes);
            drop(connection);
            return client.understand();
        }
        let mut buffer = vec![0; bytes_max];
        match (&client.stream).read(&mut buffer) {
            Ok(0) => client.is_over = true,
            Ok(length) => match &mut client.secured {
                Some(secured) => secured.receive(&client.stream, &buffer[..length], &mut client.bytes),
                None => client.bytes.extend_from_slice(&buffer[..length]),
            },
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        client.understand();
    }

    fn leave(&mut self, index: usize) {
        let client = self.clients.swap_remove(index);
        if let Some(carried) = &client.carried {
            carried.connection.borrow_mut().leave(carried.id);
        }
        self.check(&client, client.last);
        if client.channels.iter().all(|channel| !is_lossy(*channel)) {
            self.left.push((client.last, client.channels));
        }
    }

    /// Checks that a client's events are in order, and complete up to an id except for the gaps that it was told of.
    fn check(&mut self, client: &Client, until: Id) {
        assert!(client.received.windows(2).all(|two| two[0] < two[1]), "in order, and nothing twice");
        for event in &self.log {
            let is_due = event.id > client.since && event.id <= until && client.channels.contains(&event.channel);
            let is_told = client.gaps.iter().any(|(after, resumed)| event.id > *after && event.id <= *resumed);
            if is_due && !is_told && !is_lossy(event.channel) {
                let (id, channel) = (event.id, CHANNELS[event.channel]);
                let has_come = client.received.binary_search(&id).is_ok();
                assert!(has_come, "{id} on {channel} is lost before {until}, and the client was not told: {client:?}");
            }
            if client.received.binary_search(&event.id).is_ok() {
                assert!(
                    client.channels.contains(&event.channel) && (event.id > client.since || !client.is_resumed),
                    "{} is not wanted",
                    event.id
                );
            }
        }
        *self.figures.entry("events received").or_default() += client.received.len() as u64;
        *self.figures.entry("gaps told").or_default() += client.gaps.len() as u64;
    }

    fn step(&mut self) {
        if self.hands_over && self.rng.u8(..16) == 0 {
            self.hand_over();
        }
        match self.rng.u8(..20) {
            0..6 => self.publish(),
            6 | 7 if self.clients.len() < 12 => self.connect(),
            8 if !self.clients.is_empty() => {
                let index = self.rng.usize(..self.clients.len());
                self.leave(index);
            }
            9 if self.rng.u8(..4) == 0 => {
                let channel = CHANNELS[self.rng.usize(..CHANNELS.len())];
                self.say(&format!(r#"{{"op":"kick","channel":"{channel}"}}"#));
            }
            10..16 if !self.clients.is_empty() => {
                let index = self.rng.usize(..self.clients.len());
                let bytes_max = self.rng.usize(1..9000);
                self.read(index, bytes_max);
            }
            _ => {
                for _ in 0..self.rng.usize(1..4) {
                    self.turn();
                }
            }
        }
        // Clients whose connection the server has ended may come back.
        while let Some(index) = self.clients.iter().position(|client| client.is_over) {
            self.leave(index);
        }
    }

    /// Has all clients read until nothing more comes, and checks that everything that was due has come.
    fn settle(&mut self) {
        let mut quiet = 0;
        if let Some(faults) = &mut self.shard.wire.io.faults {
            faults.end();
        }
        for _ in 0..100_000 {
            let next = self.turn();
            let before: usize = self.clients.iter().map(|client| client.received.len() + client.bytes.len()).sum();
            for index in 0..self.clients.len() {
                self.read(index, 64 * 1024);
            }
            let after: usize = self.clients.iter().map(|client| client.received.len() + client.bytes.len()).sum();
            quiet = if next == Next::Wait && before == after { quiet + 1 } else { 0 };
            if quiet > 50 {
                let newest = self.newest();
                assert_eq!(self.shard.resumes.pending().0, 0, "no place for a page is lost");
                while let Some(client) = self.clients.pop() {
                    let until = if client.is_over { client.last } else { newest };
                    self.check(&client, until);
                }
                return;
            }
        }
        panic!("the model never settles");
    }
}

fn run(mut model: Model) -> Model {
    for _ in 0..400 {
        model.step();
    }
    model.settle();
    model
}

/// Runs the model with many seeds, or with those that the environment names, and adds up the figures. `is_short`: the
/// memory of slow clients is used up at times.
fn run_all(
    count: u64,
    is_short: bool,
    new: impl Fn(u64) -> Model + std::panic::RefUnwindSafe,
) -> HashMap<&'static str, u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("RINGCAST_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGCAST_MODEL_SEEDS").unwrap_or(count),
    };
    let mut figures: HashMap<&str, u64> = HashMap::new();
    for seed in seeds.clone() {
        let result = std::panic::catch_unwind(|| run(new(seed)));
        let Ok(model) = result else { panic!("RINGCAST_MODEL_SEED={seed} breaks it") };
        for (name, figure) in model.figures {
            *figures.entry(name).or_default() += figure;
        }
        let counters = &model.shard.cx.counters;
        for (name, figure) in [
            ("slow clients cut off", counters.slow_disconnected),
            ("clients cut off for memory", counters.memory_disconnected),
            ("slow clients that went on from history", counters.slow_caught_up),
            ("slow clients told of a gap", counters.slow_gaps),
            ("slow clients moved on", counters.slow_skips),
            ("resumed in the shard", counters.resumed_here),
            ("resumed from the hub", counters.resumed_hub),
            ("kicked", counters.closed[Reason::Kicked as usize]),
        ] {
            *figures.entry(name).or_default() += figure;
        }
        let faults = model.shard.wire.io.faults.iter().flat_map(|faults| faults.counts);
        let names =
            ["short sends", "full sockets", "no memory", "short reads", "late reads", "late reports", "interruptions"];
        for (name, figure) in names.into_iter().zip(faults) {
            *figures.entry(name).or_default() += figure;
        }
    }
    println!("{seeds:?}: {figures:?}");
    let is_whole = seeds.end - seeds.start >= 100;
    if !is_short {
        assert_eq!(figures.remove("clients cut off for memory"), Some(0), "there is enough memory");
    }
    assert!(!is_whole || figures.values().all(|figure| *figure > 0), "everything has happened: {figures:?}");
    figures
}

#[test]
fn the_model_of_delivery_holds() {
    assert_eq!(run_all(150, false, Model::new).len(), 9);
}

#[test]
fn the_model_of_delivery_holds_for_a_made_up_protocol() {
    let new = |seed| Model { languages: &[Speaks::Parrot, Speaks::Sse], ..Model::with_faults(seed) };
    assert_eq!(run_all(100, false, new).len(), 16);
}

#[test]
fn the_model_of_delivery_holds_with_a_kernel_that_has_faults() {
    assert_eq!(run_all(150, false, Model::with_faults).len(), 16);
}

#[test]
fn the_model_of_delivery_holds_with_little_memory() {
    assert_eq!(run_all(150, true, Model::with_little_memory).len(), 17);
}
