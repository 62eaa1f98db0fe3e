//! Writing a response, as HTTP/1.x (RFC 9112) or as HTTP/2 (RFC 9113) has it: one list of fields in two forms.

use crate::logic::h2;
use crate::logic::id::write_decimal;

use super::response::RETRY_AFTER;
use super::{Body, Cors, Date, Method, Request, Response};

/// What a response's bytes depend on beside the response: the request's version and method, and the connection. The
/// default is that of a request that could not be read, after which the connection closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Whether the connection stays open afterwards.
    pub keep_alive: bool,
    /// Whether the request came as HTTP/1.1.
    pub is_http_1_1: bool,
    /// Whether the request came on a stream of HTTP/2.
    pub is_http_2: bool,
    /// Whether the body is left out, as in the answer to HEAD.
    pub head_only: bool,
    /// The present time, if the response says it.
    pub date: Option<Date>,
}

impl Exchange {
    /// What the response to a request depends on, if the connection is kept as the request says.
    pub fn of(request: &Request<'_>, date: Date) -> Exchange {
        Exchange {
            keep_alive: request.keep_alive,
            is_http_1_1: request.is_http_1_1,
            is_http_2: request.is_http_2,
            head_only: request.method == Method::Head,
            date: Some(date),
        }
    }
}

/// The phrase of a status (RFC 9110 §15).
fn phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// Appends a response: as text for HTTP/1.x; for HTTP/2 as a header block.
pub fn encode(response: &Response<'_>, exchange: &Exchange, out: &mut Vec<u8>) {
    if exchange.is_http_2 {
        write_block(response, exchange, out);
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
        write_decimal(response.status.into(), out);
        out.push(b' ');
        out.extend_from_slice(phrase(response.status).as_bytes());
        out.extend_from_slice(b"\r\n");
        each_field(response, exchange, &mut |name, value| write_field(name, value, out));
        out.extend_from_slice(b"\r\n");
    }
    match &response.body {
        Body::Whole { bytes: Some(bytes), .. } if !exchange.head_only => out.extend_from_slice(bytes),
        _ => {}
    }
}

/// Fields of one hop, which HTTP/2 does not have (RFC 9113 §8.2.2), and the proof of an upgrade, which it does not need
/// (RFC 8441 §5).
const NOT_IN_HTTP_2: [&str; 4] = ["Connection", "Upgrade", "Transfer-Encoding", "Sec-WebSocket-Accept"];

/// Appends the head of a response as a block of fields (RFC 7541), with the block's length in two bytes before it. The frame
/// around the block is made when it is sent.
fn write_block(response: &Response<'_>, exchange: &Exchange, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    // A WebSocket is a stream that is granted (RFC 8441 §5), not another protocol.
    h2::write_status(if response.status == 101 { 200 } else { response.status }, out);
    each_field(response, exchange, &mut |name, value| {
        if !NOT_IN_HTTP_2.contains(&name) {
            h2::write_field(name, value, out);
        }
    });
    let length = out.len() - start - 2;
    debug_assert!(length <= usize::from(u16::MAX), "a head is shorter than the request that it answers");
    out[start..start + 2].copy_from_slice(&(length as u16).to_be_bytes());
}

/// Calls `write` with each field of a response's head.
fn each_field(response: &Response<'_>, exchange: &Exchange, write: &mut dyn FnMut(&str, &[u8])) {
    if let Some(date) = &exchange.date {
        write("Date", date.bytes());
    }
    if response.body == Body::WebSocket {
        write("Upgrade", b"websocket");
        write("Connection", b"Upgrade");
    }
    let has_retry = response.fields.iter().any(|(name, _)| *name == RETRY_AFTER);
    each_of_cors(response.cors, has_retry.then_some(RETRY_AFTER), write);
    for (name, value) in &response.fields {
        write(name, value.as_bytes());
    }
    match &response.body {
        Body::WebSocket => {}
        Body::None => say_connection(exchange, write),
        Body::Whole { content_type, bytes } => {
            write("Content-Type", content_type.as_bytes());
            if let Some(bytes) = bytes {
                let mut length = Vec::with_capacity(20);
                write_decimal(bytes.len() as u64, &mut length);
                write("Content-Length", &length);
            }
            write("Cache-Control", b"no-store");
            say_connection(exchange, write);
        }
        Body::Events => each_of_events(exchange, write),
    }
}

fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The fields for pages of other sites. `exposed`: the fields beside the usual ones that their scripts may read.
fn each_of_cors(cors: Cors<'_>, exposed: Option<&str>, write: &mut dyn FnMut(&str, &[u8])) {
    match cors {
        Cors::None => {}
        Cors::Varies => write("Vary", b"Origin"),
        Cors::Any => write("Access-Control-Allow-Origin", b"*"),
        Cors::Origin(origin) => {
            write("Access-Control-Allow-Origin", origin.as_bytes());
            write("Access-Control-Allow-Credentials", b"true");
            write("Vary", b"Origin");
        }
    }
    if let Some(names) = exposed.filter(|_| matches!(cors, Cors::Any | Cors::Origin(_))) {
        write("Access-Control-Expose-Headers", names.as_bytes());
    }
}

/// Says whether the connection is kept, where that is not the version's default (RFC 9112 §9.3).
fn say_connection(exchange: &Exchange, write: &mut dyn FnMut(&str, &[u8])) {
    if !exchange.keep_alive {
        write("Connection", b"close");
    } else if !exchange.is_http_1_1 {
        write("Connection", b"keep-alive");
    }
}

/// The fields of an event stream: chunked in HTTP/1.1, ended by the connection's end in 1.0, and by its stream's in HTTP/2.
fn each_of_events(exchange: &Exchange, write: &mut dyn FnMut(&str, &[u8])) {
    write("Content-Type", b"text/event-stream");
    write("Cache-Control", b"no-cache, no-transform");
    // nginx would collect the stream in its buffer otherwise.
    write("X-Accel-Buffering", b"no");
    if exchange.is_http_1_1 {
        write("Transfer-Encoding", b"chunked");
    }
    let is_kept = exchange.is_http_1_1 && exchange.keep_alive;
    write("Connection", if is_kept { b"keep-alive" } else { b"close" });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::code::Code;
    use crate::logic::protocol::http::{HeadLimits, Parsed, parse};
    use crate::logic::refusal::Refusal;

    const NEW: Exchange =
        Exchange { keep_alive: true, is_http_1_1: true, is_http_2: false, head_only: false, date: None };

    fn text(response: &Response<'_>, exchange: &Exchange) -> String {
        let mut out = b"before".to_vec();
        encode(response, exchange, &mut out);
        String::from_utf8(out.split_off(6)).unwrap()
    }

    #[test]
    fn errors_say_what_and_when() {
        let refusal = Refusal::new(Code::Full, "no \"room\"").retry_after(3);
        let answer = text(&Response::refusal(&refusal), &Exchange::default());
        let body = "{\"error\":{\"code\":\"full\",\"message\":\"no \\\"room\\\"\"}}\n";
        let expected = format!(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_response_depends_on_its_request() {
        let date = Date::of(0);
        for (head, keep_alive, is_http_1_1, head_only) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", true, true, false),
            ("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false, true, true),
            ("GET / HTTP/1.0\r\n\r\n", false, false, false),
        ] {
            let limits = HeadLimits { head_bytes_max: 8192, fields_max: 64 };
            let Parsed::Complete { request, .. } = parse(head.as_bytes(), &limits) else { panic!() };
            let expected = Exchange { keep_alive, is_http_1_1, is_http_2: false, head_only, date: Some(date) };
            assert_eq!(Exchange::of(&request, date), expected);
        }
    }

    #[test]
    fn a_head_has_no_body() {
        let head = Exchange { head_only: true, ..NEW };
        let answer = text(&Response::json(&b"{}"[..]).with_cors(Cors::Any), &head);
        assert!(answer.ends_with("Content-Length: 2\r\nCache-Control: no-store\r\n\r\n"), "{answer}");
        assert!(answer.contains("Access-Control-Allow-Origin: *\r\n"));
    }

    #[test]
    fn streams_are_chunked_only_where_the_client_knows_chunks() {
        assert!(text(&Response::events(), &NEW).contains("Transfer-Encoding: chunked\r\nConnection: keep-alive"));
        let old = text(&Response::events(), &Exchange { is_http_1_1: false, ..NEW });
        assert!(!old.contains("chunked") && old.contains("Connection: close"));
    }

    #[test]
    fn the_statuses_that_need_fields_have_them() {
        let answer = |code| text(&Response::refusal(&Refusal::new(code, "x")), &NEW);
        assert!(answer(Code::Unauthorized).contains("WWW-Authenticate: Bearer\r\n"));
        assert!(answer(Code::TokenExpired).contains("WWW-Authenticate: Bearer error=\"invalid_token\"\r\n"));
        assert!(answer(Code::Method).contains("Allow: GET, HEAD, OPTIONS\r\n"));
        assert!(answer(Code::UpgradeRequired).contains("Connection: Upgrade\r\nUpgrade: websocket\r\n"));
        let odd = text(&Response::preflight(Some("x\ry"), Cors::Any), &NEW);
        assert!(!odd.contains("Access-Control-Allow-Headers"), "{odd}");
    }

    #[test]
    fn every_code_has_a_status_with_a_phrase() {
        for code in Code::ALL {
            assert_ne!(phrase(code.status()), "Unknown", "{code}");
        }
        let others = [(415, "Unsupported Media Type"), (500, "Internal Server Error"), (599, "Unknown")];
        assert_eq!(others.map(|(status, _)| phrase(status)), others.map(|(_, expected)| expected));
    }

    /// A response's head, and what is to be left of it: `[kept, 1.1]` says which exchange it is in.
    fn head(response: &Response<'_>, [keep_alive, is_http_1_1]: [bool; 2]) -> String {
        let answer = text(response, &Exchange { keep_alive, is_http_1_1, ..NEW });
        answer.split_once("\r\n\r\n").unwrap().0.replace("\r\n", "\n")
    }

    #[test]
    fn a_connection_says_whether_it_is_kept_where_that_is_not_understood() {
        let start =
            "HTTP/1.1 200 OK\nContent-Type: text/plain; charset=utf-8\nContent-Length: 3\nCache-Control: no-store";
        for (exchange, end) in [
            ([true, true], ""),
            ([false, true], "\nConnection: close"),
            ([true, false], "\nConnection: keep-alive"),
            ([false, false], "\nConnection: close"),
        ] {
            assert_eq!(head(&Response::text(&b"ok\n"[..]), exchange), format!("{start}{end}"));
        }
    }

    #[test]
    fn an_event_stream_says_how_it_ends() {
        let start = "HTTP/1.1 200 OK\nAccess-Control-Allow-Origin: https://a.example\nAccess-Control-Allow-Credentials: true\n\
            Vary: Origin\nContent-Type: text/event-stream\nCache-Control: no-cache, no-transform\nX-Accel-Buffering: no\n";
        for (exchange, end) in [
            ([true, true], "Transfer-Encoding: chunked\nConnection: keep-alive"),
            ([false, true], "Transfer-Encoding: chunked\nConnection: close"),
            ([true, false], "Connection: close"),
            ([false, false], "Connection: close"),
        ] {
            let response = Response::events().with_cors(Cors::Origin("https://a.example"));
            assert_eq!(head(&response, exchange), format!("{start}{end}"));
        }
    }

    #[test]
    fn a_websocket_is_switched_to() {
        let start =
            "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: abc=";
        assert_eq!(head(&Response::websocket("abc=", None), [true, true]), start);
        let with_protocol = format!("{start}\nSec-WebSocket-Protocol: ringcast.v1");
        assert_eq!(head(&Response::websocket("abc=", Some("ringcast.v1")), [false, true]), with_protocol);
    }

    #[test]
    fn a_preflight_is_told_what_is_allowed() {
        let allow = "HTTP/1.1 204 No Content\nAllow: GET, HEAD, OPTIONS";
        assert_eq!(head(&Response::preflight(Some("x-a"), Cors::None), [true, true]), allow);
        let any = "HTTP/1.1 204 No Content\nAccess-Control-Allow-Origin: *\nAllow: GET, HEAD, OPTIONS\n\
            Access-Control-Allow-Methods: GET, HEAD, OPTIONS\nAccess-Control-Allow-Headers: x-a, x-b\n\
            Access-Control-Max-Age: 86400\nConnection: close";
        assert_eq!(head(&Response::preflight(Some("x-a, x-b"), Cors::Any), [false, true]), any);
        let varies = head(&Response::preflight(None, Cors::Varies), [true, true]);
        assert!(varies.starts_with("HTTP/1.1 204 No Content\nVary: Origin\nAllow: ") && !varies.contains("Headers"));
    }

    #[test]
    fn a_refused_upgrade_says_what_is_wanted() {
        let refusal = Refusal::new(Code::WebSocketVersion, "x");
        assert_eq!(
            head(&Response::refusal(&refusal), [true, true]),
            "HTTP/1.1 426 Upgrade Required\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
             Content-Type: application/json\nContent-Length: 53\nCache-Control: no-store"
        );
    }
}
