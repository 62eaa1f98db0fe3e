//! The command line: arguments in, words and an exit code out.

mod admin;
mod doctor;
mod handover;
mod package;
mod publish;
mod subscribe;
#[cfg(feature = "top")]
mod top;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{self, ServeArgs};
use crate::server::certificates::{self, Expiry};

/// Exit code 1: something went wrong. (2, wrong usage, is clap's.)
const FAILED: u8 = 1;

/// An io_uring connection server: publish once, reach every SSE, WebSocket and long-poll client.
#[derive(Debug, Parser)]
#[command(name = "ringcast", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients and take events from the feed.
    #[command(after_help = "Example: ringcast serve --demo, then open http://127.0.0.1:8080/")]
    Serve(ServeArgs),
    /// Replace the running server by a new process of this program that takes every connection over.
    #[command(
        after_help = "Exit status: 0 done (with --probe: it could be done), 1 not done, and the running server goes on.\nExample: ringcast handover --config /etc/ringcast/ringcast.toml"
    )]
    Handover(handover::HandoverArgs),
    /// Publish an event and print its id.
    #[command(
        after_help = "Examples:\n  ringcast publish news 'hello'\n  echo '{\"a\":1}' | ringcast publish --json news -"
    )]
    Publish(publish::PublishArgs),
    /// Subscribe and print events as they come; reconnects and resumes.
    #[command(
        after_help = "Exit status: 0 all channels have ended, or --count or --timeout says that it is enough; 1 the server refuses, or the connection has ended and --no-reconnect is set.\nExample: ringcast subscribe http://127.0.0.1:8080 --channel news --transport ws"
    )]
    Subscribe(subscribe::SubscribeArgs),
    /// End connections.
    Kick(admin::KickArgs),
    /// Print the server's figures.
    Stats(admin::StatsArgs),
    /// Show what a server is doing, as it does it.
    #[cfg(feature = "top")]
    Top(top::TopArgs),
    /// Follow one channel, user or connection.
    #[command(after_help = "Example: ringcast trace --user u42")]
    Trace(trace::TraceArgs),
    /// Check whether this host is ready for what is configured, and say what to change first.
    #[command(
        after_help = "Exit status: 0 ready, 3 something will hurt under the configured load, 1 it cannot work.\nExample: ringcast doctor --config /etc/ringcast/ringcast.toml --connections 500000 --channels 100000"
    )]
    Doctor(doctor::DoctorArgs),
    /// Check or print the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a shell's completions.
    #[command(after_help = "Example: ringcast completions bash > /etc/bash_completion.d/ringcast")]
    Completions(package::CompletionsArgs),
    /// Write manual pages.
    #[command(hide = true)]
    Man(package::ManArgs),
    /// Measure this build on this machine, beside a bare loop.
    #[cfg(feature = "bench")]
    Bench(crate::bench::BenchArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a file and say what is wrong with it.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print the configuration that `serve` with the same flags would run with.
    Print {
        /// Its flags.
        #[command(flatten)]
        args: Box<ServeArgs>,
        /// Shows secrets and tokens too, which are left out otherwise.
        #[arg(long)]
        secrets: bool,
    },
    /// Print the page that explains every key, as Markdown.
    Docs,
}

/// Where the feed is.
#[derive(Clone, Debug, clap::Args)]
struct FeedPath {
    /// The feed's Unix socket. [default: as for serve]
    #[arg(long, value_name = "PATH", env = "RINGCAST_FEED")]
    feed: Option<PathBuf>,
}

impl FeedPath {
    fn resolve(&self) -> PathBuf {
        self.feed.clone().unwrap_or_else(|| config::default_feed_path(&environment))
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Has variables of the environment that are empty count as unset, as those of a service's `EnvironmentFile` often are.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(None::<&str>) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let matches = without_empty_variables(Cli::command()).get_matches();
    let command = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.command,
        Err(error) => error.exit(),
    };
    let result = match command {
        Command::Serve(args) => serve(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Subscribe(args) => subscribe::run(&args),
        Command::Kick(args) => admin::kick(&args),
        Command::Stats(args) => admin::stats(&args),
        Command::Config(ConfigCommand::Check { file }) => config_check(&file),
        Command::Config(ConfigCommand::Print { args, secrets }) => config_print(&args, secrets),
        Command::Config(ConfigCommand::Docs) => config_docs(),
        #[cfg(feature = "top")]
        Command::Top(args) => top::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Handover(args) => handover::run(&args),
        Command::Doctor(args) => match doctor::run(&args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Completions(args) => package::completions(&args),
        Command::Man(args) => package::man(&args),
        #[cfg(feature = "bench")]
        Command::Bench(args) => return crate::bench::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has had enough.
        Err(error) if is_closed_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringcast: {error}");
            ExitCode::from(FAILED)
        }
    }
}

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn serve(args: &ServeArgs) -> Result {
    Ok(crate::server::run(config::load(args, &environment)?, args.take_over)?)
}

fn config_check(file: &std::path::Path) -> Result {
    let config = config::check_file(file)?;
    for warning in config::warnings(&config) {
        eprintln!("{}: warning: {warning}", file.display());
    }
    for warning in certificates::check(&config.tls)?.iter().filter_map(Expiry::warning) {
        eprintln!("{}: warning: {warning}", file.display());
    }
    println!("{}: ok", file.display());
    Ok(())
}

fn config_print(args: &ServeArgs, secrets: bool) -> Result {
    use std::io::Write;
    let mut config = config::load(args, &environment)?;
    if !secrets {
        config.hide_secrets();
    }
    Ok(std::io::stdout().write_all(config.to_toml().as_bytes())?)
}

fn config_docs() -> Result {
    use std::io::Write;
    Ok(std::io::stdout().write_all(config::document().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_feature_brings_its_command() {
        use clap::CommandFactory;
        for (name, is_built) in [("bench", cfg!(feature = "bench")), ("top", cfg!(feature = "top"))] {
            assert_eq!(Cli::command().find_subcommand(name).is_some(), is_built, "{name}");
        }
    }
}
