//! The bench.
use std::process::ExitCode;
/// Args.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {}
/// Run.
pub fn run(_: BenchArgs) -> ExitCode {
    ExitCode::FAILURE
}
