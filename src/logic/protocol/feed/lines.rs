//! Cutting a stream into lines of bounded length.

/// A line of the stream, as [`LineSplitter::next_line`] finds it.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, without its end.
    Whole(&'a [u8]),
    /// A line that is longer than the limit. It is skipped to its end and reported once.
    TooLong,
}

/// A splitter, which holds the received bytes that are no whole line yet.
#[derive(Debug)]
pub struct LineSplitter {
    buffer: Vec<u8>,
    /// The start of the next line in `buffer`.
    start: usize,
    /// The offset in `buffer` up to which there is no newline.
    searched: usize,
    line_bytes_max: usize,
    skipping: bool,
}

impl LineSplitter {
    /// A splitter for lines of at most `line_bytes_max` bytes.
    pub fn new(line_bytes_max: usize) -> LineSplitter {
        LineSplitter { buffer: Vec::new(), start: 0, searched: 0, line_bytes_max, skipping: false }
    }

    /// Adds bytes that were read. All lines of earlier bytes must have been taken.
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

    /// The bytes that are not taken yet, and whether they begin within a line that is skipped.
    pub fn rest(&self) -> (&[u8], bool) {
        (&self.buffer[self.start..], self.skipping)
    }

    /// A splitter that goes on with what another one had left.
    pub fn with_rest(line_bytes_max: usize, rest: Vec<u8>, skipping: bool) -> LineSplitter {
        LineSplitter { buffer: rest, skipping, ..LineSplitter::new(line_bytes_max) }
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

    /// The buffer of a splitter for lines of up to 100 bytes, after `bytes` bytes of a line, the line's end, and a byte.
    fn room_after(bytes: usize) -> usize {
        let mut splitter = LineSplitter::new(100);
        splitter.push(&vec![b'x'; bytes]);
        while splitter.next_line().is_some() {}
        splitter.push(b"\n");
        while splitter.next_line().is_some() {}
        splitter.push(b"y");
        splitter.buffer.capacity()
    }

    #[test]
    fn a_buffer_that_has_grown_is_given_back_once_its_lines_are_taken() {
        assert!((100..=400).contains(&room_after(100)), "{}", room_after(100));
        assert!(room_after(400) >= 400);
        assert!(room_after(401) < 100, "{}", room_after(401));
        // The beginning of an unfinished line stays, however large its buffer is.
        let mut splitter = LineSplitter::new(1000);
        splitter.push(&[&[b'x'; 5000][..], b"\nab"].concat());
        assert_eq!(splitter.next_line(), Some(Line::TooLong));
        assert_eq!(splitter.next_line(), None);
        splitter.push(b"c\n");
        assert_eq!(splitter.next_line(), Some(Line::Whole(b"abc")));
    }

    #[test]
    fn a_buffer_of_more_than_256_kib_is_given_back_however_long_lines_may_be() {
        for (bytes, is_kept) in [(4 * 65_536, true), (4 * 65_536 + 1, false)] {
            let mut splitter = LineSplitter::new(1 << 20);
            splitter.push(&[vec![b'x'; bytes - 1], vec![b'\n']].concat());
            while splitter.next_line().is_some() {}
            splitter.push(b"y\n");
            assert_eq!(splitter.buffer.capacity() >= 4 * 65_536, is_kept, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_what_stands_between_newlines_however_it_is_read(text in "[ab\n\r]{0,60}", sizes in prop::collection::vec(1usize..20, 1..9)) {
            const MAX: usize = 6;
            let mut all: Vec<&str> = text.split('\n').collect();
            let rest = all.pop().unwrap_or_default();
            let mut expected: Vec<Option<Vec<u8>>> = Vec::new();
            for line in all {
                let content = line.strip_suffix('\r').unwrap_or(line);
                if line.len() > MAX {
                    expected.push(None);
                } else if !content.is_empty() {
                    expected.push(Some(content.into()));
                }
            }
            expected.extend((rest.len() > MAX).then_some(None));

            let mut splitter = LineSplitter::new(MAX);
            let mut lines = Vec::new();
            let mut unread = text.as_bytes();
            for size in sizes.into_iter().cycle() {
                let (piece, later) = unread.split_at(size.min(unread.len()));
                unread = later;
                splitter.push(piece);
                while let Some(line) = splitter.next_line() {
                    lines.push(match line {
                        Line::Whole(line) => Some(line.to_vec()),
                        Line::TooLong => None,
                    });
                }
                if unread.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(lines, expected);
            prop_assert_eq!(splitter.has_rest(), (1..=MAX).contains(&rest.len()));
        }
    }
}
