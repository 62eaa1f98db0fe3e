//! Hand-overs: a successor takes every client, publisher and listener, and none of them notices.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringcast::logic::handover::MESSAGE_MAX;
use ringcast::logic::handover::words::{FORMAT, Hello, Wish, Word};
use ringcast::sys::rights;
use serde_json::{Value, json};

use super::clients::{Http, Socket, Stream, get};
use super::server::{PATIENCE, Server, command, eventually, publish, serve};
use super::tokens::{KEYS, token};

const TWO: &[&str] = &["--shards", "2"];

/// A publisher that writes without waiting, and gets every answer later.
struct Pipelining {
    writer: std::thread::JoinHandle<u64>,
    reader: std::thread::JoinHandle<u64>,
    is_over: Arc<AtomicBool>,
}

impl Pipelining {
    fn start(server: &Server, channel: &'static str) -> Pipelining {
        let mut feed = UnixStream::connect(&server.feed_path).unwrap();
        feed.set_read_timeout(Some(PATIENCE)).unwrap();
        let answers = BufReader::new(feed.try_clone().unwrap());
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let writer = std::thread::spawn(move || {
            let mut number = 0;
            while !told.load(Ordering::Relaxed) {
                number += 1;
                let line = json!({ "op": "publish", "channel": channel, "data": number, "ref": number });
                writeln!(feed, "{line}").unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
            feed.shutdown(std::net::Shutdown::Write).unwrap();
            number
        });
        let reader = std::thread::spawn(move || {
            let mut number = 0;
            for line in answers.lines() {
                number += 1;
                let answer: Value = serde_json::from_str(&line.unwrap()).unwrap();
                assert_eq!((&answer["ref"], &answer["ok"]), (&number.into(), &true.into()), "each once, and in order");
            }
            number
        });
        Pipelining { writer, reader, is_over }
    }

    /// Ends it; returns the number of events, each of which was answered once.
    fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        let written = self.writer.join().unwrap();
        assert_eq!(self.reader.join().unwrap(), written);
        written
    }
}

/// Polls again and again until the event with that number has come; returns what came.
fn poll_until(mut http: Http, last: impl Fn() -> Option<u64>) -> Vec<u64> {
    let (mut after, mut numbers) = (String::new(), Vec::new());
    while last().is_none_or(|last| numbers.last().is_none_or(|newest| *newest < last)) {
        let answer = http.get(&format!("/poll?channel=a&wait=1{after}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["gap"], false);
        after = format!("&last_event_id={}", answer["next"].as_str().unwrap());
        numbers.extend(answer["events"].as_array().unwrap().iter().map(|event| event["data"].as_u64().unwrap()));
    }
    numbers
}

#[test]
fn no_client_and_no_publisher_notices_hand_overs_in_a_row() {
    let mut server = Server::start_with("", TWO);
    let address = server.address;
    let mut streams: Vec<Stream> = (0..120).map(|_| Stream::open(address, "/sse?channel=a,b")).collect();
    let mut sockets: Vec<Socket> = (0..120).map(|_| Socket::open(address, "/ws?channel=a")).collect();
    sockets.iter_mut().for_each(|socket| drop(socket.hello()));
    let last = Arc::new(std::sync::OnceLock::new());
    // A poll that begins before the first event.
    let polls: Vec<_> = (0..20)
        .map(|_| {
            let (http, last) = (Http::connect(address), last.clone());
            std::thread::spawn(move || poll_until(http, || last.get().copied()))
        })
        .collect();
    server.await_figure("connections_poll", 20);
    let publisher = Pipelining::start(&server, "a");
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(100));
        server.take_over(TWO);
        // New clients come at once.
        assert_eq!(get(address, "/poll?channel=c&wait=0").status, 200);
        sockets.push(Socket::open(address, "/ws?channel=b"));
    }
    let count = publisher.end();
    last.set(count).unwrap();
    assert!(count > 100, "{count} events");
    for stream in &mut streams {
        for number in 1..=count {
            let event: Value = serde_json::from_str(&stream.next().expect("not cut").data).unwrap();
            assert_eq!(event["data"], number);
        }
    }
    for socket in &mut sockets[..120] {
        (1..=count).for_each(|number| assert_eq!(socket.json()["data"], number));
    }
    for poll in polls {
        let numbers = poll.join().unwrap();
        assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1) && numbers.last() == Some(&count), "{numbers:?}");
    }
    server.publish("b", "x");
    assert!(sockets[120..].iter_mut().all(|socket| socket.json()["data"] == "x"));
    let moved = server.stats()["process"]["handover_connections"].as_u64().unwrap();
    assert!(moved >= 260, "{moved}");
    server.stop();
}

