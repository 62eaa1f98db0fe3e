//! Echo: a WebSocket that gets its own messages back, by which conformance suites judge the server.

use crate::logic::event::Event;
use crate::logic::protocol::ws::{PING_FRAME, SUBPROTOCOL};

use super::coding::Coding;
use super::intent::Intent;
use super::notice::{Farewell, Notice, Payload};
use super::protocol::{Carrier, Protocol};
use super::websocket;

/// The protocol that sends messages back.
pub(super) struct Echo;

impl Protocol for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn carrier(&self) -> Carrier {
        Carrier::WebSocket
    }

    fn subprotocol(&self) -> Option<&'static str> {
        Some(SUBPROTOCOL)
    }

    fn has_channels(&self) -> bool {
        false
    }

    fn frame(&self, _event: &Event, _out: &mut Vec<u8>) {}

    fn interpret<'a>(&self, message: Payload<'a>) -> Intent<'a> {
        Intent::Reply(Notice::Same(message))
    }

    fn notify(&self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        match notice {
            Notice::Same(payload) => websocket::write_message(*payload, out),
            Notice::Pong(payload) => websocket::write_pong(payload, out),
            _ => {}
        }
    }

    fn heartbeat(&self, _coding: Coding) -> Option<&'static [u8]> {
        Some(PING_FRAME)
    }

    fn close(&self, farewell: &Farewell<'_>, out: &mut Vec<u8>) {
        websocket::write_close(farewell, out);
    }
}
