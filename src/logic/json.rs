//! JSON text, appended to a buffer: strings, base64, values, and removing white space.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Appends `text` as a JSON string (RFC 8259 §7), escaped where that is needed. Only the growth of `out` allocates.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    write(text, out);
}

/// Appends a value as compact JSON.
///
/// The value's maps must have text for keys: another key is a mistake in this program and leaves the value cut short.
pub fn write(value: &(impl serde::Serialize + ?Sized), out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "every map has text for keys, and a vector takes every byte");
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

/// Appends texts as a JSON list of strings.
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

/// Removes the white space between the tokens of JSON, so that it is one line, as event streams need it.
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

/// Whether a JSON text has an escape for half of a surrogate pair (RFC 8259 §8.2), which is no character.
pub fn has_lone_surrogate(text: &str) -> bool {
    let bytes = text.as_bytes();
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &bytes[at..]) {
        at += found;
        at += match unit(at) {
            Some(0xdc00..=0xdfff) => return true,
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdbff) => return true,
            // The character after a backslash may be another backslash.
            _ => 2,
        };
        if at >= bytes.len() {
            break;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_surrogate_pair_is_found() {
        for text in [r#"{"a":"\ud800"}"#, r#""\udc00""#, r#""\ud800\u0041""#, r#"["\ud83d","\ude00"]"#, r#""\\\ud800""#]
        {
            assert!(has_lone_surrogate(text), "{text}");
        }
        for text in [r#"{"a":"\ud83d\ude00"}"#, r#""\\ud800""#, r#""\u0041\n""#, "{}", r#""\\""#] {
            assert!(!has_lone_surrogate(text), "{text}");
        }
    }
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_what_must_be_is_escaped_and_as_short_as_can_be() {
        let text = "a\"b\\c\nd\re\tf\0\u{8}\u{1f} /\u{7f}ü";
        let expected = r#""a\"b\\c\nd\re\tf\u0000\b\u001f /"#.to_owned() + "\u{7f}ü\"";
        assert_eq!(written(|out| write_string(text, out)), expected);
    }

    #[test]
    fn values_and_lists_are_compact() {
        assert_eq!(written(|out| write(&serde_json::json!({ "a": [1, "b"] }), out)), r#"{"a":[1,"b"]}"#);
        let list = |texts: &[&'static str]| written(|out| write_strings(texts.iter().copied(), out));
        assert_eq!([list(&[]), list(&["a"]), list(&["a", "\"", ""])], ["[]", r#"["a"]"#, r#"["a","\"",""]"#]);
    }

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
