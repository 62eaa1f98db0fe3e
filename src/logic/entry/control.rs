//! What nodes decide together beside events.

use arcstr::ArcStr;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::logic::event::{ChannelName, Draft, Kind};
use crate::logic::id::Id;
use crate::logic::json;
use crate::logic::protocol::feed::draft_of_json;

use super::{EntryError, field};

/// A user on a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The channel.
    pub channel: ChannelName,
    /// The user.
    pub user: ArcStr,
}

/// The connections or subscriptions that a kick ends on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KickOf {
    /// All connections that are subscribed to a channel.
    Channel(ChannelName),
    /// All connections of a user.
    User(ArcStr),
    /// The connection of this name.
    Connection(ArcStr),
    /// All connections that came with a token, which is refused until then, in seconds since 1970.
    Token(ArcStr, u64),
    /// A user's subscriptions to a channel.
    Subscription(ArcStr, ChannelName),
}

/// A message to connections, outside of any channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Message {
    /// Text.
    Text(Box<str>),
    /// Compact JSON, as text.
    Json(Box<str>),
    /// Bytes, in base64.
    Bin(Box<str>),
}

impl Message {
    /// The message of a draft, whose name is left out.
    pub fn of(draft: &Draft) -> Message {
        let text = || String::from_utf8_lossy(&draft.payload).into();
        match draft.kind {
            Kind::Text => Message::Text(text()),
            Kind::Json => Message::Json(text()),
            Kind::Binary => Message::Bin(STANDARD.encode(&draft.payload).into()),
        }
    }

    /// The message as a draft, unless it is damaged.
    pub fn draft(&self) -> Option<Draft> {
        let (kind, payload) = match self {
            Message::Text(text) => (Kind::Text, text.as_bytes().to_vec()),
            Message::Json(text) => match draft_of_json(text.as_bytes()).ok()? {
                (kind, Some(compact)) => (kind, compact),
                (kind, None) => (kind, text.as_bytes().to_vec()),
            },
            Message::Bin(text) => (Kind::Binary, STANDARD.decode(&**text).ok()?),
        };
        Some(Draft { name: None, kind, payload: payload.into() })
    }
}

/// An entry that is no event. Its kind is in the field `w`, and its members are JSON in the field `d`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "w", content = "d", rename_all = "lowercase")]
pub enum Control {
    /// A channel ends.
    End {
        /// The channel.
        channel: ChannelName,
    },
    /// The writer has the first connection of a user on a channel.
    Join {
        /// The channel.
        channel: ChannelName,
        /// The user.
        user: ArcStr,
    },
    /// The writer has no connection of a user on a channel any more.
    Leave {
        /// The channel.
        channel: ChannelName,
        /// The user.
        user: ArcStr,
        /// The node that the user has left, if it is not the writer: it was silent for too long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<ArcStr>,
    },
    /// The writer is alive.
    Beat {
        /// The newest entry that the writer has applied.
        position: Id,
        /// The writer's version.
        version: Box<str>,
        /// The name by which operators know the writer.
        name: Box<str>,
    },
    /// A node has started, and asks the others for their state.
    Hello {},
    /// A part of the writer's state, the answer to [`Control::Hello`].
    State {
        /// Users on channels.
        present: Vec<Presence>,
        /// Revoked tokens, each with the time until which it is refused, in seconds since 1970.
        revoked: Vec<(ArcStr, u64)>,
        /// Whether this is the last part.
        last: bool,
    },
    /// A node has ended, or has not been heard for too long.
    Gone {
        /// The node's mark, as in the origins of its entries.
        node: ArcStr,
    },
    /// Connections or subscriptions end on every node.
    Kick {
        /// The number of the asking node's question, which replies repeat.
        request: u64,
        /// The connections or subscriptions.
        of: KickOf,
        /// The reason that clients are told.
        reason: Box<str>,
    },
    /// A node's answer to a kick of another node.
    Kicked {
        /// The node that has asked, as in the origins of its entries.
        node: ArcStr,
        /// The number of its question.
        request: u64,
        /// The connections or subscriptions that the writer has ended.
        count: u64,
    },
    /// A message to a user's connections, or to one connection, on every node.
    Send {
        /// The user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<ArcStr>,
        /// The name of the connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        conn: Option<ArcStr>,
        /// The message.
        message: Message,
    },
    /// Entries after this id may be lost: every client is told so.
    Fence {
        /// The newest entry that is surely in the log.
        after: Id,
    },
    /// Nothing; the entry moves the position.
    Nothing {},
}

/// The kinds of [`Control`].
const KINDS: [&str; 12] =
    ["end", "join", "leave", "beat", "hello", "state", "gone", "kick", "kicked", "send", "fence", "nothing"];

/// A control in the form of serde's adjacent tag, by which it is read and written.
#[derive(Serialize, Deserialize)]
struct Tagged<'a> {
    w: &'a str,
    #[serde(borrow)]
    d: &'a serde_json::value::RawValue,
}

impl Control {
    /// Reads a control of that kind.
    ///
    /// # Errors
    /// If the kind is not known, or `data` does not hold its members.
    pub(super) fn read(kind: &[u8], data: Option<&[u8]>) -> Result<Control, EntryError> {
        let kind = std::str::from_utf8(kind).unwrap_or_default();
        if !KINDS.contains(&kind) {
            let known: String = kind.chars().take(40).collect();
            return Err(EntryError::Unknown(known));
        }
        let data = data.ok_or(EntryError::Missing("d"))?;
        let wrong = |error: serde_json::Error| EntryError::Field("d", error.to_string());
        let d: &serde_json::value::RawValue = serde_json::from_slice(data).map_err(wrong)?;
        let tagged = serde_json::to_string(&Tagged { w: kind, d }).map_err(wrong)?;
        serde_json::from_str(&tagged).map_err(wrong)
    }

    /// Calls `add` with each field.
    pub(super) fn write(&self, mut add: impl FnMut(&'static [u8], Bytes)) {
        let mut all = Vec::new();
        json::write(self, &mut all);
        let Ok(Tagged { w, d }) = serde_json::from_slice::<Tagged<'_>>(&all) else { return };
        add(field::CONTROL, Bytes::copy_from_slice(w.as_bytes()));
        add(field::DATA, Bytes::copy_from_slice(d.get().as_bytes()));
    }
}
