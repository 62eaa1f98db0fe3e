//! Responses as values: what is answered, before a version of HTTP makes bytes of it.

use std::borrow::Cow;

use crate::logic::code::Code;
use crate::logic::refusal::Refusal;

use super::Cors;

/// A field's name and its value.
pub type Field<'a> = (&'static str, Cow<'a, str>);

/// A response as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The status (RFC 9110 §15).
    pub status: u16,
    /// Which other sites' pages may read the response.
    pub cors: Cors<'a>,
    /// The fields beside those that follow from the body and from `cors`, in order. They may hold fields of one hop
    /// (`Connection`, `Upgrade`), which an encoder for HTTP/2 leaves out (RFC 9113 §8.2.2).
    pub fields: Vec<Field<'a>>,
    /// What follows the head.
    pub body: Body<'a>,
}

/// What follows a response's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Nothing, as the status says (RFC 9110 §15.3.5).
    None,
    /// Content that is there whole.
    Whole {
        /// Its media type.
        content_type: &'static str,
        /// Its bytes; `None` in the answer to HEAD if they are not known (RFC 9110 §8.6).
        bytes: Option<Cow<'a, [u8]>>,
    },
    /// A stream of events that goes on after the head (WHATWG HTML §9.2).
    Events,
    /// WebSocket: the connection belongs to HTTP no more (RFC 6455 §4.2.2).
    WebSocket,
}

/// The field by which a refusal says when to come back (RFC 9110 §10.2.3).
pub(super) const RETRY_AFTER: &str = "Retry-After";
const JSON: &str = "application/json";
const METHODS: &str = "GET, HEAD, OPTIONS";

impl<'a> Response<'a> {
    fn new(status: u16, body: Body<'a>) -> Response<'a> {
        Response { status, cors: Cors::None, fields: Vec::new(), body }
    }

    fn whole(status: u16, content_type: &'static str, bytes: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
        Response::new(status, Body::Whole { content_type, bytes: Some(bytes.into()) })
    }

    /// 200 with a body of JSON.
    pub fn json(bytes: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
        Response::whole(200, JSON, bytes)
    }

    /// The head of a 200 with a body of JSON that is not known.
    pub fn json_head() -> Response<'a> {
        Response::new(200, Body::Whole { content_type: JSON, bytes: None })
    }

    /// 204: there is nothing, and there will be nothing. An `EventSource` that gets it does not come back (WHATWG HTML §9.2.3).
    pub fn nothing() -> Response<'a> {
        Response::new(204, Body::None)
    }

    /// 200 with a page.
    pub fn html(bytes: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
        Response::whole(200, "text/html; charset=utf-8", bytes)
    }

    /// 200 with a script.
    pub fn script(bytes: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
        Response::whole(200, "text/javascript; charset=utf-8", bytes)
    }

    /// 200 with plain text.
    pub fn text(bytes: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
        Response::whole(200, "text/plain; charset=utf-8", bytes)
    }

    /// 200, and a stream of events after it.
    pub fn events() -> Response<'a> {
        Response::new(200, Body::Events)
    }

    /// 101, and a WebSocket after it: `accept` is the proof that the key was read, `subprotocol` the one agreed on.
    pub fn websocket(accept: &'a str, subprotocol: Option<&'a str>) -> Response<'a> {
        let mut fields = Vec::with_capacity(2);
        fields.push(("Sec-WebSocket-Accept", accept.into()));
        fields.extend(subprotocol.map(|name| ("Sec-WebSocket-Protocol", name.into())));
        Response { fields, ..Response::new(101, Body::WebSocket) }
    }

    /// The answer to OPTIONS, which is how a browser asks whether a page may send a request (CORS preflight).
    /// `request_headers` is the field of that name, which is allowed as it came.
    pub fn preflight(request_headers: Option<&'a str>, cors: Cors<'a>) -> Response<'a> {
        let mut fields: Vec<Field<'a>> = vec![("Allow", METHODS.into())];
        if cors != Cors::None {
            fields.push(("Access-Control-Allow-Methods", METHODS.into()));
            let is_clean = |names: &&str| names.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
            let names = request_headers.filter(is_clean);
            fields.extend(names.map(|names| ("Access-Control-Allow-Headers", names.into())));
            fields.push(("Access-Control-Max-Age", "86400".into()));
        }
        Response { cors, fields, ..Response::new(204, Body::None) }
    }

    /// The answer that says a refusal, with the fields that its status asks for.
    pub fn refusal(refusal: &Refusal) -> Response<'a> {
        let mut body = b"{".to_vec();
        refusal.write_member(&mut body);
        body.extend_from_slice(b"}\n");
        let status = refusal.code.status();
        let mut fields: Vec<Field<'a>> = Vec::new();
        fields.extend(refusal.retry_after_secs.map(|seconds| (RETRY_AFTER, seconds.to_string().into())));
        match status {
            // RFC 6750 §3.1: a request without a token is told no error.
            401 if refusal.code == Code::Unauthorized => fields.push(("WWW-Authenticate", "Bearer".into())),
            401 => fields.push(("WWW-Authenticate", "Bearer error=\"invalid_token\"".into())),
            405 => fields.push(("Allow", METHODS.into())),
            // `Upgrade` is a hop's own field and must be named as such (RFC 9110 §7.8).
            426 => fields.extend([
                ("Connection", "Upgrade".into()),
                ("Upgrade", "websocket".into()),
                ("Sec-WebSocket-Version", "13".into()),
            ]),
            _ => {}
        }
        Response { fields, ..Response::whole(status, JSON, body) }
    }

    /// The same response, with what it says about pages of other sites.
    pub fn with_cors(self, cors: Cors<'a>) -> Response<'a> {
        Response { cors, ..self }
    }
}
