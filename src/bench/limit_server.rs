//! The bare loop, which the server is compared with: it accepts, answers with a fixed head, and sends all pending
//! events to each socket in turn. It has no channels, history, heartbeats or limits, so its cost is the kernel's. For
//! several shards there are as many loops, each on a thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::logic::event::Event;
use crate::logic::id::Id;
use crate::logic::protocol::feed::{Command, Line, LineSplitter, parse};
use crate::logic::protocol::http::{Exchange, Response, encode};
use crate::logic::protocol::ws::accept_key;
use crate::logic::session::{LaneKey, Spoken};
use crate::sys::affinity;
use crate::sys::clock::unix_ms;
use crate::sys::epoll::{Epoll, Events, Interest};
use crate::sys::fdtable::raise_descriptor_limit;
use crate::sys::socket::{self, TcpOptions};

use super::args::{Format, Transport};
use super::clients::WEBSOCKET_KEY;
use super::scenario_args::LimitServerArgs;

const LISTENER: u64 = u64::MAX;
const FEED: u64 = u64::MAX - 1;
const PUBLISHER: u64 = u64::MAX - 2;

struct Client {
    /// `None` once the client has disconnected.
    stream: Option<TcpStream>,
    is_open: bool,
    sent: usize,
}

struct Loop {
    /// The core, if the loop is pinned.
    core: Option<usize>,
    epoll: Epoll,
    listener: TcpListener,
    feed: Option<UnixListener>,
    publisher: Option<UnixStream>,
    /// Sockets to the other loops, which read events from them.
    others: Vec<UnixStream>,
    clients: Vec<Client>,
    head: Vec<u8>,
    key: LaneKey,
    log: Vec<u8>,
    last: Id,
    lines: LineSplitter,
}

/// Serves until the process is killed.
pub(super) fn run(args: &LimitServerArgs) -> io::Result<()> {
    raise_descriptor_limit()?;
    let options = TcpOptions { backlog: 65_535, not_sent_low_water: 64 * 1024, user_timeout: Duration::from_secs(60) };
    let mut head = Vec::new();
    let accept = accept_key(WEBSOCKET_KEY);
    let (response, spoken) = match (args.transport, args.format) {
        (Transport::Ws, Format::Raw) => (Response::websocket(&accept, None), Spoken::WS_RAW),
        (Transport::Ws, _) => (Response::websocket(&accept, None), Spoken::WS_JSON),
        _ => (Response::events(), Spoken::SSE),
    };
    encode(&response, &Exchange { is_http_1_1: true, ..Exchange::default() }, &mut head);
    let key = LaneKey::of(spoken, true);
    let cores = args.steer.then(affinity::usable_cores).unwrap_or_default();
    let start = |nth: u32, feed: Option<UnixListener>, publisher: Option<UnixStream>| -> io::Result<Loop> {
        let bare = Loop {
            core: cores.get(nth as usize).copied(),
            epoll: Epoll::new()?,
            listener: socket::listen_tcp(args.listen.into(), &options)?,
            feed,
            publisher,
            others: Vec::new(),
            clients: Vec::new(),
            head: head.clone(),
            key,
            log: Vec::new(),
            last: Id::ZERO,
            lines: LineSplitter::new(1 << 20),
        };
        if let Some(core) = bare.core {
            socket::steer_to(&bare.listener, core)?;
        }
        bare.epoll.add(bare.listener.as_fd(), LISTENER, Interest::Readable)?;
        if let Some(feed) = &bare.feed {
            bare.epoll.add(feed.as_fd(), FEED, Interest::Readable)?;
        }
        if let Some(publisher) = &bare.publisher {
            bare.epoll.add(publisher.as_fd(), PUBLISHER, Interest::Readable)?;
        }
        Ok(bare)
    };
    let feed = socket::listen_unix(&args.feed, 0o600, None).map_err(io::Error::other)?;
    let mut bare = start(0, Some(feed), None)?;
    for nth in 1..args.loops {
        let (to_other, publisher) = UnixStream::pair()?;
        bare.others.push(to_other);
        let mut other = start(nth, None, Some(publisher))?;
        std::thread::spawn(move || other.serve());
    }
    bare.serve()
}

