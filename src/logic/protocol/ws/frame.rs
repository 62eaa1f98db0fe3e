//! Frames (RFC 6455 §5.2): a server's, which are not masked, and a client's, for the command line, the bench and tests.

use crate::logic::protocol::prepend;

/// A frame's opcode (RFC 6455 §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0,
    /// A message of UTF-8 text.
    Text = 1,
    /// A message of bytes.
    Binary = 2,
    /// The closing handshake, with a code and a reason.
    Close = 8,
    /// A ping, which is answered by a pong.
    Ping = 9,
    /// A pong, the answer to a ping.
    Pong = 10,
}

impl Opcode {
    /// The opcode of a number, if there is one.
    pub(super) fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    /// Whether a frame with this opcode is a control frame (RFC 6455 §5.5).
    pub(super) fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// A server's ping without payload.
pub const PING_FRAME: &[u8] = &[0x89, 0];

/// The longest reason that a close frame has room for, in bytes.
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// A final frame's header, up to the mask.
struct Header {
    bytes: [u8; 10],
    length: usize,
}

impl Header {
    fn new(opcode: Opcode, payload_length: usize, mask_bit: u8) -> Header {
        let mut bytes = [0; 10];
        bytes[0] = 0x80 | opcode as u8;
        let length = match payload_length {
            0..=125 => {
                bytes[1] = payload_length as u8;
                2
            }
            126..=0xffff => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(payload_length as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&(payload_length as u64).to_be_bytes());
                10
            }
        };
        bytes[1] |= mask_bit;
        Header { bytes, length }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Appends the header of a server's (unmasked, final) frame with a payload of `length` bytes.
pub fn write_frame_header(out: &mut Vec<u8>, opcode: Opcode, length: usize) {
    out.extend_from_slice(Header::new(opcode, length, 0).bytes());
}

/// Appends a server's frame whose payload is what `payload` appends.
pub fn write_frame_with(out: &mut Vec<u8>, opcode: Opcode, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    payload(out);
    let header = Header::new(opcode, out.len() - start, 0);
    prepend(out, start, header.bytes());
}

/// Appends a server's frame.
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    write_frame_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a server's close frame. A reason that is too long is cut between two characters.
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    write_frame_header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends a client's frame, masked with `mask` (RFC 6455 §5.3).
pub fn write_client_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    out.extend_from_slice(Header::new(opcode, payload.len(), 0x80).bytes());
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

/// Masks or unmasks `bytes`, which start at a multiple of four bytes into the payload.
pub(super) fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in bytes.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// A server's frame as a client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFrame<'a> {
    /// Whether the frame is its message's last.
    pub fin: bool,
    /// The opcode.
    pub opcode: Opcode,
    /// The payload.
    pub payload: &'a [u8],
    /// The bytes that the frame took.
    pub consumed: usize,
}

/// Reads a server's frame from the beginning of `bytes`; `None` if some of it is still to come.
///
/// # Errors
/// A sentence, if the bytes are no frame that a server may send.
pub fn parse_server_frame(bytes: &[u8]) -> Result<Option<ServerFrame<'_>>, &'static str> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 || second & 0x80 != 0 {
        return Err("the server sent a frame that is masked or has reserved bits set");
    }
    let opcode = Opcode::from_bits(first & 15).ok_or("the server sent a frame of an unknown kind")?;
    let Some((start, length)) = payload_length(bytes, second & 0x7f) else { return Ok(None) };
    let length = usize::try_from(length).map_err(|_| "the server sent an impossibly long frame")?;
    let end = start.checked_add(length).ok_or("the server sent an impossibly long frame")?;
    Ok(bytes.get(start..end).map(|payload| ServerFrame { fin: first & 0x80 != 0, opcode, payload, consumed: end }))
}

