//! The flags of `ringcast serve`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::address::ListenAddress;
use super::model::LogFormat;

/// What to serve, and how.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "RINGCAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where clients connect: ADDR:PORT or unix:PATH; may be given several times. [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", env = "RINGCAST_LISTEN", value_delimiter = ',')]
    pub listen: Vec<ListenAddress>,
    /// The publishers' Unix socket. [default: $RUNTIME_DIRECTORY/feed.sock, $XDG_RUNTIME_DIR/ringcast/feed.sock,
    /// ./ringcast.sock]
    #[arg(long, value_name = "PATH", env = "RINGCAST_FEED")]
    pub feed: Option<PathBuf>,
    /// Where health and figures are served: ADDR:PORT, or off. [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS", env = "RINGCAST_ADMIN")]
    pub admin: Option<String>,
    /// Threads that hold connections. [default: one per usable core]
    #[arg(long, value_name = "N", env = "RINGCAST_SHARDS")]
    pub shards: Option<usize>,
    /// Pin each shard to a core (the default).
    #[arg(long, overrides_with = "no_pin")]
    pub pin: bool,
    /// Let the kernel place the shards.
    #[arg(long)]
    pub no_pin: bool,
    /// Let everyone subscribe to every channel, also from other hosts; `=false` takes back what the file says.
    #[arg(
        long,
        value_name = "BOOL",
        env = "RINGCAST_ALLOW_ANONYMOUS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub allow_anonymous: Option<bool>,
    /// How log lines are written.
    #[arg(long, value_enum, value_name = "FORMAT", env = "RINGCAST_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, or directives.
    #[arg(long, value_name = "LEVEL", env = "RINGCAST_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// Publish a few live channels and show them at /.
    #[arg(long)]
    pub demo: bool,
}
