//! TLS records of a peer that knows the keys and sends what it likes: their plaintext is the same for any pieces of the
//! bytes, and damaged records are never opened.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::logic::tls::{Keys, Sealer, Suite};

const SUITES: [Suite; 3] = [Suite::Tls13Aes128, Suite::Tls13Aes256, Suite::Tls13ChaCha20];

/// The keys of a side, with the secret that it sends by first.
fn keys(suite: Suite, send: u8, receive: u8) -> Keys {
    let length = if suite == Suite::Tls13Aes256 { 48 } else { 32 };
    Keys::of_secrets(suite, &vec![send; length], &vec![receive; length]).expect("the secrets have the suite's length")
}

/// The plaintext of bytes that come in pieces of these sizes, in turn, and how the connection ended.
fn opened(suite: Suite, bytes: &[u8], sizes: &[u8]) -> (Vec<u8>, String) {
    let mut server = keys(suite, 1, 2);
    let (mut kept, mut plain, mut rest, mut turn) = (Vec::new(), Vec::new(), bytes, 0);
    while !rest.is_empty() {
        let size = sizes.get(turn % sizes.len().max(1)).map_or(rest.len(), |size| usize::from(*size).max(1));
        turn += 1;
        let (piece, others) = rest.split_at(size.min(rest.len()));
        kept.extend_from_slice(piece);
        rest = others;
        match server.open(&mut kept) {
            Ok(opened) => {
                assert!(opened.plain <= opened.consumed && opened.consumed <= kept.len());
                plain.extend_from_slice(&kept[..opened.plain]);
                kept.drain(..opened.consumed);
            }
            Err(fatal) => return (Vec::new(), format!("{fatal:?}")),
        }
    }
    (plain, format!("closed {} owes {}", server.is_closed(), server.owes_update()))
}

fuzz_target!(|input: (u8, Vec<(u8, Vec<u8>)>, Vec<u8>, Vec<u8>)| {
    let (suite, records, tail, sizes) = input;
    let suite = SUITES[usize::from(suite) % SUITES.len()];
    let mut peer = keys(suite, 2, 1);
    let mut bytes = Vec::new();
    for (kind, content) in &records {
        let sealed = match (kind, content.as_slice()) {
            // A key update whose sender goes on with its next key.
            (22, [24, ..]) => peer.update(&mut bytes),
            _ => Sealer::new(&mut peer).and_then(|mut sealer| sealer.record(*kind, content, &mut bytes)),
        };
        sealed.expect("the cryptography works");
    }
    bytes.extend_from_slice(&tail);
    assert_eq!(opened(suite, &bytes, &[]), opened(suite, &bytes, &sizes));
});
