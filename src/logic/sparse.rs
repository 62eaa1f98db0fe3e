//! A sparse array: values for some of many numbers. The numbers are split into chunks, whose values lie close together in
//! blocks, whichever numbers of the chunk have one. A value never moves while it is there; it costs its own size and some
//! bytes, and finding it costs three loads.

/// The numbers that one chunk covers.
const CHUNK: usize = 128;
/// The values that one block has room for.
const BLOCK: usize = 8;
/// The place of a number without a value.
const NOWHERE: u8 = u8::MAX;

type Block<T> = Option<Box<[Option<T>; BLOCK]>>;

#[derive(Debug)]
struct Chunk<T> {
    /// The place of each number's value.
    places: [u8; CHUNK],
    /// The places that are taken, as bits.
    taken: u128,
    blocks: [Block<T>; CHUNK / BLOCK],
}

impl<T> Chunk<T> {
    fn new() -> Box<Chunk<T>> {
        Box::new(Chunk { places: [NOWHERE; CHUNK], taken: 0, blocks: [const { None }; CHUNK / BLOCK] })
    }

    /// The place of the value of a number, whether there is one or not.
    fn value(&mut self, place: u8) -> &mut Option<T> {
        let block = &mut self.blocks[usize::from(place) / BLOCK];
        &mut block.get_or_insert_with(|| Box::new([const { None }; BLOCK]))[usize::from(place) % BLOCK]
    }

    fn get(&self, number: usize) -> Option<&T> {
        let place = usize::from(self.places[number]);
        self.blocks.get(place / BLOCK)?.as_ref()?[place % BLOCK].as_ref()
    }

    fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        let place = usize::from(self.places[number]);
        self.blocks.get_mut(place / BLOCK)?.as_mut()?[place % BLOCK].as_mut()
    }

    fn insert(&mut self, number: usize, value: T) -> Option<T> {
        if self.places[number] == NOWHERE {
            // There are as many places as numbers, so one is free.
            let place = self.taken.trailing_ones() as u8;
            self.places[number] = place;
            self.taken |= 1 << place;
        }
        self.value(self.places[number]).replace(value)
    }

    fn remove(&mut self, number: usize) -> Option<T> {
        let place = std::mem::replace(&mut self.places[number], NOWHERE);
        if place == NOWHERE {
            return None;
        }
        let value = self.value(place).take();
        self.taken &= !(1 << place);
        let block = usize::from(place) / BLOCK;
        if (self.taken >> (block * BLOCK)) as u8 == 0 {
            self.blocks[block] = None;
        }
        value
    }
}

/// Values for some of many numbers.
#[derive(Debug)]
pub struct Sparse<T> {
    chunks: Vec<Option<Box<Chunk<T>>>>,
    used: usize,
}

impl<T> Default for Sparse<T> {
    fn default() -> Sparse<T> {
        Sparse { chunks: Vec::new(), used: 0 }
    }
}

fn place(number: u32) -> (usize, usize) {
    (number as usize / CHUNK, number as usize % CHUNK)
}

impl<T> Sparse<T> {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The value of a number, if it has one.
    pub fn get(&self, number: u32) -> Option<&T> {
        let (chunk, place) = place(number);
        self.chunks.get(chunk)?.as_ref()?.get(place)
    }

    /// The value of a number, to be changed.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (chunk, place) = place(number);
        self.chunks.get_mut(chunk)?.as_mut()?.get_mut(place)
    }

    /// Gives a number a value; returns the earlier value.
    pub fn insert(&mut self, number: u32, value: T) -> Option<T> {
        let (chunk, place) = place(number);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let before = self.chunks[chunk].get_or_insert_with(Chunk::new).insert(place, value);
        self.used += usize::from(before.is_none());
        before
    }

    /// Takes a number's value away.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        let (index, place) = place(number);
        let chunk = self.chunks.get_mut(index)?.as_mut()?;
        let value = chunk.remove(place)?;
        self.used -= 1;
        if chunk.taken == 0 {
            self.chunks[index] = None;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec((0u32..600, any::<Option<u8>>()), 0..400)) {
            let (mut sparse, mut map) = (Sparse::default(), HashMap::new());
            for (number, value) in steps {
                match value {
                    Some(value) => prop_assert_eq!(sparse.insert(number, value), map.insert(number, value)),
                    None => prop_assert_eq!(sparse.remove(number), map.remove(&number)),
                }
                prop_assert_eq!((sparse.len(), sparse.is_empty()), (map.len(), map.is_empty()));
                prop_assert_eq!(sparse.get(number), map.get(&number));
                prop_assert_eq!(sparse.get_mut(number), map.get_mut(&number));
            }
            let chunks = sparse.chunks.iter().flatten().count();
            let needed: std::collections::HashSet<u32> = map.keys().map(|number| number / CHUNK as u32).collect();
            prop_assert_eq!(chunks, needed.len());
            for chunk in sparse.chunks.iter().flatten() {
                let places: std::collections::HashSet<u8> = chunk.places.iter().copied().filter(|place| *place != NOWHERE).collect();
                prop_assert_eq!(places.len(), chunk.taken.count_ones() as usize);
                let blocks: std::collections::HashSet<usize> = places.iter().map(|place| usize::from(*place) / BLOCK).collect();
                prop_assert_eq!(chunk.blocks.iter().flatten().count(), blocks.len());
            }
        }
    }
}
