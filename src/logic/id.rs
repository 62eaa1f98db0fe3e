//! Event ids: a total order over everything that a node publishes.

use std::fmt;
use std::str::FromStr;

/// Bits of an [`Id`] that count within a millisecond.
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const MS_MAX: u64 = u64::MAX >> COUNT_BITS;

/// The position of an event in the node's total order, written `<ms>-<n>`.
///
/// `ms` is a millisecond clock that never goes backwards, and `n` counts within it. `Last-Event-ID`, poll cursors and
/// feed
/// acknowledgements carry the text form. Positions are compared by this type's `Ord` alone.
///
/// An id is one number: 44 bits of milliseconds, up to the year 2527, and 20 bits of count. After about a million ids
/// in one millisecond the next ids belong to the next millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// The longest text of an [`Id`], in bytes: 14 digits, the dash, and 7 digits.
pub const ID_TEXT_BYTES_MAX: usize = 22;

impl Id {
    /// The position before every event.
    pub const ZERO: Id = Id(0);
    /// The position after every event.
    pub const MAX: Id = Id(u64::MAX);

    /// An id from its two parts. A part that is too great becomes the greatest that fits.
    pub const fn new(ms: u64, n: u64) -> Id {
        if ms > MS_MAX {
            return Id::MAX;
        }
        Id(ms << COUNT_BITS | if n > COUNT_MAX { COUNT_MAX } else { n })
    }

    /// The position that a client names. A text that is no id may come from another server; it counts as a position after
    /// every event, so that its client is served from the newest event on and is told of a gap.
    pub fn of_client(text: &str) -> Id {
        // Other servers count their events, so a number alone is none of this server's ids.
        Some(text).filter(|text| text.contains('-')).and_then(|text| text.parse().ok()).unwrap_or(Id::MAX)
    }

    /// The id as one number, whose order is that of ids.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The id of that number.
    pub const fn from_bits(bits: u64) -> Id {
        Id(bits)
    }

    /// The id's milliseconds since the Unix epoch. They run ahead of a clock that was set back.
    pub const fn ms(self) -> u64 {
        self.0 >> COUNT_BITS
    }

    /// The id's number within its millisecond, from 0.
    pub const fn n(self) -> u64 {
        self.0 & COUNT_MAX
    }

    /// The id as one number, by which ids are ordered.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The id that is this number.
    pub const fn from_number(number: u64) -> Id {
        Id(number)
    }

    /// The id that a node gives at `now_ms` if its last one was `self`. It is greater than `self` even if the clock was
    /// set back.
    pub fn next(self, now_ms: u64) -> Id {
        if now_ms > self.ms() { Id::new(now_ms, 0) } else { Id(self.0.saturating_add(1)) }
    }

    /// The position right before this id.
    pub const fn before(self) -> Id {
        Id(self.0.saturating_sub(1))
    }

    /// Appends the text form to `out` without going through the formatting machinery.
    pub fn write(self, out: &mut Vec<u8>) {
        write_decimal(self.ms(), out);
        out.push(b'-');
        write_decimal(self.n(), out);
    }

    /// Writes the text form to the end of `room`, for a caller without a vector, and returns it.
    pub fn text(self, room: &mut [u8; ID_TEXT_BYTES_MAX]) -> &str {
        let start = put_decimal(self.n(), room, ID_TEXT_BYTES_MAX) - 1;
        room[start] = b'-';
        let start = put_decimal(self.ms(), room, start);
        std::str::from_utf8(&room[start..]).unwrap_or_default()
    }
}

/// Appends `value` in decimal digits.
pub fn write_decimal(value: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let start = put_decimal(value, &mut digits, 20);
    out.extend_from_slice(&digits[start..]);
}

/// Writes `value` in decimal digits into `room` so that they end before `end`; returns where they start.
fn put_decimal(mut value: u64, room: &mut [u8], end: usize) -> usize {
    let mut start = end;
    loop {
        start -= 1;
        room[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return start;
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms(), self.n())
    }
}

impl<'de> serde::Deserialize<'de> for Id {
    /// Reads the text form.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Id {
    /// Serializes an id in its text form.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The error of a text that is no [`Id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has the form <milliseconds>-<number>, as in 1700000000000-0")]
pub struct ParseIdError;

impl FromStr for Id {
    type Err = ParseIdError;

    /// Parses `<ms>-<n>`; digits alone mean `<ms>-0`.
    fn from_str(text: &str) -> Result<Id, ParseIdError> {
        let (ms, n) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Id::new(parse_decimal(ms)?, parse_decimal(n)?))
    }
}

/// Parses digits alone, whereas `u64::from_str` also takes a leading `+`.
fn parse_decimal(text: &str) -> Result<u64, ParseIdError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseIdError);
    }
    text.parse().map_err(|_| ParseIdError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn next_never_goes_backwards() {
        let last = Id::new(100, 7);
        assert_eq!(last.next(99), Id::new(100, 8));
        assert_eq!(last.next(100), Id::new(100, 8));
        assert_eq!(last.next(101), Id::new(101, 0));
        assert_eq!(Id::new(100, 0xf_ffff).next(100), Id::new(101, 0), "a full millisecond runs over");
    }

    #[test]
    fn text_that_is_no_id_is_rejected() {
        for text in ["", "-", "1-", "-1", "a", "1-b", "+1-0", "1-+0", "1 -0", "1-0-0", "99999999999999999999999-0"] {
            assert_eq!(text.parse::<Id>(), Err(ParseIdError), "{text:?}");
        }
        assert_eq!("12".parse(), Ok(Id::new(12, 0)));
    }

    #[test]
    fn a_position_that_no_server_of_this_kind_has_named_is_after_every_event() {
        assert_eq!(["5-1", "0-0", "99999999999999999-0"].map(Id::of_client), [Id::new(5, 1), Id::ZERO, Id::MAX]);
        assert_eq!(["", "5", "a", "5-", "5-b"].map(Id::of_client), [Id::MAX; 5]);
    }

    proptest! {
        #[test]
        fn parts_that_are_too_great_make_the_greatest_id(ms: u64, n: u64, other_ms in 0..=MS_MAX, other_n in 0..=COUNT_MAX) {
            let (id, other) = (Id::new(ms, n), Id::new(other_ms, other_n));
            prop_assert_eq!((other.ms(), other.n()), (other_ms, other_n));
            // Parts beyond the greatest one make the same id.
            if (ms, n) > (other_ms, other_n) {
                prop_assert!(id >= other);
            } else {
                prop_assert!(id <= other);
            }
        }

        #[test]
        fn text_round_trips(ms in 0..=MS_MAX, n in 0..=COUNT_MAX) {
            let id = Id::new(ms, n);
            let mut bytes = Vec::new();
            id.write(&mut bytes);
            prop_assert_eq!(std::str::from_utf8(&bytes).unwrap(), id.to_string());
            let mut room = [0; ID_TEXT_BYTES_MAX];
            prop_assert_eq!(id.text(&mut room), id.to_string());
            prop_assert_eq!(id.to_string().parse::<Id>(), Ok(id));
            prop_assert!(bytes.len() <= ID_TEXT_BYTES_MAX);
        }
    }
}
