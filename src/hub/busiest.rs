//! The busiest channels: an estimate in fixed memory. A small table counts events by channel. Where too many channels
//! share a row, the least busy one makes room, so that busy channels stay.

use std::time::Duration;

/// The time over which events are counted.
const WINDOW: Duration = Duration::from_secs(10);
const ROWS: usize = 256;
const WAYS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    channel: u32,
    events: u32,
}

type Table = [[Count; WAYS]; ROWS];

/// The counts of the present window and of the last whole one.
#[derive(Debug)]
pub(super) struct Busiest {
    now: Box<Table>,
    last: Box<Table>,
    /// The beginning of the present window, in milliseconds since 1970.
    begun_ms: u64,
    /// The length of the last window, in milliseconds; 0 before there was one.
    last_ms: u64,
}

impl Default for Busiest {
    fn default() -> Busiest {
        let table = || Box::new([[Count::default(); WAYS]; ROWS]);
        Busiest { now: table(), last: table(), begun_ms: 0, last_ms: 0 }
    }
}

impl Busiest {
    /// Counts an event of a channel.
    pub(super) fn count(&mut self, channel: u32) {
        // Channels are numbered in order, so a multiplication spreads them over the rows.
        let row = &mut self.now[(channel.wrapping_mul(0x9e37_79b1) >> 24) as usize % ROWS];
        if let Some(count) = row.iter_mut().find(|count| count.channel == channel && count.events > 0) {
            count.events = count.events.saturating_add(1);
            return;
        }
        let Some(least) = row.iter_mut().min_by_key(|count| count.events) else { return };
        match least.events {
            0 => *least = Count { channel, events: 1 },
            _ => least.events -= 1,
        }
    }

    /// Begins a new window if the present one has lasted long enough.
    pub(super) fn pass_time(&mut self, now_ms: u64) {
        let age = now_ms.saturating_sub(self.begun_ms);
        if age >= WINDOW.as_millis() as u64 {
            std::mem::swap(&mut self.now, &mut self.last);
            *self.now = [[Count::default(); WAYS]; ROWS];
            // 0 is no time but stands for "no window before this one".
            self.last_ms = if self.begun_ms == 0 { 0 } else { age };
            self.begun_ms = now_ms;
        }
    }

    /// The channels and their events per second, the busiest first.
    pub(super) fn list(&self, now_ms: u64) -> Vec<(u32, f64)> {
        let seconds = (self.last_ms + now_ms.saturating_sub(self.begun_ms)).max(1000) as f64 / 1000.0;
        let mut sums = std::collections::HashMap::<u32, u64>::new();
        let last = self.last.iter().filter(|_| self.last_ms > 0).flatten();
        for count in self.now.iter().flatten().chain(last).filter(|count| count.events > 0) {
            *sums.entry(count.channel).or_default() += u64::from(count.events);
        }
        let mut list: Vec<(u32, u64)> = sums.into_iter().collect();
        list.sort_unstable_by_key(|(channel, events)| (std::cmp::Reverse(*events), *channel));
        list.into_iter().map(|(channel, events)| (channel, events as f64 / seconds)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_channels_are_found_among_many() {
        let mut busiest = Busiest::default();
        busiest.pass_time(1_000_000);
        for round in 0..10_000u32 {
            busiest.count(7);
            busiest.count(8 + round % 2 * 1000);
            busiest.count(10_000 + round);
        }
        let list = busiest.list(1_005_000);
        let names: Vec<u32> = list.iter().take(3).map(|(channel, _)| *channel).collect();
        assert_eq!(names, [7, 8, 1008]);
        assert!((1900.0..=2000.0).contains(&list[0].1), "{list:?}");
    }

    #[test]
    fn channels_that_were_busy_are_forgotten() {
        let mut busiest = Busiest::default();
        busiest.pass_time(1_000_000);
        busiest.count(1);
        busiest.pass_time(1_010_000);
        assert_eq!(busiest.list(1_010_000), [(1, 0.1)]);
        busiest.pass_time(1_020_000);
        busiest.count(2);
        assert_eq!(busiest.list(1_020_000), [(2, 0.1)]);
    }
}
