//! The channels that a shard follows, and their lanes. A *lane* is a channel's log in one protocol and coding, with the
//! list of its readers; a channel has a lane for each protocol and coding that subscribers use.

mod kept;

use std::collections::VecDeque;
use std::hash::RandomState;
use std::ops::{Index, IndexMut};
use std::time::Duration;

use crate::logic::ends::Ends;
use crate::logic::event::ChannelName;
use crate::logic::id::Id;
use crate::logic::log::{Log, Position};
use crate::logic::names::Names;
use crate::logic::session::LaneKey;
use crate::logic::wheel::Tick;

use crate::logic::cells::{Cell, Cells, NONE, Pool, Slack, wastes_nothing};

use super::settings::{Policies, Policy, ticks};
use super::unused::{Kept, Unused};

/// The age of a log's newest event at which the log is emptied, if every reader has everything.
const LOG_KEPT: Duration = Duration::from_secs(30);
/// The most bytes that a log keeps for cheap resumes once every reader has everything.
const RETAINED_PER_LOG: u64 = 64 * 1024;
/// The bytes that a log counts for beside its frames.
const LOG_OVERHEAD: u64 = 512;

/// Whether the events of a channel come from the hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Following {
    /// The shard has asked for the events, and the hub has not confirmed yet from which id on they come.
    #[default]
    Asked,
    /// Every event of the channel comes through the queue.
    Yes,
    /// The shard has given the channel up; its number is free once the hub has confirmed that.
    GivenUp,
}

/// A channel as the shard knows it.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// The channel's name; `None` in a free cell.
    pub(super) name: Option<ChannelName>,
    /// The channel's first lane; while the cell is free, the next free cell.
    pub(super) lanes: u32,
    /// The number of the channel's policy.
    pub(super) policy: u16,
    pub(super) following: Following,
    /// Whether a publisher has ended the channel and nothing was published on it since.
    pub(super) ended: bool,
}

const _: () = assert!(size_of::<Channel>() <= 16, "a channel of its own for each connection must cost little");
const _: () = assert!(wastes_nothing::<Channel>());

impl Cell for Channel {
    fn link(&mut self) -> &mut u32 {
        &mut self.lanes
    }
}

/// A reader of a lane: a connection's slot and the number of its subscription.
///
/// A lane holds its only reader itself, so that a channel of one subscriber needs no list. If the lane has no reader or
/// several, the slot is [`NONE`] and `subscription` is the number of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reader {
    pub(super) slot: u32,
    pub(super) subscription: u32,
}

const NO_READER: Reader = Reader { slot: NONE, subscription: NONE };

/// One channel in one protocol and coding.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) log: Log,
    reader: Reader,
    pub(super) channel: u32,
    /// The channel's next lane; while the cell is free, the next free cell.
    next: u32,
    /// The number of readers that have everything up to the head. When all have, the log is not needed.
    pub(super) at_head: u32,
    /// The number of subscriptions, with those that wait for missed events and do not read yet.
    users: u32,
    /// The time at which an event was last appended; without subscriptions, the time at which the last one ended.
    pub(super) touched: Tick,
    pub(super) key: LaneKey,
    /// Whether the lane is in the list of lanes that are being walked.
    pub(super) walking: bool,
    /// Whether the lane is in the list of logs that are looked at for their age.
    pub(super) aging: bool,
    /// Whether the log is kept because a reader does not have everything; its memory is part of
    /// [`Lanes::lagging_bytes`] then.
    lags: bool,
}

const _: () = assert!(size_of::<Lane>() <= 56, "a channel of its own for each connection must cost little");
const _: () = assert!(wastes_nothing::<Lane>());

impl Default for Lane {
    fn default() -> Lane {
        Lane {
            log: Log::new(None),
            reader: NO_READER,
            channel: NONE,
            next: NONE,
            at_head: 0,
            users: 0,
            touched: 0,
            key: LaneKey::default(),
            walking: false,
            aging: false,
            lags: false,
        }
    }
}

