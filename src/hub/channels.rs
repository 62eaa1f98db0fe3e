//! The hub's channels: each one's name, its history, and the shards that want its events.
//!
//! Channels of publishers are counted apart from channels that exist only because clients follow them or publish to
//! them, and each kind has a bound of its own: clients cannot use up the room of publishers. A channel without events
//! goes with its last follower.
//!
//! All of it stays within a budget of memory. Beyond the budget the oldest events of histories go, and new names are
//! refused.

mod handed;
mod shown;

use std::hash::RandomState;
use std::sync::Arc;

use crate::link::{LocalChannel, Replay};
use crate::logic::cells::{Cell, Cells, NONE, Pool, wastes_nothing};
use crate::logic::ends::Ends;
use crate::logic::event::{ChannelName, Event};
use crate::logic::history::{EVENT_OVERHEAD, History, HistoryLimits};
use crate::logic::id::Id;
use crate::logic::names::Names;
use crate::logic::protocol::feed::FeedError;

use super::census::{Census, Source};
use super::routes::{Route, RouteLists, Routes};

/// The weight of a page of missed events beyond which the next page begins.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// One channel as the hub keeps it.
#[derive(Debug)]
pub(super) struct HubChannel {
    pub(super) name: Option<ChannelName>,
    /// The id since which no event is lost, while the channel has no history.
    since: Id,
    routes: Routes,
    /// The number of the channel's history, or [`NONE`]; while the cell is free, the next free cell.
    history: u32,
    policy: u16,
    /// Whether the channel was ended and nothing was published since.
    pub(super) ended: bool,
    /// Whether the channel is counted among those of publishers: a publisher's event is in its history, or came since the
    /// last sweep.
    is_published: bool,
}

const _: () = assert!(size_of::<HubChannel>() <= 32, "a million channels must fit");
const _: () = assert!(wastes_nothing::<HubChannel>());

impl Default for HubChannel {
    fn default() -> HubChannel {
        HubChannel {
            name: None,
            since: Id::ZERO,
            routes: Routes::None,
            history: NONE,
            policy: 0,
            ended: false,
            is_published: false,
        }
    }
}

impl HubChannel {
    /// Whether the channel has neither events nor followers.
    fn is_unneeded(&self) -> bool {
        self.history == NONE && matches!(self.routes, Routes::None)
    }
}

impl Cell for HubChannel {
    fn link(&mut self) -> &mut u32 {
        &mut self.history
    }
}

/// The limits of a channel's history, by the channel's name.
pub type HistoryPolicy = Box<dyn Fn(&str) -> HistoryLimits + Send>;

/// All channels of the hub.
pub(super) struct HubChannels {
    cells: Cells<HubChannel>,
    lists: RouteLists,
    histories: Pool<History>,
    names: Names,
    policy: HistoryPolicy,
    policies: Vec<HistoryLimits>,
    /// By shard and by the shard's number for it, each channel's number here.
    locals: Vec<Vec<u32>>,
    /// The id after which no event was published on a channel that the hub does not know.
    floor: Id,
    /// The id before which events may be missing on every channel, in histories too.
    lost_until: Id,
    /// The numbers of channels of each kind, and their bounds.
    pub(super) census: Census,
    /// The channel at which the sweep goes on.
    swept: u32,
    /// The greatest age of events while histories are over the budget; each round of the sweep halves it.
    age_max_ms: u64,
    /// Events that were dropped from histories because the budget of memory was used up.
    pub(super) dropped_for_memory: u64,
    /// The ends of the channels that have ended.
    pub(super) ends: Ends,
    /// Events in all histories.
    pub(super) history_events: u64,
    /// Bytes in all histories.
    pub(super) history_bytes: u64,
}

fn name(cells: &Cells<HubChannel>, index: u32) -> &str {
    cells[index].name.as_deref().unwrap_or_default()
}

/// The age that a sweep begins with when histories are over the budget: a day, in milliseconds.
const PRESSURE_AGE_MS: u64 = 86_400_000;

