//! A hub for tests, in which the test acts as driver, shards and publishers.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::hub::core::budget::Now;
use crate::hub::core::{Core, Ports};
use crate::hub::ids::IdSource;
use crate::hub::publishers::Publishers;
use crate::hub::roles::Role;
use crate::hub::watch::{Mark, Next, Want};
use crate::link::{FromHub, ShardMessage, ToHub, to_hub, to_shard};
use crate::logic::history::HistoryLimits;
use crate::sys::socket;

/// A hub with the ends that a test acts on.
pub(super) struct World {
    pub(super) core: Core,
    pub(super) ports: Ports,
    pub(super) to_hub: ToHub,
    pub(super) queues: Vec<FromHub>,
    pub(super) drained: crossbeam_channel::Receiver<u64>,
    /// The time since the start, and the step by which each look at the clock moves it on.
    pub(super) time: Rc<Cell<(Duration, Duration)>>,
    pub(super) folder: tempfile::TempDir,
}

/// The far end of a publisher's connection.
pub(super) struct Far {
    pub(super) stream: UnixStream,
    pub(super) number: usize,
    /// The beginning of a line whose rest has not come yet.
    rest: Vec<u8>,
    /// Bytes for which the socket had no room yet.
    unwritten: Vec<u8>,
}

/// A hub with two shards, whose queues hold `queue_bytes` bytes.
pub(super) fn world(queue_bytes: usize) -> World {
    let folder = tempfile::tempdir().unwrap();
    let (to_hub, inbox) = to_hub().unwrap();
    let (shards, queues) = (0..2).map(|_| to_shard(queue_bytes, inbox.wake.clone()).unwrap()).unzip();
    let limits = HistoryLimits { events_max: 100, bytes_max: 1 << 20, age_max_ms: 1_000_000 };
    let ids = IdSource::open(&folder.path().join("x.ids"), 1000).unwrap();
    let mut core = Core::new(crate::hub::Order::Local(ids), shards, Box::new(move |_| limits));
    let time = Rc::new(Cell::new((Duration::ZERO, Duration::ZERO)));
    let (start, clock) = (Instant::now(), time.clone());
    core.clock = Box::new(move || {
        let (now, step) = clock.get();
        clock.set((now + step, step));
        Now { unix_ms: 2000 + now.as_millis() as u64, steady_ms: now.as_millis() as u64, instant: start + now }
    });
    core.now = (core.clock)();
    core.sweep_at = core.now.instant;
    core.rounds_at = core.now.instant;
    core.publishers = Publishers::new(100_000);
    let (drained_sender, drained) = crossbeam_channel::bounded(1);
    let listener = socket::listen_unix(&folder.path().join("feed.sock"), 0o600, None).unwrap();
    let ports = Ports { listener, inbox, drained: drained_sender };
    World { core, ports, to_hub, queues, drained, time, folder }
}

impl World {
    /// A publisher whose end in the hub takes few bytes at a time.
    pub(super) fn publisher(&mut self) -> Far {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let number = self.core.publishers.open(near.into(), Role::Publisher, &mut self.core.wants);
        Far::new(far, number)
    }

    /// One turn, with marks for all orders of the turn before.
    pub(super) fn turn(&mut self) -> Next {
        let mut marks: Vec<Mark> = Vec::new();
        for want in self.core.wants.drain(..) {
            match want {
                Want::Readable(number) => marks.push(Mark::Readable(number)),
                Want::Writable(number) => marks.push(Mark::Writable(number)),
                Want::Inbox => marks.push(Mark::Inbox),
                Want::Listener => marks.push(Mark::Listener),
                Want::Tick(_) => marks.push(Mark::Tick),
                Want::Opened(_) | Want::Closed(_) | Want::Rebind => {}
            }
        }
        self.core.turn(&self.ports, &mut marks)
    }

    /// Turns until no work is left.
    pub(super) fn settle(&mut self) {
        while self.turn() == Next::Again {}
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let (now, step) = self.time.get();
        self.time.set((now + time, step));
    }

    pub(super) fn received(&mut self, shard: usize) -> Vec<ShardMessage> {
        let batches = std::iter::from_fn(|| self.queues[shard].next());
        batches.inspect(|batch| self.queues[shard].done(FromHub::weigh(batch))).flatten().collect()
    }

    /// The numbers of the questions that a shard was asked.
    pub(super) fn asked(&mut self, shard: usize) -> Vec<u64> {
        let request = |message| match message {
            ShardMessage::Kick { request, .. } | ShardMessage::Look { request, .. } => Some(request),
            _ => None,
        };
        self.received(shard).into_iter().filter_map(request).collect()
    }

    pub(super) fn wanted(&self, want: Want) -> bool {
        self.core.wants.contains(&want)
    }
}

impl Far {
    pub(super) fn new(stream: UnixStream, number: usize) -> Far {
        Far { stream, number, rest: Vec::new(), unwritten: Vec::new() }
    }

    pub(super) fn say(&mut self, line: &str) {
        self.stream.write_all(line.as_bytes()).unwrap();
        self.stream.write_all(b"\n").unwrap();
    }

    /// Writes `count` publishes without `ref`, as far as there is room.
    pub(super) fn flood(&mut self, channel: &str, count: usize) {
        let line = format!("{{\"op\":\"publish\",\"channel\":\"{channel}\",\"data\":1}}\n");
        self.unwritten.extend_from_slice(line.repeat(count).as_bytes());
        self.write_rest();
    }

    /// Writes bytes that had no room before.
    pub(super) fn write_rest(&mut self) {
        while let Ok(length @ 1..) = self.stream.write(&self.unwritten) {
            self.unwritten.drain(..length);
        }
    }

    /// Whole lines that have come; panics if the connection has ended.
    pub(super) fn lines(&mut self) -> Vec<Value> {
        let mut buffer = [0; 65536];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the connection has ended"),
                Ok(length) => self.rest.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = self.rest.split_off(end);
        let whole = std::mem::replace(&mut self.rest, rest);
        whole
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    pub(super) fn refs(&mut self) -> Vec<Value> {
        self.lines().into_iter().map(|line| line["ref"].clone()).collect()
    }
}
