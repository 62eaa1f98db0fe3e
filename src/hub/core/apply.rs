//! Events: their order, and their way into history and into the shards' queues.
//!
//! Publishing is two steps. Ordering gives an event its id. Applying puts the event into history and gives it to the
//! shards. Only [`Core::apply`] does the second step, and it needs nothing but the event and its id, so that ids that are
//! given elsewhere, and come back later, fit between the two steps.

use std::sync::Arc;

use crate::link::ShardMessage;
use crate::logic::event::{ChannelName, Draft, Event};
use crate::logic::id::Id;
use crate::logic::protocol::feed::{FeedError, Publish};

use super::{Core, HubFigures};

impl Core {
    /// Publishes all of `items`, or none of them; returns an id for each channel of each item.
    ///
    /// # Errors
    /// If there would be too many channels, if a key names another number of channels than before, or if the mark that
    /// keeps ids from going backwards cannot be written.
    pub(in crate::hub) fn publish(&mut self, items: &[Publish], now_ms: u64) -> Result<Vec<Id>, FeedError> {
        self.channels.check_room_for(items.iter().flat_map(|item| &item.channels))?;
        self.keys.check(items, now_ms)?;
        if !self.ids.is_reserved(now_ms) {
            self.ids.reserve(now_ms).map_err(|error| FeedError::new("state", error.to_string()))?;
        }
        let mut ids = Vec::with_capacity(items.len());
        for item in items {
            if let Some(known) = self.keys.ids_of(item, now_ms) {
                ids.extend_from_slice(known);
                continue;
            }
            let first = ids.len();
            for name in &item.channels {
                let id = self.ids.next(now_ms);
                self.apply(id, name, &item.draft, now_ms);
                ids.push(id);
            }
            self.keys.remember(item, &ids[first..], now_ms);
        }
        Ok(ids)
    }

    /// Publishes one event to one channel, for a client or for the server itself.
    ///
    /// # Errors
    /// As [`Core::publish`].
    pub(super) fn publish_to(&mut self, channel: ChannelName, draft: Draft, now_ms: u64) -> Result<Id, FeedError> {
        let publish = Publish { channels: vec![channel], is_list: false, draft, key: None };
        Ok(self.publish(&[publish], now_ms)?.first().copied().unwrap_or_default())
    }

    /// Puts an event that has its id into history, and gives it to traces and to the shards that follow its channel. Events
    /// come in the order of their ids.
    fn apply(&mut self, id: Id, name: &ChannelName, draft: &Draft, now_ms: u64) {
        debug_assert!(id > self.applied, "events come in the order of their ids");
        let index = self.channels.find_or_add(name);
        // The event shares the channel's copy of the name.
        let channel = self.channels.get(index).name.clone().unwrap_or_else(|| name.clone());
        self.busiest.count(index);
        let event = Arc::new(Event { id, channel, draft: draft.clone() });
        self.copy_to_traces(&event);
        self.channels.remember(index, &event, now_ms);
        for route in self.channels.routes(index) {
            self.shards.stage(route.shard, ShardMessage::Event(route.local, event.clone()));
        }
        self.applied = id;
        HubFigures::add(&self.figures.events_published, 1);
    }

    /// Gives the publishers that trace the event's channel a copy.
    fn copy_to_traces(&mut self, event: &Event) {
        let publishers = self.traces.of(&event.channel);
        if publishers.is_empty() {
            return;
        }
        let mut line = b"{\"op\":\"event\",\"event\":".to_vec();
        event.write_json(&mut line);
        line.extend_from_slice(b"}\n");
        for publisher in publishers {
            self.publishers.tell_or_count(*publisher, &line);
        }
    }

    /// Ends a channel until something is published on it again.
    ///
    /// # Errors
    /// If there is no such channel.
    pub(super) fn end(&mut self, name: &str) -> Result<(), FeedError> {
        let Some(index) = self.channels.find(name) else {
            return Err(FeedError::new(
                "no_channel",
                format!("there is no channel {name:?} with subscribers or history"),
            ));
        };
        self.channels.get_mut(index).ended = true;
        for route in self.channels.routes(index) {
            self.shards.stage(route.shard, ShardMessage::Ended(route.local));
        }
        Ok(())
    }
}
