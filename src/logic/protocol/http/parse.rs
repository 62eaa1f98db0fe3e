//! Reading a request's head. A head that two parsers could read differently is refused, because request smuggling lives
//! on that difference (RFC 9112 §11.2).

use std::mem::MaybeUninit;

use crate::logic::code::Code;
use crate::logic::refusal::Refusal;

use super::{Method, Request};

/// The limits of a request's head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of request line and header fields together.
    pub head_bytes_max: usize,
    /// The number of header fields, [`FIELDS_MAX`] at most.
    pub fields_max: usize,
}

/// The most header fields that a limit may allow. A list of so many lies on the stack while a head is read.
pub const FIELDS_MAX: usize = 256;

/// What the bytes so far are.
// The value lives on the stack while the request is answered, so its size costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Parsed<'a> {
    /// The beginning of a head.
    Partial,
    /// A whole head.
    Complete {
        /// The request.
        request: Request<'a>,
        /// The bytes that the head took; the next request starts after them.
        consumed: usize,
    },
    /// No acceptable head. The bytes after it cannot be trusted.
    Rejected(Refusal),
}

/// Reads one head from the beginning of `bytes`.
pub fn parse<'a>(bytes: &'a [u8], limits: &HeadLimits) -> Parsed<'a> {
    // Empty lines before a request are skipped (RFC 9112 §2.2).
    let mut skipped = 0;
    while bytes[skipped..].starts_with(b"\r\n") && skipped < 8 {
        skipped += 2;
    }
    let head = &bytes[skipped..];
    match head.first() {
        Some(0x16) => return Parsed::Rejected(bad("this port speaks plain HTTP, not TLS")),
        Some(byte) if !byte.is_ascii_graphic() && *byte != b'\r' => {
            return Parsed::Rejected(bad("this is no HTTP request"));
        }
        _ => {}
    }
    if head.starts_with(b"PRI * HTTP/2.0") {
        let message = "this address speaks HTTP/1.1 and HTTP/1.0 only; see [http2] cleartext";
        return Parsed::Rejected(Refusal::fatal(Code::Version, message));
    }
    let end = match memchr::memmem::find(head, b"\r\n\r\n") {
        Some(at) if at + 4 <= limits.head_bytes_max => at + 4,
        None if head.len() < limits.head_bytes_max => {
            return early_error(head).map_or(Parsed::Partial, Parsed::Rejected);
        }
        _ => return Parsed::Rejected(too_long(&head[..limits.head_bytes_max], limits)),
    };
    match read_head(&head[..end], limits) {
        Ok(request) => Parsed::Complete { request, consumed: skipped + end },
        Err(refusal) => Parsed::Rejected(refusal),
    }
}

fn bad(message: &'static str) -> Refusal {
    Refusal::fatal(Code::BadRequest, message)
}

fn too_long(head: &[u8], limits: &HeadLimits) -> Refusal {
    let limit = limits.head_bytes_max;
    if memchr::memchr(b'\n', head).is_none() {
        return Refusal::fatal(Code::UriTooLong, format!("the request line is longer than {limit} bytes"));
    }
    Refusal::fatal(Code::HeadersTooLong, format!("the request's headers are longer than {limit} bytes"))
}

/// The error of a head that is not complete yet, if there is one already.
fn early_error(head: &[u8]) -> Option<Refusal> {
    has_bare_newline(head).then(|| bad("lines must end with CR LF"))
}

fn has_bare_newline(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r')
}

fn read_head<'a>(head: &'a [u8], limits: &HeadLimits) -> Result<Request<'a>, Refusal> {
    if has_bare_newline(head) {
        return Err(bad("lines must end with CR LF"));
    }
    let fields_max = limits.fields_max.min(FIELDS_MAX);
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut fields[..fields_max]) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(bad("the request's head is malformed")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::fatal(
                Code::HeadersTooMany,
                format!("there are more than {fields_max} header fields"),
            ));
        }
        Err(httparse::Error::Version) if !has_version(head) => return Err(bad("the request line is malformed")),
        Err(httparse::Error::Version) => {
            return Err(Refusal::fatal(Code::Version, "this server speaks HTTP/1.1 and HTTP/1.0 only"));
        }
        Err(error) => {
            return Err(Refusal::fatal(Code::BadRequest, format!("the request's head is malformed: {error}")));
        }
    }
    let method = match parsed.method.unwrap_or_default() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        _ => Method::Other,
    };
    let is_http_1_1 = parsed.version == Some(1);
    let target = read_target(parsed.path.unwrap_or_default(), method)?;
    let mut reader = Fields::default();
    for field in parsed.headers.iter() {
        reader.read(field)?;
    }
    reader.finish(method, target, is_http_1_1)
}

