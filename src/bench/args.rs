//! `ringcast bench`: what can be asked for.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::scenario_args::Scenario;

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
    /// Also draws every scenario, as an SVG file in this folder.
    #[arg(long, global = true, value_name = "FOLDER")]
    pub charts: Option<PathBuf>,
    /// Measures another server as well, which runs already: what its subscribers ask for, as in
    /// `http://127.0.0.1:9000/sse?channel={channel}`. Its processor time and memory are those of the processes that
    /// listen there.
    #[arg(long, global = true, value_name = "URL", requires = "publish")]
    pub against: Option<String>,
    /// How the other server is published to: an URL that each event is POSTed to (`{channel}` is put in), or a
    /// command that is given each event's payload as a line on its standard input.
    #[arg(long, global = true, value_name = "URL|COMMAND", requires = "against")]
    pub publish: Option<String>,
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
    /// Does so on one connection in 64 and counts bytes on the others: for when the generator is the
    /// bottleneck. The kernel throws those bytes away without a copy. Latency is that of the verified connections;
    /// deliveries are bytes by the size of a frame.
    Count,
    /// Not at all, once it is connected.
    #[value(skip)]
    Never,
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
