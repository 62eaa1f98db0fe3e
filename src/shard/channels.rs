//! A shard's part of the channels: which it follows, and for each dialect with subscribers a *lane*, which is
//! the channel's log in that dialect and the list of those who read it.

use std::hash::RandomState;

use crate::logic::event::ChannelName;
use crate::logic::id::Id;
use crate::logic::log::{Log, Position};
use crate::logic::names::Names;
use crate::logic::protocol::dialect::Dialect;
use crate::logic::wheel::Tick;

use crate::logic::cells::{Cell, Cells, NONE, Pool, wastes_nothing};

/// How the shard stands to the hub about a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Following {
    /// Asked for; the hub has not said yet from where on.
    #[default]
    Asked,
    /// Every event comes through the queue.
    Yes,
    /// Given up; the number is free once the hub has said so.
    GivenUp,
}

/// A channel as the shard knows it.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// `None` in a free cell.
    pub(super) name: Option<ChannelName>,
    /// The first lane; while the cell is free, the next free cell.
    pub(super) lanes: u32,
    /// Which of the shard's policies applies.
    pub(super) policy: u16,
    pub(super) following: Following,
    /// Whether its publisher has ended it and nothing was published since.
    pub(super) ended: bool,
}

const _: () = assert!(size_of::<Channel>() <= 16, "a channel of its own for each connection must cost little");
const _: () = assert!(wastes_nothing::<Channel>());

impl Cell for Channel {
    fn link(&mut self) -> &mut u32 {
        &mut self.lanes
    }
}

/// Who reads a lane: a connection's slot and which of its subscriptions it is.
///
/// In a lane a slot of [`NONE`] means that it has no reader or several, who stand in the list of the number
/// `subscription`: a channel of one subscriber needs no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reader {
    pub(super) slot: u32,
    pub(super) subscription: u32,
}

const NO_READER: Reader = Reader { slot: NONE, subscription: NONE };

/// One channel in one dialect.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) log: Log,
    reader: Reader,
    pub(super) channel: u32,
    /// The channel's next lane; while the cell is free, the next free cell.
    next: u32,
    /// Readers that have everything up to the head. When that is all of them nobody needs the log.
    pub(super) at_head: u32,
    /// Subscriptions, also those that wait for missed events and do not read yet.
    users: u32,
    /// When an event was last appended, or the last user left.
    pub(super) touched: Tick,
    pub(super) dialect: Dialect,
    /// Stands in the list of lanes that are being walked.
    pub(super) walking: bool,
    /// Stands in the list of logs that are looked at for their age.
    pub(super) aging: bool,
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
            dialect: Dialect::Sse,
            walking: false,
            aging: false,
        }
    }
}