/// Whether the request line has a version (RFC 9112 §2.3), also one that the server does not speak.
fn has_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let version = words.nth(2).and_then(|version| version.strip_prefix(b"HTTP/"));
    let is_version = matches!(version, Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit());
    is_version && words.next().is_none()
}

struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: &'a str,
}

/// Reads a target in its forms (RFC 9112 §3.2): `/path?query`, `http://host/path?query`, and `*` for OPTIONS.
fn read_target(target: &str, method: Method) -> Result<Target<'_>, Refusal> {
    if target == "*" && method == Method::Options {
        return Ok(Target { authority: None, path: "*", query: "" });
    }
    let (authority, rest) = match target.split_once("://") {
        _ if target.starts_with('/') => (None, target),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        _ => return Err(bad("the request's target must be a path or an absolute http URL")),
    };
    if authority.is_some_and(|host| !is_host(host)) || target.contains('#') || !target.is_ascii() {
        return Err(bad("the request's target is malformed"));
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok(Target { authority, path: if path.is_empty() { "/" } else { path }, query })
}

/// Whether the text is `name`, `name:port` or `[v6]:port` (RFC 3986 §3.2.2).
fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if is_v6(address) => match rest {
            "" => return true,
            rest => ("v6", rest.strip_prefix(':')),
        },
        _ => host.split_once(':').map_or((host, Some("")), |(name, port)| (name, Some(port))),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte);
    !name.is_empty()
        && name.bytes().all(is_name)
        && port.is_some_and(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether the text has the characters of an IPv6 address. The server never connects to it, so that is enough.
fn is_v6(address: &str) -> bool {
    address.contains(':') && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.')
}

/// Takes a field that must not be repeated, because two parsers could take two different values of it.
fn set_once<'a>(field: &mut Option<&'a str>, value: &'a str) -> Result<(), Refusal> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad("Origin, Authorization and Sec-WebSocket-Key must not be repeated")),
    }
}

