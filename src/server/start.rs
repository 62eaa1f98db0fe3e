//! Starting the threads: hub, shards, the admin listener, and what watches over them.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use tracing::{error, info, warn};

use crate::config::{self, BackplaneKind, Config};
use crate::control::{self, ControlParts, LogFilter};
use crate::figures::{ServerFigures, Stats};
use crate::hub::revocations::Revocations;
use crate::hub::{self, HubParts, Order};
use crate::link::handover::{Adopting, Letters, Mailbox};
use crate::link::{self, HubInbox, ToHub, ToShard};
use crate::logic::auth::Keyring;
use crate::logic::tls::TlsSettings;
use crate::shard::{self, Admission, Listener, ShardParts};
use crate::sys::accounts;
use crate::sys::affinity;
use crate::sys::fdtable::raise_descriptor_limit;
use crate::sys::memory;
use crate::sys::process;
use crate::sys::ring::{Ring, explain_setup_error};
use crate::sys::socket::SocketFile;

use super::backplane::{self, Joining};
use super::certificates::Certificates;
use super::handover::{self, Offering, Parked, Taking};
use super::listeners::{self, Listeners};
use super::logging::Logging;
use super::sockets::{self, Sockets};
use super::state::{State, StateLock};
use super::watch::{self, Watched};
use super::{Server, StartError, demo, feed_file, keys, service};

/// How long shards may take to start.
const START_MAX: Duration = Duration::from_secs(30);
/// Fewer descriptors than this are the default of a host, and not enough for a connection server.
const DESCRIPTORS_LOW: u64 = 10_000;
/// The least limit of descriptors for a server without shards: a shard keeps 128 for itself and for refusals, and 64 are for
/// clients, or for publishers.
const DESCRIPTORS_MIN: u64 = 192;
/// The descriptors that the hub's table has more for each shard: its queues, its ring, its mailbox,
/// and a listener or two.
const DESCRIPTORS_PER_SHARD: u64 = 8;

/// Starts all threads and waits until every shard takes clients.
///
/// # Errors
/// If the host lacks something, something is in use, or a thread cannot start.
pub(super) fn start(
    config: &Arc<Config>,
    takes_over: bool,
    logging: Logging,
    figures: Arc<ServerFigures>,
) -> Result<Server, StartError> {
    let descriptors = check_host()?;
    // Before the keys are read, so that no later change of their files is missed.
    let looks = keys::look(&config.auth);
    let certificates = Certificates::load(config, &figures)?;
    let plan = Plan::new(config)?;
    let shards = plan.shards;
    check_descriptors(descriptors, shards)?;
    let (mut taking, sockets) = open(config, &plan, takes_over)?;
    let Sockets { feed, mut feed_file, state, lock, admin, mut clients, mut files } = sockets;
    if let Some(certificates) = &certificates {
        certificates.keep_tickets(&lock.path("tickets"));
    }
    let admin_copy = admin.as_ref().map(|listener| listener.try_clone().map(OwnedFd::from)).transpose()?;
    let admission = Arc::new(Admission::new(&config.server));
    let server_state = admission.state().clone();
    let by_shard = (0..shards).map(|_| Arc::default()).collect();
    let stats = Stats { state: server_state.clone(), server: figures, shards: by_shard, ..Stats::default() };
    let stats = Arc::new(stats);
    let tls = certificates.as_ref().map(|certificates| certificates.current());
    let client_side = ClientSide { listeners: std::mem::take(&mut clients.by_shard), admission, tls };
    let (threads, shards_to_start) = start_hub(config, plan, feed, state, client_side, &stats, taking.as_mut())?;
    let Threads { to_hub, hub, drained, feeds, watched, letters, backplane } = threads;
    // A predecessor's clients are waiting; others that come while a node reads its log wait in the listeners' queues.
    let mut shards_to_start = Some(shards_to_start);
    if let Some(taking) = &mut taking {
        start_shards(shards_to_start.take(), &watched[1..])?;
        (feed_file, files) = take_over(config, taking, &stats)?;
    }
    let has_feed_file = feed_file.is_some();
    if let Some(listener) = admin {
        let is_narrowed = is_narrowed(&config.feed) || !has_feed_file;
        let figures = (stats.clone(), logging.filter);
        control::start(control_parts(config, listener, feeds, &to_hub, figures, is_narrowed))?;
    }
    backplane.map_or(Ok(()), |backplane| backplane.catch_up())?;
    start_shards(shards_to_start, &watched[1..])?;
    watch_files(config, looks, certificates.as_ref(), &to_hub)?;
    let watch_file = |file| feed_file::watch(config.feed.clone(), file, server_state.clone(), to_hub.clone());
    let feed_file = feed_file.map(watch_file).transpose()?;
    server_state.set_started();
    watch::start(watched, stats.clone(), logging.lines)?;
    let handed = (&lock, admin_copy, has_feed_file);
    let meeting = offer(config, &stats, &to_hub, letters, handed, &clients, taking)?;
    let service = service::start(stats)?;
    info!(shards, feed = %config.feed.path.display(), "ready");
    let (demo, state) = (start_demo(config, &clients)?, server_state);
    Ok(Server { to_hub, state, hub, drained, demo, service, files, feed_file, certificates, meeting, _lock: lock })
}