impl HubChannels {
    /// No channels yet. None has had an event after `floor`.
    pub(super) fn new(shards: usize, floor: Id, policy: HistoryPolicy) -> HubChannels {
        HubChannels {
            cells: Cells::new(),
            lists: RouteLists::default(),
            histories: Pool::default(),
            names: Names::new(RandomState::new()),
            policy,
            policies: Vec::new(),
            locals: vec![Vec::new(); shards],
            floor,
            lost_until: Id::ZERO,
            census: Census::default(),
            swept: 0,
            age_max_ms: u64::MAX,
            dropped_for_memory: 0,
            ends: Ends::default(),
            history_events: 0,
            history_bytes: 0,
        }
    }

    /// Checks that publishers' events may go to channels of these names.
    ///
    /// # Errors
    /// If publishers would have too many channels.
    pub(super) fn check_room_for<'n>(
        &self,
        names: impl Iterator<Item = &'n ChannelName> + Clone,
    ) -> Result<(), FeedError> {
        // The names are looked up only if there is no room for all of them as new channels.
        if self.census.has_room_for_published(names.clone().count()) {
            return Ok(());
        }
        let is_new = |name: &&ChannelName| self.find(name).is_none_or(|index| !self.cells[index].is_published);
        let new = names.filter(is_new).count();
        if new == 0 || self.census.has_room_for_published(new) {
            Ok(())
        } else {
            Err(self.census.no_room("publishers"))
        }
    }

    /// Checks that a client's event may go to the channel of that name.
    ///
    /// # Errors
    /// If the channel would be a new one, and clients have too many.
    pub(super) fn check_room_for_client(&self, name: &ChannelName) -> Result<(), FeedError> {
        if self.has_room_for_client(name) { Ok(()) } else { Err(self.census.no_room("clients")) }
    }

    /// Whether a client's event may go to the channel of that name.
    pub(super) fn has_room_for_client(&self, name: &ChannelName) -> bool {
        self.census.has_room_for_followed() || self.find(name).is_some()
    }

    /// The channel of that name for a shard that wants to follow it, made if there is none. `None` if it would be a new one
    /// and clients have too many.
    pub(super) fn find_or_add_followed(&mut self, name: &ChannelName) -> Option<u32> {
        let has_room = self.census.has_room_for_followed();
        self.find(name).or_else(|| has_room.then(|| self.find_or_add(name)))
    }

    /// The number of channels.
    pub(super) fn used(&self) -> usize {
        self.cells.used()
    }

    /// The bytes of all names and histories.
    pub(super) fn memory(&self) -> u64 {
        self.census.bytes() + self.history_memory()
    }

    /// The bytes of all histories, with what events take beside their content.
    fn history_memory(&self) -> u64 {
        self.history_bytes + self.history_events * EVENT_OVERHEAD as u64
    }

    /// The number of the channel of that name, if there is one.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.names.find(name, |index| self.name(index))
    }

    fn name(&self, index: u32) -> &str {
        name(&self.cells, index)
    }

    /// A channel's history, if it holds one.
    pub(super) fn history(&self, index: u32) -> Option<&History> {
        let number = self.cells[index].history;
        (number != NONE).then(|| &self.histories[number])
    }

    /// The id since which everything that was published on a channel is in its history.
    pub(super) fn complete_since(&self, index: u32) -> Id {
        self.history(index).map_or(self.cells[index].since, History::complete_since).max(self.lost_until)
    }

    /// Notes that events up to an id may be missing on every channel.
    pub(super) fn lose_until(&mut self, id: Id) {
        self.lost_until = self.lost_until.max(id);
        self.floor = self.floor.max(id);
    }

    /// Notes that an event was left out, on a channel that is not known, because there is no room for the channel.
    pub(super) fn leave_out(&mut self, id: Id) {
        self.floor = self.floor.max(id);
    }

    /// The name of the channel of that number, unless there is none.
    pub(super) fn known_name(&self, index: u32) -> Option<&ChannelName> {
        self.cells.get(index)?.name.as_ref()
    }

    /// A page of the events on some of a shard's channels after an id, in the order of their ids. `newest` is the id of the
    /// newest event on any channel.
    pub(super) fn replay(
        &mut self,
        shard: u16,
        locals: &[LocalChannel],
        after: Option<Id>,
        newest: Id,
        now_ms: u64,
    ) -> Replay {
        let mut replay = Replay { after, until: newest, last: true, ..Replay::default() };
        let Some(after) = after else { return replay };
        if after > newest {
            // The id comes from another server, or from this one before its state was lost.
            replay.gap = Some(newest);
            return replay;
        }
        let indexes: Vec<u32> = locals.iter().filter_map(|local| self.by_local(shard, *local)).collect();
        for index in &indexes {
            self.trim(*index, now_ms);
            let since = self.complete_since(*index);
            if since > after {
                replay.gap = replay.gap.max(Some(since));
            }
        }
        let histories = indexes.iter().filter_map(|index| self.history(*index));
        let mut sources: Vec<_> = histories.map(|history| history.after(after).peekable()).collect();
        let mut weight = 0;
        loop {
            let next = sources.iter_mut().filter_map(|source| source.peek().map(|event| event.id)).min();
            let Some(id) = next else { break };
            // Ids are unique, so exactly one history is at this id.
            let Some(event) = sources.iter_mut().find_map(|source| source.next_if(|event| event.id == id)) else {
                break;
            };
            weight += event.weight() + 64;
            if weight > PAGE_BYTES_MAX && !replay.events.is_empty() {
                replay.last = false;
                break;
            }
            replay.events.push(event.clone());
        }
        if !replay.last {
            replay.until = replay.events.last().map_or(after, |event| event.id);
        }
        replay
    }

    /// The channel of that number, which must exist.
    pub(super) fn get(&self, index: u32) -> &HubChannel {
        &self.cells[index]
    }

    /// The shards that follow a channel.
    pub(super) fn routes(&self, index: u32) -> impl Iterator<Item = Route> {
        self.lists.of(self.cells[index].routes)
    }

    /// The number of the channel of that name, which is made if there is none.
    pub(super) fn find_or_add(&mut self, name: &ChannelName) -> u32 {
        if let Some(index) = self.find(name) {
            return index;
        }
        let limits = (self.policy)(name);
        let policy = self.policies.iter().position(|known| *known == limits).unwrap_or_else(|| {
            self.policies.push(limits);
            self.policies.len() - 1
        });
        let index = self.cells.take();
        let policy = u16::try_from(policy).unwrap_or(u16::MAX);
        self.cells[index] = HubChannel { name: Some(name.clone()), since: self.floor, policy, ..HubChannel::default() };
        let HubChannels { cells, names, .. } = self;
        names.add(index, |index| self::name(cells, index));
        self.census.add(name);
        index
    }

    /// Counts a channel among those of publishers, or no longer.
    fn count_as(&mut self, index: u32, is_published: bool) {
        let channel = &mut self.cells[index];
        if channel.is_published != is_published {
            channel.is_published = is_published;
            self.census.count_as(channel.name.as_deref().unwrap_or_default(), is_published);
        }
    }

    /// Notes that a channel has ended, with that id.
    pub(super) fn end(&mut self, index: u32, id: Id) {
        self.cells[index].ended = true;
        self.ends.insert(index, id);
    }

    /// Puts an event into the channel's history, if the channel keeps one. While histories are over the budget, the
    /// channel's oldest events make room for the new one.
    pub(super) fn remember(&mut self, index: u32, event: &Arc<Event>, source: Source, now_ms: u64) {
        if source == Source::Publisher {
            self.count_as(index, true);
        }
        let channel = &mut self.cells[index];
        let limits = self.policies[usize::from(channel.policy)];
        if channel.ended {
            channel.ended = false;
            self.ends.remove(index);
        }
        if limits.events_max == 0 {
            channel.since = event.id;
            return;
        }
        if channel.history == NONE {
            channel.history = self.histories.add(History::new(channel.since));
        }
        let weight = event.weight();
        self.change_history(index, |history| {
            history.push(event.clone(), &limits, now_ms);
        });
        if self.cells[index].history == NONE || self.history_memory() <= self.census.history_bytes_max() {
            return;
        }
        let dropped_before = self.history_events;
        self.change_history(index, |history| {
            let target = history.cost().saturating_sub(weight + EVENT_OVERHEAD);
            while history.cost() > target {
                history.drop_oldest();
            }
        });
        self.dropped_for_memory += dropped_before - self.history_events;
        self.age_max_ms = self.age_max_ms.min(PRESSURE_AGE_MS);
    }

    /// Changes a channel's history, and brings the sums over all histories up to date. A history without events goes.
    fn change_history(&mut self, index: u32, change: impl FnOnce(&mut History)) {
        let channel = &mut self.cells[index];
        let history = &mut self.histories[channel.history];
        let before = (history.len() as u64, history.bytes() as u64);
        change(history);
        self.history_events = self.history_events + history.len() as u64 - before.0;
        self.history_bytes = self.history_bytes + history.bytes() as u64 - before.1;
        if history.is_empty() {
            channel.since = history.complete_since();
            self.histories.remove(channel.history);
            channel.history = NONE;
        }
    }

    /// Drops events of a channel that are too old. Returns whether there are no more of them.
    pub(super) fn trim(&mut self, index: u32, now_ms: u64) -> bool {
        let channel = &self.cells[index];
        if channel.history == NONE {
            return true;
        }
        let limits = self.policies[usize::from(channel.policy)];
        let mut is_done = true;
        self.change_history(index, |history| is_done = history.trim(&limits, now_ms));
        is_done
    }

    /// Gives a shard the channel's events from now on, under the shard's number for it.
    pub(super) fn follow(&mut self, index: u32, shard: u16, local: LocalChannel) {
        self.lists.set(&mut self.cells[index].routes, Route { shard, local });
        let Some(locals) = self.locals.get_mut(usize::from(shard)) else { return };
        if locals.len() <= local as usize {
            locals.resize(local as usize + 1, NONE);
        }
        locals[local as usize] = index;
    }

    /// Gives a shard no more of the channel's events. A channel is forgotten if no shard follows it and forgetting it loses
    /// no event.
    pub(super) fn unfollow(&mut self, shard: u16, local: LocalChannel) {
        let Some(index) = self.by_local(shard, local) else { return };
        self.lists.unset(&mut self.cells[index].routes, shard);
        self.locals[usize::from(shard)][local as usize] = NONE;
        let channel = &self.cells[index];
        // A channel with a later event than the floor is left to the sweep, so that the floor is not raised in a hurry.
        if channel.is_unneeded() && !channel.is_published && !channel.ended && channel.since <= self.floor {
            self.forget(index);
        }
    }

    /// The number of the channel that a shard knows by its own number `local`.
    pub(super) fn by_local(&self, shard: u16, local: LocalChannel) -> Option<u32> {
        let index = *self.locals.get(usize::from(shard))?.get(local as usize)?;
        (index != NONE).then_some(index)
    }

    /// The number of places for channels, which one round of the sweep visits.
    pub(super) fn places(&self) -> u32 {
        self.cells.capacity()
    }

    /// Visits the next channel of the sweep: drops some of its old events, and forgets it if it has neither events nor
    /// followers. Returns the number of events that were dropped.
    pub(super) fn sweep_next(&mut self, now_ms: u64) -> u64 {
        let index = self.swept;
        let events_before = self.history_events;
        if index < self.cells.capacity() && self.cells[index].name.is_some() && !self.sweep_channel(index, now_ms) {
            return events_before - self.history_events;
        }
        self.swept = index + 1;
        if self.swept >= self.cells.capacity() {
            self.swept = 0;
            self.end_round();
        }
        events_before - self.history_events
    }

    /// Sweeps one channel; returns whether that is done.
    fn sweep_channel(&mut self, index: u32, now_ms: u64) -> bool {
        if !self.trim(index, now_ms) || !self.relieve(index, now_ms) {
            return false;
        }
        let channel = &self.cells[index];
        if channel.is_unneeded() {
            self.forget(index);
        } else if channel.history == NONE {
            self.count_as(index, false);
        }
        true
    }

    /// Drops events of a channel that are older than the budget of memory allows at present; returns whether there are no
    /// more of them.
    fn relieve(&mut self, index: u32, now_ms: u64) -> bool {
        let age_max_ms = self.age_max_ms;
        if age_max_ms == u64::MAX || self.cells[index].history == NONE || !self.is_pressed() {
            return true;
        }
        let events_before = self.history_events;
        let mut is_done = true;
        self.change_history(index, |history| is_done = history.expire(age_max_ms, now_ms));
        self.dropped_for_memory += events_before - self.history_events;
        is_done
    }

    /// Whether histories take so much of the budget that older events must go.
    pub(super) fn is_pressed(&self) -> bool {
        let room = self.census.history_bytes_max();
        self.age_max_ms != u64::MAX && self.history_memory() > room - room / 16
    }

    /// Ends a round of the sweep: events must be younger in the next round if histories are still over the budget.
    fn end_round(&mut self) {
        self.age_max_ms = if self.is_pressed() { self.age_max_ms / 2 } else { u64::MAX };
    }

    fn forget(&mut self, index: u32) {
        let HubChannels { cells, names, .. } = self;
        names.remove(index, |index| name(cells, index));
        self.count_as(index, false);
        self.census.remove(name(&self.cells, index));
        self.ends.remove(index);
        // The channel's last event is lost now, and the floor is what every unknown channel answers with.
        self.floor = self.floor.max(self.cells[index].since);
        self.cells[index] = HubChannel::default();
        self.cells.give_back(index);
    }
}