#[test]
fn what_is_half_done_goes_on_in_the_successor() {
    let mut server =
        Server::start("[http]\ncors_origins = [\"https://a.example\"]\n[diagnostics]\necho_path = \"/echo\"");
    let address = server.address;
    // Half a request's head; a held poll with a request behind it; half a line of a publisher; a WebSocket within a fragment.
    let mut head = Http::connect(address);
    head.send("GET /poll?channel=h&wai");
    let mut held = Http::connect(address);
    held.send("GET /poll?channel=p&wait=30 HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n\r\nGET /poll?channel=q&wait=0 HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut feed = UnixStream::connect(&server.feed_path).unwrap();
    feed.set_read_timeout(Some(PATIENCE)).unwrap();
    feed.write_all(b"{\"op\":\"publish\",\"channel\":\"f\",\"da").unwrap();
    let mut echo = Socket::open(address, "/echo");
    // The first fragment of a text message whose mask is zero, and the head of the second with a part of its payload.
    echo.socket.get_mut().write_all(b"\x01\x83\0\0\0\0abc\x80\x86\0\0\0\0de").unwrap();
    let mut stream = Stream::open(address, "/sse?channel=f");
    server.await_figure("connections_poll", 1);
    server.await_at_least("connections_http", 1);
    server.take_over(&[]);
    head.send("t=0 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(head.answer(false).json()["events"], json!([]));
    server.publish("p", "held");
    let answer = held.answer(false);
    assert_eq!(answer.json()["events"][0]["data"], "held");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(held.answer(false).status, 200);
    feed.write_all(b"ta\":\"whole\",\"ref\":1}\n").unwrap();
    let mut line = String::new();
    BufReader::new(&feed).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"ref\":1,\"ok\":true"), "{line}");
    assert_eq!(stream.next().unwrap().data, "whole");
    echo.socket.get_mut().write_all(b"fghi").unwrap();
    assert_eq!(echo.next().into_text().unwrap().as_str(), "abcdefghi");
    server.stop();
}

