//! The arguments of `ringcast bench` that all scenarios share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::scenario_args::Scenario;

/// Measures this build on this machine, beside a bare loop that does only what the kernel demands.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// The options of every scenario.
    #[command(flatten)]
    pub common: Common,
    /// The scenario to measure.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// The options of every scenario.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Rounds of each side, each with a fresh process; the table shows medians.
    #[arg(long, global = true, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Small sizes and one round: shows that everything works; the figures mean nothing.
    #[arg(long, global = true)]
    pub quick: bool,
    /// Also writes the report to this file, with every round and the host.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also draws each scenario as an SVG file in this folder.
    #[arg(long, global = true, value_name = "FOLDER")]
    pub charts: Option<PathBuf>,
    /// Measures a server that runs already beside this one: the URL that its subscribers request, as in
    /// `http://127.0.0.1:9000/sse?channel={channel}`. The server's processor time and memory are those of the processes
    /// that listen on the port.
    #[arg(long, global = true, value_name = "URL", requires = "publish")]
    pub against: Option<String>,
    /// The way to publish to the server of --against: a URL that each event is POSTed to (`{channel}` is replaced), or
    /// a command that reads each event's payload as a line from its standard input.
    #[arg(long, global = true, value_name = "URL|COMMAND", requires = "against")]
    pub publish: Option<String>,
    /// The side to measure.
    #[arg(long, global = true, value_enum, default_value_t = Sides::Both)]
    pub sides: Sides,
    /// Shards of the measured server. A single shard has the first core and the harness the others; several shards are
    /// not pinned. [default: 1; many: 20]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub shards: Option<u32>,
    /// Threads that hold the clients. [default: as many as their descriptors need]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// The measured server and its clients speak TLS 1.3 (ECDSA P-256, no session is resumed); the bare loop does not.
    #[arg(long, global = true)]
    pub tls: bool,
    /// A TOML file for the measured server instead of the harness's own settings.
    #[arg(long, global = true, value_name = "FILE")]
    pub server_config: Option<PathBuf>,
    /// The program of another build, for the measured server and the bare loop.
    #[arg(long, global = true, value_name = "FILE", hide = true)]
    pub exe: Option<PathBuf>,
}

/// The sides that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sides {
    /// The bare loop and the server, taking turns.
    Both,
    /// The server alone.
    Server,
    /// The bare loop alone.
    Limit,
}

/// The transport of a scenario's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Server-sent events.
    Sse,
    /// WebSocket.
    Ws,
    /// Held long polls, for scenarios that deliver nothing.
    Poll,
}

impl Transport {
    /// The name in flags, tables and paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Ws => "ws",
            Self::Poll => "poll",
        }
    }
}

/// The format of events on a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON objects with id and channel.
    Json,
    /// Payloads alone.
    Raw,
}

impl Format {
    /// The name in flags and paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Raw => "raw",
        }
    }
}

/// The way in which clients read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reading {
    /// Every event on every connection is found, and the events' numbers must be consecutive.
    Verify,
    /// One connection in 64 is verified; on the others the kernel throws the received bytes away without a copy. For
    /// loads that the clients could not read otherwise. Latency is that of the verified connections, deliveries are
    /// received bytes divided by the size of a frame.
    Count,
    /// Clients read nothing once they are connected.
    #[value(skip)]
    Never,
}

/// The events whose latency is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sample {
    /// Every event.
    Every,
    /// The last event of each read alone: the latency for clients that care for the newest event only.
    Last,
}

/// The clients of a scenario.
#[derive(Clone, Copy, Debug, Args)]
pub struct ClientArgs {
    /// The clients' transport.
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    pub transport: Transport,
    /// The format of events on a WebSocket.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,
    /// The way in which clients read.
    #[arg(long, value_enum, default_value_t = Reading::Verify)]
    pub reading: Reading,
}
