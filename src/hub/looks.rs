//! Looking at channels and connections: the hub asks every shard and puts the answers together.

use std::collections::HashMap;
use std::sync::Arc;

use arcstr::ArcStr;
use serde_json::json;

use crate::link::{Look, Seen, ShardMessage};
use crate::logic::event::{ChannelName, check_channel_name};
use crate::logic::json;
use crate::logic::protocol::feed::{ChannelFilter, ConnectionFilter, FeedError, write_error, write_ok_with};

use super::core::Core;

/// Channels that are looked at for one page.
const PAGE_CELLS: u32 = 10_000;

/// A question whose answers are being waited for.
#[derive(Debug)]
pub(super) struct PendingLook {
    pub(super) missing: usize,
    what: What,
    rows: Vec<(u64, Box<str>)>,
    matched: u64,
    counts: Vec<u64>,
}

/// What the answers are put together to.
#[derive(Debug)]
enum What {
    /// A list of connections, of so many at most.
    Connections { limit: usize, slowest_first: bool },
    /// One connection.
    Connection(Box<str>),
    /// Channels, as far as the hub knows them, and where the next page begins.
    Channels { rows: Vec<serde_json::Value>, next: Option<u32> },
}

impl Core {
    fn ask_shards(&mut self, look: Look, what: What) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        let look = Arc::new(look);
        self.stage_all(|| ShardMessage::Look { request, look: look.clone() });
        let missing = self.shards.len();
        self.looks.insert(request, PendingLook { missing, what, rows: Vec::new(), matched: 0, counts: Vec::new() });
        request
    }

    /// Asks for connections.
    pub(super) fn look_for_connections(&mut self, filter: ConnectionFilter) -> u64 {
        let what = What::Connections { limit: filter.limit, slowest_first: filter.slowest_first };
        self.ask_shards(Look::Connections(filter), what)
    }

    /// Asks for all about one connection.
    pub(super) fn look_at_connection(&mut self, name: &str) -> Result<u64, FeedError> {
        let id = self.connection_of_a_shard(name)?;
        Ok(self.ask_shards(Look::Connection(id), What::Connection(name.into())))
    }

    /// Asks how many subscribers some channels have.
    pub(super) fn look_at_channels(&mut self, filter: &ChannelFilter, now_ms: u64) -> u64 {
        let busiest = self.busiest.list(now_ms);
        let (indexes, next) = match filter {
            ChannelFilter::Busiest { limit } => {
                let known = busiest.iter().map(|(index, _)| *index).filter(|index| self.public_name(*index).is_some());
                (known.take(*limit).collect(), None)
            }
            ChannelFilter::Named { prefix, cursor, limit } => self.page(prefix, *cursor, *limit),
        };
        let rates: HashMap<u32, f64> = busiest.into_iter().collect();
        let row = |index: &u32| {
            let history = self.channels.history(*index);
            json!({
                "channel": self.public_name(*index).map(ArcStr::as_str),
                "events_per_second": (rates.get(index).copied().unwrap_or(0.0) * 100.0).round() / 100.0,
                "history_events": history.map_or(0, |history| history.len()),
                "history_bytes": history.map_or(0, |history| history.bytes()),
                "ended": self.channels.get(*index).ended,
            })
        };
        let rows = indexes.iter().map(row).collect();
        let names = indexes.iter().filter_map(|index| self.public_name(*index).cloned()).collect();
        self.ask_shards(Look::Subscribers(names), What::Channels { rows, next })
    }

    /// The name of the channel of that number, if there is one and it is not the server's own.
    fn public_name(&self, index: u32) -> Option<&ChannelName> {
        self.channels.name_of(index).filter(|name| check_channel_name(name).is_ok())
    }

    /// Channels by name, and where the next page begins.
    fn page(&self, prefix: &str, cursor: u32, limit: usize) -> (Vec<u32>, Option<u32>) {
        let capacity = self.channels.capacity();
        let mut found = Vec::new();
        let mut index = cursor.min(capacity);
        let end = index.saturating_add(PAGE_CELLS).min(capacity);
        while index < end && found.len() < limit {
            if self.public_name(index).is_some_and(|name| name.starts_with(prefix)) {
                found.push(index);
            }
            index += 1;
        }
        (found, (index < capacity).then_some(index))
    }

    /// A shard has answered.
    pub(super) fn seen(&mut self, request: u64, seen: Seen) {
        let Some(look) = self.looks.get_mut(&request) else { return };
        look.missing -= 1;
        match seen {
            Seen::Rows { rows, matched } => {
                look.rows.extend(rows);
                look.matched += matched;
            }
            Seen::Counts(counts) => {
                look.counts.resize(counts.len(), 0);
                look.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += u64::from(count));
            }
        }
        self.answered.notify();
    }

    /// Writes the answer to a question, with what has been seen.
    pub(super) fn write_look(&mut self, request: u64, reference: &str, out: &mut Vec<u8>) {
        let Some(mut look) = self.looks.remove(&request) else { return };
        match look.what {
            What::Connections { limit, slowest_first } => {
                if slowest_first {
                    look.rows.sort_by_key(|(lag, _)| std::cmp::Reverse(*lag));
                }
                write_ok_with(out, reference, |out| {
                    out.extend_from_slice(format!(",\"matched\":{},\"connections\":[", look.matched).as_bytes());
                    for (place, (_, row)) in look.rows.iter().take(limit).enumerate() {
                        out.extend_from_slice(if place > 0 { b"," } else { b"" });
                        out.extend_from_slice(row.as_bytes());
                    }
                    out.push(b']');
                });
            }
            What::Connection(name) => match look.rows.first() {
                Some((_, row)) => write_ok_with(out, reference, |out| {
                    out.extend_from_slice(b",\"connection\":");
                    out.extend_from_slice(row.as_bytes());
                }),
                None => {
                    let message = format!("there is no connection {name}, or none any more");
                    write_error(out, Some(reference), &FeedError::new("no_connection", message));
                }
            },
            What::Channels { mut rows, next } => {
                for (row, count) in rows.iter_mut().zip(look.counts) {
                    row["subscribers"] = count.into();
                }
                write_ok_with(out, reference, |out| {
                    out.extend_from_slice(b",\"channels\":");
                    json::write(&rows, out);
                    out.extend_from_slice(b",\"cursor\":");
                    json::write(&next, out);
                });
            }
        }
    }
}
