//! `format=raw`: each payload alone in a WebSocket message. What the client sends is not looked at.

use crate::logic::event::{Draft, Event, Kind};
use crate::logic::protocol::ws::{self, Opcode, PING_FRAME};

use super::coding::Coding;
use super::notice::{Farewell, Notice};
use super::protocol::{Carrier, Protocol};
use super::websocket;

/// The protocol of the raw format.
pub(super) struct WsRaw;

fn write_payload(draft: &Draft, out: &mut Vec<u8>) {
    let opcode = if draft.kind == Kind::Binary { Opcode::Binary } else { Opcode::Text };
    ws::write_frame(out, opcode, &draft.payload);
}

impl Protocol for WsRaw {
    fn name(&self) -> &'static str {
        "ws_raw"
    }

    fn carrier(&self) -> Carrier {
        Carrier::WebSocket
    }

    fn frame(&self, event: &Event, out: &mut Vec<u8>) {
        write_payload(&event.draft, out);
    }

    fn notify(&self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        match notice {
            Notice::Direct(draft) => write_payload(draft, out),
            Notice::Pong(payload) => websocket::write_pong(payload, out),
            // Every message is a payload: there is no place for anything else.
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