#[test]
fn identities_presence_history_and_keys_stay() {
    let config = format!("{KEYS}[namespace.room]\npresence = true\n[namespace.open]\npublic = true\n");
    let mut server = Server::start(&config);
    let address = server.address;
    let tokens = ["u1", "u2"].map(|user| token(json!({ "sub": user, "jti": user, "channels": ["*"] })));
    let mut sockets =
        [0, 0, 1].map(|user: usize| Socket::open(address, &format!("/ws?channel=room:1&token={}", tokens[user])));
    let names = sockets.each_mut().map(|socket| socket.hello()["conn"].as_str().unwrap().to_owned());
    let mut feed = server.feed();
    let first =
        feed.call(json!({ "op": "publish", "channel": "room:1", "data": "one", "key": "k" })).unwrap()["id"].clone();
    feed.call(json!({ "op": "publish", "channel": "open:ended", "data": "x" })).unwrap();
    feed.call(json!({ "op": "end", "channel": "open:ended" })).unwrap();
    feed.call(json!({ "op": "kick", "jti": "u9" })).unwrap();
    let presence = |server: &Server| server.feed().call(json!({ "op": "presence", "channel": "room:1" })).unwrap();
    let history = |server: &Server| {
        server.feed().call(json!({ "op": "history", "channel": "room:1" })).unwrap()["events"].clone()
    };
    let (before, events) = (presence(&server), history(&server));
    server.take_over(&[]);
    assert_eq!((presence(&server)["users"].clone(), history(&server)), (before["users"].clone(), events));
    // The same publisher's connection repeats its publish, and gets the first one's id.
    let again = feed.call(json!({ "op": "publish", "channel": "room:1", "data": "one", "key": "k" })).unwrap();
    assert_eq!(again["id"], first);
    assert_eq!(get(address, "/poll?channel=open:ended&wait=0").json()["ended"], json!(["open:ended"]));
    let refused = get(
        address,
        &format!("/poll?channel=room:1&wait=0&token={}", token(json!({ "jti": "u9", "channels": ["*"] }))),
    );
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str().unwrap()), (401, "invalid_token"));
    // Names of connections are valid, and users are found.
    feed.call(json!({ "op": "send", "conn": names[2], "data": "direct" })).unwrap();
    let mut read = |number: usize| loop {
        let message = sockets[number].json();
        if message["event"].as_str().is_none_or(|event| !event.starts_with("ringcast.")) {
            return message;
        }
    };
    assert_eq!(read(2)["data"], "one");
    assert_eq!(read(2)["data"], "direct");
    assert_eq!(feed.call(json!({ "op": "kick", "user": "u1" })).unwrap()["kicked"], 2);
    eventually("one user is left", || (presence(&server)["users"].as_array().unwrap().len() == 1).then_some(()));
    server.stop();
}

#[test]
fn a_backends_decision_and_its_unread_lines_are_not_lost() {
    let mut server = Server::start("[auth]\nask_backend = true\nask_timeout = \"20s\"");
    let mut backend = BufReader::new(UnixStream::connect(&server.feed_path).unwrap());
    backend.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(
        backend.get_mut(),
        "{}",
        json!({ "op": "listen", "what": ["authorize", "messages", "connections"], "ref": 1 })
    )
    .unwrap();
    let mut next = || {
        let mut line = String::new();
        backend.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    assert_eq!(next()["ok"], true);
    let mut http = Http::connect(server.address);
    http.send("GET /sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n");
    let question = next();
    assert_eq!(question["op"], "authorize");
    server.take_over(&[]);
    let answer =
        json!({ "op": "authorized", "conn": question["conn"], "ask": question["ask"], "allow": true, "user": "u" });
    server.feed().call(answer).unwrap();
    let mut stream = Stream::of(http);
    server.publish("a", "allowed");
    assert_eq!(stream.next().unwrap().data, "allowed");
    // The listener is one in the successor, too.
    assert_eq!(next()["op"], "connect");
    drop(stream);
    server.take_over(&[]);
    assert_eq!(next()["op"], "disconnect");
    server.stop();
}

#[test]
fn slow_clients_and_those_that_catch_up_lose_nothing() {
    let mut server = Server::start(
        "[limits]\nstall_timeout = \"2m\"\n[heartbeat]\ntcp_user_timeout = \"2m\"\n[namespace.\"*\"]\nmax_lag = \"64KiB\"\nhistory_bytes = \"64MiB\"\nhistory_events = 10000",
    );
    let address = server.address;
    let mut feed = server.feed();
    let first = publish(&mut feed, "a", "0");
    let mut slow: Vec<Stream> = (0..3).map(|_| Stream::open(address, "/sse?channel=a")).collect();
    let payload = "x".repeat(20_000);
    let publish_some = |server: &mut Server, range: std::ops::Range<usize>| {
        for number in range {
            publish(&mut server.feed(), "a", &format!("{number} {payload}"));
        }
    };
    publish_some(&mut server, 1..400);
    let mut resumed: Vec<Stream> =
        (0..3).map(|_| Stream::open(address, &format!("/sse?channel=a&last_event_id={first}"))).collect();
    server.take_over(&[]);
    publish_some(&mut server, 400..500);
    server.take_over(&[]);
    for stream in slow.iter_mut().chain(&mut resumed) {
        for number in 1..500 {
            let event = stream.next().expect("not cut");
            let (found, rest) = event.data.split_once(' ').unwrap_or_else(|| panic!("{event:?}"));
            assert_eq!((found, rest.len()), (number.to_string().as_str(), payload.len()));
        }
    }
    server.stop();
}

#[test]
fn listeners_of_every_kind_go_over_with_those_who_wait_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clients.sock");
    let flags = ["--listen", &format!("unix:{}", path.display()), "--shards", "2"];
    let mut server = Server::start_with("", &flags);
    let ask = |mut stream: UnixStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /poll?channel=a&wait=0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    };
    for _ in 0..2 {
        // Connections without a byte wait in the kernel's queue for a while, and go on from there.
        let waiting = std::net::TcpStream::connect(server.address).unwrap();
        let early = UnixStream::connect(&path).unwrap();
        server.take_over(&flags);
        ask(early);
        ask(UnixStream::connect(&path).unwrap());
        let mut http = Http { stream: waiting, waiting: Vec::new() };
        http.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(http.get("/poll?channel=a&wait=0").status, 200);
    }
    server.stop();
    assert!(!path.exists(), "the last one removes the file");
}