#[cfg(test)]
mod tests {
    use super::super::census::ChannelLimits;
    use super::*;
    use crate::logic::event::{Draft, Kind};

    fn channels(events_max: usize) -> HubChannels {
        let limits = HistoryLimits { events_max, bytes_max: 1000, age_max_ms: 100 };
        HubChannels::new(2, Id::new(5, 0), Box::new(move |_| limits))
    }

    fn sweep(channels: &mut HubChannels, now_ms: u64) {
        for _ in 0..channels.places() {
            channels.sweep_next(now_ms);
        }
    }

    fn event(ms: u64) -> Arc<Event> {
        let draft = Draft { name: None, kind: Kind::Text, payload: "x".into() };
        Arc::new(Event { id: Id::new(ms, 0), channel: "c".into(), draft })
    }

    #[test]
    fn a_forgotten_channel_never_claims_more_than_is_true() {
        let mut channels = channels(10);
        let index = channels.find_or_add(&"c".into());
        assert_eq!(channels.complete_since(index), Id::new(5, 0));
        channels.remember(index, &event(10), Source::Publisher, 10);
        assert_eq!(channels.complete_since(index), Id::new(5, 0));
        sweep(&mut channels, 50);
        assert_eq!(channels.find("c"), Some(index));
        sweep(&mut channels, 200);
        assert_eq!(channels.find("c"), None);
        assert_eq!((channels.history_events, channels.history_bytes), (0, 0));
        let index = channels.find_or_add(&"c".into());
        assert_eq!(channels.complete_since(index), Id::new(10, 0));
    }

