//! A request's fields, checked (RFC 9113 §8.2 and §8.3) and written as the head of an HTTP/1.1 request, which
//! [`parse`](crate::logic::protocol::http::parse) reads. What could make two requests of one head is refused before.

use super::error::ErrorCode;
use super::hpack::Sink;

/// The most fields of a list, with each part of a cookie counted.
const FIELDS_MAX: usize = 128;
/// The most bytes of a list, in which each field costs 32 beside its own (RFC 9113 §6.5.2).
const LIST_MAX: usize = 32 * 1024;
const FIELD_COST: usize = 32;

/// Fields of one hop, which HTTP/2 does not have (RFC 9113 §8.2.2).
const OF_A_HOP: [&[u8]; 5] = [b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"];

/// The head of one request. Its memory is used again for the next one.
#[derive(Debug, Default)]
pub struct Head {
    method: Vec<u8>,
    path: Vec<u8>,
    authority: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    scheme: Option<Vec<u8>>,
    protocol: Option<Vec<u8>>,
    fields: Vec<u8>,
    /// `Content-Length`, if there is one that is a number.
    length: Option<u64>,
    count: usize,
    list: usize,
    /// A field of the ordinary kind has come, after which no pseudo-field may.
    has_fields: bool,
    text: Vec<u8>,
}

const BAD: ErrorCode = ErrorCode::Protocol;

fn is_token(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a pseudo-field's value can stand in a request line or in `Host`.
fn is_word(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
}

fn set_once(field: &mut Option<Vec<u8>>, value: &[u8]) -> Result<(), ErrorCode> {
    match field.replace(value.to_vec()) {
        None => Ok(()),
        Some(_) => Err(BAD),
    }
}

impl Head {
    /// The text of the head that was finished last.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The memory that the head holds.
    pub fn memory_bytes(&self) -> usize {
        self.fields.capacity() + self.text.capacity()
    }

    pub(super) fn clear(&mut self) {
        let (mut fields, mut text) = (std::mem::take(&mut self.fields), std::mem::take(&mut self.text));
        fields.clear();
        text.clear();
        *self = Head { fields, text, ..Head::default() };
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), ErrorCode> {
        if self.has_fields || !is_word(value) {
            return Err(BAD);
        }
        match name {
            b":method" if self.method.is_empty() => self.method.extend_from_slice(value),
            b":path" if self.path.is_empty() => self.path.extend_from_slice(value),
            b":scheme" => set_once(&mut self.scheme, value)?,
            b":authority" => set_once(&mut self.authority, value)?,
            b":protocol" => set_once(&mut self.protocol, value)?,
            _ => return Err(BAD),
        }
        Ok(())
    }

    /// Writes the text of the head whose fields have all come. `ends`: no body follows.
    ///
    /// # Errors
    /// If the request is malformed (RFC 9113 §8.1.1).
    pub(super) fn finish(&mut self, ends: bool) -> Result<(), ErrorCode> {
        let is_connect = self.method == b"CONNECT";
        let is_extended = self.protocol.is_some();
        // A plain CONNECT has neither scheme nor path (RFC 9113 §8.5); with a protocol it has both (RFC 8441 §4).
        let has_target = self.scheme.is_some() && !self.path.is_empty();
        let is_whole = match (is_connect, is_extended) {
            (true, false) => self.scheme.is_none() && self.path.is_empty() && self.authority.is_some(),
            (true, true) => has_target && self.authority.is_some(),
            (false, true) => false,
            (false, false) => has_target && !self.method.is_empty(),
        };
        let is_path =
            self.path.first().is_none_or(|first| *first == b'/') || self.path == b"*" && self.method == b"OPTIONS";
        if !is_whole || !is_path || ends && self.length.is_some_and(|length| length > 0) {
            return Err(BAD);
        }
        let host = match (self.authority.take(), self.host.take()) {
            (Some(authority), Some(host)) if authority != host => return Err(BAD),
            (authority, host) => authority.or(host),
        };
        let is_websocket = self.protocol.as_deref() == Some(b"websocket");
        let text = &mut self.text;
        text.extend_from_slice(if is_websocket { b"GET" } else { &self.method });
        text.push(b' ');
        text.extend_from_slice(if self.path.is_empty() { b"/" } else { &self.path });
        text.extend_from_slice(b" HTTP/1.1\r\n");
        if let Some(host) = host {
            write_field(b"host", &host, text);
        }
        if is_websocket {
            text.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        text.extend_from_slice(&self.fields);
        text.extend_from_slice(b"\r\n");
        Ok(())
    }
}

fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Checks that a field can be one (RFC 9113 §8.2.1).
fn check(name: &[u8], value: &[u8]) -> Result<(), ErrorCode> {
    let word = name.strip_prefix(b":").unwrap_or(name);
    let is_name = !word.is_empty() && word.iter().all(|byte| is_token(*byte));
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let has_break = value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
    let is_value = !has_break && !is_blank(value.first()) && !is_blank(value.last());
    let is_of_a_hop = OF_A_HOP.contains(&name) || name == b"te" && !value.eq_ignore_ascii_case(b"trailers");
    if is_name && is_value && !is_of_a_hop { Ok(()) } else { Err(BAD) }
}

impl Sink for Head {
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ErrorCode> {
        self.count += 1;
        self.list += name.len() + value.len() + FIELD_COST;
        if self.count > FIELDS_MAX || self.list > LIST_MAX {
            return Err(ErrorCode::EnhanceYourCalm);
        }
        check(name, value)?;
        if name[0] == b':' {
            return self.pseudo(name, value);
        }
        self.has_fields = true;
        match name {
            b"host" => return set_once(&mut self.host, value),
            b"content-length" => {
                self.length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            }
            _ => {}
        }
        write_field(name, value, &mut self.fields);
        Ok(())
    }
}

/// Fields after a body, which are thrown away.
#[derive(Debug, Default)]
pub(super) struct Trailers {
    count: usize,
    list: usize,
}

impl Sink for Trailers {
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ErrorCode> {
        self.count += 1;
        self.list += name.len() + value.len() + FIELD_COST;
        if self.count > FIELDS_MAX || self.list > LIST_MAX {
            return Err(ErrorCode::EnhanceYourCalm);
        }
        check(name, value)?;
        if name[0] == b':' { Err(BAD) } else { Ok(()) }
    }
}
