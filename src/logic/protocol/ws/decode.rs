//! Reading a client's messages from its frames.

use crate::logic::reason::{Reason, Violation};

use super::frame::{Opcode, apply_mask, payload_length};

/// A whole message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, which is answered by a pong with the same payload.
    Ping(&'a [u8]),
    /// A pong, the answer to a ping.
    Pong,
    /// The closing handshake with the client's code, if it gave one.
    Close(Option<u16>),
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read<'a> {
    /// The bytes that were used up; 0 if more must come first.
    pub consumed: usize,
    /// The message, if one is complete.
    pub message: Option<Message<'a>>,
}

/// Puts messages together from frames. It holds memory only while a message is incomplete.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The message so far; `None` between messages.
    partial: Option<Box<Partial>>,
}

#[derive(Debug)]
struct Partial {
    is_text: bool,
    bytes: Vec<u8>,
    /// The length of the part that is known to be UTF-8, if this is text.
    checked: usize,
    /// The frame whose payload is still to come in part.
    frame: Option<Frame>,
    /// Whether the message was handed out, so that the next read drops it.
    done: bool,
}

/// A data frame whose payload is read while it arrives.
#[derive(Clone, Copy, Debug)]
struct Frame {
    fin: bool,
    /// The mask, rotated so that it begins with the next byte's key.
    mask: [u8; 4],
    /// The bytes of the payload that are still to come.
    left: usize,
}

struct Header {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    start: usize,
    length: usize,
}

fn violation<T>(reason: Reason, words: &'static str) -> Result<T, Violation> {
    Err(Violation { reason, words })
}

/// What a decoder holds of an incomplete message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished<'a> {
    /// Whether the message is text.
    pub is_text: bool,
    /// The message so far.
    pub bytes: &'a [u8],
    /// The frame whose payload is still to come in part: whether it is the last one, the mask from the next byte's key on, and the
    /// bytes that are to come.
    pub frame: Option<(bool, [u8; 4], usize)>,
}

