//! WebSocket (RFC 6455): the handshake, frames, and reading messages.

mod decode;
mod frame;
mod handshake;

pub use decode::{Decoder, Message, Read, Unfinished};
pub use frame::{
    Opcode, PING_FRAME, ServerFrame, parse_server_frame, write_client_frame, write_close, write_frame,
    write_frame_header, write_frame_with,
};
pub use handshake::{SUBPROTOCOL, Upgrade, accept_key, check_upgrade, offers};
