//! What publishers are told.

use crate::logic::id::Id;
use crate::logic::json;

use super::FeedError;

fn write_start(out: &mut Vec<u8>, reference: Option<&str>) {
    out.push(b'{');
    if let Some(reference) = reference {
        out.extend_from_slice(b"\"ref\":");
        out.extend_from_slice(reference.as_bytes());
        out.push(b',');
    }
}

/// Appends `{"ref":…,"ok":true}`.
pub fn write_ok(out: &mut Vec<u8>, reference: &str) {
    write_ok_with(out, reference, |_| {});
}

/// Appends `{"ref":…,"ok":true` and what `members` appends (starting with a comma), and `}`.
pub fn write_ok_with(out: &mut Vec<u8>, reference: &str, members: impl FnOnce(&mut Vec<u8>)) {
    write_start(out, Some(reference));
    out.extend_from_slice(b"\"ok\":true");
    members(out);
    out.extend_from_slice(b"}\n");
}

/// Appends the answer to a publish: `"id"`, or `"ids"` where a list was asked for.
pub fn write_ids(out: &mut Vec<u8>, reference: &str, ids: &[Id], is_list: bool) {
    write_ok_with(out, reference, |out| {
        out.extend_from_slice(if is_list { b",\"ids\":[" } else { b",\"id\":" });
        for (index, id) in ids.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.push(b'"');
            id.write(out);
            out.push(b'"');
        }
        if is_list {
            out.push(b']');
        }
    });
}

/// Appends `{"ref":…,"error":{"code","message"}}`.
pub fn write_error(out: &mut Vec<u8>, reference: Option<&str>, error: &FeedError) {
    write_start(out, reference);
    json::write_error(error.code, &error.message, &[], out);
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_one_line_each() {
        let mut out = Vec::new();
        write_ok(&mut out, "1");
        write_ids(&mut out, "\"a\"", &[Id::new(5, 0)], false);
        write_ids(&mut out, "2", &[Id::new(5, 0), Id::new(5, 1)], true);
        write_error(&mut out, None, &FeedError::new("x", "a \"b\"\n"));
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                r#"{"ref":1,"ok":true}"#,
                r#"{"ref":"a","ok":true,"id":"5-0"}"#,
                r#"{"ref":2,"ok":true,"ids":["5-0","5-1"]}"#,
                r#"{"error":{"code":"x","message":"a \"b\"\n"}}"#,
            ]
        );
    }
}
