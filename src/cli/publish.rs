//! `ringcast publish`.

use std::io::{IsTerminal, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{FeedPath, Result};
use crate::feed::client::{FeedClient, check};

/// What to publish, and where.
#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    feed: FeedPath,
    /// The channel.
    channel: String,
    /// The payload; without it, or with -, standard input is read.
    data: Option<String>,
    /// The event's name.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// The payload is JSON, not text.
    #[arg(long, conflicts_with = "binary")]
    json: bool,
    /// The payload is bytes. WebSocket clients in the raw format get it as bytes, all others as base64.
    #[arg(long)]
    binary: bool,
    /// A key: publishing again with the same key within the server's window has no effect, and prints the first id.
    #[arg(long, conflicts_with = "lines")]
    key: Option<String>,
    /// Publish every line of standard input as an event, and print the ids in order.
    #[arg(long, conflicts_with = "data")]
    lines: bool,
}

/// Commands that may be sent before the first of them is answered.
const IN_FLIGHT_MAX: u64 = 1000;

/// Publishes one event, or one per line of standard input, and prints the ids.
pub(super) fn run(args: &PublishArgs) -> Result {
    let mut feed = FeedClient::connect(&args.feed.resolve())?;
    if args.lines {
        return publish_lines(args, &mut feed);
    }
    let data = match args.data.as_deref() {
        Some("-") => read_input()?,
        None if std::io::stdin().is_terminal() => {
            return Err("give the payload as an argument, or - to read it from standard input".into());
        }
        None => read_input()?,
        Some(data) => data.as_bytes().to_vec(),
    };
    let answer = feed.call(command(args, &data)?)?;
    writeln!(std::io::stdout(), "{}", answer["id"].as_str().unwrap_or_default())?;
    Ok(())
}

fn read_input() -> Result<Vec<u8>> {
    let mut data = Vec::new();
    std::io::stdin().read_to_end(&mut data)?;
    // A line break at the end of the input comes from the shell and is not part of the payload.
    if data.ends_with(b"\n") {
        data.pop();
    }
    Ok(data)
}

/// The command that publishes an event.
#[derive(Serialize)]
struct Publish<'a> {
    op: &'static str,
    channel: &'a str,
    /// JSON is sent as it was typed: with its own order of members, and numbers of any size.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

fn command<'a>(args: &'a PublishArgs, data: &[u8]) -> Result<Publish<'a>> {
    let (event, key) = (args.event.as_deref(), args.key.as_deref());
    let mut publish = Publish { op: "publish", channel: &args.channel, data: None, data_b64: None, event, key };
    if args.binary {
        publish.data_b64 = Some(STANDARD.encode(data));
        return Ok(publish);
    }
    let text = std::str::from_utf8(data).map_err(|_| "the payload is not text; publish bytes with --binary")?;
    publish.data = Some(match args.json {
        // A command is one line. Line breaks are white space in JSON, because its strings have none.
        true => serde_json::from_str(&text.replace(['\n', '\r'], " "))
            .map_err(|error| format!("the payload is not JSON: {error}"))?,
        false => to_raw_value(text)?,
    });
    Ok(publish)
}

fn publish_lines(args: &PublishArgs, feed: &mut FeedClient) -> Result {
    let mut out = std::io::stdout().lock();
    let mut waiting = 0;
    let mut take = |feed: &mut FeedClient| -> Result {
        let answer = check(feed.receive()?)?;
        writeln!(out, "{}", answer["id"].as_str().unwrap_or_default())?;
        Ok(())
    };
    for line in std::io::stdin().lines() {
        feed.send(command(args, line?.as_bytes())?)?;
        waiting += 1;
        if waiting >= IN_FLIGHT_MAX {
            take(feed)?;
            waiting -= 1;
        }
    }
    for _ in 0..waiting {
        take(feed)?;
    }
    Ok(())
}
