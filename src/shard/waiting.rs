//! What keeps a connection waiting: the reasons why it is not read, and what its next request or message waits for.

use bitflags::bitflags;

use crate::logic::id::Id;
use crate::logic::refusal::Refusal;
use crate::logic::session::Payload;

bitflags! {
    /// The reasons why a connection's input is not read. Reading goes on when the set is empty.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Hold: u8 {
        /// Too many bytes of answers wait to be sent.
        const REPLIES = 1;
        /// The input that came behind a held poll is as long as it may be.
        const AHEAD = 1 << 1;
        /// The backend is asked whether the request or message is allowed.
        const BACKEND = 1 << 2;
        /// A message to the backend waits for room on its way there.
        const UPSTREAM = 1 << 3;
        /// A request waits until the messages that the hub has sent before it are worked off.
        const INBOX = 1 << 4;
    }
}

/// A client's message that is put aside.
#[derive(Debug)]
pub(super) enum Aside {
    Text(Box<str>),
    Binary(Box<[u8]>),
}

impl Aside {
    pub(super) fn new(message: Payload<'_>) -> Aside {
        match message {
            Payload::Text(text) => Aside::Text(text.into()),
            Payload::Binary(bytes) => Aside::Binary(bytes.into()),
        }
    }

    /// The message.
    pub(super) fn payload(&self) -> Payload<'_> {
        match self {
            Aside::Text(text) => Payload::Text(text),
            Aside::Binary(bytes) => Payload::Binary(bytes),
        }
    }
}

/// A question to the backend that a request or message waits for.
#[derive(Debug)]
pub(super) struct Asking {
    /// The question's number, which tells its answer from those to earlier questions.
    pub(super) number: u32,
    /// The channels that the question is about.
    pub(super) channels: Vec<String>,
    /// The message that waits; a request waits in `Extra::input`.
    pub(super) message: Option<Aside>,
}

/// The backend's decision, until the request or message is carried out with it.
#[derive(Debug)]
pub(super) struct Decided {
    /// Whether the connection may go on.
    pub(super) outcome: Result<(), Refusal>,
    /// The message that waited, if it was one.
    pub(super) message: Option<Aside>,
}

/// The channels that a WebSocket without a token has named in its request.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) channels: Vec<String>,
    pub(super) after: Option<Id>,
}

/// What a connection waits for before its next request or message is carried out.
#[derive(Debug, Default)]
pub(super) enum Waiting {
    /// Nothing.
    #[default]
    Nothing,
    /// The WebSocket's first token; it subscribes to the named channels then.
    Token(Box<Wanted>),
    /// Room for this message on its way to the backend.
    Upstream(Aside),
    /// The backend's answer.
    Backend(Box<Asking>),
    /// Nothing any more: the backend has answered, and the request or message is carried out next.
    Decided(Box<Decided>),
}
