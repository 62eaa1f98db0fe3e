//! Publishing at a rate, whatever becomes of it (open loop): an event is stamped with the time it was due, so
//! that time lost by waiting for the server counts as latency.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::clients::CHANNEL;
use super::payload::{now_us, write};
use super::{BenchError, io_error};

/// What to publish.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) events: u32,
    pub(super) per_second: f64,
    pub(super) size: usize,
}

/// Publishes on the calling thread; returns when the last event was due, in microseconds.
pub(super) fn publish(feed: &Path, plan: Plan) -> Result<u64, BenchError> {
    let mut stream = UnixStream::connect(feed).map_err(io_error("connecting to the feed"))?;
    stream.set_write_timeout(Some(Duration::from_secs(60))).map_err(io_error("connecting to the feed"))?;
    let start = now_us();
    let due = |number: u32| start + (f64::from(number) * 1e6 / plan.per_second) as u64;
    let mut lines = Vec::new();
    let mut number = 0;
    while number < plan.events {
        let now = now_us();
        lines.clear();
        while number < plan.events && due(number) <= now {
            lines.extend_from_slice(b"{\"op\":\"publish\",\"channel\":\"");
            lines.extend_from_slice(CHANNEL.as_bytes());
            lines.extend_from_slice(b"\",\"data\":\"");
            // Numbers start at 1: 0 stands for "none yet" in a reader.
            write(&mut lines, number + 1, due(number), plan.size);
            lines.extend_from_slice(b"\"}\n");
            number += 1;
        }
        stream.write_all(&lines).map_err(io_error("publishing"))?;
        if number < plan.events {
            std::thread::sleep(Duration::from_micros(due(number).saturating_sub(now_us())));
        }
    }
    Ok(due(plan.events - 1))
}

/// Publishes as fast as the feed takes it, `per_line` events in a line; returns how long it took until the
/// last one was acknowledged.
pub(super) fn flood(feed: &Path, events: u32, size: usize, per_line: u32) -> Result<Duration, BenchError> {
    let mut stream = UnixStream::connect(feed).map_err(io_error("connecting to the feed"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(io_error("connecting to the feed"))?;
    let data = "x".repeat(size);
    let item = |number: u32| format!("\"channel\":\"bench:{}\",\"data\":\"{data}\"", number % 100);
    // The same block over and over: what is measured is the server.
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
    let begun = std::time::Instant::now();
    for _ in 0..events / 1000 {
        stream.write_all(block.as_bytes()).map_err(io_error("publishing"))?;
    }
    let last = format!("{{\"op\":\"publish\",{},\"ref\":1}}\n", item(0));
    stream.write_all(last.as_bytes()).map_err(io_error("publishing"))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(io_error("waiting for the acknowledgement"))?;
    if !answer.contains("\"ok\":true") {
        return Err(BenchError::Harness(format!("the server refused: {answer}")));
    }
    Ok(begun.elapsed())
}
