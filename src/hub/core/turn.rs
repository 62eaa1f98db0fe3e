//! The hub's turn: one pass over everything that waits for the hub.
//!
//! A turn has stages in a fixed order: it accepts connections and reads publishers, hears the shards' messages, carries out
//! publishers' lines, sends answers, and once a second sweeps. Each stage has a budget in work and in time, so that none
//! keeps the others waiting. Work that is left makes another turn follow at once. Nothing in a turn blocks.
//!
//! Two promises rest on the order. A shard's `Follow` is heard before the lines of a publisher that may know of it. And
//! the events of a line are in the shards' queues before the line's answer is sent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::link::HubInbox;
use crate::logic::protocol::feed::{FeedError, Line, parse, write_error};
use crate::sys::{memory, socket};

use super::super::publishers::{Left, Received, Role, Sent, Stopped, Work};
use super::super::watch::{Mark, Next, Want};
use super::budget::Budget;
use super::{Core, HubFigures, hear};

/// The most connections that one turn accepts.
const ACCEPTS_MAX: usize = 64;
/// The most publishers that one turn reads.
const READS_MAX: usize = 32;
/// Work of one turn on the shards' messages, by [`hear::cost`].
const HEARD_MAX: usize = 10_000;
/// Work of one turn on publishers' lines, by [`line_cost`].
const LINES_MAX: usize = 10_000;
/// The most publishers that one turn sends to.
const SENDS_MAX: usize = 256;
/// Time that hearing, carrying out lines, and sending may take in one turn, each.
const STAGE_MAX: Duration = Duration::from_millis(1);

/// Lines of one publisher that are carried out before those of others.
const SLICE_LINES: usize = 256;
/// Lines that are carried out before the shards get their events.
const FLUSH_LINES: usize = 256;
/// Time before the kernel is asked again for a connection that it could not give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The longest time between two turns: an idle hub can be told from one that stands still.
const TURN_EVERY: Duration = Duration::from_millis(200);

