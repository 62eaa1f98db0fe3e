//! Log lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

use super::StartError;

/// Starts writing log lines. Does nothing if something in this process has done so already.
pub(super) fn start(log: &Log) -> Result<(), StartError> {
    let filter =
        EnvFilter::try_new(&log.level).map_err(|error| StartError::LogLevel(log.level.clone(), error.to_string()))?;
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let for_people = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Json => false,
        LogFormat::Human => true,
    };
    let _ = match for_people {
        true => builder.with_ansi(is_terminal).with_target(false).try_init(),
        false => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
