//! Reading the head of a response (RFC 9112 §4), for the clients of this crate.

use std::time::Duration;

/// How long a response's head may be, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How many fields a response's head may have.
const FIELDS_MAX: usize = 64;

/// A response's status and the fields that clients look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// Whether the body is sent in chunks (`Transfer-Encoding`).
    pub is_chunked: bool,
    /// The length of the body in bytes (`Content-Length`).
    pub content_length: Option<usize>,
    /// When to try again (`Retry-After`, in seconds).
    pub retry_after: Option<Duration>,
    /// The answer to a WebSocket handshake's key (`Sec-WebSocket-Accept`, RFC 6455 §4.2.2).
    pub websocket_accept: Option<String>,
}

/// Why bytes are no head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseHeadError {
    /// The bytes do not begin as a response does.
    #[error("the answer is not HTTP")]
    NotHttp,
    /// The head goes on for too long.
    #[error("the answer's head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
}

/// Takes the bytes of a response as they come, until its head is whole. Only a head that comes in several pieces is
/// kept in memory.
#[derive(Clone, Debug, Default)]
pub struct ResponseHeadReader {
    pieces: Vec<u8>,
}

impl ResponseHeadReader {
    /// Takes the next bytes. Once the head is whole, returns it and how many of `bytes` belonged to it; the rest is the
    /// body's.
    ///
    /// # Errors
    /// If the bytes are no head of a response.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, ResponseHeadError> {
        let before = self.pieces.len();
        let found = if before == 0 {
            parse(bytes)?
        } else {
            self.pieces.extend_from_slice(bytes);
            parse(&self.pieces)?
        };
        match found {
            Some((head, length)) => {
                self.pieces = Vec::new();
                Ok(Some((head, length - before)))
            }
            None if before + bytes.len() > HEAD_BYTES_MAX => Err(ResponseHeadError::TooLong),
            None => {
                if before == 0 {
                    self.pieces.extend_from_slice(bytes);
                }
                Ok(None)
            }
        }
    }
}

/// The head at the beginning of `bytes` and its length; `None` if the head is not whole.
fn parse(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, ResponseHeadError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ResponseHeadError::NotHttp),
    };
    let mut head = ResponseHead { status: response.code.unwrap_or_default(), ..ResponseHead::default() };
    for field in response.headers.iter() {
        let value = std::str::from_utf8(field.value).unwrap_or_default().trim();
        match field.name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => head.is_chunked = value.eq_ignore_ascii_case("chunked"),
            "content-length" => head.content_length = value.parse().ok(),
            "retry-after" => head.retry_after = value.parse().ok().map(Duration::from_secs),
            "sec-websocket-accept" => head.websocket_accept = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(Some((head, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 503 x\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n{}";

    #[test]
    fn any_pieces_give_the_same_head() {
        let whole = ResponseHeadReader::default().push(ANSWER).unwrap().unwrap();
        assert_eq!((whole.0.status, whole.0.content_length, whole.1), (503, Some(2), ANSWER.len() - 2));
        assert_eq!((whole.0.retry_after, whole.0.is_chunked), (Some(Duration::from_secs(3)), false));
        for piece in 1..ANSWER.len() {
            let mut reader = ResponseHeadReader::default();
            let mut used = 0;
            let mut found = None;
            for bytes in ANSWER.chunks(piece) {
                match reader.push(bytes).unwrap() {
                    Some((head, length)) => {
                        found = Some((head, used + length));
                        break;
                    }
                    None => used += bytes.len(),
                }
            }
            assert_eq!(found.as_ref(), Some(&whole), "pieces of {piece}");
        }
    }

    #[test]
    fn other_protocols_and_endless_heads_are_errors() {
        assert_eq!(ResponseHeadReader::default().push(b"SSH-2.0\r\n\r\n"), Err(ResponseHeadError::NotHttp));
        let mut reader = ResponseHeadReader::default();
        assert_eq!(reader.push(b"HTTP/1.1 200 OK\r\nA: "), Ok(None));
        let error = (0..HEAD_BYTES_MAX).find_map(|_| reader.push(&[b'a'; 100]).err());
        assert_eq!(error, Some(ResponseHeadError::TooLong));
    }

    #[test]
    fn a_head_has_at_most_16_kib() {
        let mut start = b"HTTP/1.1 200 OK\r\nA: ".to_vec();
        start.resize(16 * 1024, b'a');
        assert_eq!(ResponseHeadReader::default().push(&[&start[..], b"a"].concat()), Err(ResponseHeadError::TooLong));
        let mut reader = ResponseHeadReader::default();
        assert_eq!((reader.push(&start[..100]), reader.push(&start[100..])), (Ok(None), Ok(None)));
        assert_eq!(reader.push(b"a"), Err(ResponseHeadError::TooLong));
    }

    #[test]
    fn fields_are_found_by_their_names() {
        let head = b"HTTP/1.1 101 x\r\ntransfer-encoding: Chunked\r\nSEC-WEBSOCKET-ACCEPT: abc=\r\nX: y\r\n\r\n";
        let expected = ResponseHead {
            status: 101,
            is_chunked: true,
            websocket_accept: Some("abc=".into()),
            ..ResponseHead::default()
        };
        assert_eq!(ResponseHeadReader::default().push(head), Ok(Some((expected, head.len()))));
    }
}
