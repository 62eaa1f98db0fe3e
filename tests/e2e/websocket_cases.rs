//! The cases of the Autobahn test suite (groups 1 to 7, 9 and 10), written from RFC 6455 against the echo path: the
//! frames that are sent, their pieces, and the one sequence of frames that may come back. Each case has the suite's number.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::server::{PATIENCE, Server};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A client's frame.
#[derive(Clone)]
struct Frame {
    first: u8,
    payload: Vec<u8>,
}

fn frame(opcode: u8, payload: impl AsRef<[u8]>) -> Frame {
    Frame { first: 0x80 | opcode, payload: payload.as_ref().to_vec() }
}

impl Frame {
    fn more(mut self) -> Frame {
        self.first &= 0x7f;
        self
    }

    fn reserved(mut self, bits: u8) -> Frame {
        self.first |= bits << 4;
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mask = [0x11, 0xa2, 0x3c, 0x07];
        out.push(self.first);
        match self.payload.len() {
            length @ 0..126 => out.push(0x80 | length as u8),
            length @ 126..65536 => {
                out.push(0x80 | 126);
                out.extend((length as u16).to_be_bytes());
            }
            length => {
                out.push(0x80 | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(self.payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    }
}

fn text(payload: impl AsRef<[u8]>) -> Frame {
    frame(TEXT, payload)
}

fn close(code: u16, reason: &[u8]) -> Frame {
    frame(CLOSE, [&code.to_be_bytes()[..], reason].concat())
}

/// A frame that must come back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Back {
    Message(u8, Vec<u8>),
    Pong(Vec<u8>),
    /// A close frame with this code (0: with none), after which the connection ends.
    Close(u16),
}

fn echo(payload: impl AsRef<[u8]>) -> Back {
    Back::Message(TEXT, payload.as_ref().to_vec())
}

fn pong(payload: impl AsRef<[u8]>) -> Back {
    Back::Pong(payload.as_ref().to_vec())
}

struct Suite {
    address: SocketAddr,
    cases: usize,
}

impl Suite {
    /// Sends frames in pieces of `piece` bytes (0: all at once), and closes if the case does not end otherwise.
    fn case(&mut self, name: &str, frames: &[Frame], piece: usize, expected: &[Back]) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        let mut expected = expected.to_vec();
        if !matches!(expected.last(), Some(Back::Close(_))) {
            close(1000, b"").write(&mut bytes);
            expected.push(Back::Close(1000));
        }
        self.exchange(name, bytes, piece, &expected);
    }

    /// Sends a frame without its last `missing` bytes, for which the server must not wait.
    fn cut(&mut self, name: &str, frame: &Frame, missing: usize, piece: usize, expected: &[Back]) {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        bytes.truncate(bytes.len() - missing);
        self.exchange(name, bytes, piece, expected);
    }

    fn exchange(&mut self, name: &str, bytes: Vec<u8>, piece: usize, expected: &[Back]) {
        self.cases += 1;
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let head = "GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let size = if piece == 0 { bytes.len().max(1) } else { piece };
            // A server that has failed the connection may not read the rest.
            let _ = bytes.chunks(size).try_for_each(|piece| writer.write_all(piece));
        });
        let back = receive(&mut stream);
        thread.join().unwrap();
        assert_eq!(back.len(), expected.len(), "case {name}: {:?}", back.iter().map(short).collect::<Vec<_>>());
        for (back, expected) in back.iter().zip(expected) {
            assert!(back == expected, "case {name}: {} instead of {}", short(back), short(expected));
        }
    }

    /// Runs a case three times, under three numbers: in one piece, in pieces of 7 bytes, and byte by byte.
    fn chopped(&mut self, names: [&str; 3], frames: &[Frame], expected: &[Back]) {
        for (name, piece) in names.into_iter().zip([0, 7, 1]) {
            self.case(name, frames, piece, expected);
        }
    }
}

fn short(back: &Back) -> String {
    format!("{back:?}").chars().take(100).collect()
}

