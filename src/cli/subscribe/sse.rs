//! Reading an event stream (WHATWG HTML §9.2.6).

use std::time::Duration;

/// An event of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// The id of this event or, without one, that of the last event that had one.
    pub(super) id: Option<String>,
    /// Whether the id is the event's own; an event for one connection alone has no id.
    pub(super) has_own_id: bool,
    /// The event's type (`event:`).
    pub(super) name: Option<String>,
    /// The data, its lines joined with line breaks.
    pub(super) data: String,
}

/// Takes the bytes of a stream as they come, and gives its events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    id: Option<String>,
    has_id: bool,
    name: Option<String>,
    data: Option<String>,
    /// The time that the server last asked clients to wait before they reconnect (`retry:`).
    pub(super) retry: Option<Duration>,
}

impl Parser {
    /// The events that `bytes` completes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            if std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n' {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                let line = std::mem::take(&mut self.line);
                events.extend(self.read_line(&String::from_utf8_lossy(&line)));
            } else {
                self.line.push(byte);
            }
        }
        events
    }

    fn read_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = self.name.take();
            let has_own_id = std::mem::take(&mut self.has_id);
            return self.data.take().map(|data| Event { id: self.id.clone(), has_own_id, name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" if !value.contains('\0') => {
                self.id = Some(value.to_string());
                self.has_id = true;
            }
            "event" => self.name = Some(value.to_string()),
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_string()),
            },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_make_an_event() {
        let mut parser = Parser::default();
        let events =
            parser.push(b":comment\nretry: 1500\nid: 5-1\nevent: e\ndata: a\r\ndata:b\rdata\n\nid: 6\n\ndata: c\n\n");
        assert_eq!(
            events,
            [
                Event { id: Some("5-1".into()), has_own_id: true, name: Some("e".into()), data: "a\nb\n".into() },
                Event { id: Some("6".into()), has_own_id: false, name: None, data: "c".into() },
            ]
        );
        assert_eq!(parser.retry, Some(Duration::from_millis(1500)));
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same_events(cut in 0usize..60) {
            let text = b"id: 1\r\ndata: a\r\n\r\nid: 2\r\ndata: b\r\ndata: c\r\n\r\n";
            let whole = Parser::default().push(text);
            let mut parser = Parser::default();
            let cut = cut.min(text.len());
            let mut events = parser.push(&text[..cut]);
            events.extend(parser.push(&text[cut..]));
            prop_assert_eq!(events, whole);
        }
    }
}
