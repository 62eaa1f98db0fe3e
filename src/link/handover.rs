//! A hand-over between two processes as their threads see it: the sockets over which each thread's records and descriptors
//! travel, and what the main thread tells and hears meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use prost::Message;

use crate::logic::handover::{FormatError, Kind, MESSAGE_MAX, Packer, Unpacker};
use crate::sys::rights;

/// The time after which a thread that waits for the other process shows that it is alive.
const BEAT: Duration = Duration::from_millis(100);

/// The time that a letter may take which was sent before it is asked for.
const LETTER_MAX: Duration = Duration::from_secs(1);

/// The reason why a hand-over fails.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// A message could not be sent or received.
    #[error("the hand-over's socket has failed: {0}")]
    Io(#[from] io::Error),
    /// The other process has gone, or has given up.
    #[error("the other process has ended the hand-over")]
    Ended,
    /// The records cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The records can be read and not be used here.
    #[error("{0}")]
    Refused(String),
}

/// The main thread's decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The successor's hub must hear what its shards have said so far.
    Settle,
    /// The successor has everything: it begins, and the predecessor touches nothing any more.
    Go,
    /// The hand-over has failed: the predecessor goes on, and the successor ends.
    Back,
}

/// What a thread has sent or taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Connections of clients or of the feed.
    pub connections: u64,
    /// Connections that stay behind and end.
    pub left: u64,
}

/// A thread's part in a hand-over: where it reports, and where it hears the decisions.
#[derive(Debug)]
pub struct Part {
    /// The number of the attempt, which tells what belongs to it from what an earlier one has left.
    pub number: u64,
    /// The thread's report that its part is done, or why it cannot be.
    pub report: Sender<Result<Moved, HandoverError>>,
    /// The main thread's decisions.
    pub verdict: Receiver<Verdict>,
}

impl Part {
    /// Whether the main thread has called the hand-over off.
    pub fn is_called_off(&self) -> bool {
        match self.verdict.try_recv() {
            Ok(verdict) => verdict == Verdict::Back,
            Err(error) => error == crossbeam_channel::TryRecvError::Disconnected,
        }
    }

    /// Waits for the next decision; `beat` is called now and then meanwhile. A main thread that has ended calls everything off.
    pub fn await_verdict(&self, mut beat: impl FnMut()) -> Verdict {
        loop {
            match self.verdict.recv_timeout(BEAT) {
                Ok(verdict) => return verdict,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => beat(),
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Verdict::Back,
            }
        }
    }
}

/// The socket through which a thread with a table of its own gets descriptors: one for each attempt to hand over, with the
/// attempt's number.
#[derive(Debug)]
pub struct Mailbox {
    socket: OwnedFd,
    /// A letter of a later attempt than the one that was asked for.
    later: Option<(u64, OwnedFd)>,
}

/// The other end of a [`Mailbox`].
#[derive(Debug)]
pub struct Letters(OwnedFd);

