//! `ringcast subscribe`: a client by event stream, WebSocket or long poll, which reconnects and resumes.

mod chunked;
mod connection;
mod secured;
mod sse;
#[cfg(test)]
mod tests;
mod transports;
mod wanted;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use serde_json::{Value, json};

use super::Result;
use connection::Url;
use wanted::{Left, Wanted};

/// What to subscribe to, and how.
#[derive(Debug, clap::Args)]
pub(super) struct SubscribeArgs {
    /// The server: http://HOST:PORT or https://HOST:PORT, also with a path and a query of its own, or unix:PATH.
    url: String,
    /// A channel to subscribe to. May be given several times, or with commas, and adds to those in the URL (?channel=…).
    #[arg(long, value_name = "CHANNEL", value_delimiter = ',')]
    channel: Vec<String>,
    /// The transport.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    transport: Transport,
    /// The token to present, where the server asks for one.
    #[arg(long, value_name = "TOKEN", env = "RINGCAST_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The certificates (PEM) by which a server with TLS is trusted, in the place of the host's authorities.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Begin with the events after this id, then go on with new ones.
    #[arg(long, value_name = "ID")]
    since: Option<String>,
    /// What to print of each event: a JSON object with id, channel, event and data, or the data alone.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// End after this many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// End when the connection ends, instead of reconnecting.
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

/// Why the subscriber's connection ended, and what to do next.
#[derive(Debug)]
enum Ended {
    /// The subscriber is done: enough events are printed, its time is over, or all channels have ended.
    Done,
    /// The connection broke or the server ended it, and another try may work.
    Again {
        /// What happened.
        why: String,
        /// How long the server asks to wait.
        after: Option<Duration>,
    },
    /// The server refuses, and would refuse again.
    Refused(String),
    /// The output cannot be written to.
    Output(std::io::Error),
}

/// The shortest pause before another try.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause before another try.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long the server may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// To accept the connection and to answer a request. A server that asks its backend takes longer.
    answer: Duration,
    /// To send anything on an open connection. A server sends a heartbeat every 25 to 30 s by default; if it is set to
    /// send them more rarely than this, the subscriber reconnects each time and resumes.
    silence: Duration,
}

const PATIENCE: Patience = Patience { answer: Duration::from_secs(20), silence: Duration::from_secs(90) };

/// An event's data, and the name of the JSON member that it stands in: `data`, or `data_b64` for bytes.
type Data = (&'static str, Value);

/// What the subscriber has received so far, over all its connections.
struct Subscriber<'a> {
    args: &'a SubscribeArgs,
    /// Where events are printed to.
    out: Box<dyn Write + 'a>,
    wanted: Wanted,
    /// The position to resume after.
    last_id: Option<String>,
    /// Events printed.
    printed: u64,
    /// When the subscriber ends by itself.
    deadline: Option<Instant>,
    patience: Patience,
    /// How long the server asks to wait between tries.
    retry: Option<Duration>,
    /// Whether the server has accepted the present connection.
    is_fresh: bool,
    /// Which servers are trusted that speak TLS.
    trust: Option<Arc<ClientConfig>>,
}

/// Subscribes, reconnecting until the subscriber is done or refused.
pub(super) fn run(args: &SubscribeArgs) -> Result {
    let url: Url = args.url.parse()?;
    let mut subscriber = Subscriber::new(args, &url, Box::new(std::io::stdout()));
    if subscriber.wanted.is_empty() {
        wrong_usage("name a channel: --channel CHANNEL, or ?channel=CHANNEL in the URL");
    }
    if url.is_tls() {
        subscriber.trust = Some(secured::trust(args.ca.as_deref())?);
    }
    let mut tries = 0;
    while !subscriber.is_over() {
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
                std::thread::sleep(subscriber.time_left().map_or(pause, |left| left.min(pause)));
            }
        }
    }
    Ok(())
}

/// Ends the process as `clap` does for wrong arguments.
fn wrong_usage(problem: &str) -> ! {
    use clap::CommandFactory;
    let mut command = super::Cli::command();
    command.build();
    let mut command = command.find_subcommand("subscribe").cloned().unwrap_or(command);
    command.error(clap::error::ErrorKind::MissingRequiredArgument, problem).exit()
}

