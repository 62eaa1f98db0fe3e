//! The feed's new connections: how many there may be, and the descriptors that are kept for everything else.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::logic::protocol::feed::{FeedError, write_error};
use crate::sys::socket;

use super::super::roles::Role;
use super::super::watch::Want;
use super::{Core, HubFigures, Ports};

/// The most connections that one turn accepts.
const ACCEPTS_MAX: usize = 64;
/// Time before the kernel is asked again for a connection that it could not give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Descriptors that the feed's connections leave to the admin listener and to reading the host's figures.
const DESCRIPTORS_KEPT: u64 = 48;
/// Ticks of the budget of log lines in a second.
pub(in crate::hub) const LOG_TICKS_PER_SECOND: u32 = 10;

/// Whether connections wait to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    /// No connection waits, as far as is known: the driver watches the listener.
    Awaited,
    /// Connections may wait.
    Ready,
    /// The kernel could not give a connection, and is not asked again before this time.
    Paused(Instant),
}

impl Core {
    /// Accepts connections, unless none waits or the kernel was out of resources a moment ago.
    pub(super) fn accept(&mut self, ports: &Ports) {
        match self.accepting {
            Accepting::Paused(until) if until <= self.now.instant => {}
            Accepting::Ready => {}
            Accepting::Awaited | Accepting::Paused(_) => return,
        }
        self.accepting = Accepting::Ready;
        self.unwatched = 0;
        for _ in 0..ACCEPTS_MAX {
            match socket::accept(ports.listener.as_fd()) {
                Ok(Some((socket, _))) => self.welcome(socket),
                Ok(None) => {
                    self.accepting = Accepting::Awaited;
                    self.wants.push(Want::Listener);
                    return;
                }
                // The connection has gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if self.may_log() {
                        warn!(%error, "a publisher cannot be accepted");
                    }
                    self.accepting = Accepting::Paused(self.now.instant + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Admits an accepted connection as a publisher, or sends it the reason why not.
    fn welcome(&mut self, socket: OwnedFd) {
        let peer = match socket::peer(socket.as_fd()) {
            Ok(peer) => peer,
            Err(error) => {
                debug!(%error, "a publisher's connection broke");
                return;
            }
        };
        let Some(role) = self.admission.role(peer.uid) else {
            let message = format!("user {} may not publish here; see [feed] allow_users", peer.uid);
            return self.refuse(&socket, &peer, &FeedError::new("forbidden", message));
        };
        if self.publishers.len() >= self.admission.publishers_max {
            let message = "the feed has as many connections as [feed] max_connections allows";
            return self.refuse(&socket, &peer, &FeedError::new("full", message));
        }
        // The kernel gives the lowest free number, so every number below is taken. Each new connection will need a copy for
        // watching it, and each connection another one when its socket is full.
        let below: u64 = socket.as_raw_fd().unsigned_abs().into();
        let needed = self.unwatched + 1 + self.publishers.len() as u64 + 1;
        if self.admission.descriptors_max.saturating_sub(below) < DESCRIPTORS_KEPT + needed {
            let message = "the server has no descriptors left for the feed; raise LimitNOFILE (ulimit -n)";
            return self.refuse(&socket, &peer, &FeedError::new("full", message));
        }
        if self.may_log() {
            info!(pid = peer.pid, uid = peer.uid, gid = peer.gid, "publisher connected");
        }
        HubFigures::add(&self.figures.publishers, 1);
        self.unwatched += 1;
        self.publishers.open(socket, role, &mut self.wants);
    }

    /// Tells a new connection why it is refused, and closes it.
    fn refuse(&mut self, socket: &OwnedFd, peer: &socket::Peer, error: &FeedError) {
        HubFigures::add(&self.figures.publishers_refused, 1);
        if self.may_log() {
            warn!(pid = peer.pid, uid = peer.uid, reason = error.message, "publisher refused");
        }
        let mut line = Vec::new();
        write_error(&mut line, None, error);
        // A new socket has room for one line, and a peer that has gone needs no reason.
        let _ = socket::send(socket.as_fd(), &line);
    }

    /// Admits a connection of the server's own as a publisher.
    pub(in crate::hub) fn open_own(&mut self, socket: OwnedFd) {
        self.publishers.open(socket, Role::Own, &mut self.wants);
    }

    /// Takes one line off the budget of log lines about publishers; returns whether one was left.
    pub(super) fn may_log(&mut self) -> bool {
        let may = self.log_lines.take(self.log_tick());
        if !may {
            HubFigures::add(&self.figures.lines_suppressed, 1);
        }
        may
    }

    /// Logs how many lines were left out in the seconds that are over.
    pub(super) fn report_left_out_lines(&mut self) {
        let left_out = self.log_lines.left_out(self.log_tick());
        if left_out > 0 {
            info!(lines = left_out, "lines about publishers were left out");
        }
    }

    fn log_tick(&self) -> u32 {
        (self.now.steady_ms * u64::from(LOG_TICKS_PER_SECOND) / 1000) as u32
    }
}
