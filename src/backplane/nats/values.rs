//! The JSON and the headers of JetStream.

use serde::Deserialize;

/// An answer of the API.
#[derive(Debug, Deserialize)]
pub(super) struct Answer<T> {
    pub(super) error: Option<Refusal>,
    #[serde(flatten)]
    pub(super) value: Option<T>,
}

/// The error of an answer.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

/// Codes of errors: <https://github.com/nats-io/nats-server/blob/main/server/errors.json>.
pub(super) mod code {
    pub(in super::super) const STREAM_NOT_FOUND: u64 = 10059;
    pub(in super::super) const STREAM_NAME_IN_USE: u64 = 10058;
    pub(in super::super) const NO_MESSAGE: u64 = 10037;
    pub(in super::super) const NO_MESSAGE_AT: u64 = 10043;
    pub(in super::super) const NOT_ENABLED: u64 = 10076;
    pub(in super::super) const NOT_ENABLED_FOR_ACCOUNT: u64 = 10039;
    pub(in super::super) const REPLICAS_WITHOUT_CLUSTER: u64 = 10074;
    pub(in super::super) const SUBJECTS_OVERLAP: u64 = 10065;
}

/// A stream as the API describes it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: StreamConfig,
    /// The time of the creation.
    pub(super) created: String,
    pub(super) state: StreamState,
}

/// The part of a stream's configuration that is looked at.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct StreamConfig {
    #[serde(default)]
    pub(super) description: String,
    /// In nanoseconds.
    #[serde(default)]
    pub(super) duplicate_window: u64,
}

/// The messages of a stream.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct StreamState {
    #[serde(default)]
    messages: u64,
    #[serde(default)]
    first_seq: u64,
    #[serde(default)]
    pub(super) last_seq: u64,
}

impl StreamState {
    /// The oldest message, or the next one if there is none.
    pub(super) fn first(self) -> u64 {
        if self.messages == 0 { self.last_seq + 1 } else { self.first_seq }
    }
}

impl StreamInfo {
    /// The time that ids begin with: what the node that has made the stream wrote into its description, or the time of the
    /// creation for one that was made by hand.
    pub(super) fn base_ms(&self) -> Option<u64> {
        let written = self.config.description.split_whitespace().find_map(|word| word.strip_prefix("base="));
        written.and_then(|base| base.parse().ok()).or_else(|| millis_of(&self.created))
    }
}

/// A consumer that was made.
#[derive(Debug, Deserialize)]
pub(super) struct ConsumerInfo {
    pub(super) name: String,
    pub(super) created: String,
}

/// A message that was asked for by its number.
#[derive(Debug, Deserialize)]
pub(super) struct Stored {
    pub(super) message: StoredMessage,
}

/// The part of a stored message that is looked at.
#[derive(Debug, Deserialize)]
pub(super) struct StoredMessage {
    pub(super) time: String,
}

/// The acknowledgement of a message.
#[derive(Debug, Deserialize)]
pub(super) struct Acknowledged {
    #[serde(rename = "seq")]
    pub(super) _sequence: u64,
}

/// Where a message is in its stream, by the subject that its acknowledgement would go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: u64,
    /// The time at which the server has taken the message, in nanoseconds since 1970.
    pub(super) at_ns: u64,
}

/// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer's>.<time>.<pending>`, where newer servers put
/// two words before the stream, and may put more at the end.
pub(super) fn place_of(reply: &str) -> Option<Place> {
    let words: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let at = match words.len() {
        7 => 3,
        9.. => 5,
        _ => return None,
    };
    Some(Place { sequence: words[at].parse().ok()?, at_ns: words[at + 2].parse().ok()? })
}

/// Reads a time as the server writes it (RFC 3339 with up to nine digits after the second, in UTC), in nanoseconds since
/// 1970.
pub(super) fn nanos_of(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    // Years are counted from March on, so that the leap day is the last one of a year.
    let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = march_year / 4 - march_year / 100 + march_year / 400;
    let days = march_year * 365 + leap_days + (march_month * 153 + 2) / 5 + day - 1;
    // The first of March of the year 0 was so many days before 1970.
    let days = days.checked_sub(719_468)?;
    let is_fraction = fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let nanos: u64 = format!("{fraction:0<9}").parse().ok().filter(|_| is_fraction)?;
    (((days * 24 + hour) * 60 + minute) * 60 + second).checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Reads a time in milliseconds since 1970.
pub(super) fn millis_of(text: &str) -> Option<u64> {
    nanos_of(text).map(|nanos| nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(nanos_of("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(nanos_of("2026-11-27T01:02:03.5Z"), Some(1_795_741_323_500_000_000));
        assert_eq!(nanos_of("2024-02-29T23:59:59.123456789Z"), Some(1_709_251_199_123_456_789));
        for text in [
            "",
            "2026-11-27",
            "2026-13-27T01:02:03Z",
            "2026-11-27T01:02:03",
            "0001-01-01T00:00:00Z",
            "2026-11-27T01:02:03.xZ",
        ] {
            assert_eq!(nanos_of(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_message_tells_its_place() {
        let place = Some(Place { sequence: 17, at_ns: 1_700_000_000_000_000_001 });
        assert_eq!(place_of("$JS.ACK.RC_main.abc.1.17.9.1700000000000000001.0"), place);
        assert_eq!(place_of("$JS.ACK.domain.hash.RC_main.abc.1.17.9.1700000000000000001.0"), place);
        assert_eq!(place_of("$JS.ACK._.hash.RC_main.abc.1.17.9.1700000000000000001.0.more"), place);
        for text in ["", "$JS.ACK.RC_main", "_INBOX.x", "$JS.ACK.a.b.1.x.9.1.0"] {
            assert_eq!(place_of(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_base_is_in_the_description_or_is_the_time_of_the_creation() {
        let info = |description: &str| StreamInfo {
            config: StreamConfig { description: description.into(), duplicate_window: 0 },
            created: "1970-01-01T00:00:01Z".into(),
            state: StreamState::default(),
        };
        assert_eq!(info("ringcast base=170").base_ms(), Some(170));
        assert_eq!(info("ours base=x").base_ms(), Some(1000));
        assert_eq!(info("").base_ms(), Some(1000));
    }
}
