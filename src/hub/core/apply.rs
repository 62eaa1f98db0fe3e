//! Events: their order, and their way into history and into the shards' queues.
//!
//! Publishing is two steps. Ordering gives an event its id. Applying puts the event into history and gives it to the
//! shards. Only [`Core::apply`] does the second step, and it needs nothing but the event and its id, so that ids that are
//! given elsewhere, and come back later, fit between the two steps.
//!
//! A line may hold very many events. It is checked as a whole, and then applied event by event: a long line over
//! several turns, and only while the shards' queues have room.

use std::slice;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::link::ShardMessage;
use crate::logic::event::{ChannelName, Draft, Event};
use crate::logic::id::Id;
use crate::logic::protocol::feed::{Command, FeedError, Publish, write_ids};

use super::super::Order;
use super::super::census::Source;
use super::super::publishers::{Stopped, Work};
use super::budget::{Budget, Now};
use super::{Core, HubFigures};

/// Events of a line, and bytes of their content summed over channels, beyond which the line is applied over several
/// turns if need be. So much is also applied between two looks at the shards' queues.
const PORTION_EVENTS: usize = 256;
const PORTION_BYTES: usize = 1 << 20;

/// How far a line is applied.
#[derive(Debug, Default)]
struct Progress {
    /// The place of the next item, and of its next channel.
    item: usize,
    channel: usize,
    /// The ids so far, and how many of them belong to earlier items.
    ids: Vec<Id>,
    earlier: usize,
}

/// A long line that is applied over several turns. No other line of a publisher is carried out before its end, so that
/// what was checked stays true.
#[derive(Debug)]
pub(super) struct Applying {
    items: Vec<Publish>,
    progress: Progress,
    /// The time at which the line was checked. Its ids are given at this time, because they were reserved then.
    now: Now,
    reference: Option<Box<RawValue>>,
    /// Whether the answer is a list of ids.
    is_list: bool,
    /// The rest of the publisher's lines, unless the publisher has gone.
    work: Option<Work>,
}

/// The events of a command that publishes, and whether its answer is a list.
fn events_of(command: &Command) -> Option<(&[Publish], bool)> {
    match command {
        Command::Publish(publish) => Some((slice::from_ref(publish), publish.is_list)),
        Command::Batch(items) => Some((items, true)),
        _ => None,
    }
}

/// Whether a command publishes more than one portion.
pub(super) fn is_long(command: &Command) -> bool {
    let Some((items, _)) = events_of(command) else { return false };
    let events: usize = items.iter().map(|item| item.channels.len()).sum();
    let bytes = items.iter().map(|item| item.channels.len().saturating_mul(item.draft.payload.len()));
    events > PORTION_EVENTS || bytes.fold(0, usize::saturating_add) > PORTION_BYTES
}

impl Core {
    /// Publishes all of `items`, or none of them; returns an id for each channel of each item.
    ///
    /// # Errors
    /// If there would be too many channels, if a key was used for other channels before, or if the mark that
    /// keeps ids from going backwards cannot be written.
    pub(in crate::hub) fn publish(
        &mut self,
        items: &[Publish],
        source: Source,
        now: Now,
    ) -> Result<Vec<Id>, FeedError> {
        self.check(items, source, now)?;
        let mut progress = Progress { ids: Vec::with_capacity(items.len()), ..Progress::default() };
        while self.apply_next(items, &mut progress, source, now).is_some() {}
        Ok(progress.ids)
    }

    /// Checks that all of `items` can be published, and reserves ids for them.
    pub(super) fn check(&mut self, items: &[Publish], source: Source, now: Now) -> Result<(), FeedError> {
        let mut names = items.iter().flat_map(|item| &item.channels);
        match source {
            Source::Publisher => self.channels.check_room_for(names)?,
            Source::Client => names.try_for_each(|name| self.channels.check_room_for_client(name))?,
        }
        let key_ms = self.key_ms(now);
        self.keys.check(items, key_ms)?;
        self.reserve_ids(now)
    }

    /// Applies the next event of a line, or takes the ids of an item that was published before. Returns the bytes of the
    /// event's content, or `None` after the last one.
    fn apply_next(&mut self, items: &[Publish], progress: &mut Progress, source: Source, now: Now) -> Option<usize> {
        let item = items.get(progress.item)?;
        if progress.channel == 0 {
            progress.earlier = progress.ids.len();
            if let Some(known) = self.keys.ids_of(item, now.steady_ms) {
                progress.ids.extend_from_slice(known);
                progress.item += 1;
                return Some(0);
            }
        }
        let Order::Local(ids) = &mut self.order else { return None };
        let id = ids.next(now.unix_ms);
        if let Some(name) = item.channels.get(progress.channel) {
            self.apply(id, name, &item.draft, source, now);
            progress.ids.push(id);
        }
        progress.channel += 1;
        if progress.channel >= item.channels.len() {
            self.keys.remember(item, &progress.ids[progress.earlier..], now.steady_ms);
            progress.item += 1;
            progress.channel = 0;
        }
        Some(item.draft.payload.len())
    }