impl Decoder {
    /// What is held of an incomplete message.
    pub fn unfinished(&self) -> Option<Unfinished<'_>> {
        let partial = self.partial.as_ref().filter(|partial| !partial.done)?;
        let frame = partial.frame.map(|frame| (frame.fin, frame.mask, frame.left));
        Some(Unfinished { is_text: partial.is_text, bytes: &partial.bytes, frame })
    }

    /// A decoder that goes on with what another one has held. `None` if that cannot be.
    pub fn with_unfinished(held: &Unfinished<'_>) -> Option<Decoder> {
        let frame = match held.frame {
            Some((_, _, 0)) => return None,
            Some((fin, mask, left)) => Some(Frame { fin, mask, left }),
            None => None,
        };
        let checked = match std::str::from_utf8(held.bytes) {
            _ if !held.is_text => 0,
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return None,
        };
        let (is_text, bytes) = (held.is_text, held.bytes.to_vec());
        Some(Decoder { partial: Some(Box::new(Partial { is_text, bytes, checked, frame, done: false })) })
    }

    /// The bytes that are held of an incomplete message.
    pub fn held(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.bytes.len())
    }

    /// Gives up the memory of a message that was handed out.
    pub fn tidy(&mut self) {
        if self.is_idle() {
            self.partial = None;
        }
    }

    /// Whether no message is incomplete.
    pub fn is_idle(&self) -> bool {
        self.partial.as_ref().is_none_or(|partial| partial.done)
    }

    /// The bytes of memory that the decoder holds.
    pub fn memory_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| size_of::<Partial>() + partial.bytes.capacity())
    }

    /// Reads a frame, or the part of its payload that has arrived, from the beginning of `bytes`, unmasking it in place.
    /// A message may have `message_bytes_max` bytes; a longer one is refused by the frame header that announces it. A
    /// message that has arrived whole is not copied.
    ///
    /// # Errors
    /// If the client breaks the protocol (RFC 6455 §7.1.7).
    pub fn read<'a>(&'a mut self, bytes: &'a mut [u8], message_bytes_max: usize) -> Result<Read<'a>, Violation> {
        self.tidy();
        if self.partial.as_ref().is_some_and(|partial| partial.frame.is_some()) {
            return self.read_on(bytes, message_bytes_max);
        }
        let held = self.partial.as_ref().map_or(0, |partial| partial.bytes.len());
        let Some(header) = read_header(bytes, message_bytes_max.saturating_sub(held))? else {
            return Ok(Read { consumed: 0, message: None });
        };
        let there = &mut bytes[header.start..];
        let is_whole = there.len() >= header.length;
        if header.opcode.is_control() && !is_whole {
            return Ok(Read { consumed: 0, message: None });
        }
        let length = header.length.min(there.len());
        let payload = &mut there[..length];
        apply_mask(payload, header.mask);
        let payload = &*payload;
        let message = match header.opcode {
            Opcode::Ping => Some(Message::Ping(payload)),
            Opcode::Pong => Some(Message::Pong),
            Opcode::Close => Some(Message::Close(read_close(payload)?)),
            Opcode::Text | Opcode::Binary if self.partial.is_some() => {
                return violation(Reason::Violation, "a message began within another one");
            }
            Opcode::Text if header.fin && is_whole => match std::str::from_utf8(payload) {
                Ok(text) => Some(Message::Text(text)),
                Err(_) => return violation(Reason::InvalidData, "a text message is no UTF-8"),
            },
            Opcode::Binary if header.fin && is_whole => Some(Message::Binary(payload)),
            Opcode::Text | Opcode::Binary => {
                let partial = Box::new(Partial::new(header.opcode == Opcode::Text));
                self.partial.insert(partial).begin(&header, payload, message_bytes_max)?
            }
            Opcode::Continuation => match &mut self.partial {
                Some(partial) => partial.begin(&header, payload, message_bytes_max)?,
                None => return violation(Reason::Violation, "a message was continued that had not begun"),
            },
        };
        Ok(Read { consumed: header.start + length, message })
    }

    /// Reads more of the payload of the frame that is being read.
    fn read_on<'a>(&'a mut self, bytes: &mut [u8], message_bytes_max: usize) -> Result<Read<'a>, Violation> {
        let Some(partial) = &mut self.partial else { return Ok(Read { consumed: 0, message: None }) };
        let Some(frame) = partial.frame else { return Ok(Read { consumed: 0, message: None }) };
        let length = frame.left.min(bytes.len());
        let payload = &mut bytes[..length];
        apply_mask(payload, frame.mask);
        let message = partial.add(frame, payload, message_bytes_max)?;
        Ok(Read { consumed: length, message })
    }
}

impl Partial {
    fn new(is_text: bool) -> Partial {
        Partial { is_text, bytes: Vec::new(), checked: 0, frame: None, done: false }
    }

    /// Begins a frame with the part of its payload that has arrived.
    fn begin(&mut self, header: &Header, payload: &[u8], bytes_max: usize) -> Result<Option<Message<'_>>, Violation> {
        self.add(Frame { fin: header.fin, mask: header.mask, left: header.length }, payload, bytes_max)
    }

    /// Adds a part of a frame's payload and returns the message if it is complete. Text is checked part by part, so that a
    /// bad byte is refused before the rest of the message arrives.
    fn add(&mut self, mut frame: Frame, payload: &[u8], bytes_max: usize) -> Result<Option<Message<'_>>, Violation> {
        frame.left -= payload.len();
        frame.mask.rotate_left(payload.len() % 4);
        let is_last = frame.fin && frame.left == 0;
        self.frame = (frame.left > 0).then_some(frame);
        let needed = self.bytes.len() + payload.len();
        if needed > self.bytes.capacity() {
            // The capacity doubles, up to what a message may have.
            let room = (self.bytes.capacity() * 2).min(bytes_max).max(needed);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(payload);
        if self.is_text {
            match std::str::from_utf8(&self.bytes[self.checked..]) {
                Ok(_) => self.checked = self.bytes.len(),
                // The end of a part may cut a character; the end of the message may not.
                Err(error) if error.error_len().is_none() && !is_last => self.checked += error.valid_up_to(),
                Err(_) => return violation(Reason::InvalidData, "a text message is no UTF-8"),
            }
        }
        if !is_last {
            return Ok(None);
        }
        self.done = true;
        if !self.is_text {
            return Ok(Some(Message::Binary(&self.bytes)));
        }
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => Ok(Some(Message::Text(text))),
            Err(_) => violation(Reason::InvalidData, "a text message is no UTF-8"),
        }
    }
}

