//! One connection's side of HTTP/2, without its streams: settings, the order of frames, the connection's windows, and what a
//! client may make the server do.
//!
//! Floods of frames that cost the client little (PING, SETTINGS, resets, empty DATA, WINDOW_UPDATE) all draw on one bucket of
//! tokens; a connection whose bucket is empty is ended (`ENHANCE_YOUR_CALM`).

use crate::logic::rate;

use super::error::ErrorCode;
use super::frame::{FRAME_MAX, Flag, Frame, HEADER, Kind, write_header, write_update};
use super::head::{Head, Trailers};
use super::hpack::Decoder;

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The window that each side has at the beginning, for each stream and for the connection (RFC 9113 §6.9.2).
pub const WINDOW: i32 = 65_535;
/// The most bytes of one block of fields, encoded and with its padding.
const BLOCK_MAX: usize = FRAME_MAX;
/// The most CONTINUATION frames of one block.
const CONTINUATIONS_MAX: usize = 8;
/// The most bytes that must have come before [`Link::read`] goes on: a block of fields in all its frames.
pub const UNIT_MAX: usize = BLOCK_MAX + (1 + CONTINUATIONS_MAX) * HEADER;

/// The tokens of a connection at the beginning, and the tenths of a second in which two come back.
const TOKENS: u32 = 200;
const TOKENS_PER_TENTH: u32 = 2;
/// The window updates that a client may send without a token for each frame of data that it was sent, and the most of them.
const FREE_UPDATES: u16 = 2;
const FREE_MAX: u16 = 1000;

/// The numbers of settings (RFC 9113 §6.5.2, RFC 8441 §3, RFC 9218 §2.1).
const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;
const NO_RFC7540_PRIORITIES: u16 = 9;

/// The list of fields that clients are asked to stay within. More is answered by an error up to the hard limit of `head`.
const LIST_SIZE: u32 = 16 * 1024;

/// What is known of an open stream's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It may still send.
    Open,
    /// It has ended its side.
    Ended,
}

/// What a client's frame asks for, beside what is done already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Nothing.
    None,
    /// A new stream: its request is the text of [`Reading::head`].
    Request {
        /// The stream's number.
        stream: u32,
        /// No body follows.
        ends: bool,
    },
    /// Bytes of a body.
    Data {
        /// The stream's number.
        stream: u32,
        /// The bytes.
        bytes: &'a [u8],
        /// The bytes that they have cost of the stream's window, with the padding.
        cost: u32,
        /// The client ends its side with them.
        ends: bool,
    },
    /// The client has reset a stream that is open.
    Reset {
        /// The stream's number.
        stream: u32,
    },
    /// A stream that is open has more room.
    Window {
        /// The stream's number.
        stream: u32,
        /// The bytes, from 1 on.
        more: i32,
    },
    /// The connection has more room.
    Room,
    /// Every stream's room changes by this many bytes.
    Windows {
        /// The bytes, which may be fewer than none.
        change: i32,
    },
}

/// What a frame is read with.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The place for a request's head.
    pub head: &'a mut Head,
    /// The place for answers to the client.
    pub out: &'a mut Vec<u8>,
    /// The present time in tenths of a second.
    pub now: u32,
}

/// One connection's side of HTTP/2; see the module's documentation.
#[derive(Debug)]
pub struct Link {
    decoder: Decoder,
    /// The bytes of data that the client has room for on all streams together, which its settings never make fewer.
    window: i32,
    /// The client's window for new streams.
    initial: i32,
    /// The bytes of data that the client may still send before it is given more room.
    credit: i32,
    /// The number of the newest stream.
    last: u32,
    /// The newest stream that the server has ended before its client had: frames on older ones may still be on their way.
    cut: u32,
    /// The time until which the tokens are used up, in tokens.
    used_until: u32,
    /// The window updates that cost no token.
    free: u16,
    has_settings: bool,
    /// The next block of fields must begin with the size of our table, which is none.
    owes_size: bool,
}

