//! The chunked transfer coding (RFC 9112 §7.1).

use crate::logic::protocol::prepend;

/// The end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Makes the bytes of `out` from `start` on one chunk. No bytes stay no bytes: an empty chunk would end the body.
pub fn wrap_chunk(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length == 0 {
        return;
    }
    // Sixteen hexadecimal digits at most, then CR LF.
    let mut head = *b"0000000000000000\r\n";
    let mut rest = length;
    let mut from = 16;
    while rest > 0 {
        from -= 1;
        head[from] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    out.extend_from_slice(b"\r\n");
    prepend(out, start, &head[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_begins_with_its_length() {
        for length in [1usize, 9, 15, 16, 255, 256, 4095, 65_536, 1_000_000] {
            let body = vec![b'x'; length];
            let mut out = b"before".to_vec();
            out.extend_from_slice(&body);
            wrap_chunk(&mut out, 6);
            let expected = [b"before", format!("{length:x}\r\n").as_bytes(), &body, b"\r\n"].concat();
            assert_eq!(out, expected, "{length}");
        }
    }

    #[test]
    fn nothing_is_no_chunk() {
        let mut out = b"before".to_vec();
        wrap_chunk(&mut out, 6);
        assert_eq!(out, b"before");
    }
}
