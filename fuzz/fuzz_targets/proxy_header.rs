//! PROXY protocol headers: a whole header is whole with any bytes after it, and each prefix of it is partial.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::logic::protocol::proxy::{ProxyHeader, parse};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        whole @ ProxyHeader::Whole { consumed, .. } => {
            assert!(consumed <= bytes.len());
            assert_eq!(parse(&bytes[..consumed]), whole);
            for cut in 0..consumed {
                assert_eq!(parse(&bytes[..cut]), ProxyHeader::Partial);
            }
        }
        ProxyHeader::Malformed => assert_eq!(parse(&[bytes, b"x"].concat()), ProxyHeader::Malformed),
        ProxyHeader::Partial => {}
    }
});