/// Waits for successors from now on. With the lock come the admin listener, and whether the feed's file is the server's own.
fn offer(
    config: &Arc<Config>,
    stats: &Arc<Stats>,
    to_hub: &ToHub,
    letters: Vec<Letters>,
    (lock, admin, has_feed_file): (&StateLock, Option<OwnedFd>, bool),
    clients: &Listeners,
    taking: Option<Taking>,
) -> io::Result<Option<SocketFile>> {
    if let Some(taking) = &taking {
        taking.await_end();
    }
    let offering = Offering {
        config: config.clone(),
        stats: stats.clone(),
        to_hub: to_hub.clone(),
        letters,
        locks: lock.descriptors()?,
        admin,
        has_feed_file,
        addresses: [clients.addresses.clone(), clients.tls_addresses.clone()],
    };
    let (listener, kept) = taking.map_or_else(Default::default, |taking| (taking.meeting, taking.kept));
    let meeting = handover::offer(offering, listener)?;
    // From here on there is nothing that another process would have to take from the service manager.
    service::forget(&kept);
    Ok(meeting)
}

/// Opens what a server has, or asks a predecessor for it.
fn open(config: &Config, plan: &Plan, takes_over: bool) -> Result<(Option<Taking>, Sockets), StartError> {
    let mut inherited = listeners::inherit()?;
    let mut taking = match take_parked(std::mem::take(&mut inherited.kept), config, plan.shards) {
        None if takes_over => Some(Taking::begin(config, plan.shards)?),
        taking => taking,
    };
    let sockets = match &mut taking {
        Some(taking) => Sockets::of_predecessor(config, taking, plan.shards)?,
        None => Sockets::open(config, plan.shards, plan.cores.as_deref(), inherited)?,
    };
    Ok((taking, sockets))
}

/// Has the threads take a predecessor over; returns the files of its sockets, which are this process's from now on.
fn take_over(
    config: &Config,
    taking: &mut Taking,
    stats: &Stats,
) -> Result<(Option<SocketFile>, Vec<SocketFile>), StartError> {
    stats.state.set_started();
    taking.take(&stats.server)?;
    Ok(sockets::files_of_predecessor(config, taking.offer.has_feed_file))
}

/// Watches the files of keys and certificates.
fn watch_files(
    config: &Config,
    looks: keys::Looks,
    certificates: Option<&Arc<Certificates>>,
    to_hub: &ToHub,
) -> io::Result<()> {
    keys::watch(config.auth.clone(), looks, to_hub.clone())?;
    certificates.map_or(Ok(()), |certificates| certificates.watch())
}

/// The parts of the control thread.
fn control_parts(
    config: &Config,
    listener: TcpListener,
    feeds: [UnixStream; 3],
    to_hub: &ToHub,
    (stats, log_filter): (Arc<Stats>, Arc<dyn LogFilter>),
    feed_is_narrowed: bool,
) -> ControlParts {
    ControlParts {
        listener,
        token: config.admin.token.clone(),
        stats,
        feeds,
        to_hub: to_hub.clone(),
        log_filter,
        max_line: config.feed.max_line,
        feed_is_narrowed,
        clients_are_checked: config.checks_clients(),
        names: process::host_name().into_iter().chain(config.admin.hosts.iter().cloned()).collect(),
    }
}

/// Begins to take over what an earlier process has left. What this process cannot have is let go before any listener is opened, because
/// it has listeners too.
fn take_parked(kept: Vec<(String, OwnedFd)>, config: &Config, shards: usize) -> Option<Taking> {
    if kept.is_empty() {
        return None;
    }
    let names: Vec<String> = kept.iter().map(|(name, _)| name.clone()).collect();
    match Parked::find(kept).and_then(|parked| Taking::begin_parked(parked, config, shards)) {
        Ok(mut taking) => {
            taking.kept = names;
            Some(taking)
        }
        Err(error) => {
            warn!(%error, "the connections that the service manager has kept are let go");
            service::forget(&names);
            None
        }
    }
}

/// Starts the demo, if it is asked for, and says where it is.
fn start_demo(config: &Config, clients: &Listeners) -> io::Result<Option<demo::Demo>> {
    if !config.demo {
        return Ok(None);
    }
    for address in &clients.addresses {
        info!("the demo is at http://{address}/");
    }
    for address in &clients.tls_addresses {
        info!("the demo is at https://{address}/");
    }
    demo::Demo::start(config.feed.path.clone()).map(Some)
}