    #[test]
    fn without_history_only_what_follows_the_last_event_is_complete() {
        let mut channels = channels(0);
        let index = channels.find_or_add(&"c".into());
        channels.remember(index, &event(10), Source::Publisher, 10);
        assert_eq!(channels.complete_since(index), Id::new(10, 0));
    }

    #[test]
    fn routes_come_and_go() {
        let mut channels = channels(0);
        let index = channels.find_or_add(&"c".into());
        channels.follow(index, 0, 7);
        channels.follow(index, 1, 3);
        channels.follow(index, 1, 4);
        assert_eq!(channels.routes(index).count(), 2);
        assert_eq!(channels.by_local(1, 4), Some(index));
        channels.unfollow(0, 7);
        assert_eq!(channels.routes(index).collect::<Vec<_>>(), [Route { shard: 1, local: 4 }]);
        assert_eq!(channels.lists.len(), 0, "the list's number can be used again");
        channels.unfollow(1, 4);
        assert_eq!(channels.find("c"), None, "nothing needs it any more");
    }

    #[test]
    fn a_channel_without_events_goes_with_its_last_follower_and_any_other_stays() {
        let mut channels = channels(10);
        let [silent, loud, ended] = ["silent", "loud", "ended"].map(|name| channels.find_or_add(&name.into()));
        for (local, index) in [silent, loud, ended].into_iter().enumerate() {
            channels.follow(index, 0, local as u32);
        }
        channels.remember(loud, &event(10), Source::Client, 10);
        channels.end(ended, Id::new(5, 0));
        assert_eq!(channels.ends.of(ended), Id::new(5, 0));
        (0..3).for_each(|local| channels.unfollow(0, local));
        assert_eq!(["silent", "loud", "ended"].map(|name| channels.find(name)), [None, Some(loud), Some(ended)]);
        assert_eq!((channels.used(), channels.census.followed()), (2, 2));
        sweep(&mut channels, 1000);
        assert_eq!((channels.used(), channels.census.followed(), channels.memory()), (0, 0, 0));
    }

