//! The entries of a message.
//!
//! Nodes pack entries. A backend publishes an event as a message on `rc.NAME.e.<channel>`, or with the header `Rc-Channel`
//! if the channel's name can be no subject.

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::logic::entry::{Content, EntryError, Fields, Origin, field, packed};

use super::ids::PLACES;

/// Headers of a message that is one event, with the field that each one is.
const HEADERS: [(&str, &[u8]); 4] =
    [("Rc-Channel", field::CHANNEL), ("Rc-Event", field::EVENT), ("Rc-Kind", field::KIND), ("Rc-Key", field::KEY)];

/// The subjects of a cluster.
#[derive(Debug)]
pub(super) struct Subjects {
    /// The one that nodes write packed entries to.
    pub(super) log: String,
    /// What the subject of an event begins with.
    event: String,
    /// All of them.
    pub(super) all: String,
}

impl Subjects {
    pub(super) fn of(name: &str) -> Subjects {
        Subjects { log: format!("rc.{name}.log"), event: format!("rc.{name}.e"), all: format!("rc.{name}.>") }
    }
}

/// Reads the entries of a message. There is at least one, so that the position goes on with each message.
pub(super) fn entries_of(
    subjects: &Subjects,
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: Bytes,
) -> Vec<(Option<Origin>, Content)> {
    let bad = |error| vec![(None, Content::Bad(error))];
    if subject == subjects.log {
        return match packed::read(&payload) {
            Ok(entries) if entries.is_empty() || entries.len() > PLACES => bad(EntryError::Packed(0)),
            Ok(entries) => entries,
            Err(error) => bad(error),
        };
    }
    let Some(rest) = subject.strip_prefix(&subjects.event) else { return bad(EntryError::Missing("c")) };
    let mut fields = Fields::default();
    if let Some(channel) = rest.strip_prefix('.') {
        fields.take(field::CHANNEL, Bytes::copy_from_slice(channel.as_bytes()));
    }
    for (name, field) in HEADERS {
        if let Some(value) = headers.and_then(|headers| headers.get(name)) {
            fields.take(field, Bytes::copy_from_slice(value.as_str().as_bytes()));
        }
    }
    fields.take(field::DATA, payload);
    vec![fields.read()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::entry::Logged;
    use crate::logic::event::Kind;

    fn read(subject: &str, headers: &[(&str, &str)], payload: &str) -> Content {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        let mut entries =
            entries_of(&Subjects::of("main"), subject, Some(&map), Bytes::copy_from_slice(payload.as_bytes()));
        assert_eq!(entries.len(), 1);
        entries.remove(0).1
    }

    fn event(content: Content) -> Logged {
        match content {
            Content::Event(event) => event,
            content => panic!("{content:?}"),
        }
    }

    #[test]
    fn a_plain_message_is_an_event() {
        let plain = event(read("rc.main.e.orders:7", &[], "{\"state\": \"paid\"}"));
        assert_eq!((&*plain.channel, &plain.draft.payload[..]), ("orders:7", &b"{\"state\":\"paid\"}"[..]));
        let headers = [("Rc-Channel", "a..b*"), ("Rc-Event", "note"), ("Rc-Kind", "text"), ("Rc-Key", "k")];
        let named = event(read("rc.main.e", &headers, "two\nlines"));
        assert_eq!((&*named.channel, named.draft.kind, named.key.as_deref()), ("a..b*", Kind::Text, Some("k")));
        assert_eq!(event(read("rc.main.e.a.b", &[], "1")).channel, "a.b");
    }

    #[test]
    fn a_message_that_is_none_is_one_bad_entry() {
        for (subject, payload) in [
            ("rc.main.e", "1"),
            ("rc.main.e.a", "{"),
            ("rc.main.x", "1"),
            ("rc.main.log", "\u{1}"),
            ("rc.main.log", "x"),
        ] {
            assert!(matches!(read(subject, &[], payload), Content::Bad(_)), "{subject} {payload}");
        }
    }
}