/// A successor that the test plays.
struct Actor {
    connection: OwnedFd,
    carriers: Vec<OwnedFd>,
}

fn hear(connection: &OwnedFd) -> Option<(Word, Vec<OwnedFd>)> {
    let (mut buffer, mut fds) = (vec![0; MESSAGE_MAX], Vec::new());
    let length = rights::receive(connection.as_fd(), &mut buffer, &mut fds).unwrap();
    (length > 0).then(|| (Word::from_bytes(&buffer[..length]).unwrap(), fds))
}

impl Actor {
    /// Says what a successor with so many shards would, and returns the running server's first word.
    fn greet(server: &Server, shards: usize) -> (OwnedFd, Word) {
        let connection = rights::connect(&server.folder.path().join("feed.sock.handover")).unwrap();
        rights::set_patience(connection.as_fd(), PATIENCE).unwrap();
        let hello = Hello {
            wish: Wish::TakeOver,
            format: FORMAT,
            features: Vec::new(),
            version: "0".into(),
            shards,
            listen: vec!["127.0.0.1:0".into()],
            state_dir: server.folder.path().canonicalize().unwrap().display().to_string(),
        };
        rights::send(connection.as_fd(), &Word::Hello(hello).to_bytes(), &[]).unwrap();
        let word = hear(&connection).unwrap().0;
        (connection, word)
    }

    /// Goes on until everything is about to come.
    fn come(server: &Server) -> Actor {
        let (connection, word) = Actor::greet(server, 1);
        assert!(matches!(word, Word::Offer(_)), "{word:?}");
        let mut carriers = Vec::new();
        loop {
            match hear(&connection).unwrap() {
                (Word::Carriers, some) => carriers.extend(some),
                (Word::Files { .. }, _) => break,
                other => panic!("{other:?}"),
            }
        }
        rights::send(connection.as_fd(), &Word::Ready.to_bytes(), &[]).unwrap();
        Actor { connection, carriers }
    }

    /// Takes all messages of a carrier, as far as they come.
    fn drain(&self, carrier: usize) -> usize {
        let mut fds = Vec::new();
        let mut buffer = vec![0; MESSAGE_MAX];
        rights::set_patience(self.carriers[carrier].as_fd(), Duration::from_millis(300)).unwrap();
        while rights::receive(self.carriers[carrier].as_fd(), &mut buffer, &mut fds).is_ok_and(|length| length > 0) {}
        fds.len()
    }
}