fn read_header(bytes: &[u8], data_bytes_max: usize) -> Result<Option<Header>, Violation> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return violation(Reason::Violation, "a reserved bit is set and no extension was agreed on");
    }
    let Some(opcode) = Opcode::from_bits(first & 15) else {
        return violation(Reason::Violation, "a frame is of an unknown kind");
    };
    if second & 0x80 == 0 {
        return violation(Reason::Violation, "a client must mask its frames");
    }
    let fin = first & 0x80 != 0;
    let short = second & 0x7f;
    if opcode.is_control() && (short > 125 || !fin) {
        return violation(Reason::Violation, "a control frame is too long or in fragments");
    }
    let Some((start, length)) = payload_length(bytes, short) else { return Ok(None) };
    if (short == 126 && length < 126) || (short == 127 && (length < 0x1_0000 || length >> 63 != 0)) {
        return violation(Reason::Violation, "a frame's length is not written in the shortest form");
    }
    if !opcode.is_control() && length > data_bytes_max as u64 {
        return violation(Reason::TooBig, "the message is too big");
    }
    let Some(&[a, b, c, d]) = bytes.get(start..start + 4) else { return Ok(None) };
    Ok(Some(Header { fin, opcode, mask: [a, b, c, d], start: start + 4, length: length as usize }))
}

/// Reads and checks the code of a close frame (RFC 6455 §7.4).
fn read_close(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        _ => return violation(Reason::Violation, "a close frame has half a code"),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return violation(Reason::Violation, "a close frame has a code that must not be sent");
    }
    if std::str::from_utf8(reason).is_err() {
        return violation(Reason::InvalidData, "a close frame's reason is no UTF-8");
    }
    Ok(Some(code))
}

#[cfg(test)]
mod tests {
    use super::super::frame::write_client_frame;
    use super::*;
    use proptest::prelude::*;

