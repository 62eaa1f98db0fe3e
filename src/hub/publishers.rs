//! Publishers: the feed's connections, with the bytes that came from each and the bytes that are for it.
//!
//! A publisher is read only while none of its lines wait to be carried out, and its lines wait while too many answers
//! to it wait. So a publisher costs a bounded amount of memory, however fast it writes and however slowly it reads.

mod handed;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use slab::Slab;

use crate::logic::protocol::feed::{LineSplitter, Request};
use crate::sys::socket;

use super::answers::{Answers, Later};
use super::outbox::Outbox;
use super::roles::Role;
use super::watch::Want;

/// Sends to one publisher before others have their turn, and the most bytes of each.
const SENDS_MAX: usize = 4;
const SEND_BYTES_MAX: usize = 256 * 1024;
/// The most bytes that one read takes.
const READ_BYTES: usize = 64 * 1024;

/// The source of a publisher's next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// The socket, which the driver watches.
    Awaited,
    /// The socket, which is to be read.
    Readable,
    /// Bytes that were read. The socket may have `more`: the read was a full one.
    Lines { more: bool },
    /// Bytes that were read, as soon as fewer answers wait.
    Held { more: bool },
    /// No source: the publisher has sent its last byte.
    Ended,
}

/// Whether a publisher's socket takes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// The socket takes bytes, as far as is known.
    Open,
    /// The socket's buffer is full, and the driver watches it.
    Full,
    /// The socket refuses bytes for ever. A listener that has closed its reading side may publish all the same.
    Refused,
}

/// The state of one publisher.
#[derive(Debug)]
struct Publisher {
    socket: OwnedFd,
    role: Role,
    input: Input,
    output: Output,
    lines: LineSplitter,
    /// The number of the last message of the shards that must be heard before the lines are carried out.
    due: u64,
    answers: Answers,
    /// A command that waits until the answers before it are known.
    held: Option<Box<Request>>,
    outbox: Outbox,
    /// Whether the publisher has begun to listen or to trace, and so gets lines that are no answers.
    is_told: bool,
    /// Whether the publisher's number is among `unsent`.
    is_unsent: bool,
    /// The waiting bytes that [`Publishers::waiting_bytes`] has for this publisher.
    counted: usize,
}

/// The result of reading a publisher.
#[derive(Debug)]
pub(super) enum Received {
    /// Bytes, or none for the moment.
    Open,
    /// The publisher of this number has sent its last byte.
    Ended(usize),
    /// The connection of this number has broken.
    Broken(usize, io::Error),
}

/// The result of sending to a publisher.
#[derive(Debug)]
pub(super) enum Sent {
    /// Everything was sent, or the rest waits for room or for shards.
    Open,
    /// The publisher, which has sent its last byte before, has all of its answers.
    Finished,
    /// The socket refuses bytes for ever.
    Broken(io::Error),
}

/// A publisher's lines that are to be carried out, and its answers. Both are taken out of the list of publishers for that
/// time, because a line may change any publisher in it.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) number: usize,
    pub(super) role: Role,
    pub(super) lines: LineSplitter,
    pub(super) answers: Answers,
    /// A command that comes before the lines, because it has waited for the answers before it.
    pub(super) held: Option<Box<Request>>,
}

/// The cause for which a turn carries out no more of a publisher's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// No whole line is left.
    Done,
    /// The publisher has had its share: others come first.
    Paused,
    /// Too many answers to the publisher wait, or the next command waits for the answers before it.
    Full,
}

/// The remains of a publisher that was closed.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) role: Role,
    pub(super) answers: Answers,
    pub(super) outbox: Outbox,
}

/// All publishers, by numbers that do not change while a publisher is connected.
#[derive(Debug)]
pub(super) struct Publishers {
    list: Slab<Publisher>,
    // The three queues may hold the number of a publisher that has gone, or that another publisher has now: an entry is
    // only a reason to look at the publisher's state.
    /// Publishers whose socket is to be read.
    readable: VecDeque<usize>,
    /// Publishers whose lines are to be carried out.
    runnable: VecDeque<usize>,
    /// Publishers that something is to be sent to.
    unsent: VecDeque<usize>,
    /// The number of the server's own connections.
    own: usize,
    /// The buffer of all reads.
    buffer: Box<[u8]>,
    line_bytes_max: usize,
    /// The bytes of answers and lines that wait for all publishers.
    waiting_bytes: usize,
    waiting_bytes_max: usize,
}

