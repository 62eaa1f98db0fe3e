//! Notifications to the service manager (sd_notify(3)): ready, status, alive, stopping. Without a service manager nothing
//! happens here.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{error, warn};

use crate::figures::Stats;
use crate::sys::inherited::KEPT;
use crate::sys::rights;

/// The time that the manager has to hear of a successor.
const HEARD_MAX: Duration = Duration::from_secs(5);
/// The interval at which the status line is sent.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// The notifications' thread, as the main thread knows it.
pub(super) struct Service {
    is_leaving: Arc<AtomicBool>,
}

/// Notifies that the server is ready, and starts the thread that sends its status and its sign of life.
///
/// # Errors
/// If the thread cannot be started.
pub(super) fn start(stats: Arc<Stats>) -> io::Result<Service> {
    let service = Service { is_leaving: Arc::default() };
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(service);
    }
    tell(&[NotifyState::Ready, NotifyState::Status(&status(&stats))]);
    let is_leaving = service.is_leaving.clone();
    std::thread::Builder::new().name("service".into()).spawn(move || keep_telling(&stats, &is_leaving))?;
    Ok(service)
}

impl Service {
    /// Notifies that the server is stopping. From here on its own deadline holds, and a thread that stands still is not
    /// reported.
    pub(super) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            tell(&[NotifyState::Stopping, NotifyState::Status("letting the clients go")]);
        }
    }
}

/// The time within which the service manager wants a sign of life, if it wants one.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Tells the service manager that another process is the service from now on, and waits until it knows.
pub(super) fn pass_on(pid: i32) {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET") else { return };
    tell(&[NotifyState::Custom(&format!("MAINPID={pid}"))]);
    if let Err(error) = await_heard(Path::new(&manager)) {
        warn!(%error, "the service manager may not know of the successor");
    }
}

/// Whether there is a service manager that is to be notified.
pub(super) fn has_manager() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Has the service manager keep descriptors for the next process, each under its name, and waits until it has them. A descriptor whose
/// peer has gone is kept too.
pub(super) fn keep(all: &[(String, OwnedFd)]) -> io::Result<()> {
    let manager = std::env::var_os("NOTIFY_SOCKET").ok_or(io::ErrorKind::NotConnected)?;
    let socket = UnixDatagram::unbound()?;
    socket.connect(&manager)?;
    for (name, descriptor) in all {
        let text = format!("FDSTORE=1\nFDNAME={KEPT}{name}\nFDPOLL=0");
        rights::send(socket.as_fd(), text.as_bytes(), &[descriptor.as_fd()])?;
    }
    await_heard(Path::new(&manager))
}

/// Has the service manager let go of what it keeps under these names, and waits until it has.
pub(super) fn forget(names: &[String]) {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET").filter(|_| !names.is_empty()) else { return };
    for name in names {
        tell(&[NotifyState::Custom(&format!("FDSTOREREMOVE=1\nFDNAME={KEPT}{name}"))]);
    }
    if let Err(error) = await_heard(Path::new(&manager)) {
        warn!(%error, "the service manager may still keep what it was to let go");
    }
}

/// Waits until the manager has heard everything that was said before: it closes the descriptor that comes with `BARRIER=1`
/// (sd_notify_barrier(3)).
fn await_heard(manager: &Path) -> io::Result<()> {
    let (mut own, sent) = UnixStream::pair()?;
    own.set_read_timeout(Some(HEARD_MAX))?;
    let socket = UnixDatagram::unbound()?;
    socket.connect(manager)?;
    rights::send(socket.as_fd(), b"BARRIER=1", &[sent.as_fd()])?;
    drop(sent);
    own.read(&mut [0]).map(drop)
}

fn keep_telling(stats: &Stats, is_leaving: &AtomicBool) {
    // Twice within the manager's time limit, as sd_watchdog_enabled(3) advises.
    let watched = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let mut pulse = Pulse::default();
    let mut told = Instant::now();
    loop {
        std::thread::sleep(watched.unwrap_or(STATUS_EVERY).min(STATUS_EVERY));
        let is_leaving = is_leaving.load(Ordering::Relaxed);
        if watched.is_some() {
            match pulse.stalled(&stats.rounds()) {
                Some(thread) if !is_leaving => {
                    error!(thread, "a thread does not move; the service manager gets no sign of life")
                }
                _ => tell(&[NotifyState::Watchdog]),
            }
        }
        if !is_leaving && told.elapsed() >= STATUS_EVERY {
            told = Instant::now();
            tell(&[NotifyState::Status(&status(stats))]);
        }
    }
}

fn status(stats: &Stats) -> String {
    let shards = stats.shards.len();
    let log = stats.server.log_standstill().map_or_else(String::new, |standstill| format!("; {standstill}"));
    format!(
        "{} connections on {shards} shards, {} channels{log}",
        stats.state.connections(),
        stats.hub.channels.load(Ordering::Relaxed)
    )
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager cannot be notified");
    }
}

/// Whether threads make progress: each counts its turns, also while it has nothing to do.
#[derive(Debug, Default)]
struct Pulse {
    before: Vec<(String, u64)>,
}

impl Pulse {
    /// The first thread whose count has not changed since the last call.
    fn stalled(&mut self, beats: &[(String, u64)]) -> Option<String> {
        let before = std::mem::replace(&mut self.before, beats.to_vec());
        let is_still = |now: &&(String, u64)| before.contains(now);
        beats.iter().find(is_still).map(|(thread, _)| thread.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_tells_of_a_log_that_nobody_reads() {
        let stats = Stats::default();
        assert_eq!(status(&stats), "0 connections on 0 shards, 0 channels");
        stats.server.log_waiting_ms.store(2500, Ordering::Relaxed);
        assert!(
            status(&stats).ends_with("0 channels; the log's reader has taken nothing for 2 s"),
            "{}",
            status(&stats)
        );
    }

    #[test]
    fn the_manager_is_waited_for_until_it_closes_what_it_was_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let waiting = std::thread::spawn(move || await_heard(&path));
        let (mut buffer, mut descriptors) = ([0; 100], Vec::new());
        let length = rights::receive(manager.as_fd(), &mut buffer, &mut descriptors).unwrap();
        assert_eq!((&buffer[..length], descriptors.len()), (&b"BARRIER=1"[..], 1));
        assert!(!waiting.is_finished());
        drop(descriptors);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_thread_that_stands_still_is_named() {
        let beats = |hub, shard| [("hub".to_owned(), hub), ("shard-0".to_owned(), shard)];
        let mut pulse = Pulse::default();
        assert_eq!(pulse.stalled(&beats(1, 1)), None);
        assert_eq!(pulse.stalled(&beats(2, 9)), None);
        assert_eq!(pulse.stalled(&beats(3, 9)).as_deref(), Some("shard-0"));
        assert_eq!(pulse.stalled(&beats(3, 10)).as_deref(), Some("hub"));
        assert_eq!(pulse.stalled(&beats(4, 11)), None);
    }
}
