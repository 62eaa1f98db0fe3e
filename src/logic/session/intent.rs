//! What clients ask for within a session, whatever protocol says it.

use std::borrow::Cow;

use crate::logic::code::Code;
use crate::logic::event::{Draft, check_channel_name};
use crate::logic::id::Id;
use crate::logic::refusal::Refusal;

use super::notice::Notice;

/// A channel's name from a client, checked: it is well formed and none of the server's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelArg<'a>(Cow<'a, str>);

impl<'a> ChannelArg<'a> {
    /// Checks a name.
    ///
    /// # Errors
    /// If it is no channel name, or one of the server's own.
    pub fn new(name: Cow<'a, str>) -> Result<ChannelArg<'a>, Refusal> {
        match check_channel_name(&name) {
            Ok(()) => Ok(ChannelArg(name)),
            Err(error) => Err(Refusal::new(Code::BadChannel, error.to_string())),
        }
    }

    /// The channel's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ChannelArg<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// What a message asks for. A `reference` is the client's own mark for its request, as it came; the reply carries it.
#[derive(Clone, Debug, PartialEq)]
pub enum Intent<'a> {
    /// Nothing: the message shows that the client is there.
    Alive,
    /// A reply that needs no more than the message itself.
    Reply(Notice<'a>),
    /// More channels.
    Subscribe {
        /// The channels, each with the position after which to begin; without one, from now on.
        channels: Vec<(ChannelArg<'a>, Option<Id>)>,
        /// The request's reference.
        reference: Option<&'a str>,
    },
    /// Fewer channels.
    Unsubscribe {
        /// The channels.
        channels: Vec<Cow<'a, str>>,
        /// The request's reference.
        reference: Option<&'a str>,
    },
    /// An event for all subscribers of a channel.
    Publish {
        /// The channel.
        channel: ChannelArg<'a>,
        /// The event.
        draft: Draft,
        /// The request's reference.
        reference: Option<&'a str>,
    },
    /// A message to the backend.
    Send {
        /// The message as one JSON value, which may hold white space between its tokens.
        data: &'a str,
        /// The request's reference.
        reference: Option<&'a str>,
    },
    /// The token that the connection waits for, or one in place of the present one.
    Token {
        /// The token.
        token: Cow<'a, str>,
        /// The request's reference.
        reference: Option<&'a str>,
    },
    /// Nothing that can be carried out; the client is told why.
    Refuse {
        /// Why.
        refusal: Refusal,
        /// The request's reference.
        reference: Option<&'a str>,
        /// Whether the message could be read. Before the first token any request that can be read is refused alike.
        is_read: bool,
    },
    /// The end of the connection, with a close code.
    Leave(u16),
}

impl<'a> Intent<'a> {
    /// What an intent comes to on a connection that must send its token first: only a token is taken, and a request is
    /// refused with `words` ([`super::Protocol::token_first`]).
    pub fn before_token(self, words: &'static str) -> Intent<'a> {
        let reference = match &self {
            Intent::Alive
            | Intent::Reply(_)
            | Intent::Token { .. }
            | Intent::Leave(_)
            | Intent::Refuse { is_read: false, .. } => return self,
            Intent::Subscribe { reference, .. }
            | Intent::Unsubscribe { reference, .. }
            | Intent::Publish { reference, .. }
            | Intent::Send { reference, .. }
            | Intent::Refuse { reference, .. } => *reference,
        };
        Intent::Refuse { refusal: Refusal::new(Code::Unauthorized, words), reference, is_read: true }
    }
}