/// All frames up to the end of the connection.
fn receive(stream: &mut TcpStream) -> Vec<Back> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer to the handshake") + 4;
    assert!(bytes.starts_with(b"HTTP/1.1 101"));
    let mut rest = &bytes[head..];
    let mut back = Vec::new();
    while !rest.is_empty() {
        assert_eq!(rest[0] & 0xf0, 0x80, "the server sends whole messages, without reserved bits");
        let (length, start) = match rest[1] {
            126 => (usize::from(u16::from_be_bytes([rest[2], rest[3]])), 4),
            127 => (u64::from_be_bytes(rest[2..10].try_into().unwrap()) as usize, 10),
            length @ 0..126 => (usize::from(length), 2),
            _ => panic!("the server must not mask"),
        };
        let payload = rest[start..start + length].to_vec();
        back.push(match rest[0] & 15 {
            opcode @ (TEXT | BINARY) => Back::Message(opcode, payload),
            PONG => Back::Pong(payload),
            CLOSE if payload.is_empty() => Back::Close(0),
            CLOSE => Back::Close(u16::from_be_bytes([payload[0], payload[1]])),
            opcode => panic!("opcode {opcode}"),
        });
        rest = &rest[start + length..];
    }
    back
}

fn suite() -> (Server, Suite) {
    let config = "[diagnostics]\necho_path = \"/echo\"\n[websocket]\nmax_message = \"16MiB\"\nmessage_rate = 0\n[limits]\nreplies = \"20MiB\"";
    let server = Server::start(config);
    let address = server.address;
    (server, Suite { address, cases: 0 })
}

