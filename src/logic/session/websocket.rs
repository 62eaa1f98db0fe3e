//! What all protocols on a WebSocket have in common: frames into messages, pings, and the closing handshake.

use crate::logic::protocol::ws::{self, Decoder, Message, Opcode};
use crate::logic::reason::Violation;

use super::intent::Intent;
use super::notice::{Farewell, Notice, Payload};
use super::protocol::{Parsed, Protocol, Said};

/// The close code of a client that gives none (RFC 6455 §7.4.1).
const CLOSE_NORMAL: u16 = 1000;

/// Reads a frame, and what its message asks for in `protocol`.
pub(super) fn parse<'a>(
    protocol: &(impl Protocol + ?Sized),
    input: &'a mut [u8],
    partial: &'a mut Decoder,
    message_bytes_max: usize,
) -> Result<Parsed<'a>, Violation> {
    let read = partial.read(input, message_bytes_max)?;
    let said = read.message.map(|message| match message {
        Message::Text(text) => hear(protocol, Payload::Text(text)),
        Message::Binary(bytes) => hear(protocol, Payload::Binary(bytes)),
        Message::Ping(payload) => {
            let intent = Intent::Reply(Notice::Pong(payload));
            Said { weight: payload.len(), payload: None, intent }
        }
        Message::Pong => Said { weight: 0, payload: None, intent: Intent::Alive },
        Message::Close(code) => leave(code),
    });
    Ok(Parsed { consumed: read.consumed, said })
}

/// The end of the session, by a client that may have given a code. The function is not inlined, because the compiler would
/// look at the code before it knows that the message is a close, which valgrind reports.
#[inline(never)]
fn leave<'a>(code: Option<u16>) -> Said<'a> {
    Said { weight: 0, payload: None, intent: Intent::Leave(code.unwrap_or(CLOSE_NORMAL)) }
}

fn hear<'a>(protocol: &(impl Protocol + ?Sized), payload: Payload<'a>) -> Said<'a> {
    Said { weight: payload.len(), payload: Some(payload), intent: protocol.interpret(payload) }
}

/// Appends one message.
pub(super) fn write_message(payload: Payload<'_>, out: &mut Vec<u8>) {
    match payload {
        Payload::Text(text) => ws::write_frame(out, Opcode::Text, text.as_bytes()),
        Payload::Binary(bytes) => ws::write_frame(out, Opcode::Binary, bytes),
    }
}

/// Appends the answer to a ping.
pub(super) fn write_pong(payload: &[u8], out: &mut Vec<u8>) {
    ws::write_frame(out, Opcode::Pong, payload);
}

/// Appends the close frame that a farewell asks for. Its text is `code: words`, because browsers show scripts no more of it
/// than a number and a text.
pub(super) fn write_close(farewell: &Farewell<'_>, out: &mut Vec<u8>) {
    let Some(close_code) = farewell.close_code() else { return };
    match farewell.code() {
        Some(code) => ws::write_close(out, close_code, &format!("{code}: {}", farewell.words)),
        None => ws::write_close(out, close_code, farewell.words),
    }
}
