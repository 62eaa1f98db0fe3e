use std::process::Stdio;

use super::clients::{Http, Socket, Stream, get};
use super::server::{Server, eventually};

#[test]
fn a_full_server_refuses_new_clients_and_serves_the_present_ones() {
    let server = Server::start("[server]\nmax_connections = 3");
    let mut streams: Vec<Stream> = (0..3).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    for _ in 0..10 {
        let mut http = Http::connect(server.address);
        let answer = http.answer(false);
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some());
        assert!(http.is_closed());
    }
    server.await_figure("refused", 10);
    server.publish("a", "x");
    for stream in &mut streams {
        assert_eq!(stream.next().unwrap().data, "x");
    }
    streams.pop();
    eventually("there is room again", || {
        let mut http = Http::connect(server.address);
        http.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        (http.answer(false).status == 200).then_some(())
    });
}

#[test]
fn one_address_cannot_take_all_places() {
    let server = Server::start("[server]\nper_address = 2\ntrusted_proxies = [\"127.0.0.9\"]");
    let streams: Vec<Stream> = (0..2).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    assert_eq!(Http::connect(server.address).answer(false).status, 429);
    drop(streams);
    eventually("there is room again", || (get(server.address, "/healthz").status == 200).then_some(()));
}

#[test]
fn closed_connections_leave_room_when_all_clients_reconnect_at_once() {
    for limit in ["max_connections = 100", "per_address = 100"] {
        let server = Server::start(&format!("[server]\n{limit}"));
        for _ in 0..5 {
            let streams: Vec<Http> = (0..100)
                .map(|_| {
                    let mut http = Http::connect(server.address);
                    http.send("GET /sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n");
                    http
                })
                .collect();
            eventually("all are there or refused", || {
                (server.figure("connections_sse") + server.figure("refused") >= 100).then_some(())
            });
            for http in &streams {
                socket2::SockRef::from(&http.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
            drop(streams);
        }
        assert_eq!(server.figure("refused"), 0, "{limit}");
    }
}

#[test]
fn a_trusted_proxys_clients_are_counted_one_by_one() {
    let server = Server::start("[server]\nper_address = 1\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let ask_with = |fields: &str| {
        let mut http = Http::connect(server.address);
        let answer = http.request("GET", "/healthz", fields);
        (answer.status, http)
    };
    let ask = |client: &str| ask_with(&format!("X-Forwarded-For: 1.1.1.1, {client}\r\n"));
    let (status, first) = ask("10.0.0.1");
    assert_eq!(status, 200);
    assert_eq!(ask("10.0.0.1").0, 429);
    assert_eq!(ask("10.0.0.2").0, 200);
    // Several field lines are one list, and all addresses of the last line may be proxies.
    assert_eq!(ask_with("X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 127.0.0.5, 127.0.0.6\r\n").0, 429);
    drop(first);
    eventually("there is room again", || (ask("10.0.0.1").0 == 200).then_some(()));
}

#[test]
fn running_out_of_descriptors_refuses_new_clients_and_ends_no_connection() {
    // The process's limit also holds for the shard's descriptor table, which is a copy of the process's.
    let folder = tempfile::tempdir().unwrap();
    let feed = folder.path().join("feed.sock");
    let script = format!(
        "ulimit -n 300; exec {} serve --shards 1 --admin off --listen 127.0.0.1:0 --log-format json --feed {}",
        env!("CARGO_BIN_EXE_ringcast"),
        feed.display()
    );
    let mut child = std::process::Command::new("bash")
        .arg("-c")
        .arg(script)
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let address = loop {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if line["message"] == "listening" {
            break line["address"].as_str().unwrap().parse().unwrap();
        }
    };
    std::thread::spawn(move || lines.for_each(drop));
    eventually("the feed is there", || feed.exists().then_some(()));
    let mut first = Stream::open(address, "/sse?channel=a");
    let mut all: Vec<Http> = (0..600).map(|_| Http::connect(address)).collect();
    // Connections beyond the limit are answered before they send a request.
    let refused = eventually("some are refused", || {
        let mut buffer = [0; 16];
        let refused: Vec<usize> = (0..all.len())
            .filter(|index| {
                all[*index].stream.set_nonblocking(true).unwrap();
                matches!(all[*index].stream.peek(&mut buffer), Ok(length) if buffer[..length].starts_with(b"HTTP/1.1 503"))
            })
            .collect();
        (refused.len() >= 100).then_some(refused)
    });
    let mut publisher = ringcast::feed::client::FeedClient::connect(&feed).unwrap();
    super::server::publish(&mut publisher, "a", "still serving");
    assert_eq!(first.next().unwrap().data, "still serving");
    for index in refused.into_iter().rev() {
        all.swap_remove(index);
    }
    drop(all);
    eventually("there is room again", || {
        let mut http = Http::connect(address);
        http.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        let _ = http.stream.set_read_timeout(Some(super::server::PATIENCE));
        (http.answer(false).status == 200).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn channels_are_bounded() {
    let server = Server::start("[limits]\nchannels = 3\nsubscriptions = 2");
    assert_eq!(get(server.address, "/sse?channel=a,b,c").status, 400);
    let _streams: Vec<Stream> =
        ["a", "b", "c"].iter().map(|name| Stream::open(server.address, &format!("/sse?channel={name}"))).collect();
    let answer = get(server.address, "/sse?channel=d");
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("channels")));
    let mut feed = server.feed();
    let mut publish = |channel: &str| feed.call(serde_json::json!({ "op": "publish", "channel": channel, "data": 1 }));
    for channel in ["e", "f", "a"] {
        publish(channel).unwrap();
    }
    assert_eq!(super::server::code(publish("g").unwrap_err()), "channels");
    assert!(publish("e").is_ok(), "channels that there are go on");
}

#[test]
fn clients_cannot_use_up_the_room_of_publishers() {
    let server = Server::start("[limits]\nfollowed_channels = 2");
    let _streams: Vec<Stream> =
        ["a", "b"].iter().map(|name| Stream::open(server.address, &format!("/sse?channel={name}"))).collect();
    // Each transport is told, and its other channels stay.
    let mut http = Http::connect(server.address);
    http.send("GET /sse?channel=c HTTP/1.1\r\nHost: x\r\n\r\n");
    while http.fill() {}
    let stream = String::from_utf8(std::mem::take(&mut http.waiting)).unwrap();
    assert!(stream.contains("event: ringcast.bye\n") && stream.contains("\"code\":\"channels\""), "{stream}");
    assert!(stream.ends_with("0\r\n\r\n"), "the stream has ended: {stream}");
    let answer = get(server.address, "/poll?channel=c&wait=20");
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("channels")));
    let mut socket = Socket::open(server.address, "/ws?channel=a");
    socket.say(r#"{"subscribe":["c","b"]}"#);
    let refused = socket.json();
    assert_eq!((&refused["error"]["code"], &refused["error"]["channels"][0]), (&"channels".into(), &"c".into()));
    server.publish("b", "for b");
    assert_eq!(socket.json()["data"], "for b");
    assert!(server.stats()["node"]["follows_refused"].as_u64() >= Some(3));
    // Publishers go on, and their channels can be followed.
    server.publish("c", "for c");
    let mut stream = Stream::open(server.address, "/sse?channel=c");
    server.publish("c", "again");
    assert_eq!(stream.next().unwrap().data, "again");
}

#[test]
fn requests_on_a_connection_have_a_rate() {
    let server = Server::start("[limits]\nrequest_rate = 1");
    let mut http = Http::connect(server.address);
    http.send(&"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(30));
    let answers: Vec<_> = (0..30).map(|_| http.answer(false)).take_while(|answer| answer.status == 200).collect();
    assert!((10..20).contains(&answers.len()), "{} of 30 were answered", answers.len());
    server.await_figure("limited.request_rate", 1);
    server.await_figure("rejected.429", 1);
    assert_eq!(get(server.address, "/healthz").status, 200, "another connection has a rate of its own");
}

#[test]
fn requests_of_an_address_and_of_a_user_have_a_rate() {
    let config =
        "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[limits]\nrequest_rate_address = 1\nrequest_rate_user = 1";
    let server = Server::start(&format!("{}{config}", super::tokens::KEYS));
    let ask = |client: &str, fields: &str| {
        let fields = format!("X-Forwarded-For: {client}\r\n{fields}");
        Http::connect(server.address).request("GET", "/poll?channel=a&wait=0", &fields)
    };
    let statuses: Vec<u16> = (0..20).map(|_| ask("192.0.2.1", "").status).collect();
    assert_eq!(statuses[..10], [401; 10]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(ask("192.0.2.2", "").status, 401);
    // A user comes from many addresses.
    let token = super::tokens::token(serde_json::json!({ "sub": "u", "channels": "*" }));
    let fields = format!("Authorization: Bearer {token}\r\n");
    let answers: Vec<_> = (0..20).map(|n| ask(&format!("198.51.100.{n}"), &fields)).collect();
    assert!(answers[..10].iter().all(|answer| answer.status == 200));
    let refused = answers.iter().find(|answer| answer.status == 429).expect("one is refused");
    assert_eq!(refused.json()["error"]["code"], "request_rate");
    assert!(refused.header("retry-after").is_some());
}

#[test]
fn new_channels_have_a_rate_and_known_ones_have_none() {
    let server = Server::start("[limits]\nnew_names = 1\nsubscriptions = 5");
    let _streams: Vec<Stream> = (0..2).map(|_| Stream::open(server.address, "/sse?channel=known")).collect();
    let mut socket = super::clients::Socket::open(server.address, "/ws");
    let mut subscribe = |names: &str| {
        socket.say(&format!(r#"{{"subscribe":[{names}],"ref":1}}"#));
        let answer = socket.json();
        socket.say(&format!(r#"{{"unsubscribe":[{names}],"ref":2}}"#));
        assert_eq!(socket.json()["ref"], 2);
        answer["error"]["code"].as_str().map(str::to_owned)
    };
    let mut refused = 0;
    for round in 0..10 {
        let names: Vec<String> = (0..5).map(|number| format!("\"{round}-{number}\"")).collect();
        refused += usize::from(subscribe(&names.join(",")).as_deref() == Some("new_names"));
    }
    assert!(refused >= 6, "{refused} of 10 messages with 5 new channels each were refused");
    assert_eq!(subscribe("\"known\""), None);
    // The same on a connection that polls.
    let mut http = Http::connect(server.address);
    let answers: Vec<_> =
        (0..10).map(|round| http.get(&format!("/poll?wait=0&channel={round}a,{round}b,{round}c"))).collect();
    let limited = answers.iter().find(|answer| answer.status == 429).expect("one is refused");
    assert_eq!(limited.json()["error"]["code"], "new_names");
    assert!(limited.header("retry-after").is_some());
    assert_eq!(http.get("/poll?wait=0&channel=known").status, 200);
    assert!(server.figure("limited.new_names") >= 7);
}

#[test]
fn channels_with_presence_are_joined_at_a_rate() {
    let config = "[limits]\njoins = 1\nsubscriptions = 5\n[namespace.room]\npresence = true";
    let server = Server::start(config);
    let mut socket = super::clients::Socket::open(server.address, "/ws");
    let mut subscribe = |name: &str| {
        socket.say(&format!(r#"{{"subscribe":["{name}"],"ref":1}}"#));
        let answer = socket.json();
        socket.say(&format!(r#"{{"unsubscribe":["{name}"],"ref":2}}"#));
        assert_eq!(socket.json()["ref"], 2);
        answer["error"]["code"].as_str().map(str::to_owned)
    };
    let refused = (0..30).filter(|_| subscribe("room:1").as_deref() == Some("joins")).count();
    assert!((15..=20).contains(&refused), "{refused} of 30 were refused");
    assert_eq!(subscribe("other"), None, "channels without presence have no such rate");
    server.await_figure("limited.joins", refused as u64);
}
