//! What a protocol is: one object for both directions.

use crate::logic::event::Event;
use crate::logic::protocol::ws::Decoder;
use crate::logic::reason::Violation;

use super::coding::Coding;
use super::intent::Intent;
use super::notice::{Farewell, Notice, Payload, Welcome};
use super::websocket;

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// An HTTP response that goes on. Its client is silent.
    Stream,
    /// A WebSocket. Its client answers each heartbeat with some bytes.
    WebSocket,
    /// One HTTP response, which may be held until there is something to answer with. The next request on the connection
    /// may be for something else.
    Poll,
}

impl Carrier {
    /// The name in log lines, for the backend and in the admin API.
    pub const fn name(self) -> &'static str {
        match self {
            Carrier::Stream => "sse",
            Carrier::WebSocket => "ws",
            Carrier::Poll => "poll",
        }
    }
}

/// What a read of a client's bytes has come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<'a> {
    /// How many bytes are used up; 0 if more must come first.
    pub consumed: usize,
    /// What the client has said, if a message is complete.
    pub said: Option<Said<'a>>,
}

/// A whole message of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Said<'a> {
    /// The bytes that count towards how much a client may send.
    pub weight: usize,
    /// The message, to be put aside and interpreted again later; `None` for what belongs to the carrier (ping, pong,
    /// close), which is never put aside.
    pub payload: Option<Payload<'a>>,
    /// What the message asks for.
    pub intent: Intent<'a>,
}

/// One wire protocol, for both directions. It holds nothing of any one connection: what a connection has is passed in.
///
/// Everything a protocol appends is whole messages of its own, before the lane's [`Coding`] is applied.
pub trait Protocol: Sync {
    /// The name, which no other protocol of the table has.
    fn name(&self) -> &'static str;

    /// What carries it.
    fn carrier(&self) -> Carrier;

    /// The WebSocket subprotocol (RFC 6455 §1.9) that is agreed on if the client offers it.
    fn subprotocol(&self) -> Option<&'static str> {
        None
    }

    /// Whether a client can ask for something within the session and is told what was refused. Without that, everything
    /// is checked before the session begins, and a session that has lost its last channel ends.
    fn takes_requests(&self) -> bool {
        false
    }

    /// Whether it has a form for [`Notice::Beat`], so that clients may ask for heartbeats that scripts can see.
    fn shows_beats(&self) -> bool {
        false
    }

    /// Whether its clients subscribe to channels and are known to the backend. A session without channels serves
    /// diagnostics alone.
    fn has_channels(&self) -> bool {
        true
    }

    /// What a client is told that asks for something before it has sent the token that it must send first.
    fn token_first(&self) -> &'static str {
        "a token must come first"
    }

    /// Appends an event. It is called once per event and lane, and every subscriber gets the same bytes.
    fn frame(&self, event: &Event, out: &mut Vec<u8>);

    /// Reads from the beginning of a client's bytes, which may be changed in place. `partial` is what was read of a
    /// message that is not whole yet.
    ///
    /// # Errors
    /// If the bytes break the protocol.
    fn parse<'a>(
        &self,
        input: &'a mut [u8],
        partial: &'a mut Decoder,
        message_bytes_max: usize,
    ) -> Result<Parsed<'a>, Violation> {
        match self.carrier() {
            Carrier::WebSocket => websocket::parse(self, input, partial, message_bytes_max),
            // The session ends with its response; bytes that come before are no part of it.
            Carrier::Stream | Carrier::Poll => Ok(Parsed { consumed: input.len(), said: None }),
        }
    }

    /// What a message asks for. The same message may be interpreted again after it has been put aside.
    fn interpret<'a>(&self, _message: Payload<'a>) -> Intent<'a> {
        Intent::Alive
    }

    /// Appends what opens the session, after the response's head.
    fn welcome(&self, _welcome: &Welcome<'_>, _out: &mut Vec<u8>) {}

    /// Appends a notice; nothing, where the protocol has no place for it.
    fn notify(&self, notice: &Notice<'_>, out: &mut Vec<u8>);

    /// What keeps a silent connection alive, as it is sent in a coding; `None` if there is no such thing.
    fn heartbeat(&self, coding: Coding) -> Option<&'static [u8]>;

    /// Appends the last words to a client. The end of the coding is written by [`Coding::finish`].
    fn close(&self, farewell: &Farewell<'_>, out: &mut Vec<u8>);
}
