//! The arguments of `ringcast bench`: the scenarios and the options of each.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::args::{ClientArgs, Format, Sample, Transport};

/// A scenario's options with their default values.
pub(super) fn defaults<T: Args>() -> T {
    let matches = T::augment_args(clap::Command::new("defaults")).get_matches_from(["defaults"]);
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The scenarios that can be run.
#[derive(Clone, Debug, Subcommand)]
pub enum Scenario {
    /// The bare loop alone, in all its forms.
    Limit(LimitArgs),
    /// One event at a time to many subscribers: processor time per delivery.
    Fanout(FanoutArgs),
    /// More deliveries than one send for each would allow: whether all are made, and how late.
    Saturate(SaturateArgs),
    /// Few events: the time of each from its publisher to the clients.
    Latency(LatencyArgs),
    /// User-space memory per idle connection.
    Idle(IdleArgs),
    /// All clients connect at once, are cut, and connect again.
    Storm(StormArgs),
    /// Many small channels beside large ones that are walked all the time: the latency of the small ones.
    Mixed(MixedArgs),
    /// Memory and time of a million channels.
    Channels(ChannelsArgs),
    /// Clients that never read, and clients that catch up: their effect on the other clients and on memory.
    Slow(SlowArgs),
    /// Connections that are held for long: whether all is delivered and memory stays flat.
    Soak(SoakArgs),
    /// One shard beside several: deliveries for the same processor time.
    Shards(ShardsArgs),
    /// This server beside nginx with Nchan and an axum server, in turn in one session.
    Compare(CompareArgs),
    /// Many connections on many shards: whether all is delivered.
    Many(ManyArgs),
    /// Events that the feed takes in a second.
    Ingest(IngestArgs),
    /// A successor takes all connections over: what clients and publishers notice.
    Handover(HandoverArgs),
    /// Several nodes on one log: events at both, latency, catching up, clients that move, and a broker that dies.
    Cluster(ClusterArgs),
    /// Prints a report that an earlier run wrote with --json, and draws it with --charts.
    Show(ShowArgs),
    /// Every scenario but `soak`, `compare` and `cluster`.
    All,
    /// The bare loop as a server, for the harness itself.
    #[command(hide = true)]
    LimitServer(LimitServerArgs),
}

/// `bench limit`.
#[derive(Clone, Copy, Debug, Args)]
pub struct LimitArgs {
    /// The only form to measure.
    #[arg(long, value_enum)]
    pub form: Option<LimitForm>,
}

/// The forms of the bare loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LimitForm {
    /// One event at a time.
    Fanout,
    /// All pending events to each socket in turn.
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
    /// The events whose latency is recorded.
    #[arg(long, value_enum, default_value_t = Sample::Every)]
    pub sample: Sample,
    /// Measures in steps: growing numbers of subscribers, sizes or rates.
    #[arg(long)]
    pub sweep: bool,
    /// The clients.
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
    /// Seconds during which events are published.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// The events whose latency is recorded.
    #[arg(long, value_enum, default_value_t = Sample::Every)]
    pub sample: Sample,
    /// Measures in steps: growing numbers of subscribers, sizes or rates.
    #[arg(long)]
    pub sweep: bool,
    /// The clients.
    #[command(flatten)]
    pub clients: ClientArgs,
}

/// `bench latency`.
#[derive(Clone, Debug, Args)]
pub struct LatencyArgs {
    /// Subscribers of the one channel; each number is measured by itself.
    #[arg(
        long,
        default_values_t = [1, 100, 1_000],
        value_delimiter = ',',
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub subscribers: Vec<u32>,
    /// Events per second.
    #[arg(long, default_value_t = 100.0, value_name = "N")]
    pub rate: f64,
    /// Bytes of each event's payload, at least 33.
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(33..=60_000))]
    pub size: u32,
    /// Seconds during which events are published.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// The clients.
    #[command(flatten)]
    pub clients: ClientArgs,
}

/// `bench idle`.
#[derive(Clone, Copy, Debug, Args)]
pub struct IdleArgs {
    /// Connections.
    #[arg(long, default_value_t = 18_000, value_name = "N")]
    pub connections: u32,
    /// The only transport. [default: SSE and WebSocket]
    #[arg(long, value_enum)]
    pub transport: Option<Transport>,
    /// A channel of its own for each connection. [default: one channel for all]
    #[arg(long)]
    pub own_channels: bool,
    /// Connections that are made first and not counted: they fill tables and buffers that the later ones share.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub warm_up: u32,
}

/// `bench ingest`.
#[derive(Clone, Copy, Debug, Args)]
pub struct IngestArgs {
    /// Events to publish, over 100 channels.
    #[arg(long, default_value_t = 2_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1000..))]
    pub events: u32,
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub size: u32,
}

