//! Transfer codings, and the key of a lane: a protocol in a coding.

use crate::logic::event::Event;
use crate::logic::protocol::http::{LAST_CHUNK, wrap_chunk};

use super::notice::{Farewell, Notice, Welcome};
use super::protocol::{Carrier, Protocol};
use super::table::{Spoken, TABLE};

/// How a protocol's bytes are wrapped on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Coding {
    /// As they are.
    Identity = 0,
    /// As chunks (RFC 9112 §7.1), each a whole message or more.
    Chunked = 1,
}

impl Coding {
    /// The coding of what `carrier` carries in an answer to a request of HTTP/1.1 or 1.0.
    pub fn of(carrier: Carrier, is_http_1_1: bool) -> Coding {
        if carrier == Carrier::Stream && is_http_1_1 { Coding::Chunked } else { Coding::Identity }
    }

    /// Wraps the bytes of `out` from `start` on.
    pub fn wrap(self, out: &mut Vec<u8>, start: usize) {
        match self {
            Coding::Identity => {}
            Coding::Chunked => wrap_chunk(out, start),
        }
    }

    /// Appends what ends the coding, so that the end of a response can be told from a cut.
    pub fn finish(self, out: &mut Vec<u8>) {
        match self {
            Coding::Identity => {}
            Coding::Chunked => out.extend_from_slice(LAST_CHUNK),
        }
    }
}

/// A protocol in a coding, as one byte: what a connection speaks, and which of a channel's lanes it reads.
///
/// The lower five bits are the protocol's number, the upper three the coding's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneKey(u8);

const PROTOCOL_BITS: u32 = 5;
const _: () = assert!(TABLE.len() <= 1 << PROTOCOL_BITS, "a protocol's number has five bits in a lane's key");
const _: () = assert!(size_of::<LaneKey>() == 1, "each connection and each lane has one");

impl LaneKey {
    /// The key of a protocol in a coding.
    pub const fn new(spoken: Spoken, coding: Coding) -> LaneKey {
        LaneKey((coding as u8) << PROTOCOL_BITS | spoken.number())
    }

    /// The key of what a request is answered in.
    pub fn of(spoken: Spoken, is_http_1_1: bool) -> LaneKey {
        LaneKey::new(spoken, Coding::of(spoken.protocol().carrier(), is_http_1_1))
    }

    /// The key as a number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The protocol's place in the table.
    pub const fn spoken(self) -> Spoken {
        Spoken::from_number(self.0 & ((1 << PROTOCOL_BITS) - 1))
    }

    /// The protocol that the key names.
    pub fn protocol(self) -> &'static dyn Protocol {
        self.spoken().protocol()
    }

    /// The coding that the key names.
    pub const fn coding(self) -> Coding {
        match self.0 >> PROTOCOL_BITS {
            0 => Coding::Identity,
            _ => Coding::Chunked,
        }
    }

    /// Appends an event, coded.
    pub fn frame(self, event: &Event, out: &mut Vec<u8>) {
        self.coded(out, |protocol, out| protocol.frame(event, out));
    }

    /// Appends what opens the session, coded.
    pub fn welcome(self, welcome: &Welcome<'_>, out: &mut Vec<u8>) {
        self.coded(out, |protocol, out| protocol.welcome(welcome, out));
    }

    /// Appends a notice, coded.
    pub fn notify(self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        self.coded(out, |protocol, out| protocol.notify(notice, out));
    }

    /// The heartbeat, coded.
    pub fn heartbeat(self) -> Option<&'static [u8]> {
        self.protocol().heartbeat(self.coding())
    }

    /// Appends the last words, coded, and the end of the coding.
    pub fn close(self, farewell: &Farewell<'_>, out: &mut Vec<u8>) {
        self.coded(out, |protocol, out| protocol.close(farewell, out));
        self.coding().finish(out);
    }

    fn coded(self, out: &mut Vec<u8>, write: impl FnOnce(&dyn Protocol, &mut Vec<u8>)) {
        let start = out.len();
        write(self.protocol(), out);
        self.coding().wrap(out, start);
    }
}

impl Default for LaneKey {
    /// The key that free slots have: a chunked event stream.
    fn default() -> LaneKey {
        LaneKey::new(Spoken::SSE, Coding::Chunked)
    }
}

impl std::fmt::Debug for LaneKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.protocol().name(), self.coding())
    }
}
