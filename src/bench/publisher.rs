//! Publishing at a fixed rate (open loop): an event carries the time at which it was due, so that a wait for the server
//! counts as latency. The scenario `latency` alone has events carry the time at which they are written.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::clients::CHANNEL;
use super::payload::{now_us, write};
use super::{BenchError, io_error};

/// The time for which a server may take nothing from its publisher.
const STALL_MAX: Duration = Duration::from_secs(120);

/// The events to publish.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) events: u32,
    pub(super) per_second: f64,
    pub(super) size: usize,
    /// The channels, in turn; if empty, [`CHANNEL`].
    pub(super) channels: Vec<String>,
    /// The time that each event carries: its latency is counted from there.
    pub(super) stamp: Stamp,
}

impl Plan {
    /// Events for [`CHANNEL`] that carry the time at which they are due.
    pub(super) fn new(events: u32, per_second: f64, size: u32) -> Plan {
        Plan { events, per_second, size: size as usize, channels: Vec::new(), stamp: Stamp::Due }
    }
}

/// The time that an event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// The time at which the event was due: a server that keeps its publisher waiting is late.
    Due,
    /// The time at which the event is written. The publisher's sleep ends some 50 µs late, as long as an idle server
    /// needs for an event, and that delay is not the server's.
    Written,
}

/// The ways to publish to a server.
#[derive(Clone, Debug)]
pub(super) enum Feed {
    /// The Unix socket of ringcast's feed.
    Socket(PathBuf),
    /// A POST for each event; `{channel}` in the path is replaced.
    Post { address: SocketAddrV4, path: String },
    /// A shell command that reads the payloads line by line.
    Command(String),
}

impl Feed {
    /// Parses `--publish`.
    pub(super) fn parse(text: &str) -> Result<Feed, BenchError> {
        match text.starts_with("http://") {
            true => parse_url(text).map(|(address, path)| Feed::Post { address, path }),
            false => Ok(Feed::Command(text.to_owned())),
        }
    }
}

/// The address and the path of an `http://` URL; the host is an IPv4 address or `localhost`.
pub(super) fn parse_url(url: &str) -> Result<(SocketAddrV4, String), BenchError> {
    let wrong =
        || BenchError::Harness(format!("{url:?} is not a URL like http://127.0.0.1:9000/sse?channel={{channel}}"));
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let host = host.replace("localhost", "127.0.0.1");
    let address = if host.contains(':') { host } else { format!("{host}:80") };
    Ok((address.parse().map_err(|_| wrong())?, path.to_owned()))
}

/// An open connection or command to publish through.
enum Outlet {
    Socket(UnixStream),
    Post { stream: TcpStream, host: SocketAddrV4, path: String },
    Command(Child),
}