    #[test]
    fn clients_and_publishers_have_room_of_their_own() {
        let mut channels = channels(10);
        channels.census.limit_to(ChannelLimits { published_max: 2, followed_max: 2, memory_max: u64::MAX });
        let names: Vec<ChannelName> = ["a", "b", "c"].map(Into::into).into();
        let followed = channels.find_or_add_followed(&names[0]).unwrap();
        channels.follow(followed, 0, 0);
        assert!(channels.find_or_add_followed(&names[1]).is_some());
        assert_eq!(channels.find_or_add_followed(&names[2]), None);
        assert!(channels.check_room_for_client(&names[1]).is_ok());
        assert_eq!(channels.check_room_for_client(&names[2]).unwrap_err().code, "channels");
        // The room of publishers is whole, and a channel that a publisher takes over leaves room for clients.
        assert!(channels.check_room_for([&names[0], &names[2]].into_iter()).is_ok());
        channels.remember(followed, &event(10), Source::Publisher, 10);
        assert_eq!((channels.census.followed(), channels.census.published()), (1, 1));
        assert!(channels.find_or_add_followed(&names[2]).is_some());
        assert!(channels.check_room_for([&names[0], &names[1]].into_iter()).is_ok());
        let error = channels.check_room_for([&names[1], &names[2]].into_iter()).unwrap_err();
        assert_eq!(error.code, "channels");
        // Without events a followed channel is one of clients again.
        sweep(&mut channels, 1000);
        assert_eq!((channels.census.followed(), channels.census.published()), (1, 0));
    }

