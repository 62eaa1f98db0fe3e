//! Everything at once, from a seed: clients of every transport that come, go, reset and never read; publishers; a backend
//! that listens and stands still; operators; kicks; drains; pauses of the process; steps of the clock; a full disk; too few
//! descriptors. Honest clients get every event once and in order, or are told of a gap. When all is over, every gauge is
//! back where it was.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringcast::feed::client::{FeedClient, FeedError};
use serde_json::{Value, json};

use super::follower::{ADMIN_TOKEN, Follower, Told, Transport, admin, connect_from};
use super::limited::{SmallDisk, with_descriptors};
use super::server::Server;
use super::swarm::{deaf, get, one_of_many, text_frame, upgrade};
use super::watch::{memory, stats};
use super::{alone, attacks, show};

const CONFIG: &str = "[auth]\nkeys = [{ alg = \"HS256\", secret = \"a secret of at least 32 bytes, yes\" }]\n\
    allow_anonymous = true\n[admin]\ntoken = \"hostile\"\n[namespace.room]\npresence = true\n\
    [namespace.g]\nslow = \"gap\"\nmax_lag = \"32KiB\"\n[heartbeat]\nsse = \"500ms\"\nws = \"500ms\"\nreap = \"5s\"\n";
/// libfaketime, which is loaded before the C library and replaces its clock.
const FAKE_CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
/// The channels of each publisher.
const CHANNELS: [[&str; 3]; 2] = [["c:0", "c:1", "g:0"], ["c:2", "g:1", "g:2"]];
/// The descriptors of the server: enough for the honest clients, and too few for a burst.
const DESCRIPTORS: u64 = 600;
/// How long the gauges may take to be back. Logs and channels are kept for 30 s after their last reader.
const SETTLING: Duration = Duration::from_secs(60);
/// The most memory that may be left, beyond that of the start: histories of all channels, and what the allocator keeps.
const LEFT_OVER: u64 = 100 << 20;

struct World<'a> {
    server: &'a Server,
    front: SocketAddr,
    disk: &'a SmallDisk,
    clock: &'a Path,
    seed: u64,
    /// Chaos is over: what is left is to come to rest.
    is_calm: AtomicBool,
    /// Every honest client has got everything.
    is_done: AtomicBool,
    /// The number of the last event of each channel when calm came, by publisher; 0 before.
    last: [[AtomicU64; 3]; 2],
    broken: Mutex<Vec<String>>,
    counts: Mutex<HashMap<&'static str, u64>>,
}

impl World<'_> {
    fn random(&self, actor: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(1000).wrapping_add(actor))
    }

    fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    fn broke(&self, how: String) {
        self.broken.lock().unwrap().push(how);
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    fn pause(&self, random: &mut fastrand::Rng, millis: std::ops::Range<u64>) {
        std::thread::sleep(Duration::from_millis(random.u64(millis)));
    }
}

