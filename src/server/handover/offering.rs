//! The running server's side: it waits for a successor, pauses, has every thread send its part, and ends.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tracing::{info, warn};

use crate::config::{BackplaneKind, Config};
use crate::figures::{ServerFigures, Stats};
use crate::link::handover::{HandoverError, HubParting, Letters, Moved, Part, Verdict};
use crate::link::{HubMessage, ToHub};
use crate::logic::handover::words::{FEATURES, FORMAT, Hello, LetGo, Offer, Wish, Word};
use crate::sys::socket::{self, SocketFile};
use crate::sys::{process, rights};

use super::super::{logging, service};
use super::{WORD_MAX, addresses_of, hear, hear_within, hello, left_until, meeting_path, parking, say, state_dir_of};

/// The longest time for which clients and publishers wait for a successor that does not come to its end.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The time in which a successor must have its threads.
const READY_MAX: Duration = Duration::from_secs(60);
/// The time in which the histories must be sent ahead, while everybody is served.
const AHEAD_MAX: Duration = Duration::from_secs(120);
/// The interval at which the threads' reports are looked at while the successor is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What the running server hands over beside what its hub and shards have, and what it says about itself.
pub(in crate::server) struct Offering {
    pub(in crate::server) config: Arc<Config>,
    pub(in crate::server) stats: Arc<Stats>,
    pub(in crate::server) to_hub: ToHub,
    /// The other ends of the shards' mailboxes.
    pub(in crate::server) letters: Vec<Letters>,
    /// The state's locks.
    pub(in crate::server) locks: Vec<OwnedFd>,
    /// The admin listener, if there is one.
    pub(in crate::server) admin: Option<OwnedFd>,
    /// Whether the feed's file is the server's own.
    pub(in crate::server) has_feed_file: bool,
    /// The TCP addresses of clients' listeners, and those of the ones for TLS.
    pub(in crate::server) addresses: [Vec<SocketAddr>; 2],
}

/// Everything that the thread of one conversation needs.
struct Meeting {
    offering: Offering,
    listener: OwnedFd,
    is_busy: AtomicBool,
    /// The number of attempts so far.
    attempts: AtomicU64,
}

