//! WebSocket (RFC 6455): the handshake, frames, and reading messages.

mod decode;
mod frame;
mod handshake;

pub use decode::{Decoder, Message, Read, Violation};
pub use frame::{
    Opcode, PING_FRAME, ServerFrame, parse_server_frame, write_client_frame, write_close, write_frame,
    write_frame_header, write_frame_with,
};
pub use handshake::{SUBPROTOCOL, Upgrade, accept_key, check_upgrade, offers};

/// The connection has done what it was for.
pub const CLOSE_NORMAL: u16 = 1000;
/// The server is going away.
pub const CLOSE_GOING_AWAY: u16 = 1001;
/// The peer broke the protocol.
pub const CLOSE_PROTOCOL: u16 = 1002;
/// Text that is no UTF-8.
pub const CLOSE_INVALID_DATA: u16 = 1007;
/// The client did what is not allowed here.
pub const CLOSE_POLICY: u16 = 1008;
/// A message over the limit.
pub const CLOSE_TOO_BIG: u16 = 1009;
/// The client reads too slowly ("try again later" in IANA's registry).
pub const CLOSE_TOO_SLOW: u16 = 1013;
/// The client's token has expired.
pub const CLOSE_EXPIRED: u16 = 4001;
/// The backend ended the connection.
pub const CLOSE_KICKED: u16 = 4003;
