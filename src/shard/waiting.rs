//! A connection's waits: the reasons not to read its input, and the cause for which its next request or message
//! waits.

use bitflags::bitflags;

use crate::logic::id::Id;
use crate::logic::refusal::Refusal;
use crate::logic::session::Payload;

bitflags! {
    /// The reasons not to read a connection's input. Reading goes on when the set is empty.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Hold: u8 {
        /// Too many bytes of answers wait to be sent.
        const REPLIES = 1;
        /// The input that came behind a held poll has reached its limit.
        const AHEAD = 1 << 1;
        /// The backend is asked whether the request or message is allowed.
        const BACKEND = 1 << 2;
        /// A message to the backend waits for room on its way there.
        const UPSTREAM = 1 << 3;
        /// A request waits until the messages that the hub has sent before it are worked off.
        const INBOX = 1 << 4;
    }
}

/// A client's message that is put aside until it can be carried out.
#[derive(Debug)]
pub(super) enum Aside {
    Text(Box<str>),
    Binary(Box<[u8]>),
}

impl Aside {
    /// The message's bytes.
    fn memory_bytes(&self) -> usize {
        match self {
            Aside::Text(text) => text.len(),
            Aside::Binary(bytes) => bytes.len(),
        }
    }

    pub(super) fn new(message: Payload<'_>) -> Aside {
        match message {
            Payload::Text(text) => Aside::Text(text.into()),
            Payload::Binary(bytes) => Aside::Binary(bytes.into()),
        }
    }

    /// The message that was put aside.
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
    /// The question's number, which tells its answer from answers to earlier questions.
    pub(super) number: u32,
    /// The channels that the question is about.
    pub(super) channels: Vec<String>,
    /// The message that waits, if it is not a request; a request waits in `Extra::input`.
    pub(super) message: Option<Aside>,
}

/// The backend's decision, kept until the request or message is carried out with it.
#[derive(Debug)]
pub(super) struct Decided {
    /// Whether the connection may go on.
    pub(super) outcome: Result<(), Refusal>,
    /// The message that has waited, if it is not a request.
    pub(super) message: Option<Aside>,
}

/// The channels that a WebSocket without a token has named in its request.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) channels: Vec<String>,
    pub(super) after: Option<Id>,
}

/// The cause for which a connection's next request or message waits.
#[derive(Debug, Default)]
pub(super) enum Waiting {
    /// The connection waits for nothing.
    #[default]
    Nothing,
    /// The WebSocket waits for its first token and subscribes to the named channels then.
    Token(Box<Wanted>),
    /// This message waits for room on its way to the backend.
    Upstream(Aside),
    /// The request or message waits for the backend's answer.
    Backend(Box<Asking>),
    /// The backend has answered, and the request or message is carried out next.
    Decided(Box<Decided>),
    /// The connection has no place, and its request will be answered with this.
    Refused(Box<Refusal>),
}

impl Waiting {
    /// The bytes of memory that the message or the channels which wait take.
    pub(super) fn memory_bytes(&self) -> usize {
        let names = |names: &[String]| names.iter().map(|name| size_of::<String>() + name.capacity()).sum();
        let message = |message: &Option<Aside>| message.as_ref().map_or(0, Aside::memory_bytes);
        match self {
            Waiting::Nothing | Waiting::Refused(_) => 0,
            Waiting::Token(wanted) => names(&wanted.channels),
            Waiting::Upstream(aside) => aside.memory_bytes(),
            Waiting::Backend(asking) => names(&asking.channels) + message(&asking.message),
            Waiting::Decided(decided) => message(&decided.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_has_the_size_of_its_bytes() {
        let channels = || vec!["abc".to_owned(), "defg".to_owned()];
        let named = 2 * size_of::<String>() + 7;
        let text = Aside::new(Payload::Text("12345"));
        let binary = || Aside::new(Payload::Binary(&[0; 9]));
        let asking = Asking { number: 1, channels: channels(), message: Some(text) };
        let decided = Decided { outcome: Ok(()), message: Some(binary()) };
        for (waiting, bytes) in [
            (Waiting::Nothing, 0),
            (Waiting::Token(Box::new(Wanted { channels: channels(), after: None })), named),
            (Waiting::Upstream(binary()), 9),
            (Waiting::Backend(Box::new(asking)), named + 5),
            (Waiting::Decided(Box::new(decided)), 9),
        ] {
            assert_eq!(waiting.memory_bytes(), bytes, "{waiting:?}");
        }
    }
}
