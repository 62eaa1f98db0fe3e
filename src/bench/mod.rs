//! The load harness: `ringcast bench`.
//!
//! A scenario starts the measured server, and in turn with it a *bare loop* (`limit_server`), which does for the same
//! clients only what the kernel demands. The bare loop's cost is the limit of the machine, and the ratio to that limit
//! is the figure that survives a change of machine. Processor time is the kernel's account of the server's threads, so
//! a slow load generator neither flatters nor hurts the server.

mod args;
mod brokers;
mod chart;
mod clients;
mod limit_server;
mod payload;
mod peers;
mod procfs;
mod progress;
mod publisher;
mod reader;
mod report;
mod scenario_args;
mod scenarios;
mod secured;
mod target;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

pub use args::BenchArgs;
use report::Report;
use scenario_args::Scenario;

/// The reasons why a scenario ends without figures.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("{0}")]
    Harness(String),
    #[error("{failed} clients failed; the first one: {error}")]
    Clients { failed: usize, error: String },
    #[error("waited {} s for {what}", .limit.as_secs())]
    Timeout { what: String, limit: Duration },
    #[error("the measured server ended or did not start: {0}")]
    Target(String),
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> BenchError {
    move |source| BenchError::Io { doing: doing.to_owned(), source }
}

/// Runs a scenario, or all of them, and prints the report.
pub fn run(args: BenchArgs) -> ExitCode {
    let outcome = match args.scenario {
        Scenario::LimitServer(args) => limit_server::run(&args).map_err(|error| BenchError::Harness(error.to_string())),
        Scenario::Show(show) => read(&show.file).and_then(|report| present(&args.common, &report)),
        scenario => measure(&args.common, &scenario),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringcast: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(common: &args::Common, scenario: &Scenario) -> Result<(), BenchError> {
    let host = procfs::Host::look();
    let scenarios = scenarios::run(common, scenario)?;
    let report = Report { host, quick: common.quick, scenarios };
    if let Some(path) = &common.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| BenchError::Harness(format!("writing the report: {error}")))?;
        std::fs::write(path, text + "\n").map_err(io_error("writing the report"))?;
    }
    present(common, &report)
}

/// Prints a report, and draws its charts if `--charts` is given.
fn present(common: &args::Common, report: &Report) -> Result<(), BenchError> {
    println!("{report}");
    if let Some(folder) = &common.charts {
        std::fs::create_dir_all(folder).map_err(io_error("making the charts' folder"))?;
        for scenario in &report.scenarios {
            let path = folder.join(format!("{}.svg", scenario.slug()));
            std::fs::write(path, chart::draw(scenario)?).map_err(io_error("writing a chart"))?;
        }
    }
    Ok(())
}

/// Reads the report that an earlier run has written with `--json`.
fn read(path: &std::path::Path) -> Result<Report, BenchError> {
    let text = std::fs::read_to_string(path).map_err(io_error("reading the report"))?;
    serde_json::from_str(&text)
        .map_err(|error| BenchError::Harness(format!("{} is no report: {error}", path.display())))
}
