//! Log lines: which are written, in which form, and how they reach the log's reader without keeping any thread waiting.

mod escape;
mod queue;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogOutput};
use crate::control::LogFilter;
use crate::figures::ServerFigures;
use crate::sys::process;

use super::StartError;

pub(super) use queue::Lines;

/// The time that an ending process waits for the log's reader to take the last lines.
pub(super) const LAST_LINES_MAX: Duration = Duration::from_secs(2);

/// What is left out unless somebody asks for it: what the NATS library says of its connections, the driver says in a sentence
/// of its own.
const QUIET: &str = "async_nats=off,";

/// The queue whose lines an ending process waits for.
static LINES: OnceLock<Lines> = OnceLock::new();

/// The filter that decides which lines are written.
struct Filter(reload::Handle<EnvFilter, Registry>);

impl LogFilter for Filter {
    fn get(&self) -> String {
        let shown = self.0.with_current(ToString::to_string).unwrap_or_default();
        shown.strip_prefix(QUIET).map_or(shown.clone(), str::to_owned)
    }

    fn set(&self, directives: &str) -> Result<(), String> {
        self.0.reload(read(directives)?).map_err(|error| error.to_string())
    }
}

fn read(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{QUIET}{directives}")).map_err(|error| {
        format!("{directives:?} is no level and no list of directives; write error, warn, info or debug: {error}")
    })
}

/// The log as the server's threads know it.
#[derive(Clone)]
pub(super) struct Logging {
    /// The filter of lines.
    pub(super) filter: Arc<dyn LogFilter>,
    /// The queue of lines.
    pub(super) lines: Lines,
}

/// Starts writing log lines, unless another part of this process has done so already. Lines that were logged before the
/// process ends in order, or by `std::process::exit`, are still written if the reader takes them within
/// [`LAST_LINES_MAX`].
///
/// # Errors
/// If the level is none, or the writing thread cannot be started.
pub(super) fn start(log: &Log, figures: Arc<ServerFigures>) -> Result<Logging, StartError> {
    let (stderr, stdout) = (io::stderr(), io::stdout());
    let (output, is_terminal): (BorrowedFd<'_>, bool) = match log.output {
        LogOutput::Stderr => (stderr.as_fd(), stderr.is_terminal()),
        LogOutput::Stdout => (stdout.as_fd(), stdout.is_terminal()),
    };
    // A descriptor of the thread's own: the standard library's has a lock, on which every other user would wait with it.
    let lines = queue::start(File::from(output.try_clone_to_owned()?), figures)?;
    let queue = lines.clone();
    let give = move |line: &[u8]| queue.give(line);
    let (subscriber, filter) = subscriber(log, is_terminal, give).map_err(StartError::LogLevel)?;
    let _ = subscriber.try_init();
    if LINES.set(lines.clone()).is_ok() {
        process::at_exit(write_last_lines);
    }
    Ok(Logging { filter, lines })
}

/// Waits until the lines that were logged until now are written, for [`LAST_LINES_MAX`] at most.
pub(super) extern "C" fn write_last_lines() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES_MAX);
    }
}

fn is_for_people(format: LogFormat, is_terminal: bool) -> bool {
    match format {
        LogFormat::Auto => is_terminal,
        LogFormat::Json => false,
        LogFormat::Human => true,
    }
}

type AnySubscriber = Box<dyn Subscriber + Send + Sync>;

/// What makes lines of events and gives each line to `give`; and its filter.
fn subscriber<F>(log: &Log, is_terminal: bool, give: F) -> Result<(AnySubscriber, Arc<dyn LogFilter>), String>
where
    F: Fn(&[u8]) + Clone + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(read(&log.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let is_json = !is_for_people(log.format, is_terminal);
    let lines = fmt::layer().with_writer(move || LineWriter { give: give.clone(), is_json });
    let subscriber: AnySubscriber = match is_json {
        false => {
            let fields = fmt::format::debug_fn(escape::write_field).delimited(" ");
            Box::new(registry.with(lines.with_ansi(is_terminal).with_target(false).fmt_fields(fields)))
        }
        true => Box::new(registry.with(lines.json().flatten_event(true))),
    };
    Ok((subscriber, Arc::new(Filter(handle))))
}

/// The writer to which the formatter passes each line as a whole.
struct LineWriter<F> {
    give: F,
    is_json: bool,
}

impl<F: Fn(&[u8])> Write for LineWriter<F> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.is_json {
            true => (self.give)(&escape::escape_json(line)),
            false => (self.give)(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