/// Whether the configuration restricts the feed to certain users. If the service manager has opened the feed, its unit does.
fn is_narrowed(feed: &config::Feed) -> bool {
    !(feed.group.is_empty() && feed.allow_users.is_empty() && feed.readers.is_empty())
}

/// Asks the host for what every shard needs: one sentence here is better than an error number from each thread. Returns the
/// limit of descriptors.
fn check_host() -> Result<u64, StartError> {
    Ring::new(64).map_err(|error| StartError::Thread(explain_setup_error(&error)))?;
    Ok(raise_descriptor_limit()?)
}

/// Refuses a limit of descriptors with which the server would be ready and could take no connection.
fn check_descriptors(limit: u64, shards: usize) -> Result<(), StartError> {
    let least = DESCRIPTORS_MIN + DESCRIPTORS_PER_SHARD * shards as u64;
    if limit < least {
        return Err(StartError::Descriptors { limit, least, shards });
    }
    if limit < DESCRIPTORS_LOW {
        let descriptors = limit;
        warn!(descriptors, "each shard can hold about that many connections; raise LimitNOFILE (ulimit -n) for more");
    }
    Ok(())
}

/// What is known before anything is opened.
struct Plan {
    shards: usize,
    /// The core of each shard, if they are pinned.
    cores: Option<Vec<usize>>,
    keyring: Option<Arc<Keyring>>,
    users: FeedUsers,
}

/// The users of the feed, by id.
struct FeedUsers {
    /// Users who may connect; empty for all whom the socket's mode lets in.
    allowed: Vec<u32>,
    /// Users who may connect and only read.
    readers: Vec<u32>,
}

impl Plan {
    fn new(config: &Config) -> Result<Plan, StartError> {
        let cores = affinity::usable_cores();
        let shards = if config.server.shards == 0 { cores.len() } else { config.server.shards };
        let users = FeedUsers {
            allowed: user_ids("allow_users", &config.feed.allow_users)?,
            readers: user_ids("readers", &config.feed.readers)?,
        };
        let cores = (config.server.pin && shards <= cores.len()).then_some(cores);
        Ok(Plan { shards, cores, keyring: keys::load(&config.auth)?, users })
    }
}

/// The ids of users by name or number; `key` is the key that names them.
fn user_ids(key: &'static str, users: &[String]) -> Result<Vec<u32>, StartError> {
    let id = |user: &String| accounts::user_id(user)?.ok_or_else(|| StartError::NoUser(key, user.clone()));
    users.iter().map(id).collect()
}

/// The running hub, and what the main thread has of its queues.
struct Threads {
    to_hub: ToHub,
    hub: JoinHandle<()>,
    drained: Receiver<u64>,
    /// The admin listener's connections to the feed.
    feeds: [UnixStream; 3],
    /// The hub and the shards, for the watch over them.
    watched: Vec<Arc<Watched>>,
    /// The other ends of the shards' mailboxes.
    letters: Vec<Letters>,
    /// The way into the cluster's log, if there is one.
    backplane: Option<Joining>,
}

/// The shards' parts, and where they report that they take clients.
struct Shards {
    parts: Vec<ShardParts>,
    started: Receiver<Result<(), String>>,
}

/// What the shards have for clients.
struct ClientSide {
    /// The listeners of each shard.
    listeners: Vec<Vec<Listener>>,
    admission: Arc<Admission>,
    /// What TLS handshakes are made with.
    tls: Option<Arc<RwLock<TlsSettings>>>,
}

