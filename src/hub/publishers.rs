//! Publishers: the feed's connections, with the bytes that came from each and those that are for it.
//!
//! A publisher is read only while none of its lines wait to be carried out, and its lines wait while too many answers
//! to it wait. So a publisher costs a bounded amount of memory, however fast it writes and however slowly it reads.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use slab::Slab;

use crate::logic::protocol::feed::LineSplitter;
use crate::sys::socket;

use super::answers::{Answers, Later};
use super::outbox::Outbox;
use super::watch::Want;

/// The most bytes that one read takes.
const READ_BYTES: usize = 64 * 1024;

/// The permissions of a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The connection is the server's own and may do everything.
    Own,
    /// The publisher may do everything that the feed offers.
    Publisher,
    /// The publisher may look and change nothing.
    Reader,
}

/// Which users may connect to the feed.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// The ids of the users that may publish; empty for all users that the socket's mode admits.
    pub(super) allowed_users: Vec<u32>,
    /// The ids of the users that may only look.
    pub(super) readers: Vec<u32>,
}

impl Admission {
    /// The role of a user, if the user may connect.
    pub(super) fn role(&self, user: u32) -> Option<Role> {
        if self.readers.contains(&user) {
            return Some(Role::Reader);
        }
        (self.allowed_users.is_empty() || self.allowed_users.contains(&user)).then_some(Role::Publisher)
    }
}

/// The source of a publisher's next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// The next line comes from the socket, which the driver watches.
    Awaited,
    /// The next line comes from the socket, which must be read.
    Readable,
    /// The next line is in bytes that were read. The socket has `more` if the read was a full one.
    Lines { more: bool },
    /// The next line is in bytes that were read, and is carried out when fewer answers wait.
    Held { more: bool },
    /// The publisher has sent its last byte.
    Ended,
}

/// Whether a publisher's socket takes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// The socket takes bytes, as far as the hub knows.
    Open,
    /// The socket's buffer is full, and the driver watches the socket.
    Full,
    /// The socket refuses bytes for good: a listener has closed its reading side and may go on publishing.
    Deaf,
}

/// The state of one publisher.
#[derive(Debug)]
struct Publisher {
    socket: OwnedFd,
    role: Role,
    input: Input,
    output: Output,
    lines: LineSplitter,
    /// The number of the shards' messages that the hub must have heard before it carries out the lines.
    due: u64,
    answers: Answers,
    outbox: Outbox,
    /// Whether the publisher listens or traces, and so gets lines that answer none of its own.
    is_told: bool,
    /// Whether the publisher is in the list `unsent`.
    is_unsent: bool,
}

/// The outcome of reading a publisher.
#[derive(Debug)]
pub(super) enum Received {
    /// The read has given bytes, or nothing for the moment.
    Some,
    /// The publisher of this number has sent its last byte.
    Ended(usize),
    /// The connection of this number has broken.
    Broken(usize, io::Error),
}

/// The outcome of sending to a publisher.
#[derive(Debug)]
pub(super) enum Sent {
    /// All bytes were sent, or the rest waits for room.
    Some,
    /// All bytes were sent to a publisher that has sent its last byte, so the connection is finished.
    Finished,
    /// The socket takes no more bytes because of an error.
    Broken(io::Error),
}

/// A publisher's lines and the answers to them. The turn takes these out of the list while it carries the lines out, so
/// that a line may change any publisher.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) number: usize,
    pub(super) role: Role,
    pub(super) lines: LineSplitter,
    pub(super) answers: Answers,
}

/// The cause for which a turn carries out no more of a publisher's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// No whole line is left.
    Done,
    /// The lines of other publishers are carried out first.
    Paused,
    /// Too many answers to the publisher wait.
    Full,
}

/// The rest of a publisher that was taken out of the list.
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
    // An entry of a queue is only a reason to look: its publisher may have gone, and its number may belong to another
    // one.
    /// The publishers whose socket must be read.
    readable: VecDeque<usize>,
    /// The publishers whose lines must be carried out.
    runnable: VecDeque<usize>,
    /// The publishers for whom bytes wait.
    unsent: VecDeque<usize>,
    /// The buffer that a read fills.
    buffer: Box<[u8]>,
    line_bytes_max: usize,
}

