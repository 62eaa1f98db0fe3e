//! The model of delivery over HTTP/2, in clear text and over TLS, and single cases of it. The model's clients share connections,
//! and give the server room as the seed says.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use super::floods::{frame, get};
use super::secured::{Secured, over_tls_and_http_2};
use super::*;
use crate::logic::h2::ErrorCode;
use crate::logic::h2::{Flag, HEADER, Kind, PREFACE, write_field, write_header, write_reset, write_update};

/// What has come on one stream.
#[derive(Debug, Default)]
struct Stream {
    /// The response in the form of HTTP/1.1, as far as it was not taken.
    text: Vec<u8>,
    /// The bytes of data for which the server has no room again.
    unread: u32,
    is_websocket: bool,
    /// The server has ended the stream: with END_STREAM, or at once with this code.
    end: Option<Option<u32>>,
}

/// The connection of a client, with its streams.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) secured: Option<Secured>,
    bytes: Vec<u8>,
    streams: HashMap<u32, Stream>,
    next: u32,
    /// The bytes of data for which the server has no room again on the connection.
    unread: u32,
    pub(super) is_over: bool,
    /// The codes of GOAWAY frames.
    pub(super) goaways: Vec<(u32, u32)>,
    rng: fastrand::Rng,
}

/// One stream of a client's connection.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    pub(super) connection: Rc<RefCell<Connection>>,
    pub(super) id: u32,
}

pub(super) fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    fields.iter().for_each(|(name, value)| write_field(name, value.as_bytes(), &mut block));
    block
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(Kind::Settings, 0, 0, 6 * pairs.len(), &mut out);
    for (name, value) in pairs {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
    out
}

impl Connection {
    /// A connection whose preface is sent. `window`: the server's room for each stream.
    pub(super) fn new(stream: UnixStream, secured: Option<Secured>, window: u32, seed: u64) -> Connection {
        let mut connection = Connection {
            stream,
            secured,
            bytes: Vec::new(),
            streams: HashMap::new(),
            next: 1,
            unread: 0,
            is_over: false,
            goaways: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
        };
        connection.send(&[PREFACE, &settings(&[(4, window), (2, 0)])].concat());
        connection
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        match &mut self.secured {
            Some(secured) => secured.send(&self.stream, bytes),
            None => drop((&self.stream).write_all(bytes)),
        }
    }

    /// Asks for a path, as a WebSocket or with GET; returns the stream's number.
    pub(super) fn ask(&mut self, target: &str, is_websocket: bool) -> u32 {
        let id = self.next;
        self.next += 2;
        let method = if is_websocket { "CONNECT" } else { "GET" };
        let mut fields = vec![(":method", method), (":scheme", "https"), (":path", target), (":authority", "x")];
        if is_websocket {
            fields.extend([(":protocol", "websocket"), ("sec-websocket-version", "13")]);
        }
        let block = head(&fields);
        let mut frame = Vec::new();
        let ends = if is_websocket { 0 } else { Flag::END_STREAM };
        write_header(Kind::Headers, Flag::END_HEADERS | ends, id, block.len(), &mut frame);
        frame.extend_from_slice(&block);
        self.send(&frame);
        self.streams.insert(id, Stream { is_websocket, ..Stream::default() });
        id
    }

    /// Sends data on a stream.
    pub(super) fn say(&mut self, id: u32, bytes: &[u8]) {
        let mut frame = Vec::new();
        write_header(Kind::Data, 0, id, bytes.len(), &mut frame);
        frame.extend_from_slice(bytes);
        self.send(&frame);
    }