/// `bench storm`.
#[derive(Clone, Copy, Debug, Args)]
pub struct StormArgs {
    /// Connections.
    #[arg(long, default_value_t = 15_000, value_name = "N")]
    pub connections: u32,
    /// The clients' transport.
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
    /// The clients' transport.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,
}

/// `bench handover`.
#[derive(Clone, Copy, Debug, Args)]
pub struct HandoverArgs {
    /// Connections, beside 1,000 on channels of their own.
    #[arg(long, default_value_t = 200_000, value_name = "N")]
    pub connections: u32,
    /// Hand-overs, one after the other.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub times: u32,
}

/// `bench mixed`.
#[derive(Clone, Copy, Debug, Args)]
pub struct MixedArgs {
    /// Subscribers of each giant channel.
    #[arg(long, default_value_t = 8_000, value_name = "N")]
    pub giant: u32,
    /// Giant channels, all with the same subscribers: 13 of them are more than 100,000 subscriptions on the sockets of
    /// one descriptor table.
    #[arg(long, default_value_t = 13, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub giants: u32,
    /// Events per second on the giant channels, in turn: more than one send for each delivery would allow.
    #[arg(long, default_value_t = 26.0, value_name = "N")]
    pub giant_rate: f64,
    /// Small channels, of one subscriber each.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub small: u32,
    /// Events per second over all the small channels.
    #[arg(long, default_value_t = 1_000.0, value_name = "N")]
    pub small_rate: f64,
    /// Seconds during which events are published.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

/// `bench channels`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ChannelsArgs {
    /// Channels.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub channels: u32,
    /// Channels of each WebSocket.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub each: u32,
}

/// `bench slow`.
#[derive(Clone, Copy, Debug, Args)]
pub struct SlowArgs {
    /// Subscribers of the one channel.
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    pub subscribers: u32,
    /// Subscribers of a hundred that never read.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=90))]
    pub percent: u32,
    /// Events per second.
    #[arg(long, default_value_t = 200.0, value_name = "N")]
    pub rate: f64,
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 1_024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(33..=60_000))]
    pub size: u32,
    /// Seconds during which events are published.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

/// `bench soak`.
#[derive(Clone, Copy, Debug, Args)]
pub struct SoakArgs {
    /// Connections.
    #[arg(long, default_value_t = 500_000, value_name = "N")]
    pub connections: u32,
    /// Minutes for which the connections are held.
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    pub minutes: f64,
    /// Seconds from one event to the next, each to all connections.
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    pub every: f64,
    /// The clients' transport.
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
    /// The servers to measure beside this one.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Peer::Nchan, Peer::Axum])]
    pub peers: Vec<Peer>,
    /// Subscribers in `fanout`.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub subscribers: u32,
}

/// `bench cluster`.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Nodes on the log. The first one gets the events, and the last one is measured beside it.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=4))]
    pub nodes: u32,
    /// The brokers to measure with, each by itself.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [BrokerKind::Redis, BrokerKind::Nats])]
    pub broker: Vec<BrokerKind>,
    /// The only parts to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = ClusterPart::ALL)]
    pub part: Vec<ClusterPart>,
    /// Events of `ingest`, and entries of `catch-up`.
    #[arg(long, default_value_t = 500_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1000..))]
    pub events: u32,
    /// Events per second of `latency`, and of `failover` half as many.
    #[arg(long, default_value_t = 10_000.0, value_name = "N")]
    pub rate: f64,
    /// Seconds of `latency` and `hop`.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Clients of `hop`.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
}

/// A broker that the harness can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BrokerKind {
    /// `redis-server`.
    Redis,
    /// `nats-server` with JetStream on files.
    Nats,
}

/// The parts of `bench cluster`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClusterPart {
    /// Events that one node takes and another one delivers.
    Ingest,
    /// The time of an event to clients of the same node and of another one.
    Latency,
    /// A node that starts with a long log.
    CatchUp,
    /// Clients that move to another node at once.
    Hop,
    /// A Redis that dies, with replicas and Sentinels.
    Failover,
}

impl ClusterPart {
    const ALL: [ClusterPart; 5] =
        [ClusterPart::Ingest, ClusterPart::Latency, ClusterPart::CatchUp, ClusterPart::Hop, ClusterPart::Failover];
}

/// `bench show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// The file that --json wrote.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// A server of the same kind that the harness can start.
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
    /// The address for clients.
    #[arg(long)]
    pub listen: SocketAddrV4,
    /// The Unix socket for the publisher.
    #[arg(long)]
    pub feed: PathBuf,
    /// The transport whose frames are sent.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,
    /// The format of events on a WebSocket.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,
    /// Loops, each a thread with its own part of the clients.
    #[arg(long, default_value_t = 1)]
    pub loops: u32,
    /// Each loop on a core of its own, with the clients whose packets arrive there.
    #[arg(long)]
    pub steer: bool,
}
