//! The hub's turn: one pass over everything that waits for the hub.
//!
//! A turn has stages in a fixed order: it accepts connections and reads publishers, hears the shards' messages, carries out
//! publishers' lines, sends answers, and once a second sweeps. Each stage has a budget in work and in time, so that none
//! keeps the others waiting. Work that is left makes another turn follow at once. Nothing in a turn blocks.
//!
//! Two promises rest on the order. A shard's `Follow` is heard before the lines of a publisher that may know of it. And
//! the events of a line are in the shards' queues before the line's answer is sent.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tracing::{debug, warn};

use crate::link::{HubInbox, HubMessage};
use crate::logic::protocol::feed::{Command, FeedError, KickTarget, Line, Refused, Request, parse, write_error};

use super::super::Order;
use super::super::answers::{Answers, Awaited};
use super::super::publishers::{Left, Received, Sent, Stopped, Work};
use super::super::roles::Role;
use super::super::watch::{Mark, Next, Want};
use super::accept::Accepting;
use super::apply::{Applying, is_long};
use super::budget::Budget;
use super::{Core, HubFigures, log};

/// The most publishers that one turn reads.
const READS_MAX: usize = 32;
/// Work of one turn on the shards' messages, by [`Core::cost`].
const HEARD_MAX: usize = 10_000;
/// Work of one turn on publishers' lines, by [`line_cost`].
const LINES_MAX: usize = 10_000;
/// The most publishers that one turn sends to.
const SENDS_MAX: usize = 256;
/// Time that hearing, carrying out lines, and sending may take in one turn, each.
const STAGE_MAX: Duration = Duration::from_millis(1);
/// Bytes of answers that count for one unit of work.
const ANSWER_BYTES_PER_WORK: usize = 512;

/// Lines of one publisher that are carried out before those of others.
const SLICE_LINES: usize = 256;
/// Lines that are carried out before the shards get their events.
const FLUSH_LINES: usize = 256;
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

/// The result of carrying out a slice of a publisher's lines.
enum Carried {
    /// No more lines are carried out now.
    Stopped(Stopped),
    /// The last line was a long one, which is still to be applied.
    Long(Box<Applying>),
}