/// Publishes numbered events on the publisher's channels, and repeats what was refused for want of disk.
fn publish(world: &World<'_>, publisher: usize) {
    let mut random = world.random(publisher as u64);
    let mut feed = world.server.feed();
    let mut numbers = [0u64; 3];
    while !world.is_done.load(Ordering::Relaxed) {
        let index = random.usize(..3);
        let length = if random.u8(..) < 4 { random.usize(..100_000) } else { random.usize(..2000) };
        let data = format!("{} {}", numbers[index] + 1, "x".repeat(length));
        let key = format!("{publisher}:{index}:{}", numbers[index] + 1);
        let command = json!({ "op": "publish", "channel": CHANNELS[publisher][index], "data": data, "key": key });
        match feed.call(command) {
            Ok(_) => numbers[index] += 1,
            Err(FeedError::Refused { code, .. }) if code == "state" => world.count("publishes refused for the disk"),
            Err(error) => {
                world.broke(format!("publisher {publisher}: {error}"));
                let Ok(again) = FeedClient::connect(&world.server.feed_path) else { return };
                feed = again;
            }
        }
        if world.is_calm() {
            for (last, number) in world.last[publisher].iter().zip(numbers) {
                if last.load(Ordering::Relaxed) == 0 && number > 0 {
                    last.store(number, Ordering::Relaxed);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        world.pause(&mut random, 0..8);
    }
}

/// The events that one client has seen.
#[derive(Default)]
struct Ledger {
    numbers: HashMap<String, u64>,
    may_skip: HashSet<String>,
}

impl Ledger {
    /// Takes in what a client was told; an error says what is wrong with it.
    fn take(&mut self, told: Told, channels: &[&str]) -> Result<(), String> {
        let (id, channel, data) = match told {
            Told::Gap => {
                self.may_skip.extend(channels.iter().map(|channel| (*channel).to_owned()));
                return Ok(());
            }
            Told::Event { id, channel, data } => (id, channel, data),
        };
        let number = data.split(' ').next().and_then(|number| number.parse().ok()).ok_or("half an event")?;
        let may_skip = self.may_skip.remove(&channel);
        if let Some(last) = self.numbers.insert(channel.clone(), number)
            && (number <= last || number != last + 1 && !may_skip)
        {
            return Err(format!("{channel} ({id}): {number} after {last}"));
        }
        Ok(())
    }
}

/// Follows some channels, leaves at times, and resumes, until everything has come.
fn follow(world: &World<'_>, number: usize) {
    let mut random = world.random(100 + number as u64);
    let mut all: Vec<(usize, usize)> = (0..6).map(|index| (index / 3, index % 3)).collect();
    random.shuffle(&mut all);
    all.truncate(1 + number % 3);
    let channels: Vec<&str> = all.iter().map(|(publisher, index)| CHANNELS[*publisher][*index]).collect();
    let source = one_of_many(number);
    let transport = Transport::ALL[number % 3];
    let mut follower = Follower::new(world.front, source, transport, channels.join(","), Duration::from_secs(10));
    let mut ledger = Ledger::default();
    let mut calm_since = None;
    loop {
        if !follower.is_connected() {
            if follower.position.is_empty() {
                ledger.may_skip.extend(channels.iter().map(|channel| (*channel).to_owned()));
            }
            if follower.connect().is_err() {
                world.count("connects refused");
                world.pause(&mut random, 20..100);
            }
        }
        if follower.is_connected() {
            for told in follower.next().unwrap_or_default() {
                if let Err(error) = ledger.take(told, &channels) {
                    world.broke(format!("client {number} ({transport:?}): {error}"));
                }
            }
        }
        if !world.is_calm() {
            match random.u16(..600) {
                0 => follower.leave(false),
                1 => follower.leave(true),
                2 | 3 => world.pause(&mut random, 10..300),
                _ => {}
            }
            continue;
        }
        let has_all = all.iter().zip(&channels).all(|((publisher, index), channel)| {
            let last = world.last[*publisher][*index].load(Ordering::Relaxed);
            last > 0 && ledger.numbers.get(*channel).is_some_and(|number| *number >= last)
        });
        if has_all {
            return;
        }
        if calm_since.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(40) {
            return world
                .broke(format!("client {number} ({transport:?}) did not get everything: {:?}", ledger.numbers));
        }
    }
}

/// Clients that connect and disconnect, break the rules of the protocol, and never read.
fn crowd(world: &World<'_>, number: u64) {
    let mut random = world.random(200 + number);
    let mut held: Vec<TcpStream> = Vec::new();
    while !world.is_calm() {
        let source = one_of_many(random.usize(10..200));
        let channel = ["c:0", "g:1", "room:a", "room:b", "crowd:x"][random.usize(..5)];
        let user = format!("u{}", random.u8(..20));
        let token = attacks::good_token(&user);
        let request = match random.u8(..8) {
            0 => get(&format!("/sse?channel={channel}&token={token}"), ""),
            1 => get(&format!("/poll?channel={channel}&wait=20"), ""),
            2 => get(&format!("/poll?channel={channel}&wait=0"), "").repeat(50),
            3 => get("/sse?channel=c:0,c:1&last_event_id=1-0", ""),
            4 => {
                let churn = format!("{{\"subscribe\":[\"room:{}\",\"n:{}\"]}}", random.u8(..9), random.u32(..));
                let bad = json!({ "token": attacks::bad_token(&mut random, true) }).to_string();
                [upgrade(&format!("/ws?channel={channel}&token={token}")), text_frame(&churn), text_frame(&bad)]
                    .concat()
            }
            5 => [upgrade("/ws?channel=crowd:x"), text_frame(r#"{"send":{"any":"thing"}}"#).repeat(30)].concat(),
            6 => [&upgrade("/ws?channel=c:1")[..], &[0x81, 0xfe, 0x03, 0xe8, 0, 0, 0, 0, b'x']].concat(),
            _ => b"GET /sse?channel=".to_vec(),
        };
        if let Some(stream) = deaf(world.front, source, &request) {
            world.count("hostile clients");
            held.push(stream);
        }
        if held.len() > 60 || random.u8(..3) == 0 && !held.is_empty() {
            let stream = held.swap_remove(random.usize(..held.len()));
            if random.bool() {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
        if random.u16(..2000) == 0 {
            let burst: Vec<_> = (0..DESCRIPTORS as usize * 3 / 2)
                .filter_map(|number| connect_from(one_of_many(number), world.front).ok())
                .collect();
            world.count("bursts beyond the descriptors");
            world.pause(&mut random, 50..300);
            drop(burst);
        }
        world.pause(&mut random, 0..10);
    }
}

/// A backend that listens, stands still at times, dies and comes back.
fn listen(world: &World<'_>) {
    let mut random = world.random(300);
    while !world.is_calm() {
        let Ok(mut stream) = UnixStream::connect(&world.server.feed_path) else {
            world.pause(&mut random, 10..50);
            continue;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
        let _ = stream.write_all(b"{\"op\":\"listen\",\"what\":[\"messages\",\"connections\"]}\n");
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        let until = Instant::now() + Duration::from_millis(random.u64(200..3000));
        while Instant::now() < until && !world.is_calm() {
            line.clear();
            let _ = reader.read_until(b'\n', &mut line);
            if random.u8(..) == 0 {
                world.pause(&mut random, 50..500);
            }
        }
        world.count("backends that came");
    }
}

/// Operators and other publishers: questions, kicks, drains that are taken back, and half a line.
fn operate(world: &World<'_>) {
    let mut random = world.random(400);
    let mut feed = world.server.feed();
    while !world.is_calm() {
        let channel = ["c:0", "g:0", "room:a"][random.usize(..3)];
        let command = match random.u8(..9) {
            0 => json!({ "op": "kick", "user": format!("u{}", random.u8(..20)) }),
            1 => json!({ "op": "kick", "channel": channel, "reason": "chaos" }),
            2 => json!({ "op": "kick", "jti": format!("t{}", random.u16(..)) }),
            3 => json!({ "op": "connections", "limit": 100 }),
            4 => json!({ "op": "channels", "prefix": "" }),
            5 => json!({ "op": "history", "channel": "c:0" }),
            6 => json!({ "op": "unsubscribe", "user": "u1", "channel": "room:a" }),
            7 => json!({ "op": "presence", "channel": "room:b" }),
            _ => json!({ "op": "stats" }),
        };
        let _ = feed.call(command);
        match random.u8(..20) {
            0 => {
                set_drain(world, true);
                world.pause(&mut random, 50..400);
                set_drain(world, false);
                world.count("drains taken back");
            }
            1 => drop(UnixStream::connect(&world.server.feed_path).map(|mut stream| stream.write_all(b"{\"op\":"))),
            2 | 3 => drop(admin(world.server.admin, "/metrics")),
            _ => {}
        }
        world.pause(&mut random, 10..80);
    }
    while !set_drain(world, false) {
        world.pause(&mut random, 10..80);
    }
}

fn set_drain(world: &World<'_>, is_draining: bool) -> bool {
    let body = json!({ "draining": is_draining }).to_string();
    let request = format!(
        "PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let Ok(mut stream) = TcpStream::connect(world.server.admin) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// What happens to the host: pauses, steps of the clock, a full disk.
fn host(world: &World<'_>) {
    let mut random = world.random(500);
    while !world.is_calm() {
        match random.u8(..4) {
            0 => {
                world.server.signal(libc::SIGSTOP);
                world.pause(&mut random, 50..1500);
                world.server.signal(libc::SIGCONT);
                world.count("pauses");
            }
            1 => {
                let step = ["-1h", "+1h", "+20s", "-5s", "+0"][random.usize(..5)];
                std::fs::write(world.clock, step).unwrap();
                world.count("steps of the clock");
            }
            2 => {
                world.disk.fill();
                if random.bool() {
                    // Ids must be written down before an hour ahead is used for them.
                    std::fs::write(world.clock, "+1h").unwrap();
                }
                world.pause(&mut random, 100..2000);
                world.disk.empty();
                world.count("full disks");
            }
            _ => world.pause(&mut random, 100..800),
        }
        world.pause(&mut random, 50..400);
    }
    std::fs::write(world.clock, "+0").unwrap();
}

/// The state that must be as before: the gauges, the threads, and the descriptors of each.
fn standing(server: &Server) -> Value {
    let stats = stats(server.admin).unwrap_or_default();
    let names = [
        "slots",
        "connections_http",
        "connections_sse",
        "connections_ws",
        "connections_poll",
        "identified",
        "channels",
        "log_bytes",
        "queued_bytes",
    ];
    let gauges = |shard: &Value| names.iter().map(|name| json!([name, shard[*name]])).collect::<Vec<Value>>();
    let shards: Vec<_> = stats["shards"].as_array().into_iter().flatten().map(gauges).collect();
    let mut descriptors: Vec<_> = std::fs::read_dir(format!("/proc/{}/task", server.id()))
        .unwrap()
        .filter_map(|task| {
            let path = task.ok()?.path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?;
            // What a descriptor is for, without the number that tells it from others of its kind.
            let mut kinds = std::collections::BTreeMap::<String, usize>::new();
            for entry in std::fs::read_dir(path.join("fd")).ok()? {
                let kind = std::fs::read_link(entry.ok()?.path()).ok()?.display().to_string();
                *kinds.entry(kind.split(":[").next()?.to_owned()).or_default() += 1;
            }
            Some((name.trim().to_owned(), kinds))
        })
        .collect();
    descriptors.sort();
    let node = &stats["node"];
    json!({
        "shards": shards, "descriptors": descriptors, "publishers": node["publishers"],
        "connections": node["connections"], "queued_bytes": node["queued_bytes"], "ready": node["ready"],
    })
}

/// The state once it has stopped changing.
fn settled(server: &Server) -> Value {
    let mut before = Value::Null;
    loop {
        let now = standing(server);
        if now == before && !now["ready"].is_null() {
            return now;
        }
        before = now;
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn after_everything_at_once_all_is_as_before() {
    let _alone = alone();
    assert!(Path::new(FAKE_CLOCK).exists(), "the tests need {FAKE_CLOCK} (Debian: libfaketime)");
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seconds = variable("RINGCAST_CHAOS_SECONDS").unwrap_or(10);
    let seed = variable("RINGCAST_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    show(&format!("chaos of {seconds} s; RINGCAST_CHAOS_SEED={seed} makes the same choices"));
    let disk = SmallDisk::mount("64k");
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let environment = [
        ("LD_PRELOAD", Path::new(FAKE_CLOCK)),
        ("FAKETIME_TIMESTAMP_FILE", &*clock),
        ("FAKETIME_NO_CACHE", Path::new("1")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
    ];
    let config = format!("{CONFIG}[server]\nstate_dir = \"{}\"\n", disk.path().display());
    let flags = ["--shards", "2", "--no-pin"];
    let server =
        with_descriptors(DESCRIPTORS, || Server::start_with_environment(folder, &config, &flags, &environment));
    // The list of revoked tokens is open from the first revocation on.
    server.feed().call(json!({ "op": "kick", "jti": "first" })).unwrap();
    let before = settled(&server);
    let memory_before = memory(server.id());
    let world = World {
        server: &server,
        front: server.address,
        disk: &disk,
        clock: &clock,
        seed,
        is_calm: AtomicBool::new(false),
        is_done: AtomicBool::new(false),
        last: Default::default(),
        broken: Mutex::default(),
        counts: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let world = &world;
        let publishers: Vec<_> = (0..2).map(|number| scope.spawn(move || publish(world, number))).collect();
        let followers: Vec<_> = (0..9).map(|number| scope.spawn(move || follow(world, number))).collect();
        let mut others: Vec<_> = (0..3).map(|number| scope.spawn(move || crowd(world, number))).collect();
        others.push(scope.spawn(|| listen(world)));
        others.push(scope.spawn(|| operate(world)));
        others.push(scope.spawn(|| host(world)));
        std::thread::sleep(Duration::from_secs(seconds));
        world.is_calm.store(true, Ordering::Relaxed);
        let joined = [others, followers].into_iter().flatten().map(std::thread::ScopedJoinHandle::join);
        let panics = joined.filter(Result::is_err).count();
        world.is_done.store(true, Ordering::Relaxed);
        publishers.into_iter().for_each(|publisher| drop(publisher.join()));
        assert_eq!(panics, 0, "an actor panicked");
    });
    let published: u64 = world.last.iter().flatten().map(|last| last.load(Ordering::Relaxed)).sum();
    show(&format!("{published} honest events; {:?}", world.counts.lock().unwrap()));
    let broken = world.broken.into_inner().unwrap();
    assert!(broken.is_empty(), "seed {seed}: {}", broken.join("\n"));
    let begun = Instant::now();
    loop {
        let now = standing(&server);
        if now == before {
            break;
        }
        assert!(begun.elapsed() < SETTLING, "seed {seed}: the state is {now}, and was {before}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let left = memory(server.id()).saturating_sub(memory_before);
    show(&format!(
        "all is as before {:.1} s later; {} KiB of memory are left",
        begun.elapsed().as_secs_f64(),
        left >> 10
    ));
    assert!(left < LEFT_OVER, "seed {seed}: {left} bytes are left");
}
