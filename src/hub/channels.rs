//! The hub's channels: each one's name, its history, and the shards that want its events.

use std::hash::RandomState;
use std::sync::Arc;

use crate::link::{LocalChannel, Replay};
use crate::logic::cells::{Cell, Cells, NONE, Pool, wastes_nothing};
use crate::logic::event::{ChannelName, Event, check_channel_name};
use crate::logic::history::{History, HistoryLimits};
use crate::logic::id::Id;
use crate::logic::names::Names;
use crate::logic::protocol::feed::{ChannelRow, FeedError};

/// The weight of a page of missed events beyond which the next page begins.
const PAGE_BYTES_MAX: usize = 64 * 1024;
/// Channels that are searched for one page of names.
const PAGE_CELLS: u32 = 10_000;

/// A shard that follows a channel, and the shard's number for the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) shard: u16,
    pub(super) local: LocalChannel,
}

/// The routes of one channel. Most channels have one subscriber, and so one route.
#[derive(Clone, Copy, Debug, Default)]
enum Routes {
    #[default]
    None,
    One {
        shard: u16,
        local: LocalChannel,
    },
    /// The number of a list of routes.
    Many(u32),
}

/// Lists of routes for the channels that more than one shard follows.
#[derive(Debug, Default)]
struct RouteLists(Pool<Vec<Route>>);

impl RouteLists {
    /// Adds a route, or gives a shard's route the new number.
    fn set(&mut self, routes: &mut Routes, route: Route) {
        match *routes {
            Routes::None => *routes = Routes::One { shard: route.shard, local: route.local },
            Routes::One { shard, .. } if shard == route.shard => *routes = Routes::One { shard, local: route.local },
            Routes::One { shard, local } => *routes = Routes::Many(self.0.add(vec![Route { shard, local }, route])),
            Routes::Many(number) => {
                let list = &mut self.0[number];
                match list.iter_mut().find(|other| other.shard == route.shard) {
                    Some(other) => *other = route,
                    None => list.push(route),
                }
            }
        }
    }

    fn unset(&mut self, routes: &mut Routes, leaving: u16) {
        match *routes {
            Routes::One { shard, .. } if shard == leaving => *routes = Routes::None,
            Routes::Many(number) => {
                let list = &mut self.0[number];
                list.retain(|route| route.shard != leaving);
                if let [Route { shard, local }] = list[..] {
                    self.0.remove(number);
                    *routes = Routes::One { shard, local };
                }
            }
            _ => {}
        }
    }

    fn of(&self, routes: Routes) -> impl Iterator<Item = Route> {
        let (one, list) = match routes {
            Routes::None => (None, &[][..]),
            Routes::One { shard, local } => (Some(Route { shard, local }), &[][..]),
            Routes::Many(number) => (None, &self.0[number][..]),
        };
        one.into_iter().chain(list.iter().copied())
    }
}

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
}

const _: () = assert!(size_of::<HubChannel>() <= 32, "a million channels must fit");
const _: () = assert!(wastes_nothing::<HubChannel>());

