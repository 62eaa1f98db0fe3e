//! Putting the threads together: start, serve, drain.

mod backplane;
pub mod certificates;
pub mod demo;
mod error;
mod feed_file;
pub mod handover;
mod keys;
mod listeners;
mod logging;
mod panics;
mod service;
mod sockets;
mod start;
mod state;
mod tickets;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use tracing::{info, warn};

use crate::config::Config;
use crate::figures::{ServerFigures, ServerState};
use crate::link::{HubMessage, ToHub};
use crate::sys::signal::{self, Signal};
use crate::sys::socket::SocketFile;

use crate::sys::{memory, process};
use certificates::Certificates;
use feed_file::FeedFile;

use logging::Logging;
use state::StateLock;

pub use error::StartError;

/// How much longer than its drain time the server waits for a shard that does not report.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Serves until a signal says to stop, and then until all clients have been let go. With `takes_over`, the clients of the server
/// that runs with the same feed are this one's first.
///
/// # Errors
/// If the server cannot start.
pub fn run(config: Config, takes_over: bool) -> Result<(), StartError> {
    process::note_start();
    signal::block()?;
    let figures = Arc::default();
    let logging = logging::start(&config.log, Arc::clone(&figures))?;
    let result = serve(config, takes_over, logging, figures);
    logging::write_last_lines();
    result
}

fn serve(config: Config, takes_over: bool, logging: Logging, figures: Arc<ServerFigures>) -> Result<(), StartError> {
    panics::end_the_process(logging.lines.clone());
    if let Err(error) = memory::refuse_huge_pages() {
        warn!(%error, "the kernel keeps huge pages switched on; memory per connection will be higher");
    }
    let config = Arc::new(config);
    let server = start::start(&config, takes_over, logging, figures)?;
    let signals = listen_for_signals();
    server.serve(&config, &signals);
    Ok(())
}

/// The running threads, as the main thread knows them.
struct Server {
    to_hub: ToHub,
    state: Arc<ServerState>,
    hub: std::thread::JoinHandle<()>,
    /// Told how many connections were cut, once all shards have let their clients go.
    drained: Receiver<u64>,
    demo: Option<demo::Demo>,
    service: service::Service,
    files: Vec<SocketFile>,
    /// The feed's file, unless the service manager has opened the feed.
    feed_file: Option<FeedFile>,
    /// The TLS certificates, if there are any.
    certificates: Option<Arc<Certificates>>,
    /// The file of the socket at which successors meet this server.
    meeting: Option<SocketFile>,
    _lock: StateLock,
}

impl Server {
    fn serve(self, config: &Config, signals: &Receiver<Signal>) {
        for signal in signals {
            match signal {
                Signal::Stop => break,
                Signal::Reload => self.reload(config),
            }
        }
        info!(connections = self.state.connections(), "going away: clients are let go; a second signal ends at once");
        self.state.set_leaving();
        self.service.leave();
        if let Some(demo) = &self.demo {
            demo.stop();
        }
        self.to_hub.send(HubMessage::Drain);
        self.to_hub.ring();
        self.await_drained(Instant::now() + config.server.drain_timeout + DRAIN_GRACE, signals);
        self.to_hub.send(HubMessage::Stop);
        self.to_hub.ring();
        let _ = self.hub.join();
        drop((self.files, self.feed_file, self.meeting));
        info!("stopped");
    }

    /// Reads keys and certificates again, in a thread of its own: a file on a disk that stands still must not keep signals waiting.
    fn reload(&self, config: &Config) {
        if !config.auth.has_keys() && self.certificates.is_none() {
            info!("there are no keys to read again; the configuration is read at the start only");
            return;
        }
        let (auth, to_hub, certificates) = (config.auth.clone(), self.to_hub.clone(), self.certificates.clone());
        let read = move || {
            let has_certificates = certificates.is_none_or(|certificates| certificates.reload());
            if keys::reload(&auth, &to_hub) && has_certificates {
                info!("keys are read again; the rest of the configuration is read at the start only");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("reload".into()).spawn(read) {
            warn!(%error, "keys and certificates cannot be read again");
        }
    }

    /// Waits until all clients have been let go, the deadline has passed, or a second signal says to stop.
    fn await_drained(&self, deadline: Instant, signals: &Receiver<Signal>) {
        loop {
            crossbeam_channel::select! {
                recv(self.drained) -> cut => {
                    match cut.unwrap_or_default() {
                        0 => info!("all clients were let go"),
                        cut => warn!(cut, "the drain time was over before all clients were let go"),
                    }
                    return;
                }
                recv(signals) -> signal => if signal != Ok(Signal::Reload) {
                    warn!("ending at once");
                    return;
                },
                default(deadline.saturating_duration_since(Instant::now())) => {
                    warn!("a shard did not report in time; ending without it");
                    return;
                }
            }
        }
    }
}

fn listen_for_signals() -> Receiver<Signal> {
    let (sender, receiver) = crossbeam_channel::bounded(8);
    std::thread::spawn(move || {
        while let Ok(signal) = signal::wait() {
            if sender.send(signal).is_err() {
                break;
            }
        }
    });
    receiver
}