impl Publishers {
    /// No publishers, of which each may write lines of so many bytes.
    pub(super) fn new(line_bytes_max: usize) -> Publishers {
        Publishers {
            list: Slab::new(),
            readable: VecDeque::new(),
            runnable: VecDeque::new(),
            unsent: VecDeque::new(),
            own: 0,
            buffer: vec![0; READ_BYTES].into(),
            line_bytes_max,
            waiting_bytes: 0,
            waiting_bytes_max: usize::MAX,
        }
    }

    /// Sets the bytes that may wait for all publishers together. Beyond it, lines that may be left out are counted instead,
    /// and a publisher's lines are carried out only while nothing waits for it.
    pub(super) fn limit_to(&mut self, waiting_bytes_max: usize) {
        self.waiting_bytes_max = waiting_bytes_max;
    }

    /// The bytes of answers and lines that wait for all publishers.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether more bytes wait for all publishers together than may.
    pub(super) fn are_full(&self) -> bool {
        self.waiting_bytes > self.waiting_bytes_max
    }

    /// Brings the sum of waiting bytes up to date after a change of a publisher's output.
    fn recount(&mut self, number: usize) {
        let Some(publisher) = self.list.get_mut(number) else { return };
        let waiting = publisher.outbox.len() + publisher.answers.len();
        self.waiting_bytes = self.waiting_bytes + waiting - publisher.counted;
        publisher.counted = waiting;
    }

    /// The number of publishers, without the server's own connections.
    pub(super) fn len(&self) -> usize {
        self.list.len() - self.own
    }

    /// The longest line, in bytes.
    pub(super) fn line_bytes_max(&self) -> usize {
        self.line_bytes_max
    }

    /// Adds a publisher; returns its number.
    pub(super) fn open(&mut self, socket: OwnedFd, role: Role, wants: &mut Vec<Want>) -> usize {
        self.own += usize::from(role == Role::Own);
        let number = self.list.insert(Publisher {
            socket,
            role,
            input: Input::Awaited,
            output: Output::Open,
            lines: LineSplitter::new(self.line_bytes_max),
            due: 0,
            answers: Answers::default(),
            held: None,
            outbox: Outbox::default(),
            is_told: false,
            is_unsent: false,
            counted: 0,
        });
        wants.extend([Want::Opened(number), Want::Readable(number)]);
        number
    }

    /// Takes a publisher out. Its socket is shut down, which makes the driver's watchers of it return.
    pub(super) fn close(&mut self, number: usize, wants: &mut Vec<Want>) -> Option<Left> {
        let Publisher { socket, role, answers, outbox, counted, .. } = self.list.try_remove(number)?;
        self.waiting_bytes -= counted;
        self.own -= usize::from(role == Role::Own);
        socket::shutdown(socket.as_fd());
        wants.push(Want::Closed(number));
        Some(Left { role, answers, outbox })
    }

