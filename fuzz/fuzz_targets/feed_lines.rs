//! Lines of the feed: the splitter returns the same lines for any pieces, and the parser panics on no line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::logic::protocol::feed::{Command, Line, LineSplitter, parse};

fn lines(bytes: &[u8], size: usize) -> Vec<Option<Vec<u8>>> {
    let mut splitter = LineSplitter::new(300);
    let mut out = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        splitter.push(piece);
        while let Some(line) = splitter.next_line() {
            out.push(match line {
                Line::Whole(line) => Some(line.to_vec()),
                Line::TooLong => None,
            });
        }
    }
    out
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = lines(bytes, usize::MAX);
    assert_eq!(whole, lines(bytes, size.into()));
    for line in whole.iter().flatten() {
        match parse(line) {
            Ok(request) => {
                if let Command::Publish(publish) = request.command {
                    assert!(!publish.channels.is_empty());
                }
            }
            Err(refused) => assert!(!refused.error.message.is_empty()),
        }
    }
});