impl Cell for Lane {
    fn link(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl Lane {
    /// Whether nobody uses it, reading or about to.
    pub(super) fn is_unused(&self) -> bool {
        self.users == 0
    }

    /// Whether somebody uses it beside its `readers`, who wait for what they have missed.
    pub(super) fn has_waiting(&self, readers: usize) -> bool {
        self.users as usize > readers
    }
}

fn name(channels: &Cells<Channel>, channel: u32) -> &str {
    channels[channel].name.as_deref().unwrap_or_default()
}

/// All channels and lanes of a shard.
pub(super) struct Channels {
    pub(super) channels: Cells<Channel>,
    pub(super) lanes: Cells<Lane>,
    names: Names,
    /// Of the lanes with several readers.
    lists: Pool<Vec<Reader>>,
    /// Framed bytes kept in all logs.
    pub(super) kept_bytes: u64,
}

impl Channels {
    pub(super) fn new() -> Channels {
        Channels {
            channels: Cells::new(),
            lanes: Cells::new(),
            names: Names::new(RandomState::new()),
            lists: Pool::default(),
            kept_bytes: 0,
        }
    }

    /// The channel of that name, if the shard has it.
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
        let Channels { channels, names, .. } = self;
        names.add(index, |index| self::name(channels, index));
        index
    }

    /// Forgets a channel without lanes, once the hub has forgotten its number.
    pub(super) fn remove(&mut self, channel: u32) {
        debug_assert_eq!(self.channels[channel].lanes, NONE, "a channel goes after its lanes");
        let Channels { channels, names, .. } = self;
        names.remove(channel, |index| name(channels, index));
        self.channels[channel] = Channel::default();
        self.channels.give_back(channel);
    }

    /// The channel's lane in a dialect, made if it is not there. `seen` is the newest id the shard knows of.
    pub(super) fn lane(&mut self, channel: u32, dialect: Dialect, seen: Id) -> u32 {
        let mut lane = self.channels[channel].lanes;
        while lane != NONE {
            if self.lanes[lane].dialect == dialect {
                return lane;
            }
            lane = self.lanes[lane].next;
        }
        let followed = self.channels[channel].following == Following::Yes;
        let index = self.lanes.take();
        let next = std::mem::replace(&mut self.channels[channel].lanes, index);
        let log = Log::new(followed.then_some(seen));
        self.lanes[index] = Lane { log, channel, dialect, next, ..Lane::default() };
        index
    }

    /// The channel's lane in a dialect, if there is one.
    pub(super) fn find_lane(&self, channel: u32, dialect: Dialect) -> Option<u32> {
        self.lanes_of(channel).find(|lane| self.lanes[*lane].dialect == dialect)
    }

    /// The lanes of a channel.
    pub(super) fn lanes_of(&self, channel: u32) -> impl Iterator<Item = u32> {
        let first = self.channels[channel].lanes;
        std::iter::successors((first != NONE).then_some(first), |lane| {
            let next = self.lanes[*lane].next;
            (next != NONE).then_some(next)
        })
    }

    /// The channel's lane after `lane`, or [`NONE`].
    pub(super) fn next_lane(&self, lane: u32) -> u32 {
        self.lanes[lane].next
    }

    /// Frees a lane that nobody uses; returns whether it was the channel's last.
    pub(super) fn remove_lane(&mut self, lane: u32) -> bool {
        debug_assert!(self.lanes[lane].is_unused() && !self.lanes[lane].walking, "a lane goes when nobody needs it");
        self.clear_log(lane);
        let Lane { channel, next, .. } = std::mem::take(&mut self.lanes[lane]);
        if self.channels[channel].lanes == lane {
            self.channels[channel].lanes = next;
        } else {
            let before = self.lanes_of(channel).find(|before| self.lanes[*before].next == lane);
            debug_assert!(before.is_some(), "a lane stands in its channel's list");
            if let Some(before) = before {
                self.lanes[before].next = next;
            }
        }
        self.lanes.give_back(lane);
        self.channels[channel].lanes == NONE
    }

    /// Counts one more subscription to a lane, which does not read yet.
    pub(super) fn enter(&mut self, lane: u32) {
        self.lanes[lane].users += 1;
    }

    /// Who reads a lane, by place.
    pub(super) fn readers(&self, lane: u32) -> &[Reader] {
        match &self.lanes[lane].reader {
            Reader { slot: NONE, subscription: NONE } => &[],
            Reader { slot: NONE, subscription: list } => &self.lists[*list],
            alone => std::slice::from_ref(alone),
        }
    }

    /// Whether every reader of a lane has everything.
    pub(super) fn is_read(&self, lane: u32) -> bool {
        self.lanes[lane].at_head as usize == self.readers(lane).len()
    }

    /// Adds a reader that stands at `cursor` and returns its place.
    pub(super) fn add_reader(&mut self, lane: u32, reader: Reader, cursor: Position) -> u32 {
        let lane = &mut self.lanes[lane];
        lane.at_head += u32::from(cursor == lane.log.head());
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
        let lane = &mut self.lanes[lane];
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

    /// Counts one subscription less; returns whether it was the lane's last.
    pub(super) fn leave(&mut self, lane: u32, now: Tick) -> bool {
        let lane = &mut self.lanes[lane];
        lane.users -= 1;
        if lane.users == 0 {
            lane.touched = now;
        }
        lane.users == 0
    }

    /// Says that the reader at `place` is its connection's subscription number `subscription` now.
    pub(super) fn rename_reader(&mut self, lane: u32, place: u32, subscription: u32) {
        let reader = match &mut self.lanes[lane].reader {
            Reader { slot: NONE, subscription: list } => self.lists[*list].get_mut(place as usize),
            alone => Some(alone),
        };
        debug_assert!(reader.is_some(), "a subscription knows its place");
        if let Some(reader) = reader {
            reader.subscription = subscription;
        }
    }

    /// Appends an event's frame; everyone who had everything is behind now.
    pub(super) fn append(&mut self, lane: u32, id: Id, now: Tick, write: impl FnOnce(&mut Vec<u8>)) {
        let lane = &mut self.lanes[lane];
        let before = lane.log.head();
        lane.log.append(id, write);
        lane.at_head = 0;
        // For a lane without users it is when the last one left.
        if lane.users > 0 {
            lane.touched = now;
        }
        self.kept_bytes += lane.log.head() - before;
    }

    /// Drops the frames before `position`.
    pub(super) fn trim(&mut self, lane: u32, position: Position) {
        self.kept_bytes -= self.lanes[lane].log.trim(position);
    }

    /// Drops all frames of a log.
    pub(super) fn clear_log(&mut self, lane: u32) {
        self.kept_bytes -= self.lanes[lane].log.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_until_they_are_removed() {
        let mut channels = Channels::new();
        let all: Vec<u32> = (0..1000).map(|i| channels.add(format!("c{i}").into(), 0)).collect();
        for (i, index) in all.iter().enumerate() {
            assert_eq!(channels.find(&format!("c{i}")), Some(*index));
        }
        channels.remove(all[7]);
        assert_eq!(channels.find("c7"), None);
        assert_eq!(channels.find("c8"), Some(all[8]));
    }

    #[test]
    fn a_channel_has_a_lane_per_dialect() {
        let mut channels = Channels::new();
        let channel = channels.add("c".into(), 0);
        let sse = channels.lane(channel, Dialect::Sse, Id::ZERO);
        let ws = channels.lane(channel, Dialect::WsJson, Id::ZERO);
        assert_eq!(channels.lane(channel, Dialect::Sse, Id::ZERO), sse);
        assert_eq!(channels.lanes_of(channel).count(), 2);
        assert!(!channels.remove_lane(sse));
        assert_eq!(channels.lanes_of(channel).collect::<Vec<_>>(), [ws]);
        assert!(channels.remove_lane(ws));
    }

    #[test]
    fn a_lane_knows_when_everyone_has_everything() {
        let mut channels = Channels::new();
        let channel = channels.add("c".into(), 0);
        let lane = channels.lane(channel, Dialect::WsRaw, Id::ZERO);
        let reader = |slot| Reader { slot, subscription: 0 };
        for slot in 0..3 {
            channels.enter(lane);
            assert_eq!(channels.add_reader(lane, reader(slot), 0), slot);
        }
        assert!(channels.is_read(lane));
        channels.append(lane, Id::new(1, 0), 5, |out| out.extend_from_slice(b"frame"));
        assert!(!channels.is_read(lane));
        assert_eq!(channels.remove_reader(lane, 0, 0), Some(reader(2)));
        channels.lanes[lane].at_head += 2;
        assert!(channels.is_read(lane));
        assert_eq!(channels.kept_bytes, 5);
        channels.clear_log(lane);
        assert_eq!(channels.kept_bytes, 0);
    }
}