#[test]
fn groups_1_to_5_framing_pings_reserved_bits_opcodes_and_fragments() {
    let (_server, mut suite) = suite();
    for (group, opcode) in [("1.1", TEXT), ("1.2", BINARY)] {
        for (number, length) in [0, 125, 126, 127, 128, 65535, 65536].into_iter().enumerate() {
            let payload = vec![b'*'; length];
            let back = [Back::Message(opcode, payload.clone())];
            suite.case(&format!("{group}.{}", number + 1), &[frame(opcode, &payload)], 0, &back);
        }
        let payload = vec![b'*'; 65536];
        suite.case(&format!("{group}.8"), &[frame(opcode, &payload)], 997, &[Back::Message(opcode, payload)]);
    }
    suite.case("2.1", &[frame(PING, "")], 0, &[pong("")]);
    suite.case("2.2", &[frame(PING, "Hello, world!")], 0, &[pong("Hello, world!")]);
    suite.case("2.3", &[frame(PING, [0, 255, 254, 253, 0])], 0, &[pong([0, 255, 254, 253, 0])]);
    suite.case("2.4", &[frame(PING, [254; 125])], 0, &[pong([254; 125])]);
    suite.case("2.5", &[frame(PING, [254; 126])], 0, &[Back::Close(1002)]);
    suite.case("2.6", &[frame(PING, [254; 125])], 1, &[pong([254; 125])]);
    suite.case("2.7", &[frame(PONG, "")], 0, &[]);
    suite.case("2.8", &[frame(PONG, "unsolicited")], 0, &[]);
    suite.case("2.9", &[frame(PONG, "unsolicited"), frame(PING, "ping")], 0, &[pong("ping")]);
    let pings: Vec<Frame> = (0..10).map(|n| frame(PING, format!("payload-{n}"))).collect();
    let pongs: Vec<Back> = (0..10).map(|n| pong(format!("payload-{n}"))).collect();
    suite.case("2.10", &pings, 0, &pongs);
    suite.case("2.11", &pings, 1, &pongs);

    suite.case("3.1", &[text("x").reserved(4)], 0, &[Back::Close(1002)]);
    let first = [echo("Hello, world!"), Back::Close(1002)];
    let with = |bad: Frame| [text("Hello, world!"), bad, frame(PING, "")];
    suite.chopped(["3.2", "3.3", "3.4"], &with(text("x").reserved(2)), &first);
    suite.case("3.5", &[frame(BINARY, [0, 255]).reserved(5)], 0, &[Back::Close(1002)]);
    suite.case("3.6", &[frame(PING, "x").reserved(6)], 0, &[Back::Close(1002)]);
    suite.case("3.7", &[close(1000, b"").reserved(7)], 0, &[Back::Close(1002)]);

    for (group, opcodes) in [("4.1", [3, 4, 5, 6, 7]), ("4.2", [11, 12, 13, 14, 15])] {
        for (number, opcode) in opcodes.into_iter().enumerate() {
            let name = format!("{group}.{}", number + 1);
            match number {
                0 => suite.case(&name, &[frame(opcode, "")], 0, &[Back::Close(1002)]),
                1 => suite.case(&name, &[frame(opcode, "payload")], 0, &[Back::Close(1002)]),
                2 => suite.case(&name, &with(frame(opcode, "")), 0, &first),
                3 => suite.case(&name, &with(frame(opcode, "payload")), 0, &first),
                _ => suite.case(&name, &with(frame(opcode, "payload")), 1, &first),
            }
        }
    }

    let next = |payload: &str| frame(CONTINUATION, payload);
    suite.case("5.1", &[frame(PING, "a").more(), next("b")], 0, &[Back::Close(1002)]);
    suite.case("5.2", &[frame(PONG, "a").more(), next("b")], 0, &[Back::Close(1002)]);
    suite.chopped(["5.3", "5.4", "5.5"], &[text("fragment1").more(), next("fragment2")], &[echo("fragment1fragment2")]);
    suite.chopped(
        ["5.6", "5.7", "5.8"],
        &[text("fragment1").more(), frame(PING, "ping"), next("fragment2")],
        &[pong("ping"), echo("fragment1fragment2")],
    );
    let nothing_to_continue = [next("no text"), text("Hello, world!")];
    suite.chopped(["5.9", "5.10", "5.11"], &nothing_to_continue, &[Back::Close(1002)]);
    let nothing_to_continue = [next("no text").more(), text("Hello, world!")];
    suite.chopped(["5.12", "5.13", "5.14"], &nothing_to_continue, &[Back::Close(1002)]);
    let frames = [text("fragment1").more(), next("fragment2"), next("fragment3").more(), text("fragment4")];
    suite.case("5.15", &frames, 0, &[echo("fragment1fragment2"), Back::Close(1002)]);
    let frames = [next("a").more(), text("b").more(), next("c"), next("a").more(), text("b").more(), next("c")];
    suite.case("5.16", &frames, 0, &[Back::Close(1002)]);
    let frames = [next("a"), text("b").more(), next("c"), next("a"), text("b").more(), next("c")];
    suite.case("5.17", &frames, 0, &[Back::Close(1002)]);
    suite.case("5.18", &[text("fragment1").more(), text("fragment2")], 0, &[Back::Close(1002)]);
    let frames = [
        text("fragment1").more(),
        next("fragment2").more(),
        frame(PING, "pongme 1"),
        next("fragment3").more(),
        next("fragment4").more(),
        frame(PING, "pongme 2"),
        next("fragment5"),
    ];
    let back = [pong("pongme 1"), pong("pongme 2"), echo("fragment1fragment2fragment3fragment4fragment5")];
    suite.case("5.19", &frames, 0, &back);
    suite.case("5.20", &frames, 5, &back);
    assert_eq!(suite.cases, 16 + 11 + 7 + 10 + 20);
}