impl Publishers {
    /// An empty list of publishers, which may write lines of at most `line_bytes_max` bytes.
    pub(super) fn new(line_bytes_max: usize) -> Publishers {
        Publishers {
            list: Slab::new(),
            readable: VecDeque::new(),
            runnable: VecDeque::new(),
            unsent: VecDeque::new(),
            buffer: vec![0; READ_BYTES].into(),
            line_bytes_max,
        }
    }

    /// The longest line, in bytes.
    pub(super) fn line_bytes_max(&self) -> usize {
        self.line_bytes_max
    }

    /// Adds a publisher; returns its number.
    pub(super) fn open(&mut self, socket: OwnedFd, role: Role, wants: &mut Vec<Want>) -> usize {
        let number = self.list.insert(Publisher {
            socket,
            role,
            input: Input::Awaited,
            output: Output::Open,
            lines: LineSplitter::new(self.line_bytes_max),
            due: 0,
            answers: Answers::default(),
            outbox: Outbox::default(),
            is_told: false,
            is_unsent: false,
        });
        wants.extend([Want::Opened(number), Want::Readable(number)]);
        number
    }

    /// Takes a publisher out. Its socket is closed in both directions, which ends what the driver waits for.
    pub(super) fn close(&mut self, number: usize, wants: &mut Vec<Want>) -> Option<Left> {
        let Publisher { socket, role, answers, outbox, .. } = self.list.try_remove(number)?;
        socket::shutdown(socket.as_fd());
        wants.push(Want::Closed(number));
        Some(Left { role, answers, outbox })
    }