impl Loop {
    fn serve(&mut self) -> io::Result<()> {
        self.core.map(affinity::pin_to);
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.has_pending().then_some(Duration::ZERO);
            self.epoll.wait(&mut events, timeout)?;
            for index in 0..events.len() {
                match events.get(index).token {
                    LISTENER => self.accept()?,
                    FEED => self.take_publisher()?,
                    PUBLISHER => self.read_feed()?,
                    client => self.answer(client as usize)?,
                }
            }
            self.send_pending();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..64 {
            let Some((fd, _)) = socket::accept(self.listener.as_fd())? else { break };
            self.epoll.add(fd.as_fd(), self.clients.len() as u64, Interest::Readable)?;
            self.clients.push(Client { stream: Some(fd.into()), is_open: false, sent: 0 });
        }
        Ok(())
    }

    /// Reads the request, whatever it says, and sends the head.
    fn answer(&mut self, index: usize) -> io::Result<()> {
        let client = &mut self.clients[index];
        let Some(stream) = &mut client.stream else { return Ok(()) };
        let mut buffer = [0; 2048];
        if stream.read(&mut buffer).is_ok_and(|length| length > 0) && !client.is_open {
            // If the client has disconnected, the next read shows it.
            let _ = socket::send(stream.as_fd(), &self.head);
            client.is_open = true;
            client.sent = self.log.len();
            return Ok(());
        }
        // The entry stays in the list: finding it again would be more than a bare loop does.
        self.epoll.remove(stream.as_fd())?;
        client.stream = None;
        client.is_open = false;
        Ok(())
    }

    fn take_publisher(&mut self) -> io::Result<()> {
        let Some(feed) = &self.feed else { return Ok(()) };
        if let Some((fd, _)) = socket::accept(feed.as_fd())? {
            self.epoll.add(fd.as_fd(), PUBLISHER, Interest::Readable)?;
            self.publisher = Some(fd.into());
        }
        Ok(())
    }

    fn read_feed(&mut self) -> io::Result<()> {
        let Some(publisher) = &mut self.publisher else { return Ok(()) };
        let mut buffer = vec![0; 64 * 1024];
        let length = match publisher.read(&mut buffer) {
            Ok(0) => {
                self.publisher = None;
                return Ok(());
            }
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        for other in &mut self.others {
            other.write_all(&buffer[..length])?;
        }
        self.lines.push(&buffer[..length]);
        let now_ms = unix_ms();
        while let Some(line) = self.lines.next_line() {
            let Line::Whole(line) = line else { continue };
            let Ok(request) = parse(line) else { continue };
            if let Command::Publish(publish) = request.command {
                self.last = self.last.next(now_ms);
                let channel = publish.channels[0].clone();
                let event = Event { id: self.last, channel, draft: publish.draft };
                self.key.frame(&event, &mut self.log);
            }
        }
        Ok(())
    }

    fn has_pending(&self) -> bool {
        !self.log.is_empty()
    }

    /// Sends all pending events to each client in turn. Once all clients have them, the log is cleared.
    fn send_pending(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let mut is_done = true;
        for client in self.clients.iter_mut().filter(|client| client.is_open && client.sent < self.log.len()) {
            let Some(stream) = &client.stream else { continue };
            match socket::send(stream.as_fd(), &self.log[client.sent..]) {
                Ok(length) => client.sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => client.is_open = false,
            }
            is_done &= client.sent == self.log.len() || !client.is_open;
        }
        if is_done {
            self.log.clear();
            self.clients.iter_mut().for_each(|client| client.sent = 0);
        }
    }
}
