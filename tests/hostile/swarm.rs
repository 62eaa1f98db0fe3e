//! Hostile clients: many connections that one thread drives, bounded in number, bytes and time.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::follower::{connect_from, connect_with};

/// The bounds of one swarm.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at a time.
    pub connections: usize,
    /// Connections altogether, with those that replace the ones that the server has ended.
    pub connections_total: usize,
    /// Bytes sent altogether.
    pub bytes: usize,
    /// The end of the attack.
    pub until: Instant,
}

/// What the clients of a swarm say.
pub struct Script<'a> {
    /// What a connection sends first.
    pub opening: &'a dyn Fn(usize) -> Vec<u8>,
    /// What a connection sends again and again once it has been answered; nothing if this is empty.
    pub next: &'a mut dyn FnMut(usize) -> Vec<u8>,
    /// Whether the connections read what they are answered.
    pub is_reading: bool,
    /// The messages after which a connection is given up and replaced; 0 for never.
    pub leaves_after: usize,
}

struct Client {
    stream: TcpStream,
    waiting: Vec<u8>,
    sent: usize,
    is_answered: bool,
    messages: usize,
}

/// What a swarm did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub connections: usize,
    pub bytes: usize,
}

/// Makes the calling thread yield to the honest clients and the server: real attackers use other hosts' processors.
pub fn be_modest() {
    // SAFETY: takes no pointers; changes the calling thread's own priority.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, 15) };
}

/// The address of hostile clients: one host, other than the honest clients'.
pub fn source() -> [u8; 4] {
    [127, 0, 0, 66]
}

/// The address of one of many hostile hosts.
pub fn one_of_many(number: usize) -> [u8; 4] {
    [127, 66, (number / 250 % 250) as u8, (number % 250 + 1) as u8]
}

/// Has a swarm act until its bounds are reached.
pub fn act(front: SocketAddr, source: [u8; 4], bounds: Bounds, script: &mut Script<'_>) -> Done {
    be_modest();
    let mut clients: Vec<Option<Client>> = Vec::new();
    clients.resize_with(bounds.connections, || None);
    let mut done = Done::default();
    let mut buffer = vec![0; 64 << 10];
    while Instant::now() < bounds.until && done.bytes < bounds.bytes {
        let mut has_moved = false;
        for (number, place) in clients.iter_mut().enumerate() {
            if place.is_none() && done.connections < bounds.connections_total {
                if let Ok(stream) = connect_from(source, front)
                    && stream.set_nonblocking(true).is_ok()
                {
                    let waiting = (script.opening)(number);
                    *place = Some(Client { stream, waiting, sent: 0, is_answered: false, messages: 0 });
                }
                done.connections += 1;
            }
            let Some(client) = place else { continue };
            match client.step(number, script, &mut buffer) {
                Ok(sent) => {
                    has_moved |= sent > 0;
                    done.bytes += sent;
                }
                Err(_) => *place = None,
            }
            if Instant::now() >= bounds.until {
                break;
            }
        }
        if !has_moved {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // What is held stays held to the end of the attack.
    std::thread::sleep(bounds.until.saturating_duration_since(Instant::now()));
    done
}

impl Client {
    /// Reads and writes without waiting; returns how many bytes were written.
    fn step(&mut self, number: usize, script: &mut Script<'_>, buffer: &mut [u8]) -> std::io::Result<usize> {
        if script.is_reading || !self.is_answered {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.is_answered = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if self.sent == self.waiting.len() && self.is_answered {
            if script.leaves_after > 0 && self.messages == script.leaves_after {
                return Err(ErrorKind::Other.into());
            }
            self.messages += 1;
            self.waiting = (script.next)(number);
            self.sent = 0;
        }
        if self.sent == self.waiting.len() {
            return Ok(0);
        }
        match self.stream.write(&self.waiting[self.sent..]) {
            Ok(length) => {
                self.sent += length;
                Ok(length)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// A client with little room in its kernel that sends a request and reads nothing.
pub fn deaf(front: SocketAddr, source: [u8; 4], request: &[u8]) -> Option<TcpStream> {
    let mut stream = connect_with(source, front, Some(4096)).ok()?;
    stream.write_all(request).ok()?;
    Some(stream)
}

/// A request's head.
pub fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").into_bytes()
}

/// The request that opens a WebSocket.
pub fn upgrade(target: &str) -> Vec<u8> {
    get(
        target,
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    )
}

/// A masked text frame (RFC 6455 §5.2) whose mask is zero.
pub fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        length @ ..126 => frame.push(0x80 | length as u8),
        length @ ..65536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}