impl Mailbox {
    /// A mailbox with its other end. The thread must keep its descriptor when it takes a table of its own.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new() -> io::Result<(Mailbox, Letters)> {
        let (socket, letters) = rights::pair()?;
        rights::set_patience(socket.as_fd(), LETTER_MAX)?;
        Ok((Mailbox { socket, later: None }, Letters(letters)))
    }

    /// The descriptor that came for an attempt. Those of earlier attempts are closed.
    ///
    /// # Errors
    /// If none has come, or only one of a later attempt.
    pub fn take(&mut self, number: u64) -> io::Result<OwnedFd> {
        loop {
            let (found, right) = match self.later.take() {
                Some(later) => later,
                None => receive_letter(self.socket.as_fd())?,
            };
            if found == number {
                return Ok(right);
            }
            if found > number {
                self.later = Some((found, right));
                return Err(io::Error::other("the attempt is over"));
            }
        }
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Letters {
    /// Sends a descriptor for an attempt.
    ///
    /// # Errors
    /// If the thread has ended.
    pub fn send(&self, number: u64, right: &OwnedFd) -> io::Result<()> {
        rights::send(self.0.as_fd(), &number.to_ne_bytes(), &[right.as_fd()])
    }
}

fn receive_letter(socket: BorrowedFd<'_>) -> io::Result<(u64, OwnedFd)> {
    let (mut number, mut rights) = ([0; 8], Vec::new());
    let length = rights::receive(socket, &mut number, &mut rights)?;
    let right = rights.pop().filter(|_| length == number.len());
    right.map(|right| (u64::from_ne_bytes(number), right)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The part of a running server's hub, with those of its shards.
#[derive(Debug)]
pub struct HubParting {
    /// The socket for the hub's records.
    pub carrier: OwnedFd,
    /// The hub's own part.
    pub part: Part,
    /// Told when the histories are sent ahead and the pause begins, or why they cannot be sent.
    pub begins: Sender<Result<(), HandoverError>>,
    /// The parts of the shards, whose sockets are in their mailboxes.
    pub shards: Vec<Part>,
}

/// The part of a successor's thread.
#[derive(Debug)]
pub struct Adopting {
    /// The socket from which the records come.
    pub carrier: OwnedFd,
    /// The thread's part.
    pub part: Part,
}

/// Sends records and descriptors.
pub struct Outgoing<'a> {
    socket: BorrowedFd<'a>,
    packer: Packer,
    rights: Vec<BorrowedFd<'a>>,
    body: Vec<u8>,
    beat: Box<dyn FnMut() + 'a>,
}

impl<'a> Outgoing<'a> {
    /// Records for the process at the other end of a socket. `beat` is called now and then while that process is waited for.
    ///
    /// # Errors
    /// If the descriptor is no socket.
    pub fn new(socket: BorrowedFd<'a>, beat: impl FnMut() + 'a) -> Result<Outgoing<'a>, HandoverError> {
        rights::set_patience(socket, BEAT)?;
        let (packer, rights, body) = (Packer::default(), Vec::new(), Vec::new());
        Ok(Outgoing { socket, packer, rights, body, beat: Box::new(beat) })
    }

    /// Goes on with records after those that a packer has taken.
    ///
    /// # Errors
    /// If the descriptor is no socket.
    pub fn after(
        packer: Packer,
        socket: BorrowedFd<'a>,
        beat: impl FnMut() + 'a,
    ) -> Result<Outgoing<'a>, HandoverError> {
        Ok(Outgoing { packer, ..Outgoing::new(socket, beat)? })
    }

    /// Stops for a while. No record with a descriptor may have been added.
    pub fn pause(self) -> Packer {
        debug_assert!(self.rights.is_empty(), "a descriptor is not kept over a pause");
        self.packer
    }

    /// Whether the next message would not wait for the other process.
    pub fn has_room(&self) -> bool {
        rights::is_writable(self.socket)
    }

    /// Adds a record, with a descriptor if one belongs to it.
    ///
    /// # Errors
    /// If the other process has gone.
    pub fn add(
        &mut self,
        kind: Kind,
        record: &impl Message,
        right: Option<BorrowedFd<'a>>,
    ) -> Result<(), HandoverError> {
        let Outgoing { socket, packer, rights, body, beat } = self;
        body.clear();
        // A vector has room for everything.
        record.encode(body).map_err(io::Error::other)?;
        packer.add(kind, body, right.is_some(), |message| send(*socket, message, rights, beat))?;
        body.fill(0);
        rights.extend(right);
        Ok(())
    }

    /// Ends the records, and sends what is left of them.
    ///
    /// # Errors
    /// If the other process has gone.
    pub fn end(mut self) -> Result<(), HandoverError> {
        let Outgoing { socket, packer, rights, beat, .. } = &mut self;
        packer.end(|message| send(*socket, message, rights, beat))
    }
}

