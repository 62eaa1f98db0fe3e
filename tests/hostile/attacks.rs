//! The attacks, and the tests that run them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::follower::{ADMIN_TOKEN, admin, ask, connect_from};
use super::honest::Honest;
use super::judge::{HEADING, Promise, Row, limits, line, verdict};
use super::limited::with_descriptors;
use super::proxy::{Proxy, nginx};
use super::server::{Server, command};
use super::swarm::{Bounds, Script, act, be_modest, deaf, get, one_of_many, source, text_frame, upgrade};
use super::watch::{Watch, memory, stats, sum};
use super::{UNMENDED, alone, is_full, show};

/// Where an attack takes place.
pub struct Scene<'a> {
    pub server: &'a Server,
    /// The address that clients connect to: the server's, or the proxy's.
    pub front: SocketAddr,
    pub until: Instant,
}

impl Scene<'_> {
    /// A number for the form that runs.
    fn size<T>(&self, small: T, full: T) -> T {
        if is_full() { full } else { small }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Waits until the attack is over.
    fn hold(&self) {
        std::thread::sleep(self.until.saturating_duration_since(Instant::now()));
    }

    fn bounds(&self, connections: usize) -> Bounds {
        Bounds {
            connections,
            connections_total: connections * self.size(20, 100),
            bytes: self.size(256 << 20, 4 << 30),
            until: self.until,
        }
    }

    /// A swarm whose connections say one text after the other and read the answers.
    fn swarm(&self, connections: usize, opening: &dyn Fn(usize) -> Vec<u8>, next: &mut dyn FnMut(usize) -> Vec<u8>) {
        let mut script = Script { opening, next, is_reading: true, leaves_after: 0 };
        act(self.front, source(), self.bounds(connections), &mut script);
    }

    /// Publishes without regard for the answer.
    fn publish(&self, channels: &[String], data: &str) {
        let _ = self.server.feed().call(json!({ "op": "publish", "channels": channels, "data": data }));
    }
}

