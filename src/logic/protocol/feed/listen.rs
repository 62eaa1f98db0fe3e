//! Lines for listeners, which tell a backend of clients. Each line is one JSON object, with its kind in `op`.

use std::fmt::Display;

use arcstr::ArcStr;
use serde::{Serialize, Serializer};

use crate::logic::json;

use super::reply::write_line;

/// The kinds of lines that a connection of the feed listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// Messages of clients.
    pub messages: bool,
    /// Clients' connects and disconnects.
    pub connections: bool,
    /// Questions about clients that came without a token.
    pub authorize: bool,
}

/// A backend's answer to a question about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The channels that the client may have; `None` for all that it asked for.
    pub allowed: Option<Vec<String>>,
    /// The client's user, if the backend names one.
    pub user: Option<ArcStr>,
}

/// A line for a listener about clients. [`write_said`] writes the lines with clients' messages.
#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Notice<'a> {
    /// A stream or WebSocket is open.
    Connect {
        /// The connection's name.
        #[serde(serialize_with = "shown")]
        conn: &'a dyn Display,
        /// The user, if the connection's token names one.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<&'a str>,
        /// The client's address.
        address: &'a str,
        /// `sse` or `ws`.
        transport: &'a str,
    },
    /// A stream or WebSocket has ended.
    Disconnect {
        /// The connection's name.
        #[serde(serialize_with = "shown")]
        conn: &'a dyn Display,
        /// The user, if the connection's token named one.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<&'a str>,
        /// The name of the reason for the end.
        reason: &'a str,
    },
    /// A client without a token wants to subscribe, and the backend must decide whether it may.
    Authorize {
        /// The connection's name.
        #[serde(serialize_with = "shown")]
        conn: &'a dyn Display,
        /// The question's number, which comes back with the answer.
        ask: u32,
        /// The channels that the client asks for.
        channels: &'a [String],
        /// The client's address.
        address: &'a str,
        /// The request's `Authorization`.
        #[serde(skip_serializing_if = "Option::is_none")]
        authorization: Option<&'a str>,
        /// The request's `Cookie`.
        #[serde(skip_serializing_if = "Option::is_none")]
        cookie: Option<&'a str>,
        /// The request's `Origin`.
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<&'a str>,
    },
    /// Lines about connects and disconnects were left out here.
    Lost {
        /// The number of lines that were left out.
        count: u64,
    },
}

/// The members of a client's message that come before its data.
#[derive(Serialize)]
struct Said<'a> {
    op: &'static str,
    #[serde(serialize_with = "shown")]
    conn: &'a dyn Display,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

fn shown<S: Serializer>(value: &&dyn Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Notice<'_> {
    /// Appends the line to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_line(out, self);
    }
}

/// Appends `{"op":"message","conn","user"?,"data"}`. `data` is JSON on one line, which the shard has parsed before; it
/// is copied unchanged.
pub fn write_said(out: &mut Vec<u8>, conn: &dyn Display, user: Option<&str>, data: &str) {
    json::write(&Said { op: "message", conn, user }, out);
    out.pop();
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(data.as_bytes());
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_the_protocol_says_byte_for_byte() {
        let channels = ["a".to_owned(), "b".to_owned()];
        let conn: &dyn Display = &"0.1.2";
        let mut out = Vec::new();
        write_said(&mut out, conn, Some("a \"b\"\n"), "{\"x\":1}");
        write_said(&mut out, conn, None, "1");
        let fields = (Some("Bearer x"), None, Some("https://o"));
        let (authorization, cookie, origin) = fields;
        for notice in [
            Notice::Connect { conn, user: None, address: "127.0.0.1:5", transport: "ws" },
            Notice::Disconnect { conn, user: Some("u"), reason: "client" },
            Notice::Authorize { conn, ask: 7, channels: &channels, address: "unix", authorization, cookie, origin },
            Notice::Lost { count: 5 },
        ] {
            notice.write(&mut out);
        }
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                r#"{"op":"message","conn":"0.1.2","user":"a \"b\"\n","data":{"x":1}}"#,
                r#"{"op":"message","conn":"0.1.2","data":1}"#,
                r#"{"op":"connect","conn":"0.1.2","address":"127.0.0.1:5","transport":"ws"}"#,
                r#"{"op":"disconnect","conn":"0.1.2","user":"u","reason":"client"}"#,
                concat!(
                    r#"{"op":"authorize","conn":"0.1.2","ask":7,"channels":["a","b"],"address":"unix","#,
                    r#""authorization":"Bearer x","origin":"https://o"}"#
                ),
                r#"{"op":"lost","count":5}"#,
            ]
        );
    }
}