/// The hub's inputs besides its publishers, and its output to the server.
pub(in crate::hub) struct Ports {
    /// The feed's listener.
    pub(in crate::hub) listener: UnixListener,
    /// The queue from the shards.
    pub(in crate::hub) inbox: HubInbox,
    /// The channel to the server, which waits until the shards have let their clients go.
    pub(in crate::hub) drained: crossbeam_channel::Sender<u64>,
}

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
    /// One turn: takes the driver's marks, goes through all stages, and leaves wants for the driver in `wants`.
    pub(in crate::hub) fn turn(&mut self, ports: &Ports, marks: &mut Vec<Mark>) -> Next {
        self.now = (self.clock)();
        HubFigures::add(&self.figures.rounds, 1);
        self.take_marks(ports, marks);
        self.accept(ports);
        self.read_publishers(&ports.inbox);
        self.hear_shards(ports);
        if self.is_stopped {
            self.flush();
            return Next::Stop;
        }
        self.carry_out_lines();
        self.flush();
        self.send();
        if self.now.instant >= self.sweep_at {
            self.sweep();
        }
        // Messages that were sent are off the shards' accounts, and shards must know of listeners that have gone.
        self.flush();
        self.next()
    }

    /// Takes over the driver's marks, and ends the wait of questions whose time is up.
    fn take_marks(&mut self, ports: &Ports, marks: &mut Vec<Mark>) {
        for mark in marks.drain(..) {
            match mark {
                Mark::Inbox => {
                    ports.inbox.wake.clear();
                    self.wants.push(Want::Inbox);
                }
                Mark::Listener => self.accepting = Accepting::Ready,
                Mark::Tick => self.tick_at = None,
                Mark::Readable(number) => self.publishers.mark_readable(number),
                Mark::Writable(number) => self.publishers.mark_writable(number),
                Mark::Broken(number) => {
                    warn!("a publisher cannot be watched");
                    self.close(number);
                }
            }
        }
        while let Some(asker) = self.questions.expire(self.now.instant) {
            self.publishers.mark_unsent(asker);
        }
    }

    /// Accepts connections, unless none waits or the kernel was out of resources a moment ago.
    fn accept(&mut self, ports: &Ports) {
        match self.accepting {
            Accepting::Paused(until) if until <= self.now.instant => {}
            Accepting::Ready => {}
            Accepting::Awaited | Accepting::Paused(_) => return,
        }
        self.accepting = Accepting::Ready;
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
                    warn!(%error, "a publisher cannot be accepted");
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
        info!(pid = peer.pid, uid = peer.uid, gid = peer.gid, "publisher connected");
        let Some(role) = self.admission.role(peer.uid) else {
            let message = format!("user {} may not publish here; see [feed] allow_users", peer.uid);
            let mut line = Vec::new();
            write_error(&mut line, None, &FeedError::new("forbidden", message));
            // A new socket has room for one line, and a peer that has gone needs no reason.
            let _ = socket::send(socket.as_fd(), &line);
            return;
        };
        HubFigures::add(&self.figures.publishers, 1);
        self.publishers.open(socket, role, &mut self.wants);
    }

    /// Admits a connection of the server's own as a publisher.
    pub(in crate::hub) fn open_own(&mut self, socket: OwnedFd) {
        self.publishers.open(socket, Role::Own, &mut self.wants);
    }

    /// Reads publishers that the driver has marked, and those whose last read was a full one.
    fn read_publishers(&mut self, inbox: &HubInbox) {
        for _ in 0..READS_MAX {
            let due = || self.heard + inbox.waiting() as u64;
            match self.publishers.receive(due, &mut self.wants) {
                None => return,
                Some(Received::Open) => {}
                Some(Received::Ended(number)) => self.end_input(number),
                Some(Received::Broken(number, error)) => {
                    debug!(%error, "a publisher's connection broke");
                    self.close(number);
                }
            }
        }
    }

    /// Ends the input of a publisher that has sent its last byte. It is closed once it has its answers.
    fn end_input(&mut self, number: usize) {
        self.stop_telling(number);
        if self.publishers.end_input(number, |owed| self.accounts.release(owed)) {
            let error = FeedError::new("cut", "the connection ended within a line, which was not carried out");
            HubFigures::add(&self.figures.feed_errors, 1);
            if let Some(answers) = self.publishers.answers(number) {
                write_error(answers.tail(), None, &error);
            }
        }
    }

    /// Hears messages of the shards, and tells the server when all shards have let their clients go.
    fn hear_shards(&mut self, ports: &Ports) {
        let drained_before = self.drained;
        let mut budget = self.begin_stage(HEARD_MAX);
        self.is_hearing = true;
        while !budget.is_spent() {
            let Some(message) = ports.inbox.next() else {
                self.is_hearing = false;
                break;
            };
            self.heard += 1;
            let cost = hear::cost(&message);
            self.hear(message, self.now.unix_ms);
            budget.spend(cost, &self.clock, &mut self.now);
        }
        if self.drained == self.shards.len() && drained_before < self.drained {
            let _ = ports.drained.send(self.cut);
        }
    }

    /// Carries out lines of publishers, a slice of each in turn.
    fn carry_out_lines(&mut self) {
        let mut budget = self.begin_stage(LINES_MAX);
        while !budget.is_spent() && !self.hold_back_for_room() {
            // An empty queue from the shards holds no message that a line would have to wait for.
            let heard = if self.is_hearing { self.heard } else { u64::MAX };
            let Some(mut work) = self.publishers.next_work(heard) else { return };
            let stopped = self.carry_out(&mut work, &mut budget);
            self.publishers.give_back(work, stopped, &mut self.wants);
            if self.unflushed_lines >= FLUSH_LINES {
                self.flush();
            }
        }
    }

    /// Carries out a slice of one publisher's lines.
    fn carry_out(&mut self, work: &mut Work, budget: &mut Budget) -> Stopped {
        for _ in 0..SLICE_LINES {
            if work.answers.is_full() {
                return Stopped::Full;
            }
            if budget.is_spent() {
                return Stopped::Paused;
            }
            let Some(line) = work.lines.next_line() else { return Stopped::Done };
            budget.spend(line_cost(&line), &self.clock, &mut self.now);
            self.unflushed_lines += 1;
            let (reference, result) = match line {
                Line::TooLong => {
                    let max = self.publishers.line_bytes_max();
                    let message = format!("the line is longer than {max} bytes and was skipped");
                    (None, Err(FeedError::new("too_long", message)))
                }
                Line::Whole(line) => match parse(line) {
                    Err(refused) => (refused.reference, Err(refused.error)),
                    Ok(request) if work.role == Role::Reader && !request.command.is_read_only() => {
                        let message = "this user may only look: stats, history, presence, channels, connections, trace, and listening to connections";
                        (request.reference, Err(FeedError::new("forbidden", message)))
                    }
                    Ok(request) => {
                        let reference = request.reference;
                        let now_ms = self.now.unix_ms;
                        let tail = work.answers.tail();
                        let result =
                            self.execute(Some(work.number), request.command, reference.as_deref(), now_ms, tail);
                        (reference, result)
                    }
                },
            };
            match result {
                Ok(None) => {}
                Ok(Some(later)) => work.answers.push_later(later),
                Err(error) => {
                    HubFigures::add(&self.figures.feed_errors, 1);
                    write_error(work.answers.tail(), reference.as_deref(), &error);
                }
            }
        }
        Stopped::Paused
    }

    /// Holds publishers' lines back while a shard's queue is full; the shard rings the hub when there is room. Returns
    /// whether that is so.
    fn hold_back_for_room(&mut self) -> bool {
        if !self.shards.is_congested() {
            self.end_congestion();
            return false;
        }
        self.flush();
        let Some(shard) = self.shards.await_room() else {
            self.end_congestion();
            return false;
        };
        HubFigures::set(&self.figures.congested_shard, shard as u64);
        if self.congested_since.is_none() {
            HubFigures::add(&self.figures.congestions, 1);
            self.congested_since = Some(self.now.instant);
        }
        true
    }

    /// Counts the time that publishers' lines have waited, if they have.
    fn end_congestion(&mut self) {
        if let Some(since) = self.congested_since.take() {
            let waited = self.now.instant.saturating_duration_since(since);
            HubFigures::add(&self.figures.congested_ms, waited.as_millis() as u64);
        }
    }

    /// Sends publishers their answers, and listeners and traces their lines.
    fn send(&mut self) {
        let mut budget = self.begin_stage(SENDS_MAX);
        while !budget.is_spent() {
            let Some(number) = self.publishers.next_unsent() else { return };
            let Core { publishers, questions, accounts, wants, .. } = self;
            let sent = publishers.send(
                number,
                |later, out| questions.write(later.question, &later.reference, out),
                |owed| accounts.release(owed),
                wants,
            );
            match sent {
                Sent::Open => {}
                Sent::Finished => self.close(number),
                Sent::Broken(error) => {
                    if self.publishers.give_up_sending(number, |owed| self.accounts.release(owed)) {
                        self.stop_telling(number);
                    } else {
                        debug!(%error, "a publisher's connection broke");
                        self.close(number);
                    }
                }
            }
            budget.spend(1, &self.clock, &mut self.now);
        }
    }

    /// Begins a stage with its full budget.
    fn begin_stage(&mut self, work: usize) -> Budget {
        self.now = (self.clock)();
        Budget::new(work, self.now, STAGE_MAX)
    }

    /// Closes a publisher's connection. Everything that waits for it is dropped, and off the shards' accounts.
    fn close(&mut self, number: usize) {
        let Some(left) = self.publishers.close(number, &mut self.wants) else { return };
        let Left { role, answers, mut outbox } = left;
        outbox.clear(|owed| self.accounts.release(owed));
        answers.questions().for_each(|question| self.questions.forget(question));
        self.stop_telling(number);
        if role != Role::Own {
            HubFigures::subtract(&self.figures.publishers, 1);
        }
    }

    /// Takes a publisher out of the listeners and traces.
    fn stop_telling(&mut self, number: usize) {
        self.traces.remove(number);
        if self.listeners.remove(number) {
            self.announce_listening();
        }
    }

    /// Drops old events and forgets unused channels, some at a time, and brings the figures up to date.
    fn sweep(&mut self) {
        self.channels.sweep(self.now.unix_ms);
        self.busiest.pass_time(self.now.unix_ms);
        self.publish_figures();
        memory::give_back();
        self.sweep_at = self.now.instant + SWEEP_EVERY;
    }

    /// Decides what comes after this turn.
    fn next(&mut self) -> Next {
        let lines_wait = self.publishers.has_runnable() && self.congested_since.is_none();
        let is_accepting = self.accepting == Accepting::Ready;
        if lines_wait
            || is_accepting
            || self.is_hearing
            || self.publishers.has_readable()
            || self.publishers.has_unsent()
        {
            return Next::Again;
        }
        let paused = match self.accepting {
            Accepting::Paused(until) => Some(until),
            Accepting::Awaited | Accepting::Ready => None,
        };
        let times = [Some(self.sweep_at), self.questions.deadline(), paused];
        let next = times.into_iter().flatten().fold(self.now.instant + TURN_EVERY, Instant::min);
        if self.tick_at.is_none_or(|tick_at| next < tick_at) {
            self.tick_at = Some(next);
            self.wants.push(Want::Tick(next.saturating_duration_since(self.now.instant)));
        }
        Next::Wait
    }
}

/// The work that a line counts for: a long line may hold many events.
fn line_cost(line: &Line<'_>) -> usize {
    match line {
        Line::Whole(line) => 1 + line.len() / 512,
        Line::TooLong => 1,
    }
}

#[cfg(test)]
mod tests;