/// Waits for successors from now on, in a thread of its own. `listener` is a predecessor's socket for that, if there was one. The
/// file is removed when what is returned is dropped; `None` if successors cannot come here.
///
/// # Errors
/// If the thread cannot be started.
pub(in crate::server) fn offer(offering: Offering, listener: Option<OwnedFd>) -> io::Result<Option<SocketFile>> {
    let path = meeting_path(&offering.config.feed.path);
    let listener = match listener.map_or_else(|| rights::listen(&path), Ok) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(path = %path.display(), %error, "a successor cannot take over: there is no socket for that");
            return Ok(None);
        }
    };
    let file = SocketFile::at(&path)?;
    let meeting =
        Arc::new(Meeting { offering, listener, is_busy: AtomicBool::new(false), attempts: AtomicU64::new(0) });
    std::thread::Builder::new().name("handover".into()).spawn(move || {
        loop {
            match rights::accept(meeting.listener.as_fd()) {
                Ok(connection) => meet(&meeting, connection),
                Err(error) => {
                    warn!(%error, "a successor cannot be accepted");
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    })?;
    Ok(Some(file))
}

/// Talks with one process, in a thread of its own.
fn meet(meeting: &Arc<Meeting>, connection: OwnedFd) {
    let meeting = meeting.clone();
    let talk = move || {
        if let Err(reason) = meeting.talk(connection.as_fd()) {
            // A process that has gone need not know why.
            let _ = say(connection.as_fd(), &Word::Refused { reason }, &[]);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("successor".into()).spawn(talk) {
        warn!(%error, "a successor cannot be talked with");
    }
}

/// One attempt to hand over.
struct Attempt {
    /// This process's ends of the sockets for the records, by which a thread that is sending is stopped.
    ends: Vec<OwnedFd>,
    verdicts: Vec<Sender<Verdict>>,
    reports: Receiver<Result<Moved, HandoverError>>,
    /// Told when the pause begins.
    begins: Receiver<Result<(), HandoverError>>,
}

impl Meeting {
    /// Answers a process that has connected. An error is the sentence with which it is refused.
    fn talk(&self, connection: BorrowedFd<'_>) -> Result<(), String> {
        rights::set_patience(connection, WORD_MAX).map_err(|error| error.to_string())?;
        let peer = socket::peer(connection).map_err(|error| error.to_string())?;
        let own = rights::own_user();
        let hello = match hear(connection) {
            Ok((Word::Hello(hello), _)) => hello,
            _ => return Err("the first word makes no sense".into()),
        };
        // The step before a restart runs as root, because no other user may ask the service manager.
        let may = peer.uid == own || peer.uid == 0 && hello.wish != Wish::TakeOver;
        if !may {
            return Err(format!("this server runs as user {own}, and only that user may take it over"));
        }
        self.refuse(&hello)?;
        if hello.wish == Wish::Probe {
            return say(connection, &self.answer(), &[]).map_err(|error| error.to_string());
        }
        if self.is_busy.swap(true, Ordering::SeqCst) {
            return Err("busy: another process is taking this server over".into());
        }
        info!(pid = peer.pid, version = hello.version, wish = ?hello.wish, "a successor has come");
        let failed = match hello.wish {
            Wish::Park => self.park().unwrap_or_else(|error| error.to_string()),
            _ => self.hand_over(connection, peer.pid),
        };
        self.is_busy.store(false, Ordering::SeqCst);
        ServerFigures::add(&self.offering.stats.server.handover_failures, 1);
        warn!(reason = failed, "the hand-over has failed, and this server goes on");
        Err(failed)
    }

    /// The reason why there is no hand-over, if there is one.
    fn refuse(&self, hello: &Hello) -> Result<(), String> {
        let Offering { config, stats, .. } = &self.offering;
        if config.backplane.kind != BackplaneKind::Local {
            return Err("a node of a cluster ([backplane]) cannot be handed over yet; restart it".into());
        }
        if stats.state.is_leaving() || stats.state.is_paused() {
            return Err("the server is letting its clients go".into());
        }
        if hello.format != FORMAT {
            return Err(format!("the versions do not understand each other: format {} is not {FORMAT}", hello.format));
        }
        if hello.wish != Wish::TakeOver {
            return Ok(());
        }
        let shards = stats.shards.len();
        if hello.shards != shards {
            return Err(format!(
                "the successor has {} shards and this server {shards}: they must be as many",
                hello.shards
            ));
        }
        let addresses = addresses_of(config);
        if hello.listen != addresses {
            let (theirs, ours) = (hello.listen.join(", "), addresses.join(", "));
            return Err(format!("the successor would listen on {theirs}, and this server listens on {ours}"));
        }
        let folder = state_dir_of(config);
        if hello.state_dir != folder {
            return Err(format!("the successor's state_dir is {}, and this server's is {folder}", hello.state_dir));
        }
        Ok(())
    }

    /// What this server says about itself.
    fn answer(&self) -> Word {
        let Offering { stats, has_feed_file, addresses: [addresses, tls_addresses], .. } = &self.offering;
        let counters = stats.shards.iter().map(|shard| &shard.counters);
        let handshakes = counters.clone().map(|shard| shard.tls_handshakes_open.load(Ordering::Relaxed)).sum();
        let carried = counters
            .map(|shard| shard.h2_connections.load(Ordering::Relaxed) + shard.h2_streams.load(Ordering::Relaxed))
            .sum();
        let let_go = [("tls_handshake", handshakes), ("http2", carried)];
        let let_go = let_go.map(|(reason, connections)| LetGo { reason: reason.into(), connections });
        let texts = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect();
        Word::Offer(Box::new(Offer {
            format: FORMAT,
            features: FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            shards: stats.shards.len(),
            connections: stats.state.connections() as u64,
            publishers: stats.hub.publishers.load(Ordering::Relaxed),
            history_bytes: stats.hub.history_bytes.load(Ordering::Relaxed),
            pause_max_ms: PAUSE_MAX.as_millis() as u64,
            let_go: let_go.into_iter().filter(|some| some.connections > 0).collect(),
            has_feed_file: *has_feed_file,
            notify_socket: std::env::var("NOTIFY_SOCKET").ok(),
            watchdog_us: service::watchdog().map(|limit| limit.as_micros() as u64),
            addresses: texts(addresses),
            tls_addresses: texts(tls_addresses),
        }))
    }

    /// Hands everything over, and ends the process; returns the sentence why that has failed.
    fn hand_over(&self, connection: BorrowedFd<'_>, pid: i32) -> String {
        let ends = match self.prepare(connection) {
            Ok(ends) => ends,
            Err(error) => return format!("the successor was not ready: {error}"),
        };
        let attempt = match self.begin(ends) {
            Ok(attempt) => attempt,
            Err(error) => return format!("the hand-over cannot begin: {error}"),
        };
        let begun = self.await_pause(connection, &attempt);
        let ended = begun.and_then(|(begun, is_prepared)| {
            Ok((self.await_prepared(connection, &attempt, begun + PAUSE_MAX, is_prepared)?, begun))
        });
        let gone = ended.and_then(|(moved, begun)| {
            let pause_ms = begun.elapsed().as_millis() as u64;
            let said = say(connection, &Word::Go { pause_ms, left: moved.left }, &[]);
            said.map(|()| (moved, pause_ms)).map_err(|error| format!("the successor has gone: {error}"))
        });
        match gone {
            Ok((moved, pause_ms)) => {
                attempt.decide(Verdict::Go);
                info!(
                    connections = moved.connections,
                    left = moved.left,
                    pause_ms,
                    "everything is handed over; this server ends"
                );
                // Otherwise the manager would take the end of this process for the end of the service.
                if pid != rights::own_process() {
                    service::pass_on(pid);
                }
                logging::write_last_lines();
                process::end_at_once(0)
            }
            Err(reason) => {
                attempt.decide(Verdict::Back);
                attempt.ends.iter().for_each(|end| socket::shutdown(end.as_fd()));
                reason
            }
        }
    }

    /// Hands everything over to a thread of this process, which gives it to the service manager.
    fn park(&self) -> io::Result<String> {
        if !service::has_manager() {
            return Ok("no service manager could keep the connections".into());
        }
        let (connection, theirs) = rights::pair()?;
        rights::set_patience(connection.as_fd(), WORD_MAX)?;
        let config = &self.offering.config;
        let hello = hello(Wish::TakeOver, self.offering.letters.len(), addresses_of(config), state_dir_of(config));
        std::thread::Builder::new().name("parking".into()).spawn(move || parking::park(theirs, hello))?;
        Ok(self.hand_over(connection.as_fd(), rights::own_process()))
    }

    /// Gives the successor what its threads need, and waits until they are there. Returns this process's ends of the sockets for the
    /// records: one for each shard, and then the hub's.
    fn prepare(&self, connection: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
        let Offering { letters, locks, admin, .. } = &self.offering;
        say(connection, &self.answer(), &[])?;
        let pairs = (0..=letters.len()).map(|_| rights::pair()).collect::<io::Result<Vec<_>>>()?;
        let (ends, theirs): (Vec<OwnedFd>, Vec<OwnedFd>) = pairs.into_iter().unzip();
        let theirs: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        for some in theirs.chunks(rights::RIGHTS_MAX) {
            say(connection, &Word::Carriers, some)?;
        }
        let mut files = vec![self.listener.as_fd()];
        files.extend(locks.iter().chain(admin).map(AsFd::as_fd));
        say(connection, &Word::Files { has_admin: admin.is_some() }, &files)?;
        match hear_within(connection, READY_MAX)? {
            Some((Word::Ready, _)) => Ok(ends),
            Some((Word::Refused { reason }, _)) => Err(io::Error::other(reason)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Has the hub and the shards begin.
    fn begin(&self, ends: Vec<OwnedFd>) -> io::Result<Attempt> {
        let number = self.attempts.fetch_add(1, Ordering::SeqCst) + 1;
        let (report, reports) = crossbeam_channel::unbounded();
        let (mut verdicts, mut parts) = (Vec::new(), Vec::new());
        for _ in &ends {
            let (decide, verdict) = crossbeam_channel::unbounded();
            verdicts.push(decide);
            parts.push(Part { number, report: report.clone(), verdict });
        }
        let (begin, begins) = crossbeam_channel::bounded(1);
        let attempt = Attempt { ends, verdicts, reports, begins };
        let (Some(part), Some(end)) = (parts.pop(), attempt.ends.last()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let carrier = end.try_clone()?;
        for (letter, end) in self.offering.letters.iter().zip(&attempt.ends) {
            letter.send(number, end)?;
        }
        self.offering.to_hub.send(HubMessage::HandOver(Box::new(HubParting {
            carrier,
            part,
            begins: begin,
            shards: parts,
        })));
        self.offering.to_hub.ring();
        Ok(attempt)
    }

    /// Waits until the histories are sent ahead, while everybody is served; returns the time at which the pause has begun.
    /// With it comes whether the successor is prepared already.
    fn await_pause(&self, connection: BorrowedFd<'_>, attempt: &Attempt) -> Result<(Instant, bool), String> {
        let deadline = Instant::now() + AHEAD_MAX;
        loop {
            match attempt.begins.try_recv() {
                Ok(Ok(())) => return Ok((Instant::now(), false)),
                Ok(Err(error)) => return Err(error.to_string()),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Err("the hub has ended the hand-over".into()),
            }
            if left_until(deadline).is_zero() {
                return Err("the histories are too long to be sent".into());
            }
            // A short pause may be over within this look.
            if self.look(connection)? {
                return Ok((Instant::now(), true));
            }
        }
    }

    /// Looks whether the successor has said something, or this server is told to end; returns whether the successor is prepared.
    fn look(&self, connection: BorrowedFd<'_>) -> Result<bool, String> {
        if self.offering.stats.state.is_leaving() {
            return Err("this server was told to end".into());
        }
        match hear_within(connection, LOOK_EVERY) {
            Ok(None) => Ok(false),
            Ok(Some((Word::Prepared, _))) => Ok(true),
            Ok(Some((Word::Refused { reason }, _))) => Err(reason),
            Ok(Some(_)) => Err("the successor's word makes no sense".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until every thread has sent its part and the successor has everything.
    fn await_prepared(
        &self,
        connection: BorrowedFd<'_>,
        attempt: &Attempt,
        deadline: Instant,
        mut is_prepared: bool,
    ) -> Result<Moved, String> {
        let mut missing = attempt.ends.len();
        let mut moved = Moved::default();
        while missing > 0 || !is_prepared {
            while let Ok(report) = attempt.reports.try_recv() {
                let one = report.map_err(|error| error.to_string())?;
                missing -= 1;
                moved.connections += one.connections;
                moved.left += one.left;
            }
            if left_until(deadline).is_zero() {
                return Err(format!("it took longer than {} s", PAUSE_MAX.as_secs()));
            }
            is_prepared |= self.look(connection)?;
        }
        Ok(moved)
    }
}

impl Attempt {
    /// Tells every thread the decision.
    fn decide(&self, verdict: Verdict) {
        for thread in &self.verdicts {
            let _ = thread.send(verdict);
        }
    }
}