impl Core {
    /// One turn: takes the driver's marks, goes through all stages, and leaves wants for the driver in `wants`.
    pub(in crate::hub) fn turn(&mut self, ports: &Ports, marks: &mut Vec<Mark>) -> Next {
        self.now = (self.clock)();
        let begun = self.now.instant;
        HubFigures::add(&self.figures.rounds, 1);
        self.take_marks(ports, marks);
        self.accept(ports);
        self.read_publishers(&ports.inbox);
        self.hear_shards(ports);
        self.read_log();
        if self.is_stopped {
            self.flush();
            return Next::Stop;
        }
        self.carry_out_lines();
        self.flush();
        self.send();
        self.sweep();
        self.go_on_ahead(ports);
        // Messages that were sent are off the shards' accounts, and shards must know of listeners that have gone.
        self.flush();
        self.note_turn(begun);
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
            if let HubMessage::HandOver(parting) = message {
                self.begin_ahead(*parting);
                continue;
            }
            let cost = self.cost(&message);
            self.hear(message, self.now);
            budget.spend(cost, &self.clock, &mut self.now);
        }
        if self.drained == self.shards.len() && drained_before < self.drained {
            let _ = ports.drained.send(self.cut);
        }
    }

    /// Carries out lines of publishers, a slice of each in turn.
    fn carry_out_lines(&mut self) {
        let mut budget = self.begin_stage(LINES_MAX);
        if !self.go_on_applying(&mut budget) {
            return;
        }
        while !budget.is_spent() && !self.hold_back_for_room() && !self.hold_back_for_log() {
            // An empty queue from the shards holds no message that a line would have to wait for.
            let heard = if self.is_hearing { self.heard } else { u64::MAX };
            let Some(mut work) = self.publishers.next_work(heard) else { return };
            match self.carry_out(&mut work, &mut budget) {
                Carried::Stopped(stopped) => self.publishers.give_back(work, stopped, &mut self.wants),
                Carried::Long(applying) => {
                    self.put_applying(applying, work);
                    if !self.go_on_applying(&mut budget) {
                        return;
                    }
                }
            }
            if self.unflushed_lines >= FLUSH_LINES {
                self.flush();
            }
        }
    }

    /// Carries out a slice of one publisher's lines.
    fn carry_out(&mut self, work: &mut Work, budget: &mut Budget) -> Carried {
        for _ in 0..SLICE_LINES {
            if work.answers.is_full() || self.publishers.are_full() && self.publishers.unsent_bytes(work.number) > 0 {
                return Carried::Stopped(Stopped::Full);
            }
            if budget.is_spent() {
                return Carried::Stopped(Stopped::Paused);
            }
            let Work { number, role, lines, answers, held } = &mut *work;
            let request = match held.take() {
                Some(request) => Ok(*request),
                None => {
                    let Some(line) = lines.next_line() else { return Carried::Stopped(Stopped::Done) };
                    budget.spend(line_cost(&line), &self.clock, &mut self.now);
                    self.unflushed_lines += 1;
                    self.read_line(&line, *role)
                }
            };
            let (reference, outcome) = match request {
                Ok(request) if answers.await_log() && !log::is_logged(&request.command) => {
                    *held = Some(Box::new(request));
                    return Carried::Stopped(Stopped::Full);
                }
                Ok(Request { reference, command }) if self.is_local() && is_long(&command) => {
                    match self.begin_applying(command, reference.clone(), self.now) {
                        Ok(applying) => return Carried::Long(applying),
                        Err(error) => (reference, Err(error)),
                    }
                }
                Ok(Request { reference, command }) => {
                    let tail = answers.tail();
                    let before = tail.len();
                    let cost = command_cost(&command);
                    let outcome = self.execute(Some(*number), command, reference.as_deref(), self.now, tail);
                    let written = tail.len() - before;
                    budget.spend(cost + written / ANSWER_BYTES_PER_WORK, &self.clock, &mut self.now);
                    (reference, outcome)
                }
                Err(refused) => (refused.reference, Err(refused.error)),
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(later)) => answers.push_later(later),
                Err(error) => {
                    HubFigures::add(&self.figures.feed_errors, 1);
                    write_error(answers.tail(), reference.as_deref(), &error);
                }
            }
        }
        Carried::Stopped(Stopped::Paused)
    }

    /// Reads a line as a command that the publisher may give.
    fn read_line(&self, line: &Line<'_>, role: Role) -> Result<Request, Refused> {
        let Line::Whole(line) = line else {
            let max = self.publishers.line_bytes_max();
            let message = format!("the line is longer than {max} bytes and was skipped");
            return Err(Refused { reference: None, error: FeedError::new("too_long", message) });
        };
        let request = parse(line)?;
        if role == Role::Reader && !request.command.is_read_only() {
            let message = "this user may only look: stats, history, presence, channels, connections, trace, untrace, and listening to connections";
            return Err(Refused { reference: request.reference, error: FeedError::new("forbidden", message) });
        }
        Ok(request)
    }

    /// Holds publishers' lines back while a shard's queue is full; the shard rings the hub when there is room. Returns
    /// whether that is so.
    pub(super) fn hold_back_for_room(&mut self) -> bool {
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
            let Core { publishers, questions, order, accounts, figures, wants, .. } = self;
            let sent = publishers.send(
                number,
                |later, out| match later.awaited {
                    Awaited::Question(question) => {
                        questions.write(question, later.reference.as_deref().unwrap_or(RawValue::NULL), out)
                    }
                    Awaited::Ticket(ticket) => log::write_answer(order, figures, ticket, later, out),
                },
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
    pub(super) fn begin_stage(&mut self, work: usize) -> Budget {
        self.now = (self.clock)();
        Budget::new(work, self.now, STAGE_MAX)
    }

    /// Closes a publisher's connection. Everything that waits for it is dropped, and off the shards' accounts.
    fn close(&mut self, number: usize) {
        let Some(left) = self.publishers.close(number, &mut self.wants) else { return };
        let Left { role, answers, mut outbox } = left;
        outbox.clear(|owed| self.accounts.release(owed));
        let held = self.take_applying_work(number).map(|work| work.answers);
        for awaited in answers.awaited().chain(held.iter().flat_map(Answers::awaited)) {
            match (awaited, &mut self.order) {
                (Awaited::Question(question), _) => self.questions.forget(question),
                (Awaited::Ticket(ticket), Order::Log(log)) => log.tickets.forget(ticket),
                (Awaited::Ticket(_), Order::Local(_)) => {}
            }
        }
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

    /// Decides what comes after this turn.
    fn next(&mut self) -> Next {
        let has_lines = self.publishers.has_runnable() || self.applying.is_some();
        let lines_wait = has_lines && self.congested_since.is_none() && !self.hold_back_for_log();
        let is_accepting = self.accepting == Accepting::Ready;
        if lines_wait
            || is_accepting
            || self.is_hearing
            || self.publishers.has_readable()
            || self.publishers.has_unsent()
            || self.is_sweeping()
            || self.has_entries() && self.congested_since.is_none()
        {
            return Next::Again;
        }
        let paused = match self.accepting {
            Accepting::Paused(until) => Some(until),
            Accepting::Awaited | Accepting::Ready => None,
        };
        let times = [Some(self.sweep_at), self.questions.deadline(), paused, self.held_until(), self.ahead_at()];
        let next = times.into_iter().flatten().fold(self.now.instant + TURN_EVERY, Instant::min);
        if self.tick_at.is_none_or(|tick_at| next < tick_at) {
            self.tick_at = Some(next);
            self.wants.push(Want::Tick(next.saturating_duration_since(self.now.instant)));
        }
        Next::Wait
    }
}

/// The work that a command counts for beside its line and its answer.
fn command_cost(command: &Command) -> usize {
    match command {
        // Figures of the process are read from files of the kernel's.
        Command::Stats => 64,
        Command::Channels(_) => 64,
        Command::Kick { target: KickTarget::Token { .. }, .. } => 32,
        Command::Presence(_) | Command::History { .. } => 16,
        _ => 0,
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
