//! The end of the process by a panic of any thread: the panic is logged with its place and its stack, and the process ends
//! with a failure, so that the service manager starts it again.
//!
//! A thread that panicked may have left a log, a slot or a queue half changed, and all clients of a shard share these. So no
//! connection is served after a panic; clients come back and resume.

use std::panic::PanicHookInfo;

use tracing::error;

use crate::sys::{process, stack};

use super::logging::{LAST_LINES_MAX, Lines};
use super::watch::brief;

/// The exit status after a panic, which is the one that Rust programs have by convention.
const STATUS: i32 = 101;

/// From here on a panic of any thread is logged and ends the process. The default hook would write to standard error itself,
/// and wait for its reader.
pub(super) fn end_the_process(lines: Lines) {
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let frames = brief(&stack::describe(&stack::here()));
        error!(thread = thread.name(), place, frames, "a thread panicked, and the server ends: {}", message(info));
        if !lines.flush(LAST_LINES_MAX) {
            process::say_at_once(&format!("ringcast: a thread panicked at {place}\n"));
        }
        process::end_at_once(STATUS);
    }));
}

/// The message of a panic.
fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
