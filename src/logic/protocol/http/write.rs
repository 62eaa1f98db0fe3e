//! Writing answers.

use crate::logic::id::write_decimal;
use crate::logic::json;

use super::{Cors, Reject};

/// What every answer says beside its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseHeaders<'a> {
    /// Whether the connection stays open afterwards.
    pub keep_alive: bool,
    /// Whether the request came as HTTP/1.1.
    pub is_http_1_1: bool,
    /// Which other sites' pages may read it.
    pub cors: Cors<'a>,
    /// Whether to leave out the body: the answer to HEAD.
    pub head_only: bool,
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

fn write_start(out: &mut Vec<u8>, status: u16, headers: &ResponseHeaders<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(status.into(), out);
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    match headers.cors {
        Cors::None => {}
        Cors::Varies => out.extend_from_slice(b"Vary: Origin\r\n"),
        Cors::Any => out.extend_from_slice(b"Access-Control-Allow-Origin: *\r\n"),
        Cors::Origin(origin) => {
            write_field(out, "Access-Control-Allow-Origin", origin);
            out.extend_from_slice(b"Access-Control-Allow-Credentials: true\r\nVary: Origin\r\n");
        }
    }
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_connection(out: &mut Vec<u8>, headers: &ResponseHeaders<'_>) {
    if !headers.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if !headers.is_http_1_1 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
}

fn write_body(out: &mut Vec<u8>, content_type: &str, body: &[u8], headers: &ResponseHeaders<'_>) {
    write_field(out, "Content-Type", content_type);
    out.extend_from_slice(b"Content-Length: ");
    write_decimal(body.len() as u64, out);
    out.extend_from_slice(b"\r\nCache-Control: no-store\r\n");
    write_connection(out, headers);
    out.extend_from_slice(b"\r\n");
    if !headers.head_only {
        out.extend_from_slice(body);
    }
}

/// Appends an error with its one-line JSON body.
pub fn write_error(out: &mut Vec<u8>, reject: &Reject, headers: &ResponseHeaders<'_>) {
    write_start(out, reject.status, headers);
    if let Some(seconds) = reject.retry_after_secs {
        out.extend_from_slice(b"Retry-After: ");
        write_decimal(seconds.into(), out);
        out.extend_from_slice(b"\r\n");
    }
    match reject.status {
        401 if reject.code == "unauthorized" => write_field(out, "WWW-Authenticate", "Bearer"),
        // RFC 6750 §3.1
        401 => write_field(out, "WWW-Authenticate", "Bearer error=\"invalid_token\""),
        405 => write_field(out, "Allow", "GET, HEAD, OPTIONS"),
        426 => {
            // `Upgrade` is a hop's own field and must be named as such (RFC 9110 §7.8).
            out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        }
        _ => {}
    }
    let mut body = b"{".to_vec();
    json::write_error(reject.code, &reject.message, &[], &mut body);
    body.extend_from_slice(b"}\n");
    write_body(out, "application/json", &body, headers);
}

/// Appends an answer whose body is JSON.
pub fn write_json(out: &mut Vec<u8>, body: &[u8], headers: &ResponseHeaders<'_>) {
    write_start(out, 200, headers);
    write_body(out, "application/json", body, headers);
}

/// Appends an answer whose body is a page.
pub fn write_html(out: &mut Vec<u8>, body: &[u8], headers: &ResponseHeaders<'_>) {
    write_start(out, 200, headers);
    write_body(out, "text/html; charset=utf-8", body, headers);
}

/// Appends an answer whose body is plain text.
pub fn write_text(out: &mut Vec<u8>, status: u16, body: &[u8], headers: &ResponseHeaders<'_>) {
    write_start(out, status, headers);
    write_body(out, "text/plain; charset=utf-8", body, headers);
}

/// Appends the head of an event stream: chunked in HTTP/1.1, ended by the connection's end in 1.0.
pub fn write_sse_head(out: &mut Vec<u8>, headers: &ResponseHeaders<'_>) {
    write_start(out, 200, headers);
    out.extend_from_slice(b"Content-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\n");
    // nginx would collect the stream in its buffer otherwise.
    out.extend_from_slice(b"X-Accel-Buffering: no\r\n");
    if headers.is_http_1_1 {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    let is_kept = headers.is_http_1_1 && headers.keep_alive;
    out.extend_from_slice(if is_kept { b"Connection: keep-alive\r\n" } else { b"Connection: close\r\n" });
    out.extend_from_slice(b"\r\n");
}

/// Appends the head that makes the connection a WebSocket (RFC 6455 §4.2.2).
pub fn write_ws_head(out: &mut Vec<u8>, accept: &str, protocol: Option<&str>) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    write_field(out, "Sec-WebSocket-Accept", accept);
    if let Some(protocol) = protocol {
        write_field(out, "Sec-WebSocket-Protocol", protocol);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the answer to a CORS preflight (or any OPTIONS).
pub fn write_preflight(out: &mut Vec<u8>, request_headers: Option<&str>, headers: &ResponseHeaders<'_>) {
    write_start(out, 204, headers);
    write_field(out, "Allow", "GET, HEAD, OPTIONS");
    if headers.cors != Cors::None {
        write_field(out, "Access-Control-Allow-Methods", "GET, HEAD, OPTIONS");
        if let Some(names) =
            request_headers.filter(|names| names.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
        {
            write_field(out, "Access-Control-Allow-Headers", names);
        }
        write_field(out, "Access-Control-Max-Age", "86400");
    }
    write_connection(out, headers);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn errors_say_what_and_when() {
        let headers = ResponseHeaders { is_http_1_1: true, ..ResponseHeaders::default() };
        let reject = Reject::new(503, "full", "no \"room\"").retry_after(3);
        let answer = text(|out| write_error(out, &reject, &headers));
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\n"), "{answer}");
        assert!(answer.contains("Connection: close\r\n"));
        assert!(answer.ends_with("\r\n\r\n{\"error\":{\"code\":\"full\",\"message\":\"no \\\"room\\\"\"}}\n"));
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert!(answer.contains(&format!("Content-Length: {}\r\n", body.len())));
    }

    #[test]
    fn a_head_has_no_body() {
        let headers = ResponseHeaders { keep_alive: true, is_http_1_1: true, head_only: true, cors: Cors::Any };
        let answer = text(|out| write_json(out, b"{}", &headers));
        assert!(answer.ends_with("Cache-Control: no-store\r\n\r\n"));
        assert!(answer.contains("Content-Length: 2\r\n") && answer.contains("Access-Control-Allow-Origin: *\r\n"));
    }

    #[test]
    fn streams_are_chunked_only_where_the_client_knows_chunks() {
        let headers = ResponseHeaders { is_http_1_1: true, ..ResponseHeaders::default() };
        assert!(text(|out| write_sse_head(out, &headers)).contains("Transfer-Encoding: chunked"));
        let old = ResponseHeaders::default();
        assert!(!text(|out| write_sse_head(out, &old)).contains("chunked"));
    }
}
