//! Entries of a cluster's log, which several nodes read in one order.
//!
//! An entry is a list of named fields, as an entry of a Redis stream is. An event has the fields of [`field`], so that a
//! backend can write one by hand: a channel and its data are enough. Everything else that nodes decide together is a
//! [`Control`], with its kind in `w` and its members as JSON in `d`.
//!
//! A node acts on entries only when it reads them back, so all nodes decide the same in the same order.

mod control;
mod event;
pub mod packed;

use arcstr::ArcStr;
use bytes::Bytes;

use super::id::Id;

pub use control::{Control, KickOf, Message, Presence};
pub use event::{Logged, Part};

/// The names of an entry's fields.
pub mod field {
    /// The channel of an event.
    pub const CHANNEL: &[u8] = b"c";
    /// The data: of an event its payload, otherwise the control's members as JSON.
    pub const DATA: &[u8] = b"d";
    /// The name of an event.
    pub const EVENT: &[u8] = b"e";
    /// The kind of the data: `json` (the default), `text` or `bin`.
    pub const KIND: &[u8] = b"t";
    /// The idempotency key of a publish.
    pub const KEY: &[u8] = b"k";
    /// The place of an event in a publish to several channels, `INDEX/COUNT`, from 0.
    pub const PART: &[u8] = b"x";
    /// The origin, `NODE.NUMBER`.
    pub const ORIGIN: &[u8] = b"o";
    /// The word `client` if a client has published the event.
    pub const SOURCE: &[u8] = b"f";
    /// The kind of a control; an event has no such field.
    pub const CONTROL: &[u8] = b"w";
}

/// The writer of an entry, and the entry's number among those of that writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The node's name with a mark of its start, so that a node does not take entries of an earlier start for its own.
    pub node: ArcStr,
    /// The number, which grows by one from entry to entry.
    pub number: u64,
}

/// The content of an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// An event for subscribers.
    Event(Logged),
    /// Something else that the nodes decide together.
    Control(Control),
    /// An entry that means nothing to this version. Its position counts, and nothing else.
    Bad(EntryError),
}

/// An entry as it was read from the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The entry's place in the order.
    pub id: Id,
    /// The time at which the broker took the entry, in milliseconds since 1970 by the broker's clock.
    pub at_ms: u64,
    /// The writer, unless a backend has written straight to the log.
    pub origin: Option<Origin>,
    /// The content.
    pub content: Content,
}

/// The reason why an entry cannot be read. Such an entry is skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A field is missing that its kind of entry needs.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field holds a value that it cannot have.
    #[error("the field {0}: {1}")]
    Field(&'static str, String),
    /// A control of a kind that this version does not know.
    #[error("no control of kind {0:?} is known")]
    Unknown(String),
    /// Packed entries that end too early, or hold lengths that cannot be.
    #[error("the packed entries are damaged at byte {0}")]
    Packed(usize),
}

/// The fields of one entry, in any order.
#[derive(Debug, Default)]
pub struct Fields {
    pub(super) channel: Option<Bytes>,
    pub(super) data: Option<Bytes>,
    pub(super) event: Option<Bytes>,
    pub(super) kind: Option<Bytes>,
    pub(super) key: Option<Bytes>,
    pub(super) part: Option<Bytes>,
    pub(super) origin: Option<Bytes>,
    pub(super) source: Option<Bytes>,
    pub(super) control: Option<Bytes>,
}

impl Fields {
    /// Takes a field. A field that is not known belongs to a later version and is left out.
    pub fn take(&mut self, name: &[u8], value: Bytes) {
        let place = match name {
            field::CHANNEL => &mut self.channel,
            field::DATA => &mut self.data,
            field::EVENT => &mut self.event,
            field::KIND => &mut self.kind,
            field::KEY => &mut self.key,
            field::PART => &mut self.part,
            field::ORIGIN => &mut self.origin,
            field::SOURCE => &mut self.source,
            field::CONTROL => &mut self.control,
            _ => return,
        };
        *place = Some(value);
    }

    /// Reads the fields as an entry's origin and content. An entry that cannot be read becomes [`Content::Bad`].
    pub fn read(self) -> (Option<Origin>, Content) {
        let origin = self.origin.as_deref().and_then(Origin::parse);
        let content = match &self.control {
            Some(kind) => Control::read(kind, self.data.as_deref()).map(Content::Control),
            None => Logged::read(self).map(Content::Event),
        };
        (origin, content.unwrap_or_else(Content::Bad))
    }
}

impl Content {
    /// Calls `add` with the name and the value of each field of the content.
    pub fn write(&self, add: impl FnMut(&'static [u8], Bytes)) {
        match self {
            Content::Event(event) => event.write(add),
            Content::Control(control) => control.write(add),
            Content::Bad(_) => {}
        }
    }

    /// The bytes that the content counts for in limits.
    pub fn weight(&self) -> usize {
        match self {
            Content::Event(event) => event.channel.len() + event.draft.payload.len() + 64,
            Content::Control(_) | Content::Bad(_) => 256,
        }
    }
}

impl Origin {
    /// The text form, `NODE.NUMBER`.
    pub fn to_bytes(&self) -> Bytes {
        format!("{}.{}", self.node, self.number).into()
    }

