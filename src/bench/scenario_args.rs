//! `ringcast bench`: the scenarios and what each can be told.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::args::{ClientArgs, Format, Sample, Transport};

/// What a scenario is told where nobody says anything.
pub(super) fn defaults<T: Args>() -> T {
    let matches = T::augment_args(clap::Command::new("defaults")).get_matches_from(["defaults"]);
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
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
    /// Few events: how long one takes from its publisher to a client.
    Latency(LatencyArgs),
    /// User-space memory per idle connection.
    Idle(IdleArgs),
    /// Everybody connects at once, is cut, and connects again.
    Storm(StormArgs),
    /// Many small channels beside one giant that is always being walked: how late are the small ones.
    Mixed(MixedArgs),
    /// Memory and time of a million channels.
    Channels(ChannelsArgs),
    /// Some clients never read: what do the others notice, and what does it cost.
    Slow(SlowArgs),
    /// Holds connections for long: is everything delivered, does memory stay flat.
    Soak(SoakArgs),
    /// One shard against several: deliveries for the same processor time.
    Shards(ShardsArgs),
    /// This server and others of its kind, one after the other in one session.
    Compare(CompareArgs),
    /// Many connections on many shards: is everything delivered.
    Many(ManyArgs),
    /// How many events a second the feed takes.
    Ingest(IngestArgs),
    /// Prints, and draws where --charts says so, what an earlier run wrote with --json.
    Show(ShowArgs),
    /// All of them with short settings, in one table.
    All,
    /// The bare loop itself, as the harness starts it.
    #[command(hide = true)]
    LimitServer(LimitServerArgs),
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
    /// Goes through steps, up to where something gives.
    #[arg(long)]
    pub sweep: bool,
    /// How the clients read.
    #[command(flatten)]
    pub clients: ClientArgs,
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
    #[arg(long, value_enum, default_value_t = Sample::Every)]
    pub sample: Sample,
    /// Goes through steps, up to where something gives.
    #[arg(long)]
    pub sweep: bool,
    /// How the clients read.
    #[command(flatten)]
    pub clients: ClientArgs,
}

/// `bench latency`.
#[derive(Clone, Debug, Args)]
pub struct LatencyArgs {
    /// Subscribers of the one channel; each number is measured by itself.
    #[arg(long, default_values_t = [1, 100, 1_000], value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub subscribers: Vec<u32>,
    /// Events per second.
    #[arg(long, default_value_t = 100.0, value_name = "N")]
    pub rate: f64,
    /// Bytes of each event's payload, at least 33.
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(33..=60_000))]
    pub size: u32,
    /// How long events are published.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// How the clients read.
    #[command(flatten)]
    pub clients: ClientArgs,
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

/// `bench mixed`.
#[derive(Clone, Copy, Debug, Args)]
pub struct MixedArgs {
    /// Subscribers of each giant channel.
    #[arg(long, default_value_t = 8_000, value_name = "N")]
    pub giant: u32,
    /// Giant channels, all with the same subscribers: with 13 of them one shard walks more than 100,000
    /// subscriptions with the sockets that one descriptor table holds.
    #[arg(long, default_value_t = 13, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub giants: u32,
    /// The giant channels' events per second, in turn: more than can leave one by one.
    #[arg(long, default_value_t = 26.0, value_name = "N")]
    pub giant_rate: f64,
    /// Small channels, of one subscriber each.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub small: u32,
    /// Events per second over all the small channels.
    #[arg(long, default_value_t = 1_000.0, value_name = "N")]
    pub small_rate: f64,
    /// How long events are published.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

/// `bench channels`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ChannelsArgs {
    /// Channels.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub channels: u32,
    /// Channels that one WebSocket subscribes to.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub each: u32,
}

/// `bench slow`.
#[derive(Clone, Copy, Debug, Args)]
pub struct SlowArgs {
    /// Subscribers of the one channel.
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    pub subscribers: u32,
    /// How many of a hundred never read.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=90))]
    pub percent: u32,
    /// Events per second.
    #[arg(long, default_value_t = 200.0, value_name = "N")]
    pub rate: f64,
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 1_024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(33..=60_000))]
    pub size: u32,
    /// How long events are published.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

/// `bench soak`.
#[derive(Clone, Copy, Debug, Args)]
pub struct SoakArgs {
    /// Connections that are held.
    #[arg(long, default_value_t = 500_000, value_name = "N")]
    pub connections: u32,
    /// For how long, in minutes.
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    pub minutes: f64,
    /// Seconds from one event to the next, each to all connections.
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    pub every: f64,
    /// How clients are connected.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,
}

/// `bench shards`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ShardsArgs {
    /// Shards to compare with one.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub against_one: u32,
    /// Subscribers of the one channel.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub subscribers: u32,
    /// Events per round.
    #[arg(long, default_value_t = 25, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub events: u32,
}

/// `bench compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Whom to measure beside this server.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Peer::Nchan, Peer::Axum])]
    pub peers: Vec<Peer>,
    /// Subscribers where events go out one at a time.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub subscribers: u32,
}

/// `bench show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// What --json wrote.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// A server of the same kind that the harness knows how to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// nginx with Nchan, from Debian's `libnginx-mod-nchan`.
    Nchan,
    /// The example `axum_broadcast` of this repository.
    Axum,
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
    /// Loops, each a thread with its own part of the clients.
    #[arg(long, default_value_t = 1)]
    pub loops: u32,
    /// Each loop on a core of its own, with the clients whose packets arrive there.
    #[arg(long)]
    pub steer: bool,
}
