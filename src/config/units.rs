//! The forms of values in the file: durations and sizes as people write them (`"10s"`, `"64KiB"`, or plain numbers of seconds
//! and bytes), and values that are written as text.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use fundu::{DurationParser, TimeUnit};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number, with a fraction or without, and a unit; without one it means seconds.
const DURATIONS: DurationParser<'_> = DurationParser::builder()
    .time_units(&[TimeUnit::MilliSecond, TimeUnit::Second, TimeUnit::Minute, TimeUnit::Hour, TimeUnit::Day])
    .allow_time_unit_delimiter()
    .disable_exponent()
    .disable_infinity()
    .build();
/// A hundred years: longer than any server runs, and short enough that no sum of two durations overflows.
const DURATION_MAX: Duration = Duration::from_hours(24 * 36_500);
/// More bytes than any host has.
const SIZE_MAX: u64 = 1_000_000_000_000_000;

/// Reads a duration and rounds it to whole milliseconds, in which it is written again.
pub(super) fn read_duration(text: &str) -> Option<Duration> {
    let duration: Duration = DURATIONS.parse(text.trim()).ok()?.try_into().ok()?;
    let millis = u64::try_from(duration.as_nanos().saturating_add(500_000) / 1_000_000).ok()?;
    Some(Duration::from_millis(millis)).filter(|duration| *duration <= DURATION_MAX)
}

/// The duration in the largest unit that it is a whole number of.
fn write_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let fits = |unit: &&(&str, u128)| millis > 0 && millis.is_multiple_of(unit.1);
    units.iter().find(fits).map_or("0s".into(), |(unit, length)| format!("{}{unit}", millis / length))
}

/// Reads a number of bytes with a unit or without.
fn read_size(text: &str) -> Option<usize> {
    let text = text.trim();
    // The crate wants a unit after a fraction.
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    let size: ByteSize = if has_unit { text.parse() } else { format!("{text}B").parse() }.ok()?;
    usize::try_from(size.as_u64()).ok().filter(|_| size.as_u64() < SIZE_MAX)
}

/// The size in the largest unit that it is a whole number of; the crate's own form is rounded and would not read back the
/// same.
fn write_size(bytes: usize) -> Option<String> {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let fits = |unit: &&(&str, usize)| bytes > 0 && bytes.is_multiple_of(unit.1);
    units.iter().find(fits).map(|(unit, length)| format!("{}{unit}", bytes / length))
}

/// Takes a text, or a number as the text that it would be.
struct Quantity<T> {
    expecting: &'static str,
    read: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Quantity<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.read)(&number.to_string()).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        (self.read)(&number.to_string()).ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }
}

/// A duration in the file, or one that may be absent.
pub(super) mod duration {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>, T: From<Duration>>(from: D) -> Result<T, D::Error> {
        let expecting = "a duration such as \"10s\", \"250ms\", \"5m\", or a number of seconds";
        from.deserialize_any(Quantity { expecting, read: read_duration }).map(T::from)
    }

    pub(in crate::config) fn serialize<S: Serializer, T: Copy + Into<Option<Duration>>>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        (*value).into().map(write_duration).serialize(to)
    }
}

/// A size in the file, or one that may be absent.
pub(super) mod size {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>, T: From<usize>>(from: D) -> Result<T, D::Error> {
        let expecting = "a size such as \"64KiB\", \"1MiB\", or a number of bytes";
        from.deserialize_any(Quantity { expecting, read: read_size }).map(T::from)
    }

    pub(in crate::config) fn serialize<S: Serializer, T: Copy + Into<Option<usize>>>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let value: Option<usize> = (*value).into();
        match value.and_then(write_size) {
            Some(text) => text.serialize(to),
            None => value.serialize(to),
        }
    }
}

/// A value that is written as text. serde_with's `DisplayFromStr` does the same, but puts twelve unused crates into
/// Cargo.lock.
pub(super) mod text {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D, T>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }

    pub(in crate::config) fn serialize<S: Serializer, T: Display>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }
}

/// A list of values that are written as texts.
pub(super) mod texts {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
    }

    pub(in crate::config) fn serialize<S: Serializer, T: Display>(list: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(T::to_string))
    }
}

/// A list of texts in the file that may be written as one text; an empty text is an empty list.
pub(super) mod one_or_many {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        Ok(match OneOrMany::deserialize(from)? {
            OneOrMany::One(text) if text.is_empty() => Vec::new(),
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(list) => list,
        })
    }

    pub(in crate::config) fn serialize<S: Serializer>(list: &[String], to: S) -> Result<S::Ok, S::Error> {
        list.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        assert_eq!(read_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(read_duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(read_duration("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(read_duration(" 1.5 h "), Some(Duration::from_mins(90)));
        assert_eq!(read_duration("88888.8888888888"), Some(Duration::from_millis(88_888_889)));
        assert_eq!(read_duration("36500d"), Some(Duration::from_hours(24 * 36500)));
        assert_eq!(read_duration("36501d"), None);
        assert_eq!(read_size("64KiB"), Some(65536));
        assert_eq!(read_size("1 MB"), Some(1_000_000));
        assert_eq!(read_size("1.5 KiB"), Some(1536));
        assert_eq!(read_size("12"), Some(12));
        assert_eq!(read_size(" 12.0 "), Some(12));
        for bad in ["", "x", "5 parsecs", "-1s", "-1B", "1e9s", "1e9", "1 s 2 s", "1.2.3"] {
            assert_eq!(read_duration(bad), None, "{bad}");
            assert_eq!(read_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn quantities_are_written_in_their_largest_whole_unit() {
        let written = ["0s", "250ms", "1500ms", "10s", "90s", "2m", "36500d"];
        for text in written {
            assert_eq!(write_duration(read_duration(text).unwrap()), text);
        }
        for text in ["1KiB", "1025KiB", "64MiB", "3GiB"] {
            assert_eq!(write_size(read_size(text).unwrap()).as_deref(), Some(text));
        }
        assert_eq!((write_size(0), write_size(1000)), (None, None));
    }

    #[test]
    fn plain_numbers_may_be_as_large_as_those_with_a_unit() {
        #[derive(serde::Deserialize)]
        struct Quantities {
            #[serde(with = "size")]
            size: usize,
            #[serde(with = "duration")]
            duration: Duration,
        }
        let read =
            |size: &str, duration: &str| toml::from_str::<Quantities>(&format!("size = {size}\nduration = {duration}"));
        let found = read("5368709120", "3000000000").unwrap();
        assert_eq!((found.size, found.duration), (5 << 30, Duration::from_secs(3_000_000_000)));
        assert_eq!(read("1e6", "0.25").unwrap().size, 1_000_000);
        for bad in ["-1", "-1.5", "nan", "inf", "9223372036854775807"] {
            assert!(read(bad, "1").is_err(), "{bad}");
            assert!(read("1", bad).is_err(), "{bad}");
        }
    }
}
