//! What there is to listen to, and what listeners are told. Each is one line, with what it is in `op`.

use arcstr::ArcStr;

use crate::logic::id::write_decimal;
use crate::logic::json;

/// What a connection of the feed listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// What clients say.
    pub messages: bool,
    /// Who comes and goes.
    pub connections: bool,
    /// Whether it answers questions about clients.
    pub authorize: bool,
}

/// A backend's answer to a question about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What of it; `None` for everything that was asked for.
    pub allowed: Option<Vec<String>>,
    /// Who the client is.
    pub user: Option<ArcStr>,
}

fn write_start(out: &mut Vec<u8>, op: &str, connection: &str, user: Option<&str>) {
    out.extend_from_slice(b"{\"op\":\"");
    out.extend_from_slice(op.as_bytes());
    out.push(b'"');
    write_member(out, "conn", connection);
    if let Some(user) = user {
        write_member(out, "user", user);
    }
}

fn write_member(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    json::write_string(value, out);
}

/// Appends `{"op":"message","conn","user"?,"data"}`; `data` is JSON on one line.
pub fn write_said(out: &mut Vec<u8>, connection: &str, user: Option<&str>, data: &str) {
    write_start(out, "message", connection, user);
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(data.as_bytes());
    out.extend_from_slice(b"}\n");
}

/// Appends `{"op":"authorize","conn","ask","channels":[…]}` and those of `fields` that there are.
pub fn write_question(
    out: &mut Vec<u8>,
    connection: &str,
    number: u32,
    channels: &[String],
    fields: &[(&str, Option<&str>)],
) {
    write_start(out, "authorize", connection, None);
    out.extend_from_slice(b",\"ask\":");
    write_decimal(number.into(), out);
    out.extend_from_slice(b",\"channels\":");
    json::write_strings(channels.iter().map(String::as_str), out);
    for (name, value) in fields {
        if let Some(value) = value {
            write_member(out, name, value);
        }
    }
    out.extend_from_slice(b"}\n");
}

/// Appends `{"op":"connect","conn","user"?,"address","transport"}`.
pub fn write_came(out: &mut Vec<u8>, connection: &str, user: Option<&str>, address: &str, transport: &str) {
    write_start(out, "connect", connection, user);
    write_member(out, "address", address);
    write_member(out, "transport", transport);
    out.extend_from_slice(b"}\n");
}

/// Appends `{"op":"disconnect","conn","user"?,"reason"}`.
pub fn write_gone(out: &mut Vec<u8>, connection: &str, user: Option<&str>, reason: &str) {
    write_start(out, "disconnect", connection, user);
    write_member(out, "reason", reason);
    out.extend_from_slice(b"}\n");
}

/// Appends `{"op":"lost","count":N}`: so many connects and disconnects were left out here.
pub fn write_lost(out: &mut Vec<u8>, count: u64) {
    out.extend_from_slice(b"{\"op\":\"lost\",\"count\":");
    write_decimal(count, out);
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_the_fields_that_there_are() {
        let mut out = Vec::new();
        let fields = [("user", Some("u")), ("token", None), ("address", Some("::1"))];
        write_question(&mut out, "0.1.2", 7, &["a".into(), "b".into()], &fields);
        let expected = r#"{"op":"authorize","conn":"0.1.2","ask":7,"channels":["a","b"],"user":"u","address":"::1"}"#;
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
    }

    #[test]
    fn lines_are_json() {
        let mut out = Vec::new();
        write_said(&mut out, "0.1.2", Some("a \"b\"\n"), "{\"x\":1}");
        write_came(&mut out, "0.1.2", None, "127.0.0.1:5", "ws");
        write_gone(&mut out, "0.1.2", Some("u"), "client");
        write_lost(&mut out, 5);
        let lines: Vec<serde_json::Value> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = serde_json::json!([
            { "op": "message", "conn": "0.1.2", "user": "a \"b\"\n", "data": { "x": 1 } },
            { "op": "connect", "conn": "0.1.2", "address": "127.0.0.1:5", "transport": "ws" },
            { "op": "disconnect", "conn": "0.1.2", "user": "u", "reason": "client" },
            { "op": "lost", "count": 5 },
        ]);
        assert_eq!(serde_json::Value::from(lines), expected);
    }
}
