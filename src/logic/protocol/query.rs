//! The query of a subscription: `?channel=a&channel=b,c&last_event_id=…`.

use crate::logic::event::check_channel_name;
use crate::logic::id::Id;

use crate::logic::code::Code;
use crate::logic::refusal::Refusal;

use super::http::{Request, percent_decode};

/// What a subscription's query asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeQuery {
    /// The channels, in the order of the query, each once.
    pub channels: Vec<String>,
    /// `last_event_id` or one of its other names: the position to resume after.
    pub after: Option<Id>,
    /// `wait`: how long a poll may be held, in seconds.
    pub wait_secs: Option<u64>,
    /// `format=raw`.
    pub raw: bool,
    /// `envelope=0` or `1`.
    pub envelope: Option<bool>,
    /// `names=0` or `1`: whether an event's name is its field `event` in a stream.
    pub names: Option<bool>,
    /// `beat`: the longest time between two heartbeats that scripts can see, in seconds.
    pub beat_secs: Option<u64>,
    /// `token`.
    pub token: Option<String>,
}

/// Reads a query.
///
/// # Errors
/// If a parameter is not known or cannot be read, or there are more than `channels_max` channels.
pub fn parse(query: &str, channels_max: usize) -> Result<SubscribeQuery, Refusal> {
    let mut found = SubscribeQuery::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode(value).ok_or_else(|| bad(format!("the parameter {name:.40} is malformed")))?;
        match name {
            "channel" => add_channels(&mut found.channels, &value, channels_max).map_err(|refusal| {
                let has_plus = pair.contains('+');
                if has_plus {
                    bad(format!("{} (a + in a query is a blank; write %2B)", refusal.message))
                } else {
                    refusal
                }
            })?,
            // Client libraries write the name of the field in different ways.
            "last_event_id" | "lastEventId" | "Last-Event-ID" | "after" => {
                found.after = Some(&*value).filter(|text| !text.is_empty()).map(Id::of_client);
            }
            "token" => found.token = Some(value.into_owned()).filter(|token| !token.is_empty()),
            "wait" => {
                let seconds = value.parse().map_err(|_| bad("wait is a number of seconds, as in wait=25".into()))?;
                found.wait_secs = Some(seconds);
            }
            "format" => {
                found.raw = match &*value {
                    "raw" => true,
                    "json" => false,
                    _ => return Err(bad("format is json or raw".into())),
                }
            }
            "envelope" => found.envelope = Some(read_switch(name, &value)?),
            "names" => found.names = Some(read_switch(name, &value)?),
            "beat" => {
                let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                let message = || bad("beat is a number of seconds from 1 on, as in beat=20".into());
                found.beat_secs = Some(seconds.ok_or_else(message)?);
            }
            _ => {
                return Err(bad(format!(
                    "there is no parameter {name:.40?}; there are channel, last_event_id, after, wait, format, envelope, \
                     names, beat and token"
                )));
            }
        }
    }
    Ok(found)
}

impl SubscribeQuery {
    /// The position that a session resumes after. A browser that reconnects by itself sends the field `Last-Event-ID`,
    /// which is newer than what the URL says (WHATWG HTML §9.2.4).
    pub fn position(&self, request: &Request<'_>) -> Option<Id> {
        request.last_event_id.map(Id::of_client).or(self.after)
    }
}

fn read_switch(name: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(bad(format!("{name} is 0 or 1"))),
    }
}

fn bad(message: String) -> Refusal {
    Refusal::new(Code::BadQuery, message)
}

