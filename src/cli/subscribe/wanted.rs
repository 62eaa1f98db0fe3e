//! The channels that the subscriber still waits for, and the query that asks for them.

use crate::logic::protocol::http::percent_decode;

/// Parameters that this client sets itself: with others than its own it could not read the server's answers.
const DECIDED: [&str; 3] = ["wait", "envelope", "format"];

/// The channels that the subscriber waits for. Channels that end or are refused are taken off.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    channels: Vec<String>,
    /// The position that the URL names.
    pub(super) since: Option<String>,
    /// The URL's other parameters as they were written, each after an `&`.
    others: String,
    /// Why the last channel that was refused or taken away was refused.
    refused: Option<String>,
}

/// What a subscriber still has to wait for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Channels.
    Some,
    /// Nothing: all channels have ended.
    Ended,
    /// Nothing: the channels that have not ended were refused; why the last of them was.
    Refused(String),
}

impl Wanted {
    /// The channels named by flags and those in the URL's query, each once.
    pub(super) fn new(flags: &[String], query: &str) -> Wanted {
        let mut wanted = Wanted::default();
        flags.iter().for_each(|name| wanted.add(name));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (name, percent_decode(value)) {
                // The server takes a comma between names, escaped or not.
                ("channel", Some(names)) => names.split(',').for_each(|name| wanted.add(name)),
                ("last_event_id" | "after", Some(id)) => {
                    wanted.since = Some(id.into_owned()).filter(|id| !id.is_empty())
                }
                (name, _) if DECIDED.contains(&name) => {}
                // A malformed parameter is passed on too, because the server says what is wrong with it.
                _ => wanted.others.extend(["&", pair]),
            }
        }
        wanted
    }

    fn add(&mut self, name: &str) {
        if !self.channels.iter().any(|known| known == name) {
            self.channels.push(name.to_owned());
        }
    }

    /// Whether no channel is named, or none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Takes a channel off that has ended.
    pub(super) fn end(&mut self, channel: &str) {
        self.channels.retain(|known| known != channel);
    }

    /// Takes a channel off that was refused or taken away.
    pub(super) fn refuse(&mut self, channel: &str, why: &str) {
        self.end(channel);
        self.refused = Some(why.to_owned());
    }

    /// What the subscriber still has to wait for.
    pub(super) fn left(&self) -> Left {
        match &self.refused {
            _ if !self.is_empty() => Left::Some,
            Some(why) => Left::Refused(why.clone()),
            None => Left::Ended,
        }
    }

    /// The query of the next request; `position` is the transport's parameter for the id to resume after.
    pub(super) fn query(&self, position: &str, last_id: Option<&str>) -> String {
        let mut query = String::new();
        for channel in &self.channels {
            query.push_str(if query.is_empty() { "?channel=" } else { "&channel=" });
            escape(channel, &mut query);
        }
        query.push_str(&self.others);
        if let Some(id) = last_id {
            query.extend(["&", position, "="]);
            escape(id, &mut query);
        }
        query
    }
}

/// Appends a text with everything escaped but unreserved characters (RFC 3986 §2.3).
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_come_from_flags_and_the_url() {
        let flags = ["a".to_owned(), "c:1".to_owned()];
        let wanted = Wanted::new(&flags, "channel=b,a&x=%20&last_event_id=5-1&format=raw&token=t&channel=d%2Ce&wait=3");
        assert_eq!(wanted.channels, ["a", "c:1", "b", "d", "e"]);
        assert_eq!(wanted.since.as_deref(), Some("5-1"));
        let query = wanted.query("after", Some("6-0 x"));
        assert_eq!(query, "?channel=a&channel=c%3A1&channel=b&channel=d&channel=e&x=%20&token=t&after=6-0%20x");
        assert!(Wanted::new(&[], "").is_empty());
        assert!(Wanted::new(&[], "a=b&channel=%zz").is_empty());
    }

    #[test]
    fn it_is_over_with_the_last_channel() {
        let names = |names: &str| Wanted::new(&[], &format!("channel={names}"));
        let mut wanted = names("a,b");
        wanted.end("a");
        wanted.end("another");
        assert_eq!((wanted.left(), wanted.query("after", None)), (Left::Some, "?channel=b".into()));
        wanted.end("b");
        assert_eq!(wanted.left(), Left::Ended);
        let mut wanted = names("a,b");
        wanted.refuse("a", "forbidden");
        assert_eq!(wanted.left(), Left::Some);
        wanted.end("b");
        assert_eq!(wanted.left(), Left::Refused("forbidden".into()));
    }
}
