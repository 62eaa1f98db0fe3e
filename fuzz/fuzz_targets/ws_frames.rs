//! WebSocket frames: the decoder returns the same messages for any pieces of the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::logic::protocol::ws::{Decoder, Message};

const MESSAGE_MAX: usize = 512;

/// The messages, and the violation that ends them, of bytes that come in pieces of these sizes, in turn.
fn said(bytes: &[u8], sizes: &[u8]) -> Vec<String> {
    let mut decoder = Decoder::default();
    let mut waiting: Vec<u8> = Vec::new();
    let mut out = Vec::new();
    let mut rest = bytes;
    let mut turn = 0;
    loop {
        loop {
            let read = match decoder.read(&mut waiting, MESSAGE_MAX) {
                Ok(read) => read,
                Err(violation) => {
                    out.push(format!("{violation:?}"));
                    return out;
                }
            };
            if let Some(message) = read.message {
                if let Message::Text(text) = message {
                    assert!(text.len() <= MESSAGE_MAX);
                }
                out.push(format!("{message:?}"));
            }
            if read.consumed == 0 {
                break;
            }
            let consumed = read.consumed;
            waiting.drain(..consumed);
        }
        if rest.is_empty() {
            return out;
        }
        let size = sizes.get(turn % sizes.len().max(1)).map_or(rest.len(), |size| usize::from(*size).max(1));
        turn += 1;
        let (piece, others) = rest.split_at(size.min(rest.len()));
        waiting.extend_from_slice(piece);
        rest = others;
    }
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, sizes) = input;
    assert_eq!(said(&bytes, &[]), said(&bytes, &sizes));
});