/// Texts and whether they are UTF-8, from Markus Kuhn's test file, as groups 6.5 to 6.23 take them.
fn texts() -> Vec<(&'static str, Vec<u8>, bool)> {
    let mut texts: Vec<(&str, Vec<u8>, bool)> = Vec::new();
    texts.push(("6.5", "κόσμε".into(), true));
    texts.push(("6.5", "Hello-µ@ßöäüàá-UTF-8!!".into(), true));
    for cut in 1..11 {
        // Each prefix of κόσμε, which is valid if it ends with a whole character.
        let bytes = "κόσμε".as_bytes()[..cut.min("κόσμε".len())].to_vec();
        let is_valid = std::str::from_utf8(&bytes).is_ok();
        texts.push(("6.6", bytes, is_valid));
    }
    for first in ["\0", "\u{80}", "\u{800}", "\u{10000}"] {
        texts.push(("6.7", first.into(), true));
    }
    for bytes in [vec![0xf8, 0x88, 0x80, 0x80, 0x80], vec![0xfc, 0x84, 0x80, 0x80, 0x80, 0x80]] {
        texts.push(("6.8", bytes, false));
    }
    for last in ["\u{7f}", "\u{7ff}", "\u{ffff}", "\u{10ffff}"] {
        texts.push(("6.9", last.into(), true));
    }
    for bytes in
        [vec![0xf7, 0xbf, 0xbf, 0xbf], vec![0xfb, 0xbf, 0xbf, 0xbf, 0xbf], vec![0xfd, 0xbf, 0xbf, 0xbf, 0xbf, 0xbf]]
    {
        texts.push(("6.10", bytes, false));
    }
    for text in ["\u{d7ff}", "\u{e000}", "\u{fffd}", "\u{10ffff}"] {
        texts.push(("6.11", text.into(), true));
    }
    texts.push(("6.11", vec![0xf4, 0x90, 0x80, 0x80], false));
    for length in 1..=7 {
        texts.push(("6.12", [0x80, 0xbf].into_iter().cycle().take(length).collect(), false));
    }
    texts.push(("6.12", (0x80..=0xbf).collect(), false));
    for range in [0xc0..=0xdf, 0xe0..=0xef, 0xf0..=0xf7, 0xf8..=0xfb, 0xfc..=0xfdu8] {
        texts.push(("6.13", range.flat_map(|byte| [byte, b' ']).collect(), false));
    }
    let cut: [&[u8]; 10] = [
        &[0xc0],
        &[0xe0, 0x80],
        &[0xf0, 0x80, 0x80],
        &[0xf8, 0x80, 0x80, 0x80],
        &[0xfc, 0x80, 0x80, 0x80, 0x80],
        &[0xdf],
        &[0xef, 0xbf],
        &[0xf7, 0xbf, 0xbf],
        &[0xfb, 0xbf, 0xbf, 0xbf],
        &[0xfd, 0xbf, 0xbf, 0xbf, 0xbf],
    ];
    texts.extend(cut.iter().map(|bytes| ("6.14", bytes.to_vec(), false)));
    texts.push(("6.15", cut.concat(), false));
    for bytes in [vec![0xfe], vec![0xff], vec![0xfe, 0xfe, 0xff, 0xff]] {
        texts.push(("6.16", bytes, false));
    }
    let overlong: [(&str, &[u8]); 15] = [
        ("6.17", &[0xc0, 0xaf]),
        ("6.17", &[0xe0, 0x80, 0xaf]),
        ("6.17", &[0xf0, 0x80, 0x80, 0xaf]),
        ("6.17", &[0xf8, 0x80, 0x80, 0x80, 0xaf]),
        ("6.17", &[0xfc, 0x80, 0x80, 0x80, 0x80, 0xaf]),
        ("6.18", &[0xc1, 0xbf]),
        ("6.18", &[0xe0, 0x9f, 0xbf]),
        ("6.18", &[0xf0, 0x8f, 0xbf, 0xbf]),
        ("6.18", &[0xf8, 0x87, 0xbf, 0xbf, 0xbf]),
        ("6.18", &[0xfc, 0x83, 0xbf, 0xbf, 0xbf, 0xbf]),
        ("6.19", &[0xc0, 0x80]),
        ("6.19", &[0xe0, 0x80, 0x80]),
        ("6.19", &[0xf0, 0x80, 0x80, 0x80]),
        ("6.19", &[0xf8, 0x80, 0x80, 0x80, 0x80]),
        ("6.19", &[0xfc, 0x80, 0x80, 0x80, 0x80, 0x80]),
    ];
    texts.extend(overlong.iter().map(|(name, bytes)| (*name, bytes.to_vec(), false)));
    let high = [[0xed, 0xa0, 0x80], [0xed, 0xad, 0xbf], [0xed, 0xae, 0x80], [0xed, 0xaf, 0xbf]];
    let low = [[0xed, 0xb0, 0x80], [0xed, 0xbe, 0x80], [0xed, 0xbf, 0xbf]];
    texts.extend(high.iter().chain(&low).map(|bytes| ("6.20", bytes.to_vec(), false)));
    for high in high {
        for low in [low[0], low[2]] {
            texts.push(("6.21", [high, low].concat(), false));
        }
    }
    for plane in 0..=16u32 {
        for last in [0xfffe, 0xffff] {
            let character = char::from_u32(plane << 16 | last).unwrap();
            texts.push(("6.22", character.to_string().into_bytes(), true));
        }
    }
    for character in ['\u{fff9}', '\u{fffa}', '\u{fffb}', '\u{fffc}', '\u{fffd}', '\u{fffe}', '\u{ffff}'] {
        texts.push(("6.23", character.to_string().into_bytes(), true));
    }
    texts
}