/// The pause before try number `tries`: it doubles with each, and a random part of it is waited, so that many clients do
/// not come back at once.
fn pause(tries: u32, base: Option<Duration>, random: f64) -> Duration {
    let base = base.unwrap_or(PAUSE_MIN).clamp(PAUSE_MIN, PAUSE_MAX);
    let most = base.saturating_mul(1 << tries.min(10)).min(PAUSE_MAX);
    base / 2 + most.saturating_sub(base / 2).mul_f64(random)
}

impl<'a> Subscriber<'a> {
    fn new(args: &'a SubscribeArgs, url: &Url, out: Box<dyn Write + 'a>) -> Subscriber<'a> {
        let mut wanted = Wanted::new(&args.channel, url.query());
        let since = wanted.since.take();
        Subscriber {
            args,
            out,
            wanted,
            last_id: args.since.clone().or(since),
            printed: 0,
            deadline: args.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds))),
            patience: PATIENCE,
            retry: None,
            is_fresh: false,
            trust: None,
        }
    }

    /// Whether the subscriber's own time is over.
    fn is_over(&self) -> bool {
        self.time_left().is_some_and(|left| left.is_zero())
    }

    /// The time until the subscriber ends by itself, if it does.
    fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The end of a wait of `most`, or the subscriber's own end if that is earlier.
    fn until(&self, most: Duration) -> Instant {
        Instant::now() + self.time_left().map_or(most, |left| left.min(most))
    }

    /// The query of the next request; `position` is the transport's parameter for the id to resume after.
    fn query(&self, position: &str) -> String {
        self.wanted.query(position, self.last_id.as_deref())
    }

    /// Notes that the server has accepted the connection, so that the next pause is a short one again.
    fn opened(&mut self) {
        self.is_fresh = true;
        self.retry = None;
    }

    /// Prints an event of a channel.
    ///
    /// # Errors
    /// If the subscriber is done, or the output cannot be written to.
    fn event(
        &mut self,
        id: Option<&str>,
        channel: Option<&str>,
        name: Option<&str>,
        (member, data): Data,
    ) -> std::result::Result<(), Ended> {
        if let Some(id) = id {
            self.last_id = Some(id.to_string());
        }
        let mut event = json!({ "id": id, "channel": channel, member: data });
        if let Some(name) = name {
            event["event"] = name.into();
        }
        self.print(&event)
    }

    /// Prints data that was sent to this connection alone, without an id and a channel. Errors as with [`Self::event`].
    fn direct(&mut self, (member, data): Data) -> std::result::Result<(), Ended> {
        self.print(&json!({ member: data }))
    }

    fn print(&mut self, event: &Value) -> std::result::Result<(), Ended> {
        let line = match (self.args.format, event.get("data_b64").unwrap_or(&event["data"])) {
            (Format::Data, Value::String(text)) => text.clone(),
            (Format::Data, data) => data.to_string(),
            (Format::Json, _) => event.to_string(),
        };
        writeln!(self.out, "{line}").and_then(|()| self.out.flush()).map_err(Ended::Output)?;
        self.printed += 1;
        match self.args.count {
            Some(count) if self.printed >= count => Err(Ended::Done),
            _ => Ok(()),
        }
    }

    /// Notes that a channel has ended; an error if it was the last one.
    fn channel_ended(&mut self, channel: &str) -> std::result::Result<(), Ended> {
        eprintln!("ringcast: the channel {channel:?} has ended");
        self.wanted.end(channel);
        self.go_on()
    }

    /// Notes that a channel is refused or taken away; an error if it was the last one.
    fn channel_refused(&mut self, channel: &str, why: &str) -> std::result::Result<(), Ended> {
        self.wanted.refuse(channel, why);
        self.go_on()?;
        // Of the last channel, the caller prints the reason.
        eprintln!("ringcast: {why}");
        Ok(())
    }

    /// An error if there is nothing left to wait for.
    fn go_on(&self) -> std::result::Result<(), Ended> {
        match self.wanted.left() {
            Left::Some => Ok(()),
            Left::Ended => Err(Ended::Done),
            Left::Refused(why) => Err(Ended::Refused(why)),
        }
    }

    /// Tells the user about a notice of the server's.
    fn notice(&self, what: &str, details: &str) {
        eprintln!("ringcast: {what}: {details}");
    }
}
