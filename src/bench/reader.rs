//! One thread of the load generator: its clients, in its own descriptor table, on one epoll.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};
use rustls::ClientConnection;
use socket2::{Domain, SockRef, Socket, Type};

use super::args::{Reading, Sample, Transport};
use super::clients::{Command, Progress, Subscription, Tally};
use super::payload::{self, STAMP_LEN, Scanner, Tail};
use super::{BenchError, io_error, secured};
use crate::logic::protocol::http::ResponseHeadReader;
use crate::sys::epoll::{Epoll, Events, Interest, Ready};
use crate::sys::load;

/// Bytes of one read: about as much as a full socket holds.
const READ_LEN: usize = 256 * 1024;
/// Bytes that one call throws away on a socket whose bytes are only counted.
const DISCARD_LEN: usize = 16 << 20;
/// With [`Reading::Count`] one connection in so many is verified. They are spread evenly, because a walk serves the
/// first connections early and the last ones late.
const VERIFIED_EVERY: usize = 64;
/// The time that a command waits at most while no bytes arrive.
const IDLE_WAIT: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `connect` has not ended.
    Connecting,
    /// The request is sent.
    Asked,
    /// The head is complete; events follow.
    Open,
    /// The server has closed the connection, or the connection has failed.
    Gone,
}

struct Client {
    stream: Option<TcpStream>,
    /// The client's side of TLS, if it speaks that.
    tls: Option<Box<ClientConnection>>,
    phase: Phase,
    /// The number of the next event; 0 before the first event, which may have any.
    expected: u32,
    /// Events since the last reset.
    received: u32,
    /// Bytes since the last reset.
    bytes: u64,
    tail: Tail,
    /// The head of the answer, as far as it has come.
    head: ResponseHeadReader,
}

struct Reader<'a> {
    thread: usize,
    pending_max: usize,
    progress: &'a Progress,
    epoll: Epoll,
    clients: Vec<Client>,
    /// Clients whose connecting has not begun.
    waiting: usize,
    /// Clients whose connecting has begun and whose request is not answered yet.
    pending: usize,
    ready: usize,
    open: usize,
    subscription: Option<Arc<Subscription>>,
    sink: Sink,
    buffer: Box<[u8]>,
}

/// The counters, and the scanner that fills them.
struct Sink {
    scanner: Scanner,
    reading: Reading,
    sample: Sample,
    tally: Tally,
}

/// Runs a load thread until its queue of commands is closed.
pub(crate) fn run(thread: usize, pending_max: usize, commands: &Receiver<Command>, progress: &Progress) {
    let outcome = load::enter_private_table()
        .map_err(io_error("giving a load thread its own descriptors"))
        .and_then(|()| Reader::new(thread, pending_max, progress)?.serve(commands));
    if let Err(error) = outcome {
        fail(progress, &error.to_string());
    }
}

fn fail(progress: &Progress, error: &str) {
    if let Ok(mut first) = progress.first_error.lock() {
        first.get_or_insert_with(|| error.to_owned());
    }
    progress.failed.fetch_add(1, Relaxed);
}

impl<'a> Reader<'a> {
    fn new(thread: usize, pending_max: usize, progress: &'a Progress) -> Result<Self, BenchError> {
        let epoll = Epoll::new().map_err(io_error("making an epoll"))?;
        let (reading, sample) = (Reading::Verify, Sample::Every);
        let sink = Sink { scanner: Scanner::new(), reading, sample, tally: Tally::new()? };
        let (clients, buffer) = (Vec::new(), vec![0; STAMP_LEN + READ_LEN].into_boxed_slice());
        let (waiting, pending, ready, open) = (0, 0, 0, 0);
        let subscription = None;
        let whole = Self {
            thread,
            pending_max,
            progress,
            epoll,
            clients,
            waiting,
            pending,
            ready,
            open,
            subscription,
            sink,
            buffer,
        };
        Ok(whole)
    }

