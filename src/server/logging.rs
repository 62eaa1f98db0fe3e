//! Log lines.

use std::io::IsTerminal;
use std::sync::Arc;

use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogOutput};
use crate::control::LogFilter;

use super::StartError;

/// The filter that decides which lines are written.
struct Filter(reload::Handle<EnvFilter, Registry>);

impl LogFilter for Filter {
    fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    fn set(&self, directives: &str) -> Result<(), String> {
        self.0.reload(read(directives)?).map_err(|error| error.to_string())
    }
}

fn read(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(directives).map_err(|error| {
        format!("{directives:?} is no level and no list of directives; write error, warn, info or debug: {error}")
    })
}

/// Starts writing log lines, unless another part of this process has done so already.
///
/// # Errors
/// If the level is none.
pub(super) fn start(log: &Log) -> Result<Arc<dyn LogFilter>, StartError> {
    let filter = read(&log.level).map_err(StartError::LogLevel)?;
    let (writer, is_terminal) = match log.output {
        LogOutput::Stderr => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
        LogOutput::Stdout => (BoxMakeWriter::new(std::io::stdout), std::io::stdout().is_terminal()),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(writer);
    let for_people = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Json => false,
        LogFormat::Human => true,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let _ = match for_people {
        true => registry.with(lines.with_ansi(is_terminal).with_target(false)).try_init(),
        false => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    Ok(Arc::new(Filter(handle)))
}
