//! Channels as records of a hand-over, and back.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use crate::logic::cells::NONE;
use crate::logic::event::{ChannelName, Event};
use crate::logic::history::History;
use crate::logic::id::Id;

use super::HubChannels;

impl HubChannels {
    /// The id after which no event was published on an unknown channel, and the one before which events may be missing.
    pub(in crate::hub) fn bounds(&self) -> (Id, Id) {
        (self.floor, self.lost_until)
    }

    /// Goes on with a predecessor's bounds.
    pub(in crate::hub) fn restore(&mut self, floor: Id, lost_until: Id) {
        (self.floor, self.lost_until) = (floor, lost_until);
    }

    /// The id since which a channel's history is complete by itself, the id of the channel's end, and whether the channel is
    /// counted among those of publishers.
    pub(in crate::hub) fn facts(&self, index: u32) -> (Id, Option<Id>, bool) {
        let channel = &self.cells[index];
        let since = self.history(index).map_or(channel.since, History::complete_since);
        (since, channel.ended.then(|| self.ends.of(index)), channel.is_published)
    }

    /// Adds a channel of a predecessor, or brings one that was sent ahead up to date; returns its number. No limit holds for it.
    pub(in crate::hub) fn restore_channel(
        &mut self,
        name: &ChannelName,
        since: Id,
        ended: Option<Id>,
        is_published: bool,
    ) -> u32 {
        let index = self.find_or_add(name);
        if self.cells[index].history != NONE {
            self.change_history(index, |history| history.drop_until(since));
        }
        self.cells[index].since = since;
        self.count_as(index, is_published);
        match ended {
            Some(id) => self.end(index, id),
            None if mem::take(&mut self.cells[index].ended) => self.ends.remove(index),
            None => {}
        }
        index
    }

    /// Adds an event of a predecessor to a channel's history, unless it is there already.
    pub(in crate::hub) fn restore_event(&mut self, index: u32, event: Arc<Event>, arrived_ms: u64) {
        let newest = self.history(index).and_then(History::newest);
        if event.id <= newest.unwrap_or(self.cells[index].since) {
            return;
        }
        let limits = self.policies[usize::from(self.cells[index].policy)];
        let channel = &mut self.cells[index];
        if limits.events_max == 0 {
            channel.since = event.id;
            return;
        }
        if channel.history == NONE {
            channel.history = self.histories.add(History::new(channel.since));
        }
        self.change_history(index, |history| history.push(event, &limits, arrived_ms));
    }

    /// Forgets the channels that were sent ahead and have gone since: all but those that are `present`.
    pub(in crate::hub) fn restore_end(&mut self, present: &HashSet<u32>) {
        for index in 0..self.cells.capacity() {
            if self.cells[index].name.is_none() || present.contains(&index) {
                continue;
            }
            if self.cells[index].history != NONE {
                self.change_history(index, |history| history.drop_until(Id::MAX));
            }
            self.forget(index);
        }
    }
}
