//! `ringcast subscribe`: a client of all three transports that reconnects and resumes.

mod chunked;
mod connection;
mod sse;
mod transports;

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Result;
use connection::Url;

/// What to subscribe to, and how.
#[derive(Debug, clap::Args)]
pub(super) struct SubscribeArgs {
    /// The server: http://HOST:PORT, or unix:PATH.
    url: String,
    /// A channel; may be given several times.
    #[arg(long, value_name = "CHANNEL", required = true)]
    channel: Vec<String>,
    /// How.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    transport: Transport,
    /// A token, where the server asks for one.
    #[arg(long, value_name = "TOKEN", env = "RINGCAST_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Everything after this id, then what comes.
    #[arg(long, value_name = "ID")]
    since: Option<String>,
    /// What to print of an event: a JSON object with id, channel, event and data, or the data alone.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// End when the connection does.
    #[arg(long)]
    no_reconnect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Transport {
    /// An event stream.
    Sse,
    /// A WebSocket.
    Ws,
    /// Long polls.
    Poll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A JSON object.
    Json,
    /// The data alone.
    Data,
}

/// Why a connection ended.
#[derive(Debug)]
enum Ended {
    /// Enough events were printed, or the time is over, or the channel has ended.
    Done,
    /// It broke, or the server ended it; another try may work, after this time if the server said so.
    Again { why: String, after: Option<Duration> },
    /// The server refuses, and would again.
    Refused(String),
    /// The output is closed.
    Output(std::io::Error),
}

/// The shortest and the longest pause before another try.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What has been received so far, over all connections.
struct Subscriber<'a> {
    args: &'a SubscribeArgs,
    last_id: Option<String>,
    printed: u64,
    deadline: Option<Instant>,
    /// What the server asks for between tries.
    retry: Option<Duration>,
    /// Something came over the present connection.
    is_fresh: bool,
}

pub(super) fn run(args: &SubscribeArgs) -> Result {
    let url: Url = args.url.parse()?;
    let mut subscriber = Subscriber {
        args,
        last_id: args.since.clone(),
        printed: 0,
        deadline: args.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        retry: None,
        is_fresh: false,
    };
    let mut tries = 0;
    loop {
        subscriber.is_fresh = false;
        let ended = match args.transport {
            Transport::Sse => transports::stream(&url, &mut subscriber),
            Transport::Ws => transports::websocket(&url, &mut subscriber),
            Transport::Poll => transports::poll(&url, &mut subscriber),
        };
        match ended {
            Ended::Done => return Ok(()),
            Ended::Refused(why) => return Err(why.into()),
            Ended::Output(error) => return Err(error.into()),
            Ended::Again { .. } if subscriber.is_over() => return Ok(()),
            Ended::Again { why, .. } if args.no_reconnect => return Err(why.into()),
            Ended::Again { why, after } => {
                tries = if subscriber.is_fresh { 0 } else { tries + 1 };
                let pause = after.unwrap_or_else(|| pause(tries, subscriber.retry, fastrand::f64()));
                eprintln!("ringcast: {why}; trying again in {:.1} s", pause.as_secs_f64());
                std::thread::sleep(pause);
            }
        }
    }
}

/// Exponential backoff with full jitter: so that many clients do not come back together.
fn pause(tries: u32, base: Option<Duration>, random: f64) -> Duration {
    let base = base.unwrap_or(PAUSE_MIN).clamp(PAUSE_MIN, PAUSE_MAX);
    let most = base.saturating_mul(1 << tries.min(10)).min(PAUSE_MAX);
    base / 2 + most.saturating_sub(base / 2).mul_f64(random)
}

impl Subscriber<'_> {
    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Prints an event; returns whether that was the last one asked for.
    fn event(
        &mut self,
        id: Option<&str>,
        channel: Option<&str>,
        name: Option<&str>,
        data: Value,
    ) -> std::io::Result<bool> {
        self.is_fresh = true;
        if let Some(id) = id {
            self.last_id = Some(id.to_string());
        }
        let line = match (self.args.format, data) {
            (Format::Data, Value::String(text)) => text,
            (Format::Data, data) => data.to_string(),
            (Format::Json, data) => {
                let mut event = json!({ "id": id, "channel": channel, "data": data });
                if let Some(name) = name {
                    event["event"] = name.into();
                }
                event.to_string()
            }
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        self.printed += 1;
        Ok(self.args.count.is_some_and(|count| self.printed >= count))
    }

    /// Says something that is no event.
    fn notice(&mut self, what: &str, details: &str) {
        self.is_fresh = true;
        eprintln!("ringcast: {what}: {details}");
    }

    /// The query of the next request.
    fn query(&self, position: &str) -> String {
        let mut query = String::new();
        for channel in &self.args.channel {
            query.push_str(if query.is_empty() { "?channel=" } else { "&channel=" });
            for byte in channel.bytes() {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b',' => {
                        query.push(byte.into())
                    }
                    byte => query.push_str(&format!("%{byte:02X}")),
                }
            }
        }
        if let Some(id) = &self.last_id {
            query.push_str(&format!("&{position}={id}"));
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_are_spread() {
        assert_eq!(pause(0, None, 0.0), PAUSE_MIN / 2);
        assert_eq!(pause(0, None, 1.0), PAUSE_MIN);
        assert!(pause(3, None, 1.0) == PAUSE_MIN * 8);
        assert_eq!(pause(60, None, 1.0), PAUSE_MAX);
        assert_eq!(pause(0, Some(Duration::from_secs(3)), 1.0), Duration::from_secs(3));
    }
}
