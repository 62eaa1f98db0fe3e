//! Writing JSON strings by hand, where building a value first would cost an allocation per event.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Appends `text` as a JSON string (RFC 8259 §7): quotes, backslashes and control characters are escaped.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut clean = 0;
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[clean..at]);
        clean = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(control >> 4)], HEX[usize::from(control & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[clean..]);
    out.push(b'"');
}

/// Appends a value as compact JSON, where an allocation or two do no harm.
pub fn write(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "what is shown has text for keys, and memory takes all that is written");
}

/// Appends `bytes` as base64 text (RFC 4648 §4, padded).
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let length = bytes.len().div_ceil(3) * 4;
    out.resize(start + length, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    debug_assert_eq!(written, length, "padded base64 has a known length");
    out.truncate(start + written);
}

/// Appends `bytes` as a JSON string of base64 text.
pub fn write_base64_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    write_base64(bytes, out);
    out.push(b'"');
}

/// Appends a list of texts.
pub fn write_strings<'t>(texts: impl Iterator<Item = &'t str>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (place, text) in texts.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_string(text, out);
    }
    out.push(b']');
}

/// Appends `"error":{"code","message"}`, the member by which every answer of the server tells an error, with
/// `"channels"` in it if the error is about some channels.
pub fn write_error(code: &str, message: &str, channels: &[String], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"error\":{\"code\":");
    write_string(code, out);
    out.extend_from_slice(b",\"message\":");
    write_string(message, out);
    if !channels.is_empty() {
        out.extend_from_slice(b",\"channels\":");
        write_strings(channels.iter().map(String::as_str), out);
    }
    out.push(b'}');
}

/// JSON without the white space between its tokens: so it is one line, as event streams need it.
pub fn compact(json: &str) -> Vec<u8> {
    let mut in_string = false;
    let mut escaped = false;
    let keep = |byte: &u8| {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            return true;
        }
        in_string = *byte == b'"';
        !byte.is_ascii_whitespace()
    };
    json.bytes().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_error_names_its_channels_if_there_are_any() {
        let mut out = Vec::new();
        write_error("x", "a \"b\"", &[], &mut out);
        assert_eq!(out, br#""error":{"code":"x","message":"a \"b\""}"#);
        out.clear();
        write_error("x", "y", &["a".to_owned(), "b".to_owned()], &mut out);
        assert_eq!(out, br#""error":{"code":"x","message":"y","channels":["a","b"]}"#);
    }

    proptest! {
        #[test]
        fn strings_read_back_as_they_were(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn base64_reads_back_as_it_was(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut out = b"x".to_vec();
            write_base64_string(&bytes, &mut out);
            let text: String = serde_json::from_slice(&out[1..]).unwrap();
            prop_assert_eq!(STANDARD.decode(text).unwrap(), bytes);
        }

        #[test]
        fn compacting_keeps_the_value(text in "\\PC{0,20}", number: i32) {
            let value = serde_json::json!({ "a": [text, number, null], "b": {} });
            let compacted = compact(&serde_json::to_string_pretty(&value).unwrap());
            prop_assert_eq!(serde_json::to_vec(&value).unwrap(), compacted);
        }
    }
}
