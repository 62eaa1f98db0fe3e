//! The successor's side: it asks the running server, has its own threads take everything, and begins when it is told so.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tracing::info;

use crate::config::{BackplaneKind, Config};
use crate::figures::ServerFigures;
use crate::link::handover::{Adopting, HandoverError, Moved, Part, Verdict};
use crate::logic::handover::words::{Offer, Wish, Word};
use crate::sys::clock::unix_ms;
use crate::sys::{rights, socket};

use super::super::StartError;
use super::parking::Parked;
use super::{WORD_MAX, addresses_of, has_admin, hear, hear_within, hello, meeting_path, no_server, say, state_dir_of};

/// The longest time that the running server may take to send everything: much longer than it gives itself.
const TAKE_MAX: Duration = Duration::from_secs(300);
/// The interval at which it is looked whether the running server has given up.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A hand-over in which this process is the successor.
pub(in crate::server) struct Taking {
    connection: OwnedFd,
    begun: Instant,
    /// What the running server says about itself.
    pub(in crate::server) offer: Offer,
    /// The sockets for the records that no thread has yet: one for each shard, and then the hub's.
    carriers: std::vec::IntoIter<OwnedFd>,
    verdicts: Vec<Sender<Verdict>>,
    report: Sender<Result<Moved, HandoverError>>,
    reports: Receiver<Result<Moved, HandoverError>>,
    /// The socket at which successors meet this server.
    pub(in crate::server) meeting: Option<OwnedFd>,
    /// The names of what the service manager has kept, if it was that.
    pub(in crate::server) kept: Vec<String>,
    /// The state's locks.
    pub(in crate::server) locks: Vec<OwnedFd>,
    /// The admin listener, if there is one.
    pub(in crate::server) admin: Option<TcpListener>,
}

impl Taking {
    /// Asks the running server to hand over to this process with `shards` shards.
    ///
    /// # Errors
    /// If there is none, or it refuses.
    pub(in crate::server) fn begin(config: &Config, shards: usize) -> Result<Taking, StartError> {
        if config.backplane.kind != BackplaneKind::Local {
            return Err(failed("a node of a cluster ([backplane]) cannot take over yet; restart the server"));
        }
        let path = meeting_path(&config.feed.path);
        let connection = rights::connect(&path).map_err(|error| failed(no_server(&path, &error)))?;
        Taking::begin_at(connection, config, shards)
    }

    /// Takes what an earlier process has left with the service manager.
    ///
    /// # Errors
    /// If this process cannot have it.
    pub(in crate::server) fn begin_parked(
        parked: Parked,
        config: &Config,
        shards: usize,
    ) -> Result<Taking, StartError> {
        Taking::begin_at(parked.serve(config)?, config, shards)
    }

    fn begin_at(connection: OwnedFd, config: &Config, shards: usize) -> Result<Taking, StartError> {
        let lost = |error: std::io::Error| failed(format!("the running server does not answer: {error}"));
        rights::set_patience(connection.as_fd(), WORD_MAX).map_err(lost)?;
        let (user, own) = (socket::peer(connection.as_fd()).map_err(lost)?.uid, rights::own_user());
        if user != own {
            return Err(failed(format!("the running server's user is {user}, and this process's {own}")));
        }
        let hello = hello(Wish::TakeOver, shards, addresses_of(config), state_dir_of(config));
        say(connection.as_fd(), &Word::Hello(hello), &[]).map_err(lost)?;
        let (mut offer, mut carriers) = (None, Vec::new());
        let (has_admin, mut files) = loop {
            match hear(connection.as_fd()).map_err(lost)? {
                (Word::Offer(said), _) => offer = Some(*said),
                (Word::Carriers, some) => carriers.extend(some),
                (Word::Files { has_admin }, files) => break (has_admin, files),
                (Word::Refused { reason }, _) => return Err(failed(reason)),
                _ => return Err(failed("the running server's answer makes no sense")),
            }
        };
        let Some(offer) = offer.filter(|_| carriers.len() == shards + 1 && files.len() > usize::from(has_admin)) else {
            return Err(failed("the running server has not sent all that it must"));
        };
        let admin = if has_admin { files.pop().map(TcpListener::from) } else { None };
        let meeting = Some(files.remove(0));
        let (report, reports) = crossbeam_channel::unbounded();
        let (carriers, verdicts, begun) = (carriers.into_iter(), Vec::new(), Instant::now());
        let (kept, locks) = (Vec::new(), files);
        Ok(Taking { connection, begun, offer, carriers, verdicts, report, reports, meeting, kept, locks, admin })
    }