    /// Begins to apply a long line, whose publisher's `work` waits for its end.
    ///
    /// # Errors
    /// As [`Core::publish`].
    pub(super) fn begin_applying(
        &mut self,
        command: Command,
        reference: Option<Box<RawValue>>,
        now: Now,
    ) -> Result<Box<Applying>, FeedError> {
        let is_list = events_of(&command).is_some_and(|(_, is_list)| is_list);
        let items = match command {
            Command::Publish(publish) => vec![publish],
            Command::Batch(items) => items,
            _ => Vec::new(),
        };
        self.check(&items, Source::Publisher, now)?;
        Ok(Box::new(Applying { items, progress: Progress::default(), now, reference, is_list, work: None }))
    }

    /// Leaves a long line to [`Core::go_on_applying`].
    pub(super) fn put_applying(&mut self, mut applying: Box<Applying>, work: Work) {
        applying.work = Some(work);
        self.applying = Some(applying);
    }

    /// Applies more of the long line, if there is one, while the budget lasts and the shards' queues have room. Returns
    /// whether nothing of a long line is left.
    pub(super) fn go_on_applying(&mut self, budget: &mut Budget) -> bool {
        let Some(mut applying) = self.applying.take() else { return true };
        while !budget.is_spent() && !self.hold_back_for_room() {
            if !self.apply_portion(&mut applying, budget) {
                self.end_applying(*applying);
                return true;
            }
        }
        self.applying = Some(applying);
        false
    }

    /// Applies a portion of a long line and gives it to the shards; returns whether more is left.
    fn apply_portion(&mut self, applying: &mut Applying, budget: &mut Budget) -> bool {
        let Applying { items, progress, now, .. } = applying;
        let (mut events, mut bytes) = (0, 0);
        while events < PORTION_EVENTS && bytes < PORTION_BYTES && !budget.is_spent() {
            let Some(size) = self.apply_next(items, progress, Source::Publisher, *now) else { return false };
            events += 1;
            bytes += size;
            budget.spend(1, &self.clock, &mut self.now);
        }
        self.flush();
        true
    }

    /// Answers a long line, and goes on with its publisher's other lines.
    fn end_applying(&mut self, applying: Applying) {
        self.flush();
        let Applying { progress, reference, is_list, work, .. } = applying;
        let Some(mut work) = work else { return };
        if let Some(reference) = reference {
            write_ids(work.answers.tail(), &reference, &progress.ids, is_list);
        }
        self.publishers.give_back(work, Stopped::Paused, &mut self.wants);
    }

    /// Takes the rest of a publisher's lines out of the long line that they wait for, because the publisher has gone.
    pub(super) fn take_applying_work(&mut self, number: usize) -> Option<Work> {
        self.applying.as_mut()?.work.take_if(|work| work.number == number)
    }

    /// Publishes one event to one channel, for a client or for the server itself.
    ///
    /// # Errors
    /// As [`Core::publish`].
    pub(super) fn publish_to(&mut self, channel: ChannelName, draft: Draft, now: Now) -> Result<Id, FeedError> {
        let publish = Publish { channels: vec![channel], is_list: false, draft, key: None };
        Ok(self.publish(&[publish], Source::Client, now)?.first().copied().unwrap_or_default())
    }

    /// Puts an event that has its id into history, and gives it to traces and to the shards that follow its channel. Events
    /// come in the order of their ids.
    pub(super) fn apply(&mut self, id: Id, name: &ChannelName, draft: &Draft, source: Source, now: Now) {
        debug_assert!(id > self.applied, "events come in the order of their ids");
        let index = self.channels.find_or_add(name);
        // The event shares the channel's copy of the name.
        let channel = self.channels.get(index).name.clone().unwrap_or_else(|| name.clone());
        self.busiest.count(index);
        let event = Arc::new(Event { id, channel, draft: draft.clone() });
        self.copy_to_traces(&event);
        self.channels.remember(index, &event, source, now.steady_ms);
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

    /// Ends a channel until something is published on it again. The end has an id of its own, so that a position says
    /// whether a client was told of it.
    ///
    /// # Errors
    /// If there is no such channel, or if the mark that keeps ids from going backwards cannot be written.
    pub(super) fn end(&mut self, name: &str, now: Now) -> Result<(), FeedError> {
        let Some(index) = self.channels.find(name) else {
            return Err(FeedError::new(
                "no_channel",
                format!("there is no channel {name:?} with subscribers or history"),
            ));
        };
        if self.channels.get(index).ended {
            return Ok(());
        }
        self.reserve_ids(now)?;
        if let Order::Local(ids) = &mut self.order {
            let id = ids.next(now.unix_ms);
            self.apply_end(index, id);
        }
        Ok(())
    }

    /// Ends a channel with that id, and tells the shards that follow it.
    pub(super) fn apply_end(&mut self, index: u32, id: Id) {
        self.channels.end(index, id);
        for route in self.channels.routes(index) {
            self.shards.stage(route.shard, ShardMessage::Ended(route.local, id));
        }
        self.applied = id;
    }

    /// Has the next id covered by the mark that keeps ids from going backwards.
    fn reserve_ids(&mut self, now: Now) -> Result<(), FeedError> {
        let Order::Local(ids) = &mut self.order else { return Ok(()) };
        if ids.is_reserved(now.unix_ms) {
            return Ok(());
        }
        ids.reserve(now.unix_ms).map_err(|error| FeedError::new("state", error.to_string()))
    }
}
