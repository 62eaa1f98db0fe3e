//! Events in the log.

use bytes::Bytes;

use crate::logic::event::{ChannelName, Draft, Kind, check_channel_name};
use crate::logic::protocol::feed::{check_event_name, draft_of_json};

use super::{EntryError, Fields, field};

/// The longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 200;

/// The place of an event in a publish to several channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The place, from 0.
    pub index: u32,
    /// The number of the publish's channels.
    pub count: u32,
}

impl Part {
    /// The part of a publish to one channel.
    pub const ONLY: Part = Part { index: 0, count: 1 };

    fn parse(text: &[u8]) -> Option<Part> {
        let (index, count) = std::str::from_utf8(text).ok()?.split_once('/')?;
        let part = Part { index: index.parse().ok()?, count: count.parse().ok()? };
        (part.index < part.count).then_some(part)
    }
}

/// An event as an entry carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The channel.
    pub channel: ChannelName,
    /// The content.
    pub draft: Draft,
    /// The idempotency key of the event's publish.
    pub key: Option<Box<str>>,
    /// The event's place in its publish.
    pub part: Part,
    /// Whether a client has published the event.
    pub is_client: bool,
}

fn wrong(name: &'static str, why: impl ToString) -> EntryError {
    EntryError::Field(name, why.to_string())
}

fn text<'f>(name: &'static str, value: &'f [u8]) -> Result<&'f str, EntryError> {
    std::str::from_utf8(value).map_err(|_| wrong(name, "it is no UTF-8"))
}

impl Logged {
    /// Reads an event from its fields.
    ///
    /// # Errors
    /// If the channel or the data is missing, or a field holds a value that it cannot have.
    pub(super) fn read(fields: Fields) -> Result<Logged, EntryError> {
        let channel = fields.channel.as_deref().ok_or(EntryError::Missing("c"))?;
        let channel = text("c", channel)?;
        check_channel_name(channel).map_err(|error| wrong("c", error))?;
        let name = fields.event.as_deref().map(|name| text("e", name)).transpose()?;
        if let Some(name) = name {
            check_event_name(name).map_err(|why| wrong("e", why))?;
        }
        let key = fields.key.as_deref().map(|key| text("k", key)).transpose()?;
        if key.is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return Err(wrong("k", format!("a key has 1 to {KEY_BYTES_MAX} bytes")));
        }
        let part = match fields.part.as_deref() {
            Some(part) => Part::parse(part).ok_or_else(|| wrong("x", "it is no INDEX/COUNT"))?,
            None => Part::ONLY,
        };
        let is_client = fields.source.as_deref() == Some(b"client");
        let channel = channel.into();
        let key = key.map(Into::into);
        let data = fields.data.ok_or(EntryError::Missing("d"))?;
        let (kind, payload) = payload(fields.kind.as_deref(), data)?;
        let draft = Draft { name: name.map(Into::into), kind, payload };
        Ok(Logged { channel, draft, key, part, is_client })
    }

    /// Calls `add` with each field.
    pub(super) fn write(&self, mut add: impl FnMut(&'static [u8], Bytes)) {
        add(field::CHANNEL, Bytes::copy_from_slice(self.channel.as_bytes()));
        add(field::DATA, self.draft.payload.clone());
        match self.draft.kind {
            Kind::Json => {}
            Kind::Text => add(field::KIND, Bytes::from_static(b"text")),
            Kind::Binary => add(field::KIND, Bytes::from_static(b"bin")),
        }
        if let Some(name) = &self.draft.name {
            add(field::EVENT, Bytes::copy_from_slice(name.as_bytes()));
        }
        if let Some(key) = &self.key {
            add(field::KEY, Bytes::copy_from_slice(key.as_bytes()));
        }
        if self.is_client {
            add(field::SOURCE, Bytes::from_static(b"client"));
        }
        if self.part.count > 1 {
            add(field::PART, format!("{}/{}", self.part.index, self.part.count).into());
        }
    }
}

/// The kind and the payload of an event's data. JSON that is a string is text, and other JSON is made compact.
fn payload(kind: Option<&[u8]>, data: Bytes) -> Result<(Kind, Bytes), EntryError> {
    match kind {
        Some(b"bin") => return Ok((Kind::Binary, data)),
        Some(b"text") => {
            text("d", &data)?;
            return Ok((Kind::Text, data));
        }
        None | Some(b"json") => {}
        Some(_) => return Err(wrong("t", "it is json, text or bin")),
    }
    let (kind, compact) = draft_of_json(&data).map_err(|why| wrong("d", why))?;
    // Most data is compact already, and the broker's copy serves.
    Ok((kind, compact.map_or(data, Bytes::from)))
}
