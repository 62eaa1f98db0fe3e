//! Writing a response as HTTP/1.x (RFC 9112).

use crate::logic::id::write_decimal;

use super::{Body, Cors, Response};

/// What a response's bytes depend on beside the response: the request's version and method, and the connection. The
/// default is that of a request that could not be read, after which the connection closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Whether the connection stays open afterwards.
    pub keep_alive: bool,
    /// Whether the request came as HTTP/1.1.
    pub is_http_1_1: bool,
    /// Whether the body is left out, as in the answer to HEAD.
    pub head_only: bool,
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

/// Appends a response.
pub fn encode(response: &Response<'_>, exchange: &Exchange, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(response.status.into(), out);
    out.push(b' ');
    out.extend_from_slice(phrase(response.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if response.body == Body::WebSocket {
        out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\n");
    }
    write_cors(response.cors, out);
    for (name, value) in &response.fields {
        write_field(name, value, out);
    }
    match &response.body {
        Body::WebSocket => {}
        Body::None => write_connection(exchange, out),
        Body::Whole { content_type, bytes } => {
            write_field("Content-Type", content_type, out);
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(bytes.len() as u64, out);
            out.extend_from_slice(b"\r\nCache-Control: no-store\r\n");
            write_connection(exchange, out);
        }
        Body::Events => write_events_fields(exchange, out),
    }
    out.extend_from_slice(b"\r\n");
    match &response.body {
        Body::Whole { bytes, .. } if !exchange.head_only => out.extend_from_slice(bytes),
        _ => {}
    }
}

fn write_field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_cors(cors: Cors<'_>, out: &mut Vec<u8>) {
    match cors {
        Cors::None => {}
        Cors::Varies => out.extend_from_slice(b"Vary: Origin\r\n"),
        Cors::Any => out.extend_from_slice(b"Access-Control-Allow-Origin: *\r\n"),
        Cors::Origin(origin) => {
            write_field("Access-Control-Allow-Origin", origin, out);
            out.extend_from_slice(b"Access-Control-Allow-Credentials: true\r\nVary: Origin\r\n");
        }
    }
}

/// Says whether the connection is kept, where that is not the version's default (RFC 9112 §9.3).
fn write_connection(exchange: &Exchange, out: &mut Vec<u8>) {
    if !exchange.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if !exchange.is_http_1_1 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
}

/// The fields of an event stream: chunked in HTTP/1.1, ended by the connection's end in 1.0.
fn write_events_fields(exchange: &Exchange, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\n");
    // nginx would collect the stream in its buffer otherwise.
    out.extend_from_slice(b"X-Accel-Buffering: no\r\n");
    if exchange.is_http_1_1 {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    let is_kept = exchange.is_http_1_1 && exchange.keep_alive;
    out.extend_from_slice(if is_kept { b"Connection: keep-alive\r\n" } else { b"Connection: close\r\n" });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::code::Code;
    use crate::logic::protocol::http::{self, Reject, ResponseHeaders};
    use crate::logic::refusal::Refusal;

    const NEW: Exchange = Exchange { keep_alive: true, is_http_1_1: true, head_only: false };

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
    }

    /// Every response has the bytes that the old writers write.
    #[test]
    fn against_the_old_writers() {
        let old = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let all = [Cors::None, Cors::Varies, Cors::Any, Cors::Origin("https://a.example")];
        for (bits, cors) in (0..8).flat_map(|bits| all.map(|cors| (bits, cors))) {
            let exchange = Exchange { keep_alive: bits & 1 > 0, is_http_1_1: bits & 2 > 0, head_only: bits & 4 > 0 };
            let Exchange { keep_alive, is_http_1_1, head_only } = exchange;
            let headers = ResponseHeaders { keep_alive, is_http_1_1, cors, head_only };
            let new = |response: Response<'_>| text(&response, &exchange);
            for code in Code::ALL.iter().filter(|code| ![410, 415].contains(&code.status())) {
                for seconds in [None, Some(7)] {
                    let reject = Reject {
                        retry_after_secs: seconds,
                        ..Reject::new(code.status(), code.name(), "what \"is\" wrong\n")
                    };
                    let refusal = Refusal { retry_after_secs: seconds, ..Refusal::new(*code, "what \"is\" wrong\n") };
                    assert_eq!(
                        new(Response::refusal(&refusal).with_cors(cors)),
                        old(&|out| http::write_error(out, &reject, &headers))
                    );
                }
            }
            let body = &b"{\"a\":1}"[..];
            assert_eq!(new(Response::json(body).with_cors(cors)), old(&|out| http::write_json(out, body, &headers)));
            assert_eq!(new(Response::html(body).with_cors(cors)), old(&|out| http::write_html(out, body, &headers)));
            let text = old(&|out| http::write_text(out, 200, body, &headers));
            assert_eq!(new(Response::text(body).with_cors(cors)), text);
            assert_eq!(new(Response::events().with_cors(cors)), old(&|out| http::write_sse_head(out, &headers)));
            for names in [None, Some("x-a, x-b"), Some("x\u{e9}")] {
                let preflight = old(&|out| http::write_preflight(out, names, &headers));
                assert_eq!(new(Response::preflight(names, cors)), preflight);
            }
        }
        for protocol in [None, Some("ringcast.v1")] {
            let switching = old(&|out| http::write_ws_head(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", protocol));
            assert_eq!(text(&Response::websocket("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", protocol), &NEW), switching);
        }
    }
}
