//! Channels as the answers to operators show them.

use crate::logic::history::History;
use crate::logic::protocol::feed::ChannelRow;

use super::HubChannels;

/// Channels that are searched for one page of names.
const PAGE_CELLS: u32 = 10_000;

impl HubChannels {
    /// The numbers of channels whose name starts with `prefix`, and where the next page begins, if there is one.
    pub(in crate::hub) fn page(&self, prefix: &str, cursor: u32, limit: usize) -> (Vec<u32>, Option<u32>) {
        let capacity = self.cells.capacity();
        let mut found = Vec::new();
        let mut index = cursor.min(capacity);
        let end = index.saturating_add(PAGE_CELLS).min(capacity);
        while index < end && found.len() < limit {
            if self.known_name(index).is_some_and(|name| name.starts_with(prefix)) {
                found.push(index);
            }
            index += 1;
        }
        (found, (index < capacity).then_some(index))
    }

    /// A channel as the answer to `channels` shows it, without its subscribers.
    pub(in crate::hub) fn row(&self, index: u32, events_per_second: f64) -> Option<ChannelRow> {
        let history = self.history(index);
        Some(ChannelRow {
            channel: self.known_name(index)?.clone(),
            ended: self.cells[index].ended,
            events_per_second,
            history_bytes: history.map_or(0, History::bytes),
            history_events: history.map_or(0, History::len),
            subscribers: None,
        })
    }
}
