//! `ringcast trace`: follows one channel, user or connection as things happen.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{FeedPath, Result};
use crate::feed::client::{FeedClient, FeedError};

/// The channel to follow, and its server.
#[derive(Debug, clap::Args)]
pub(super) struct TraceArgs {
    #[command(flatten)]
    feed: FeedPath,
    #[command(flatten)]
    what: What,
    /// Print JSON, one object per line.
    #[arg(long)]
    json: bool,
    /// End after this many seconds, instead of going on until interrupted.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<f64>,
}

/// What to follow: exactly one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// A channel: its events, and how its subscribers keep up.
    #[arg(long)]
    channel: Option<String>,
    /// A user: when connections begin and end, and how each keeps up.
    #[arg(long)]
    user: Option<String>,
    /// A connection, by its name in the log (conn).
    #[arg(long)]
    conn: Option<String>,
}

/// How often the state of connections is asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Characters of an event's data that are shown.
const DATA_SHOWN: usize = 200;
/// Connections that are followed at most.
const CONNECTIONS: usize = 100;

/// Follows what the arguments name until the time is over or the connection to the feed ends.
pub(super) fn run(args: &TraceArgs) -> Result {
    let path = args.feed.resolve();
    let mut feed = FeedClient::connect(&path)?;
    let (sender, lines) = channel();
    let until = args.seconds.map(Duration::try_from_secs_f64).transpose()?.map(|time| Instant::now() + time);
    let listen = match &args.what.channel {
        Some(channel) => json!({ "op": "trace", "channel": channel }),
        None => json!({ "op": "listen", "what": ["connections"] }),
    };
    follow(&path, listen, sender)?;
    let mut shown = Shown { what: &args.what, as_json: args.json, before: Vec::new() };
    shown.look(&mut feed)?;
    let mut next_look = Instant::now() + LOOK_EVERY;
    loop {
        let now = Instant::now();
        if until.is_some_and(|until| until <= now) {
            return Ok(());
        }
        let wait = next_look.min(until.unwrap_or(next_look)).saturating_duration_since(now);
        match lines.recv_timeout(wait) {
            Ok(line) => shown.line(&line?)?,
            Err(RecvTimeoutError::Timeout) if next_look <= Instant::now() => {
                shown.look(&mut feed)?;
                next_look = Instant::now() + LOOK_EVERY;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("the connection to the feed has ended".into()),
        }
    }
}

/// Reads the lines that the server sends by itself, in a thread of its own.
fn follow(
    path: &Path,
    listen: Value,
    sender: Sender<std::result::Result<Value, FeedError>>,
) -> std::result::Result<(), FeedError> {
    let mut feed = FeedClient::connect(path)?;
    feed.call(listen)?;
    feed.wait_for_ever()?;
    std::thread::spawn(move || {
        loop {
            let line = feed.receive();
            let is_over = line.is_err();
            if sender.send(line).is_err() || is_over {
                break;
            }
        }
    });
    Ok(())
}

/// What is followed, and the state that was shown last.
struct Shown<'a> {
    what: &'a What,
    as_json: bool,
    /// The connections as they were asked for last.
    before: Vec<Value>,
}

