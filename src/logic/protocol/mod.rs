//! The formats that protocols are made of, sans-IO: bytes in, bytes out.

pub mod feed;
pub mod http;
pub mod proxy;
pub mod query;
pub mod ws;

/// Puts `prefix` before the bytes of `out` from `start` on. A prefix that holds the length of its body is written after
/// the body, because moving the body by some bytes costs less than writing it twice.
fn prepend(out: &mut Vec<u8>, start: usize, prefix: &[u8]) {
    out.extend_from_slice(prefix);
    out[start..].rotate_right(prefix.len());
}
