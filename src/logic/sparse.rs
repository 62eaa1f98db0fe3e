//! A sparse array: values for some of many numbers. The array is split into chunks, and empty chunks take no memory. A
//! value costs its own size, and finding it costs two loads.

/// The numbers that one chunk covers.
const CHUNK: usize = 128;

#[derive(Debug)]
struct Chunk<T> {
    used: usize,
    values: [Option<T>; CHUNK],
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
        self.chunks.get(chunk)?.as_ref()?.values[place].as_ref()
    }

    /// The value of a number, to be changed.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (chunk, place) = place(number);
        self.chunks.get_mut(chunk)?.as_mut()?.values[place].as_mut()
    }

    /// Gives a number a value; returns the earlier value.
    pub fn insert(&mut self, number: u32, value: T) -> Option<T> {
        let (chunk, place) = place(number);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let empty = || Box::new(Chunk { used: 0, values: [const { None }; CHUNK] });
        let chunk = self.chunks[chunk].get_or_insert_with(empty);
        let before = chunk.values[place].replace(value);
        chunk.used += usize::from(before.is_none());
        self.used += usize::from(before.is_none());
        before
    }

    /// Takes a number's value away.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        let (index, place) = place(number);
        let chunk = self.chunks.get_mut(index)?.as_mut()?;
        let value = chunk.values[place].take()?;
        chunk.used -= 1;
        self.used -= 1;
        if chunk.used == 0 {
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
        }
    }
}
