//! Walking: passes over the readers of lanes with news. A walk visits each reader, who gets everything up to the
//! head; walks take turns, short ones first.

use std::collections::VecDeque;

use crate::figures::Measure;
use crate::logic::log::Position;

use super::Shard;
use super::channels::Reader;
use super::connection::{Flags, State};

/// Readers of one lane that are visited before the next lane has its turn. A walk of no more than that is short.
const VISITS_MAX: usize = 64;
/// Readers visited in one turn, also if there is nothing to send to them.
const VISITS_PER_TURN: usize = 4096;

/// A pass over the readers of a lane, from the last one down: so a reader that leaves during the pass makes
/// none be missed.
#[derive(Debug, Default)]
struct Walk {
    lane: u32,
    /// Readers before this place are still to be visited.
    position: usize,
    /// Who has no room and stands before this has fallen too far behind.
    floor: Position,
    /// The head when the pass began.
    head: Position,
    /// A pass begins with its first visit, so that it takes in everything that came with the event that set it
    /// off.
    has_begun: bool,
    /// Someone stands before the floor only because the shard has not sent to them yet.
    stragglers: bool,
    lag_max: u64,
    /// Readers for whom a send was planned.
    sends: u64,
}

/// Whether a walk is over with one turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    Short,
    Long,
}

/// Lanes whose readers are being walked. Short walks go before long ones, as far as their share of a batch goes:
/// an event for a few never waits for events for many.
#[derive(Debug, Default)]
pub(super) struct Walks {
    short: VecDeque<Walk>,
    long: VecDeque<Walk>,
}

impl Walks {
    fn of(&mut self, length: Length) -> &mut VecDeque<Walk> {
        match length {
            Length::Short => &mut self.short,
            Length::Long => &mut self.long,
        }
    }

    /// Adds a walk after those of its kind.
    fn add(&mut self, walk: Walk, readers: usize) {
        let length = if readers <= VISITS_MAX { Length::Short } else { Length::Long };
        self.of(length).push_back(walk);
    }

    fn iter(&self) -> impl Iterator<Item = &Walk> {
        self.short.iter().chain(&self.long)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }
}

impl Shard {
    /// Begins a pass over the lane's readers, unless one is under way: that one goes on to the new head.
    pub(super) fn begin_walk(&mut self, lane: u32) {
        let readers = self.channels.readers(lane).len();
        if readers > 0 && !std::mem::replace(&mut self.channels.lanes[lane].walking, true) {
            self.walks.add(Walk { lane, ..Walk::default() }, readers);
        }
    }

    /// Goes on with walks of one kind, in turn, until so many sends are planned.
    pub(super) fn walk(&mut self, length: Length, plans_max: usize) {
        let mut visits = VISITS_PER_TURN;
        while self.batch.len() < plans_max && visits > 0 {
            let Some(mut walk) = self.walks.of(length).pop_front() else { break };
            if !walk.has_begun {
                self.set_out(&mut walk);
            }
            let mut left = VISITS_MAX.min(visits);
            visits -= left;
            let mut must_send = false;
            while left > 0 && !must_send && self.batch.len() < plans_max {
                let readers = self.channels.readers(walk.lane);
                walk.position = walk.position.min(readers.len());
                let Some(reader) = walk.position.checked_sub(1).and_then(|place| readers.get(place).copied()) else {
                    break;
                };
                if self.visit(reader, &mut walk) {
                    walk.position -= 1;
                } else {
                    must_send = true;
                }
                left -= 1;
            }
            let readers = self.channels.readers(walk.lane).len();
            if must_send || walk.position > 0 && readers > 0 {
                self.walks.add(walk, readers);
            } else {
                self.end_walk(&walk);
            }
            if must_send {
                break;
            }
        }
    }

    /// Begins a pass with what there is now. Whoever comes later stands behind this floor already.
    fn set_out(&self, walk: &mut Walk) {
        let lane = &self.channels.lanes[walk.lane];
        walk.position = self.channels.readers(walk.lane).len();
        walk.floor = lane.log.floor(self.max_lag(walk.lane));
        walk.head = lane.log.head();
        walk.has_begun = true;
    }

    /// Plans what a reader gets; returns whether the walk can go on without sending the batch first.
    fn visit(&mut self, reader: Reader, walk: &mut Walk) -> bool {
        let connection = &self.connections[reader.slot];
        let Some(cursor) = connection.subscription(reader.subscription as usize).map(|s| s.cursor) else {
            debug_assert!(false, "a reader has its subscription");
            return true;
        };
        let lane = &self.channels.lanes[walk.lane];
        if cursor == lane.log.head() && !self.channels.channels[lane.channel].ended {
            return true;
        }
        walk.lag_max = walk.lag_max.max(walk.head.saturating_sub(cursor));
        let is_overrun = cursor < walk.floor;
        let flags = connection.flags;
        if flags.has(Flags::PLANNED) {
            return !is_overrun;
        }
        if flags.has(Flags::BLOCKED) {
            self.measures.record(Measure::Lag, walk.head.saturating_sub(cursor));
        }
        if connection.state == State::Poll {
            self.answer_poll(reader.slot);
        } else if is_overrun {
            if flags.has(Flags::BLOCKED | Flags::REPLAYING) {
                self.overrun(reader, walk.lane, walk.floor);
                return true;
            }
            walk.stragglers = true;
        }
        let planned = self.batch.len();
        self.plan(reader.slot);
        walk.sends += (self.batch.len() - planned) as u64;
        true
    }

    /// Whether a lane has grown so much since the present pass over its readers began that those at its end would
    /// be further behind than they may be. That some have fallen behind before is no reason to hold up the others.
    pub(super) fn outgrows_its_walk(&self, lane: u32) -> bool {
        let (log, max_lag) = (&self.channels.lanes[lane].log, self.max_lag(lane));
        let is_behind = |walk: &Walk| walk.lane == lane && walk.has_begun && log.head() - walk.head > max_lag;
        log.kept_bytes() > max_lag && self.walks.iter().any(is_behind)
    }

    /// A pass is over: what is too old goes, and another one begins if there was news meanwhile.
    fn end_walk(&mut self, walk: &Walk) {
        let lane = &mut self.channels.lanes[walk.lane];
        lane.walking = false;
        let has_news = lane.log.head() != walk.head;
        self.counters.walks += 1;
        if walk.sends > 0 {
            self.measures.record(Measure::Pass, walk.sends);
        }
        self.counters.lag_max_bytes = self.counters.lag_max_bytes.max(walk.lag_max);
        if self.held_by == Some(walk.lane) {
            self.held_by = None;
        }
        if !walk.stragglers {
            self.channels.trim(walk.lane, walk.floor);
        }
        if has_news || walk.stragglers {
            self.begin_walk(walk.lane);
        }
    }
}
