//! The bytes of an HTTP/2 connection after its preface: what is read of them is the same for any pieces, and a request's head
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

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, sizes) = input;
    // SETTINGS come first on every connection.
    let all = [&[0, 0, 0, 4, 0, 0, 0, 0, 0][..], &bytes].concat();
    let (events, end) = read(&all, &[]);
    let (others, other_end) = read(&all, &sizes);
    assert_eq!((events, end), (others, other_end));
});
