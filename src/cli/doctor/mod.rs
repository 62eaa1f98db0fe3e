//! `ringcast doctor`: checks whether this host is ready for the configuration, and says what to change first.

mod checks;
mod host;
mod memory;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::environment;
use crate::backplane;
use crate::config::{self, ServeArgs};
use crate::sys::ring::{Ring, explain_setup_error};
use crate::sys::{affinity, clock, socket};

use checks::Question;
use host::Host;
use memory::Term;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// The setting is as it should be.
    Ok,
    /// The setting could be better.
    Note,
    /// The setting will hurt before the configured load is reached.
    Warn,
    /// The server does not start, or breaks down under the configured load.
    Fail,
}

/// What was found about one setting of the host.
#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    /// The name of the setting.
    about: &'static str,
    /// The present value.
    found: String,
    /// Why the value hurts; empty if it does not.
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    /// What to change; empty if nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    change: String,
    /// The terms of a sum, if what was found is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    terms: Vec<Term>,
}

/// For which configuration to check the host.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// The number of connections to check for, if not the configured maximum.
    #[arg(long, value_name = "N")]
    connections: Option<u64>,
    /// Also compute the most memory that the server can ever use, with this number of channels.
    #[arg(long, value_name = "M")]
    channels: Option<u64>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// The exit status if something should be changed but the server runs.
const WARNED: u8 = 3;

/// Checks the host, prints the findings, and returns the exit code that they mean.
pub(super) fn run(args: &DoctorArgs) -> super::Result<ExitCode> {
    let config = config::load(&args.serve, &environment)?;
    let host = Host::this();
    let cores = affinity::usable_cores().len();
    let shards = if config.server.shards == 0 { cores } else { config.server.shards };
    let process = server_at(&config.feed.path).map_or("self".to_owned(), |pid| pid.to_string());
    let question = Question {
        host: &host,
        connections: args.connections.unwrap_or(config.server.max_connections as u64),
        channels: args.channels,
        config: &config,
        shards: shards as u64,
        cores: cores as u64,
        process,
        ring_error: Ring::new(8).err().map(|error| explain_setup_error(&error)),
        clock_is_synchronized: clock::is_synchronized(),
        broker: backplane::probe(&config.backplane, config.feed.max_line),
    };
    let findings = question.answer();
    let text = if args.json { serde_json::to_string_pretty(&findings)? + "\n" } else { report(&findings) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Fail) => ExitCode::from(super::FAILED),
        Some(Severity::Warn) => ExitCode::from(WARNED),
        _ => ExitCode::SUCCESS,
    })
}

/// The process that serves a feed, if there is one.
fn server_at(feed: &Path) -> Option<i32> {
    socket::peer_process(UnixStream::connect(feed).ok()?.as_fd())
}

/// The findings as text for people: what to change, the worst first, and then what is fine.
fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.severity {
            Severity::Ok => "ok  ",
            Severity::Note => "note",
            Severity::Warn => "WARN",
            Severity::Fail => "FAIL",
        };
        text.push_str(&format!("{mark}  {:<30} {}\n", finding.about, finding.found));
        for Term { about, formula, bytes } in &finding.terms {
            text.push_str(&format!(
                "      {:>10}  {about:<32} {}\n",
                memory::readable(*bytes),
                formula.replace('`', "")
            ));
        }
        if !finding.why.is_empty() {
            text.push_str(&format!("      {}\n      change: {}\n", finding.why, finding.change));
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (fails, warnings) = (count(Severity::Fail), count(Severity::Warn));
    text.push_str(&match (fails, warnings) {
        (0, 0) => "\nThis host is ready for the configured load.\n".to_owned(),
        _ => format!(
            "\n{fails} to change before the server can work, {warnings} before it can carry the configured load.\n"
        ),
    });
    text
}
