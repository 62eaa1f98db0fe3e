//! The logs' frames: appending them, trimming what every reader has, and the account of what is kept.

use crate::logic::id::Id;
use crate::logic::log::{Log, Position};
use crate::logic::session::LaneKey;
use crate::logic::wheel::Tick;

use super::super::settings::ticks;
use super::{LOG_KEPT, LOG_OVERHEAD, Lanes, RETAINED_PER_LOG};

impl Lanes {
    /// Appends an event's frame to a log. No reader has everything now, and the log is looked at for its age after a
    /// while.
    pub(in crate::shard) fn append(&mut self, lane: u32, id: Id, now: Tick, write: impl FnOnce(&mut Vec<u8>)) {
        let has_readers = !self.readers(lane).is_empty();
        let cell = &mut self.cells[lane];
        let before = cell.log.head();
        let counted = if cell.lags { cell.log.memory_bytes() } else { 0 };
        cell.log.append(id, write);
        cell.at_head = 0;
        if has_readers {
            cell.lags = true;
            self.lagging_bytes = self.lagging_bytes - counted + cell.log.memory_bytes();
        }
        // Without subscriptions `touched` is the time at which the last one ended.
        if cell.users > 0 {
            cell.touched = now;
        }
        self.kept_bytes += cell.log.head() - before;
        if !std::mem::replace(&mut cell.aging, true) {
            self.aging.push_back((now + ticks(LOG_KEPT), lane));
        }
    }

    /// The channel's lane of a key, which is new, with a predecessor's log that begins at `start`.
    pub(in crate::shard) fn restore(
        &mut self,
        channel: u32,
        key: LaneKey,
        (start, since): (Position, Option<Id>),
        touched: Tick,
    ) -> u32 {
        let lane = self.lane(channel, key);
        self.cells[lane].log = Log::at(start, since);
        self.cells[lane].touched = touched;
        lane
    }

    /// Trims a log that every reader has read: frames for cheap resumes stay, within `budget` bytes over all logs.
    pub(in crate::shard) fn settle(&mut self, lane: u32, budget: u64) {
        let cell = &self.cells[lane];
        if cell.log.is_empty() || !self.is_read(lane) {
            return;
        }
        if cell.lags {
            self.lagging_bytes -= cell.log.memory_bytes();
            self.cells[lane].lags = false;
        }
        let cell = &self.cells[lane];
        let cost = self.kept_bytes + self.aging.len() as u64 * LOG_OVERHEAD;
        if cost > budget {
            self.clear_log(lane);
        } else if cell.log.kept_bytes() > RETAINED_PER_LOG {
            let floor = cell.log.floor(self.max_lag(lane).min(RETAINED_PER_LOG));
            self.trim(lane, floor);
        }
    }

    /// Whether a lane's log is kept because a reader does not have everything.
    pub(in crate::shard) fn lags(&self, lane: u32) -> bool {
        self.cells[lane].lags
    }

    /// Changes a log and brings the account up to date.
    fn change_log<T>(&mut self, lane: u32, change: impl FnOnce(&mut Log) -> T) -> T {
        let cell = &mut self.cells[lane];
        let before = cell.log.memory_bytes();
        let result = change(&mut cell.log);
        if cell.lags {
            self.lagging_bytes = self.lagging_bytes - before + cell.log.memory_bytes();
        }
        result
    }

    /// Drops the frames before `position`.
    pub(in crate::shard) fn trim(&mut self, lane: u32, position: Position) {
        self.kept_bytes -= self.change_log(lane, |log| log.trim(position));
    }

    /// Drops all frames of a log.
    pub(in crate::shard) fn clear_log(&mut self, lane: u32) {
        self.kept_bytes -= self.change_log(lane, Log::clear);
    }

    /// Gives back memory that a log's kept frames do not need.
    pub(in crate::shard) fn compact(&mut self, lane: u32) {
        self.change_log(lane, Log::compact);
    }
}