    /// Reads up to some bytes and takes whole frames apart.
    pub(super) fn read(&mut self, bytes_max: usize) {
        let mut buffer = vec![0; bytes_max];
        match (&self.stream).read(&mut buffer) {
            Ok(0) => self.is_over = true,
            Ok(length) => match &mut self.secured {
                Some(secured) => secured.receive(&self.stream, &buffer[..length], &mut self.bytes),
                None => self.bytes.extend_from_slice(&buffer[..length]),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.is_over = true,
        }
        while self.bytes.len() >= HEADER {
            let length =
                usize::from(self.bytes[0]) << 16 | usize::from(self.bytes[1]) << 8 | usize::from(self.bytes[2]);
            if self.bytes.len() < HEADER + length {
                break;
            }
            let frame: Vec<u8> = self.bytes.drain(..HEADER + length).collect();
            self.understand(frame[3], frame[4], &frame[5..9], &frame[HEADER..]);
        }
    }

    fn understand(&mut self, kind: u8, flags: u8, id: &[u8], payload: &[u8]) {
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
        let id = number(id);
        let unknown = &mut Stream::default();
        let stream = self.streams.get_mut(&id).unwrap_or(unknown);
        assert!(stream.end.is_none() || kind == 3 || kind == 8, "nothing follows the end of a stream: kind {kind}");
        match kind {
            0 => {
                self.unread += payload.len() as u32;
                stream.unread += payload.len() as u32;
                if stream.is_websocket {
                    stream.text.extend_from_slice(payload);
                } else if !payload.is_empty() {
                    stream.text.extend_from_slice(format!("{:x}\r\n", payload.len()).as_bytes());
                    stream.text.extend_from_slice(payload);
                    stream.text.extend_from_slice(b"\r\n");
                }
            }
            1 => {
                assert!(stream.text.is_empty(), "one head");
                let block = payload.strip_prefix(&[0x20]).unwrap_or(payload);
                let status: &[u8] = match block[0] {
                    0x88 if stream.is_websocket => b"101",
                    0x88 => b"200",
                    0x89 => b"204",
                    _ => b"400",
                };
                stream.text.extend_from_slice(&[b"HTTP/1.1 ", status, b"\r\n\r\n"].concat());
            }
            3 => stream.end = Some(Some(number(payload))),
            4 if flags == 0 => {
                let mut ack = Vec::new();
                write_header(Kind::Settings, Flag::ACK, 0, 0, &mut ack);
                self.send(&ack);
                return;
            }
            7 => self.goaways.push((number(payload), number(&payload[4..]))),
            _ => {}
        }
        if kind < 2 && flags & Flag::END_STREAM != 0 {
            stream.end = Some(None);
        }
    }

    /// Takes what has come on a stream, and gives the server room for it; returns whether the stream is over.
    pub(super) fn take(&mut self, id: u32, out: &mut Vec<u8>) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        out.append(&mut stream.text);
        let is_over = self.is_over || stream.end.is_some();
        let mut updates = Vec::new();
        if stream.unread > 0 && stream.end.is_none() && self.rng.bool() {
            write_update(id, std::mem::take(&mut stream.unread), &mut updates);
        }
        if self.unread > 0 && self.rng.bool() {
            write_update(0, std::mem::take(&mut self.unread), &mut updates);
        }
        self.send(&updates);
        is_over
    }

    /// How a stream has ended: with END_STREAM, or at once with a code.
    pub(super) fn end_of(&self, id: u32) -> Option<Option<u32>> {
        self.streams.get(&id)?.end
    }

    /// Gives a stream up.
    pub(super) fn leave(&mut self, id: u32) {
        let mut reset = Vec::new();
        if self.streams.remove(&id).is_some_and(|stream| stream.end.is_none()) {
            write_reset(id, ErrorCode::Cancel, &mut reset);
            self.send(&reset);
        }
    }
}

impl Model {
    /// Asks for channels on a stream of a connection that is there or of a new one.
    pub(super) fn connect_carried(&mut self, target: &str, is_websocket: bool) -> (UnixStream, Carried) {
        self.connections.retain(|connection| !connection.borrow().is_over && Rc::strong_count(connection) > 1);
        let is_new = self.connections.is_empty() || self.rng.u8(..3) == 0;
        if is_new {
            let (_, far) = self.come(None);
            let secured = self.tls.as_ref().map(Secured::new);
            let window = [300, 1000, 4000, 20_000, 65_535][self.rng.usize(..5)];
            let connection = Connection::new(far, secured, window, self.rng.u64(..));
            self.connections.push(Rc::new(RefCell::new(connection)));
        }
        let last = self.connections.len() - 1;
        let index = if is_new { last } else { self.rng.usize(..=last) };
        let connection = self.connections[index].clone();
        let id = connection.borrow_mut().ask(target, is_websocket);
        let stream = connection.borrow().stream.try_clone().unwrap();
        (stream, Carried { connection, id })
    }
}

/// The model with clients that speak HTTP/2.
pub(super) fn over_http_2(mut model: Model) -> Model {
    Arc::make_mut(&mut model.shard.cx.settings.config).http2.cleartext = true;
    model.is_http_2 = true;
    model.languages = &[Speaks::Sse, Speaks::Json];
    model
}

#[test]
fn the_model_of_delivery_holds_over_http_2() {
    assert_eq!(run_all(100, false, |seed| over_http_2(Model::new(seed))).len(), 9);
}

