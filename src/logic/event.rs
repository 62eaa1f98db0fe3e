//! Events, which a publisher hands in and every subscriber gets.

use bytes::Bytes;

use super::id::Id;
use super::json;

/// The kind of an event's payload, by which each protocol writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 text, which came as a JSON string in `data`.
    Text,
    /// One compact JSON value that is not a string; valid UTF-8 without line breaks.
    Json,
    /// Any bytes, which are base64 in text protocols and a binary message on a raw WebSocket.
    Binary,
}

/// The content of an event, before it has an id and a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The event's name (SSE's `event:` field), if it has one. A name holds no line break and no NUL.
    pub name: Option<Box<str>>,
    /// The kind of `payload`.
    pub kind: Kind,
    /// The payload; valid UTF-8 unless `kind` is [`Kind::Binary`].
    pub payload: Bytes,
}

/// A channel's name as it is kept: one pointer to text that hub, shards and events share.
pub type ChannelName = arcstr::ArcStr;

/// A published event with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's place in the node's total order.
    pub id: Id,
    /// The channel that the event was published to.
    pub channel: ChannelName,
    /// The content.
    pub draft: Draft,
}

impl Event {
    /// The bytes that the event counts for in limits: payload, name and channel name.
    pub fn weight(&self) -> usize {
        self.draft.payload.len() + self.draft.name.as_ref().map_or(0, |name| name.len()) + self.channel.len()
    }

    /// The payload as text, which a binary payload must not be asked for.
    pub fn text(&self) -> &str {
        debug_assert!(self.draft.kind != Kind::Binary, "a binary payload has no text");
        std::str::from_utf8(&self.draft.payload).unwrap_or_default()
    }

    /// Appends `{"id","channel","event"?,"data" or "data_b64"}`, the event as JSON protocols, poll answers and the feed show it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":\"");
        self.id.write(out);
        out.extend_from_slice(b"\",\"channel\":");
        json::write_string(&self.channel, out);
        if let Some(name) = &self.draft.name {
            out.extend_from_slice(b",\"event\":");
            json::write_string(name, out);
        }
        out.push(b',');
        self.draft.write_json_member(out);
        out.push(b'}');
    }
}

impl Draft {
    /// Appends the payload as a member of a JSON object: `"data":…` with a string or a JSON value, or `"data_b64":"…"` with
    /// bytes in base64, so that bytes are never taken for text.
    pub fn write_json_member(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.kind == Kind::Binary { b"\"data_b64\":" } else { b"\"data\":" });
        self.write_json_data(out);
    }

    /// Appends the payload as one JSON value: text as a string, bytes as a string of base64.
    pub fn write_json_data(&self, out: &mut Vec<u8>) {
        match self.kind {
            // A payload of text is valid UTF-8, which publishing has checked.
            Kind::Text => json::write_string(std::str::from_utf8(&self.payload).unwrap_or_default(), out),
            Kind::Json => out.extend_from_slice(&self.payload),
            Kind::Binary => json::write_base64_string(&self.payload, out),
        }
    }
}

/// The longest channel name, in bytes.
pub const CHANNEL_NAME_BYTES_MAX: usize = 200;

/// The rule that a text breaks, so that it is no channel name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelNameError {
    /// The text has no characters.
    #[error("a channel name is empty")]
    Empty,
    /// The text is longer than [`CHANNEL_NAME_BYTES_MAX`].
    #[error("a channel name is longer than 200 bytes")]
    TooLong,
    /// The text holds a comma, a space or a byte outside of printable ASCII.
    #[error("a channel name holds a byte that is not allowed (printable ASCII without comma and space is)")]
    BadByte,
    /// The text starts with `$`.
    #[error("channel names that start with $ are the server's own")]
    Reserved,
}

/// Checks that `name` may be a client's or publisher's channel: 1 to 200 bytes of printable ASCII
/// without comma and space, not starting with `$`.
///
/// # Errors
/// The first of the rules that the name breaks.
pub fn check_channel_name(name: &str) -> Result<(), ChannelNameError> {
    match name.as_bytes() {
        [] => Err(ChannelNameError::Empty),
        bytes if bytes.len() > CHANNEL_NAME_BYTES_MAX => Err(ChannelNameError::TooLong),
        [b'$', ..] => Err(ChannelNameError::Reserved),
        bytes if bytes.iter().any(|byte| !byte.is_ascii_graphic() || *byte == b',') => Err(ChannelNameError::BadByte),
        _ => Ok(()),
    }
}

/// The namespace of a channel: the text before the first `:`, or the empty text.
pub fn namespace_of(channel: &str) -> &str {
    channel.split_once(':').map_or("", |(namespace, _)| namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, name: Option<&str>, payload: &[u8]) -> Event {
        let draft = Draft { name: name.map(Into::into), kind, payload: payload.to_vec().into() };
        Event { id: Id::new(5, 1), channel: "c\"".into(), draft }
    }

    #[test]
    fn events_are_json_objects() {
        let written = |event: Event| {
            let mut out = Vec::new();
            event.write_json(&mut out);
            String::from_utf8(out).unwrap()
        };
        let start = r#"{"id":"5-1","channel":"c\"","#;
        assert_eq!(written(event(Kind::Text, Some("e"), b"x\ny")), format!(r#"{start}"event":"e","data":"x\ny"}}"#));
        assert_eq!(written(event(Kind::Json, None, b"[1]")), format!(r#"{start}"data":[1]}}"#));
        assert_eq!(written(event(Kind::Binary, None, b"\0\xff")), format!(r#"{start}"data_b64":"AP8="}}"#));
    }

    #[test]
    fn payload_and_both_names_have_weight() {
        let weight = |name: Option<&str>| {
            let draft = Draft { name: name.map(Into::into), kind: Kind::Text, payload: "12345".into() };
            Event { id: Id::ZERO, channel: "abc".into(), draft }.weight()
        };
        assert_eq!((weight(None), weight(Some("1234567"))), (8, 15));
    }

    #[test]
    fn a_payload_that_is_not_binary_is_text() {
        let texts = [(Kind::Text, "a\nü"), (Kind::Json, "[1]")];
        assert_eq!(
            texts.map(|(kind, text)| event(kind, None, text.as_bytes()).text().to_owned()),
            texts.map(|(_, text)| text)
        );
    }

    #[test]
    fn channel_names() {
        for good in ["a", "orders:1", "a/b=c@d_e-f.g", &"x".repeat(200)] {
            assert_eq!(check_channel_name(good), Ok(()), "{good:?}");
        }
        assert_eq!(check_channel_name(""), Err(ChannelNameError::Empty));
        assert_eq!(check_channel_name(&"x".repeat(201)), Err(ChannelNameError::TooLong));
        assert_eq!(check_channel_name("$sys"), Err(ChannelNameError::Reserved));
        for bad in ["a,b", "a b", "a\n", "ü", "a\0"] {
            assert_eq!(check_channel_name(bad), Err(ChannelNameError::BadByte), "{bad:?}");
        }
    }

    #[test]
    fn namespaces() {
        assert_eq!(namespace_of("orders:1:2"), "orders");
        assert_eq!(namespace_of("orders"), "");
        assert_eq!(namespace_of(":x"), "");
    }
}