impl Cell for Lane {
    fn link(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl Lane {
    /// Whether the lane has no subscription, neither reading nor waiting for missed events.
    pub(super) fn is_unused(&self) -> bool {
        self.users == 0
    }

    /// Whether the lane has subscriptions beside its `readers`, which wait for missed events.
    pub(super) fn has_waiting(&self, readers: usize) -> bool {
        self.users as usize > readers
    }
}

fn name(channels: &Cells<Channel>, channel: u32) -> &str {
    channels[channel].name.as_deref().unwrap_or_default()
}

/// All channels and lanes of a shard. The index operator gives a lane.
pub(super) struct Lanes {
    pub(super) channels: Cells<Channel>,
    cells: Cells<Lane>,
    names: Names,
    /// The readers of lanes that have several.
    lists: Pool<Vec<Reader>>,
    /// The framed bytes that all logs keep.
    pub(super) kept_bytes: u64,
    /// The memory of the logs that are kept because a reader does not have everything.
    pub(super) lagging_bytes: u64,
    policies: Policies,
    /// The id up to which the hub has sent every event on the shard's channels.
    pub(super) seen: Id,
    /// The id before which events may be missing on every channel, in logs too.
    pub(super) lost_until: Id,
    /// The ends of the channels that have ended.
    ends: Ends,
    /// Lanes without subscriptions.
    unused: Unused,
    /// Logs that may have grown old, each with the time at which it is looked at.
    aging: VecDeque<(Tick, u32)>,
}

impl Index<u32> for Lanes {
    type Output = Lane;

    fn index(&self, lane: u32) -> &Lane {
        &self.cells[lane]
    }
}

impl IndexMut<u32> for Lanes {
    fn index_mut(&mut self, lane: u32) -> &mut Lane {
        &mut self.cells[lane]
    }
}

impl Lanes {
    pub(super) fn new() -> Lanes {
        Lanes {
            channels: Cells::new(),
            cells: Cells::new(),
            names: Names::new(RandomState::new()),
            lists: Pool::default(),
            kept_bytes: 0,
            lagging_bytes: 0,
            policies: Policies::default(),
            seen: Id::ZERO,
            lost_until: Id::ZERO,
            ends: Ends::default(),
            unused: Unused::default(),
            aging: VecDeque::new(),
        }
    }

    /// Raises the id up to which the hub has sent every event.
    pub(super) fn see(&mut self, id: Id) {
        self.seen = self.seen.max(id);
    }

    /// Notes that a publisher has ended a channel, with that id.
    pub(super) fn end(&mut self, channel: u32, id: Id) {
        self.see(id);
        self.channels[channel].ended = true;
        self.ends.insert(channel, id);
    }

    /// Notes that a channel goes on after its end, or that the shard does not know whether it has ended.
    pub(super) fn revive(&mut self, channel: u32) {
        if std::mem::take(&mut self.channels[channel].ended) {
            self.ends.remove(channel);
        }
    }

    /// The id of the end of a lane's channel, if the channel has ended.
    pub(super) fn end_of(&self, lane: u32) -> Option<Id> {
        let channel = self.cells[lane].channel;
        self.channels[channel].ended.then(|| self.ends.of(channel))
    }

    /// The channel of a lane.
    pub(super) fn channel_of(&self, lane: u32) -> &Channel {
        &self.channels[self.cells[lane].channel]
    }

    /// The policy of a lane's channel.
    pub(super) fn policy_of(&self, lane: u32) -> Policy {
        self.policies.get(self.channel_of(lane).policy)
    }

    /// The most framed bytes of a reader's backlog in the lane.
    pub(super) fn max_lag(&self, lane: u32) -> u64 {
        self.policy_of(lane).max_lag
    }

    /// The number of an equal policy in the table.
    pub(super) fn policy_number(&mut self, policy: Policy) -> u16 {
        self.policies.number(policy)
    }

    /// The number of the channel of that name, if the shard has the channel.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.names.find(name, |index| self.name(index))
    }

    /// A channel's name; empty in a free cell.
    pub(super) fn name(&self, channel: u32) -> &str {
        name(&self.channels, channel)
    }

    /// Adds a channel that is not there yet.
    pub(super) fn add(&mut self, name: ChannelName, policy: u16) -> u32 {
        let index = self.channels.take();
        self.channels[index] = Channel { name: Some(name), lanes: NONE, policy, ..Channel::default() };
        let Lanes { channels, names, .. } = self;
        names.add(index, |index| self::name(channels, index));
        index
    }

    /// Forgets a channel without lanes, once the hub has forgotten its number.
    pub(super) fn remove(&mut self, channel: u32) {
        debug_assert_eq!(self.channels[channel].lanes, NONE, "a channel goes after its lanes");
        let Lanes { channels, names, .. } = self;
        names.remove(channel, |index| name(channels, index));
        self.revive(channel);
        self.channels[channel] = Channel::default();
        self.channels.give_back(channel);
    }

    /// The channel's lane of a key, made if it is not there.
    pub(super) fn lane(&mut self, channel: u32, key: LaneKey) -> u32 {
        let mut lane = self.channels[channel].lanes;
        while lane != NONE {
            if self.cells[lane].key == key {
                return lane;
            }
            lane = self.cells[lane].next;
        }
        let followed = self.channels[channel].following == Following::Yes;
        let index = self.cells.take();
        let next = std::mem::replace(&mut self.channels[channel].lanes, index);
        let log = Log::new(followed.then_some(self.seen));
        self.cells[index] = Lane { log, channel, key, next, ..Lane::default() };
        index
    }

    /// The lanes of a channel.
    pub(super) fn lanes_of(&self, channel: u32) -> impl Iterator<Item = u32> {
        let first = self.channels[channel].lanes;
        std::iter::successors((first != NONE).then_some(first), |lane| {
            let next = self.cells[*lane].next;
            (next != NONE).then_some(next)
        })
    }

    /// The channel's lane after `lane`, or [`NONE`].
    pub(super) fn next_lane(&self, lane: u32) -> u32 {
        self.cells[lane].next
    }

    /// Frees a lane without subscriptions; returns whether it was the channel's last.
    fn remove_lane(&mut self, lane: u32) -> bool {
        debug_assert!(self.cells[lane].is_unused() && !self.cells[lane].walking, "a lane goes when nothing needs it");
        self.clear_log(lane);
        let Lane { channel, next, .. } = std::mem::take(&mut self.cells[lane]);
        if self.channels[channel].lanes == lane {
            self.channels[channel].lanes = next;
        } else {
            let before = self.lanes_of(channel).find(|before| self.cells[*before].next == lane);
            debug_assert!(before.is_some(), "a lane stands in its channel's list");
            if let Some(before) = before {
                self.cells[before].next = next;
            }
        }
        self.cells.give_back(lane);
        self.channels[channel].lanes == NONE
    }

    /// Counts one more subscription of a lane. The subscription does not read yet.
    pub(super) fn enter(&mut self, lane: u32) {
        self.cells[lane].users += 1;
    }

    /// The readers of a lane, by place.
    pub(super) fn readers(&self, lane: u32) -> &[Reader] {
        match &self.cells[lane].reader {
            Reader { slot: NONE, subscription: NONE } => &[],
            Reader { slot: NONE, subscription: list } => &self.lists[*list],
            alone => std::slice::from_ref(alone),
        }
    }

    /// Whether every reader of a lane has everything.
    pub(super) fn is_read(&self, lane: u32) -> bool {
        self.cells[lane].at_head as usize == self.readers(lane).len()
    }

    /// Adds a reader that stands at `cursor` and returns its place.
    pub(super) fn add_reader(&mut self, lane: u32, reader: Reader, cursor: Position) -> u32 {
        let lane = &mut self.cells[lane];
        let has_everything = cursor == lane.log.head();
        lane.at_head += u32::from(has_everything);
        if !has_everything && !std::mem::replace(&mut lane.lags, true) {
            self.lagging_bytes += lane.log.memory_bytes();
        }
        match lane.reader {
            NO_READER => {
                lane.reader = reader;
                0
            }
            Reader { slot: NONE, subscription: list } => {
                self.lists[list].push(reader);
                self.lists[list].len() as u32 - 1
            }
            first => {
                lane.reader.subscription = self.lists.add(vec![first, reader]);
                lane.reader.slot = NONE;
                1
            }
        }
    }

    /// Takes out the reader at `place`, which stands at `cursor`; returns the reader that is there now.
    pub(super) fn remove_reader(&mut self, lane: u32, place: u32, cursor: Position) -> Option<Reader> {
        let lane = &mut self.cells[lane];
        lane.at_head -= u32::from(cursor == lane.log.head());
        if lane.reader.slot != NONE {
            lane.reader = NO_READER;
            return None;
        }
        let number = lane.reader.subscription;
        let list = &mut self.lists[number];
        list.swap_remove(place as usize);
        let moved = list.get(place as usize).copied();
        if list.is_empty() {
            self.lists.remove(number);
            lane.reader = NO_READER;
        } else if list.capacity() > 64 && list.len() < list.capacity() / 4 {
            list.shrink_to(list.len() * 2);
        }
        moved
    }

    /// Counts one subscription of a lane less. A lane that has lost its last subscription is freed after a while.
    pub(super) fn leave(&mut self, lane: u32, now: Tick) {
        let cell = &mut self.cells[lane];
        cell.users -= 1;
        if cell.users == 0 {
            cell.touched = now;
            self.unused.add(lane, Kept::of(cell), now);
        }
    }

    /// Gives the reader at `place` the new number of its subscription.
    pub(super) fn rename_reader(&mut self, lane: u32, place: u32, subscription: u32) {
        let reader = match &mut self.cells[lane].reader {
            Reader { slot: NONE, subscription: list } => self.lists[*list].get_mut(place as usize),
            alone => Some(alone),
        };
        debug_assert!(reader.is_some(), "a subscription knows its place");
        if let Some(reader) = reader {
            reader.subscription = subscription;
        }
    }

    /// Frees the next lane that has had no subscriptions for a while. Returns `Some` with the lane's channel if the
    /// channel is given up with its last lane, `Some(None)` if there may be more lanes to free, and `None` if there is
    /// none now.
    pub(super) fn free_unused_lane(&mut self, now: Tick) -> Option<Option<u32>> {
        let (kept, lane) = self.unused.next(now)?;
        let cell = &self.cells[lane];
        // A lane that was used since has a later entry of its own.
        if cell.channel == NONE || !cell.is_unused() {
            return Some(None);
        }
        let is_old = cell.touched + Kept::of(cell).time() <= now;
        if cell.walking || !is_old && Kept::of(cell) != kept {
            // The lane is still in the list of walks, or has had its first event without subscriptions.
            self.unused.add(lane, Kept::of(cell), now);
            return Some(None);
        }
        if !is_old {
            return Some(None);
        }
        let channel = cell.channel;
        if !self.remove_lane(lane) {
            return Some(None);
        }
        self.channels[channel].following = Following::GivenUp;
        Some(Some(channel))
    }

    /// Whether lanes or logs wait whose time has come.
    pub(super) fn has_old(&self, now: Tick) -> bool {
        self.unused.has_next(now) || self.aging.front().is_some_and(|(due, _)| *due <= now)
    }

    /// Empties the next log that every reader has read and that had no event for a while; returns whether there was one
    /// to look at.
    pub(super) fn empty_old_log(&mut self, now: Tick) -> bool {
        let Some((_, lane)) = self.aging.front().copied().filter(|(due, _)| *due <= now) else { return false };
        self.aging.pop_front();
        let is_read = self.is_read(lane);
        let cell = &mut self.cells[lane];
        if cell.log.is_empty() {
            cell.aging = false;
        } else if is_read && (cell.is_unused() || cell.touched + ticks(LOG_KEPT) <= now) {
            cell.aging = false;
            self.clear_log(lane);
        } else {
            self.aging.push_back((now + ticks(LOG_KEPT), lane));
        }
        true
    }

    /// Gives back the memory of lists that were long once.
    pub(super) fn give_back_slack(&mut self) {
        self.unused.give_back_slack();
        self.aging.give_back_slack();
    }

    /// Checks the invariants of channels and lanes between two turns.
    ///
    /// # Panics
    /// If an invariant does not hold.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let (mut kept, mut lagging) = (0, 0);
        for lane in 0..self.cells.capacity() {
            let cell = &self.cells[lane];
            if cell.channel == NONE {
                continue;
            }
            kept += cell.log.kept_bytes();
            let readers = self.readers(lane).len();
            assert!(cell.at_head as usize <= readers && readers <= cell.users as usize, "{lane} {cell:?}");
            assert!(self.lanes_of(cell.channel).any(|other| other == lane), "a lane stands in its channel's list");
            assert_eq!(cell.lags, !self.is_read(lane), "a log is on the account while a reader is behind: {cell:?}");
            lagging += if cell.lags { cell.log.memory_bytes() } else { 0 };
        }
        assert_eq!((kept, lagging), (self.kept_bytes, self.lagging_bytes));
    }

