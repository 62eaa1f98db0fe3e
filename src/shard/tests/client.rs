//! A client of the model: it reads frames, and remembers their events and gaps.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::logic::id::Id;

use super::carried::Carried;
use super::secured::Secured;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: UnixStream,
    /// The client's side of TLS, if it speaks that.
    pub(super) secured: Option<Box<Secured>>,
    /// The client's stream of HTTP/2, if it speaks that.
    pub(super) carried: Option<Carried>,
    pub(super) speaks: Speaks,
    pub(super) is_resumed: bool,
    pub(super) channels: Vec<usize>,
    pub(super) bytes: Vec<u8>,
    pub(super) text: String,
    pub(super) has_head: bool,
    /// The position after which each event must come, or its loss be told.
    pub(super) since: Id,
    /// The newest event at the time when the client has read the answer's head.
    pub(super) newest_at_head: Id,
    /// The newest event that has come.
    pub(super) last: Id,
    /// The gaps that the client was told of: the ids between which events are lost.
    pub(super) gaps: Vec<(Id, Id)>,
    pub(super) received: Vec<Id>,
    pub(super) is_over: bool,
    /// The client was answered that its channels have ended and nothing is missed.
    pub(super) has_nothing: bool,
}

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// An event stream.
    Sse,
    /// The JSON format on a WebSocket.
    Json,
    /// The made-up protocol of the tests.
    Parrot,
}

impl Client {
    /// A client that has asked for channels, and must get what comes after a position.
    pub(super) fn new(stream: UnixStream, speaks: Speaks, channels: Vec<usize>, since: Id) -> Client {
        Client {
            stream,
            secured: None,
            carried: None,
            speaks,
            is_resumed: false,
            channels,
            bytes: Vec::new(),
            text: String::new(),
            has_head: false,
            since,
            newest_at_head: Id::MAX,
            last: since,
            gaps: Vec::new(),
            received: Vec::new(),
            is_over: false,
            has_nothing: false,
        }
    }

    /// Reads the received bytes as events and notices.
    pub(super) fn understand(&mut self) {
        if !self.has_head {
            let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            let is_stream = self.speaks == Speaks::Sse;
            self.has_nothing = is_stream && self.bytes.starts_with(b"HTTP/1.1 204");
            if self.has_nothing {
                (self.has_head, self.is_over) = (true, true);
                return;
            }
            let expected: &[u8] = if is_stream { b"HTTP/1.1 200" } else { b"HTTP/1.1 101" };
            assert!(self.bytes.starts_with(expected), "{}", String::from_utf8_lossy(&self.bytes));
            self.bytes.drain(..end + 4);
            self.has_head = true;
        }
        match self.speaks {
            Speaks::Sse => self.understand_chunks(),
            Speaks::Json | Speaks::Parrot => self.understand_frames(),
        }
    }

    /// Sends bytes, as far as the server is still there.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        if let Some(carried) = &self.carried {
            return carried.connection.borrow_mut().say(carried.id, bytes);
        }
        match &mut self.secured {
            Some(secured) => secured.send(&self.stream, bytes),
            None => drop((&self.stream).write_all(bytes)),
        }
    }

    fn understand_frames(&mut self) {
        while self.bytes.len() >= 2 {
            let (length, start) = match self.bytes[1] {
                126 if self.bytes.len() >= 4 => (usize::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]])), 4),
                126 => return,
                127 => panic!("no event is that long"),
                length => (usize::from(length), 2),
            };
            if self.bytes.len() < start + length {
                return;
            }
            let frame: Vec<u8> = self.bytes.drain(..start + length).collect();
            if frame[0] == 0x88 {
                // Answers the close frame, as a browser does. The server may have gone by now.
                self.send(b"\x88\x80\0\0\0\0");
            }
            if frame[0] == 0x81 && self.speaks == Speaks::Parrot {
                self.understand_line(std::str::from_utf8(&frame[start..]).unwrap());
            } else if frame[0] == 0x81 {
                let value: serde_json::Value = serde_json::from_slice(&frame[start..]).unwrap();
                if let Some(id) = value["id"].as_str().filter(|_| value["channel"].is_string()) {
                    self.on_event(id.parse().unwrap());
                } else if let Some(id) = value["hello"]["id"].as_str() {
                    self.on_hello(id.parse().unwrap());
                } else if value["gap"].is_object() {
                    self.on_gap(&value["gap"]);
                }
            }
        }
    }

    fn understand_line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["EVENT", id, ..] => self.on_event(id.parse().unwrap()),
            ["HELLO", _, id] => self.on_hello(id.parse().unwrap()),
            ["LOST", after, resumed] => self.gaps.push((after.parse().unwrap(), resumed.parse().unwrap())),
            _ => {}
        }
    }

    fn understand_chunks(&mut self) {
        while let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&self.bytes[..end]).unwrap(), 16).unwrap();
            let whole = end + 2 + size + 2;
            if self.bytes.len() < whole {
                return;
            }
            let chunk: Vec<u8> = self.bytes.drain(..whole).collect();
            self.text.push_str(std::str::from_utf8(&chunk[end + 2..end + 2 + size]).unwrap());
            while let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                if field("event: ").as_deref() == Some("ringcast.gap") {
                    self.on_gap(&serde_json::from_str(&field("data: ").unwrap()).unwrap());
                } else if field("event: ").as_deref() == Some("ringcast.hello") {
                    self.on_hello(field("id: ").unwrap().parse().unwrap());
                } else if let Some(id) = field("id: ") {
                    self.on_event(id.parse().unwrap());
                }
            }
        }
    }

    /// The client has the answer's head; `newest` is the newest event at that time.
    pub(super) fn on_head(&mut self, newest: Id) {
        self.newest_at_head = newest;
        if self.has_nothing && self.is_resumed {
            self.last = newest;
        }
    }

    /// The client is told where it begins: no later than with the first event after the answer's head.
    fn on_hello(&mut self, id: Id) {
        assert!(self.received.is_empty() && self.gaps.is_empty(), "the welcome comes first: {self:?}");
        assert!(id <= self.newest_at_head, "{id} is too late a position: {self:?}");
        if self.is_resumed {
            assert_eq!(id, self.since, "a resume begins where the client asks: {self:?}");
        }
        self.since = id;
        self.last = id;
    }

    fn on_event(&mut self, id: Id) {
        assert!(id > self.since, "{id} is an old event: {self:?}");
        assert!(self.received.last().is_none_or(|last| id > *last), "{id} comes too late: {self:?}");
        self.last = id;
        self.received.push(id);
    }

    fn on_gap(&mut self, gap: &serde_json::Value) {
        let id = |name: &str| gap[name].as_str().unwrap().parse::<Id>().unwrap();
        self.gaps.push((id("after"), id("resumed")));
    }
}

/// Sends a client's WebSocket message.
pub(super) fn say_to(mut stream: &UnixStream, text: &str) {
    assert!(text.len() < 126);
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).unwrap();
}

/// Reads up to `most` bytes that have come, as text.
pub(super) fn take(mut stream: &UnixStream, most: usize) -> String {
    let mut buffer = vec![0; most];
    let length = stream.read(&mut buffer).unwrap_or(0);
    // The heads of frames are not text.
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}