impl Shown<'_> {
    fn print(&self, value: &Value, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.as_json {
            writeln!(out, "{value}")?
        } else {
            writeln!(out, "{text}")?
        }
        out.flush()
    }

    /// Shows a line that the server sent by itself: an event, or a connection that began or ended.
    fn line(&self, line: &Value) -> std::io::Result<()> {
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        match text("op") {
            "event" => {
                let event = &line["event"];
                let data = event.get("data_b64").unwrap_or(&event["data"]);
                let data = data.as_str().map_or_else(|| data.to_string(), str::to_owned);
                let short: String = data.chars().take(DATA_SHOWN).collect();
                let name = event["event"].as_str().map(|name| format!("  {name}")).unwrap_or_default();
                let id = event["id"].as_str().unwrap_or_default();
                self.print(line, &format!("event  {id}{name}  {} bytes  {short}", data.len()))
            }
            op @ ("connect" | "disconnect") if self.is_meant(line) => {
                let about = [text("transport"), text("address"), text("reason")].join("  ");
                self.print(line, &format!("{op}  {}  {}", text("conn"), about.trim()))
            }
            _ => Ok(()),
        }
    }

    /// Whether a line is about the user or connection that is followed.
    fn is_meant(&self, line: &Value) -> bool {
        match self.what {
            What { user: Some(user), .. } => line["user"] == user.as_str(),
            What { conn: Some(conn), .. } => line["conn"] == conn.as_str(),
            _ => false,
        }
    }

    /// Asks for the connections, and shows those that have changed.
    fn look(&mut self, feed: &mut FeedClient) -> Result {
        let now = self.connections(feed)?;
        for row in &now {
            let before = self.before.iter().find(|before| before["conn"] == row["conn"]);
            if before.is_none_or(|before| has_changed(before, row)) && self.is_shown(row, before) {
                self.print(row, &describe(row, before))?;
            }
        }
        self.before = now;
        Ok(())
    }

    /// Whether a connection is shown: of a channel's many subscribers, only those that do not keep up.
    fn is_shown(&self, row: &Value, before: Option<&Value>) -> bool {
        let is_behind = |row: &Value| row["blocked"] == true || row["replaying"] == true;
        self.what.channel.is_none() || is_behind(row) || before.is_some_and(is_behind)
    }

    /// The connections that are followed, as the server describes them.
    fn connections(&self, feed: &mut FeedClient) -> std::result::Result<Vec<Value>, FeedError> {
        let command = match self.what {
            What { conn: Some(conn), .. } => {
                return match feed.call(json!({ "op": "connection", "conn": conn })) {
                    Ok(mut answer) => Ok(vec![answer["connection"].take()]),
                    // A connection may end while it is followed.
                    Err(FeedError::Refused { code, .. }) if code == "no_connection" && !self.before.is_empty() => {
                        Ok(Vec::new())
                    }
                    Err(error) => Err(error),
                };
            }
            What { user: Some(user), .. } => json!({ "op": "connections", "user": user, "limit": CONNECTIONS }),
            What { channel, .. } => {
                json!({ "op": "connections", "channel": channel, "order": "slowest", "limit": CONNECTIONS })
            }
        };
        let mut answer = feed.call(command)?;
        Ok(answer["connections"].take().as_array().cloned().unwrap_or_default())
    }
}

/// Whether a connection's state has changed.
fn has_changed(before: &Value, now: &Value) -> bool {
    ["events", "lag_bytes", "waiting_bytes", "blocked", "replaying", "channels_total", "transport"]
        .iter()
        .any(|name| before[name] != now[name])
}

/// A connection's state as a line for people.
fn describe(row: &Value, before: Option<&Value>) -> String {
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap_or(0);
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    let fresh = number(row, "events").saturating_sub(before.map_or(0, |before| number(before, "events")));
    let channels = row["channels"].as_array().into_iter().flatten().filter_map(|row| row["channel"].as_str());
    let channels: Vec<&str> = channels.take(5).collect();
    let mut line = format!(
        "{}  {}  {}  {}  {} events (+{fresh})  {} bytes behind",
        text("conn"),
        text("transport"),
        text("address"),
        channels.join(","),
        number(row, "events"),
        number(row, "lag_bytes") + number(row, "waiting_bytes")
    );
    for (name, says) in [("blocked", "  does not read"), ("replaying", "  is being sent missed events")] {
        if row[name] == true {
            line.push_str(says);
        }
    }
    if let Some(tcp) = row["tcp"].as_object() {
        let rtt = tcp["rtt_us"].as_u64().unwrap_or(0) as f64 / 1000.0;
        line.push_str(&format!("  rtt {rtt:.1} ms  retransmitted {}", tcp["retransmitted"]));
    }
    line
}
