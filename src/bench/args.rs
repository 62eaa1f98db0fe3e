//! `ringcast bench`: what can be asked for.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Measures this build on this machine, beside a bare loop that does only what the kernel demands.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What holds for every scenario.
    #[command(flatten)]
    pub common: Common,
    /// What to measure.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// What holds for every scenario.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// How often each side is measured, with a fresh process each time; the table shows medians.
    #[arg(long, global = true, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Small sizes and one round: whether it works, in under a minute.
    #[arg(long, global = true)]
    pub quick: bool,
    /// Also writes everything, round by round and with notes on the host, to this file.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Which side to measure.
    #[arg(long, global = true, value_enum, default_value_t = Sides::Both)]
    pub sides: Sides,
    /// Shards of the measured server. With more than one nothing is pinned; with one the server has the
    /// first core and the harness the others. [default: 1; many: 20]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub shards: Option<u32>,
    /// Threads that hold the clients. [default: as many as their descriptors need]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// A TOML file for the measured server instead of the harness's own settings.
    #[arg(long, global = true, value_name = "FILE")]
    pub server_config: Option<PathBuf>,
    /// Another build's program to measure and to take the bare loop from.
    #[arg(long, global = true, value_name = "FILE", hide = true)]
    pub exe: Option<PathBuf>,
}

/// Which of the two is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sides {
    /// The bare loop and the server, taking turns.
    Both,
    /// The server alone.
    Server,
    /// The bare loop alone.
    Limit,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub enum Scenario {
    /// The yardstick alone: the bare loop in all its forms.
    Limit(LimitArgs),
    /// One event at a time to many subscribers: processor time per delivery.
    Fanout(FanoutArgs),
    /// More deliveries than one send each would allow: does it keep up, and how late are they.
    Saturate(SaturateArgs),
    /// User-space memory per idle connection.
    Idle(IdleArgs),
    /// Everybody connects at once, and again.
    Storm(StormArgs),
    /// Many connections on many shards: is everything delivered.
    Many(ManyArgs),
    /// How many events a second the feed takes.
    Ingest(IngestArgs),
    /// All of them with short settings, in one table.
    All,
    /// The bare loop itself, as the harness starts it.
    #[command(hide = true)]
    LimitServer(LimitServerArgs),
}

/// How clients are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Server-sent events.
    Sse,
    /// WebSocket.
    Ws,
    /// Held long polls; only where nothing is delivered.
    Poll,
}

impl Transport {
    /// Its name in flags, tables and paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Ws => "ws",
            Self::Poll => "poll",
        }
    }
}

/// How a WebSocket's events are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// As JSON objects with id and channel.
    Json,
    /// Payloads alone.
    Raw,
}

impl Format {
    /// Its name in flags and paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Raw => "raw",
        }
    }
}

/// How the generator reads what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reading {
    /// Finds every event on every connection and checks that their numbers are consecutive.
    Verify,
    /// Does so on one connection per thread and counts bytes on the others: for when the generator is the
    /// bottleneck. Latency is that of the verified connections; deliveries are bytes by the size of a frame.
    Count,
}

/// Which events' latencies are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sample {
    /// Every event's.
    Every,
    /// Only that of the last event in each read: what a reader sees that cares for the newest.
    Last,
}

/// How the clients of a scenario read.
#[derive(Clone, Copy, Debug, Args)]
pub struct ClientArgs {
    /// How clients are connected.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,
    /// How a WebSocket's events are framed.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,
    /// How the generator reads.
    #[arg(long, value_enum, default_value_t = Reading::Verify)]
    pub reading: Reading,
}

impl Default for ClientArgs {
    fn default() -> Self {
        Self { transport: Transport::Sse, format: Format::Json, reading: Reading::Verify }
    }
}

/// `bench limit`.
#[derive(Clone, Copy, Debug, Args)]
pub struct LimitArgs {
    /// Only this form of the bare loop.
    #[arg(long, value_enum)]
    pub form: Option<LimitForm>,
}

/// The forms of the bare loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LimitForm {
    /// One event at a time.
    Fanout,
    /// Everything pending to each socket in turn.
    Saturate,
    /// Accepting.
    Storm,
}