/// The start of the payload (or of the mask) and the payload's length, from the seven-bit length and the bytes that
/// extend it; `None` if some of those are still to come.
pub(super) fn payload_length(bytes: &[u8], short: u8) -> Option<(usize, u64)> {
    match short {
        126 => {
            let long = bytes.get(2..4)?;
            Some((4, u64::from(u16::from_be_bytes([long[0], long[1]]))))
        }
        127 => {
            let long = bytes.get(2..10)?;
            Some((10, long.iter().fold(0, |length, byte| length << 8 | u64::from(*byte))))
        }
        _ => Some((2, u64::from(short))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = b"before".to_vec();
        write(&mut out);
        assert_eq!(out[..6], *b"before");
        out.split_off(6)
    }

    #[test]
    fn a_length_takes_as_few_bytes_as_it_can() {
        for (length, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (0xffff, &[0x82, 126, 0xff, 0xff]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (0x1_0203, &[0x82, 127, 0, 0, 0, 0, 0, 1, 2, 3]),
        ] {
            let payload = vec![7; length];
            let frame = [header, &payload].concat();
            assert_eq!(written(|out| write_frame_header(out, Opcode::Binary, length)), header);
            assert_eq!(written(|out| write_frame(out, Opcode::Binary, &payload)), frame);
            assert_eq!(written(|out| write_frame_with(out, Opcode::Binary, |out| out.extend(&payload))), frame);
            let read = ServerFrame { fin: true, opcode: Opcode::Binary, payload: &payload, consumed: frame.len() };
            assert_eq!(parse_server_frame(&[&frame[..], b"next"].concat()), Ok(Some(read)));
            for cut in (0..=header.len()).chain([frame.len() - 1]).filter(|cut| *cut < frame.len()) {
                assert_eq!(parse_server_frame(&frame[..cut]), Ok(None), "{cut} of {length}");
            }
            let masked = written(|out| write_client_frame(out, Opcode::Binary, &payload, [7, 6, 5, 4]));
            let (start, unmasked) = masked.split_at(header.len() + 4);
            assert_eq!((start[1], &start[2..]), (header[1] | 0x80, &[&header[2..], &[7, 6, 5, 4]].concat()[..]));
            assert!(unmasked.iter().zip([0, 1, 2, 3].iter().cycle()).all(|(byte, expected)| byte == expected));
            assert_eq!(unmasked.len(), length);
        }
    }

    #[test]
    fn a_closing_frame_has_a_code_and_as_much_of_the_reason_as_fits() {
        assert_eq!(written(|out| write_close(out, 1001, "bye")), b"\x88\x05\x03\xe9bye");
        let (short, long) = ("x".repeat(123), "é".repeat(62));
        assert_eq!(written(|out| write_close(out, 1000, &short)), [b"\x88\x7d\x03\xe8", short.as_bytes()].concat());
        assert_eq!(
            written(|out| write_close(out, 1000, &long)),
            [b"\x88\x7c\x03\xe8", &long.as_bytes()[..122]].concat()
        );
    }

    #[test]
    fn frames_that_no_server_may_send_are_refused() {
        assert_eq!(PING_FRAME, written(|out| write_frame(out, Opcode::Ping, b"")));
        for kind in 0..16u8 {
            let opcode = Opcode::from_bits(kind);
            assert_eq!(opcode.is_some(), matches!(kind, 0..=2 | 8..=10), "{kind}");
            assert!(opcode.is_none_or(|opcode| opcode as u8 == kind && opcode.is_control() == (kind >= 8)));
            let read = parse_server_frame(&[kind, 1, b'x']).map(|frame| frame.map(|frame| (frame.fin, frame.opcode)));
            assert_eq!(read.ok(), opcode.map(|opcode| Some((false, opcode))));
        }
        for bad in [
            &[0xc1, 0][..],
            &[0xa1, 0],
            &[0x91, 0],
            &[0x81, 0x80, 0, 0, 0, 0],
            &[&[0x82, 127][..], &[0xff; 8]].concat(),
        ] {
            assert!(parse_server_frame(bad).is_err(), "{bad:?}");
        }
    }
}