    /// The socket of a publisher, if it is connected.
    pub(super) fn socket(&self, number: usize) -> Option<BorrowedFd<'_>> {
        self.list.get(number).map(|publisher| publisher.socket.as_fd())
    }

    /// Notes that the driver has seen bytes from a publisher, or its end.
    pub(super) fn mark_readable(&mut self, number: usize) {
        if let Some(publisher) = self.list.get_mut(number).filter(|publisher| publisher.input == Input::Awaited) {
            publisher.input = Input::Readable;
            self.readable.push_back(number);
        }
    }

    /// Notes that the driver has seen a publisher's socket take bytes again.
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

    /// Reads the next publisher that is readable, if there is one. `due` gives the number of messages that the shards
    /// have queued so far. It is called after the read, because the publisher may have learnt of these messages before
    /// it wrote.
    pub(super) fn receive(&mut self, due: impl FnOnce() -> u64, wants: &mut Vec<Want>) -> Option<Received> {
        let number = self.readable.pop_front()?;
        let publisher = self.list.get_mut(number).filter(|publisher| publisher.input == Input::Readable);
        let Some(publisher) = publisher else { return Some(Received::Some) };
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
        Some(Received::Some)
    }

    /// The lines to carry out next, after `heard` messages of the shards. The caller must give them back.
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
            return Some(Work { number, role: publisher.role, lines, answers });
        }
        None
    }

    /// Takes back the lines of [`Publishers::next_work`], and decides on the source of the publisher's next line.
    pub(super) fn give_back(&mut self, work: Work, stopped: Stopped, wants: &mut Vec<Want>) {
        let Work { number, lines, answers, .. } = work;
        let Some(publisher) = self.list.get_mut(number) else { return };
        publisher.lines = lines;
        publisher.answers = answers;
        let has_answers = !publisher.answers.is_empty();
        let Input::Lines { more } = publisher.input else { return };
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

    /// Ends the input of a publisher that has sent its last byte, and takes its waiting messages off the shards'
    /// accounts. Returns whether the input has stopped within a line.
    pub(super) fn end_input(&mut self, number: usize, release: impl FnMut(usize)) -> bool {
        let Some(publisher) = self.list.get_mut(number) else { return false };
        publisher.outbox.forgive(release);
        let is_cut = publisher.lines.has_rest();
        self.mark_unsent(number);
        is_cut
    }

    /// The answers of a publisher, for an error that answers no line.
    pub(super) fn answers(&mut self, number: usize) -> Option<&mut Answers> {
        self.list.get_mut(number).map(|publisher| &mut publisher.answers)
    }

    /// Notes that a publisher listens or traces. Returns whether its socket takes bytes.
    pub(super) fn begin_telling(&mut self, number: usize) -> bool {
        let publisher = self.list.get_mut(number).filter(|publisher| publisher.output != Output::Deaf);
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

    /// Adds a client's message for a listener; `owed` is its number on the shard's account.
    pub(super) fn tell_owed(&mut self, number: usize, line: &[u8], owed: usize) {
        self.add(number, |outbox| outbox.push_owed(line, owed));
    }

    /// Adds a line for a publisher, or counts it if too many bytes wait already.
    pub(super) fn tell_or_count(&mut self, number: usize, line: &[u8]) {
        self.add(number, |outbox| outbox.push_or_count(line));
    }

    fn add(&mut self, number: usize, add: impl FnOnce(&mut Outbox)) {
        if let Some(publisher) = self.list.get_mut(number) {
            add(&mut publisher.outbox);
            self.mark_unsent(number);
        }
    }

    /// Has a later part of the turn send a publisher its waiting bytes.
    pub(super) fn mark_unsent(&mut self, number: usize) {
        if let Some(publisher) = self.list.get_mut(number).filter(|publisher| !publisher.is_unsent) {
            publisher.is_unsent = true;
            self.unsent.push_back(number);
        }
    }

    /// The next publisher for whom bytes wait.
    pub(super) fn next_unsent(&mut self) -> Option<usize> {
        let number = self.unsent.pop_front()?;
        if let Some(publisher) = self.list.get_mut(number) {
            publisher.is_unsent = false;
        }
        Some(number)
    }

    /// Sends a publisher its waiting bytes. `settle` writes answers that have waited for shards, or leaves them
    /// waiting;
    /// `release` is told of each client's message that the socket has taken.
    pub(super) fn send(
        &mut self,
        number: usize,
        settle: impl FnMut(&Later, &mut Vec<u8>) -> bool,
        release: impl FnMut(usize),
        wants: &mut Vec<Want>,
    ) -> Sent {
        let Some(publisher) = self.list.get_mut(number) else { return Sent::Some };
        publisher.answers.settle(settle);
        let before = publisher.output;
        if let Err(error) = publisher.send(release) {
            return Sent::Broken(error);
        }
        if before != Output::Full && publisher.output == Output::Full {
            wants.push(Want::Writable(number));
        }
        match publisher.input {
            Input::Held { more } if !publisher.answers.is_full() => {
                publisher.input = Input::Lines { more };
                self.runnable.push_back(number);
                Sent::Some
            }
            Input::Ended if publisher.answers.is_empty() && publisher.outbox.is_empty() => Sent::Finished,
            _ => Sent::Some,
        }
    }

    /// Gives up sending to a publisher whose socket refuses bytes, and goes on reading it, if it has listened and no
    /// answer to it is due. Returns whether it is read on.
    pub(super) fn deafen(&mut self, number: usize, release: impl FnMut(usize)) -> bool {
        let Some(publisher) = self.list.get_mut(number) else { return false };
        if !publisher.is_told || publisher.output == Output::Deaf {
            return false;
        }
        publisher.output = Output::Deaf;
        publisher.outbox.clear(release);
        // An answer that waited behind the cleared lines ends the connection.
        self.mark_unsent(number);
        true
    }
}

impl Publisher {
    /// Sends the waiting bytes until the socket takes no more.
    fn send(&mut self, mut release: impl FnMut(usize)) -> io::Result<()> {
        loop {
            let answers = self.answers.ready();
            match self.output {
                Output::Deaf if answers.is_empty() => return Ok(()),
                Output::Deaf => return Err(io::ErrorKind::BrokenPipe.into()),
                _ if answers.is_empty() => {}
                _ => self.outbox.take_answers(answers),
            }
            let bytes = self.outbox.unsent();
            if bytes.is_empty() || self.output == Output::Full {
                return Ok(());
            }
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
    }
}
