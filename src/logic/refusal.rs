//! Refusals: why a request or a message is not carried out, the same for HTTP answers and for replies in a session.

use std::borrow::Cow;

use super::code::Code;
use super::json;
use super::protocol::feed::FeedError;

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The word for programs.
    pub code: Code,
    /// The sentence for people.
    pub message: Cow<'static, str>,
    /// The channels that are refused, where a reply names them.
    pub channels: Vec<String>,
    /// Whether the connection cannot be used any further.
    pub close: bool,
    /// When to try again, in seconds (RFC 9110 §10.2.3).
    pub retry_after_secs: Option<u32>,
}

impl Refusal {
    /// A refusal after which the connection may be kept.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code, message: message.into(), channels: Vec::new(), close: false, retry_after_secs: None }
    }

    /// A refusal after which nothing on the connection can be trusted.
    pub fn fatal(code: Code, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { close: true, ..Refusal::new(code, message) }
    }

    /// The same refusal, with the seconds after which to come back.
    pub fn retry_after(self, seconds: u32) -> Refusal {
        Refusal { retry_after_secs: Some(seconds), ..self }
    }

    /// The same refusal, naming the channels that it is about.
    pub fn of_channels(self, channels: Vec<String>) -> Refusal {
        Refusal { channels, ..self }
    }

    /// Whether the same request may be granted later: the refusal says when to try again.
    pub fn passes(&self) -> bool {
        self.retry_after_secs.is_some()
    }

    /// The code of the close frame (RFC 6455 §7.4) by which a page learns that its WebSocket is refused; `None` for refusals
    /// that are mistakes of the request itself.
    pub fn close_code(&self) -> Option<u16> {
        match self.code.status() {
            401 => Some(4001),
            403 => Some(4003),
            429 | 503 => Some(1013),
            _ => None,
        }
    }

    /// Appends `"error":{"code":…,"message":…,"channels"?:[…]}`.
    pub fn write_member(&self, out: &mut Vec<u8>) {
        json::write_error(self.code.name(), &self.message, &self.channels, out);
    }
}

/// What the hub refuses a client's publish with, or what is wrong with the event itself.
impl From<FeedError> for Refusal {
    fn from(error: FeedError) -> Refusal {
        let code = Code::from_name(error.code);
        debug_assert!(code.is_some(), "{} is in the table of codes", error.code);
        Refusal::new(code.unwrap_or(Code::Unavailable), error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_channels_where_there_are_some() {
        let mut out = Vec::new();
        let refusal = Refusal::new(Code::Forbidden, "no \"way\"\n");
        refusal.write_member(&mut out);
        assert_eq!(out, br#""error":{"code":"forbidden","message":"no \"way\"\n"}"#);
        out.clear();
        refusal.of_channels(vec!["a".into(), "b".into()]).write_member(&mut out);
        assert_eq!(out, br#""error":{"code":"forbidden","message":"no \"way\"\n","channels":["a","b"]}"#);
    }

    #[test]
    fn a_fatal_refusal_closes_and_says_when_to_come_back_if_that_is_known() {
        let refusal = Refusal::fatal(Code::Full, "full").retry_after(5);
        assert_eq!(
            (refusal.code, &*refusal.message, refusal.close, refusal.retry_after_secs),
            (Code::Full, "full", true, Some(5))
        );
        let refusal = Refusal::new(Code::Full, "full");
        assert_eq!((refusal.close, refusal.retry_after_secs), (false, None));
    }

    #[test]
    fn what_passes_and_what_a_page_may_learn() {
        for (code, close_code) in [
            (Code::Unauthorized, Some(4001)),
            (Code::Origin, Some(4003)),
            (Code::TooMany, Some(1013)),
            (Code::Draining, Some(1013)),
            (Code::BadQuery, None),
            (Code::NotFound, None),
        ] {
            let refusal = Refusal::new(code, "x");
            assert_eq!((refusal.close_code(), refusal.passes()), (close_code, false), "{code}");
            assert!(refusal.retry_after(1).passes());
        }
    }

    #[test]
    fn the_feeds_errors_keep_their_code() {
        let refusal = Refusal::from(FeedError::new("bad_field", "x"));
        assert_eq!((refusal.code, &*refusal.message), (Code::BadField, "x"));
    }
}
