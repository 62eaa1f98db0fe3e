//! Codes: the words that say, for programs, why a request, a message or a publisher's line is refused, and why a
//! connection ends. One vocabulary holds for all transports, for the feed and for the admin API.
//!
//! docs/protocol.md lists the same table; a test below holds the two together.

use std::fmt;

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $name:literal, $status:literal $(, closes $close:literal)?;)*) => {
        /// A word for programs that says why something was refused or has ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $meaning])+ $variant,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// The word itself.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// The HTTP status (RFC 9110 §15) of an answer that says it.
            pub const fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// The code (RFC 6455 §7.4) of the close frame of a WebSocket that ends with it; `None` if no WebSocket does.
            pub const fn close_code(self) -> Option<u16> {
                match self { $(Code::$variant => close_code!($($close)?),)* }
            }

            /// The sentence for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$variant => concat!($($meaning),+).trim_ascii(),)* }
            }
        }
    };
}

macro_rules! close_code {
    () => {
        None
    };
    ($close:literal) => {
        Some($close)
    };
}

codes! {
    /// The request breaks HTTP's grammar, or two parsers could read it differently.
    BadRequest = "bad_request", 400;
    /// A parameter of the query cannot be read.
    BadQuery = "bad_query", 400;
    /// The request names no channel; of a command: there is no channel of that name.
    NoChannel = "no_channel", 400;
    /// `Sec-WebSocket-Key` is not 16 bytes in base64.
    WebSocketKey = "websocket_key", 400;
    /// The channel needs a token, or no token came in time.
    Unauthorized = "unauthorized", 401, closes 1008;
    /// The token cannot be verified, or it was revoked.
    InvalidToken = "invalid_token", 401, closes 1008;
    /// The token has expired.
    TokenExpired = "token_expired", 401, closes 4001;
    /// The token, or the feed's configuration, does not allow this.
    Forbidden = "forbidden", 403, closes 1008;
    /// Pages of this origin may not open a WebSocket, or use the admin API.
    Origin = "origin", 403;
    /// There is nothing at this path.
    NotFound = "not_found", 404;
    /// The path does not know this method.
    Method = "method", 405;
    /// The request did not arrive in time.
    Timeout = "timeout", 408;
    /// The request has a body, which no request to this server has.
    Body = "body", 413;
    /// The request line is too long.
    UriTooLong = "uri_too_long", 414;
    /// The path speaks WebSocket, and the request does not ask for that.
    UpgradeRequired = "upgrade_required", 426;
    /// The request asks for another version of WebSocket than 13.
    WebSocketVersion = "websocket_version", 426;
    /// There are too many connections of this user or from this address, or too many channels on this connection.
    TooMany = "too_many", 429, closes 1008;
    /// Requests come faster than `request_rate` and its like allow.
    RequestRate = "request_rate", 429;
    /// More tokens of this address than `failed_tokens` did not verify: none is looked at for a while.
    FailedTokens = "failed_tokens", 429, closes 1008;
    /// More channels than `new_names` and its like allow were named that the server does not know.
    NewNames = "new_names", 429, closes 1013;
    /// More channels with presence were joined than `joins` and its like allow.
    Joins = "joins", 429, closes 1013;
    /// The header fields are too long.
    HeadersTooLong = "headers_too_long", 431;
    /// There are too many header fields.
    HeadersTooMany = "headers_too_many", 431;
    /// The server has no room for more connections.
    Full = "full", 503, closes 1013;
    /// The server has no room for more channels.
    Channels = "channels", 503, closes 1013;
    /// The server is starting or going away.
    NotReady = "not_ready", 503;
    /// The server is going away: connect again.
    Draining = "draining", 503, closes 1001;
    /// The request is of another version of HTTP than 1.0 and 1.1.
    Version = "version", 505;

    /// A message cannot be read, or asks for nothing.
    BadMessage = "bad_message", 400;
    /// The text is no channel name, or a name of the server's own.
    BadChannel = "bad_channel", 400;
    /// There is no subscription to the channel.
    NotSubscribed = "not_subscribed", 404;
    /// No backend listens to messages at the moment.
    NoBackend = "no_backend", 503;
    /// What is asked for is not configured, or cannot be reached at the moment. A publish is surely not published.
    Unavailable = "unavailable", 503;

    /// The publisher has ended the last channel of the connection.
    Ended = "ended", 410, closes 1000;
    /// The backend has ended the connection.
    Kicked = "kicked", 403, closes 4003;
    /// The client reads too slowly: connect again and resume.
    TooSlow = "too_slow", 503, closes 1013;
    /// The client has sent more than it may.
    Flooding = "flooding", 429, closes 1008;
    /// The client has broken the WebSocket protocol.
    Violation = "violation", 400, closes 1002;
    /// The client has sent a text message that is no UTF-8.
    InvalidData = "invalid_data", 400, closes 1007;
    /// The client has sent a message over the limit.
    TooBig = "too_big", 413, closes 1009;

    /// The line, or the body, is no JSON object.
    BadJson = "bad_json", 400;
    /// A field is missing, unknown, or cannot have this value.
    BadField = "bad_field", 400;
    /// There is no command of that name.
    UnknownOp = "unknown_op", 400;
    /// The line, or the body, is too long.
    TooLong = "too_long", 413;
    /// The publisher's connection ended within a line.
    Cut = "cut", 400;
    /// The connection traces as many channels as it may.
    Traces = "traces", 400;
    /// There is no connection of that name.
    NoConnection = "no_connection", 404;
    /// The ids to come could not be written down, so nothing was published.
    State = "state", 503;
    /// The token is revoked, but only until the server ends: that could not be written down.
    NotKept = "not_kept", 503;
    /// The broker of the cluster may have taken it: repeat it with the same `key`.
    Unsure = "unsure", 503;

    /// The admin API needs its token.
    Token = "token", 401;
    /// The admin API needs a token for this, and none is configured.
    NoToken = "no_token", 403;
    /// The request names the admin API's host by a name that another site could have.
    Host = "host", 403;
    /// What changes something is sent to the admin API as JSON.
    MediaType = "media_type", 415;
}

impl Code {
    /// The code of that name.
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.name() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Code {
    /// As its name.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_words_and_each_is_one_codes() {
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
            assert_eq!(Code::from_name(code.name()), Some(*code));
            assert!((400..600).contains(&code.status()), "{code}");
            assert!(code.close_code().is_none_or(|close| matches!(close, 1000..=1013 | 4000..5000)), "{code}");
        }
        assert_eq!(Code::from_name("no such code"), None);
    }

    #[test]
    fn the_documentation_has_every_code() {
        let documentation = include_str!("../../docs/protocol.md");
        for code in Code::ALL {
            let row = format!("| `{code}` | {} | {} |", code.status(), code.meaning());
            assert!(documentation.contains(&row), "docs/protocol.md lacks this row:\n{row}");
        }
    }
}
