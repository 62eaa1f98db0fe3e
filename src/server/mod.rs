//! Putting the threads together: start, serve, drain.

pub mod demo;
mod keys;
mod listeners;
mod logging;
mod service;
mod state;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use tracing::{error, info, warn};

use crate::config::{self, Config, ConfigError};
use crate::control::{self, ControlParts, LogFilter};
use crate::figures::{ServerState, ShardFigures, Stats};
use crate::hub::ids::{IdSource, MarkError};
use crate::hub::revocations::{Revocations, RevocationsError};
use crate::hub::{self, HubParts};
use crate::link::{self, FIGURES_CHANNEL, HubInbox, HubMessage, ToHub, ToShard};
use crate::logic::history::HistoryLimits;
use crate::shard::{self, Admission, Listener, ShardParts};
use crate::sys::affinity;
use crate::sys::fdtable::raise_descriptor_limit;
use crate::sys::memory;
use crate::sys::process;
use crate::sys::ring::{Ring, explain_setup_error};
use crate::sys::signal::{self, Signal};
use crate::sys::socket::{self, SocketFile, UnixListenError};

use listeners::Listeners;
use state::{State, StateLock};

/// How much longer than its drain time the server waits for a shard that does not report.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// How long shards may take to start.
const START_MAX: Duration = Duration::from_secs(30);