    fn serve(mut self, commands: &Receiver<Command>) -> Result<(), BenchError> {
        let mut events = Events::with_capacity(1024);
        loop {
            match commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {}
            }
            self.connect_some();
            let wait = if commands.is_empty() { IDLE_WAIT } else { Duration::ZERO };
            self.epoll.wait(&mut events, Some(wait)).map_err(io_error("waiting for clients' events"))?;
            for index in 0..events.len() {
                self.on_ready(events.get(index));
            }
            self.show();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Connect(subscription, count) => {
                self.subscription = Some(subscription);
                self.waiting += count;
                self.clients.reserve_exact(count);
            }
            Command::Close { abort } => self.close_all(abort),
            Command::Reset(reading, sample) => {
                let was_deaf = self.sink.reading == Reading::Never;
                (self.sink.reading, self.sink.sample) = (reading, sample);
                self.sink.tally.clear();
                for client in &mut self.clients {
                    (client.received, client.bytes) = (0, 0);
                }
                if was_deaf && reading != Reading::Never {
                    // Of bytes that have waited all the time the kernel does not tell again.
                    for token in 0..self.clients.len() as u64 {
                        self.on_ready(Ready { token, readable: true, writable: false, hung_up: false });
                    }
                }
                self.show();
            }
            Command::Report(answer) => {
                let mut tally = self.sink.tally.clone();
                tally.events = self.events();
                let every = if self.sink.reading == Reading::Verify { 1 } else { VERIFIED_EVERY };
                for client in self.clients.iter().step_by(every).filter(|client| client.phase == Phase::Open) {
                    tally.least = tally.least.min(client.received);
                    tally.most = tally.most.max(client.received);
                }
                // The send fails only if the caller has stopped waiting.
                let _ = answer.send(Box::new(tally));
            }
        }
    }

    fn close_all(&mut self, abort: bool) {
        for stream in self.clients.drain(..).filter_map(|client| client.stream) {
            if abort {
                // If the option cannot be set, the close that follows is an ordinary one.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
        (self.waiting, self.pending, self.ready, self.open) = (0, 0, 0, 0);
        self.progress.lost.store(0, Relaxed);
        self.show();
    }

    /// Events received since the last reset; with [`Reading::Count`] an estimate from bytes and a verified connection's
    /// frames.
    fn events(&self) -> u64 {
        match (self.sink.reading, self.clients.first()) {
            (Reading::Count, Some(first)) if first.bytes > 0 => {
                let exact = u128::from(self.sink.tally.bytes) * u128::from(first.received) / u128::from(first.bytes);
                u64::try_from(exact).unwrap_or(u64::MAX)
            }
            (Reading::Count | Reading::Never, _) => 0,
            (Reading::Verify, _) => self.sink.tally.events,
        }
    }

    fn show(&self) {
        self.progress.ready.store(self.ready, Relaxed);
        self.progress.open.store(self.open, Relaxed);
        self.progress.events.store(self.events(), Relaxed);
    }

    fn connect_some(&mut self) {
        let Some(subscription) = self.subscription.clone() else { return };
        while self.waiting > 0 && self.pending < self.pending_max {
            self.waiting -= 1;
            let token = self.clients.len();
            match connect(&subscription, self.thread, &self.epoll, token) {
                Ok(stream) => {
                    let (expected, received, bytes, tail) = (0, 0, 0, Tail::default());
                    let (stream, phase, head) = (Some(stream), Phase::Connecting, ResponseHeadReader::default());
                    self.clients.push(Client { stream, tls: None, phase, expected, received, bytes, tail, head });
                    self.pending += 1;
                    self.open += 1;
                }
                Err(error) => {
                    fail(self.progress, &format!("connecting to {}: {error}", subscription.target));
                    self.waiting = 0;
                }
            }
        }
    }

    fn on_ready(&mut self, ready: Ready) {
        let index = ready.token as usize;
        if self.clients.get(index).is_some_and(|client| client.phase == Phase::Connecting) {
            self.ask(index);
        }
        if !(ready.readable || ready.hung_up) {
            return;
        }
        let Some(mut client) = self.clients.get_mut(index) else { return };
        let is_open = client.phase == Phase::Open;
        let is_deaf = is_open && self.sink.reading == Reading::Never;
        if is_deaf && !ready.hung_up {
            return;
        }
        let is_counted =
            is_open && (is_deaf || self.sink.reading == Reading::Count && !index.is_multiple_of(VERIFIED_EVERY));
        if client.tls.is_some() && !is_counted {
            return self.read_secured(index);
        }
        loop {
            let Some(stream) = &client.stream else { return };
            let mut stream: &TcpStream = stream;
            if is_counted {
                match load::discard(stream.as_fd(), DISCARD_LEN) {
                    Ok(0) => return self.gone(index, "the server closed it"),
                    Ok(len) => {
                        self.sink.count(len);
                        if len < DISCARD_LEN && !ready.hung_up {
                            return;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(error) => return self.gone(index, &error.to_string()),
                }
                continue;
            }
            match stream.read(&mut self.buffer[STAMP_LEN..]) {
                Ok(0) => return self.gone(index, "the server closed it"),
                Ok(len) => {
                    let before = client.phase;
                    if let Err(answer) = self.sink.take(client, &mut self.buffer[..STAMP_LEN + len], len) {
                        return self.gone(index, &answer);
                    }
                    self.note_opened(index, before);
                    // A short read has emptied the socket, but not told of a closed connection.
                    if len < READ_LEN && !ready.hung_up {
                        return;
                    }
                    let Some(again) = self.clients.get_mut(index) else { return };
                    client = again;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.gone(index, &error.to_string()),
            }
        }
    }

    /// Counts a client whose request was answered by what was just read.
    fn note_opened(&mut self, index: usize, before: Phase) {
        let is_open = self.clients.get(index).is_some_and(|client| client.phase == Phase::Open);
        if is_open && before != Phase::Open {
            self.pending -= 1;
            self.ready += 1;
        }
    }

    /// Reads a client that speaks TLS, up to the end of what has come.
    fn read_secured(&mut self, index: usize) {
        loop {
            let Some(client) = self.clients.get_mut(index) else { return };
            let (Some(stream), Some(mut tls)) = (&client.stream, client.tls.take()) else { return };
            let (mut stream, before): (&TcpStream, Phase) = (stream, client.phase);
            let mut wire = match tls.read_tls(&mut stream) {
                Ok(0) => return self.gone(index, "the server closed it"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    client.tls = Some(tls);
                    return;
                }
                Err(error) => return self.gone(index, &error.to_string()),
            };
            let opened = tls.process_new_packets().map_err(|error| error.to_string());
            // The end of the handshake; a client says little, so that the kernel takes it at once.
            let said = opened.and_then(|_| flush(&mut tls, stream).map_err(|error| error.to_string()));
            let mut taken = said;
            while taken.is_ok()
                && let Ok(length @ 1..) = tls.reader().read(&mut self.buffer[STAMP_LEN..])
            {
                taken = self.sink.take(client, &mut self.buffer[..STAMP_LEN + length], std::mem::take(&mut wire));
            }
            client.tls = Some(tls);
            if let Err(why) = taken {
                return self.gone(index, &why);
            }
            self.note_opened(index, before);
        }
    }

    /// Sends the request of a client whose `connect` has ended; after a failed `connect` the send fails.
    fn ask(&mut self, index: usize) {
        let Some(subscription) = &self.subscription else { return };
        let request = subscription.request(self.thread, index);
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some(mut stream) = client.stream.as_ref() else { return };
        let asked = match &subscription.tls {
            Some(config) => secured::client(config).and_then(|mut tls| {
                tls.writer().write_all(&request)?;
                flush(&mut tls, stream)?;
                client.tls = Some(tls);
                Ok(())
            }),
            None => stream.write(&request).and_then(|length| match length == request.len() {
                true => Ok(()),
                false => Err(ErrorKind::WriteZero.into()),
            }),
        };
        if let Err(error) = asked {
            return self.gone(index, &error.to_string());
        }
        client.phase = Phase::Asked;
        if subscription.transport == Transport::Poll {
            // A poll's answer comes with its first event.
            client.phase = Phase::Open;
            self.pending -= 1;
            self.ready += 1;
        }
    }

    /// Counts a client whose connection has ended: as lost after the answer to its request, as failed before.
    fn gone(&mut self, index: usize, why: &str) {
        let client = &mut self.clients[index];
        client.stream = None;
        self.open -= 1;
        if client.phase == Phase::Open {
            self.progress.lost.fetch_add(1, Relaxed);
        } else {
            self.pending -= 1;
            fail(self.progress, &format!("a client in phase {:?}: {why}", client.phase));
        }
        client.phase = Phase::Gone;
    }
}

impl Sink {
    /// Counts bytes that were thrown away.
    fn count(&mut self, length: usize) {
        self.tally.bytes += length as u64;
        self.tally.last_us = payload::now_us();
    }

    /// Counts the events of one read, for which `wire` bytes came over the wire. `buffer` begins with room for the bytes that the
    /// client's tail has kept.
    ///
    /// # Errors
    /// The beginning of an answer that refuses the client's request.
    fn take(&mut self, client: &mut Client, buffer: &mut [u8], wire: usize) -> Result<(), String> {
        let received = wire as u64;
        let kept = client.tail.bytes();
        let start = STAMP_LEN - kept.len();
        buffer[start..STAMP_LEN].copy_from_slice(kept);
        let mut bytes = &buffer[start..];
        if client.phase != Phase::Open {
            match client.head.push(bytes).map_err(|error| was_answered(&error, bytes))? {
                None => return Ok(()),
                Some((head, _)) if !matches!(head.status, 200 | 101) => return Err(was_answered(&head.status, bytes)),
                Some((_, length)) => bytes = &bytes[length..],
            }
            client.phase = Phase::Open;
        }
        self.tally.bytes += received;
        client.bytes += received;
        let Self { scanner, sample, tally, .. } = self;
        let Client { expected, received, tail, .. } = client;
        let now = payload::now_us();
        let (before, mut last) = (*received, None);
        scanner.scan(bytes, tail, |stamp| {
            tally.disordered += u64::from(*expected != stamp.number && *expected != 0);
            *expected = stamp.number + 1;
            *received += 1;
            last = Some(stamp.time_us);
            if *sample == Sample::Every {
                tally.latency.saturating_record(now.saturating_sub(stamp.time_us));
            }
        });
        if let Some(time_us) = last {
            tally.events += u64::from(*received - before);
            tally.last_us = now;
            if *sample == Sample::Last {
                tally.latency.saturating_record(now.saturating_sub(time_us));
            }
        }
        Ok(())
    }
}

/// Sends what a client's TLS has to say.
fn flush(tls: &mut ClientConnection, mut stream: &TcpStream) -> std::io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(&mut stream)?;
    }
    Ok(())
}

/// The error of an answer other than the expected one.
fn was_answered(problem: &dyn std::fmt::Display, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]);
    format!("was answered {problem}: {:?}", text.trim_end())
}

fn connect(subscription: &Subscription, thread: usize, epoll: &Epoll, token: usize) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    load::choose_port_late(socket.as_fd())?;
    socket.bind(&std::net::SocketAddrV4::new(subscription.source(thread, token), 0).into())?;
    match socket.connect(&subscription.target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    epoll.add(socket.as_fd(), token as u64, Interest::Edges)?;
    Ok(socket.into())
}
