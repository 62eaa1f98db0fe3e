//! Clients of HTTP/2 that mean harm, or do not finish what they begin: their own connections end, memory stays flat, and others are
//! served.

use std::io::Write;

use super::carried::{Connection, connected, exchange, head, over_http_2, text};
use super::*;
use crate::logic::h2::{ErrorCode, Flag, Kind, PREFACE, write_header};

/// Sends frames until the connection is over; returns the code with which it ended.
fn flood(seed: u64, before: impl Fn(&mut Connection), frames: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let (mut model, _, mut connection) = connected(seed);
    let (_, far) = model.come(None);
    let mut other = Connection::new(far, None, 65_535, seed);
    let id = other.ask("/sse?channel=d:1", false);
    exchange(&mut model, &mut other);
    exchange(&mut model, &mut connection);
    before(&mut connection);
    for round in 0..400 {
        connection.send(&frames(round));
        model.turn();
        let used = used(&model.shard.slots, &model.shard.lanes);
        assert!(used < 256 * 1024, "memory is flat: {used}");
        if round % 10 == 0 {
            exchange(&mut model, &mut connection);
        }
        if connection.is_over {
            break;
        }
    }
    exchange(&mut model, &mut connection);
    model.publish_on("d:1", "others are served");
    exchange(&mut model, &mut other);
    assert!(text(&mut other, id).contains("others are served"));
    assert_eq!(model.shard.cx.counters.h2_errors, u64::from(connection.is_over));
    connection.goaways.last().map(|(_, code)| *code)
}

pub(super) fn frame(kind: Kind, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(kind, flags, id, payload.len(), &mut out);
    out.extend_from_slice(payload);
    out
}

const CALM: Option<u32> = Some(ErrorCode::EnhanceYourCalm as u32);

pub(super) fn get() -> Vec<u8> {
    head(&[(":method", "GET"), (":scheme", "https"), (":path", "/sse?channel=d:1"), (":authority", "x")])
}

// CVE-2023-44487.
#[test]
fn a_rapid_reset_ends_the_connection() {
    let code = flood(
        11,
        |_| {},
        |round| {
            let id = 2 * round + 1;
            [frame(Kind::Headers, 5, id, &get()), frame(Kind::RstStream, 0, id, &[0, 0, 0, 8])].concat()
        },
    );
    assert_eq!(code, CALM);
}

// CVE-2025-8671.
#[test]
fn a_client_that_has_streams_reset_ends_its_connection() {
    let code = flood(
        12,
        |_| {},
        |round| {
            let id = 2 * round + 1;
            [frame(Kind::Headers, 5, id, &get()), frame(Kind::WindowUpdate, 0, id, &[0; 4])].concat()
        },
    );
    assert_eq!(code, Some(ErrorCode::Protocol as u32));
}

// CVE-2024-27316.
#[test]
fn a_flood_of_continuations_ends_the_connection() {
    let code = flood(
        13,
        |connection| connection.send(&frame(Kind::Headers, 1, 1, &get())),
        |_| frame(Kind::Continuation, 0, 1, &[0, 1, b'a', 1, b'b']),
    );
    assert_eq!(code, CALM);
}

// CVE-2026-49975.
#[test]
fn an_hpack_bomb_ends_the_connection() {
    let code = flood(
        14,
        |_| {},
        |round| {
            let mut bomb = get();
            bomb.extend_from_slice(&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e]);
            bomb.extend_from_slice(&[b'x'; 4000]);
            bomb.extend_from_slice(&[0xbe; 7000]);
            frame(Kind::Headers, 5, 2 * round + 1, &bomb)
        },
    );
    assert_eq!(code, CALM);
}

// CVE-2019-9512, 9515, 9513 and 9518.
#[test]
fn floods_of_frames_that_ask_for_nothing_end_the_connection() {
    for (seed, kind, flags, id, payload) in [
        (15, Kind::Ping, 0, 0, &[0; 8][..]),
        (16, Kind::Settings, 0, 0, &[]),
        (17, Kind::Priority, 0, 1, &[0, 0, 0, 3, 0]),
        (18, Kind::WindowUpdate, 0, 0, &[0, 0, 0, 1]),
        (19, Kind::Data, 0, 1, &[]),
        (20, Kind::Unknown, 0, 1, &[]),
    ] {
        let code = flood(
            seed,
            |connection| connection.send(&frame(Kind::Headers, 4, 1, &get())),
            |_| frame(kind, flags, id, payload).repeat(3),
        );
        assert_eq!(code, CALM, "{kind:?}");
    }
}