/// A limit of descriptors that nobody has chosen for a connection server.
const DESCRIPTORS_LOW: u64 = 10_000;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody listens on a port already.
    #[error("{0} is in use: somebody is listening on it; stop that server, or choose another address")]
    PortInUse(SocketAddr),
    /// The service manager's sockets are not what they should be.
    #[error("cannot use the sockets that the service manager has opened: {0}")]
    Inherited(String),
    /// Clients could come from other hosts, and nobody has said that this is meant.
    #[error(transparent)]
    Open(ConfigError),
    /// A Unix socket cannot be listened on.
    #[error(transparent)]
    Unix(#[from] UnixListenError),
    /// The state directory cannot be used.
    #[error("cannot use the state directory {path}: {source}")]
    State {
        /// The directory.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another server has the state files open.
    #[error("another server uses the same state: it has locked {0}; stop it, or give this one a state_dir of its own")]
    StateInUse(String),
    /// The mark that keeps ids from going backwards cannot be used.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The tokens that are revoked cannot be read or kept.
    #[error(transparent)]
    Revocations(#[from] RevocationsError),
    /// A shard or the hub cannot start.
    #[error("{0}")]
    Thread(String),
    /// The keys for tokens cannot be used.
    #[error(transparent)]
    Keys(#[from] keys::LoadError),
    /// A user in `allow_users` or `readers` does not exist.
    #[error("[feed] {0} names {1:?}, but there is no such user on this host")]
    NoUser(&'static str, String),
    /// The level of the log makes no sense.
    #[error("[log] level {0}")]
    LogLevel(String),
    /// Anything else the kernel says.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Serves until a signal says to stop, and then until all clients have been let go.
///
/// # Errors
/// If the server cannot start.
pub fn run(config: Config) -> Result<(), StartError> {
    process::note_start();
    let log_filter = logging::start(&config.log)?;
    signal::block()?;
    if let Err(error) = memory::refuse_huge_pages() {
        warn!(%error, "the kernel does not let go of huge pages; memory per connection will be higher");
    }
    let config = Arc::new(config);
    let server = Server::start(&config, log_filter)?;
    let signals = listen_for_signals();
    server.serve(&config, &signals);
    Ok(())
}

/// The running threads, as the main thread knows them.
struct Server {
    to_hub: ToHub,
    state: Arc<ServerState>,
    hub: std::thread::JoinHandle<()>,
    drained: Receiver<u64>,
    demo: Option<demo::Demo>,
    service: service::Service,
    files: Vec<SocketFile>,
    _lock: StateLock,
}

impl Server {
    fn start(config: &Arc<Config>, log_filter: Arc<dyn LogFilter>) -> Result<Server, StartError> {
        let shards = match config.server.shards {
            0 => affinity::usable_cores().len(),
            shards => shards,
        };
        // Better one sentence now than an error number from each thread.
        Ring::new(64).map_err(|error| StartError::Thread(explain_setup_error(&error)))?;
        let descriptors = raise_descriptor_limit()?;
        if descriptors < DESCRIPTORS_LOW {
            warn!(
                descriptors,
                "each shard can hold about that many connections; raise LimitNOFILE (ulimit -n) for more"
            );
        }
        let looks = keys::look(&config.auth);
        let keyring = keys::load(&config.auth)?;
        let allowed_users = user_ids("allow_users", &config.feed.allow_users)?;
        let readers = user_ids("readers", &config.feed.readers)?;
        let cores = affinity::usable_cores();
        let pinned = (config.server.pin && shards <= cores.len()).then_some(&cores[..]);
        // Clients come last: whatever else is in the way must not take them from a server that runs.
        let inherited = listeners::inherit()?;
        let mut files = Vec::new();
        let feed_is_inherited = inherited.feed.is_some();
        let lock = state::lock(config).map_err(|error| name_the_feed(error, config, feed_is_inherited))?;
        let feed = open_feed(config, inherited.feed, &mut files)?;
        let State { ids, revocations } = state::open(&lock)?;
        let admin = listen_for_admins(config)?;
        let own_listener = socket::listen_privately()?;
        let own_address = own_listener.local_addr()?;
        let mut listeners = Listeners::open(config, shards, pinned, inherited.clients)?;
        files.append(&mut listeners.files);
        if let Some(first) = listeners.by_shard.first_mut() {
            first.push(Listener::Own(own_listener));
        }

        let (to_hub, inbox) = link::to_hub()?;
        let admission = Arc::new(Admission::new(&config.server));
        let state = admission.state().clone();
        let figures: Vec<Arc<ShardFigures>> = (0..shards).map(|_| Arc::default()).collect();
        let stats = Arc::new(Stats { state: state.clone(), hub: Arc::default(), shards: figures.clone() });
        let mut to_shards = Vec::new();
        let mut parts = Vec::new();
        let (started_sender, started) = crossbeam_channel::bounded(shards);
        for (index, listeners) in std::mem::take(&mut listeners.by_shard).into_iter().enumerate() {
            let (to_shard, from_hub) = link::to_shard(config.limits.queue, inbox.wake.clone())?;
            to_shards.push(to_shard);
            parts.push(ShardParts {
                index: index as u16,
                core: pinned.map(|cores| cores[index]),
                config: config.clone(),
                listeners,
                from_hub,
                to_hub: to_hub.clone(),
                room: admission.clone(),
                figures: figures[index].clone(),
                keyring: keyring.clone(),
                revoked: revocations.known().clone(),
                page: config.demo.then_some(demo::PAGE),
                started: started_sender.clone(),
            });
        }
        // Otherwise a shard that dies without a word would be waited for.
        drop(started_sender);
        let (drained_sender, drained) = crossbeam_channel::bounded(1);
        let (ask, asked) = UnixStream::pair()?;
        let (publish, published) = UnixStream::pair()?;
        let hub_parts = hub_parts(
            config,
            feed,
            vec![asked, published],
            (allowed_users, readers),
            (ids, revocations),
            inbox,
            to_shards,
            stats.clone(),
            drained_sender,
        );
        let hub = spawn("hub", move || hub::run(hub_parts))?;
        for part in parts {
            spawn(&format!("shard-{}", part.index), move || shard::run(part))?;
        }
        wait_for_shards(&started, shards)?;
        if let Some(listener) = admin {
            control::start(ControlParts {
                listener,
                token: config.admin.token.clone(),
                stats: stats.clone(),
                feeds: [ask, publish],
                own_listener: own_address,
                to_hub: to_hub.clone(),
                log_filter,
                max_line: config.feed.max_line,
                feed_is_narrowed: is_narrowed(&config.feed) || feed_is_inherited,
            })?;
        }
        keys::watch(config.auth.clone(), looks, to_hub.clone())?;
        state.set_started();
        let service = service::start(stats)?;
        info!(shards, feed = %config.feed.path.display(), "ready");
        let demo = config.demo.then(|| demo::Demo::start(config.feed.path.clone())).transpose()?;
        if config.demo {
            for address in &listeners.addresses {
                info!("the demo is at http://{address}/");
            }
        }
        Ok(Server { to_hub, state, hub, drained, demo, service, files, _lock: lock })
    }

    fn serve(self, config: &Config, signals: &Receiver<Signal>) {
        for signal in signals {
            match signal {
                Signal::Stop => break,
                Signal::Reload => {
                    if !config.auth.has_keys() {
                        info!("there are no keys to read again; the configuration is read at the start only");
                    } else if keys::reload(&config.auth, &self.to_hub) {
                        info!("keys are read again; the rest of the configuration is read at the start only");
                    }
                }
            }
        }
        info!(connections = self.state.connections(), "going away; a second signal ends at once");
        self.state.set_leaving();
        self.service.leave();
        if let Some(demo) = self.demo {
            demo.stop();
        }
        self.to_hub.send(HubMessage::Drain);
        self.to_hub.ring();
        let deadline = std::time::Instant::now() + config.server.drain_timeout + DRAIN_GRACE;
        loop {
            crossbeam_channel::select! {
                recv(self.drained) -> cut => {
                    match cut.unwrap_or_default() {
                        0 => info!("all clients were let go"),
                        cut => warn!(cut, "the time was over before all clients were let go"),
                    }
                    break;
                }
                recv(signals) -> signal => if signal != Ok(Signal::Reload) {
                    warn!("ending at once");
                    break;
                },
                default(deadline.saturating_duration_since(std::time::Instant::now())) => {
                    warn!("a shard did not report in time; ending without it");
                    break;
                }
            }
        }
        self.to_hub.send(HubMessage::Stop);
        self.to_hub.ring();
        let _ = self.hub.join();
        drop(self.files);
        info!("stopped");
    }
}

/// Whether the configuration says whose the feed is. Where the service manager has opened it, its unit does.
fn is_narrowed(feed: &config::Feed) -> bool {
    !(feed.group.is_empty() && feed.allow_users.is_empty() && feed.readers.is_empty())
}

#[allow(clippy::too_many_arguments)]
fn hub_parts(
    config: &Arc<Config>,
    listener: UnixListener,
    own: Vec<UnixStream>,
    (allowed_users, readers): (Vec<u32>, Vec<u32>),
    (ids, revocations): (IdSource, Revocations),
    inbox: HubInbox,
    shards: Vec<ToShard>,
    stats: Arc<Stats>,
    drained: Sender<u64>,
) -> HubParts {
    let policies = config.clone();
    HubParts {
        listener,
        own,
        allowed_users,
        readers,
        max_line: config.feed.max_line,
        channels_max: config.limits.channels,
        idempotency_window: config.feed.idempotency_window,
        idempotency_keys: config.feed.idempotency_keys,
        history: Box::new(move |channel| match channel {
            // Whoever looks at the figures wants the present ones.
            FIGURES_CHANNEL => HistoryLimits { events_max: 0, bytes_max: 0, age_max_ms: 0 },
            channel => policies.namespace(channel).history,
        }),
        ids,
        revocations,
        inbox,
        shards,
        stats,
        drained,
    }
}

/// Starts a thread without which the server is none.
fn spawn(name: &str, run: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<std::thread::JoinHandle<()>> {
    let label = name.to_string();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        if let Err(error) = run() {
            error!(thread = label, %error, "a thread cannot go on");
            std::process::exit(1);
        }
    })
}

fn wait_for_shards(started: &Receiver<Result<(), String>>, shards: usize) -> Result<(), StartError> {
    for _ in 0..shards {
        match started.recv_timeout(START_MAX) {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return Err(StartError::Thread(reason)),
            Err(_) => return Err(StartError::Thread("a shard did not start in time".into())),
        }
    }
    Ok(())
}

/// Opens the admin listener, if there is to be one.
fn listen_for_admins(config: &Config) -> Result<Option<TcpListener>, StartError> {
    // The configuration is checked: whatever is no address is "off".
    let Ok(address) = config.admin.listen.parse::<SocketAddr>() else { return Ok(None) };
    let failed = |source| StartError::Listen { address: format!("{address} (admin)"), source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    info!(address = %listener.local_addr()?, "admin listening");
    Ok(Some(listener))
}

/// Whoever has locked the state is most often the server on the same feed, which is the clearer thing to say.
fn name_the_feed(error: StartError, config: &Config, is_inherited: bool) -> StartError {
    match error {
        StartError::StateInUse(_) if !is_inherited && UnixStream::connect(&config.feed.path).is_ok() => {
            UnixListenError::InUse(config.feed.path.display().to_string()).into()
        }
        error => error,
    }
}

/// Opens the feed, unless the service manager has. Whoever is there already is noticed here, before anything is touched
/// that a running server has open.
fn open_feed(
    config: &Config,
    inherited: Option<UnixListener>,
    files: &mut Vec<SocketFile>,
) -> Result<UnixListener, StartError> {
    if let Some(listener) = inherited {
        return Ok(listener);
    }
    let group = Some(config.feed.group.as_str()).filter(|group| !group.is_empty());
    let listener = socket::listen_unix(&config.feed.path, octal(&config.feed.mode), group)?;
    files.push(SocketFile::at(&config.feed.path)?);
    Ok(listener)
}

/// Modes are checked when the configuration is read.
fn octal(mode: &str) -> u32 {
    u32::from_str_radix(mode, 8).unwrap_or(0o600)
}

/// The ids of users by name or number, from /etc/passwd.
fn user_ids(key: &'static str, users: &[String]) -> Result<Vec<u32>, StartError> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let table = std::fs::read_to_string(Path::new("/etc/passwd"))?;
    let find = |user: &String| {
        let by_name = || {
            table.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(user)).then(|| fields.nth(1)?.parse().ok()).flatten()
            })
        };
        user.parse().ok().or_else(by_name).ok_or_else(|| StartError::NoUser(key, user.clone()))
    };
    users.iter().map(find).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(user_ids("readers", &["root".into(), "7".into()]).unwrap(), [0, 7]);
        assert!(matches!(user_ids("readers", &["no such user".into()]), Err(StartError::NoUser("readers", _))));
    }
}