#[test]
fn group_6_utf_8() {
    let (_server, mut suite) = suite();
    let next = |payload: &[u8]| frame(CONTINUATION, payload);
    suite.case("6.1.1", &[text("")], 0, &[echo("")]);
    suite.case("6.1.2", &[text("").more(), next(b"").more(), next(b"")], 0, &[echo("")]);
    suite.case("6.1.3", &[text("").more(), next(b"middle").more(), next(b"")], 0, &[echo("middle")]);
    let single = |bytes: &[u8]| {
        let mut frames: Vec<Frame> = bytes.iter().map(|byte| next(&[*byte]).more()).collect();
        frames.insert(0, text("").more());
        frames.push(next(b""));
        frames
    };
    let valid = "Hello-µ@ßöäüàá-UTF-8!!";
    suite.case("6.2.1", &[text(valid)], 0, &[echo(valid)]);
    suite.case("6.2.2", &[text("Hello-µ@ßöä").more(), next("üàá-UTF-8!!".as_bytes())], 0, &[echo(valid)]);
    suite.case("6.2.3", &single(valid.as_bytes()), 0, &[echo(valid)]);
    suite.case("6.2.4", &single("κόσμε".as_bytes()), 0, &[echo("κόσμε")]);
    let invalid = [0xce, 0xba, 0xe1, 0xbd, 0xb9, 0xcf, 0x83, 0xce, 0xbc, 0xce, 0xb5, 0xed, 0xa0, 0x80, b'e', b'd'];
    suite.case("6.3.1", &[text(invalid)], 0, &[Back::Close(1007)]);
    suite.case("6.3.2", &single(&invalid), 0, &[Back::Close(1007)]);
    // The bytes after the first invalid one are not sent, because the server must not wait for them.
    suite.case("6.4.1", &[text(&invalid[..11]).more(), next(&invalid[11..14]).more()], 0, &[Back::Close(1007)]);
    suite.case("6.4.2", &[text(&invalid[..11]).more(), next(&[0xf4, 0x90]).more()], 0, &[Back::Close(1007)]);
    for (name, last, piece) in [("6.4.3", 0xa0, 0), ("6.4.4", 0xa0, 1), ("6.4.3", 0xff, 0), ("6.4.4", 0xff, 1)] {
        let mut bytes = invalid;
        bytes[12] = last;
        suite.cut(name, &text(bytes), 3, piece, &[Back::Close(1007)]);
    }
    let mut number = 0;
    for (group, bytes, is_valid) in texts() {
        number += 1;
        let back = if is_valid { echo(&bytes) } else { Back::Close(1007) };
        let name = format!("{group} ({number})");
        suite.case(&name, &[text(&bytes)], 0, std::slice::from_ref(&back));
        suite.case(&name, &single(&bytes), 0, &[back]);
    }
    assert_eq!(suite.cases, 15 + 2 * number);
    assert!(number >= 125, "{number} texts");
}