    /// The number of lanes, used or free.
    pub(super) fn capacity(&self) -> u32 {
        self.cells.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SlowPolicy;
    use crate::logic::session::Spoken;

    #[test]
    fn names_are_found_until_they_are_removed() {
        let mut channels = Lanes::new();
        let all: Vec<u32> = (0..1000).map(|i| channels.add(format!("c{i}").into(), 0)).collect();
        for (i, index) in all.iter().enumerate() {
            assert_eq!(channels.find(&format!("c{i}")), Some(*index));
        }
        channels.remove(all[7]);
        assert_eq!(channels.find("c7"), None);
        assert_eq!(channels.find("c8"), Some(all[8]));
    }

    #[test]
    fn a_channel_has_a_lane_per_protocol() {
        let mut lanes = Lanes::new();
        let channel = lanes.add("c".into(), 0);
        let [one, other] = [true, false].map(|chunked| LaneKey::of(Spoken::SSE, chunked));
        let sse = lanes.lane(channel, one);
        let ws = lanes.lane(channel, other);
        assert_eq!(lanes.lane(channel, one), sse);
        assert_eq!(lanes.lanes_of(channel).count(), 2);
        assert!(!lanes.remove_lane(sse));
        assert_eq!(lanes.lanes_of(channel).collect::<Vec<_>>(), [ws]);
        assert!(lanes.remove_lane(ws));
    }

    /// The channels that are given up at a tick.
    fn freed(lanes: &mut Lanes, now: Tick) -> Vec<u32> {
        std::iter::from_fn(|| lanes.free_unused_lane(now)).flatten().collect()
    }

    #[test]
    fn a_lane_without_an_event_goes_at_once_and_others_stay_a_while() {
        let mut lanes = Lanes::new();
        let [silent, polled, used, late] = ["a", "b", "c", "d"].map(|name| lanes.add(name.into(), 0));
        let (stream, poll) = (LaneKey::of(Spoken::SSE, true), LaneKey::of(Spoken::POLL, true));
        let all = [(silent, stream), (polled, poll), (used, stream), (late, stream)];
        let all = all.map(|(channel, key)| lanes.lane(channel, key));
        all.iter().for_each(|lane| lanes.enter(*lane));
        lanes.append(all[2], Id::new(1, 0), 5, |out| out.extend_from_slice(b"frame"));
        all.iter().for_each(|lane| lanes.leave(*lane, 10));
        // The event was on its way when the last subscription ended.
        lanes.append(all[3], Id::new(2, 0), 10, |out| out.extend_from_slice(b"frame"));
        assert!(!lanes.has_old(10) && freed(&mut lanes, 10).is_empty());
        assert!(lanes.has_old(11));
        assert_eq!(freed(&mut lanes, 11), [silent]);
        assert!(freed(&mut lanes, 29).is_empty());
        assert_eq!(freed(&mut lanes, 30), [polled]);
        assert!(freed(&mut lanes, 309).is_empty());
        assert_eq!(freed(&mut lanes, 310), [used]);
        assert_eq!(freed(&mut lanes, 311), [late]);
        assert!(lanes.channels[silent].following == Following::GivenUp);
    }

    #[test]
    fn a_lane_knows_when_every_reader_has_everything() {
        let mut lanes = Lanes::new();
        let channel = lanes.add("c".into(), 0);
        let lane = lanes.lane(channel, LaneKey::default());
        let reader = |slot| Reader { slot, subscription: 0 };
        for slot in 0..3 {
            lanes.enter(lane);
            assert_eq!(lanes.add_reader(lane, reader(slot), 0), slot);
        }
        assert!(lanes.is_read(lane));
        lanes.append(lane, Id::new(1, 0), 5, |out| out.extend_from_slice(b"frame"));
        assert!(!lanes.is_read(lane));
        assert_eq!(lanes.remove_reader(lane, 0, 0), Some(reader(2)));
        lanes[lane].at_head += 2;
        assert!(lanes.is_read(lane));
        assert_eq!(lanes.kept_bytes, 5);
        lanes.clear_log(lane);
        assert_eq!(lanes.kept_bytes, 0);
    }

    fn reader(slot: u32) -> Reader {
        Reader { slot, subscription: 0 }
    }

    /// A table with one lane of one channel.
    fn with_lane() -> (Lanes, u32) {
        let mut lanes = Lanes::new();
        let policy = lanes.policy_number(Policy { max_lag: 1 << 20, slow: SlowPolicy::Gap, presence: false });
        let channel = lanes.add("c".into(), policy);
        let lane = lanes.lane(channel, LaneKey::default());
        (lanes, lane)
    }

    fn append(lanes: &mut Lanes, lane: u32, number: u64, now: Tick, bytes: usize) {
        lanes.append(lane, Id::new(number, 0), now, |out| out.resize(out.len() + bytes, b'x'));
    }

    #[test]
    fn a_channel_has_a_name_and_the_policy_of_its_number() {
        let mut lanes = Lanes::new();
        let policy = |max_lag| Policy { max_lag, slow: SlowPolicy::Gap, presence: false };
        let lags = [10, 20, 30, 20];
        let numbers = lags.map(|max_lag| lanes.policy_number(policy(max_lag)));
        let channels = [0, 1, 2, 3].map(|i| lanes.add(format!("c{i}").into(), numbers[i]));
        for (i, channel) in channels.into_iter().enumerate() {
            let lane = lanes.lane(channel, LaneKey::default());
            assert_eq!(
                (lanes.name(channel), lanes.channel_of(lane).name.as_deref()),
                (&*format!("c{i}"), Some(lanes.name(channel)))
            );
            assert_eq!((lanes.policy_of(lane), lanes.max_lag(lane)), (policy(lags[i]), lags[i]));
        }
    }

    #[test]
    fn a_log_is_complete_from_the_id_that_the_hub_has_sent_if_the_channel_is_followed() {
        let mut lanes = Lanes::new();
        [3, 5, 4].into_iter().for_each(|number| lanes.see(Id::new(number, 0)));
        let [asked, followed] = ["a", "b"].map(|name| lanes.add(name.into(), 0));
        lanes.channels[followed].following = Following::Yes;
        let since = [asked, followed].map(|channel| {
            let lane = lanes.lane(channel, LaneKey::default());
            [4, 5].map(|number| lanes[lane].log.position_after(Id::new(number, 0)))
        });
        assert_eq!(since, [[None, None], [None, Some(0)]]);
    }

    #[test]
    fn any_of_a_channels_lanes_can_be_freed() {
        let keys = [(Spoken::SSE, true), (Spoken::SSE, false), (Spoken::POLL, true), (Spoken::WS_JSON, false)]
            .map(|(spoken, chunked)| LaneKey::of(spoken, chunked));
        for freed in 0..keys.len() {
            let mut lanes = Lanes::new();
            let channel = lanes.add("c".into(), 0);
            let all = keys.map(|key| lanes.lane(channel, key));
            assert_eq!(lanes.lanes_of(channel).collect::<Vec<_>>(), all.iter().rev().copied().collect::<Vec<_>>());
            append(&mut lanes, all[freed], 1, 0, 10);
            assert!(!lanes.remove_lane(all[freed]));
            assert_eq!(lanes.kept_bytes, 0);
            let mut left = Vec::new();
            let mut lane = lanes.channels[channel].lanes;
            while lane != NONE {
                left.push(lane);
                lane = lanes.next_lane(lane);
            }
            assert_eq!(left, all.iter().rev().copied().filter(|lane| *lane != all[freed]).collect::<Vec<_>>());
            assert_eq!(left, lanes.lanes_of(channel).collect::<Vec<_>>());
        }
    }

    #[test]
    fn subscriptions_are_counted_beside_readers() {
        let (mut lanes, lane) = with_lane();
        assert!(lanes[lane].is_unused() && !lanes[lane].has_waiting(0));
        (0..2).for_each(|_| lanes.enter(lane));
        let has_waiting = |lanes: &Lanes| [0, 1, 2, 3].map(|readers| lanes[lane].has_waiting(readers));
        assert_eq!(has_waiting(&lanes), [true, true, false, false]);
        lanes.leave(lane, 1);
        assert_eq!((has_waiting(&lanes), lanes[lane].is_unused()), ([true, false, false, false], false));
        lanes.leave(lane, 7);
        assert_eq!((lanes[lane].is_unused(), lanes[lane].touched), (true, 7));
    }

    #[test]
    fn a_log_is_on_the_account_once_while_a_reader_is_behind() {
        let (mut lanes, lane) = with_lane();
        append(&mut lanes, lane, 1, 0, 10);
        (0..4).for_each(|_| lanes.enter(lane));
        lanes.add_reader(lane, reader(1), 10);
        assert_eq!((lanes.lagging_bytes, lanes.lags(lane), lanes[lane].at_head), (0, false, 1));
        for (slot, cursor) in [(2, 0), (3, 0), (4, 10)] {
            assert_eq!(lanes.add_reader(lane, reader(slot), cursor), slot - 1);
            assert_eq!((lanes.lagging_bytes, lanes.lags(lane)), (lanes[lane].log.memory_bytes(), true));
            lanes.check_invariants();
        }
        assert_eq!(lanes[lane].at_head, 2);
        // The last reader takes the place of one that leaves.
        assert_eq!(lanes.remove_reader(lane, 0, 10), Some(reader(4)));
        assert_eq!((lanes.remove_reader(lane, 2, 0), lanes[lane].at_head), (None, 1));
        assert_eq!(lanes.readers(lane), [reader(4), reader(2)]);
        lanes.rename_reader(lane, 1, 9);
        assert_eq!(lanes.readers(lane), [reader(4), Reader { slot: 2, subscription: 9 }]);
        lanes.remove_reader(lane, 1, 0);
        lanes.remove_reader(lane, 0, 10);
        assert_eq!((lanes.readers(lane).len(), lanes[lane].at_head, lanes.lists.len()), (0, 0, 0));
        lanes.add_reader(lane, reader(5), 10);
        lanes.rename_reader(lane, 0, 8);
        assert_eq!(lanes.readers(lane), [Reader { slot: 5, subscription: 8 }]);
    }

    #[test]
    fn a_long_list_of_readers_gives_room_back_when_few_are_left() {
        // The numbers of readers that are left when the list's room changes, with the room from then on.
        let changes = |count: u32| {
            let (mut lanes, lane) = with_lane();
            (0..count).for_each(|slot| assert_eq!(lanes.add_reader(lane, reader(slot), 0), slot));
            let list = lanes[lane].reader.subscription;
            let mut room = lanes.lists[list].capacity();
            let mut changes = vec![(count, room)];
            for left in (1..count).rev() {
                assert_eq!(lanes.remove_reader(lane, left, 0), None);
                if std::mem::replace(&mut room, lanes.lists[list].capacity()) != lanes.lists[list].capacity() {
                    changes.push((left, room));
                }
            }
            changes
        };
        assert_eq!(changes(256), [(256, 256), (63, 126), (30, 60)]);
        assert_eq!(changes(64), [(64, 64)]);
    }

    #[test]
    fn a_lane_goes_when_nothing_has_needed_it_for_a_while() {
        let (mut lanes, lane) = with_lane();
        lanes.enter(lane);
        append(&mut lanes, lane, 1, 0, 10);
        // A lane that is used again in the meantime stays until it was unused for long enough.
        lanes.leave(lane, 10);
        lanes.enter(lane);
        assert_eq!((lanes.free_unused_lane(309), lanes.free_unused_lane(310)), (None, Some(None)));
        lanes.leave(lane, 320);
        lanes.enter(lane);
        lanes.leave(lane, 330);
        assert_eq!((lanes.free_unused_lane(620), lanes.free_unused_lane(629)), (Some(None), None));
        // A walk still has the lane in its list.
        lanes[lane].walking = true;
        assert_eq!((lanes.free_unused_lane(630), lanes.free_unused_lane(929)), (Some(None), None));
        lanes[lane].walking = false;
        // The channel's other lane is newer.
        let channel = lanes[lane].channel;
        let other = lanes.lane(channel, LaneKey::of(Spoken::POLL, false));
        lanes.enter(other);
        assert_eq!((lanes.free_unused_lane(930), lanes.free_unused_lane(930)), (Some(None), None));
        assert_eq!(lanes.lanes_of(channel).collect::<Vec<_>>(), [other]);
        // A lane that is freed by the first of two entries is not there for the second.
        (0..2).for_each(|_| {
            lanes.leave(other, 940);
            lanes.enter(other);
        });
        lanes.leave(other, 940);
        assert_eq!([(); 4].map(|()| lanes.free_unused_lane(960)), [Some(Some(channel)), Some(None), Some(None), None]);
    }

    #[test]
    fn a_log_is_emptied_once_all_have_read_it_and_its_newest_event_is_old() {
        let (mut lanes, lane) = with_lane();
        lanes.enter(lane);
        lanes.add_reader(lane, reader(1), 0);
        append(&mut lanes, lane, 1, 5, 10);
        assert!(!lanes.has_old(304) && !lanes.empty_old_log(304));
        // A reader is behind, so the log is looked at again later.
        assert!(lanes.has_old(305) && lanes.empty_old_log(305) && !lanes.has_old(604));
        append(&mut lanes, lane, 2, 306, 10);
        lanes[lane].at_head = 1;
        lanes.settle(lane, u64::MAX);
        // An event has come since.
        assert!(lanes.empty_old_log(605) && !lanes.empty_old_log(904));
        assert_eq!(lanes.kept_bytes, 20);
        assert!(lanes.empty_old_log(905) && !lanes.has_old(Tick::MAX));
        assert_eq!((lanes.kept_bytes, lanes[lane].aging), (0, false));
        // A log that is old by the tick is emptied, and so is one that is empty already.
        append(&mut lanes, lane, 3, 1000, 10);
        lanes[lane].at_head = 1;
        lanes.settle(lane, 0);
        assert!(lanes.empty_old_log(1300) && !lanes[lane].aging && lanes.aging.is_empty());
        append(&mut lanes, lane, 4, 2000, 10);
        lanes[lane].at_head = 1;
        lanes.settle(lane, u64::MAX);
        assert!(lanes.empty_old_log(2300) && lanes.kept_bytes == 0);
        // Without subscriptions it is not needed however new it is.
        append(&mut lanes, lane, 5, 3000, 10);
        lanes.remove_reader(lane, 0, 0);
        lanes.leave(lane, 3299);
        assert!(lanes.empty_old_log(3300) && lanes.kept_bytes == 0 && lanes.aging.is_empty());
    }

    #[test]
    fn a_log_that_all_have_read_keeps_64_kib_within_the_budget() {
        let kept = |budget: u64| {
            let (mut lanes, lane) = with_lane();
            (1..=100).for_each(|number| append(&mut lanes, lane, number, 0, 1024));
            lanes.settle(lane, 100 * 1024 + 512);
            assert_eq!(lanes.kept_bytes, 64 * 1024);
            lanes.settle(lane, budget);
            lanes.kept_bytes
        };
        assert_eq!([64 * 1024 + 512, 64 * 1024 + 511].map(kept), [64 * 1024, 0]);
    }

    #[test]
    fn queues_that_were_long_once_give_their_room_back() {
        let (mut lanes, lane) = with_lane();
        for now in 0..5000 {
            lanes.aging.push_back((now, lane));
            lanes.unused.add(lane, Kept::Silent, now);
        }
        lanes.enter(lane);
        while lanes.free_unused_lane(4998).is_some() {}
        lanes.aging.truncate(1);
        lanes.give_back_slack();
        assert_eq!(lanes.aging.capacity(), 1024);
        assert!(lanes.has_old(0) && lanes.capacity() as usize >= 1);
    }
}
