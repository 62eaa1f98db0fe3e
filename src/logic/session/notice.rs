//! What clients are told beside events.

use std::fmt;

use serde::Serialize;

use crate::logic::code::Code;
use crate::logic::event::Draft;
use crate::logic::id::Id;
use crate::logic::reason::{Reason, Violation};
use crate::logic::refusal::Refusal;

/// A message as it is: what a client sends, and what is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// UTF-8 text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

impl Payload<'_> {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Payload::Text(text) => text.len(),
            Payload::Binary(bytes) => bytes.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Something one client is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice<'a> {
    /// The answer to a request within the session.
    Reply {
        /// The request's own reference, as it came.
        reference: Option<&'a str>,
        /// What became of the request.
        outcome: Outcome<'a>,
    },
    /// Events between two ids are lost.
    Gap {
        /// The newest id before the lost events.
        after: Id,
        /// The id after which everything comes again.
        resumed: Id,
        /// The position from which a client that is cut right after the notice resumes, where that is known.
        position: Option<Id>,
    },
    /// The publisher has ended a channel.
    Ended {
        /// The channel's name.
        channel: &'a str,
    },
    /// The connection was taken off a channel.
    Unsubscribed {
        /// The channel's name.
        channel: &'a str,
        /// Why, in words.
        reason: &'a str,
    },
    /// A heartbeat that scripts can see, for clients that have asked for it.
    Beat,
    /// Something for this client alone, which has no id and no channel.
    Direct(&'a Draft),
    /// The answer to the carrier's own ping, with its payload (RFC 6455 §5.5.3).
    Pong(&'a [u8]),
    /// A message that is sent back as it came.
    Same(Payload<'a>),
    /// The one answer to a poll.
    PollAnswer {
        /// Events as the protocol frames them.
        events: &'a [u8],
        /// The position to ask for next.
        next: Id,
        /// The id after which everything comes again, if events are lost.
        gap: Option<Id>,
        /// The channels that have ended and are told whole.
        ended: &'a [&'a str],
    },
}

/// What became of a request within a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<'a> {
    /// It was carried out.
    Done,
    /// Its channels are subscribed: they begin after this position.
    Subscribed(Id),
    /// The event that it published has this id.
    Published(Id),
    /// It was a ping, answered with its own JSON value or text.
    Pong(&'a str),
    /// It was refused, in whole or for the channels that the refusal names.
    Refused(&'a Refusal),
}

/// What a session opens with.
#[derive(Clone, Copy)]
pub struct Welcome<'a> {
    /// The position at which the session's channels begin. A client that is cut before its first event resumes from here.
    pub position: Id,
    /// The connection's name, as the backend knows it.
    pub connection: &'a dyn fmt::Display,
    /// Bytes of padding that some proxies want to see before they pass a stream on.
    pub padding_bytes: usize,
    /// How long a client whose connection is cut waits before it comes back, in milliseconds.
    pub retry_ms: u64,
    /// The time between two heartbeats, in milliseconds.
    pub beat_ms: u64,
}

/// The last words to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell<'a> {
    /// Why the connection ends.
    pub reason: Reason,
    /// The same in words.
    pub words: &'a str,
    /// When to come back, in milliseconds, where that is said.
    pub retry_ms: u64,
    /// The close code in place of the reason's own: that of a refusal, or the one that the client has sent, which is sent
    /// back (RFC 6455 §5.5.1).
    pub close_code: Option<u16>,
    /// The code of the refusal that the session ends with, in place of the reason's own.
    pub refused: Option<Code>,
}

impl<'a> Farewell<'a> {
    /// The last words in the reason's own wording.
    pub fn new(reason: Reason) -> Farewell<'a> {
        Farewell { reason, words: reason.words(), retry_ms: 0, close_code: None, refused: None }
    }

    /// The same farewell in other words.
    pub fn in_words(self, words: &'a str) -> Farewell<'a> {
        Farewell { words, ..self }
    }

    /// The same farewell with the time to come back after.
    pub fn with_retry(self, retry_ms: u64) -> Farewell<'a> {
        Farewell { retry_ms, ..self }
    }

    /// The answer to a client that leaves with a close code.
    pub fn to_leaver(close_code: u16) -> Farewell<'a> {
        Farewell { close_code: Some(close_code), ..Farewell::new(Reason::Client) }
    }

    /// The farewell of a session that is opened only to say a refusal.
    pub fn of_refusal(refusal: &'a Refusal, retry_ms: u64) -> Farewell<'a> {
        let (close_code, refused) = (refusal.close_code(), Some(refusal.code));
        Farewell { words: &refusal.message, retry_ms, close_code, refused, ..Farewell::new(Reason::BadRequest) }
    }

    /// The code for programs, if the client is told one.
    pub fn code(&self) -> Option<Code> {
        self.refused.or(self.reason.code())
    }

    /// The code of the close frame, if there is to be one.
    pub fn close_code(&self) -> Option<u16> {
        self.close_code.or(self.reason.close_code())
    }
}

impl From<Violation> for Farewell<'static> {
    fn from(violation: Violation) -> Farewell<'static> {
        Farewell::new(violation.reason).in_words(violation.words)
    }
}

/// A notice in JSON, the same in event streams (as the data of an event `ringcast.NAME`) and in JSON messages.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum ServerEvent<'a> {
    Hello {
        id: Id,
        conn: String,
        beat_ms: u64,
    },
    Gap {
        after: Id,
        resumed: Id,
    },
    End {
        channel: &'a str,
    },
    Unsubscribed {
        channel: &'a str,
        reason: &'a str,
    },
    Beat {},
    Bye {
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
        reason: &'a str,
        retry_ms: u64,
    },
}

impl<'a> ServerEvent<'a> {
    /// What a client is told first.
    pub(super) fn of_welcome(welcome: &Welcome<'a>) -> ServerEvent<'a> {
        ServerEvent::Hello { id: welcome.position, conn: welcome.connection.to_string(), beat_ms: welcome.beat_ms }
    }

    /// What a notice is in JSON; `None` for notices that a protocol has a form of its own for.
    pub(super) fn of_notice(notice: &Notice<'a>) -> Option<ServerEvent<'a>> {
        Some(match *notice {
            Notice::Gap { after, resumed, .. } => ServerEvent::Gap { after, resumed },
            Notice::Ended { channel } => ServerEvent::End { channel },
            Notice::Unsubscribed { channel, reason } => ServerEvent::Unsubscribed { channel, reason },
            Notice::Beat => ServerEvent::Beat {},
            _ => return None,
        })
    }

    /// The bye, if the client is to be told one.
    pub(super) fn of_farewell(farewell: &Farewell<'a>) -> Option<ServerEvent<'a>> {
        let Farewell { reason, words, retry_ms, refused, .. } = *farewell;
        let says_bye = reason.says_bye() || refused.is_some();
        says_bye.then_some(ServerEvent::Bye { code: farewell.code(), reason: words, retry_ms })
    }

    /// The notice's name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            ServerEvent::Hello { .. } => "hello",
            ServerEvent::Gap { .. } => "gap",
            ServerEvent::End { .. } => "end",
            ServerEvent::Unsubscribed { .. } => "unsubscribed",
            ServerEvent::Beat {} => "beat",
            ServerEvent::Bye { .. } => "bye",
        }
    }
}
