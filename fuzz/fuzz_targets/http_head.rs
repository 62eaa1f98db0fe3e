//! Request heads: an accepted head is accepted with any bytes after it, and no prefix of it is taken for a whole head.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::logic::protocol::http::{HeadLimits, Parsed, last_untrusted, parse};
use ringcast::logic::protocol::query;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 1024, fields_max: 64 };

fuzz_target!(|bytes: &[u8]| {
    let Parsed::Complete { request, consumed } = parse(bytes, &LIMITS) else { return };
    assert!(consumed <= bytes.len() && bytes[..consumed].ends_with(b"\r\n\r\n"));
    for cut in [consumed / 2, consumed - 1] {
        assert!(!matches!(parse(&bytes[..cut], &LIMITS), Parsed::Complete { .. }), "a prefix of a head is not whole");
    }
    let Parsed::Complete { request: again, consumed: same } = parse(&bytes[..consumed], &LIMITS) else {
        panic!("a head does not depend on what follows it");
    };
    assert_eq!((consumed, request.path, request.host), (same, again.path, again.host));
    let _ = query::parse(request.query, 10);
    let _ = (request.bearer(), request.cookie("session"));
    let _ = last_untrusted(&request, |address| address.is_loopback());
});
