//! An index by name that stores only numbers and grows in small steps.
//!
//! A hash table doubles all at once: at a million names that takes a long pause, and afterwards half of the table is
//! unused for a long time. This index is split into parts of unequal size, which double one after the other.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// So many that the largest part of some millions of names doubles within a few milliseconds.
const PARTS: usize = 64;
/// The least number of names for which a part that was larger keeps room.
const ROOM_MIN: usize = 8;
/// The bounds of the parts in 16 bits of a name's hash: `65536 * (2^((i + 1) / 64) - 1)`. The parts' shares go from 1
/// to 2, each larger than the one before by the same ratio.
#[rustfmt::skip]
const BOUNDS: [u16; PARTS] = [
    714, 1435, 2164, 2902, 3647, 4400, 5162, 5932, 6710, 7496, 8292, 9096, 9908, 10730, 11560, 12400, 13249,
    14106, 14974, 15850, 16737, 17633, 18538, 19454, 20379, 21315, 22260, 23216, 24183, 25160, 26148, 27146,
    28155, 29175, 30207, 31249, 32303, 33369, 34446, 35534, 36635, 37747, 38872, 40009, 41158, 42320, 43495,
    44682, 45882, 47095, 48322, 49562, 50815, 52082, 53363, 54658, 55966, 57289, 58627, 59979, 61346, 62727,
    64124, u16::MAX,
];

/// An index from names to numbers. The caller keeps the names and passes a function from a number to its name.
#[derive(Debug)]
pub struct Names {
    parts: [HashTable<u32>; PARTS],
    hasher: RandomState,
}

fn part(hash: u64) -> usize {
    // These bits differ from those that a table uses for a name's place and keeps there.
    let bits = (hash >> 36) as u16;
    BOUNDS.partition_point(|bound| *bound < bits)
}

impl Names {
    /// An empty index whose hashes depend on the seed in `hasher`.
    pub fn new(hasher: RandomState) -> Names {
        Names { parts: std::array::from_fn(|_| HashTable::new()), hasher }
    }

    /// The number of that name, if the index has it.
    pub fn find<'n>(&self, name: &str, name_of: impl Fn(u32) -> &'n str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.parts[part(hash)].find(hash, |number| name_of(*number) == name).copied()
    }

    /// Adds a number whose name is not in the index yet. `name_of` must know the name already.
    pub fn add<'n>(&mut self, number: u32, name_of: impl Fn(u32) -> &'n str) {
        let Names { parts, hasher } = self;
        let hash = hasher.hash_one(name_of(number));
        parts[part(hash)].insert_unique(hash, number, |number| hasher.hash_one(name_of(*number)));
    }

    /// Takes a number with its name out of the index, and shrinks a part that is nearly empty.
    pub fn remove<'n>(&mut self, number: u32, name_of: impl Fn(u32) -> &'n str) {
        let Names { parts, hasher } = self;
        let hash = hasher.hash_one(name_of(number));
        let table = &mut parts[part(hash)];
        if let Ok(entry) = table.find_entry(hash, |other| *other == number) {
            entry.remove();
        }
        if table.len() < table.num_buckets() / 8 {
            table.shrink_to(ROOM_MIN.max(table.len() * 2), |number| hasher.hash_one(name_of(*number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_formula() {
        for (i, bound) in BOUNDS.iter().enumerate().take(PARTS - 1) {
            let exact = 65536.0 * (2_f64.powf((i + 1) as f64 / 64.0) - 1.0);
            assert!((f64::from(*bound) - exact).abs() < 16.0, "{i}: {bound} is not {exact}");
        }
        assert_eq!((part(0), part(u64::MAX)), (0, PARTS - 1));
    }

    #[test]
    fn names_are_found_until_they_are_removed_and_the_room_comes_back() {
        let all: Vec<String> = (0..20_000).map(|i| format!("channel:{i}")).collect();
        let name_of = |number: u32| all[number as usize].as_str();
        let mut names = Names::new(RandomState::new());
        for number in 0..all.len() as u32 {
            names.add(number, name_of);
        }
        let room: usize = names.parts.iter().map(HashTable::capacity).sum();
        assert!(room < all.len() * 2, "the parts are not all half empty at once: {room}");
        for number in 0..all.len() as u32 {
            assert_eq!(names.find(name_of(number), name_of), Some(number));
        }
        for number in 100..all.len() as u32 {
            names.remove(number, name_of);
        }
        for number in 0..all.len() as u32 {
            assert_eq!(names.find(name_of(number), name_of), Some(number).filter(|number| *number < 100));
        }
        let room: usize = names.parts.iter().map(HashTable::capacity).sum();
        assert!(room < 1_000, "{room}");
    }

    #[test]
    fn a_part_shrinks_once_less_than_an_eighth_is_used_and_then_has_room_to_double() {
        let all: Vec<String> = (0..20_000).map(|i| format!("channel:{i}")).collect();
        let name_of = |number: u32| all[number as usize].as_str();
        let mut names = Names::new(RandomState::new());
        (0..all.len() as u32).for_each(|number| names.add(number, name_of));
        for number in 0..all.len() as u32 {
            let changed = part(names.hasher.hash_one(name_of(number)));
            let before = names.parts[changed].num_buckets();
            names.remove(number, name_of);
            let (left, after) = (names.parts[changed].len(), names.parts[changed].num_buckets());
            if left >= before / 8 {
                assert_eq!(after, before, "{left} are left");
            } else {
                // A table doubles when seven of eight places are used.
                assert!(
                    after * 7 / 8 >= ROOM_MIN.max(2 * left) && after <= 64.max(5 * left),
                    "{left} are left in {after}"
                );
            }
        }
    }
}
