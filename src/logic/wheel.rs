//! The timer wheel: one per shard, coarse, with eight bytes per entry and without cancelling.
//!
//! An entry is only a hint: when it fires, its owner looks at the connection's real deadline and enters it again if the
//! deadline has moved. So a send or a receive never touches the wheel.

/// Coarse time: counts of the shard's tick.
pub type Tick = u32;

/// The number of slots. An entry that is due further ahead fires early, and its owner enters it again.
const SLOTS: usize = 1024;

/// The number of entries in one allocation. Lists that double their capacity would leave up to half of their memory
/// unused, in hundreds of slots at a time.
const CHUNK: usize = 32;

/// Entries of type `T`, each due at a tick.
#[derive(Debug)]
pub struct Wheel<T> {
    /// The chunks of each slot; only the last chunk of a slot has room.
    slots: Vec<Vec<Vec<T>>>,
    now: Tick,
    entries: usize,
}

impl<T> Wheel<T> {
    /// An empty wheel that stands at `now`.
    pub fn new(now: Tick) -> Wheel<T> {
        Wheel { slots: (0..SLOTS).map(|_| Vec::new()).collect(), now, entries: 0 }
    }

    /// Enters `entry` to fire at `due`: at the next tick if `due` has passed, early if it is far ahead. Returns the
    /// tick at which the entry will fire.
    pub fn insert(&mut self, entry: T, due: Tick) -> Tick {
        let ahead = due.saturating_sub(self.now).clamp(1, SLOTS as Tick);
        let tick = self.now + ahead;
        let chunks = &mut self.slots[tick as usize % SLOTS];
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(entry),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(entry);
                // A slot has few chunks.
                chunks.reserve_exact(1);
                chunks.push(chunk);
            }
        }
        self.entries += 1;
        tick
    }

    /// Moves on by one tick, if `to` lies ahead, and hands out the entries that fire. The caller repeats the call until
    /// it returns `None`.
    pub fn advance(&mut self, to: Tick) -> Option<impl Iterator<Item = T> + use<T>> {
        if self.now >= to {
            return None;
        }
        self.now += 1;
        let fired = std::mem::take(&mut self.slots[self.now as usize % SLOTS]);
        self.entries -= fired.iter().map(Vec::len).sum::<usize>();
        Some(fired.into_iter().flatten())
    }

    /// The tick at which the wheel stands.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// The number of entries that wait.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether no entry waits.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fires_when_due() {
        let mut wheel = Wheel::new(10);
        assert!(wheel.is_empty());
        assert_eq!(wheel.insert('a', 12), 12);
        assert_eq!(wheel.insert('b', 5), 11);
        assert_eq!((wheel.len(), wheel.is_empty(), wheel.now()), (2, false, 10));
        assert!(wheel.advance(11).expect("a tick has passed").eq(['b']));
        assert_eq!((wheel.len(), wheel.now()), (1, 11));
        assert!(wheel.advance(11).is_none());
        assert!(wheel.advance(20).expect("a tick has passed").eq(['a']));
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_slot_keeps_the_order_of_many_entries() {
        let mut wheel = Wheel::new(0);
        (0..100).for_each(|entry| assert_eq!(wheel.insert(entry, 1), 1));
        assert_eq!(wheel.len(), 100);
        let chunks: Vec<_> = wheel.slots[1].iter().map(|chunk| (chunk.len(), chunk.capacity())).collect();
        assert_eq!(chunks, [(32, 32), (32, 32), (32, 32), (4, 32)]);
        assert!(wheel.advance(1).expect("a tick has passed").eq(0..100));
        assert!(wheel.is_empty());
    }

    proptest! {
        /// An owner that enters early entries again gets each entry exactly at its tick.
        #[test]
        fn every_entry_fires_at_its_tick(dues in prop::collection::vec(1u32..5000, 1..50)) {
            let mut wheel = Wheel::new(0);
            for (i, due) in dues.iter().enumerate() {
                let expected = wheel.insert((i, *due), *due);
                prop_assert_eq!(expected, (*due).min(1024));
            }
            let mut seen = vec![0; dues.len()];
            for tick in 1..=5000 {
                while let Some(fired) = wheel.advance(tick) {
                    for (i, due) in fired {
                        if due > tick {
                            prop_assert_eq!(tick % 1024, 0, "only what is too far ahead fires early");
                            wheel.insert((i, due), due);
                        } else {
                            seen[i] = tick;
                        }
                    }
                }
                prop_assert_eq!((wheel.now(), wheel.len()), (tick, dues.iter().filter(|due| **due > tick).count()));
            }
            prop_assert_eq!(seen, dues);
        }
    }
}