    #[test]
    fn names_and_histories_stay_within_the_budget_and_old_events_go_first() {
        let limits = HistoryLimits { events_max: 1000, bytes_max: 1 << 20, age_max_ms: PRESSURE_AGE_MS };
        let mut channels = HubChannels::new(1, Id::ZERO, Box::new(move |_| limits));
        let memory_max = 100_000;
        channels.census.limit_to(ChannelLimits { published_max: 1 << 20, followed_max: 1 << 20, memory_max });
        let mut followed = 0;
        while channels.find_or_add_followed(&format!("f{followed}").as_str().into()).is_some() {
            followed += 1;
        }
        assert!((200..300).contains(&followed), "{followed} names are a quarter");
        let mut newest = 0;
        for round in 1..=3000_u64 {
            let name: ChannelName = format!("p{}", round % 10).as_str().into();
            channels.check_room_for([&name].into_iter()).unwrap();
            let index = channels.find_or_add(&name);
            let now_ms = round * 1000;
            channels.remember(index, &event(round), Source::Publisher, now_ms);
            assert!(channels.memory() <= memory_max / 4 * 3 + 200, "{} in round {round}", channels.memory());
            // The sweep is slower than the publishers.
            channels.sweep_next(now_ms);
            newest = now_ms;
        }
        assert!(channels.dropped_for_memory > 0 && channels.is_pressed());
        for _ in 0..20 * channels.places() {
            channels.sweep_next(newest);
        }
        assert!(!channels.is_pressed());
        let newest_of = |name: &str| channels.history(channels.find(name).unwrap()).unwrap().len();
        assert!((0..10).all(|n| newest_of(&format!("p{n}")) > 0), "every channel has its newest events");
    }
}