#[test]
fn the_model_of_delivery_holds_over_http_2_with_a_kernel_that_has_faults() {
    assert_eq!(run_all(100, false, |seed| over_http_2(Model::with_faults(seed))).len(), 16);
}

#[test]
fn the_model_of_delivery_holds_over_http_2_and_tls_with_little_memory() {
    let new = |seed| over_tls_and_http_2(over_http_2(Model::with_little_memory(seed)), seed % 4 != 0);
    assert_eq!(run_all(100, true, new).len(), 17);
}

/// A model, and a connection of a client that speaks HTTP/2 and gives the server much room.
pub(super) fn connected(seed: u64) -> (Model, u32, Connection) {
    let mut model = over_http_2(Model::new(seed));
    let (slot, far) = model.come(None);
    let connection = Connection::new(far, None, 65_535, seed);
    model.turns(5);
    (model, slot, connection)
}

/// Has the shard turn and the client read until nothing more comes.
pub(super) fn exchange(model: &mut Model, connection: &mut Connection) {
    for _ in 0..30 {
        model.turn();
        connection.read(64 * 1024);
    }
}

/// What has come on a stream, as text.
pub(super) fn text(connection: &mut Connection, id: u32) -> String {
    let mut out = Vec::new();
    connection.take(id, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn streams_are_slots_that_cost_little_and_leave_nothing() {
    let (mut model, carrier, mut connection) = connected(1);
    let ids: Vec<u32> = (0..20).map(|_| connection.ask("/sse?channel=d:1", false)).collect();
    exchange(&mut model, &mut connection);
    assert_eq!((model.shard.slots.h2.streams(), model.shard.slots.open().sse), (20, 20));
    for id in &ids {
        assert!(text(&mut connection, *id).contains("ringcast.hello"));
    }
    let Shard { slots, .. } = &model.shard;
    for slot in slots.h2.slots_of(carrier).chain([carrier]) {
        assert!(slots[slot].extra.is_none(), "{slot} {:?}", slots[slot]);
    }
    let before = model.shard.cx.counters.sends;
    model.publish_on("d:1", "hello");
    exchange(&mut model, &mut connection);
    assert_eq!(model.shard.cx.counters.sends - before, 1, "one send for all streams of a connection");
    assert!(ids.iter().all(|id| text(&mut connection, *id).contains("data: hello")));
    // A client may use a table of fields until it knows better.
    let with_entry = [&get()[..], &[0x40, 1, b'a', 1, b'b']].concat();
    connection.send(&frame(Kind::Headers, 5, 41, &with_entry));
    exchange(&mut model, &mut connection);
    let held = used(&model.shard.slots, &model.shard.lanes);
    assert!(held > 34, "it is on the account: {held}");
    connection.send(&frame(Kind::RstStream, 0, 41, &[0, 0, 0, 8]));
    connection.leave(ids[0]);
    exchange(&mut model, &mut connection);
    assert_eq!(model.shard.slots.h2.streams(), 19);
    assert_eq!(model.shard.cx.counters.closed[Reason::Client as usize], 2);
    drop(connection);
    model.turns(10);
    assert_eq!((model.shard.slots.h2.streams(), model.shard.slots.h2.carriers(), model.shard.slots.used()), (0, 0, 0));
    assert_eq!(model.shard.cx.counters.closed[Reason::Client as usize], 22, "21 streams and their connection");
    assert_eq!(used(&model.shard.slots, &model.shard.lanes), 0);
}

#[test]
fn a_stream_without_room_gets_what_it_is_given_room_for() {
    let mut model = over_http_2(Model::new(2));
    let (_, far) = model.come(None);
    let mut connection = Connection::new(far, None, 0, 2);
    let id = connection.ask("/sse?channel=d:1", false);
    exchange(&mut model, &mut connection);
    assert_eq!(text(&mut connection, id), "HTTP/1.1 200\r\n\r\n", "a head needs no room");
    let mut update = Vec::new();
    write_update(id, 5, &mut update);
    connection.send(&update);
    exchange(&mut model, &mut connection);
    assert!(text(&mut connection, id).starts_with("5\r\nid: 1"));
    // It takes nothing more, and is given up in time; the connection and its other streams are not.
    let other = connection.ask("/healthz", false);
    model.turns(3);
    connection.send(&[&settings(&[(4, 65_535)])[..]].concat());
    exchange(&mut model, &mut connection);
    assert!(text(&mut connection, other).contains("ok"));
    let stalled = connection.ask("/sse?channel=d:1", false);
    let mut connection_room = Vec::new();
    write_update(0, 1, &mut connection_room);
    exchange(&mut model, &mut connection);
    assert!(text(&mut connection, stalled).contains("hello"));
}

#[test]
fn a_stream_that_takes_nothing_is_reset_in_time() {
    let mut model = over_http_2(Model::new(3));
    let (_, far) = model.come(None);
    let mut connection = Connection::new(far, None, 0, 3);
    let id = connection.ask("/sse?channel=d:1", false);
    exchange(&mut model, &mut connection);
    model.publish_on("d:1", "cannot be sent");
    exchange(&mut model, &mut connection);
    assert_eq!(model.turn(), Next::Wait, "the shard does not turn for it");
    model.shard.deadlines.pass(Duration::from_secs(11));
    model.shard.note_tick();
    exchange(&mut model, &mut connection);
    assert_eq!(connection.end_of(id), Some(Some(ErrorCode::Cancel as u32)));
    assert_eq!(model.shard.cx.counters.closed[Reason::Slow as usize], 1);
    assert!(!connection.is_over);
}

#[test]
fn a_kick_ends_a_stream_and_not_its_connection() {
    let (mut model, _, mut connection) = connected(4);
    let ids = ["d:1", "d:2"].map(|channel| connection.ask(&format!("/sse?channel={channel}"), false));
    exchange(&mut model, &mut connection);
    model.say(r#"{"op":"kick","channel":"d:1"}"#);
    exchange(&mut model, &mut connection);
    assert_eq!(ids.map(|id| connection.end_of(id)), [Some(None), None]);
    assert!(text(&mut connection, ids[0]).contains("ringcast.bye"));
    model.publish_on("d:2", "still there");
    exchange(&mut model, &mut connection);
    assert!(text(&mut connection, ids[1]).contains("still there"));
}

#[test]
fn answers_end_their_streams() {
    let (mut model, _, mut connection) = connected(5);
    let paths = ["/healthz", "/nothing", "/poll?channel=d:1&wait=0", "/sse"];
    let ids = paths.map(|path| connection.ask(path, false));
    exchange(&mut model, &mut connection);
    for id in ids {
        assert_eq!(connection.end_of(id), Some(None));
    }
    assert!(text(&mut connection, ids[2]).contains("\"events\":[]"));
    assert_eq!(model.shard.slots.h2.streams(), 0);
    assert_eq!(model.shard.slots.used(), 1, "the connection is there for the next request");
    // A held poll is answered by an event.
    let held = connection.ask("/poll?channel=d:1&wait=20", false);
    exchange(&mut model, &mut connection);
    assert_eq!((connection.end_of(held), model.shard.slots.open().poll), (None, 1));
    model.publish_on("d:1", "news");
    exchange(&mut model, &mut connection);
    assert!(text(&mut connection, held).contains("news"));
}

#[test]
fn a_connection_without_streams_ends_after_a_while() {
    let (mut model, _, mut connection) = connected(6);
    connection.ask("/healthz", false);
    exchange(&mut model, &mut connection);
    model.shard.deadlines.pass(Duration::from_secs(600));
    model.shard.note_tick();
    exchange(&mut model, &mut connection);
    assert!(connection.is_over);
    assert_eq!(connection.goaways, [((1 << 31) - 1, 0), (1, 0)]);
}

#[test]
fn a_drain_announces_the_end_and_serves_what_is_open() {
    let (mut model, _, mut connection) = connected(7);
    let id = connection.ask("/sse?channel=d:1", false);
    exchange(&mut model, &mut connection);
    hooks::begin_drain(&mut model.shard);
    exchange(&mut model, &mut connection);
    assert_eq!(connection.goaways, [((1 << 31) - 1, 0), (1, 0)]);
    assert_eq!((connection.end_of(id), connection.is_over), (Some(None), true));
    assert!(text(&mut connection, id).contains("ringcast.bye"));
}

#[test]
fn more_streams_than_allowed_are_refused_and_may_be_tried_again() {
    let (mut model, _, mut connection) = connected(8);
    model.configure(|config| (config.http2.cleartext, config.http2.streams) = (true, 3));
    let ids: Vec<u32> = (0..4).map(|_| connection.ask("/sse?channel=d:1", false)).collect();
    exchange(&mut model, &mut connection);
    let ends: Vec<_> = ids.iter().map(|id| connection.end_of(*id)).collect();
    assert_eq!(ends, [None, None, None, Some(Some(ErrorCode::RefusedStream as u32))]);
}