/// One attack.
pub struct Attack {
    pub name: &'static str,
    /// The sections of the configuration that the attack needs, but for `[server]` and `[limits]`.
    config: &'static str,
    /// What the attack needs in `[limits]`, in the small form alone: there a table of fewer places is full sooner.
    limits: &'static str,
    /// The descriptors that the server has; 0 for no limit of the attack's own.
    descriptors: u64,
    seconds: (u64, u64),
    /// Whether clients make the attack, so that a proxy passes it on.
    is_for_proxies: bool,
    /// Promises that the attack is no measure of.
    excluded: &'static [Promise],
    /// Acts; returns how the attack's own promise was broken.
    pub act: fn(&Scene<'_>) -> Option<String>,
}

const PLAIN: Attack = Attack {
    name: "",
    config: "",
    limits: "",
    descriptors: 0,
    seconds: (2, 15),
    is_for_proxies: true,
    excluded: &[],
    act: |_| None,
};

/// Keys whose verification is dear.
const KEYS: &str = concat!(
    "[auth]\nkeys = [{ alg = \"ES384\", pem_file = \"",
    env!("CARGO_MANIFEST_DIR"),
    "/tests/keys/es384.pub.pem\" }, { alg = \"ES256\", pem_file = \"",
    env!("CARGO_MANIFEST_DIR"),
    "/tests/keys/es256.pub.pem\" }]\n"
);
const SECRET: &str = "[auth]\nkeys = [{ alg = \"HS256\", secret = \"a secret of at least 32 bytes, yes\" }]\n\
    [namespace.room]\npresence = true\n";

/// All attacks.
pub const ATTACKS: &[Attack] = &[
    Attack { name: "bad_tokens_ws", config: KEYS, act: bad_tokens_ws, ..PLAIN },
    Attack { name: "bad_tokens_http", config: KEYS, act: bad_tokens_http, ..PLAIN },
    Attack { name: "pipelined_polls", act: pipelined_polls, ..PLAIN },
    Attack { name: "new_names", limits: "channels = 20000\n", seconds: (3, 20), act: new_names, ..PLAIN },
    Attack { name: "many_followers", limits: "channels = 20000\n", seconds: (3, 20), act: many_followers, ..PLAIN },
    Attack { name: "log_stands_still", seconds: (4, 15), act: log_stands_still, ..PLAIN },
    Attack { name: "never_read", act: never_read, ..PLAIN },
    Attack { name: "resume_unread", act: resume_unread, ..PLAIN },
    Attack { name: "pinned_logs", excluded: &[Promise::Names], act: pinned_logs, ..PLAIN },
    Attack { name: "idle_feed", descriptors: 400, seconds: (13, 25), is_for_proxies: false, act: idle_feed, ..PLAIN },
    Attack {
        name: "deaf_unix",
        limits: "stall_timeout = \"2s\"\n",
        seconds: (10, 20),
        is_for_proxies: false,
        act: deaf_unix,
        ..PLAIN
    },
    Attack {
        name: "pause",
        config: "[heartbeat]\nws = \"1s\"\nreap = \"1s\"\n",
        seconds: (6, 20),
        is_for_proxies: false,
        excluded: &[Promise::Latency, Promise::Turn, Promise::Admin],
        act: pause,
        ..PLAIN
    },
    Attack { name: "wide_line", is_for_proxies: false, excluded: &[Promise::Names], act: wide_line, ..PLAIN },
    Attack { name: "kick_reason", act: kick_reason, ..PLAIN },
    Attack {
        name: "authorize_hangs",
        config: "[auth]\nask_backend = true\nask_timeout = \"300ms\"\n",
        seconds: (4, 15),
        is_for_proxies: false,
        act: authorize_hangs,
        ..PLAIN
    },
    Attack { name: "half_open", act: half_open, ..PLAIN },
    Attack { name: "connect_flood", act: connect_flood, ..PLAIN },
    Attack { name: "oversized", act: oversized, ..PLAIN },
    Attack { name: "surveys", act: surveys, ..PLAIN },
    Attack { name: "presence_churn", config: SECRET, act: presence_churn, ..PLAIN },
    Attack { name: "kicks", config: SECRET, act: kicks, ..PLAIN },
];

/// The budgets of memory, where the server has them.
fn budgets() -> String {
    let page = command().args(["config", "docs"]).output().unwrap().stdout;
    let page = String::from_utf8_lossy(&page).into_owned();
    let has = |key: &str| page.contains(&format!("| `{key}` |"));
    let known = [("lag_memory", "32MiB"), ("hub_memory", "64MiB")].into_iter().filter(|(key, _)| has(key));
    known.map(|(key, size)| format!("{key} = \"{size}\"\n")).collect()
}

/// A server, and where it is to stand behind proxies one for the honest clients and one for the attack: what an attack does
/// to the proxy that it goes through is no measure of the server.
fn start(attack: &Attack, is_behind: bool) -> (Server, Option<[Proxy; 2]>) {
    let trusted = if is_behind { "trusted_proxies = [\"127.0.0.1\"]\n" } else { "" };
    let few = if is_full() { "" } else { attack.limits };
    let config = format!(
        "[admin]\ntoken = \"{ADMIN_TOKEN}\"\n[server]\n{trusted}[limits]\n{}{few}{}[namespace.honest]\npublic = true\n",
        budgets(),
        attack.config
    );
    let folder = tempfile::tempdir().unwrap();
    let listener = format!("unix:{}", folder.path().join("clients.sock").display());
    let start = || Server::start_in(folder, &config, &["--shards", "2", "--no-pin", "--listen", &listener]);
    let server = match attack.descriptors {
        0 => start(),
        limit => with_descriptors(limit, start),
    };
    let proxies = is_behind.then(|| [nginx(server.address), nginx(server.address)]);
    (server, proxies)
}

fn run(attack: &Attack, is_behind: bool) -> Row {
    let (server, proxies) = start(attack, is_behind);
    let [honest_front, front] =
        proxies.as_ref().map_or([server.address; 2], |proxies| proxies.each_ref().map(|proxy| proxy.address));
    let honest = Honest::start(honest_front, server.feed_path.clone());
    std::thread::sleep(Duration::from_millis(500));
    let names = || stats(server.admin).ok().and_then(|stats| stats["node"]["channels"].as_u64());
    let (memory_before, names_before) = (memory(server.id()), names().unwrap_or(0));
    let watch = Watch::start(server.id(), server.admin);
    let begun = Instant::now();
    let seconds = if is_full() { attack.seconds.1 } else { attack.seconds.0 };
    let own = (attack.act)(&Scene { server: &server, front, until: begun + Duration::from_secs(seconds) });
    let ended = Instant::now();
    // What is known not to be given back is not waited for.
    let is_known = |promise| UNMENDED.iter().any(|(name, known, _)| *name == attack.name && *known == promise);
    let patience = |promise, time| if is_known(promise) && !is_full() { Duration::from_secs(2) } else { time };
    let (forget, give_back) =
        (patience(Promise::Names, limits().forget), patience(Promise::GivenBack, limits().give_back));
    let names_left = loop {
        // The honest publisher makes four names a second, which the hub keeps for their events' sake.
        let fresh = begun.elapsed().as_secs() * 4;
        let left = names().map_or(u64::MAX, |names| names.saturating_sub(names_before + fresh));
        if left <= limits().spare_names || attack.excluded.contains(&Promise::Names) || ended.elapsed() > forget {
            break left;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let (given_back, memory_after) = loop {
        let memory = memory(server.id());
        let is_back = memory <= memory_before + limits().left_over;
        if is_back || ended.elapsed() > give_back {
            break (is_back.then(|| ended.elapsed()), memory);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let measured = watch.stop();
    let seen = honest.stop(begun, ended);
    let front = if is_behind { "nginx" } else { "direct" };
    Row { attack: attack.name, front, seen, measured, memory_before, memory_after, given_back, names_left, own }
}

/// Runs every attack that was asked for, shows the table, and fails for what is not kept.
fn run_all(is_behind: bool) {
    let _alone = alone();
    let wanted = std::env::var("RINGCAST_ATTACK").unwrap_or_default();
    let mut table = vec![HEADING.to_owned()];
    let mut failures = Vec::new();
    let is_wanted = |attack: &&Attack| {
        wanted.split(',').any(|name| attack.name.contains(name)) && (attack.is_for_proxies || !is_behind)
    };
    for attack in ATTACKS.iter().filter(is_wanted) {
        let row = run(attack, is_behind);
        table.push(line(&row, attack.excluded));
        show(&table[table.len() - 1]);
        failures.extend(verdict(&row, attack.excluded));
    }
    show(&format!("\n{}\n", table.join("\n")));
    assert!(failures.is_empty(), "promises that were broken:\n{}", failures.join("\n"));
}

#[test]
fn every_attack_is_bounded() {
    run_all(false);
}

#[test]
fn every_attack_is_bounded_behind_nginx() {
    run_all(true);
}

/// A token that looks right and whose signature does not verify.
pub fn bad_token(random: &mut fastrand::Rng, is_dear: bool) -> String {
    let (algorithm, length) = if is_dear { ("ES384", 96) } else { ("ES256", 64) };
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signature: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
    format!(
        "{}.{}.{}",
        part(json!({ "alg": algorithm, "typ": "JWT" })),
        part(json!({ "exp": 4_102_444_800u64, "channels": ["*"], "sub": "u" })),
        URL_SAFE_NO_PAD.encode(signature)
    )
}

/// A token of a user for all channels.
pub fn good_token(user: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of at least 32 bytes, yes");
    let claims = json!({ "exp": 4_102_444_800u64, "channels": ["*"], "sub": user });
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256), &claims, &key).unwrap()
}

/// WebSockets without a token send one bad token after the other.
fn bad_tokens_ws(scene: &Scene<'_>) -> Option<String> {
    let mut random = fastrand::Rng::with_seed(1);
    let opening = |_| upgrade("/ws?channel=private:a");
    scene.swarm(scene.size(40, 100), &opening, &mut |number| {
        let token = |random: &mut _| text_frame(&json!({ "token": bad_token(random, number % 4 != 0) }).to_string());
        (0..20).flat_map(|_| token(&mut random)).collect()
    });
    None
}

/// Requests with bad tokens, one after the other on each connection.
fn bad_tokens_http(scene: &Scene<'_>) -> Option<String> {
    let mut random = fastrand::Rng::with_seed(2);
    let opening = |_| get("/healthz", "");
    scene.swarm(scene.size(40, 100), &opening, &mut |number| {
        let request = |random: &mut _| {
            let token = bad_token(random, number % 4 != 0);
            get("/poll?channel=private:a&wait=0", &format!("Authorization: Bearer {token}\r\n"))
        };
        (0..20).flat_map(|_| request(&mut random)).collect()
    });
    None
}

/// Polls of a hundred channels each, as many as the connections take.
fn pipelined_polls(scene: &Scene<'_>) -> Option<String> {
    let channels: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    let requests = get(&format!("/poll?channel={}&wait=0", channels.join(",")), "").repeat(400);
    let opening = |_| get("/healthz", "");
    scene.swarm(scene.size(50, 300), &opening, &mut |_| requests.clone());
    None
}

fn hundred_names(first: u64) -> Vec<String> {
    (first..first + 100).map(|number| format!("name:{number}")).collect()
}

/// A WebSocket subscribes to a hundred new names and leaves them, again and again.
fn new_names(scene: &Scene<'_>) -> Option<String> {
    let mut first = 0;
    let opening = |_| upgrade("/ws");
    scene.swarm(2, &opening, &mut |_| {
        let mut messages = Vec::new();
        for _ in 0..10 {
            let names = hundred_names(first);
            first += 100;
            messages.extend(text_frame(&json!({ "subscribe": names }).to_string()));
            messages.extend(text_frame(&json!({ "unsubscribe": names }).to_string()));
        }
        messages
    });
    None
}

/// Connections that subscribe to a hundred new names each and leave.
fn many_followers(scene: &Scene<'_>) -> Option<String> {
    let mut first = 0;
    let opening = |_| upgrade("/ws");
    let mut next = |_: usize| {
        first += 100;
        text_frame(&json!({ "subscribe": hundred_names(first) }).to_string())
    };
    let mut script = Script { opening: &opening, next: &mut next, is_reading: true, leaves_after: 1 };
    let bounds = Bounds { connections_total: scene.size(2_000, 20_000), ..scene.bounds(50) };
    act(scene.front, source(), bounds, &mut script);
    None
}

/// The reader of the log stands still while connections and publishers come and go, each of which is logged.
fn log_stands_still(scene: &Scene<'_>) -> Option<String> {
    // The thread that reads the log waits for this lock before it reads the next line.
    let _still = scene.server.log.lock().unwrap();
    let mut number = 0;
    while !scene.is_over() {
        number += 1;
        drop(UnixStream::connect(&scene.server.feed_path));
        if let Ok(mut stream) = connect_from(one_of_many(number), scene.front) {
            let _ = stream.write_all(&get("/sse?channel=a", ""));
            let _ = stream.set_read_timeout(Some(Duration::from_millis(10)));
            let _ = stream.read(&mut [0; 512]);
        }
    }
    None
}

/// Data of half a megabyte, of which an event stream makes more than three: each empty line costs a field's name.
fn half_a_megabyte() -> String {
    "\n".repeat(500_000)
}

fn crowd(count: usize, connect: impl Fn(usize) -> Option<TcpStream>) -> Vec<TcpStream> {
    (0..count).filter_map(connect).collect()
}

/// Clients that never read, on channels with large events.
fn never_read(scene: &Scene<'_>) -> Option<String> {
    let _deaf = crowd(scene.size(100, 500), |number| {
        let request = match number % 2 {
            0 => get("/sse?channel=loud", ""),
            _ => upgrade("/ws?channel=loud"),
        };
        deaf(scene.front, source(), &request)
    });
    let data = half_a_megabyte();
    while !scene.is_over() {
        scene.publish(&["loud".into()], &data);
        std::thread::sleep(Duration::from_millis(200));
    }
    None
}

/// Clients that resume from the beginning and read nothing of what they have missed.
fn resume_unread(scene: &Scene<'_>) -> Option<String> {
    let channels: Vec<String> = (0..10).map(|number| format!("missed:{number}")).collect();
    let data = half_a_megabyte();
    channels.iter().for_each(|channel| scene.publish(std::slice::from_ref(channel), &data));
    let _deaf = crowd(scene.size(100, 500), |number| {
        let target = format!("/sse?channel={}&last_event_id=1-0", channels[number % 10]);
        deaf(scene.front, source(), &get(&target, ""))
    });
    scene.hold();
    None
}

/// Few connections that never read, each on many channels: what they have not read of each is kept.
fn pinned_logs(scene: &Scene<'_>) -> Option<String> {
    let total = scene.size(200, 500);
    let names: Vec<String> = (0..total).map(|number| format!("pinned:{number}")).collect();
    let _deaf = crowd(scene.size(12, 30), |number| {
        let first = number * 100 % total;
        let channels = names[first..first + 100].join(",");
        let request = match number / 3 % 3 {
            0 => get(&format!("/sse?channel={channels}"), ""),
            1 => upgrade(&format!("/ws?channel={channels}")),
            _ => upgrade(&format!("/ws?channel={channels}&format=raw")),
        };
        deaf(scene.front, source(), &request)
    });
    let data = "x".repeat(60_000);
    for _ in 0..12 {
        names.chunks(100).for_each(|names| scene.publish(names, &data));
        if scene.is_over() {
            break;
        }
    }
    scene.hold();
    None
}

/// Connections to the feed that say nothing and come back when they are let go, until the hub has no more descriptors.
/// Meanwhile revocations are kept, and the admin listener answers.
fn idle_feed(scene: &Scene<'_>) -> Option<String> {
    let mut backend = scene.server.feed();
    let connect = || {
        let stream = UnixStream::connect(&scene.server.feed_path).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut idle: Vec<Option<UnixStream>> = (0..600).map(|_| connect()).collect();
            while !scene.is_over() {
                for place in &mut idle {
                    let is_gone = place.as_ref().is_none_or(|mut stream| matches!(stream.read(&mut [0; 256]), Ok(0)));
                    if is_gone {
                        *place = connect();
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let mut missing = std::collections::BTreeSet::new();
        let mut number = 0;
        while !scene.is_over() {
            std::thread::sleep(Duration::from_millis(200));
            number += 1;
            if let Err(error) = backend.call(json!({ "op": "kick", "jti": format!("idle-{number}") })) {
                missing.insert(format!("a revocation: {error}"));
            }
            for path in ["/healthz", "/v1/channels"] {
                if let Err(error) = admin(scene.server.admin, path) {
                    missing.insert(format!("{path} of the admin listener: {error}"));
                }
            }
        }
        (!missing.is_empty()).then(|| missing.into_iter().collect::<Vec<_>>().join(", "))
    })
}

/// Clients of a Unix socket that take nothing are let go, though no network can tell that they do not.
fn deaf_unix(scene: &Scene<'_>) -> Option<String> {
    let path = scene.server.folder.path().join("clients.sock");
    // The folder is the one that the server was started in.
    let deaf: Vec<UnixStream> = (0..50)
        .filter_map(|_| {
            let mut stream = UnixStream::connect(&path).ok()?;
            stream.write_all(&get("/sse?channel=deaf", "")).ok()?;
            Some(stream)
        })
        .collect();
    let streams = || stats(scene.server.admin).map_or(0, |stats| sum(&stats, "/connections_sse"));
    while streams() < 52 && !scene.is_over() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // More than the kernel takes, and less than a client may be behind.
    let data = "x".repeat(20_000);
    (0..18).for_each(|_| scene.publish(&["deaf".into()], &data));
    while !scene.is_over() {
        if streams() <= 2 {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(format!("{} of {} deaf clients are still there", streams().saturating_sub(2), deaf.len()))
}

/// A WebSocket that answers pings as a distant client does: after 300 ms.
struct Distant {
    stream: TcpStream,
    waiting: Vec<u8>,
    pongs: Vec<(Instant, Vec<u8>)>,
}

impl Distant {
    fn open(front: SocketAddr) -> Option<Distant> {
        let mut stream = connect_from(source(), front).ok()?;
        stream.write_all(&upgrade("/ws?channel=distant")).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(Distant { stream, waiting: Vec::new(), pongs: Vec::new() })
    }

    /// Reads and answers what is due.
    fn step(&mut self) {
        let mut buffer = [0; 4096];
        if let Ok(length) = self.stream.read(&mut buffer) {
            self.waiting.extend_from_slice(&buffer[..length]);
        }
        if let Some(end) = self.waiting.windows(4).position(|four| four == b"\r\n\r\n") {
            self.waiting.drain(..end + 4);
        }
        while self.waiting.len() >= 2 && self.waiting.len() >= 2 + usize::from(self.waiting[1]) {
            let rest = self.waiting.split_off(2 + usize::from(self.waiting[1]));
            let frame = std::mem::replace(&mut self.waiting, rest);
            if frame[0] == 0x89 {
                let pong = [&[0x8a, 0x80 | frame[1], 0, 0, 0, 0], &frame[2..]].concat();
                self.pongs.push((Instant::now() + Duration::from_millis(300), pong));
            }
        }
        while self.pongs.first().is_some_and(|(due, _)| *due <= Instant::now()) {
            let _ = self.stream.write_all(&self.pongs.remove(0).1);
        }
    }
}

/// The server stands still for longer than clients have for their pongs, which wait in the kernel meanwhile.
fn pause(scene: &Scene<'_>) -> Option<String> {
    let count = scene.size(100, 300);
    let mut clients: Vec<Distant> = (0..count).filter_map(|_| Distant::open(scene.front)).collect();
    let mut live = |time: Duration| {
        let end = Instant::now() + time;
        while Instant::now() < end {
            clients.iter_mut().for_each(Distant::step);
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    while !scene.is_over() {
        live(Duration::from_millis(1200));
        scene.server.signal(libc::SIGSTOP);
        live(Duration::from_millis(1800));
        scene.server.signal(libc::SIGCONT);
    }
    live(Duration::from_millis(1500));
    let stats = stats(scene.server.admin).unwrap_or_default();
    let unresponsive = sum(&stats, "/closed/unresponsive");
    assert!(sum(&stats, "/heartbeats") > count as u64, "no pongs were under way: {stats}");
    (unresponsive > 0).then(|| format!("{unresponsive} of {count} clients were dropped for a pause of the server"))
}

/// One line publishes a large event to very many channels that have subscribers.
fn wide_line(scene: &Scene<'_>) -> Option<String> {
    let names: Vec<String> = (0..scene.size(600, 2000)).map(|number| format!("wide:{number}")).collect();
    let _clients: Vec<TcpStream> = names
        .chunks(100)
        .filter_map(|names| deaf(scene.front, source(), &upgrade(&format!("/ws?channel={}", names.join(",")))))
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let data = "x".repeat(400_000);
    while !scene.is_over() {
        scene.publish(&names, &data);
        std::thread::sleep(Duration::from_millis(200));
    }
    None
}

/// A kick of many clients with a reason of nearly a megabyte.
fn kick_reason(scene: &Scene<'_>) -> Option<String> {
    let _clients = crowd(scene.size(300, 2000), |number| {
        let request = match number % 2 {
            0 => get("/sse?channel=kicked", ""),
            _ => upgrade("/ws?channel=kicked"),
        };
        deaf(scene.front, source(), &request)
    });
    std::thread::sleep(Duration::from_millis(300));
    let _ = scene.server.feed().call(json!({ "op": "kick", "channel": "kicked", "reason": "x".repeat(900_000) }));
    scene.hold();
    None
}

/// Of two backends that decide about clients, the newer one never answers.
fn authorize_hangs(scene: &Scene<'_>) -> Option<String> {
    let listen = || {
        let mut stream = UnixStream::connect(&scene.server.feed_path).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        stream.write_all(b"{\"op\":\"listen\",\"what\":[\"authorize\"],\"ref\":1}\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while !line.ends_with('\n') && !scene.is_over() {
            let _ = reader.read_line(&mut line);
        }
        reader
    };
    let mut answering = listen();
    let _hanging = listen();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut line = String::new();
            while !scene.is_over() {
                let _ = answering.read_line(&mut line);
                if let Some(whole) = line.strip_suffix('\n') {
                    let asked: Value = serde_json::from_str(whole).unwrap();
                    let answer =
                        json!({ "op": "authorized", "conn": asked["conn"], "ask": asked["ask"], "allow": true });
                    let _ = writeln!(answering.get_mut(), "{answer}");
                    line.clear();
                }
            }
        });
        let mut asked = 0;
        while !scene.is_over() {
            asked += 1;
            if ask(scene.front, "/poll?channel=asked:1&wait=0", "").is_ok() {
                return None;
            }
        }
        Some(format!("{asked} clients were refused, though one backend answers"))
    })
}

/// Requests that come byte by byte, connections that say nothing, and slow bodies on the admin listener.
fn half_open(scene: &Scene<'_>) -> Option<String> {
    be_modest();
    let mut slow = crowd(scene.size(300, 3000), |number| connect_from(one_of_many(number), scene.front).ok());
    let mut bodies = crowd(50, |_| connect_from(source(), scene.server.admin).ok());
    let head = format!(
        "POST /v1/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    );
    for body in &mut bodies {
        let _ = body.write_all(head.as_bytes());
    }
    let request = get("/sse?channel=slow", "X-Padding: slowly\r\n");
    for byte in request.iter().cycle() {
        let slow = slow.iter_mut().skip(1).step_by(2).chain(&mut bodies);
        slow.for_each(|stream| drop(stream.write_all(&[*byte])));
        std::thread::sleep(Duration::from_millis(100));
        if scene.is_over() {
            break;
        }
    }
    None
}

/// Connections that come and go: closed, reset, within a request, and within a frame.
fn connect_flood(scene: &Scene<'_>) -> Option<String> {
    be_modest();
    let half_frame = [upgrade("/ws?channel=a"), vec![0x81, 0xfe, 0x03, 0xe8, 0, 0, 0, 0, b'x']].concat();
    for number in 0..scene.size(5_000, 100_000) {
        if let Ok(mut stream) = connect_from(one_of_many(number), scene.front) {
            let _ = match number % 4 {
                0 => Ok(()),
                1 => stream.write_all(b"GET /sse?chan"),
                2 => stream.write_all(&half_frame),
                _ => stream.write_all(&get("/sse?channel=a", "")),
            };
            if number % 8 < 4 {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
        if scene.is_over() {
            break;
        }
    }
    None
}

/// Frames, messages and heads that are larger than they may be.
fn oversized(scene: &Scene<'_>) -> Option<String> {
    let opening = |number: usize| match number % 2 {
        0 => upgrade("/ws?channel=a"),
        _ => get("/healthz", ""),
    };
    scene.swarm(20, &opening, &mut |number| match number % 6 {
        // A frame of a terabyte.
        0 => [&[0x81, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 4], &[b'x'; 10_000]].concat(),
        // A message in fragments without an end.
        2 => [&[0x01, 0xfe, 0x03, 0xe8, 0, 0, 0, 0][..], &[b'x'; 1000]]
            .concat()
            .into_iter()
            .chain([&[0x00, 0xfe, 0x03, 0xe8, 0, 0, 0, 0][..], &[b'x'; 1000]].concat().repeat(200))
            .collect(),
        4 => text_frame(&format!("{{\"subscribe\":[{}", "\"a\",".repeat(15_000))),
        1 => get(&format!("/{}", "x".repeat(60_000)), ""),
        3 => get("/sse?channel=a", &"X-Field: value\r\n".repeat(5_000)),
        _ => get(&format!("/poll?channel={}", "a,".repeat(3_000)), ""),
    });
    None
}

/// Operators' questions about all connections and channels, in a loop.
fn surveys(scene: &Scene<'_>) -> Option<String> {
    let _clients = crowd(scene.size(300, 3000), |number| {
        let mut stream = connect_from(source(), scene.front).ok()?;
        stream.write_all(&get(&format!("/sse?channel=crowd:{number}"), "")).ok()?;
        Some(stream)
    });
    std::thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || {
                be_modest();
                let paths = ["/v1/connections?limit=1000", "/v1/channels?prefix=", "/metrics", "/v1/channels"];
                for path in paths.iter().cycle().skip(first) {
                    let _ = admin(scene.server.admin, path);
                    if scene.is_over() {
                        break;
                    }
                }
            });
        }
    });
    None
}

/// Users that join rooms with presence and leave them, again and again.
fn presence_churn(scene: &Scene<'_>) -> Option<String> {
    let opening = |number: usize| {
        let token = good_token(&format!("u{number}"));
        upgrade(&format!("/ws?channel=room:0&token={token}"))
    };
    let rooms: Vec<String> = (1..20).map(|number| format!("room:{number}")).collect();
    let messages = [
        text_frame(&json!({ "subscribe": rooms }).to_string()),
        text_frame(&json!({ "unsubscribe": rooms }).to_string()),
    ]
    .concat();
    scene.swarm(scene.size(20, 100), &opening, &mut |_| messages.repeat(5));
    None
}

/// A backend that kicks users, channels and tokens as fast as it can, while their clients come back.
fn kicks(scene: &Scene<'_>) -> Option<String> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            be_modest();
            let mut feed = scene.server.feed();
            for number in 0u64.. {
                let command = match number % 3 {
                    0 => json!({ "op": "kick", "user": format!("u{}", number % 100) }),
                    1 => json!({ "op": "kick", "channel": "kicked" }),
                    _ => json!({ "op": "kick", "jti": format!("token-{number}") }),
                };
                if feed.call(command).is_err() || scene.is_over() {
                    break;
                }
            }
        });
        let opening = |number: usize| {
            let token = good_token(&format!("u{number}"));
            get(&format!("/sse?channel=kicked&token={token}"), "")
        };
        scene.swarm(scene.size(50, 300), &opening, &mut |_| Vec::new());
    });
    None
}
