//! Durations and sizes as people write them: `"10s"`, `"64KiB"`, or plain numbers of seconds and bytes.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

const DURATIONS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)];
const SIZES: [(&str, f64); 8] = [
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("B", 1.0),
];

fn read(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim();
    if unit.is_empty() {
        return Some(number);
    }
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| number * factor)
}

/// A hundred years: what is meant for ever, and no sum of two overflows.
const SECONDS_MAX: f64 = 100.0 * 365.0 * 86400.0;

/// Durations are whole milliseconds, as they are written.
fn from_seconds(seconds: f64) -> Option<Duration> {
    (0.0..=SECONDS_MAX).contains(&seconds).then(|| Duration::from_millis((seconds * 1000.0).round() as u64))
}

/// Reads a duration.
pub(super) fn read_duration(text: &str) -> Option<Duration> {
    read(text, &DURATIONS).and_then(from_seconds)
}

fn read_size(text: &str) -> Option<usize> {
    read(text, &SIZES).and_then(whole_bytes)
}

/// A size that can be: neither below nothing nor beyond any memory.
fn whole_bytes(bytes: f64) -> Option<usize> {
    (0.0..1e15).contains(&bytes).then_some(bytes as usize)
}

struct Quantity<T> {
    expecting: &'static str,
    from_text: fn(&str) -> Option<T>,
    from_number: fn(f64) -> Option<T>,
}

impl<T> Visitor<'_> for Quantity<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.from_text)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let value = u64::try_from(number).ok().and_then(|number| (self.from_number)(number as f64));
        value.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        (self.from_number)(number).ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }
}

/// For durations in serde.
pub(super) mod duration {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(Quantity {
            expecting: "a duration such as \"10s\", \"250ms\", \"5m\", or a number of seconds",
            from_text: read_duration,
            from_number: from_seconds,
        })
    }

    pub(in crate::config) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = duration.as_millis();
        if millis.is_multiple_of(1000) {
            serializer.serialize_str(&format!("{}s", millis / 1000))
        } else {
            serializer.serialize_str(&format!("{millis}ms"))
        }
    }
}

/// For lists of texts that may be written as one text.
pub(super) mod one_or_many {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        Ok(match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(text) if text.is_empty() => Vec::new(),
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(list) => list,
        })
    }

    pub(in crate::config) fn serialize<S: Serializer>(list: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        list.serialize(serializer)
    }
}

/// For durations that may be absent.
pub(super) mod optional_duration {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(Some)
    }

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => duration::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }
}

/// For sizes in serde.
pub(super) mod size {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(Quantity {
            expecting: "a size such as \"64KiB\", \"1MiB\", or a number of bytes",
            from_text: read_size,
            from_number: whole_bytes,
        })
    }

    pub(in crate::config) fn serialize<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            bytes if *bytes > 0 && bytes % 1048576 == 0 => serializer.serialize_str(&format!("{}MiB", bytes / 1048576)),
            bytes if *bytes > 0 && bytes % 1024 == 0 => serializer.serialize_str(&format!("{}KiB", bytes / 1024)),
            bytes => serializer.serialize_str(&bytes.to_string()),
        }
    }
}

/// For sizes that may be absent.
pub(super) mod optional_size {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<usize>, D::Error> {
        size::deserialize(deserializer).map(Some)
    }

    pub(in crate::config) fn serialize<S: Serializer>(value: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => size::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
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
        assert_eq!(read_duration("88888.8888888888"), Some(Duration::from_millis(88_888_889)));
        assert_eq!(read_duration("36500d"), Some(Duration::from_hours(24 * 36500)));
        assert_eq!(read_duration("36501d"), None);
        assert_eq!(read_size("64KiB"), Some(65536));
        assert_eq!(read_size("1 MB"), Some(1_000_000));
        assert_eq!(read_size("12"), Some(12));
        for bad in ["", "x", "5 parsecs", "-1s", "1e9s"] {
            assert_eq!(read_duration(bad), None, "{bad}");
            assert_eq!(read_size(bad), None, "{bad}");
        }
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
        for bad in ["-1", "-1.5", "nan", "inf", "9223372036854775807"] {
            assert!(read(bad, "1").is_err(), "{bad}");
        }
        assert!(read("1", "-1").is_err());
    }
}
