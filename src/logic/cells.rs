//! A table of equal cells that grows by chunks and never moves them.
//!
//! A `Vec` would double: at a million connections that is a pause for copying and twice the memory. Free
//! cells are linked through themselves, so an empty table costs nothing beside its chunks.

/// No cell.
pub const NONE: u32 = u32::MAX;

const CHUNK: usize = 256;

/// What can lie in a table.
pub trait Cell: Default {
    /// Where a free cell keeps the index of the next free one; a used cell may use it for its own purpose.
    fn link(&mut self) -> &mut u32;
}

/// The table. Indexes stay valid until the cell is freed.
#[derive(Debug)]
pub struct Cells<T> {
    chunks: Vec<Box<[T]>>,
    free: u32,
    used: usize,
}

impl<T: Cell> Default for Cells<T> {
    fn default() -> Cells<T> {
        Cells::new()
    }
}

impl<T: Cell> Cells<T> {
    /// An empty table.
    pub fn new() -> Cells<T> {
        Cells { chunks: Vec::new(), free: NONE, used: 0 }
    }

    /// Takes a free cell, which is as its last user left it.
    pub fn take(&mut self) -> u32 {
        if self.free == NONE {
            let base = (self.chunks.len() * CHUNK) as u32;
            let mut chunk: Box<[T]> = (0..CHUNK).map(|_| T::default()).collect();
            for (offset, cell) in chunk.iter_mut().enumerate().rev() {
                *cell.link() = self.free;
                self.free = base + offset as u32;
            }
            self.chunks.push(chunk);
        }
        let index = self.free;
        self.free = *self[index].link();
        self.used += 1;
        index
    }

    /// Gives a cell back; its user has reset it.
    pub fn give_back(&mut self, index: u32) {
        let free = self.free;
        *self[index].link() = free;
        self.free = index;
        self.used -= 1;
    }

    /// How many cells are in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The cells there are, used or not.
    pub fn capacity(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    /// The cell at `index`, if the table ever had one there.
    pub fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / CHUNK).map(|chunk| &chunk[index as usize % CHUNK])
    }
}

impl<T> std::ops::Index<u32> for Cells<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

impl<T> std::ops::IndexMut<u32> for Cells<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Number {
        link: u32,
        value: u64,
    }

    impl Cell for Number {
        fn link(&mut self) -> &mut u32 {
            &mut self.link
        }
    }

    proptest! {
        #[test]
        fn a_used_cell_is_nobody_elses(takes in proptest::collection::vec(any::<bool>(), 0..2000)) {
            let mut cells = Cells::<Number>::new();
            let mut used = Vec::new();
            for (step, take) in takes.into_iter().enumerate() {
                if take || used.is_empty() {
                    let index = cells.take();
                    cells[index].value = step as u64;
                    used.push((index, step as u64));
                } else {
                    let (index, value) = used.swap_remove(step % used.len());
                    prop_assert_eq!(cells[index].value, value);
                    cells.give_back(index);
                }
                prop_assert_eq!(cells.used(), used.len());
            }
            for (index, value) in used {
                prop_assert_eq!(cells[index].value, value);
            }
        }
    }
}