impl Default for HubChannel {
    fn default() -> HubChannel {
        HubChannel { name: None, since: Id::ZERO, routes: Routes::None, history: NONE, policy: 0, ended: false }
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
    /// The number of channels that publishers may bring into being.
    channels_max: usize,
    /// The channel at which the next sweep begins.
    swept: u32,
    /// Events in all histories.
    pub(super) history_events: u64,
    /// Bytes in all histories.
    pub(super) history_bytes: u64,
}

fn name(cells: &Cells<HubChannel>, index: u32) -> &str {
    cells[index].name.as_deref().unwrap_or_default()
}

/// Channels that one sweep visits.
const SWEEP: u32 = 10_000;

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
            channels_max: usize::MAX / 2,
            swept: 0,
            history_events: 0,
            history_bytes: 0,
        }
    }

    /// Sets the number of channels that publishers may bring into being.
    pub(super) fn limit_to(&mut self, channels_max: usize) {
        self.channels_max = channels_max;
    }

    /// Checks that there is room for channels of these names.
    ///
    /// # Errors
    /// If there would be too many channels.
    pub(super) fn check_room_for<'n>(
        &self,
        names: impl Iterator<Item = &'n ChannelName> + Clone,
    ) -> Result<(), FeedError> {
        // The names are looked up only if there is no room for all of them as new channels.
        let has_room = |new: usize| self.cells.used() + new <= self.channels_max;
        if has_room(names.clone().count()) || has_room(names.filter(|name| self.find(name).is_none()).count()) {
            return Ok(());
        }
        let message = format!("there are {} channels, and no more are allowed", self.channels_max);
        Err(FeedError::new("channels", message))
    }

    /// The number of channels.
    pub(super) fn used(&self) -> usize {
        self.cells.used()
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
        self.history(index).map_or(self.cells[index].since, History::complete_since)
    }

    /// The name of the channel of that number, unless there is none or it is the server's own.
    pub(super) fn public_name(&self, index: u32) -> Option<&ChannelName> {
        self.cells.get(index)?.name.as_ref().filter(|name| check_channel_name(name).is_ok())
    }

    /// The numbers of channels whose name starts with `prefix`, and where the next page begins, if there is one.
    pub(super) fn page(&self, prefix: &str, cursor: u32, limit: usize) -> (Vec<u32>, Option<u32>) {
        let capacity = self.cells.capacity();
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

    /// A channel as the answer to `channels` shows it, without its subscribers; the server's own channels are not shown.
    pub(super) fn row(&self, index: u32, events_per_second: f64) -> Option<ChannelRow> {
        let history = self.history(index);
        Some(ChannelRow {
            channel: self.public_name(index)?.clone(),
            ended: self.cells[index].ended,
            events_per_second,
            history_bytes: history.map_or(0, History::bytes),
            history_events: history.map_or(0, History::len),
            subscribers: None,
        })
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

    /// The channel of that number, which must exist.
    pub(super) fn get_mut(&mut self, index: u32) -> &mut HubChannel {
        &mut self.cells[index]
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
        index
    }

    /// Puts an event into the channel's history, if the channel keeps one.
    pub(super) fn remember(&mut self, index: u32, event: &Arc<Event>, now_ms: u64) {
        let channel = &mut self.cells[index];
        let limits = self.policies[usize::from(channel.policy)];
        channel.ended = false;
        if limits.events_max == 0 {
            channel.since = event.id;
            return;
        }
        if channel.history == NONE {
            channel.history = self.histories.add(History::new(channel.since));
        }
        let history = &mut self.histories[channel.history];
        let before = (history.len() as u64, history.bytes() as u64);
        history.push(event.clone(), &limits, now_ms);
        self.history_events = self.history_events + history.len() as u64 - before.0;
        self.history_bytes = self.history_bytes + history.bytes() as u64 - before.1;
    }

    /// Drops the events of a channel that are too old.
    pub(super) fn trim(&mut self, index: u32, now_ms: u64) {
        let channel = &mut self.cells[index];
        if channel.history == NONE {
            return;
        }
        let history = &mut self.histories[channel.history];
        let before = (history.len() as u64, history.bytes() as u64);
        history.trim(&self.policies[usize::from(channel.policy)], now_ms);
        self.history_events = self.history_events + history.len() as u64 - before.0;
        self.history_bytes = self.history_bytes + history.bytes() as u64 - before.1;
        if history.is_empty() {
            channel.since = history.complete_since();
            self.histories.remove(channel.history);
            channel.history = NONE;
        }
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

    /// Gives a shard no more of the channel's events.
    pub(super) fn unfollow(&mut self, shard: u16, local: LocalChannel) {
        if let Some(index) = self.by_local(shard, local) {
            self.lists.unset(&mut self.cells[index].routes, shard);
            self.locals[usize::from(shard)][local as usize] = NONE;
        }
    }

    /// The number of the channel that a shard knows by its own number `local`.
    pub(super) fn by_local(&self, shard: u16, local: LocalChannel) -> Option<u32> {
        let index = *self.locals.get(usize::from(shard))?.get(local as usize)?;
        (index != NONE).then_some(index)
    }

    /// Visits some channels: drops old events, and forgets channels without routes and history.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        for _ in 0..SWEEP.min(self.cells.capacity()) {
            let index = self.swept;
            self.swept = (self.swept + 1) % self.cells.capacity();
            if self.cells[index].name.is_none() {
                continue;
            }
            self.trim(index, now_ms);
            let channel = &self.cells[index];
            if channel.history == NONE && matches!(channel.routes, Routes::None) {
                self.forget(index);
            }
        }
    }

    fn forget(&mut self, index: u32) {
        let HubChannels { cells, names, .. } = self;
        names.remove(index, |index| name(cells, index));
        // The channel's last event is lost now, and the floor is what every unknown channel answers with.
        self.floor = self.floor.max(self.cells[index].since);
        self.cells[index] = HubChannel::default();
        self.cells.give_back(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::event::{Draft, Kind};

    fn channels(events_max: usize) -> HubChannels {
        let limits = HistoryLimits { events_max, bytes_max: 1000, age_max_ms: 100 };
        HubChannels::new(2, Id::new(5, 0), Box::new(move |_| limits))
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
        channels.remember(index, &event(10), 10);
        assert_eq!(channels.complete_since(index), Id::new(5, 0));
        channels.sweep(50);
        assert_eq!(channels.find("c"), Some(index));
        channels.sweep(200);
        assert_eq!(channels.find("c"), None);
        assert_eq!((channels.history_events, channels.history_bytes), (0, 0));
        let index = channels.find_or_add(&"c".into());
        assert_eq!(channels.complete_since(index), Id::new(10, 0));
    }

    #[test]
    fn without_history_only_what_follows_the_last_event_is_complete() {
        let mut channels = channels(0);
        let index = channels.find_or_add(&"c".into());
        channels.remember(index, &event(10), 10);
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
        assert_eq!(channels.lists.0.len(), 0, "the list's number can be used again");
        channels.unfollow(1, 4);
        assert_eq!(channels.routes(index).count(), 0);
        channels.sweep(0);
        assert_eq!(channels.find("c"), None);
    }
}