#[derive(Default)]
struct Fields<'a> {
    hosts: usize,
    host: &'a str,
    connection_close: bool,
    connection_keep_alive: bool,
    connection_upgrade: bool,
    upgrade_websocket: bool,
    content_length: Option<u64>,
    origin: Option<&'a str>,
    user_agent: Option<&'a str>,
    last_event_id: Option<&'a str>,
    accepts_event_stream: bool,
    ws_key: Option<&'a str>,
    ws_version: Option<&'a str>,
    ws_protocols: Vec<&'a str>,
    authorization: Option<&'a str>,
    cookies: Vec<&'a str>,
    forwarded: Vec<&'a str>,
    forwarded_for: Vec<&'a str>,
    request_headers: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn read(&mut self, field: &httparse::Header<'a>) -> Result<(), Refusal> {
        let name = field.name;
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // Only fields that the server looks at must be text.
        // White space in HTTP is space and tab (RFC 9110 §5.6.3); trimming Unicode's would read a field differently from
        // other parsers.
        let value = std::str::from_utf8(field.value).map(|text| text.trim_matches([' ', '\t']));
        let text = || value.map_err(|_| Refusal::fatal(Code::BadRequest, format!("the field {name} is no text")));
        if is("host") {
            self.hosts += 1;
            self.host = text()?;
        } else if is("connection") {
            for word in text()?.split(',').map(str::trim) {
                self.connection_close |= word.eq_ignore_ascii_case("close");
                self.connection_keep_alive |= word.eq_ignore_ascii_case("keep-alive");
                self.connection_upgrade |= word.eq_ignore_ascii_case("upgrade");
            }
        } else if is("upgrade") {
            self.upgrade_websocket |= text()?.split(',').any(|word| word.trim().eq_ignore_ascii_case("websocket"));
        } else if is("transfer-encoding") {
            return Err(bad("requests to this server have no body, and so no Transfer-Encoding"));
        } else if is("content-length") {
            self.read_content_length(text()?)?;
        } else if is("accept") {
            self.accepts_event_stream |= text()?.split(',').any(is_event_stream);
        } else if is("origin") {
            set_once(&mut self.origin, text()?)?;
        } else if is("user-agent") {
            self.user_agent = value.ok();
        } else if is("last-event-id") {
            self.last_event_id = Some(text()?).filter(|text| !text.is_empty());
        } else if is("sec-websocket-key") {
            set_once(&mut self.ws_key, text()?)?;
        } else if is("sec-websocket-version") {
            self.ws_version = Some(text()?);
        } else if is("sec-websocket-protocol") {
            self.ws_protocols.push(text()?);
        } else if is("authorization") {
            set_once(&mut self.authorization, text()?)?;
        } else if is("cookie") {
            self.cookies.push(text()?);
        } else if is("forwarded") {
            self.forwarded.push(text()?);
        } else if is("x-forwarded-for") {
            self.forwarded_for.push(text()?);
        } else if is("access-control-request-headers") {
            self.request_headers = Some(text()?);
        }
        Ok(())
    }

    fn read_content_length(&mut self, text: &str) -> Result<(), Refusal> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let length = text.parse().ok().filter(|_| is_number).ok_or_else(|| bad("Content-Length is no number"))?;
        if self.content_length.is_some_and(|other| other != length) {
            return Err(bad("there are two different Content-Length fields"));
        }
        self.content_length = Some(length);
        Ok(())
    }

    fn finish(self, method: Method, target: Target<'a>, is_http_1_1: bool) -> Result<Request<'a>, Refusal> {
        if self.hosts > 1 || (is_http_1_1 && self.hosts == 0) {
            return Err(bad("a request must have exactly one Host field"));
        }
        if self.hosts == 1 && !self.host.is_empty() && !is_host(self.host) {
            return Err(bad("the Host field is malformed"));
        }
        if self.content_length.is_some_and(|length| length > 0) {
            return Err(Refusal::fatal(Code::Body, "requests to this server have no body"));
        }
        Ok(Request {
            method,
            path: target.path,
            query: target.query,
            is_http_1_1,
            is_http_2: false,
            keep_alive: !self.connection_close && (is_http_1_1 || self.connection_keep_alive),
            host: target.authority.or((self.hosts == 1).then_some(self.host)),
            origin: self.origin,
            user_agent: self.user_agent,
            last_event_id: self.last_event_id,
            accepts_event_stream: self.accepts_event_stream,
            wants_websocket: self.upgrade_websocket && self.connection_upgrade,
            ws_key: self.ws_key,
            ws_version: self.ws_version,
            ws_protocols: self.ws_protocols,
            authorization: self.authorization,
            cookies: self.cookies,
            forwarded: self.forwarded,
            forwarded_for: self.forwarded_for,
            request_headers: self.request_headers,
        })
    }
}

