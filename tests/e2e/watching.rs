//! The operator's tools: `top`, `trace` and `doctor`.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::{Value, json};

use super::clients::Stream;
use super::server::{Server, command, eventually};
use super::tokens::{KEYS, token};

#[test]
#[cfg_attr(not(feature = "top"), ignore = "it runs ringcast top")]
fn top_shows_connections_channels_and_flow() {
    let server = Server::start_with("", &["--shards", "2"]);
    let mut streams: Vec<Stream> = (0..5).map(|_| Stream::open(server.address, "/sse?channel=busy")).collect();
    server.await_fresh_figures();
    let text = eventually("the view shows a flow of events", || {
        let mut top = command();
        top.args(["top", "--once", "--every", "0.2", "--feed"]).arg(&server.feed_path).stdout(Stdio::piped());
        let top = top.spawn().unwrap();
        for _ in 0..20 {
            server.publish("busy", "x");
            streams.iter_mut().for_each(|stream| drop(stream.next().unwrap()));
        }
        let output = top.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.contains("latency p50 ≤").then_some(text)
    });
    assert!(text.contains("serving") && text.contains("connections 5  sse 5"), "{text}");
    let row = text.lines().find(|line| line.starts_with("busy")).unwrap();
    assert_eq!(row.split_whitespace().nth(2), Some("5"), "{row}");
    drop(streams);
    eventually("the view shows the reasons for ended connections", || {
        let mut top = command();
        let output = top.args(["top", "--once", "--every", "0.1", "--feed"]).arg(&server.feed_path).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("ended in all: client 5").then_some(())
    });
    assert!(text.contains("shard 1") && text.contains("every client is up to date"), "{text}");
}

struct Trace {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Trace {
    fn start(server: &Server, what: &[&str]) -> Trace {
        let mut trace = command();
        trace.args(["trace", "--json", "--for", "60", "--feed"]).arg(&server.feed_path).args(what);
        let mut child = trace.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Trace { child, lines }
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn trace_follows_a_channel() {
    let server = Server::start("");
    let mut trace = Trace::start(&server, &["--channel", "a"]);
    // The first traced event shows that the trace has begun.
    let seen = std::thread::scope(|scope| {
        let seen = scope.spawn(|| trace.next());
        while !seen.is_finished() {
            server.publish("other", "not this");
            server.publish("a", "early");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        seen.join().unwrap()
    });
    assert_eq!((&seen["event"]["channel"], &seen["event"]["data"]), (&json!("a"), &json!("early")));
    server.feed().call(json!({ "op": "publish", "channel": "a", "data": { "n": 1 }, "event": "e" })).unwrap();
    loop {
        let line = trace.next();
        if line["event"]["data"] == "early" {
            continue;
        }
        assert_eq!((&line["event"]["data"], &line["event"]["event"]), (&json!({ "n": 1 }), &json!("e")));
        break;
    }
}

#[test]
fn trace_follows_a_user_over_connections() {
    let server = Server::start(KEYS);
    let token = token(json!({ "sub": "u1", "channels": "*" }));
    let mut first = Stream::open(server.address, &format!("/sse?channel=a&token={token}"));
    let mut trace = Trace::start(&server, &["--user", "u1"]);
    let row = trace.next();
    assert_eq!((&row["user"], &row["channels"][0]["channel"]), (&json!("u1"), &json!("a")));
    server.publish("a", "x");
    first.next().unwrap();
    let row = trace.next();
    assert_eq!((&row["events"], &row["lag_bytes"]), (&json!(1), &json!(0)));
    server.feed().call(json!({ "op": "kick", "user": "u1" })).unwrap();
    loop {
        let line = trace.next();
        if line["op"] == "disconnect" {
            assert_eq!(line["reason"], "kicked");
            break;
        }
    }
}

#[test]
fn doctor_checks_the_running_server() {
    let server = Server::start("");
    let run = |flags: &[&str]| {
        let mut doctor = command();
        doctor.args(["doctor", "--shards", "1", "--feed"]).arg(&server.feed_path).args(flags);
        let output = doctor.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&["--json", "--connections", "100"]);
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(matches!(code, 0 | 3), "the host that runs the tests can run the server: {code}, {text}");
    let about = |name: &str| findings.iter().find(|finding| finding["about"] == name).unwrap();
    assert!(about("descriptors")["found"].as_str().unwrap().contains("the running server's limit"));
    assert_eq!(about("io_uring")["severity"], "ok");
    // No host has memory for so many connections.
    let (code, text) = run(&["--connections", "100000000000"]);
    assert_eq!(code, 1);
    assert!(text.starts_with("FAIL") && text.contains("change: "), "{text}");
}
