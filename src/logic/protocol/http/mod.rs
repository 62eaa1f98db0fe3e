//! HTTP (RFC 9110): requests without a body and responses as values, and HTTP/1.x (RFC 9112) between them and bytes.

mod chunk;
mod cors;
mod date;
mod encode;
mod forwarded;
mod parse;
mod response;
mod response_head;

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

pub use chunk::{LAST_CHUNK, wrap_chunk};
pub use cors::{Cors, decide_cors, origin_allowed};
pub use date::Date;
pub use encode::{Exchange, encode};
pub use forwarded::last_untrusted;
pub use parse::{FIELDS_MAX, HeadLimits, Parsed, parse};
pub use response::{Body, Field, Response};
pub use response_head::{ResponseHead, ResponseHeadError, ResponseHeadReader};

/// The methods that the server tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD, which is answered as GET without the body.
    Head,
    /// OPTIONS, by which browsers ask for permission (CORS preflight).
    Options,
    /// Any other method, which is answered 405.
    Other,
}

/// A request's head, with the fields that the server looks at.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The target's path, as it was sent.
    pub path: &'a str,
    /// The target's query, as it was sent; empty if there is none.
    pub query: &'a str,
    /// Whether the request's version is HTTP/1.1, not 1.0.
    pub is_http_1_1: bool,
    /// Whether the request came on a stream of HTTP/2; then it has no version of HTTP/1.
    pub is_http_2: bool,
    /// Whether the connection may stay open after the answer.
    pub keep_alive: bool,
    /// The requested host: of the target if that is absolute, else of the `Host` field.
    pub host: Option<&'a str>,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `User-Agent`.
    pub user_agent: Option<&'a str>,
    /// `Last-Event-ID`.
    pub last_event_id: Option<&'a str>,
    /// Whether `Accept` names `text/event-stream` with a weight above zero.
    pub accepts_event_stream: bool,
    /// Whether `Upgrade` names `websocket` and `Connection` names `upgrade`.
    pub wants_websocket: bool,
    /// `Sec-WebSocket-Key`.
    pub ws_key: Option<&'a str>,
    /// `Sec-WebSocket-Version`.
    pub ws_version: Option<&'a str>,
    /// Each `Sec-WebSocket-Protocol`.
    pub ws_protocols: Vec<&'a str>,
    /// `Authorization`.
    pub authorization: Option<&'a str>,
    /// Each `Cookie` (RFC 6265 §5.4 allows one; HTTP/2 gateways write several).
    pub cookies: Vec<&'a str>,
    /// Each `Forwarded` (RFC 7239).
    pub forwarded: Vec<&'a str>,
    /// Each `X-Forwarded-For`; together they are one list (RFC 9110 §5.3).
    pub forwarded_for: Vec<&'a str>,
    /// `Access-Control-Request-Headers`.
    pub request_headers: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// The same request as one that came on a stream of HTTP/2, whose head was written as that of HTTP/1.1.
    pub fn on_stream(self) -> Request<'a> {
        Request { is_http_1_1: false, is_http_2: true, keep_alive: false, ..self }
    }

    /// The token in `Authorization: Bearer` (RFC 6750 §2.1), if there is one.
    pub fn bearer(&self) -> Option<&'a str> {
        let (scheme, token) = self.authorization?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
    }

    /// A cookie's value (RFC 6265 §4.2.1); the first one, if there are several of that name.
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        let pairs = self.cookies.iter().flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let value = pairs.into_iter().find(|(other, _)| *other == name)?.1;
        Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
    }
}

/// Decodes `%XX` (RFC 3986 §2.1) and, in queries, `+` as a space. `None` if a `%` is not followed by two hexadecimal
/// digits, which the crate would let through, or if the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| byte == b'%' || byte == b'+') {
        return Some(Cow::Borrowed(text));
    }
    let is_hex = |rest: &str| matches!(rest.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(is_hex) {
        return None;
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_where_they_may_be() {
        let head = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: bearer  a.b.c\r\n\
                     Cookie: x=1; token=\"q\"\r\nCookie: token=second; y=a=b\r\n\r\n";
        let Parsed::Complete { request, .. } = parse(head, &HeadLimits { head_bytes_max: 8192, fields_max: 64 }) else {
            panic!()
        };
        assert_eq!(request.bearer(), Some("a.b.c"));
        assert_eq!((request.cookie("token"), request.cookie("y"), request.cookie("z")), (Some("q"), Some("a=b"), None));
    }

    #[test]
    fn percent_decoding() {
        assert_eq!(percent_decode("a%3Ab+c").as_deref(), Some("a:b c"));
        assert!(matches!(percent_decode("plain"), Some(Cow::Borrowed("plain"))));
        assert_eq!(percent_decode("+").as_deref(), Some(" "));
        assert_eq!(percent_decode("%2B+%c3%A9%25").as_deref(), Some("+ é%"));
        for bad in ["%", "%4", "%zz", "%ff", "a%", "%%41", "%4%41", "%+1"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
    }
}