// CVE-2019-9517: a client that asks for much and never reads.
#[test]
fn answers_that_are_never_taken_are_not_kept_for_ever() {
    let mut model = over_http_2(Model::new(21));
    let (_, far) = model.come(None);
    let mut connection = Connection::new(far, None, 0, 21);
    for _ in 0..50 {
        connection.ask("/poll?channel=d:1&wait=0", false);
    }
    exchange(&mut model, &mut connection);
    assert_eq!(model.shard.slots.h2.streams(), 50);
    model.shard.deadlines.pass(Duration::from_secs(11));
    model.shard.note_tick();
    exchange(&mut model, &mut connection);
    assert_eq!((model.shard.slots.h2.streams(), used(&model.shard.slots, &model.shard.lanes)), (0, 0));
}

#[test]
fn a_body_is_waited_for_and_no_more_of_it_is_taken_than_allowed() {
    let (mut model, _, mut connection) = connected(25);
    let upload = |id| frame(Kind::Headers, Flag::END_HEADERS, id, &get());
    connection.send(&upload(1));
    exchange(&mut model, &mut connection);
    connection.send(&frame(Kind::Data, 0, 1, &[0; 16_000]));
    connection.send(&frame(Kind::Data, Flag::END_STREAM, 1, b"the end"));
    exchange(&mut model, &mut connection);
    assert_eq!((model.shard.slots.h2.streams(), connection.end_of(1)), (1, None), "an event stream has no body");
    // An answer is over when the client has sent its body, or after a while.
    let ask = head(&[(":method", "POST"), (":scheme", "https"), (":path", "/sse"), (":authority", "x")]);
    connection.send(&[3, 5].map(|id| frame(Kind::Headers, Flag::END_HEADERS, id, &ask)).concat());
    exchange(&mut model, &mut connection);
    assert_eq!(model.shard.slots.h2.streams(), 3);
    connection.send(&frame(Kind::Data, Flag::END_STREAM, 3, b"body"));
    exchange(&mut model, &mut connection);
    assert_eq!(model.shard.slots.h2.streams(), 2);
    model.shard.deadlines.pass(Duration::from_secs(3));
    model.shard.note_tick();
    exchange(&mut model, &mut connection);
    assert_eq!((model.shard.slots.h2.streams(), connection.is_over), (1, false));
    // The window of a stream is that of its body.
    connection.send(&upload(7));
    (0..5).for_each(|_| connection.send(&frame(Kind::Data, 0, 7, &[0; 16_000])));
    exchange(&mut model, &mut connection);
    assert_eq!(connection.goaways.last().map(|(_, code)| *code), Some(ErrorCode::FlowControl as u32));
}

#[test]
fn a_frame_that_is_never_finished_ends_the_connection() {
    let (mut model, _, mut connection) = connected(22);
    connection.send(&[0, 0, 99, 1]);
    model.turns(5);
    model.shard.deadlines.pass(Duration::from_secs(11));
    model.shard.note_tick();
    exchange(&mut model, &mut connection);
    assert!(connection.is_over);
    assert_eq!(model.shard.cx.counters.closed[Reason::HandshakeTimeout as usize], 1);
}

#[test]
fn a_preface_of_http_2_is_refused_where_it_is_not_wanted() {
    let mut model = Model::new(23);
    let (_, far) = model.come(None);
    (&far).write_all(PREFACE).unwrap();
    model.turns(5);
    assert!(take(&far, 4096).starts_with("HTTP/1.1 505"));
    let (mut model, _, mut connection) = connected(24);
    let (_, far) = model.come(None);
    (&far).write_all(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").unwrap();
    exchange(&mut model, &mut connection);
    assert_eq!(model.shard.cx.counters.closed[Reason::Http2 as usize], 1);
}
