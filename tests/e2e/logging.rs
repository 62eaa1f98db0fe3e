//! The log: its reader keeps nobody waiting, its last lines are written, and nothing that a client says escapes its line.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Stdio};
use std::time::Duration;

use ringcast::feed::client::FeedClient;
use serde_json::{Value, json};

use super::clients::{Http, Stream, get};
use super::server::{command, eventually, publish};
use super::tokens::{KEYS, token};

/// A server whose log is read by the test alone: while the test does not read, the log has no reader.
struct Unread {
    child: Child,
    log: BufReader<ChildStderr>,
    lines: Vec<String>,
    address: SocketAddr,
    admin: SocketAddr,
    feed: PathBuf,
    /// The folder of the server's files, for as long as the server runs.
    #[cfg_attr(not(debug_assertions), allow(dead_code))]
    folder: tempfile::TempDir,
}

impl Unread {
    fn start(config: &str, format: &str) -> Unread {
        Unread::start_with(config, format, &[])
    }

    fn start_with(config: &str, format: &str, files: &[(&str, &str)]) -> Unread {
        let folder = tempfile::tempdir().unwrap();
        let (file, feed) = (folder.path().join("ringcast.toml"), folder.path().join("feed.sock"));
        std::fs::write(&file, config).unwrap();
        let ports: Vec<std::net::TcpListener> =
            (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let [address, admin] = [0, 1].map(|index: usize| ports[index].local_addr().unwrap());
        drop(ports);
        let mut command = command();
        for (variable, name) in files {
            command.env(variable, folder.path().join(name));
        }
        command.args(["serve", "--shards", "2", "--no-pin", "--log-format", format, "--config"]).arg(&file);
        command.args(["--listen", &address.to_string(), "--admin", &admin.to_string(), "--feed"]).arg(&feed);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = Unread { child, log, lines: Vec::new(), address, admin, feed, folder };
        server.read_until("ready");
        server
    }

    /// Reads log lines until one has the text; returns it.
    fn read_until(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "no {text:?} in {:#?}", self.lines);
            self.lines.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    fn process(&self, figure: &str) -> u64 {
        let stats = FeedClient::connect(&self.feed).unwrap().call(json!({ "op": "stats" })).unwrap();
        stats["stats"]["process"][figure].as_u64().unwrap_or_else(|| panic!("no {figure} in {stats}"))
    }

    /// Has the server log more than the pipe and the queue hold.
    fn flood(&self) {
        let agent = format!("User-Agent: {}\r\n", "x".repeat(7000));
        eventually("lines are dropped", || {
            for _ in 0..50 {
                drop(Stream::open_with(self.address, "/sse?channel=a", &agent));
            }
            (self.process("log_lines_dropped") > 0).then_some(())
        });
    }

    fn end(&mut self, signal: i32) -> std::process::ExitStatus {
        // SAFETY: sends a signal to a child that has not been waited for, so its number is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
        eventually("the server has ended", || self.child.try_wait().unwrap())
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TALKATIVE: &str = "[log]\nconnections_per_second = 1000000";

#[test]
fn a_log_reader_that_stands_still_keeps_nobody_waiting() {
    let mut server = Unread::start(TALKATIVE, "json");
    let mut streams: Vec<Stream> = (0..8).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    server.flood();
    let mut feed = FeedClient::connect(&server.feed).unwrap();
    for number in 0..20 {
        publish(&mut feed, "a", &number.to_string());
        streams.push(Stream::open(server.address, "/sse?channel=b"));
    }
    for stream in &mut streams[..8] {
        for number in 0..20 {
            assert_eq!(stream.next().unwrap().data, number.to_string());
        }
    }
    // The process is alive, and its figures and its health tell what is wrong with the log.
    eventually("the wait is seen", || (server.process("log_waiting_ms") > 1500).then_some(()));
    let health = get(server.admin, "/healthz");
    assert_eq!(health.status, 200);
    assert!(health.body.starts_with("ok\nthe log's reader has taken nothing for "), "{}", health.body);
    let metrics = get(server.admin, "/metrics").body;
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("ringcast_log_lines_dropped_total ")).unwrap();
    assert!(dropped.parse::<f64>().unwrap() > 0.0, "{dropped}");
    // When the reader goes on, it is told how many lines it has missed.
    let line: Value = serde_json::from_str(&server.read_until("log lines were dropped")).unwrap();
    assert!(line["lines"].as_u64().unwrap() > 0, "{line}");
    std::thread::scope(|scope| {
        let Unread { log, child, .. } = &mut server;
        scope.spawn(move || log.read_to_end(&mut Vec::new()).unwrap());
        eventually("the log is up to date", || {
            let stats = feed.call(json!({ "op": "stats" })).unwrap();
            (stats["stats"]["process"]["log_waiting_ms"] == 0).then_some(())
        });
        child.kill().unwrap();
    });
}

#[test]
fn a_server_ends_although_nobody_reads_its_log() {
    let mut server = Unread::start(TALKATIVE, "human");
    server.flood();
    assert!(server.end(libc::SIGTERM).success());
}

#[test]
fn the_last_lines_are_written_before_the_end() {
    let mut server = Unread::start("", "human");
    assert!(server.end(libc::SIGTERM).success());
    let mut rest = String::new();
    server.log.read_to_string(&mut rest).unwrap();
    assert!(rest.trim_end().ends_with("stopped"), "{rest}");
}

#[test]
fn nothing_that_a_client_says_escapes_its_line() {
    let hostile = "a\nINFO forged\r\u{1b}[31m\u{7}\u{9b}2J\u{202e}b\u{7f}";
    let config = format!("{KEYS}{TALKATIVE}");
    for format in ["human", "json"] {
        let mut server = Unread::start(&config, format);
        let encoded: String = hostile.bytes().map(|byte| format!("%{byte:02X}")).collect();
        // A field cannot have line ends, but the other characters.
        let field: String =
            hostile.chars().filter(|c| !['\n', '\r', '\u{7}', '\u{1b}', '\u{7f}'].contains(c)).collect();
        let bearer = token(json!({ "sub": hostile, "channels": ["*"] }));
        let fields = format!(
            "User-Agent: {field}\r\nAuthorization: Bearer {bearer}\r\nCookie: a={field}\r\nX-Forwarded-For: {field}\r\n"
        );
        let mut opened = 0;
        for (target, host) in [
            (format!("/sse?channel={encoded}"), "localhost"),
            ("/sse?channel=a".into(), "localhost"),
            ("/sse?channel=a".into(), &*field),
            (format!("/{encoded}"), "localhost"),
        ] {
            let mut http = Http::connect(server.address);
            http.send(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
            opened += usize::from(http.head().starts_with("HTTP/1.1 200"));
        }
        assert!(opened > 0, "no stream was opened, so nothing was logged");
        let mut feed = FeedClient::connect(&server.feed).unwrap();
        for command in [
            json!({ "op": "kick", "user": hostile, "reason": hostile }),
            json!({ "op": "kick", "channel": hostile }),
            json!({ "op": hostile }),
            json!({ "op": "publish", "channel": hostile, "data": hostile }),
        ] {
            let _ = feed.call(command);
        }
        let _ = get(server.admin, &format!("/v1/channels/{encoded}/history"));
        server.end(libc::SIGTERM);
        let mut rest = String::new();
        server.log.read_to_string(&mut rest).unwrap();
        let all = server.lines.concat() + &rest;
        assert!(all.contains("forged"), "the user's name is not in the log: {all}");
        for line in all.lines() {
            let is_line = match format {
                "json" => serde_json::from_str::<Value>(line).is_ok_and(|value| value["level"].is_string()),
                _ => line.starts_with("20") && line.contains('Z'),
            };
            let is_plain = !line.chars().any(|c| c.is_control() || c == '\u{202e}');
            assert!(is_line && is_plain, "{line:?}");
        }
    }
}

#[test]
fn a_pause_of_the_whole_process_is_told_and_is_no_standstill() {
    let mut server = Unread::start("", "json");
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    // SAFETY: sends signals to a child that has not been waited for, so its number is still its own.
    let signal = |signal| assert_eq!(unsafe { libc::kill(server.child.id() as i32, signal) }, 0);
    // A pause before the watch's first sleep is not seen, so another one follows.
    eventually("the pause is counted", || {
        signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_secs(2));
        signal(libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(500));
        (server.process("freezes") > 0).then_some(())
    });
    let line: Value = serde_json::from_str(&server.read_until("the whole process stood still")).unwrap();
    assert!(line["milliseconds"].as_u64().unwrap() >= 1000, "{line}");
    assert_eq!(server.process("standstills"), 0);
    publish(&mut FeedClient::connect(&server.feed).unwrap(), "a", "on");
    assert_eq!(stream.next().unwrap().data, "on");
}

#[cfg(debug_assertions)]
mod on_purpose {
    use std::time::Instant;

    use super::super::server::PATIENCE;
    use super::*;

    #[test]
    fn a_shard_that_stands_still_says_where() {
        let mut server = Unread::start_with("", "json", &[("RINGCAST_FAULT_STALL", "stall")]);
        std::fs::write(server.folder.path().join("stall"), "").unwrap();
        let line: Value = serde_json::from_str(&server.read_until("a thread stands still")).unwrap();
        assert_eq!((&line["thread"], &line["state"]), (&json!("shard-0"), &json!("sleeping")), "{line}");
        let frames = line["frames"].as_str().unwrap();
        assert!(frames.contains("fail_if_asked at src/shard/faults.rs:"), "{frames}");
        assert!(frames.contains("ringcast::shard::turn::Shard::turn"), "{frames}");
        assert_eq!(server.process("standstills"), 1);
        // The rest of the server goes on, and the standstill is told once.
        let metrics = get(server.admin, "/metrics").body;
        assert!(metrics.contains("ringcast_standstills_total 1"), "{metrics}");
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(server.process("standstills"), 1);
    }

    #[test]
    fn a_panic_ends_the_process_and_says_where() {
        for is_read in [true, false] {
            let mut server = Unread::start_with(TALKATIVE, "json", &[("RINGCAST_FAULT_PANIC", "panic")]);
            if !is_read {
                server.flood();
            }
            std::fs::write(server.folder.path().join("panic"), "").unwrap();
            let begun = Instant::now();
            if is_read {
                let line: Value = serde_json::from_str(&server.read_until("a thread panicked")).unwrap();
                assert_eq!(line["thread"], "shard-0");
                assert!(line["message"].as_str().unwrap().contains("panicked on purpose\nin two lines"), "{line}");
                assert!(line["place"].as_str().unwrap().starts_with("src/shard/faults.rs:"), "{line}");
                assert!(line["frames"].as_str().unwrap().contains("fail_if_asked"), "{line}");
            }
            let status = eventually("the process has ended", || server.child.try_wait().unwrap());
            assert_eq!(status.code(), Some(101));
            assert!(begun.elapsed() < PATIENCE);
        }
    }
}