    /// Close codes (RFC 6455 §7.4.1).
    const PROTOCOL: u16 = 1002;
    const INVALID_DATA: u16 = 1007;
    const TOO_BIG: u16 = 1009;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_client_frame(&mut out, Opcode::Text, payload, [1, 2, 3, 4]);
        out[0] = first;
        out
    }

    fn code(frames: &[Vec<u8>]) -> u16 {
        let mut decoder = Decoder::default();
        for frame in frames {
            match decoder.read(&mut frame.clone(), 1000) {
                Ok(read) => assert_eq!(read.consumed, frame.len()),
                Err(violation) => return violation.reason.close_code().unwrap(),
            }
        }
        0
    }

    #[test]
    fn violations_have_their_codes() {
        let unmasked = vec![0x81, 1, b'x'];
        assert_eq!(code(&[unmasked]), PROTOCOL);
        for first in [0xc1, 0x83, 0x8b, 0x80, 0x00] {
            assert_eq!(code(&[frame(first, b"x")]), PROTOCOL, "{first:#x}");
        }
        assert_eq!(code(&[frame(0x09, b"x")]), PROTOCOL, "a ping in fragments");
        assert_eq!(code(&[frame(0x89, &[0; 126])]), PROTOCOL, "a long ping");
        assert_eq!(code(&[frame(0x01, b"a"), frame(0x81, b"b")]), PROTOCOL);
        assert_eq!(code(&[frame(0x81, b"\xff")]), INVALID_DATA);
        assert_eq!(code(&[frame(0x01, b"\xe2\x82"), frame(0x80, b"\xac")]), 0);
        assert_eq!(code(&[frame(0x01, b"\xe2\x82"), frame(0x80, b"")]), INVALID_DATA);
        assert_eq!(code(&[frame(0x01, b"\xe2x"), frame(0x80, b"")]), INVALID_DATA);
        assert_eq!(code(&[frame(0x82, &[0; 1001])]), TOO_BIG);
        assert_eq!(code(&[frame(0x02, &[0; 600]), frame(0x80, &[0; 600])]), TOO_BIG);
        assert_eq!(code(&[frame(0x88, b"\x03")]), PROTOCOL);
        for bad in [999u16, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
            assert_eq!(code(&[frame(0x88, &bad.to_be_bytes())]), PROTOCOL, "{bad}");
        }
        assert_eq!(code(&[frame(0x88, b"\x03\xe8\xff")]), INVALID_DATA);
        assert_eq!(code(&[frame(0x88, b"\x03\xe8bye")]), 0);
        for good in [1000u16, 1003, 1007, 1014, 3000, 4999] {
            assert_eq!(code(&[frame(0x88, &good.to_be_bytes())]), 0, "{good}");
        }
        assert_eq!(code(&[frame(0x88, b""), frame(0x89, &[0; 125])]), 0);
        assert_eq!(code(&[frame(0x82, &[0; 1000]), frame(0x02, &[0; 600]), frame(0x80, &[0; 400])]), 0);
    }

    #[test]
    fn a_length_has_its_shortest_form_and_a_bound() {
        let length = |header: &[u8]| {
            let header = read_header(&[header, &[1, 2, 3, 4]].concat(), 70_000);
            header.map(|header| header.unwrap().length).map_err(|violation| violation.reason.close_code().unwrap())
        };
        assert_eq!(
            [[0x82, 0xfe, 0, 125], [0x82, 0xfe, 0, 126]].map(|header| length(&header)),
            [Err(PROTOCOL), Ok(126)]
        );
        for (number, expected) in [
            (125, Err(PROTOCOL)),
            (0xffff, Err(PROTOCOL)),
            (0x1_0000, Ok(0x1_0000)),
            (70_000, Ok(70_000)),
            (70_001, Err(TOO_BIG)),
            (u64::MAX >> 1, Err(TOO_BIG)),
            (1 << 63, Err(PROTOCOL)),
        ] {
            assert_eq!(length(&[&[0x82, 0xff][..], &number.to_be_bytes()].concat()), expected, "{number}");
        }
    }

    #[test]
    fn a_message_in_parts_takes_memory_that_doubles_up_to_the_limit_and_is_given_up() {
        let whole = frame(0x82, &[7; 1000]);
        let mut decoder = Decoder::default();
        assert_eq!((decoder.held(), decoder.memory_bytes()), (0, 0));
        for (part, room) in (1..).zip([100, 200, 400, 400, 800, 800, 800, 800, 1000, 1000]) {
            let start = if part == 1 { 0 } else { 8 + (part - 1) * 100 };
            let read =
                decoder.read(&mut whole[start..8 + part * 100].to_vec(), 1000).map(|read| read.message.is_some());
            assert_eq!(read, Ok(part == 10));
            assert_eq!((decoder.held(), decoder.memory_bytes()), (part * 100, size_of::<Partial>() + room), "{part}");
            decoder.tidy();
        }
        assert_eq!((decoder.held(), decoder.memory_bytes(), decoder.is_idle()), (0, 0, true));
        for first in [0x81, 0x82] {
            assert!(decoder.read(&mut frame(first, b"whole"), 1000).unwrap().message.is_some());
            assert_eq!(decoder.memory_bytes(), 0, "a message that has arrived whole is not copied");
        }
    }

    #[test]
    fn a_bad_byte_is_refused_before_its_frame_is_whole() {
        let mut whole = frame(0x81, "κόσμε, then \u{d7ff} and more".as_bytes());
        let bad = 6 + "κόσμε, then ".len() + 1;
        // What would begin a surrogate: no byte after this one could make it right.
        whole[bad] ^= 0x9f ^ 0xa0;
        for piece in [1, 3, bad + 1] {
            let mut decoder = Decoder::default();
            let mut waiting = Vec::new();
            let refused = whole[..bad + 1].chunks(piece).position(|part| {
                waiting.extend_from_slice(part);
                loop {
                    match decoder.read(&mut waiting, 1000) {
                        Ok(Read { consumed: 0, message: None }) => return false,
                        Ok(Read { consumed, .. }) => drop(waiting.drain(..consumed)),
                        Err(violation) => return violation.reason == Reason::InvalidData,
                    };
                }
            });
            assert_eq!(refused, Some(bad / piece), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_frames_payload_is_taken_as_it_comes() {
        let whole = frame(0x82, &[7; 900]);
        let mut decoder = Decoder::default();
        let mut start = whole[..100].to_vec();
        assert_eq!(decoder.read(&mut start, 1000), Ok(Read { consumed: 100, message: None }));
        assert!(!decoder.is_idle());
        assert_eq!(decoder.read(&mut [], 1000), Ok(Read { consumed: 0, message: None }));
        let mut rest = [&whole[100..], &frame(0x89, b"next")].concat();
        let last = Read { consumed: whole.len() - 100, message: Some(Message::Binary(&[7; 900])) };
        assert_eq!(decoder.read(&mut rest, 1000), Ok(last));
        assert!(decoder.is_idle());
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_header() {
        let mut header = vec![0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 0];
        assert!(Decoder::default().read(&mut header, 65536).is_err());
    }

    proptest! {
        /// Any message, in any fragments, with pings between, fed in any pieces, comes out whole.
        #[test]
        fn messages_come_out_whole(text in "\\PC{0,60}", cuts in proptest::collection::vec(0usize..200, 0..5), piece in 1usize..40) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut stream = Vec::new();
            let mut start = 0;
            for cut in &cuts {
                stream.extend(frame(if start == 0 && *cut == cuts[0] { 1 } else { 0 }, &bytes[start..*cut]));
                stream.extend(frame(0x89, b"ping"));
                start = *cut;
            }
            stream.extend(frame(if cuts.is_empty() { 0x81 } else { 0x80 }, &bytes[start..]));
            // Only the very first fragment carries the opcode, also if several cuts are the same.
            let mut first = true;
            let mut at = 0;
            while at < stream.len() {
                let length = usize::from(stream[at + 1] & 0x7f);
                let length = if length == 126 { usize::from(stream[at + 2]) << 8 | usize::from(stream[at + 3]) } else { length };
                let header = if stream[at + 1] & 0x7f == 126 { 8 } else { 6 };
                if stream[at] & 15 < 8 {
                    stream[at] = stream[at] & 0x80 | u8::from(first);
                    first = false;
                }
                at += header + length;
            }
            let mut decoder = Decoder::default();
            let mut waiting = Vec::new();
            let (mut texts, mut pings) = (Vec::new(), 0);
            for part in stream.chunks(piece) {
                waiting.extend_from_slice(part);
                loop {
                    let mut bytes = waiting.clone();
                    let read = decoder.read(&mut bytes, 1000).unwrap();
                    match read.message {
                        Some(Message::Text(text)) => texts.push(text.to_string()),
                        Some(Message::Ping(payload)) => { prop_assert_eq!(payload, b"ping"); pings += 1; }
                        _ => {}
                    }
                    if read.consumed == 0 { break }
                    let consumed = read.consumed;
                    waiting.drain(..consumed);
                }
            }
            prop_assert_eq!(texts, vec![text]);
            prop_assert_eq!(pings, cuts.len());
            prop_assert!(decoder.is_idle());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            let mut bytes = bytes;
            let mut rest = &mut bytes[..];
            while let Ok(read) = decoder.read(rest, 64) {
                let consumed = read.consumed;
                if consumed == 0 { break }
                rest = &mut rest[consumed..];
            }
        }
    }
}