    /// Reads the text form.
    pub fn parse(text: &[u8]) -> Option<Origin> {
        let (node, number) = std::str::from_utf8(text).ok()?.rsplit_once('.')?;
        Some(Origin { node: node.into(), number: number.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::logic::event::{Draft, Kind};

    /// The content of an entry of these fields.
    pub(super) fn read(fields: &[(&str, &str)]) -> (Option<Origin>, Content) {
        let mut all = Fields::default();
        for (name, value) in fields {
            all.take(name.as_bytes(), Bytes::copy_from_slice(value.as_bytes()));
        }
        all.read()
    }

    fn contents() -> impl Strategy<Value = Content> {
        let text = prop_oneof![Just("a"), Just("line\nbreak"), Just("ä \"q\"")];
        let event = (text.clone(), any::<Vec<u8>>(), 0..3u8, proptest::option::of(text), 0..3u32, 1..4u32).prop_map(
            |(name, bytes, kind, key, index, count)| {
                let (kind, payload) = match kind {
                    0 => (Kind::Text, name.as_bytes().to_vec()),
                    1 => (Kind::Json, b"{\"a\":[1,2]}".to_vec()),
                    _ => (Kind::Binary, bytes),
                };
                let draft = Draft { name: (count == 2).then(|| "paid".into()), kind, payload: payload.into() };
                let part = Part { index: index.min(count - 1), count };
                let is_client = index == 1;
                Content::Event(Logged { channel: "orders:7".into(), draft, key: key.map(Into::into), part, is_client })
            },
        );
        let user = ArcStr::from("u");
        let controls = vec![
            Control::End { channel: "c".into() },
            Control::Join { channel: "c".into(), user: user.clone() },
            Control::Leave { channel: "c".into(), user: user.clone(), of: Some("n".into()) },
            Control::Beat { position: Id::new(5, 1), version: "1".into(), name: "a".into() },
            Control::Hello {},
            Control::State {
                present: vec![Presence { channel: "c".into(), user }],
                revoked: vec![("t".into(), 9)],
                last: true,
            },
            Control::Fence { after: Id::new(1, 2) },
        ];
        prop_oneof![event, proptest::sample::select(controls).prop_map(Content::Control)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(content in contents(), number in any::<u64>()) {
            let origin = Origin { node: "eu-1.7f".into(), number };
            let mut fields = Fields::default();
            content.write(|name, value| fields.take(name, value));
            fields.take(field::ORIGIN, origin.to_bytes());
            prop_assert_eq!(fields.read(), (Some(origin), content));
        }

        #[test]
        fn any_fields_can_be_read(fields in proptest::collection::vec(("[cdetkxowf]", any::<Vec<u8>>()), 0..6)) {
            let mut all = Fields::default();
            for (name, value) in fields {
                all.take(name.as_bytes(), value.into());
            }
            all.read();
        }
    }

    #[test]
    fn a_channel_and_data_are_an_event() {
        let (origin, content) = read(&[("c", "orders:7"), ("d", "{\"state\": \"paid\"}")]);
        let draft = Draft { name: None, kind: Kind::Json, payload: Bytes::from_static(b"{\"state\":\"paid\"}") };
        assert_eq!(origin, None);
        let logged = Logged { channel: "orders:7".into(), draft, key: None, part: Part::ONLY, is_client: false };
        assert_eq!(content, Content::Event(logged));
        let (_, content) = read(&[("c", "a"), ("d", "\"x\\ny\""), ("later", "?")]);
        let Content::Event(event) = content else { panic!("{content:?}") };
        assert_eq!((event.draft.kind, &event.draft.payload[..]), (Kind::Text, &b"x\ny"[..]));
    }

    #[test]
    fn an_entry_that_is_none_says_why() {
        let why = |fields: &[(&str, &str)]| match read(fields).1 {
            Content::Bad(error) => error.to_string(),
            content => panic!("{content:?}"),
        };
        assert_eq!(why(&[("d", "1")]), "the field c is missing");
        assert_eq!(why(&[("c", "a")]), "the field d is missing");
        assert!(why(&[("c", "a,b"), ("d", "1")]).starts_with("the field c: "));
        assert!(why(&[("c", "$a"), ("d", "1")]).starts_with("the field c: "));
        assert!(why(&[("c", "a"), ("d", "{")]).starts_with("the field d: "));
        assert!(why(&[("c", "a"), ("d", "1\n2")]).starts_with("the field d: "));
        assert!(why(&[("c", "a"), ("d", "1"), ("e", "x\ny")]).starts_with("the field e: "));
        assert!(why(&[("c", "a"), ("d", "1"), ("t", "xml")]).starts_with("the field t: "));
        assert!(why(&[("c", "a"), ("d", "1"), ("x", "3/2")]).starts_with("the field x: "));
        assert_eq!(why(&[("w", "warp"), ("d", "{}")]), "no control of kind \"warp\" is known");
        assert!(why(&[("w", "end"), ("d", "{}")]).starts_with("the field d: "));
    }
}
