//! Launching a successor, which is what `systemctl reload` does: the new process must be no child of the one that launches it, because
//! the service manager takes only a child of its own for the service's main process.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::logic::handover::words::Offer;
use crate::sys::process;

use super::probe;

/// The time that a successor may take in all: it gives up by itself before that.
const LAUNCH_MAX: Duration = Duration::from_secs(80);
/// The interval at which it is looked whether the successor has taken over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a launch has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The process that has taken over.
    pub pid: u32,
    /// The process that has handed over.
    pub before: u32,
    /// The connections that there were before.
    pub connections: u64,
}

/// Starts a successor of the server at a feed, with the arguments of `ringcast serve`, and waits until it has taken over. It is the
/// child of a process that ends at once (`step`, with the same arguments), and so becomes the service manager's.
///
/// # Errors
/// The sentence why there is none. Then the server that was running goes on.
pub fn launch(feed: &Path, step: &OsStr, serve: &[OsString]) -> Result<Launched, String> {
    let offer = probe(feed)?;
    let pid = start_aside(&offer, step, serve)?;
    let begun = Instant::now();
    while begun.elapsed() < LAUNCH_MAX {
        // The successor answers at the same place once it has everything.
        if probe(feed).is_ok_and(|answer| answer.pid == pid) {
            return Ok(Launched { pid, before: offer.pid, connections: offer.connections });
        }
        if !process::is_there(pid) {
            return Err("the successor has ended; its last words say why, and the running server goes on".into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Err(format!("the successor (process {pid}) has not taken over within {} s", LAUNCH_MAX.as_secs()))
}

/// Has a process of its own start the successor; returns the successor's number.
fn start_aside(offer: &Offer, step: &OsStr, serve: &[OsString]) -> Result<u32, String> {
    let mut command = Command::new(this_program()?);
    command.arg("handover").arg(step).args(serve).stdin(Stdio::null());
    // The service manager tells these to the service's main process alone. `WATCHDOG_PID` names the process that has ended then.
    command.env_remove("WATCHDOG_PID");
    match &offer.notify_socket {
        Some(path) => command.env("NOTIFY_SOCKET", path),
        None => command.env_remove("NOTIFY_SOCKET"),
    };
    match offer.watchdog_us {
        Some(us) => command.env("WATCHDOG_USEC", us.to_string()),
        None => command.env_remove("WATCHDOG_USEC"),
    };
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("the successor cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| "the successor could not be started".to_owned())
}

/// Starts the successor and prints its number: the step between the launcher and the successor. It ends before the successor, so
/// that this is nobody's child but the service manager's.
///
/// # Errors
/// If the program cannot be started, or the number not be printed.
pub fn start_successor(serve: &[OsString]) -> Result<(), String> {
    let mut command = Command::new(this_program()?);
    command.arg("serve").arg("--take-over").args(serve).stdin(Stdio::null()).stdout(Stdio::null());
    // Signals of a terminal are for the launcher alone.
    let child =
        command.process_group(0).spawn().map_err(|error| format!("the successor cannot be started: {error}"))?;
    writeln!(std::io::stdout(), "{}", child.id()).map_err(|error| error.to_string())
}

/// The program on disk, which may be newer than the running server.
fn this_program() -> Result<std::path::PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("this program's file cannot be found: {error}"))
}