#[test]
fn group_7_closing() {
    let (_server, mut suite) = suite();
    suite.case("7.1.1", &[text("Hello World!"), close(1000, b"")], 0, &[echo("Hello World!"), Back::Close(1000)]);
    suite.case("7.1.2", &[close(1000, b""), close(1000, b"")], 0, &[Back::Close(1000)]);
    suite.case("7.1.3", &[close(1000, b""), frame(PING, "")], 0, &[Back::Close(1000)]);
    suite.case("7.1.4", &[close(1000, b""), text("late")], 0, &[Back::Close(1000)]);
    suite.case("7.1.5", &[text("a").more(), close(1000, b""), frame(CONTINUATION, "b")], 0, &[Back::Close(1000)]);
    let big = vec![b'a'; 256 * 1024];
    suite.case("7.1.6", &[text(&big), close(1000, b""), frame(PING, "")], 0, &[echo(&big), Back::Close(1000)]);
    suite.case("7.3.1", &[frame(CLOSE, "")], 0, &[Back::Close(1000)]);
    suite.case("7.3.2", &[frame(CLOSE, "a")], 0, &[Back::Close(1002)]);
    suite.case("7.3.3", &[close(1000, b"")], 0, &[Back::Close(1000)]);
    suite.case("7.3.4", &[close(1000, b"Hello World!")], 0, &[Back::Close(1000)]);
    suite.case("7.3.5", &[close(1000, &[b'*'; 123])], 0, &[Back::Close(1000)]);
    suite.case("7.3.6", &[close(1000, &[b'*'; 124])], 0, &[Back::Close(1002)]);
    suite.case("7.5.1", &[close(1000, &[0xce, 0xba, 0xed, 0xa0, 0x80])], 0, &[Back::Close(1007)]);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        suite.case(&format!("7.7 {code}"), &[close(code, b"")], 0, &[Back::Close(code)]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        suite.case(&format!("7.9, 7.13 {code}"), &[close(code, b"")], 0, &[Back::Close(1002)]);
    }
    assert_eq!(suite.cases, 13 + 16 + 12);
}

#[test]
fn groups_9_and_10_limits_and_fragments() {
    let (_server, mut suite) = suite();
    for (group, opcode) in [("9.1", TEXT), ("9.2", BINARY)] {
        for (number, length) in [64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20].into_iter().enumerate() {
            let payload = vec![b'*'; length];
            let back = [Back::Message(opcode, payload.clone())];
            suite.case(&format!("{group}.{}", number + 1), &[frame(opcode, &payload)], 0, &back);
        }
    }
    let fragmented = |opcode: u8, payload: &[u8], size: usize| -> Vec<Frame> {
        let mut frames: Vec<Frame> = payload.chunks(size).map(|part| frame(CONTINUATION, part).more()).collect();
        frames[0].first = opcode;
        if let Some(last) = frames.last_mut() {
            last.first |= 0x80;
        }
        frames
    };
    let payload = vec![b'*'; 4 << 20];
    for (group, opcode) in [("9.3", TEXT), ("9.4", BINARY)] {
        for (number, size) in
            [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20].into_iter().enumerate()
        {
            let back = [Back::Message(opcode, payload.clone())];
            suite.case(&format!("{group}.{}", number + 1), &fragmented(opcode, &payload, size), 0, &back);
        }
    }
    let payload = vec![b'*'; 1 << 20];
    for (group, opcode) in [("9.5", TEXT), ("9.6", BINARY)] {
        for (number, piece) in [64, 128, 256, 512, 1024, 2048].into_iter().enumerate() {
            let back = [Back::Message(opcode, payload.clone())];
            suite.case(&format!("{group}.{}", number + 1), &[frame(opcode, &payload)], piece, &back);
        }
    }
    for (group, opcode) in [("9.7", TEXT), ("9.8", BINARY)] {
        for (number, length) in [0, 16, 64, 256, 1024, 4096].into_iter().enumerate() {
            let payload = vec![b'*'; length];
            let frames = vec![frame(opcode, &payload); 1000];
            let back = vec![Back::Message(opcode, payload); 1000];
            suite.case(&format!("{group}.{}", number + 1), &frames, 0, &back);
        }
    }
    let payload = vec![b'*'; 65536];
    suite.case("10.1.1", &fragmented(TEXT, &payload, 1300), 0, &[echo(&payload)]);
    assert_eq!(suite.cases, 12 + 18 + 12 + 12 + 1);
}
