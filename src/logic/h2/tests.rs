//! Tests of HTTP/2's pure part: HPACK against the RFC's examples and a second encoder, the rules of frames, and that no bytes
//! can make it do anything but refuse them.

use proptest::prelude::*;

use super::hpack::{Decoder, Sink};
use super::*;

/// A list of the fields of a block.
#[derive(Default)]
struct List(Vec<(String, String)>);

impl Sink for List {
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ErrorCode> {
        self.0.push((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned()));
        Ok(())
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, ErrorCode> {
    let mut list = List::default();
    decoder.decode(block, &mut list).map(|()| list.0)
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// RFC 7541, appendices C.3 and C.4: three requests on one connection, plain and in the Huffman code.
#[test]
fn the_examples_of_the_rfc_are_decoded() {
    let start = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    let second = [&start[..], &[("cache-control", "no-cache")]].concat();
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = Decoder::default();
        for (block, expected) in blocks.iter().zip([&start[..], &second, &third]) {
            assert_eq!(decode(&mut decoder, &hex(block)).unwrap(), pairs(expected), "{block}");
        }
        assert!(decoder.memory_bytes() > 0);
        // The client learns that it may have no table.
        decoder.is_told = true;
        assert_eq!(decode(&mut decoder, &[0x20, 0x82]).unwrap(), pairs(&[(":method", "GET")]));
        assert_eq!(decoder.memory_bytes(), 0);
        assert_eq!(decode(&mut decoder, &[0xbe]), Err(ErrorCode::Compression), "the table is gone");
        // What is to be kept is not.
        assert_eq!(decode(&mut decoder, &hex("4001 6101 62")).unwrap(), pairs(&[("a", "b")]));
        assert_eq!(decoder.memory_bytes(), 0);
        assert_eq!(decode(&mut decoder, &hex("3f e1 1f")), Err(ErrorCode::Compression), "a table of 4096 bytes again");
    }
}

#[test]
fn blocks_of_another_encoder_are_decoded() {
    let mut decoder = Decoder::default();
    let mut count = 0;
    for line in include_str!("blocks.txt").lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(' ') {
            None => decoder = Decoder::default(),
            Some((block, fields)) => {
                let expected: Vec<(String, String)> = serde_json::from_str(fields).unwrap();
                assert_eq!(decode(&mut decoder, &hex(block)).unwrap(), expected, "{block}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 60);
}

#[test]
fn entries_that_are_too_old_leave_the_table() {
    let mut decoder = Decoder::default();
    let entry = |number: usize| {
        let mut block = vec![0x40];
        block.extend_from_slice(&[1, b'a' + number as u8, 0x7f, 0xe1, 6]);
        block.extend_from_slice(&[b'x'; 992]);
        block
    };
    (0..6).for_each(|number| assert_eq!(decode(&mut decoder, &entry(number)).unwrap().len(), 1));
    // Four of 1025 bytes are too many for 4096.
    let names: Vec<String> =
        (62..65).map(|index| decode(&mut decoder, &[0x80 | index]).unwrap()[0].0.clone()).collect();
    assert_eq!(names, ["f", "e", "d"]);
    assert_eq!(decode(&mut decoder, &[0x80 | 65]), Err(ErrorCode::Compression));
    // An entry that is larger than the table empties it (RFC 7541 §4.4).
    let mut large = vec![0x40, 1, b'z', 0x7f, 0x81, 0x1f];
    large.extend_from_slice(&[b'x'; 4096]);
    assert_eq!(decode(&mut decoder, &large).unwrap()[0].0, "z");
    assert_eq!(decoder.memory_bytes(), 0);
    // The name may be that of an entry which goes for the new one.
    decode(&mut decoder, &entry(0)).unwrap();
    decode(&mut decoder, &[0x3f, 0xe2, 7]).unwrap();
    let renamed = [&[0x7e, 0x7f, 0xe1, 6][..], &[b'y'; 992]].concat();
    assert_eq!(decode(&mut decoder, &renamed).unwrap()[0].0, "a");
    assert_eq!(decode(&mut decoder, &[0xbe]).unwrap()[0].0, "a");
}

#[test]
fn malformed_blocks_are_refused() {
    for block in [
        "80",                      // No field has the index 0.
        "ff 80 80 80 80 00",       // A number of six bytes.
        "ff ff ff ff ff 7f",       // A number beyond 32 bits.
        "40 05 61",                // A text that is cut off.
        "00 81 ff 00",             // Padding of eight ones.
        "00 84 ff ff ff ff 00",    // The code's end within a text.
        "00 81 00 00",             // Padding of zeros.
        "82 20",                   // The table's size after a field.
        "20 20 20",                // Three changes of the size.
        "3f e2 1f",                // 4097 bytes.
        "be",                      // The first entry of an empty table.
        "7f ff ff ff ff 0f 00 00", // A name of an index that there is not.
    ] {
        assert_eq!(decode(&mut Decoder::default(), &hex(block)), Err(ErrorCode::Compression), "{block}");
    }
}

/// A client's connection: its bytes, and what the server made of them.
struct Talk {
    link: Link,
    head: Head,
    out: Vec<u8>,
    /// The streams that are open, and whether their clients have ended them.
    streams: Vec<(u32, Side)>,
    now: u32,
    /// The bytes that are not whole yet.
    held: Vec<u8>,
}

impl Talk {
    fn new() -> Talk {
        let mut out = Vec::new();
        let link = Link::new(100, true, &mut out);
        let mut talk = Talk { link, head: Head::default(), out, streams: Vec::new(), now: 1000, held: Vec::new() };
        talk.say(&frame(4, 0, 0, &[])).unwrap();
        talk.out.clear();
        talk
    }

    /// Takes bytes behind those that were not whole, and opens and closes streams as they say; returns the events in short.
    fn say(&mut self, bytes: &[u8]) -> Result<Vec<String>, ErrorCode> {
        self.held.extend_from_slice(bytes);
        let mut events = Vec::new();
        loop {
            let Talk { link, head, out, streams, now, held } = self;
            let side = |id| streams.iter().find(|(stream, _)| *stream == id).map(|(_, side)| *side);
            let read = link.read(held, side, &mut Reading { head, out, now: *now })?;
            let Some((consumed, event)) = read else { return Ok(events) };
            assert!(consumed <= UNIT_MAX, "{consumed}");
            match event {
                Event::Request { stream, ends } => {
                    streams.push((stream, if ends { Side::Ended } else { Side::Open }));
                    events.push(String::from_utf8_lossy(head.text()).into_owned());
                }
                Event::Data { stream, ends: true, .. } => {
                    streams.iter_mut().filter(|(id, _)| *id == stream).for_each(|(_, side)| *side = Side::Ended);
                }
                Event::Reset { stream } => streams.retain(|(id, _)| *id != stream),
                _ => {}
            }
            if !matches!(event, Event::Request { .. }) {
                events.push(format!("{event:?}"));
            }
            held.drain(..consumed);
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    fields.iter().for_each(|(name, value)| write_field(name, value.as_bytes(), &mut block));
    block
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":path", "/sse?a=b"), (":authority", "x.example")];

fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    block(&[&GET, fields].concat())
}

/// A request's HEADERS with END_STREAM and END_HEADERS.
fn request(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(1, 5, stream, block)
}

#[test]
fn a_request_becomes_the_text_of_a_head() {
    let mut talk = Talk::new();
    let fields = with(&[("cookie", "a=b"), ("cookie", "c=d"), ("last-event-id", "5-1"), ("te", "trailers")]);
    let text = "GET /sse?a=b HTTP/1.1\r\nhost: x.example\r\ncookie: a=b\r\ncookie: c=d\r\nlast-event-id: 5-1\r\n\
        te: trailers\r\n\r\n";
    assert_eq!(talk.say(&request(1, &fields)).unwrap(), [text]);
    let websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/ws"),
        (":authority", "x"),
    ];
    let text = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(talk.say(&frame(1, 4, 3, &block(&websocket))).unwrap(), [text]);
    let tunnel = [(":method", "CONNECT"), (":authority", "x:1")];
    assert_eq!(talk.say(&request(5, &block(&tunnel))).unwrap(), ["CONNECT / HTTP/1.1\r\nhost: x:1\r\n\r\n"]);
    // The same block comes in several frames, with padding and a priority.
    let mut parts = frame(1, 1 | 8 | 32, 7, &[&[3, 0, 0, 0, 0, 9][..], &fields[..20], &[0; 3]].concat());
    parts.extend(frame(9, 0, 7, &fields[20..25]));
    parts.extend(frame(9, 4, 7, &fields[25..]));
    for cut in 0..parts.len() {
        let mut talk = Talk::new();
        assert_eq!(talk.say(&parts[..cut]), Ok(vec![]), "{cut}");
    }
    assert!(talk.say(&parts).unwrap()[0].contains("te: trailers"));
}

#[test]
fn malformed_requests_end_the_connection() {
    let without = |name: &str| -> Vec<(&str, &str)> { GET.into_iter().filter(|(other, _)| *other != name).collect() };
    let late = [("a", "b"), (":method", "GET"), (":scheme", "https"), (":path", "/")];
    for (fields, why) in [
        (with(&[("A-upper", "x")]), None),
        (with(&[("a", "b\r\nc: d")]), Some("a line within a value")),
        (with(&[("a", "b\t")]), Some("a tab at the end")),
        (with(&[("a", " b")]), Some("a space at the beginning")),
        (with(&[("a b", "c")]), Some("a space within a name")),
        (with(&[("connection", "close")]), Some("a field of one hop")),
        (with(&[("transfer-encoding", "chunked")]), Some("a field of one hop")),
        (with(&[("te", "gzip")]), Some("te")),
        (with(&[("host", "y.example")]), Some("another host")),
        (with(&[("host", "x.example")]), None),
        (with(&[("content-length", "5")]), Some("a body that does not come")),
        (with(&[("content-length", "0")]), None),
        (with(&[(":path", "/")]), Some("two paths")),
        (with(&[(":protocol", "websocket")]), Some("a protocol without CONNECT")),
        (with(&[(":status", "200")]), Some("a pseudo-field of responses")),
        (block(&late), Some("a pseudo-field after a field")),
        (block(&without(":method")), Some("no method")),
        (block(&without(":scheme")), Some("no scheme")),
        (block(&without(":path")), Some("no path")),
        (block(&without(":authority")), None),
        (block(&[(":method", "CONNECT"), (":authority", "x"), (":path", "/")]), Some("a path without a scheme")),
        (block(&[&without(":path")[..], &[(":path", "sse")]].concat()), Some("a path that does not begin with /")),
        (block(&[&without(":path")[..], &[(":path", "/a HTTP/1.1")]].concat()), Some("a space within a path")),
        (block(&[&without(":path")[..], &[(":path", "")]].concat()), Some("an empty path")),
    ] {
        let result = Talk::new().say(&request(1, &fields)).map(|events| events.len());
        // `write_field` writes names in lower case.
        assert_eq!(result, if why.is_some() { Err(ErrorCode::Protocol) } else { Ok(1) }, "{why:?}");
    }
    let mut upper = with(&[]);
    upper.extend_from_slice(&[0, 1, b'A', 1, b'b']);
    assert_eq!(Talk::new().say(&request(1, &upper)), Err(ErrorCode::Protocol));
}

/// RFC 9113 §4 to §6: what a frame must not be.
#[test]
fn frames_that_break_a_rule_end_the_connection() {
    use ErrorCode::{EnhanceYourCalm, FlowControl, FrameSize, Protocol, StreamClosed};
    let get = with(&[]);
    let open = request(1, &get);
    let upload = frame(1, 4, 1, &get);
    let number = |value: u32| value.to_be_bytes();
    let setting = |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let after = |first: &[u8], then: Vec<u8>| [first, &then].concat();
    for (bytes, code, what) in [
        (frame(0, 0, 0, b"x"), Protocol, "DATA on the connection"),
        (frame(0, 0, 1, b"x"), Protocol, "DATA on an idle stream"),
        (after(&open, frame(0, 0, 1, b"x")), StreamClosed, "DATA after the end"),
        (after(&upload, frame(0, 8, 1, &[5, 0])), Protocol, "more padding than payload"),
        (frame(1, 5, 0, &get), Protocol, "HEADERS on the connection"),
        (frame(1, 5, 2, &get), Protocol, "HEADERS on an even stream"),
        (after(&frame(1, 5, 5, &get), frame(1, 5, 3, &get)), Protocol, "HEADERS on an older stream"),
        (after(&open, frame(1, 5, 1, &get)), StreamClosed, "HEADERS after the end"),
        (after(&upload, frame(1, 4, 1, &block(&[("a", "b")]))), Protocol, "trailers without an end"),
        (after(&upload, frame(1, 5, 1, &block(&[(":path", "/")]))), Protocol, "pseudo-fields in trailers"),
        (frame(1, 5 | 32, 1, &[&number(1)[..], &[0], &get].concat()), Protocol, "a stream that depends on itself"),
        (after(&frame(1, 1, 1, &get), frame(6, 0, 0, &[0; 8])), Protocol, "a frame within a block"),
        (after(&frame(1, 1, 1, &get), frame(9, 4, 3, &[])), Protocol, "another stream's CONTINUATION"),
        (frame(9, 4, 1, &get), Protocol, "CONTINUATION of nothing"),
        (frame(2, 0, 0, &[0; 5]), Protocol, "PRIORITY on the connection"),
        (frame(2, 0, 1, &[0; 4]), FrameSize, "PRIORITY of four bytes"),
        (frame(2, 0, 1, &[0, 0, 0, 1, 0]), Protocol, "a stream that depends on itself"),
        (frame(3, 0, 0, &[0; 4]), Protocol, "RST_STREAM on the connection"),
        (frame(3, 0, 1, &[0; 4]), Protocol, "RST_STREAM on an idle stream"),
        (after(&open, frame(3, 0, 1, &[0; 3])), FrameSize, "RST_STREAM of three bytes"),
        (frame(4, 0, 1, &[]), Protocol, "SETTINGS on a stream"),
        (frame(4, 0, 0, &[0; 5]), FrameSize, "SETTINGS of five bytes"),
        (frame(4, 1, 0, &[0; 6]), FrameSize, "an acknowledgement with settings"),
        (frame(4, 0, 0, &setting(2, 2)), Protocol, "ENABLE_PUSH 2"),
        (frame(4, 0, 0, &setting(4, 1 << 31)), FlowControl, "a window of 2^31"),
        (frame(4, 0, 0, &setting(5, 16_383)), Protocol, "MAX_FRAME_SIZE 16,383"),
        (frame(4, 0, 0, &setting(5, 1 << 24)), Protocol, "MAX_FRAME_SIZE 2^24"),
        (frame(5, 4, 1, &[0; 4]), Protocol, "PUSH_PROMISE"),
        (frame(6, 0, 1, &[0; 8]), Protocol, "PING on a stream"),
        (frame(6, 0, 0, &[0; 7]), FrameSize, "PING of seven bytes"),
        (frame(7, 0, 1, &[0; 8]), Protocol, "GOAWAY on a stream"),
        (frame(8, 0, 0, &number(0)), Protocol, "no room for the connection"),
        (after(&open, frame(8, 0, 1, &number(0))), Protocol, "no room for a stream"),
        (frame(8, 0, 1, &number(1)), Protocol, "room for an idle stream"),
        (frame(8, 0, 0, &number(0x7fff_ffff)), FlowControl, "more room than 2^31 − 1"),
        (frame(8, 0, 0, &[0; 3]), FrameSize, "WINDOW_UPDATE of three bytes"),
        (vec![0, 0x40, 1, 0, 0, 0, 0, 0, 1], FrameSize, "a frame of 16,385 bytes"),
        (after(&frame(1, 1, 1, &[0; 9000]), frame(9, 0, 1, &[0; 9000])), EnhanceYourCalm, "a block of 18,000 bytes"),
    ] {
        assert_eq!(Talk::new().say(&bytes), Err(code), "{what}");
    }
    let mut out = Vec::new();
    let mut talk = Talk { link: Link::new(1, false, &mut out), ..Talk::new() };
    assert_eq!(talk.say(&frame(6, 0, 0, &[0; 8])), Err(Protocol), "SETTINGS come first");
    let many = after(&frame(1, 1, 1, &get), frame(9, 0, 1, &[]).repeat(9));
    assert_eq!(Talk::new().say(&many), Err(EnhanceYourCalm), "nine CONTINUATIONs");
}

#[test]
fn frames_that_mean_nothing_are_passed_over() {
    let mut talk = Talk::new();
    let get = with(&[]);
    talk.say(&frame(1, 5, 3, &get)).unwrap();
    talk.say(&frame(1, 4, 5, &get)).unwrap();
    // The server has ended the fifth before its client has.
    talk.link.note_cut(5);
    talk.streams.clear();
    for bytes in [
        frame(0x20, 0xff, 9, b"unknown"),
        frame(2, 0, 9, &[0, 0, 0, 1, 0]),
        frame(3, 0, 1, &[0; 4]),
        frame(8, 0, 3, &[0, 0, 0, 9]),
        frame(7, 0, 0, &[0; 8]),
        frame(0, 1, 5, b"late"),
        frame(1, 5, 5, &block(&[("late", "yes")])),
        frame(4, 0, 0, &[0, 99, 0, 0, 0, 1]),
    ] {
        assert_eq!(talk.say(&bytes).unwrap(), ["None"], "{bytes:?}");
    }
    talk.out.clear();
    assert_eq!(talk.say(&frame(6, 0, 0, b"12345678")).unwrap(), ["None"]);
    assert_eq!(talk.out, frame(6, 1, 0, b"12345678"));
}

#[test]
fn windows_are_counted_both_ways() {
    let mut talk = Talk::new();
    let get = with(&[]);
    talk.say(&frame(1, 4, 1, &get)).unwrap();
    talk.out.clear();
    // The client's data is given room again before half of the window is used up.
    for round in 0..10 {
        talk.say(&frame(0, 0, 1, &[0; 16_000])).unwrap();
        let has_room = !talk.out.is_empty();
        assert_eq!(has_room, round % 3 == 2, "{round}");
        talk.out.clear();
    }
    talk.link.note_sent(65_535);
    assert_eq!(talk.link.window(), 0);
    talk.say(&frame(8, 0, 0, &[0, 0, 1, 0])).unwrap();
    assert_eq!(talk.link.window(), 256);
    let smaller = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    assert_eq!(talk.say(&smaller).unwrap(), ["Windows { change: -65535 }"]);
    assert_eq!(talk.link.initial(), 0);
    assert_eq!(talk.say(&frame(8, 0, 1, &[0, 0, 0, 7])).unwrap(), ["Window { stream: 1, more: 7 }"]);
}

#[test]
fn every_flood_empties_the_bucket() {
    let open = request(1, &with(&[]));
    for (one, tokens, what) in [
        (frame(6, 0, 0, &[0; 8]), 1, "PING"),
        (frame(4, 0, 0, &[]), 2, "SETTINGS"),
        (frame(2, 0, 1, &[0, 0, 0, 3, 0]), 1, "PRIORITY"),
        (frame(8, 0, 0, &[0, 0, 0, 1]), 1, "WINDOW_UPDATE"),
        (frame(3, 0, 1, &[0; 4]), 1, "RST_STREAM"),
        (frame(0x33, 0, 0, &[]), 1, "unknown frames"),
        (frame(7, 0, 0, &[0; 8]), 1, "GOAWAY"),
    ] {
        let mut talk = Talk::new();
        talk.say(&open).unwrap();
        // The first SETTINGS have taken two tokens.
        talk.now += 10;
        for number in 0..200 / tokens {
            assert!(talk.say(&one).is_ok(), "{what} {number}");
        }
        assert_eq!(talk.say(&one), Err(ErrorCode::EnhanceYourCalm), "{what}");
        // Twenty come back in a second.
        talk.now += 10;
        talk.held.clear();
        (0..20 / tokens).for_each(|_| assert!(talk.say(&one).is_ok(), "{what}"));
        assert_eq!(talk.say(&one), Err(ErrorCode::EnhanceYourCalm), "{what}");
    }
    let mut talk = Talk::new();
    talk.say(&frame(1, 4, 1, &with(&[]))).unwrap();
    let empty = frame(0, 0, 1, &[]);
    let taken = (0..1000).take_while(|_| talk.say(&empty).is_ok()).count();
    assert!((190..=200).contains(&taken), "{taken} empty frames of data");
    // Room for what was sent is free.
    let mut talk = Talk::new();
    for _ in 0..10_000 {
        talk.link.note_sent(100);
        talk.say(&frame(8, 0, 0, &[0, 0, 0, 50]).repeat(2)).unwrap();
    }
}

#[test]
fn a_list_of_fields_is_bounded_while_it_is_decoded() {
    let crumbs = vec![("cookie", "a=b"); 124];
    assert!(Talk::new().say(&request(1, &with(&crumbs))).is_ok());
    let crumbs = vec![("cookie", "a=b"); 125];
    assert_eq!(Talk::new().say(&request(1, &with(&crumbs))), Err(ErrorCode::EnhanceYourCalm));
    // A bomb: an entry of 4000 bytes, and references to it of one byte each.
    let mut bomb = with(&[]);
    bomb.extend_from_slice(&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e]);
    bomb.extend_from_slice(&[b'x'; 4000]);
    bomb.extend_from_slice(&[0xbe; 7000]);
    assert_eq!(Talk::new().say(&request(1, &bomb)), Err(ErrorCode::EnhanceYourCalm));
}

proptest! {
    #[test]
    fn the_huffman_code_is_read_as_it_is_written(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut code, mut back) = (Vec::new(), Vec::new());
        huffman::encode(&text, &mut code);
        prop_assert_eq!(huffman::decode(&code, &mut back), Ok(()));
        prop_assert_eq!(back, text);
    }

    #[test]
    fn any_bytes_are_a_text_in_the_huffman_code_in_one_way(code in prop::collection::vec(any::<u8>(), 0..40)) {
        let (mut text, mut again) = (Vec::new(), Vec::new());
        if huffman::decode(&code, &mut text).is_ok() {
            huffman::encode(&text, &mut again);
            prop_assert_eq!(again, code);
        }
    }

    #[test]
    fn what_is_written_is_read(fields in prop::collection::vec(("[a-z][a-z-]{0,20}", "[ -~]{0,300}"), 0..20), status in 100u16..1000) {
        let mut block = Vec::new();
        write_status(status, &mut block);
        fields.iter().for_each(|(name, value)| write_field(name, value.as_bytes(), &mut block));
        let mut expected = vec![(":status".to_owned(), status.to_string())];
        expected.extend(fields);
        prop_assert_eq!(decode(&mut Decoder::default(), &block).unwrap(), expected);
    }

    /// Frames with any content neither panic nor take much memory, and their outcome is the same however they are cut.
    #[test]
    fn any_bytes_are_read_or_refused(
        frames in prop::collection::vec((0u8..12, any::<u8>(), 0u32..9, prop::collection::vec(any::<u8>(), 0..60)), 0..30),
        cut in 1usize..40,
    ) {
        let bytes: Vec<u8> =
            frames.iter().flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload)).collect();
        let at_once = Talk::new().say(&bytes).map(|events| events.concat());
        let mut talk = Talk::new();
        let mut parts = bytes.chunks(cut);
        let in_parts: Result<Vec<String>, ErrorCode> = parts.try_fold(Vec::new(), |mut all, part| {
            all.extend(talk.say(part)?);
            Ok(all)
        });
        prop_assert_eq!(at_once, in_parts.map(|events| events.concat()));
        prop_assert!(talk.link.memory_bytes() <= 8192 && talk.held.len() <= UNIT_MAX + 40);
    }
}
