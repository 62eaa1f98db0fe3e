//! The heads of frames (RFC 9113 §4.1), and short frames of the server.

use super::error::ErrorCode;

/// The bytes of a frame's head.
pub const HEADER: usize = 9;
/// The longest payload that a peer may send without having been allowed more (RFC 9113 §4.2).
pub const FRAME_MAX: usize = 16_384;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A body's bytes.
    Data,
    /// A block of fields, or the beginning of one.
    Headers,
    /// A priority by the old scheme, which is ignored.
    Priority,
    /// The end of a stream at once.
    RstStream,
    /// The peer's settings, or the acknowledgement of ours.
    Settings,
    /// A promise, which clients must not make.
    PushPromise,
    /// A question whether the connection is alive, or the answer.
    Ping,
    /// The end of the connection.
    GoAway,
    /// Room for more bytes.
    WindowUpdate,
    /// More of a block of fields.
    Continuation,
    /// A kind that is not known, which is ignored.
    Unknown,
}

impl Kind {
    /// The kind of that number (RFC 9113 §6).
    pub fn from_number(number: u8) -> Kind {
        match number {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::RstStream,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Unknown,
        }
    }

    /// The kind's number.
    fn number(self) -> u8 {
        self as u8
    }
}

/// The flags of frames. Their meaning depends on the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag;

impl Flag {
    /// DATA and HEADERS: nothing follows on the stream.
    pub const END_STREAM: u8 = 1;
    /// SETTINGS and PING: the answer.
    pub const ACK: u8 = 1;
    /// HEADERS and CONTINUATION: the block is complete.
    pub const END_HEADERS: u8 = 4;
    /// DATA and HEADERS: the payload is padded.
    pub const PADDED: u8 = 8;
    /// HEADERS: a priority stands before the block.
    pub const PRIORITY: u8 = 32;
}

/// A frame that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    /// The stream's number; 0 for the connection.
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

/// The frame's length is beyond [`FRAME_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl<'a> Frame<'a> {
    /// Reads one frame from the beginning of `bytes`; `None` if it is not whole yet.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Option<Frame<'a>>, TooLong> {
        let Some((head, rest)) = bytes.split_at_checked(HEADER) else { return Ok(None) };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if length > FRAME_MAX {
            return Err(TooLong);
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let frame = |payload| Frame { kind: Kind::from_number(head[3]), flags: head[4], stream, payload };
        Ok(rest.get(..length).map(frame))
    }

    /// The bytes of the whole frame.
    pub(super) fn bytes(&self) -> usize {
        HEADER + self.payload.len()
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without its padding (RFC 9113 §6.1); `None` if there is more padding than payload.
    pub(super) fn unpadded(&self) -> Option<&'a [u8]> {
        if !self.has(Flag::PADDED) {
            return Some(self.payload);
        }
        let (padding, rest) = self.payload.split_first()?;
        rest.len().checked_sub(usize::from(*padding)).map(|length| &rest[..length])
    }

    /// The payload as a number of four bytes, which is all that some kinds have.
    pub(super) fn number(&self) -> Option<u32> {
        self.payload.try_into().ok().map(u32::from_be_bytes)
    }
}

/// Appends the head of a frame with a payload of `length` bytes, which is at most 2^24 − 1.
pub fn write_header(kind: Kind, flags: u8, stream: u32, length: usize, out: &mut Vec<u8>) {
    let length = (length as u32).to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind.number(), flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// Appends room for more bytes on a stream, or on the connection if that is 0.
pub fn write_update(stream: u32, more: u32, out: &mut Vec<u8>) {
    write_header(Kind::WindowUpdate, 0, stream, 4, out);
    out.extend_from_slice(&more.to_be_bytes());
}

/// Appends the end of a stream at once.
pub fn write_reset(stream: u32, code: ErrorCode, out: &mut Vec<u8>) {
    write_header(Kind::RstStream, 0, stream, 4, out);
    out.extend_from_slice(&(code as u32).to_be_bytes());
}

/// Appends the end of a connection: streams after `last` are not served.
pub fn write_goaway(last: u32, code: ErrorCode, out: &mut Vec<u8>) {
    write_header(Kind::GoAway, 0, 0, 8, out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&(code as u32).to_be_bytes());
}