    /// The socket of a publisher, if it is connected.
    pub(super) fn socket(&self, number: usize) -> Option<BorrowedFd<'_>> {
        self.list.get(number).map(|publisher| publisher.socket.as_fd())
    }

    /// Notes that a publisher's socket has bytes, or the end.
    pub(super) fn mark_readable(&mut self, number: usize) {
        if let Some(publisher) = self.list.get_mut(number).filter(|publisher| publisher.input == Input::Awaited) {
            publisher.input = Input::Readable;
            self.readable.push_back(number);
        }
    }

    /// Notes that a publisher's socket takes bytes again.
    pub(super) fn mark_writable(&mut self, number: usize) {
        if let Some(publisher) = self.list.get_mut(number).filter(|publisher| publisher.output == Output::Full) {
            publisher.output = Output::Open;
            self.mark_unsent(number);
        }
    }

    /// Whether some publisher's socket must be read.
    pub(super) fn has_readable(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Whether some publisher's lines must be carried out.
    pub(super) fn has_runnable(&self) -> bool {
        !self.runnable.is_empty()
    }

    /// Whether bytes wait for some publisher.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads the next publisher that is readable, if there is one. `due` is called after the read and returns the number of
    /// the last message that the shards have queued: the lines that were read may have been written because of it.
    pub(super) fn receive(&mut self, due: impl FnOnce() -> u64, wants: &mut Vec<Want>) -> Option<Received> {
        let number = self.readable.pop_front()?;
        let publisher = self.list.get_mut(number).filter(|publisher| publisher.input == Input::Readable);
        let Some(publisher) = publisher else { return Some(Received::Open) };
        match socket::receive(publisher.socket.as_fd(), &mut self.buffer) {
            Ok(0) => {
                publisher.input = Input::Ended;
                return Some(Received::Ended(number));
            }
            Ok(length) => {
                publisher.lines.push(&self.buffer[..length]);
                publisher.input = Input::Lines { more: length == self.buffer.len() };
                publisher.due = due();
                self.runnable.push_back(number);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                publisher.input = Input::Awaited;
                wants.push(Want::Readable(number));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.readable.push_back(number),
            Err(error) => return Some(Received::Broken(number, error)),
        }
        Some(Received::Open)
    }

    /// The lines that are to be carried out next, where the messages of the shards up to number `heard` were heard. They
    /// must be given back.
    pub(super) fn next_work(&mut self, heard: u64) -> Option<Work> {
        for _ in 0..self.runnable.len() {
            let number = self.runnable.pop_front()?;
            let Some(publisher) = self.list.get_mut(number) else { continue };
            if !matches!(publisher.input, Input::Lines { .. }) {
                continue;
            }
            if publisher.due > heard {
                self.runnable.push_back(number);
                continue;
            }
            let lines = std::mem::replace(&mut publisher.lines, LineSplitter::new(0));
            let answers = std::mem::take(&mut publisher.answers);
            return Some(Work { number, role: publisher.role, lines, answers, held: publisher.held.take() });
        }
        None
    }

    /// Takes back what [`Publishers::next_work`] has given, and decides the source of the publisher's next line.
    pub(super) fn give_back(&mut self, work: Work, stopped: Stopped, wants: &mut Vec<Want>) {
        let Work { number, lines, answers, held, .. } = work;
        let Some(publisher) = self.list.get_mut(number) else { return };
        publisher.held = held;
        publisher.lines = lines;
        publisher.answers = answers;
        let has_answers = !publisher.answers.is_empty();
        let input = publisher.input;
        self.recount(number);
        let Some(publisher) = self.list.get_mut(number) else { return };
        let Input::Lines { more } = input else { return };
        match stopped {
            Stopped::Done if more => {
                publisher.input = Input::Readable;
                self.readable.push_back(number);
            }
            Stopped::Done => {
                publisher.input = Input::Awaited;
                wants.push(Want::Readable(number));
            }
            Stopped::Paused => self.runnable.push_back(number),
            Stopped::Full => publisher.input = Input::Held { more },
        }
        if has_answers {
            self.mark_unsent(number);
        }
    }

    /// Ends the input of a publisher that has sent its last byte, and takes the messages that wait for it off the shards'
    /// accounts. Returns whether the publisher has stopped within a line.
    pub(super) fn end_input(&mut self, number: usize, release: impl FnMut(usize)) -> bool {
        let Some(publisher) = self.list.get_mut(number) else { return false };
        publisher.outbox.release_owed(release);
        let is_cut = publisher.lines.has_rest();
        self.mark_unsent(number);
        is_cut
    }

    /// A publisher's answers, to add one that belongs to no line.
    pub(super) fn answers(&mut self, number: usize) -> Option<&mut Answers> {
        self.list.get_mut(number).map(|publisher| &mut publisher.answers)
    }

    /// Notes that a publisher listens or traces from now on. Returns whether its socket takes bytes.
    pub(super) fn begin_telling(&mut self, number: usize) -> bool {
        let publisher = self.list.get_mut(number).filter(|publisher| publisher.output != Output::Refused);
        publisher.map(|publisher| publisher.is_told = true).is_some()
    }

    /// The number of bytes that wait for a publisher's socket.
    pub(super) fn unsent_bytes(&self, number: usize) -> usize {
        self.list.get(number).map_or(0, |publisher| publisher.outbox.len())
    }

    /// Adds a line for a publisher that must not be left out.
    pub(super) fn tell(&mut self, number: usize, line: &[u8]) {
        self.add(number, |outbox| outbox.push(line));
    }

    /// Adds a client's message for a listener; `owed` is the message's number among the accounts.
    pub(super) fn tell_owed(&mut self, number: usize, line: &[u8], owed: usize) {
        self.add(number, |outbox| outbox.push_owed(line, owed));
    }

    /// Adds a line for a publisher, or counts it as left out where too many bytes wait.
    pub(super) fn tell_or_count(&mut self, number: usize, line: &[u8]) {
        let are_full = self.are_full();
        self.add(number, |outbox| outbox.push_or_count(line, are_full));
    }

    fn add(&mut self, number: usize, add: impl FnOnce(&mut Outbox)) {
        if let Some(publisher) = self.list.get_mut(number) {
            add(&mut publisher.outbox);
            self.recount(number);
            self.mark_unsent(number);
        }
    }

    /// Has the turn look at what can be sent to a publisher.
    pub(super) fn mark_unsent(&mut self, number: usize) {
        if let Some(publisher) = self.list.get_mut(number).filter(|publisher| !publisher.is_unsent) {
            publisher.is_unsent = true;
            self.unsent.push_back(number);
        }
    }

    /// The next publisher that something is to be sent to.
    pub(super) fn next_unsent(&mut self) -> Option<usize> {
        let number = self.unsent.pop_front()?;
        if let Some(publisher) = self.list.get_mut(number) {
            publisher.is_unsent = false;
        }
        Some(number)
    }

    /// Sends a publisher what can be sent. `settle` writes an answer that has waited for shards, or returns that it still
    /// waits; `release` is called with the number of each client's message that the socket has taken.
    pub(super) fn send(
        &mut self,
        number: usize,
        settle: impl FnMut(&Later, &mut Vec<u8>) -> bool,
        release: impl FnMut(usize),
        wants: &mut Vec<Want>,
    ) -> Sent {
        let Some(publisher) = self.list.get_mut(number) else { return Sent::Open };
        publisher.answers.settle(settle);
        let before = publisher.output;
        let sent = publisher.send(release);
        self.recount(number);
        match sent {
            Ok(true) => {}
            Ok(false) => self.mark_unsent(number),
            Err(error) => return Sent::Broken(error),
        }
        let are_full = self.are_full();
        let Some(publisher) = self.list.get_mut(number) else { return Sent::Open };
        let must_wait = publisher.answers.is_full()
            || are_full && !publisher.outbox.is_empty()
            || publisher.held.is_some() && publisher.answers.await_log();
        if before != Output::Full && publisher.output == Output::Full {
            wants.push(Want::Writable(number));
        }
        match publisher.input {
            Input::Held { more } if !must_wait => {
                publisher.input = Input::Lines { more };
                self.runnable.push_back(number);
                Sent::Open
            }
            Input::Ended if publisher.answers.is_empty() && publisher.outbox.is_empty() => Sent::Finished,
            _ => Sent::Open,
        }
    }

    /// Gives up sending to a publisher whose socket refuses bytes, and goes on reading it, if it listens or traces: such a
    /// publisher may have closed its reading side because it wants to hear no more. Returns whether that is so.
    pub(super) fn give_up_sending(&mut self, number: usize, release: impl FnMut(usize)) -> bool {
        let Some(publisher) = self.list.get_mut(number) else { return false };
        if !publisher.is_told || publisher.output == Output::Refused {
            return false;
        }
        publisher.output = Output::Refused;
        publisher.outbox.clear(release);
        self.recount(number);
        // Where an answer waits that was not in the outbox yet, the next attempt to send it ends the connection.
        self.mark_unsent(number);
        true
    }
}

impl Publisher {
    /// Sends what waits, until the socket takes no more. Returns whether that is so, or nothing waits any more: otherwise the
    /// publisher has had its share, and the rest is sent later.
    fn send(&mut self, mut release: impl FnMut(usize)) -> io::Result<bool> {
        for _ in 0..SENDS_MAX {
            let answers = self.answers.ready();
            match self.output {
                Output::Refused if answers.is_empty() => return Ok(true),
                Output::Refused => return Err(io::ErrorKind::BrokenPipe.into()),
                _ if answers.is_empty() => {}
                _ => self.outbox.take_answers(answers),
            }
            let bytes = self.outbox.unsent();
            if bytes.is_empty() || self.output == Output::Full {
                return Ok(true);
            }
            let bytes = &bytes[..bytes.len().min(SEND_BYTES_MAX)];
            let wanted = bytes.len();
            match socket::send(self.socket.as_fd(), bytes) {
                Ok(taken) => {
                    self.outbox.advance(taken, &mut release);
                    if taken < wanted {
                        self.output = Output::Full;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.output = Output::Full,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}
