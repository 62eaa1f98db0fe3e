use std::io::Write;

use super::clients::{Http, Stream, get};
use super::server::Server;

#[test]
fn requests_may_come_byte_by_byte() {
    let server = Server::start("");
    let mut http = Http::connect(server.address);
    http.stream.set_nodelay(true).unwrap();
    for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" {
        http.stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(http.answer(false).body, "ok\n");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start("");
    let mut http = Http::connect(server.address);
    let mut text = String::new();
    for number in 0..500 {
        text.push_str(&format!(
            "GET /{} HTTP/1.1\r\nHost: x\r\n\r\n",
            if number % 2 == 0 { "healthz" } else { "nothing" }
        ));
    }
    let mut writer = http.stream.try_clone().unwrap();
    let thread = std::thread::spawn(move || writer.write_all(text.as_bytes()).unwrap());
    for number in 0..500 {
        assert_eq!(http.answer(false).status, if number % 2 == 0 { 200 } else { 404 });
    }
    thread.join().unwrap();
}

#[test]
fn a_trickling_client_is_cut_and_a_silent_one_too() {
    let server = Server::start("[server]\nhandshake_timeout = \"500ms\"");
    let silent = Http::connect(server.address);
    let mut trickling = Http::connect(server.address);
    trickling.send("GET /healthz HTTP/1.1\r\nHost: x\r\n");
    let answer = trickling.answer(false);
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    assert!(trickling.is_closed());
    server.await_figure("closed.handshake_timeout", 2);
    drop(silent);
}

#[test]
fn bytes_that_keep_coming_do_not_put_the_deadline_off() {
    let server = Server::start("[server]\nhandshake_timeout = \"500ms\"");
    let mut http = Http::connect(server.address);
    http.send("GET /healthz HTTP/1.1\r\nHost: x\r\nX: ");
    let mut writer = http.stream.try_clone().unwrap();
    let trickle = std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    assert_eq!(http.answer(false).status, 408);
    drop(http);
    trickle.join().unwrap();
}

#[test]
fn nothing_is_smuggled() {
    let server = Server::start("");
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: y\r\n\r\n";
    for (fields, status) in [
        ("Content-Length: 40\r\n".to_string(), 413),
        ("Transfer-Encoding: chunked\r\n".to_string(), 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n".to_string(), 400),
        ("Content-Length: 0\r\nContent-Length: 40\r\n".to_string(), 400),
        ("Transfer-Encoding : chunked\r\n".to_string(), 400),
    ] {
        let mut http = Http::connect(server.address);
        http.send(&format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{fields}\r\n{smuggled}"));
        let answer = http.answer(false);
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{fields}");
        assert!(http.is_closed(), "what follows is not taken for a request: {fields}");
    }
}

#[test]
fn heads_have_a_limit() {
    let server = Server::start("");
    for (text, status) in [
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(10_000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n", "x".repeat(10_000)), 431),
        ("\x16\x03\x01\x02\x00\x01".into(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("GET /healthz HTTP/1.1\nHost: x\n\n".into(), 400),
        ("GET /healthz HTTP/1.1\r\n\r\n".into(), 400),
    ] {
        let mut http = Http::connect(server.address);
        http.send(&text);
        assert_eq!(http.answer(false).status, status, "{text:.40}");
        assert!(http.is_closed());
    }
}

#[test]
fn garbage_and_broken_connections_harm_no_other_client() {
    let server = Server::start("");
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        let mut http = Http::connect(server.address);
        let bytes: Vec<u8> = (0..random.usize(1..400)).map(|_| random.u8(..)).collect();
        let _ = http.stream.write_all(&bytes);
        if random.bool() {
            // The client resets the connection instead of closing it.
            let _ = socket2::SockRef::from(&http.stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }
    server.publish("a", "alive");
    assert_eq!(stream.next().unwrap().data, "alive");
    server.await_figure("slots", 1);
}

#[test]
fn storms_of_short_connections_leave_nothing_behind() {
    let server = Server::start_with("", &["--shards", "2", "--no-pin"]);
    let address = server.address;
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                for round in 0..500 {
                    match (thread + round) % 4 {
                        0 => assert_eq!(get(address, "/healthz").status, 200),
                        1 => drop(Stream::open(address, &format!("/sse?channel=c{}", round % 50))),
                        2 => drop(super::clients::Socket::open(address, "/ws?channel=a,b")),
                        _ => drop(Http::connect(address)),
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    server.await_figure("accepted", 2000);
    server.await_figure("slots", 0);
    for transport in ["http", "sse", "ws", "poll"] {
        server.await_figure(&format!("connections_{transport}"), 0);
    }
    let mut stream = Stream::open(address, "/sse?channel=a");
    server.publish("a", "alive");
    assert_eq!(stream.next().unwrap().data, "alive");
}

#[test]
fn a_channel_without_an_event_costs_nothing_once_nobody_follows_it() {
    let server = Server::start("[limits]\nchannels = 60");
    for round in 0..5 {
        let names: Vec<String> = (0..50).map(|number| format!("{round}-{number}")).collect();
        let stream = Stream::open(server.address, &format!("/sse?channel={}", names.join(",")));
        server.await_figure("channels", 50);
        drop(stream);
        // Channels of clients that have left would refuse other clients, and publishers.
        server.await_figure("channels", 0);
    }
    let mut http = Http::connect(server.address);
    assert_eq!(http.get("/poll?channel=polled&wait=0").status, 200);
    server.await_figure("channels", 0);
}

#[test]
fn a_client_of_a_unix_listener_that_takes_nothing_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clients.sock");
    let config = "[limits]\nstall_timeout = \"500ms\"\n[namespace.\"*\"]\nslow = \"latest\"\nmax_lag = \"64KiB\"";
    let server = Server::start_with(config, &["--listen", &format!("unix:{}", path.display())]);
    let mut deaf = std::os::unix::net::UnixStream::connect(&path).unwrap();
    deaf.write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let upgrade = "GET /ws?channel=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).unwrap();
    server.await_figure("connections_sse", 1);
    server.await_figure("connections_ws", 1);
    let mut feed = server.feed();
    let padding = "x".repeat(50_000);
    super::server::eventually("both are let go", || {
        super::server::publish(&mut feed, "a", &padding);
        (server.figure("closed.slow") == 2).then_some(())
    });
    server.await_figure("slots", 0);
}

#[test]
fn the_time_for_a_request_does_not_pass_while_the_server_stands_still() {
    const LIMIT: std::time::Duration = std::time::Duration::from_secs(3);
    let server = Server::start("[server]\nhandshake_timeout = \"3s\"");
    let mut http = Http::connect(server.address);
    http.send("GET /healthz HTTP/1.1\r\n");
    server.await_figure("received_bytes", 23);
    server.signal(libc::SIGSTOP);
    std::thread::sleep(LIMIT * 4 / 3);
    server.signal(libc::SIGCONT);
    // The clock has ticked several times since.
    let turns = server.figure("turns");
    super::server::eventually("the server goes on", || (server.figure("turns") > turns + 5).then_some(()));
    http.send("Host: x\r\n\r\n");
    assert_eq!(http.answer(false).status, 200);
    server.await_at_least("pauses", 1);
}