fn add_channels(channels: &mut Vec<String>, names: &str, channels_max: usize) -> Result<(), Refusal> {
    for name in names.split(',') {
        check_channel_name(name).map_err(|error| bad(error.to_string()))?;
        if channels.iter().any(|known| known == name) {
            continue;
        }
        if channels.len() >= channels_max {
            return Err(bad(format!("a connection may have at most {channels_max} channels")));
        }
        channels.push(name.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::protocol::http::{self, HeadLimits, Parsed};
    use proptest::prelude::*;

    #[test]
    fn channels_may_be_repeated_and_listed() {
        let query = parse("channel=a&channel=b,c%3A1&channel=a&after=5-1&wait=0&format=raw&envelope=1", 3).unwrap();
        assert_eq!(query.channels, ["a", "b", "c:1"]);
        assert_eq!(query.after, Some(Id::new(5, 1)));
        assert_eq!((query.wait_secs, query.raw, query.envelope), (Some(0), true, Some(true)));
        assert_eq!(parse("", 3), Ok(SubscribeQuery::default()));
        let query = parse("names=0&beat=20&envelope=false", 3).unwrap();
        assert_eq!((query.names, query.beat_secs, query.envelope), (Some(false), Some(20), Some(false)));
    }

    #[test]
    fn each_parameter_has_its_values() {
        let token = |query: &str| parse(query, 3).unwrap().token;
        assert_eq!(["token=t%2B", "token=", "wait=5"].map(token), [Some("t+".to_owned()), None, None]);
        let raw = |query: &str| parse(query, 3).unwrap().raw;
        assert_eq!(["format=raw", "format=json", "format=raw&format=json"].map(raw), [true, false, false]);
        let envelope = |value: &str| parse(&format!("envelope={value}"), 3).map(|query| query.envelope).ok();
        let values = ["1", "true", "0", "false", "2", ""].map(envelope);
        assert_eq!(values, [Some(Some(true)), Some(Some(true)), Some(Some(false)), Some(Some(false)), None, None]);
    }

    #[test]
    fn a_plus_is_a_blank() {
        let refusal = parse("channel=a+b", 3).unwrap_err();
        assert!(refusal.message.ends_with(" (a + in a query is a blank; write %2B)"), "{}", refusal.message);
        assert!(!parse("channel=a%20b", 3).unwrap_err().message.contains('+'));
        assert_eq!(parse("channel=a%2Bb", 3).unwrap().channels, ["a+b"]);
    }

    #[test]
    fn an_unknown_parameter_is_named() {
        for (query, name) in
            [("channel=a&chanel=b", "\"chanel\""), ("x", "\"x\""), ("last-event-id=5-1", "\"last-event-id\"")]
        {
            let refusal = parse(query, 3).unwrap_err();
            assert_eq!(refusal.code, Code::BadQuery);
            assert!(refusal.message.starts_with(&format!("there is no parameter {name}; ")), "{}", refusal.message);
        }
    }

    #[test]
    fn a_position_has_several_names_and_may_be_of_another_server() {
        for name in ["last_event_id", "lastEventId", "Last-Event-ID", "after"] {
            assert_eq!(parse(&format!("{name}=5-1"), 3).unwrap().after, Some(Id::new(5, 1)), "{name}");
            assert_eq!(parse(&format!("{name}="), 3).unwrap().after, None, "{name}");
            for foreign in ["urn:uuid:6a7c", "null", "undefined", "17", "5-x"] {
                assert_eq!(parse(&format!("{name}={foreign}"), 3).unwrap().after, Some(Id::MAX), "{name}={foreign}");
            }
        }
    }

    #[test]
    fn mistakes_are_named() {
        for bad in [
            "channel=",
            "channel=a,",
            "channel=a b",
            "channel=%zz",
            "wait=-1",
            "format=xml",
            "channel=a,b,c",
            "names=2",
            "beat=0",
            "beat=x",
        ] {
            assert_eq!(parse(bad, 2).unwrap_err().code.status(), 400, "{bad}");
        }
    }

    #[test]
    fn the_field_is_newer_than_the_url() {
        let query = parse("after=5-1", 3).unwrap();
        let position = |fields: &str| {
            let head = format!("GET /sse HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
            let Parsed::Complete { request, .. } =
                http::parse(head.as_bytes(), &HeadLimits { head_bytes_max: 8192, fields_max: 64 })
            else {
                panic!()
            };
            query.position(&request)
        };
        assert_eq!(position(""), Some(Id::new(5, 1)));
        assert_eq!(position("Last-Event-ID: 7-0\r\n"), Some(Id::new(7, 0)));
        assert_eq!(position("Last-Event-ID: x\r\n"), Some(Id::MAX));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,80}") {
            let _ = parse(&text, 5);
        }
    }
}