impl Outlet {
    fn open(feed: &Feed) -> Result<Outlet, BenchError> {
        match feed {
            Feed::Socket(path) => {
                let stream = UnixStream::connect(path).map_err(io_error("connecting to the feed"))?;
                stream.set_write_timeout(Some(STALL_MAX)).map_err(io_error("connecting to the feed"))?;
                Ok(Outlet::Socket(stream))
            }
            Feed::Post { address, path } => {
                let doing = "connecting to the server's publishing address";
                let stream = TcpStream::connect(address).map_err(io_error(doing))?;
                stream.set_nodelay(true).map_err(io_error(doing))?;
                stream.set_write_timeout(Some(STALL_MAX)).map_err(io_error(doing))?;
                let mut answers = stream.try_clone().map_err(io_error(doing))?;
                // The answers are dropped: only deliveries are counted.
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 * 1024];
                    while answers.read(&mut buffer).is_ok_and(|length| length > 0) {}
                });
                Ok(Outlet::Post { stream, host: *address, path: path.clone() })
            }
            Feed::Command(command) => {
                let mut shell = std::process::Command::new("sh");
                shell.args(["-c", command]).env("CHANNEL", CHANNEL).stdin(Stdio::piped()).stdout(Stdio::null());
                Ok(Outlet::Command(shell.spawn().map_err(io_error("starting the publish command"))?))
            }
        }
    }

    /// Appends the line or request that publishes an event of `size` bytes.
    fn add(&self, out: &mut Vec<u8>, channel: &str, number: u32, stamp_us: u64, size: usize) {
        match self {
            Outlet::Socket(_) => {
                out.extend_from_slice(b"{\"op\":\"publish\",\"channel\":\"");
                out.extend_from_slice(channel.as_bytes());
                out.extend_from_slice(b"\",\"data\":\"");
                write(out, number, stamp_us, size);
                out.extend_from_slice(b"\"}\n");
            }
            Outlet::Post { host, path, .. } => {
                let path = path.replace("{channel}", channel);
                let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n");
                out.extend_from_slice(head.as_bytes());
                write(out, number, stamp_us, size);
            }
            Outlet::Command(_) => {
                write(out, number, stamp_us, size);
                out.push(b'\n');
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), BenchError> {
        match self {
            Outlet::Socket(stream) => stream.write_all(bytes),
            Outlet::Post { stream, .. } => stream.write_all(bytes),
            Outlet::Command(child) => child.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(bytes)),
        }
        .map_err(io_error("publishing"))
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        match self {
            Outlet::Socket(_) => {}
            // The thread that reads the answers holds the socket too, so dropping it would not close it.
            Outlet::Post { stream, .. } => {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            Outlet::Command(child) => {
                drop(child.stdin.take());
                let _ = child.wait();
            }
        }
    }
}

/// Publishes on the calling thread, and calls `then` before the publisher's connection is closed: a server that takes
/// events by POST may drop unread ones when the connection ends. Returns the time at which the last event was due, in
/// microseconds, and the value of `then`.
pub(super) fn publish<T>(feed: &Feed, plan: &Plan, then: impl FnOnce() -> T) -> Result<(u64, T), BenchError> {
    let mut outlet = Outlet::open(feed)?;
    let start = now_us();
    let due = |number: u32| start + (f64::from(number) * 1e6 / plan.per_second) as u64;
    let channels = plan.channels.len().max(1) as u32;
    let mut lines = Vec::new();
    let mut number = 0;
    while number < plan.events {
        let now = now_us();
        lines.clear();
        while number < plan.events && due(number) <= now {
            let channel = plan.channels.get((number % channels) as usize).map_or(CHANNEL, String::as_str);
            let stamp = if plan.stamp == Stamp::Due { due(number) } else { now };
            // Numbers start at 1, because 0 stands for "no event yet" in a reader.
            outlet.add(&mut lines, channel, number / channels + 1, stamp, plan.size);
            number += 1;
        }
        outlet.send(&lines)?;
        if number < plan.events {
            std::thread::sleep(Duration::from_micros(due(number).saturating_sub(now_us())));
        }
    }
    Ok((due(plan.events.saturating_sub(1)), then()))
}

/// Publishes as fast as the feed reads, `per_line` events in a line; returns the time until the last event was
/// acknowledged.
pub(super) fn flood(feed: &Path, events: u32, size: usize, per_line: u32) -> Result<Duration, BenchError> {
    let mut stream = UnixStream::connect(feed).map_err(io_error("connecting to the feed"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(io_error("connecting to the feed"))?;
    let data = "x".repeat(size);
    let item = |number: u32| format!("\"channel\":\"bench:{}\",\"data\":\"{data}\"", number % 100);
    // The same block is written over and over, so that the publisher costs little.
    let mut block = String::new();
    for line in 0..1000 / per_line {
        let items = (0..per_line).map(|index| item(line * per_line + index));
        match per_line {
            1 => items.for_each(|item| block.push_str(&format!("{{\"op\":\"publish\",{item}}}\n"))),
            _ => {
                let items: Vec<String> = items.map(|item| format!("{{{item}}}")).collect();
                block.push_str(&format!("{{\"op\":\"batch\",\"items\":[{}]}}\n", items.join(",")));
            }
        }
    }
    let begun = Instant::now();
    for _ in 0..events / 1000 {
        stream.write_all(block.as_bytes()).map_err(io_error("publishing"))?;
    }
    let last = format!("{{\"op\":\"publish\",{},\"ref\":1}}\n", item(0));
    stream.write_all(last.as_bytes()).map_err(io_error("publishing"))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(io_error("waiting for the acknowledgement"))?;
    if !answer.contains("\"ok\":true") {
        return Err(BenchError::Harness(format!("the server has refused an event: {answer}")));
    }
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_commands_are_distinguished() {
        let Ok(Feed::Post { address, path }) = Feed::parse("http://localhost:9000/pub?channel={channel}") else {
            panic!("an URL")
        };
        assert_eq!((address.to_string().as_str(), path.as_str()), ("127.0.0.1:9000", "/pub?channel={channel}"));
        assert!(matches!(Feed::parse("cat >/dev/null"), Ok(Feed::Command(_))));
        assert_eq!(parse_url("http://10.0.0.1").unwrap(), ("10.0.0.1:80".parse().unwrap(), "/".to_owned()));
        for bad in ["https://a/", "http://example.org/", "http://127.0.0.1:x/"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_is_given_the_payloads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lines");
        let feed = Feed::Command(format!("cat > {}", file.display()));
        let plan = Plan::new(3, 1e6, 40);
        publish(&feed, &plan, || ()).unwrap();
        let lines = std::fs::read_to_string(file).unwrap();
        assert_eq!(lines.lines().count(), 3);
        assert!(lines.lines().all(|line| line.len() == 40 && line.starts_with("#t=")), "{lines}");
    }
}
