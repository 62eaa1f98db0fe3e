//! The body of a response without a length: in chunks (RFC 9112 §7.1), or all bytes up to the connection's end.

/// Takes the bytes of a response as they come, and gives those of its body.
#[derive(Debug, Default)]
pub(super) struct Body {
    is_chunked: bool,
    state: State,
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the line with a chunk's size.
    #[default]
    Size,
    /// In a chunk that has so many bytes left.
    Data(usize),
    /// In the line break after a chunk.
    After,
    /// After the last chunk.
    End,
}

impl Body {
    /// A body that is sent in chunks, or one that ends with the connection.
    pub(super) fn new(is_chunked: bool) -> Body {
        Body { is_chunked, ..Body::default() }
    }

    /// Appends the part of the body that is in `bytes` to `out`.
    pub(super) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        if !self.is_chunked {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        while !bytes.is_empty() && self.state != State::End {
            match self.state {
                State::Data(left) => {
                    let length = left.min(bytes.len());
                    out.extend_from_slice(&bytes[..length]);
                    bytes = &bytes[length..];
                    self.state = if length == left { State::After } else { State::Data(left - length) };
                }
                State::Size | State::After => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    self.line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
                    if self.line.len() > 1000 {
                        return Err("the server sent a chunk without an end of its size");
                    }
                    let Some(end) = end else { break };
                    bytes = &bytes[end + 1..];
                    let line = std::mem::take(&mut self.line);
                    if self.state == State::After {
                        self.state = State::Size;
                        continue;
                    }
                    let text = std::str::from_utf8(&line).unwrap_or_default();
                    let size = text.split(';').next().unwrap_or_default().trim();
                    let size = usize::from_str_radix(size, 16).map_err(|_| "the server sent a chunk without a size")?;
                    self.state = if size == 0 { State::End } else { State::Data(size) };
                }
                State::End => {}
            }
        }
        Ok(())
    }

    /// Whether the last chunk has come.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::End
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_pieces_give_the_same_body(texts in proptest::collection::vec("[a-z\r\n]{1,20}", 0..5), piece in 1usize..9) {
            let mut stream = String::new();
            for text in &texts {
                stream.push_str(&format!("{:x};ext\r\n{text}\r\n", text.len()));
            }
            stream.push_str("0\r\n\r\n");
            let mut body = Body::new(true);
            let mut out = Vec::new();
            for part in stream.as_bytes().chunks(piece) {
                body.push(part, &mut out).unwrap();
            }
            prop_assert_eq!(String::from_utf8(out).unwrap(), texts.concat());
            prop_assert!(body.is_over());
        }
    }

    #[test]
    fn a_chunk_without_a_size_is_an_error() {
        assert!(Body::new(true).push(b"zz\r\n", &mut Vec::new()).is_err());
    }
}