/// Whether a media range asks for an event stream; a weight of zero refuses it (RFC 9110 §12.4.2).
fn is_event_stream(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("text/event-stream"));
    let weight = |part: &str| {
        part.split_once('=')
            .filter(|(name, _)| name.eq_ignore_ascii_case("q"))
            .map(|(_, q)| q == "0" || q.starts_with("0.") && q[2..].bytes().all(|b| b == b'0'))
    };
    is_it && !parts.any(|part| weight(part) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_of_zero_is_a_refusal() {
        for (range, wanted) in [
            ("text/event-stream", true),
            (" Text/Event-Stream ; charset=utf-8; q=0.001", true),
            ("text/event-stream;q=0", false),
            ("text/event-stream; Q=0.000", false),
            ("text/*;q=1", false),
            ("text/event-stream;x=0;q=0.5", true),
        ] {
            assert_eq!(is_event_stream(range), wanted, "{range}");
        }
    }
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 8192, fields_max: 64 };

    fn status(text: &str) -> u16 {
        match parse(text.as_bytes(), &LIMITS) {
            Parsed::Partial => 0,
            Parsed::Complete { .. } => 200,
            Parsed::Rejected(refusal) => refusal.code.status(),
        }
    }

    fn whole(text: &str) -> Request<'_> {
        match parse(text.as_bytes(), &LIMITS) {
            Parsed::Complete { request, consumed } => {
                assert_eq!(consumed, text.len());
                request
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_what_the_server_looks_at() {
        let request = whole(
            "GET /sse?channel=a HTTP/1.1\r\nhost: x:1\r\nACCEPT: text/html, text/event-stream;q=0.5\r\n\
             Last-Event-ID: 5-1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nUser-Agent: t\r\n\r\n",
        );
        assert_eq!((request.path, request.query, request.host), ("/sse", "channel=a", Some("x:1")));
        assert!(request.keep_alive && request.accepts_event_stream && request.wants_websocket);
        assert_eq!((request.last_event_id, request.user_agent), (Some("5-1"), Some("t")));
        let absolute = whole("GET http://other/poll?x HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!((absolute.path, absolute.query, absolute.host), ("/poll", "x", Some("other")));
        assert_eq!(whole("GET http://other HTTP/1.1\r\nHost: x\r\n\r\n").path, "/");
        assert!(!whole("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(whole("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
        assert_eq!(whole("\r\nOPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").path, "*");
    }

    #[test]
    fn each_field_is_found_in_the_request() {
        let request = whole(
            "GET / HTTP/1.1\r\nHost: x\r\nOrigin: http://o\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\nAuthorization: Bearer t\r\nCookie: d=1\r\nCookie: e=2\r\n\
             Forwarded: for=f\r\nForwarded: for=g\r\nX-Forwarded-For: h, i\r\nX-Forwarded-For: j\r\n\
             Access-Control-Request-Headers: l\r\nLast-Event-ID: \r\n\r\n",
        );
        assert_eq!((request.origin, request.authorization), (Some("http://o"), Some("Bearer t")));
        assert_eq!(
            (request.ws_key, request.ws_version, request.ws_protocols),
            (Some("k"), Some("13"), vec!["a, b", "c"])
        );
        assert_eq!((request.cookies, request.forwarded), (vec!["d=1", "e=2"], vec!["for=f", "for=g"]));
        assert_eq!((request.forwarded_for, request.request_headers), (vec!["h, i", "j"], Some("l")));
        assert_eq!((request.last_event_id, request.user_agent, request.accepts_event_stream), (None, None, false));
        assert_eq!(
            ["GET", "HEAD", "OPTIONS", "PUT"]
                .map(|method| { whole(&format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n")).method }),
            [Method::Get, Method::Head, Method::Options, Method::Other]
        );
    }

    #[test]
    fn a_field_may_be_repeated_and_its_words_are_joined() {
        for (version, fields, keep_alive, wants_websocket) in [
            ("1.1", "", true, false),
            ("1.0", "", false, false),
            ("1.1", "Connection: close\r\n", false, false),
            ("1.1", "Connection: close, CLOSE\r\nConnection: keep-alive\r\n", false, false),
            ("1.0", "Connection: Keep-Alive, keep-alive\r\nConnection: x\r\n", true, false),
            (
                "1.1",
                "Connection: upgrade, Upgrade\r\nConnection: x\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
                true,
                true,
            ),
            ("1.1", "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n", true, true),
            ("1.1", "Connection: upgrade\r\n", true, false),
            ("1.1", "Upgrade: websocket\r\n", true, false),
        ] {
            let text = format!("GET / HTTP/{version}\r\nHost: x\r\n{fields}\r\n");
            let request = whole(&text);
            assert_eq!(request.is_http_1_1, version == "1.1");
            assert_eq!((request.keep_alive, request.wants_websocket), (keep_alive, wants_websocket), "{text}");
        }
        let accepts = |ranges: &str| whole(&format!("GET / HTTP/1.1\r\nHost: x\r\n{ranges}\r\n")).accepts_event_stream;
        assert!(accepts("Accept: text/event-stream\r\nAccept: text/event-stream\r\nAccept: a/b\r\n"));
        assert_eq!(whole("GET / HTTP/1.0\r\n\r\n").host, None);
    }

    #[test]
    fn targets_have_three_forms() {
        let target = |target: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            match parse(text.as_bytes(), &LIMITS) {
                Parsed::Complete { request, .. } => {
                    Some([request.host.unwrap_or_default(), request.path, request.query].map(str::to_owned))
                }
                _ => None,
            }
        };
        for (text, expected) in [
            ("/a?b?c", ["x", "/a", "b?c"]),
            ("/http://y", ["x", "/http://y", ""]),
            ("http://y:1/a", ["y:1", "/a", ""]),
            ("HTTPS://y?b", ["y", "/", "b"]),
            ("http://[::1]:8/", ["[::1]:8", "/", ""]),
        ] {
            assert_eq!(target(text), Some(expected.map(str::to_owned)), "{text}");
        }
        for text in ["ftp://y/", "http://:80/", "http://a@b/", "/a#b", "/ü", "a://", "y:80"] {
            assert_eq!(target(text), None, "{text}");
        }
    }

    #[test]
    fn a_few_empty_lines_may_come_first() {
        let statuses = [0, 1, 4, 5, 6].map(|lines| status(&format!("{}GET / HTTP/1.0\r\n\r\n", "\r\n".repeat(lines))));
        assert_eq!(statuses, [200, 200, 200, 200, 400]);
    }

    #[test]
    fn refuses_what_parsers_disagree_about() {
        let with = |fields: &str| format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        for fields in [
            "Transfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 0\r\nContent-Length: 1\r\n",
            "Content-Length: +0\r\n",
            "Content-Length: 0, 0\r\n",
            "Content-Length: -1\r\n",
            "X : y\r\n",
            " folded: y\r\n",
            "X: a\r\n b\r\n",
            "X: a\0b\r\n",
            "X: a\nY: b\r\n",
            "Content-Length: 0\r\nContent-Length: 0x\r\n",
            "Host: y\r\n",
            "Content-Length: \u{a0}0\r\n",
            "Origin: http://a\r\nOrigin: http://b\r\n",
            "Authorization: a\r\nAuthorization: b\r\n",
            "Sec-WebSocket-Key: a\r\nSec-WebSocket-Key: b\r\n",
        ] {
            assert_eq!(status(&with(fields)), 400, "{fields:?}");
        }
        assert_eq!(status(&with("Content-Length: 5\r\n")), 413);
        assert_eq!(status(&with("Content-Length: 0\r\n")), 200);
        assert_eq!(status(&with("Content-Length: 0\r\nContent-Length: 00\r\n")), 200);
        assert_eq!(status("GET / HTTP/1.1\nHost: x\r\n"), 400, "before the head is whole");
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/x.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.x\r\nHost: x\r\n\r\n",
            "GET / HTTP/2.0 x\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET foo HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "\x16\x03\x01",
            "\0",
        ] {
            assert_eq!(status(head), 400, "{head:?}");
        }
        assert_eq!(status("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
        assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    }

    #[test]
    fn hosts_are_well_formed() {
        let with = |host: &str| status(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        for host in ["x", "x:12345", "127.0.0.1:8080", "[::1]", "[::1]:80", "[::f:1.2.3.4]", "a-b.example", ""] {
            assert_eq!(with(host), 200, "{host}");
        }
        for host in [":80", "x:y", "x:1:2", "x:123456", "[::1", "[x]", "[1]", "[::g]", "[::1]80", "a[b]", "\u{2003}x"] {
            assert_eq!(with(host), 400, "{host}");
        }
    }

    #[test]
    fn a_client_that_speaks_another_protocol_is_told_so() {
        let told = |bytes: &[u8]| match parse(bytes, &LIMITS) {
            Parsed::Rejected(refusal) => refusal.message.into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(b"\x16\x03\x01"), "this port speaks plain HTTP, not TLS");
        assert_eq!(told(b"\x17"), "this is no HTTP request");
        let not_here = "this address speaks HTTP/1.1 and HTTP/1.0 only; see [http2] cleartext";
        assert_eq!(told(b"PRI * HTTP/2.0"), not_here);
    }

    #[test]
    fn bounds_are_told_apart() {
        assert_eq!(status(&format!("GET /{}", "x".repeat(9000))), 414);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(9000))), 431);
        let head = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let parsed = |bytes: usize, head_bytes_max| match parse(
            &head.as_bytes()[..bytes],
            &HeadLimits { head_bytes_max, ..LIMITS },
        ) {
            Parsed::Partial => 0,
            Parsed::Complete { consumed, .. } => consumed as u16,
            Parsed::Rejected(refusal) => refusal.code.status(),
        };
        assert_eq!([(27, 27), (27, 26), (26, 27), (26, 26)].map(|(bytes, max)| parsed(bytes, max)), [27, 431, 0, 431]);
        let many: String = (0..70).map(|i| format!("X{i}: y\r\n")).collect();
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n")), 431);
    }

    proptest! {
        #[test]
        fn any_fragmentation_reads_the_same(cut in 0usize..90) {
            let text = "GET /poll?channel=a&after=1-0 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: proptest\r\nA: b\r\n\r\n";
            let cut = cut.min(text.len() - 1);
            prop_assert!(matches!(parse(&text.as_bytes()[..cut], &LIMITS), Parsed::Partial));
            prop_assert_eq!(whole(text).query, "channel=a&after=1-0");
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes, &LIMITS);
            let mut near = b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec();
            near.extend(bytes);
            near.extend(b"\r\n\r\n");
            parse(&near, &LIMITS);
        }
    }
}
