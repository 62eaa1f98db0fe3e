//! The included load harness: `ringcast bench`.
//!
//! It starts the server it measures, and beside it a *bare loop* (`limit_server`) that does for the same
//! clients only what the kernel demands: what that takes is the limit, and the ratio to it is the figure that
//! survives a change of machine. The server's processor time is the kernel's own account of its threads, so a
//! slow load generator neither flatters nor hurts it.

mod args;
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
mod target;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

pub use args::BenchArgs;
use report::Report;
use scenario_args::Scenario;

/// Why there is no figure.
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

/// Runs what was asked for and prints what came out.
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

/// Prints a report, and draws it where that was asked for.
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

/// What an earlier run has written.
fn read(path: &std::path::Path) -> Result<Report, BenchError> {
    let text = std::fs::read_to_string(path).map_err(io_error("reading the report"))?;
    serde_json::from_str(&text)
        .map_err(|error| BenchError::Harness(format!("{} is no report: {error}", path.display())))
}