#[test]
fn a_successor_that_dies_or_stands_still_leaves_everybody_with_the_running_server() {
    // The history is longer than what the hub's socket takes without a reader.
    let mut server = Server::start("[namespace.big]\nhistory_bytes = \"8MiB\"\nhistory_events = 1000");
    let payload = "x".repeat(30_000);
    (0..100).for_each(|_| drop(server.publish("big:1", &payload)));
    let mut streams: Vec<Stream> = (0..300).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    let mut number = 0;
    let mut is_served = |server: &Server, streams: &mut Vec<Stream>, what: &str| {
        number += 1;
        server.publish("a", &number.to_string());
        for stream in streams {
            assert_eq!(stream.next().unwrap_or_else(|| panic!("cut: {what}")).data, number.to_string());
        }
        assert_eq!(get(server.address, "/poll?channel=b&wait=0").status, 200, "{what}");
    };
    is_served(&server, &mut streams, "before");
    // It dies before it is ready, when everything is on its way, and when it has all of it.
    drop(Actor::greet(&server, 1));
    is_served(&server, &mut streams, "dead at the beginning");
    drop(Actor::come(&server));
    is_served(&server, &mut streams, "dead when ready");
    let actor = Actor::come(&server);
    actor.drain(1);
    assert!(actor.drain(0) >= 300);
    drop(actor);
    is_served(&server, &mut streams, "dead with everything");
    // It stands still: before it has read anything, and before it is prepared.
    for reads in [false, true] {
        let actor = Actor::come(&server);
        if reads {
            actor.drain(1);
            actor.drain(0);
        }
        let begun = Instant::now();
        server.publish("a", "while it stands still");
        assert!(begun.elapsed() < PATIENCE);
        streams.iter_mut().for_each(|stream| assert_eq!(stream.next().unwrap().data, "while it stands still"));
        let last = hear(&actor.connection);
        assert!(
            matches!(&last, Some((Word::Refused { reason }, _)) if reason.contains("longer") || reason.contains("nothing")),
            "{last:?}"
        );
        is_served(&server, &mut streams, "standstill");
    }
    assert_eq!(server.stats()["process"]["handover_failures"], 5);
    server.take_over(&[]);
    is_served(&server, &mut streams, "after a good one");
    server.stop();
}

#[test]
fn one_successor_at_a_time_and_what_cannot_be_is_refused_in_a_sentence() {
    let mut server = Server::start("");
    let first = Actor::greet(&server, 1);
    let (_, word) = Actor::greet(&server, 1);
    assert!(matches!(&word, Word::Refused { reason } if reason.starts_with("busy")), "{word:?}");
    drop(first);
    let refused = |server: &Server, flags: &[&str]| {
        let output = serve(server.folder.path(), &[flags, &["--take-over"]].concat()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        text.lines().last().unwrap().to_owned()
    };
    eventually("the first one is given up", || {
        refused(&server, &["--shards", "3"]).contains("3 shards and this server 1").then_some(())
    });
    assert!(refused(&server, &["--listen", "127.0.0.1:1"]).contains("listens on 127.0.0.1:0"));
    let ask = |server: &Server, wish: &str| {
        let output = command().args(["handover", wish, "--feed"]).arg(&server.feed_path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = ask(&server, "--probe");
    assert!(code == Some(0) && text.contains(&format!("process {}", server.id())), "{text}");
    let _stream = Stream::open(server.address, "/sse?channel=a");
    let (code, text) = ask(&server, "--dry-run");
    assert!(code == Some(0) && text.contains("connections handed over   1"), "{text}");
    server.take_over(&[]);
    assert_eq!(ask(&server, "--probe").0, Some(0));
    let folder = server.stop();
    let output = serve(folder.path(), &["--take-over"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no server that could hand over"));
    assert!(!folder.path().join("feed.sock.handover").exists() && !folder.path().join("feed.sock").exists());
}