/// `bench fanout`.
#[derive(Clone, Copy, Debug, Args)]
pub struct FanoutArgs {
    /// Subscribers of the one channel.
    #[arg(long, default_value_t = 15_000, value_name = "N")]
    pub subscribers: u32,
    /// Bytes of each event's payload, at least 33.
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(33..=60_000))]
    pub size: u32,
    /// Events per second.
    #[arg(long, default_value_t = 5.0, value_name = "N")]
    pub rate: f64,
    /// Events per round.
    #[arg(long, default_value_t = 25, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub events: u32,
    /// Which events' latencies are recorded.
    #[arg(long, value_enum, default_value_t = Sample::Every)]
    pub sample: Sample,
    /// How the clients read.
    #[command(flatten)]
    pub clients: ClientArgs,
}

impl Default for FanoutArgs {
    fn default() -> Self {
        let clients = ClientArgs::default();
        Self { subscribers: 15_000, size: 128, rate: 5.0, events: 25, sample: Sample::Every, clients }
    }
}

/// `bench saturate`.
#[derive(Clone, Copy, Debug, Args)]
pub struct SaturateArgs {
    /// Subscribers of the one channel.
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    pub subscribers: u32,
    /// Events per second.
    #[arg(long, default_value_t = 1_000.0, value_name = "N")]
    pub rate: f64,
    /// Bytes of each event's payload, at least 33.
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(33..=60_000))]
    pub size: u32,
    /// How long events are published.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Which events' latencies are recorded.
    #[arg(long, value_enum, default_value_t = Sample::Last)]
    pub sample: Sample,
    /// How the clients read.
    #[command(flatten)]
    pub clients: ClientArgs,
}

impl Default for SaturateArgs {
    fn default() -> Self {
        let clients = ClientArgs::default();
        Self { subscribers: 5_000, rate: 1_000.0, size: 128, seconds: 10, sample: Sample::Last, clients }
    }
}

/// `bench idle`.
#[derive(Clone, Copy, Debug, Args)]
pub struct IdleArgs {
    /// Connections that are held.
    #[arg(long, default_value_t = 18_000, value_name = "N")]
    pub connections: u32,
    /// Only this transport. [default: SSE and WebSocket]
    #[arg(long, value_enum)]
    pub transport: Option<Transport>,
    /// Only with a channel of its own for each connection. [default: shared, then own]
    #[arg(long)]
    pub own_channels: bool,
    /// Connections that come and go before, so that what is paid once is not counted.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub warm_up: u32,
}

impl Default for IdleArgs {
    fn default() -> Self {
        Self { connections: 18_000, transport: None, own_channels: false, warm_up: 200 }
    }
}

/// `bench ingest`.
#[derive(Clone, Copy, Debug, Args)]
pub struct IngestArgs {
    /// Events to publish, over 100 channels.
    #[arg(long, default_value_t = 2_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1000..))]
    pub events: u32,
    /// The size of each payload.
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub size: u32,
}

impl Default for IngestArgs {
    fn default() -> Self {
        Self { events: 2_000_000, size: 128 }
    }
}

/// `bench storm`.
#[derive(Clone, Copy, Debug, Args)]
pub struct StormArgs {
    /// Connections.
    #[arg(long, default_value_t = 15_000, value_name = "N")]
    pub connections: u32,
    /// How clients are connected.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,
}

impl Default for StormArgs {
    fn default() -> Self {
        Self { connections: 15_000, transport: Transport::Sse }
    }
}

/// `bench many`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ManyArgs {
    /// Connections.
    #[arg(long, default_value_t = 300_000, value_name = "N")]
    pub connections: u32,
    /// Events, one after the other, each to all connections.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub events: u32,
    /// How clients are connected.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,
}

impl Default for ManyArgs {
    fn default() -> Self {
        Self { connections: 300_000, events: 5, transport: Transport::Sse }
    }
}

/// `bench limit-server`, for the harness itself.
#[derive(Clone, Debug, Args)]
pub struct LimitServerArgs {
    /// Where clients connect.
    #[arg(long)]
    pub listen: SocketAddrV4,
    /// Where the harness publishes.
    #[arg(long)]
    pub feed: PathBuf,
    /// How events are framed.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,
    /// How a WebSocket's events are framed.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,
}