/// Starts the hub, and makes a shard for each list of listeners.
fn start_hub(
    config: &Arc<Config>,
    plan: Plan,
    feed: Option<UnixListener>,
    state: State,
    clients: ClientSide,
    stats: &Arc<Stats>,
    mut taking: Option<&mut Taking>,
) -> Result<(Threads, Shards), StartError> {
    let (to_hub, inbox) = link::to_hub()?;
    let (started_sender, started) = crossbeam_channel::bounded(plan.shards);
    let (mut to_shards, mut shards, mut letters) = (Vec::new(), Vec::new(), Vec::new());
    let available = memory::available();
    for (index, listeners) in clients.listeners.into_iter().enumerate() {
        let (to_shard, from_hub) = link::to_shard(config.limits.queue, inbox.wake.clone())?;
        to_shards.push(to_shard);
        let (mailbox, others) = Mailbox::new()?;
        letters.push(others);
        shards.push(ShardParts {
            index: index as u16,
            core: plan.cores.as_ref().map(|cores| cores[index]),
            config: config.clone(),
            lag_memory: shard::lag_memory(config, available, plan.shards),
            listeners,
            from_hub,
            to_hub: to_hub.clone(),
            admission: clients.admission.clone(),
            figures: stats.shards[index].clone(),
            keyring: plan.keyring.clone(),
            revoked: state.revocations.known().clone(),
            pages: config.demo.then_some(demo::PAGES),
            tls: clients.tls.clone(),
            mailbox: Some(mailbox),
            adopting: taking.as_mut().and_then(|taking| taking.part()),
            started: started_sender.clone(),
        });
    }
    // The shards have the only senders left, so that waiting for them ends when one dies.
    drop(started_sender);
    let (drained_sender, drained) = crossbeam_channel::bounded(1);
    let (ask, asked) = UnixStream::pair()?;
    let (publish, published) = UnixStream::pair()?;
    let (trace, traced) = UnixStream::pair()?;
    let own = vec![asked, published, traced];
    let adopting = taking.and_then(Taking::part);
    let ends = HubEnds { listener: feed, own, inbox, shards: to_shards, drained: drained_sender, available, adopting };
    let State { ids, revocations } = state;
    let (order, backplane) = match config.backplane.kind {
        BackplaneKind::Local => (Order::Local(ids), None),
        _ => {
            let (log, joining) = backplane::join(&config.backplane, &to_hub, stats)?;
            (Order::Log(Box::new(log)), Some(joining))
        }
    };
    let parts = hub_parts(config, plan.users, (order, revocations), stats, ends);
    let watched: Vec<Arc<Watched>> = (0..=shards.len()).map(|_| Arc::default()).collect();
    let hub = spawn("hub", watched[0].clone(), move || hub::run(parts))?;
    let threads = Threads { to_hub, hub, drained, feeds: [ask, publish, trace], watched, letters, backplane };
    Ok((threads, Shards { parts: shards, started }))
}

/// Starts the shards, if they are not started yet, and waits until every one takes clients, or waits for those of a predecessor.
fn start_shards(shards: Option<Shards>, watched: &[Arc<Watched>]) -> Result<(), StartError> {
    let Some(shards) = shards else { return Ok(()) };
    let count = shards.parts.len();
    for (part, watched) in shards.parts.into_iter().zip(watched) {
        spawn(&format!("shard-{}", part.index), watched.clone(), move || shard::run(part))?;
    }
    wait_for_shards(&shards.started, count)
}

/// The hub's ends of its sockets and queues.
struct HubEnds {
    listener: Option<UnixListener>,
    own: Vec<UnixStream>,
    inbox: HubInbox,
    shards: Vec<ToShard>,
    drained: Sender<u64>,
    /// The memory that the process may use, if that is known.
    available: Option<u64>,
    /// The hub's part if it takes a predecessor's over.
    adopting: Option<Adopting>,
}

fn hub_parts(
    config: &Arc<Config>,
    users: FeedUsers,
    (order, revocations): (Order, Revocations),
    stats: &Arc<Stats>,
    ends: HubEnds,
) -> HubParts {
    let policies = config.clone();
    HubParts {
        listener: ends.listener,
        adopting: ends.adopting,
        own: ends.own,
        allowed_users: users.allowed,
        readers: users.readers,
        max_line: config.feed.max_line,
        publishers_max: config.feed.max_connections,
        channels_max: config.limits.channels,
        followed_max: config.limits.followed_channels,
        memory_max: hub::memory_max(&config.limits, ends.available),
        ask_timeout: config.auth.ask_timeout,
        log_lines_per_second: config.log.connections_per_second,
        idempotency_window: config.feed.idempotency_window,
        idempotency_keys: config.feed.idempotency_keys,
        history: Box::new(move |channel| policies.namespace(channel).history()),
        order,
        revocations,
        inbox: ends.inbox,
        shards: ends.shards,
        stats: stats.clone(),
        drained: ends.drained,
    }
}

/// Starts a thread that the server cannot be without: if the thread fails, the process ends.
fn spawn(
    name: &str,
    watched: Arc<Watched>,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let label = name.to_string();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        watched.begin();
        if let Err(error) = run() {
            error!(thread = label, %error, "a thread cannot go on; the server ends");
            std::process::exit(1);
        }
        watched.end();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_leaves_no_descriptor_for_clients_is_refused() {
        assert!(check_descriptors(200, 1).is_ok() && check_descriptors(1 << 20, 1024).is_ok());
        for (limit, shards) in [(0, 1), (130, 1), (199, 1), (1024, 128)] {
            let error = check_descriptors(limit, shards).unwrap_err().to_string();
            assert!(error.contains(&format!("is {limit}")) && error.contains("LimitNOFILE"), "{error}");
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(user_ids("readers", &["root".into(), "7".into()]).unwrap(), [0, 7]);
        assert!(matches!(user_ids("readers", &["no such user".into()]), Err(StartError::NoUser("readers", _))));
    }
}
