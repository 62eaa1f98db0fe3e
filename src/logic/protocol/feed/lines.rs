//! Cutting a stream into lines of bounded length.

/// What [`LineSplitter::next_line`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, without its end.
    Whole(&'a [u8]),
    /// A line that is longer than the limit; it is skipped to its end and this is said once.
    TooLong,
}

/// Holds what came of a line so far.
#[derive(Debug)]
pub struct LineSplitter {
    buffer: Vec<u8>,
    /// Where in `buffer` the next line starts.
    start: usize,
    /// Up to where no newline is.
    searched: usize,
    line_bytes_max: usize,
    skipping: bool,
}

impl LineSplitter {
    /// For lines of at most `line_bytes_max` bytes.
    pub fn new(line_bytes_max: usize) -> LineSplitter {
        LineSplitter { buffer: Vec::new(), start: 0, searched: 0, line_bytes_max, skipping: false }
    }

    /// Adds what was read. All lines of what came before must have been taken.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.capacity() > 4 * self.line_bytes_max.min(64 * 1024) && self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next line that is not empty, if one is complete.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        loop {
            let Some(offset) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                let over = self.buffer.len() - self.start > self.line_bytes_max;
                if over || self.skipping {
                    self.start = self.buffer.len();
                }
                if over && !self.skipping {
                    self.skipping = true;
                    return Some(Line::TooLong);
                }
                return None;
            };
            let (start, end) = (self.start, self.searched + offset);
            self.start = end + 1;
            self.searched = self.start;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if end - start > self.line_bytes_max {
                return Some(Line::TooLong);
            }
            let length = end - start - usize::from(self.buffer[start..end].ends_with(b"\r"));
            if length > 0 {
                return Some(Line::Whole(&self.buffer[start..start + length]));
            }
        }
    }

    /// Whether bytes of an unfinished line are held.
    pub fn has_rest(&self) -> bool {
        self.start < self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[&[u8]], limit: usize) -> Vec<Option<Vec<u8>>> {
        let mut splitter = LineSplitter::new(limit);
        let mut lines = Vec::new();
        for piece in pieces {
            splitter.push(piece);
            while let Some(line) = splitter.next_line() {
                lines.push(match line {
                    Line::Whole(line) => Some(line.to_vec()),
                    Line::TooLong => None,
                });
            }
        }
        lines
    }

    #[test]
    fn a_long_line_is_skipped_to_its_end() {
        let lines = split(&[b"ab\r\n\n", b"123", b"456", b"789\nok\n"], 5);
        assert_eq!(lines, [Some(b"ab".to_vec()), None, Some(b"ok".to_vec())]);
        assert_eq!(split(&[b"123456\nok\n"], 5), [None, Some(b"ok".to_vec())]);
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same_lines(text in "[ab\n\r]{0,60}", size in 1usize..9) {
            let whole = split(&[text.as_bytes()], 6);
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            prop_assert_eq!(split(&pieces, 6), whole);
        }
    }
}