/// Sends a message with the descriptors that belong to it.
fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    rights: &mut Vec<BorrowedFd<'_>>,
    beat: &mut dyn FnMut(),
) -> Result<(), HandoverError> {
    loop {
        match rights::send(socket, message, rights) {
            Ok(()) => {
                rights.clear();
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => beat(),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(HandoverError::Ended),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives records and descriptors.
pub struct Incoming<'a> {
    socket: BorrowedFd<'a>,
    unpacker: Unpacker,
    buffer: Vec<u8>,
}

impl<'a> Incoming<'a> {
    /// Records from the process at the other end of a socket.
    pub fn new(socket: BorrowedFd<'a>) -> Incoming<'a> {
        Incoming { socket, unpacker: Unpacker::default(), buffer: vec![0; MESSAGE_MAX] }
    }

    /// Calls `take` with each record, its bytes and its descriptor, until the end has come and fits.
    ///
    /// # Errors
    /// If the other process has gone before, if the records are damaged, or if `take` fails.
    pub fn read_all(
        mut self,
        mut take: impl FnMut(Kind, &[u8], Option<OwnedFd>) -> Result<(), HandoverError>,
    ) -> Result<(), HandoverError> {
        while !self.unpacker.is_over() {
            let mut rights = Vec::new();
            let length = match rights::receive(self.socket, &mut self.buffer, &mut rights) {
                Ok(0) => return Err(HandoverError::Ended),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rights = rights.into_iter();
            self.unpacker.take(&self.buffer[..length], |record, has_socket| {
                let right = has_socket.then(|| rights.next().ok_or(FormatError::Cut)).transpose()?;
                match record {
                    Some(record) => take(record.kind, record.body, right),
                    None => Ok(()),
                }
            })?;
            if rights.next().is_some() {
                return Err(FormatError::Cut.into());
            }
            // The bytes may be secrets of TLS connections.
            self.buffer[..length].fill(0);
        }
        Ok(())
    }
}

/// The descriptor that a carrier's thread must keep in its own table.
impl AsFd for Adopting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.carrier.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::handover::clients::{Channel, Connection};
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn records_arrive_with_their_descriptors() {
        let (near, far) = rights::pair().unwrap();
        let sender = std::thread::spawn(move || {
            let pairs: Vec<_> = (0..600).map(|_| UnixStream::pair().unwrap()).collect();
            let mut outgoing = Outgoing::new(near.as_fd(), || {}).unwrap();
            for (slot, (socket, _)) in (0..).zip(&pairs) {
                outgoing.add(Kind::Channel, &Channel { name: format!("c{slot}") }, None).unwrap();
                let out = vec![7; if slot % 100 == 0 { 3 * MESSAGE_MAX } else { 10 }];
                let connection = Connection { slot, out, ..Connection::default() };
                outgoing.add(Kind::Connection, &connection, Some(socket.as_fd())).unwrap();
            }
            outgoing.end().unwrap();
            pairs.into_iter().map(|(_, peer)| peer).collect::<Vec<_>>()
        });
        let mut arrived = Vec::new();
        let mut names = 0;
        Incoming::new(far.as_fd())
            .read_all(|kind, body, right| {
                match kind {
                    Kind::Connection => arrived.push((Connection::decode(body).unwrap().slot, right.unwrap())),
                    _ => names += 1,
                }
                Ok(())
            })
            .unwrap();
        assert_eq!((arrived.len(), names), (600, 600));
        let peers = sender.join().unwrap();
        for (slot, right) in arrived {
            UnixStream::from(right).write_all(&[1]).unwrap();
            std::io::Read::read_exact(&mut &peers[slot as usize], &mut [0]).unwrap();
        }
    }

    #[test]
    fn an_end_before_the_end_is_noticed_on_both_sides() {
        let (near, far) = rights::pair().unwrap();
        Outgoing::new(near.as_fd(), || {}).unwrap().add(Kind::Channel, &Channel::default(), None).unwrap();
        drop(near);
        assert!(matches!(Incoming::new(far.as_fd()).read_all(|_, _, _| Ok(())), Err(HandoverError::Ended)));
        assert!(matches!(Outgoing::new(far.as_fd(), || {}).unwrap().end(), Err(HandoverError::Ended)));
    }

    #[test]
    fn a_letter_is_of_one_attempt() {
        let (mut mailbox, letters) = Mailbox::new().unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let right: OwnedFd = one.into();
        for number in [1, 2, 5] {
            letters.send(number, &right).unwrap();
        }
        drop(right);
        drop(mailbox.take(2).unwrap());
        assert!(mailbox.take(3).is_err());
        drop(mailbox.take(5).unwrap());
        // Letters of earlier attempts are closed too.
        assert_eq!(std::io::Read::read(&mut &other, &mut [0]).unwrap(), 0);
        drop(letters);
        assert!(mailbox.take(6).is_err());
    }

    #[test]
    fn a_call_off_is_heard_and_a_main_thread_that_ends_is_one() {
        let (report, _reports) = crossbeam_channel::unbounded();
        let (decide, verdict) = crossbeam_channel::unbounded();
        let part = Part { number: 1, report, verdict };
        assert!(!part.is_called_off());
        decide.send(Verdict::Back).unwrap();
        assert!(part.is_called_off());
        decide.send(Verdict::Go).unwrap();
        assert_eq!(part.await_verdict(|| {}), Verdict::Go);
        drop(decide);
        assert!(part.is_called_off());
        assert_eq!(part.await_verdict(|| {}), Verdict::Back);
    }
}
