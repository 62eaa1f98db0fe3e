//! The payloads that the harness publishes, and their search in the frames of any server.
//!
//! A payload is text of a given size, `#t=<16 digits> s=<10 digits> xxxx…`: the event's time in microseconds, and its
//! number. No character needs escaping in JSON, so a payload has the same bytes in every protocol.

use std::sync::OnceLock;
use std::time::Instant;

use memchr::memmem;

const MARK: &[u8] = b"#t=";
const TIME_DIGITS: usize = 16;
const TIME_BASE: u64 = 1_000_000_000_000_000;
const NUMBER_AT: usize = MARK.len() + TIME_DIGITS + " s=".len();
const NUMBER_DIGITS: usize = 10;
const NUMBER_BASE: u64 = 1_000_000_000;

/// Bytes of a payload's time and number: the smallest size of an event.
pub(crate) const STAMP_LEN: usize = NUMBER_AT + NUMBER_DIGITS;

/// Microseconds of the monotonic clock since the first call in this process.
pub(crate) fn now_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Appends the payload of event `number`, `size` bytes long (at least [`STAMP_LEN`]), which carries `time_us`.
pub(crate) fn write(into: &mut Vec<u8>, number: u32, time_us: u64, size: usize) {
    use std::io::Write as _;
    let end = into.len() + size.max(STAMP_LEN);
    // Writing to a vector does not fail.
    let _ = write!(into, "#t={} s={} ", TIME_BASE + time_us, NUMBER_BASE + u64::from(number));
    into.resize(end, b'x');
}

/// The time and the number of an event, as [`Scanner::scan`] finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of the event.
    pub(crate) number: u32,
    /// The time that the event carries, in microseconds of [`now_us`].
    pub(crate) time_us: u64,
}

/// The state of a scan that a connection keeps between two reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    bytes: [u8; STAMP_LEN],
    len: u8,
    /// The last distance between two stamps, where the next stamp is looked for first.
    stride: u16,
}

impl Tail {
    /// The kept bytes, which the bytes of the next read follow; at most [`STAMP_LEN`].
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Keeps the end of `rest`, which may be the beginning of a stamp.
    pub(crate) fn keep(&mut self, rest: &[u8], at_most: usize) {
        let kept = &rest[rest.len() - rest.len().min(at_most).min(STAMP_LEN)..];
        self.bytes[..kept.len()].copy_from_slice(kept);
        self.len = kept.len() as u8;
    }
}

/// Finds stamps in received bytes.
pub(crate) struct Scanner {
    finder: memmem::Finder<'static>,
}

impl Scanner {
    /// A scanner; any number of connections can share it.
    pub(crate) fn new() -> Self {
        Self { finder: memmem::Finder::new(MARK) }
    }

    /// Calls `found` for every whole stamp in `bytes`, which begin with the bytes kept in `tail`, and keeps the
    /// beginning of an incomplete stamp.
    ///
    /// Frames of events of one size mostly have one length, so the next stamp nearly always stands at the distance of
    /// the last two, and only the stamps themselves are read.
    pub(crate) fn scan(&self, bytes: &[u8], tail: &mut Tail, mut found: impl FnMut(Stamp)) {
        let mut at = 0;
        let mut stride = usize::from(tail.stride);
        let mut previous: Option<usize> = None;
        loop {
            let guess = previous.map_or(usize::MAX, |previous| previous + stride);
            let start = if guess >= at && bytes.get(guess..).is_some_and(|rest| rest.starts_with(MARK)) {
                guess
            } else {
                match self.finder.find(&bytes[at..]) {
                    Some(offset) => at + offset,
                    None => break,
                }
            };
            let Some(stamp) = bytes.get(start..start + STAMP_LEN) else {
                at = start;
                break;
            };
            at = start + STAMP_LEN;
            if let Some(stamp) = parse(stamp) {
                if let Some(previous) = previous {
                    stride = start - previous;
                }
                previous = Some(start);
                found(stamp);
            }
        }
        tail.stride = u16::try_from(stride).unwrap_or(0);
        tail.keep(&bytes[at..], STAMP_LEN - 1);
    }
}

fn parse(stamp: &[u8]) -> Option<Stamp> {
    let time = digits(stamp.get(MARK.len()..MARK.len() + TIME_DIGITS)?)?;
    let number = digits(stamp.get(NUMBER_AT..STAMP_LEN)?)?;
    Some(Stamp { number: u32::try_from(number.checked_sub(NUMBER_BASE)?).ok()?, time_us: time.checked_sub(TIME_BASE)? })
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| value * 10 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(sizes: &[usize]) -> Vec<u8> {
        let mut bytes = b"charset=utf-8\r\n\r\n".to_vec();
        for (number, &size) in sizes.iter().enumerate() {
            bytes.extend_from_slice(format!("id: 17-{number}\ndata: ").as_bytes());
            write(&mut bytes, number as u32, 1000 + number as u64, size);
            bytes.extend_from_slice(b"\n\n");
        }
        bytes
    }

    fn read_in_pieces(bytes: &[u8], piece: usize) -> Vec<Stamp> {
        let (scanner, mut tail, mut seen) = (Scanner::new(), Tail::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            let whole = [tail.bytes(), piece].concat();
            scanner.scan(&whole, &mut tail, |stamp| seen.push(stamp));
        }
        seen
    }

    #[test]
    fn a_payload_has_the_asked_size() {
        let mut bytes = Vec::new();
        write(&mut bytes, 7, 12_345, 128);
        assert_eq!(bytes.len(), 128);
        assert!(bytes.starts_with(b"#t=1000000000012345 s=1000000007 xxx"), "{}", String::from_utf8_lossy(&bytes));
        bytes.clear();
        write(&mut bytes, 7, 12_345, 1);
        assert_eq!(bytes.len(), STAMP_LEN, "never without its whole stamp");
    }

    #[test]
    fn every_stamp_is_found_however_the_bytes_arrive() {
        let bytes = stream(&[128, 128, 32, 300, 300, 300, 64, 32, 128]);
        let expected: Vec<_> = (0..9).map(|number| Stamp { number, time_us: 1000 + u64::from(number) }).collect();
        for piece in 1..bytes.len() {
            assert_eq!(read_in_pieces(&bytes, piece), expected, "in pieces of {piece}");
        }
    }
}
