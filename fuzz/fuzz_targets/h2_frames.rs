//! Frames of HTTP/2 that are whole, with any content: what is read of them is the same for any pieces, and a request's head
//! is one that the parser of HTTP/1.1 takes for a whole one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::logic::h2::{ErrorCode, Event, Head, Link, Reading, Side, UNIT_MAX};
use ringcast::logic::protocol::http::{HeadLimits, Parsed, parse};

/// What a connection has made of bytes that come in pieces of these sizes, in turn.
fn read(bytes: &[u8], sizes: &[u8]) -> (String, Result<(), ErrorCode>) {
    let mut out = Vec::new();
    let mut link = Link::new(100, true, &mut out);
    let mut head = Head::default();
    let mut streams: Vec<(u32, Side)> = Vec::new();
    let (mut kept, mut rest, mut turn, mut events) = (Vec::new(), bytes, 0, String::new());
    while !rest.is_empty() {
        let size = sizes.get(turn % sizes.len().max(1)).map_or(rest.len(), |size| usize::from(*size).max(1));
        turn += 1;
        let (piece, others) = rest.split_at(size.min(rest.len()));
        kept.extend_from_slice(piece);
        rest = others;
        loop {
            let known = streams.clone();
            let side = |id| known.iter().find(|(stream, _)| *stream == id).map(|(_, side)| *side);
            let mut reading = Reading { head: &mut head, out: &mut out, now: 1 };
            let (consumed, event) = match link.read(&kept, side, &mut reading) {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(code) => return (events, Err(code)),
            };
            assert!(consumed > 0 && consumed <= UNIT_MAX.max(kept.len()));
            events.push_str(&format!("{event:?}"));
            match event {
                Event::Request { stream, ends } => {
                    let limits = HeadLimits { head_bytes_max: 1 << 20, fields_max: 256 };
                    match parse(head.text(), &limits) {
                        Parsed::Complete { consumed, .. } => assert_eq!(consumed, head.text().len(), "one head"),
                        Parsed::Rejected(_) => {}
                        Parsed::Partial => panic!("a whole head"),
                    }
                    streams.push((stream, if ends { Side::Ended } else { Side::Open }));
                }
                Event::Data { stream, ends: true, .. } => {
                    streams.iter_mut().filter(|(id, _)| *id == stream).for_each(|(_, side)| *side = Side::Ended);
                }
                Event::Reset { stream } => streams.retain(|(id, _)| *id != stream),
                _ => {}
            }
            kept.drain(..consumed);
        }
        assert!(link.memory_bytes() <= 8192);
    }
    (events, Ok(()))
}

/// A request's fields, which blocks may begin with.
const GET: &[u8] = b"\x82\x86\x84\x01\x01x";

fuzz_target!(|input: (Vec<(u8, u8, u8, bool, Vec<u8>)>, Vec<u8>)| {
    let (frames, sizes) = input;
    let mut all = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    for (kind, flags, stream, has_request, payload) in frames {
        let payload = if has_request { [GET, &payload].concat() } else { payload };
        let length = (payload.len() as u32).to_be_bytes();
        all.extend_from_slice(&[length[1], length[2], length[3], kind % 11, flags, 0, 0, 0, stream % 16]);
        all.extend_from_slice(&payload);
    }
    assert_eq!(read(&all, &[]), read(&all, &sizes));
});