    /// The part of the next thread: of each shard in its order, and then of the hub.
    pub(in crate::server) fn part(&mut self) -> Option<Adopting> {
        let carrier = self.carriers.next()?;
        let (decide, verdict) = crossbeam_channel::unbounded();
        self.verdicts.push(decide);
        let part = Part { number: 0, report: self.report.clone(), verdict };
        Some(Adopting { carrier, part })
    }

    /// The running server's admin listener, if this configuration has one too.
    pub(in crate::server) fn admin(&mut self, config: &Config) -> Option<TcpListener> {
        self.admin.take().filter(|_| has_admin(config))
    }

    /// The TCP addresses of the clients' listeners, and those of the ones for TLS.
    pub(in crate::server) fn addresses(&self) -> [Vec<SocketAddr>; 2] {
        let read = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        [read(&self.offer.addresses), read(&self.offer.tls_addresses)]
    }

    /// Has the threads take everything, up to the running server's decision. Afterwards that server has ended.
    ///
    /// # Errors
    /// If something fails before the decision: then the running server goes on, and this process must end.
    pub(in crate::server) fn take(&mut self, figures: &ServerFigures) -> Result<(), StartError> {
        let taken = self.take_all();
        self.decide(if taken.is_ok() { Verdict::Go } else { Verdict::Back });
        match taken {
            Ok((Moved { connections, left }, pause_ms)) => {
                let version = &self.offer.version;
                info!(connections, left, from = self.offer.pid, version, pause_ms, "everything is taken over");
                ServerFigures::set(&figures.handover_connections, connections);
                ServerFigures::set(&figures.handover_let_go, left);
                ServerFigures::set(&figures.handover_pause_ms, pause_ms);
                ServerFigures::set(&figures.handover_at_seconds, unix_ms() / 1000);
                Ok(())
            }
            Err(reason) => {
                // The running server says the same in its log.
                let _ = say(self.connection.as_fd(), &Word::Refused { reason: reason.clone() }, &[]);
                Err(failed(reason))
            }
        }
    }

    /// Waits until the running server has ended: until then the service manager takes no word of this process.
    pub(in crate::server) fn await_end(&self) {
        // The other process says nothing any more, so what comes is its end.
        let _ = hear_within(self.connection.as_fd(), WORD_MAX);
    }

    fn take_all(&mut self) -> Result<(Moved, u64), String> {
        let lost = |error: std::io::Error| error.to_string();
        say(self.connection.as_fd(), &Word::Ready, &[]).map_err(lost)?;
        let mut moved = Moved::default();
        for _ in 0..self.verdicts.len() {
            moved.connections += self.await_report()?.connections;
        }
        // The shards have said which channels they follow; the hub must have heard it before the first event.
        if let Some(hub) = self.verdicts.last() {
            let _ = hub.send(Verdict::Settle);
        }
        self.await_report()?;
        say(self.connection.as_fd(), &Word::Prepared, &[]).map_err(lost)?;
        match hear_within(self.connection.as_fd(), TAKE_MAX).map_err(lost)? {
            Some((Word::Go { pause_ms, left }, _)) => Ok((Moved { left, ..moved }, pause_ms)),
            Some((Word::Refused { reason }, _)) => Err(reason),
            Some(_) => Err("the running server's word makes no sense".into()),
            None => Err("the running server does not decide".into()),
        }
    }

    /// Waits for one thread's report, or for the running server's word that it has given up.
    fn await_report(&self) -> Result<Moved, String> {
        let deadline = self.begun + TAKE_MAX;
        loop {
            let report = self.reports.recv_timeout(LOOK_EVERY).ok();
            let given_up = match report {
                Some(Ok(moved)) => return Ok(moved),
                Some(Err(error)) => Some(error.to_string()),
                None if Instant::now() >= deadline => Some("the running server sends nothing".into()),
                None => None,
            };
            // The running server's reason comes before its consequences.
            match hear_within(self.connection.as_fd(), LOOK_EVERY) {
                Ok(None) => {}
                Ok(Some((Word::Refused { reason }, _))) => return Err(reason),
                Ok(Some(_)) => return Err("the running server's word makes no sense".into()),
                Err(error) => return Err(error.to_string()),
            }
            if let Some(reason) = given_up {
                return Err(reason);
            }
        }
    }

    fn decide(&self, verdict: Verdict) {
        for thread in &self.verdicts {
            let _ = thread.send(verdict);
        }
    }
}

fn failed(reason: impl Into<String>) -> StartError {
    StartError::TakeOver(reason.into())
}
