//! Reasons: why a connection ends, and what its client is told about that, in one table for all transports.
//!
//! docs/protocol.md lists the same table; a test below holds the two together.

use super::code::Code;
use super::refusal::Refusal;

macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $name:literal, $code:expr, $last:ident, $words:literal;)*) => {
        /// Why a connection has ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $meaning])+ $variant,)*
        }

        impl Reason {
            /// Every reason, each at the place that it has as a number.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];
            /// The name of every reason, in the same order.
            pub const NAMES: &[&str] = &[$($name,)*];

            /// The name in log lines, in figures, and for the backend.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// The code for the client; `None` where the client is told nothing, or something more exact.
            pub const fn code(self) -> Option<Code> {
                match self { $(Reason::$variant => $code,)* }
            }

            /// Whether the client is told to come back, and when (`bye`).
            pub const fn says_bye(self) -> bool {
                match self { $(Reason::$variant => matches!(Last::$last, Last::Bye),)* }
            }

            /// The sentence for the client, where no other one is at hand.
            pub const fn words(self) -> &'static str {
                match self { $(Reason::$variant => $words,)* }
            }

            /// The sentence for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Reason::$variant => concat!($($meaning),+).trim_ascii(),)* }
            }
        }
    };
}

/// What the table says about the last words to a client.
enum Last {
    Bye,
    Silent,
}

reasons! {
    /// The client has closed the connection.
    Client = "client", None, Silent, "";
    /// The network or the client's host has broken the connection.
    Broken = "broken", None, Silent, "";
    /// The answer was complete, and the connection was not to be kept.
    Answered = "answered", None, Silent, "";
    /// The request was answered with an error that ends the connection.
    BadRequest = "bad_request", None, Silent, "";
    /// No whole request came in time.
    HandshakeTimeout = "handshake_timeout", Some(Code::Timeout), Silent, "the request did not arrive in time";
    /// No further request came in time.
    Idle = "idle", None, Silent, "";
    /// The client reads too slowly.
    Slow = "slow", Some(Code::TooSlow), Silent, "too slow: reconnect and resume";
    /// The client has broken the WebSocket protocol.
    Violation = "violation", Some(Code::Violation), Silent, "the client has broken the WebSocket protocol";
    /// A text message was no UTF-8.
    InvalidData = "invalid_data", Some(Code::InvalidData), Silent, "a text message is no UTF-8";
    /// A message was over `max_message`.
    TooBig = "too_big", Some(Code::TooBig), Silent, "the message is too big";
    /// The client has answered no ping.
    Unresponsive = "unresponsive", None, Silent, "";
    /// The publisher has ended the connection's last channel.
    Ended = "ended", Some(Code::Ended), Silent, "the channel has ended";
    /// The backend has ended the connection, or taken it off its last channel.
    Kicked = "kicked", Some(Code::Kicked), Bye, "the backend has ended the connection";
    /// The server is going away.
    Drained = "drained", Some(Code::Draining), Bye, "the server is going away";
    /// There was no room for the connection.
    Refused = "refused", None, Silent, "";
    /// The client did not close a finished connection in time.
    Lingered = "lingered", None, Silent, "";
    /// The token has expired.
    Expired = "expired", Some(Code::TokenExpired), Bye, "the token has expired";
    /// No token came in time.
    Unauthorized = "unauthorized", Some(Code::Unauthorized), Silent, "no token came in time";
    /// As many tokens as `token_tries` allows did not verify, one after the other.
    BadTokens = "bad_tokens", Some(Code::InvalidToken), Silent, "too many tokens that do not verify";
    /// The hub had no room for the connection's last channel, because clients have brought too many into being.
    NoRoom = "no_room", Some(Code::Channels), Bye, "the server has no room for more channels";
    /// The TLS handshake has failed, or the client has broken the TLS protocol.
    Tls = "tls", None, Silent, "";
    /// The client has broken HTTP/2, or has made more work than a connection may.
    Http2 = "http2", None, Silent, "";
    /// The client has sent more than `message_rate` or `byte_rate` allows.
    Flooding = "flooding", Some(Code::Flooding), Silent, "too many messages in a second";
}

impl Reason {
    /// How many reasons there are.
    pub const COUNT: usize = Reason::ALL.len();

    /// The code of the close frame (RFC 6455 §7.4) for it; `None` where no close frame is sent, or the client's own code
    /// is sent back.
    pub const fn close_code(self) -> Option<u16> {
        match self.code() {
            Some(code) => code.close_code(),
            None => None,
        }
    }

    /// The HTTP status (RFC 9110 §15) of an answer that ends the connection for it, if there is such an answer.
    pub const fn status(self) -> Option<u16> {
        match self.code() {
            Some(code) => Some(code.status()),
            None => None,
        }
    }

    /// The answer that ends a connection which waits for its request; `None` where it ends without one.
    pub fn refusal(self) -> Option<Refusal> {
        self.code().map(|code| Refusal::fatal(code, self.words()))
    }
}

/// A client's break of the protocol, which ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Why the connection ends.
    pub reason: Reason,
    /// The sentence for the client.
    pub words: &'static str,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_place_and_its_name() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
        let names: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::COUNT);
    }

    #[test]
    fn clients_are_told_what_they_always_were() {
        let told = |reason: Reason| (reason.close_code(), reason.says_bye(), reason.words());
        assert_eq!(told(Reason::Ended), (Some(1000), false, "the channel has ended"));
        assert_eq!(told(Reason::Drained), (Some(1001), true, "the server is going away"));
        assert_eq!(told(Reason::Slow), (Some(1013), false, "too slow: reconnect and resume"));
        assert_eq!(told(Reason::Expired), (Some(4001), true, "the token has expired"));
        assert_eq!(told(Reason::Unauthorized), (Some(1008), false, "no token came in time"));
        assert_eq!(told(Reason::BadTokens), (Some(1008), false, "too many tokens that do not verify"));
        assert_eq!(told(Reason::Flooding), (Some(1008), false, "too many messages in a second"));
        assert_eq!((Reason::Kicked.close_code(), Reason::Kicked.says_bye()), (Some(4003), true));
        let protocol = [Reason::Violation, Reason::InvalidData, Reason::TooBig];
        assert_eq!(protocol.map(Reason::close_code), [Some(1002), Some(1007), Some(1009)]);
        assert_eq!(Reason::HandshakeTimeout.status(), Some(408));
        assert_eq!(Reason::Broken.refusal(), None);
        assert_eq!(Reason::Drained.refusal(), Some(Refusal::fatal(Code::Draining, "the server is going away")));
    }

    #[test]
    fn a_bye_has_a_code_and_words() {
        for reason in Reason::ALL.iter().filter(|reason| reason.says_bye()) {
            assert!(reason.code().is_some() && !reason.words().is_empty(), "{reason:?}");
        }
    }

    #[test]
    fn the_documentation_has_every_reason() {
        let documentation = include_str!("../../docs/protocol.md");
        for reason in Reason::ALL {
            let close = reason.close_code().map(|code| code.to_string()).unwrap_or_default();
            let code = reason.code().map(|code| format!("`{code}`")).unwrap_or_default();
            let bye = if reason.says_bye() { "yes" } else { "" };
            let row = format!("| `{}` | {close} | {code} | {bye} | {} |", reason.name(), reason.meaning());
            assert!(documentation.contains(&row), "docs/protocol.md lacks this row:\n{row}");
        }
    }
}