impl Link {
    /// A connection whose client has sent its preface. Appends our settings: `streams` may be open at a time, and
    /// `websockets` says whether they may carry WebSockets.
    pub fn new(streams: u32, websockets: bool, out: &mut Vec<u8>) -> Link {
        let mut settings = vec![
            (HEADER_TABLE_SIZE, 0),
            (MAX_CONCURRENT_STREAMS, streams),
            (MAX_HEADER_LIST_SIZE, LIST_SIZE),
            (NO_RFC7540_PRIORITIES, 1),
        ];
        settings.extend(websockets.then_some((ENABLE_CONNECT_PROTOCOL, 1)));
        write_header(Kind::Settings, 0, 0, settings.len() * 6, out);
        for (name, value) in settings {
            out.extend_from_slice(&name.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        Link {
            decoder: Decoder::default(),
            window: WINDOW,
            initial: WINDOW,
            credit: WINDOW,
            last: 0,
            cut: 0,
            used_until: 0,
            free: 0,
            has_settings: false,
            owes_size: false,
        }
    }

    /// The bytes of data that the client has room for on all streams together.
    pub fn window(&self) -> i32 {
        self.window
    }

    /// The bytes that the client has room for on a new stream.
    pub fn initial(&self) -> i32 {
        self.initial
    }

    /// The number of the newest stream.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// The bytes of memory that are held beside the connection's own.
    pub fn memory_bytes(&self) -> usize {
        self.decoder.memory_bytes()
    }

    /// Notes a frame of data that was sent.
    pub fn note_sent(&mut self, bytes: usize) {
        self.window -= bytes as i32;
        self.free = (self.free + FREE_UPDATES).min(FREE_MAX);
    }

    /// Notes that the server has ended a stream whose client has not ended its side.
    pub fn note_cut(&mut self, stream: u32) {
        self.cut = self.cut.max(stream);
    }

    /// Whether the next block of fields begins with the size of our table; the caller writes it then ([`Link::SIZE`]).
    pub fn owes_size(&self) -> bool {
        self.owes_size
    }

    /// Notes that a block was sent that begins with the size of our table.
    pub fn note_size_sent(&mut self) {
        self.owes_size = false;
    }

    /// The size of our table at the beginning of a block: none (RFC 7541 §6.3).
    pub const SIZE: u8 = 0x20;

    /// Takes `tokens` of the connection.
    ///
    /// # Errors
    /// If it has fewer.
    pub fn charge(&mut self, tokens: u32, now: u32) -> Result<(), ErrorCode> {
        let now = u64::from(now) * u64::from(TOKENS_PER_TENTH);
        let taken = rate::take(self.used_until.into(), now, tokens.into(), TOKENS.into());
        let until = taken.map_err(|_| ErrorCode::EnhanceYourCalm)?;
        self.used_until = u32::try_from(until).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Reads what stands first in `input`: a frame, or a block of fields in all its frames. Returns how many bytes that were
    /// and what it asks for; `None` if more must come first. `streams` says what is known of an open stream.
    ///
    /// # Errors
    /// If the connection must be ended; the client is to be told the code.
    pub fn read<'a>(
        &mut self,
        input: &'a [u8],
        streams: impl Fn(u32) -> Option<Side>,
        reading: &mut Reading<'_>,
    ) -> Result<Option<(usize, Event<'a>)>, ErrorCode> {
        let Some(frame) = Frame::read(input).map_err(|_| ErrorCode::FrameSize)? else {
            return self.check_beginning(input).map(|()| None);
        };
        if !self.has_settings && (frame.kind != Kind::Settings || frame.has(Flag::ACK)) {
            return Err(ErrorCode::Protocol);
        }
        let bytes = frame.bytes();
        let done = |event| Ok(Some((bytes, event)));
        match frame.kind {
            Kind::Headers => return self.headers(input, &frame, streams, reading),
            Kind::Data => return self.data(&frame, streams, reading).and_then(done),
            Kind::RstStream => return self.reset(&frame, streams, reading.now).and_then(done),
            Kind::WindowUpdate => return self.update(&frame, streams, reading.now).and_then(done),
            Kind::Settings => return self.settings(&frame, reading).and_then(done),
            Kind::Ping => self.ping(&frame, reading)?,
            Kind::Priority => self.priority(&frame, reading.now)?,
            Kind::GoAway if frame.stream != 0 => return Err(ErrorCode::Protocol),
            Kind::GoAway | Kind::Unknown => self.charge(1, reading.now)?,
            Kind::PushPromise | Kind::Continuation => return Err(ErrorCode::Protocol),
        }
        done(Event::None)
    }

    /// Finds what is wrong with a connection's first frame before it is whole.
    fn check_beginning(&self, input: &[u8]) -> Result<(), ErrorCode> {
        let is_settings = input.get(3).is_none_or(|kind| Kind::from_number(*kind) == Kind::Settings);
        if self.has_settings || is_settings { Ok(()) } else { Err(ErrorCode::Protocol) }
    }

    /// Collects a block of fields from its frames, which no other frame may interrupt (RFC 9113 §6.10).
    fn headers<'a>(
        &mut self,
        input: &'a [u8],
        frame: &Frame<'a>,
        streams: impl Fn(u32) -> Option<Side>,
        reading: &mut Reading<'_>,
    ) -> Result<Option<(usize, Event<'a>)>, ErrorCode> {
        let block = frame.unpadded().ok_or(ErrorCode::Protocol)?;
        let block = match frame.has(Flag::PRIORITY) {
            true => block.get(5..).ok_or(ErrorCode::FrameSize)?,
            false => block,
        };
        if frame.has(Flag::PRIORITY) && depends_on_itself(frame) {
            return Err(ErrorCode::Protocol);
        }
        if frame.has(Flag::END_HEADERS) {
            let event = self.block(frame, block, streams, reading)?;
            return Ok(Some((frame.bytes(), event)));
        }
        let mut whole = block.to_vec();
        let (mut at, mut payload) = (frame.bytes(), frame.payload.len());
        for number in 0.. {
            let head = input.get(at..).unwrap_or_default();
            // The head of a frame says enough to refuse it.
            if let Some(head) = head.get(..HEADER) {
                Frame::read(head).map_err(|_| ErrorCode::FrameSize)?;
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
                payload += length;
                if Kind::from_number(head[3]) != Kind::Continuation || stream != frame.stream {
                    return Err(ErrorCode::Protocol);
                }
                if number >= CONTINUATIONS_MAX || payload > BLOCK_MAX {
                    return Err(ErrorCode::EnhanceYourCalm);
                }
            }
            let Ok(Some(next)) = Frame::read(head) else { return Ok(None) };
            whole.extend_from_slice(next.payload);
            at += next.bytes();
            if next.has(Flag::END_HEADERS) {
                break;
            }
        }
        let event = self.block(frame, &whole, streams, reading)?;
        Ok(Some((at, event)))
    }

    /// Takes a whole block of fields: a request's, or those after a body.
    fn block<'a>(
        &mut self,
        frame: &Frame<'_>,
        block: &[u8],
        streams: impl Fn(u32) -> Option<Side>,
        reading: &mut Reading<'_>,
    ) -> Result<Event<'a>, ErrorCode> {
        let (stream, ends) = (frame.stream, frame.has(Flag::END_STREAM));
        if stream.is_multiple_of(2) {
            return Err(ErrorCode::Protocol);
        }
        if stream > self.last {
            self.last = stream;
            reading.head.clear();
            self.decoder.decode(block, reading.head)?;
            reading.head.finish(ends)?;
            return Ok(Event::Request { stream, ends });
        }
        let side = streams(stream);
        if side == Some(Side::Ended) || side.is_none() && stream > self.cut {
            // An older number was perhaps never used, and may not be any more (RFC 9113 §5.1.1).
            let is_newest = side.is_some() || stream == self.last;
            return Err(if is_newest { ErrorCode::StreamClosed } else { ErrorCode::Protocol });
        }
        self.charge(1, reading.now)?;
        self.decoder.decode(block, &mut Trailers::default())?;
        match side {
            // Fields after a body end the stream (RFC 9113 §8.1).
            Some(_) if !ends => Err(ErrorCode::Protocol),
            Some(_) => Ok(Event::Data { stream, bytes: &[], cost: 0, ends: true }),
            None => Ok(Event::None),
        }
    }

    fn data<'a>(
        &mut self,
        frame: &Frame<'a>,
        streams: impl Fn(u32) -> Option<Side>,
        reading: &mut Reading<'_>,
    ) -> Result<Event<'a>, ErrorCode> {
        let bytes = frame.unpadded().ok_or(ErrorCode::Protocol)?;
        let (stream, ends) = (frame.stream, frame.has(Flag::END_STREAM));
        if stream == 0 || stream > self.last {
            return Err(ErrorCode::Protocol);
        }
        let cost = frame.payload.len() as u32;
        self.credit -= cost as i32;
        if self.credit < 0 {
            return Err(ErrorCode::FlowControl);
        }
        if self.credit < WINDOW / 2 {
            let more = (WINDOW - self.credit) as u32;
            self.credit = WINDOW;
            write_update(0, more, reading.out);
        }
        let side = streams(stream);
        if side == Some(Side::Ended) || side.is_none() && stream > self.cut {
            return Err(ErrorCode::StreamClosed);
        }
        if bytes.is_empty() && !ends || side.is_none() {
            self.charge(1, reading.now)?;
        }
        Ok(side.map_or(Event::None, |_| Event::Data { stream, bytes, cost, ends }))
    }

    fn reset(
        &mut self,
        frame: &Frame<'_>,
        streams: impl Fn(u32) -> Option<Side>,
        now: u32,
    ) -> Result<Event<'static>, ErrorCode> {
        frame.number().ok_or(ErrorCode::FrameSize)?;
        let stream = self.existing(frame)?;
        self.charge(1, now)?;
        Ok(streams(stream).map_or(Event::None, |_| Event::Reset { stream }))
    }

    /// The number of a frame's stream, which must exist or have existed.
    fn existing(&self, frame: &Frame<'_>) -> Result<u32, ErrorCode> {
        match frame.stream {
            0 => Err(ErrorCode::Protocol),
            stream if stream > self.last || stream.is_multiple_of(2) => Err(ErrorCode::Protocol),
            stream => Ok(stream),
        }
    }

    fn update(
        &mut self,
        frame: &Frame<'_>,
        streams: impl Fn(u32) -> Option<Side>,
        now: u32,
    ) -> Result<Event<'static>, ErrorCode> {
        let more = (frame.number().ok_or(ErrorCode::FrameSize)? & 0x7fff_ffff) as i32;
        if more == 0 {
            return Err(ErrorCode::Protocol);
        }
        match self.free {
            0 => self.charge(1, now)?,
            _ => self.free -= 1,
        }
        if frame.stream == 0 {
            self.window = self.window.checked_add(more).ok_or(ErrorCode::FlowControl)?;
            return Ok(Event::Room);
        }
        let stream = self.existing(frame)?;
        Ok(streams(stream).map_or(Event::None, |_| Event::Window { stream, more }))
    }

    fn settings(&mut self, frame: &Frame<'_>, reading: &mut Reading<'_>) -> Result<Event<'static>, ErrorCode> {
        if frame.stream != 0 {
            return Err(ErrorCode::Protocol);
        }
        if frame.has(Flag::ACK) {
            if !frame.payload.is_empty() {
                return Err(ErrorCode::FrameSize);
            }
            self.charge(1, reading.now)?;
            self.decoder.is_told = true;
            return Ok(Event::None);
        }
        let (settings, []) = frame.payload.as_chunks::<6>() else { return Err(ErrorCode::FrameSize) };
        self.charge(2 + settings.len() as u32 / 16, reading.now)?;
        self.has_settings = true;
        let before = self.initial;
        for [high, low, value @ ..] in settings {
            self.set(u16::from_be_bytes([*high, *low]), u32::from_be_bytes(*value))?;
        }
        write_header(Kind::Settings, Flag::ACK, 0, 0, reading.out);
        Ok(match self.initial - before {
            0 => Event::None,
            change => Event::Windows { change },
        })
    }

    fn set(&mut self, name: u16, value: u32) -> Result<(), ErrorCode> {
        match name {
            HEADER_TABLE_SIZE => self.owes_size = true,
            ENABLE_PUSH | ENABLE_CONNECT_PROTOCOL | NO_RFC7540_PRIORITIES if value > 1 => {
                return Err(ErrorCode::Protocol);
            }
            INITIAL_WINDOW_SIZE => self.initial = i32::try_from(value).map_err(|_| ErrorCode::FlowControl)?,
            MAX_FRAME_SIZE if !(FRAME_MAX as u32..1 << 24).contains(&value) => return Err(ErrorCode::Protocol),
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, frame: &Frame<'_>, reading: &mut Reading<'_>) -> Result<(), ErrorCode> {
        if frame.stream != 0 {
            return Err(ErrorCode::Protocol);
        }
        if frame.payload.len() != 8 {
            return Err(ErrorCode::FrameSize);
        }
        self.charge(1, reading.now)?;
        if !frame.has(Flag::ACK) {
            write_header(Kind::Ping, Flag::ACK, 0, 8, reading.out);
            reading.out.extend_from_slice(frame.payload);
        }
        Ok(())
    }

    fn priority(&mut self, frame: &Frame<'_>, now: u32) -> Result<(), ErrorCode> {
        if frame.stream == 0 {
            return Err(ErrorCode::Protocol);
        }
        if frame.payload.len() != 5 {
            return Err(ErrorCode::FrameSize);
        }
        if depends_on_itself(frame) {
            return Err(ErrorCode::Protocol);
        }
        self.charge(1, now)
    }
}

/// Whether a priority makes its stream depend on itself (RFC 7540 §5.3.1).
fn depends_on_itself(frame: &Frame<'_>) -> bool {
    let priority = frame.unpadded().and_then(|payload| payload.first_chunk::<4>());
    priority.is_some_and(|bytes| u32::from_be_bytes(*bytes) & 0x7fff_ffff == frame.stream)
}

const _: () = assert!(size_of::<Link>() <= 48, "each connection of HTTP/2 has one");
