//! Views of channels and connections, put together from the answers of all shards.

use serde_json::value::RawValue;

use crate::link::Seen;
use crate::logic::id::write_decimal;
use crate::logic::protocol::feed::{ChannelsAnswer, FeedError, write_error, write_members, write_ready_made};

/// The kinds of view.
#[derive(Debug)]
enum Shown {
    /// A list of connections, on request with the largest backlog first.
    Connections { limit: usize, slowest_first: bool },
    /// One connection, by its name.
    Connection(Box<str>),
    /// Channels, with what the hub knows of each.
    Channels(ChannelsAnswer),
}

/// A view in the making.
#[derive(Debug)]
pub(super) struct View {
    shown: Shown,
    /// Connections: the bytes that each is behind, and all about it as a JSON object.
    rows: Vec<(u64, Box<str>)>,
    /// Connections that match the question, without the limit.
    matched: u64,
}

impl View {
    fn new(shown: Shown) -> View {
        View { shown, rows: Vec::new(), matched: 0 }
    }

    /// A view of at most `limit` connections, those that are furthest behind if `slowest_first`.
    pub(super) fn of_connections(limit: usize, slowest_first: bool) -> View {
        View::new(Shown::Connections { limit, slowest_first })
    }

    /// A view of the connection with that name.
    pub(super) fn of_connection(name: &str) -> View {
        View::new(Shown::Connection(name.into()))
    }

    /// A view of channels whose subscribers the shards count.
    pub(super) fn of_channels(channels: ChannelsAnswer) -> View {
        View::new(Shown::Channels(channels))
    }

    /// Adds one shard's answer.
    pub(super) fn add(&mut self, seen: Seen) {
        match (seen, &mut self.shown) {
            (Seen::Rows { rows, matched }, shown) => {
                self.rows.extend(rows);
                self.matched += matched;
                if let Shown::Connections { limit, slowest_first } = shown {
                    if *slowest_first {
                        self.rows.sort_by_key(|(behind, _)| std::cmp::Reverse(*behind));
                    }
                    // Each shard answers with as many rows as the answer may have, and only that many are kept.
                    self.rows.truncate(*limit);
                }
            }
            (Seen::Counts(counts), Shown::Channels(answer)) => {
                for (row, count) in answer.channels.iter_mut().zip(counts) {
                    row.subscribers = Some(row.subscribers.unwrap_or(0) + u64::from(count));
                }
            }
            (Seen::Counts(_), _) => {}
        }
    }

    /// Appends the answer.
    pub(super) fn write(self, reference: &RawValue, out: &mut Vec<u8>) {
        match self.shown {
            Shown::Connections { .. } => {
                write_ready_made(out, reference, |out| {
                    out.extend_from_slice(b",\"matched\":");
                    write_decimal(self.matched, out);
                    out.extend_from_slice(b",\"connections\":[");
                    for (place, (_, row)) in self.rows.iter().enumerate() {
                        out.extend_from_slice(if place > 0 { b"," } else { b"" });
                        out.extend_from_slice(row.as_bytes());
                    }
                    out.push(b']');
                });
            }
            Shown::Connection(name) => match self.rows.first() {
                Some((_, row)) => write_ready_made(out, reference, |out| {
                    out.extend_from_slice(b",\"connection\":");
                    out.extend_from_slice(row.as_bytes());
                }),
                None => {
                    let message = format!("there is no connection {name}, or none any more");
                    write_error(out, Some(reference), &FeedError::new("no_connection", message));
                }
            },
            Shown::Channels(answer) => write_members(out, reference, &answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::protocol::feed::ChannelRow;

    fn written(view: View) -> String {
        let mut out = Vec::new();
        view.write(RawValue::NULL, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn rows(rows: &[(u64, &str)], matched: u64) -> Seen {
        Seen::Rows { rows: rows.iter().map(|(behind, row)| (*behind, (*row).into())).collect(), matched }
    }

    #[test]
    fn the_slowest_connections_of_all_shards_come_first() {
        let mut view = View::of_connections(3, true);
        view.add(rows(&[(5, "{\"n\":5}"), (1, "{\"n\":1}")], 10));
        view.add(rows(&[(7, "{\"n\":7}"), (3, "{\"n\":3}")], 2));
        let expected = r#"{"ref":null,"ok":true,"matched":12,"connections":[{"n":7},{"n":5},{"n":3}]}"#;
        assert_eq!(written(view).trim_end(), expected);
    }

    #[test]
    fn one_connection_is_on_one_shard_or_on_none() {
        let mut view = View::of_connection("0.1.2");
        view.add(rows(&[], 0));
        view.add(rows(&[(0, "{}")], 1));
        assert_eq!(written(view), "{\"ref\":null,\"ok\":true,\"connection\":{}}\n");
        let none = written(View::of_connection("0.1.2"));
        assert!(none.starts_with(r#"{"ref":null,"error":{"code":"no_connection","#), "{none}");
    }

    #[test]
    fn subscribers_are_added_up_over_shards() {
        let row = |channel: &str| ChannelRow {
            channel: channel.into(),
            ended: false,
            events_per_second: 0.0,
            history_bytes: 0,
            history_events: 0,
            subscribers: None,
        };
        let mut view = View::of_channels(ChannelsAnswer { channels: vec![row("a"), row("b")], cursor: Some(7) });
        view.add(Seen::Counts(vec![1, 0]));
        view.add(Seen::Counts(vec![2, 0]));
        let answer: serde_json::Value = serde_json::from_str(&written(view)).unwrap();
        assert_eq!(answer["channels"][0]["subscribers"], 3);
        assert_eq!(answer["channels"][1]["subscribers"], 0);
        assert_eq!(answer["cursor"], 7);
    }
}
