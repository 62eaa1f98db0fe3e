//! A table of equal cells that grows by chunks and never moves them.
//!
//! A `Vec` would double: at a million connections that is a pause for copying and twice the memory. Free
//! cells are linked through themselves, so an empty table costs nothing beside its chunks.

use std::collections::VecDeque;

/// The number that stands for no cell.
pub const NONE: u32 = u32::MAX;

/// The most bytes of a chunk. The allocator serves blocks of more than 10 KiB from pages of 512 KiB almost without
/// loss, whereas a page for blocks of 8 KiB loses an eighth. The allocator also rounds each block up, by an eighth on
/// average. The added bytes cost nothing if a chunk ends with a page of the kernel's, because the kernel gives no
/// memory for pages that are never touched. Large tables have chunks of that kind; see [`wastes_nothing`].
const CHUNK_BYTES_MAX: usize = 28 * 1024;

/// The number of cells of a size in a chunk, which is a power of two.
const fn chunk(size: usize) -> usize {
    let mut cells = 1;
    while cells * 2 * size <= CHUNK_BYTES_MAX {
        cells *= 2;
    }
    cells
}

/// Whether chunks of cells of this type are whole pages of the kernel's, which large tables need to waste no memory.
pub const fn wastes_nothing<T>() -> bool {
    (chunk(size_of::<T>()) * size_of::<T>()).is_multiple_of(4096)
}

/// A value that can lie in a table.
pub trait Cell: Default {
    /// The field in which a free cell keeps the index of the next free one. A used cell may use it for its own
    /// purpose.
    fn link(&mut self) -> &mut u32;
}

/// A table of cells. An index stays valid until its cell is freed.
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

impl<T> Cells<T> {
    const CHUNK: usize = chunk(size_of::<T>());
}

impl<T: Cell> Cells<T> {
    /// A table without any cells.
    pub fn new() -> Cells<T> {
        Cells { chunks: Vec::new(), free: NONE, used: 0 }
    }

    /// Takes a free cell, whose value is as its last user left it.
    pub fn take(&mut self) -> u32 {
        if self.free == NONE {
            let base = (self.chunks.len() * Self::CHUNK) as u32;
            let mut chunk: Box<[T]> = (0..Self::CHUNK).map(|_| T::default()).collect();
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

    /// Takes the cells of these numbers in a table that was never used. The numbers are in order, and each comes once.
    pub fn take_these(&mut self, numbers: &[u32]) {
        debug_assert!(self.chunks.is_empty() && numbers.is_sorted(), "a new table, and numbers in order");
        let Some(last) = numbers.last() else { return };
        while self.capacity() <= *last {
            self.chunks.push((0..Self::CHUNK).map(|_| T::default()).collect());
        }
        let mut taken = numbers.iter().rev().peekable();
        for number in (0..self.capacity()).rev() {
            if taken.next_if_eq(&&number).is_none() {
                let free = std::mem::replace(&mut self.free, number);
                *self[number].link() = free;
            }
        }
        self.used = numbers.len();
    }

    /// Gives a cell back. The user must have reset its value.
    pub fn give_back(&mut self, index: u32) {
        let free = self.free;
        *self[index].link() = free;
        self.free = index;
        self.used -= 1;
    }

    /// The number of cells in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The number of cells, used or free.
    pub fn capacity(&self) -> u32 {
        (self.chunks.len() * Self::CHUNK) as u32
    }

    /// The cell at `index`, if the index was ever used.
    pub fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / Self::CHUNK).map(|chunk| &chunk[index as usize % Self::CHUNK])
    }
}

impl<T> std::ops::Index<u32> for Cells<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.chunks[index as usize / Self::CHUNK][index as usize % Self::CHUNK]
    }
}

impl<T> std::ops::IndexMut<u32> for Cells<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[index as usize / Self::CHUNK][index as usize % Self::CHUNK]
    }
}

/// A list that gives back the memory of elements which it had once and will hardly have again soon.
pub trait Slack {
    /// Gives back most of the list's free room, if the list is long and hardly a quarter of it is used.
    fn give_back_slack(&mut self);
}

/// The room that a list keeps in any case, in elements.
const ROOM_KEPT: usize = 1024;

/// The room that a list of `len` elements is cut to, if that is worth the copying. A list that has less room keeps it.
fn room(len: usize, capacity: usize) -> Option<usize> {
    (len < capacity / 4).then(|| (len * 2).max(ROOM_KEPT))
}

impl<T> Slack for Vec<T> {
    fn give_back_slack(&mut self) {
        if let Some(room) = room(self.len(), self.capacity()) {
            self.shrink_to(room);
        }
    }
}

impl<T> Slack for VecDeque<T> {
    fn give_back_slack(&mut self) {
        if let Some(room) = room(self.len(), self.capacity()) {
            self.shrink_to(room);
        }
    }
}

/// Values by number, for fields that only some cells of a table need.
#[derive(Debug, Default)]
pub struct Pool<T: Default> {
    cells: Cells<Numbered<T>>,
}

#[derive(Debug, Default)]
struct Numbered<T> {
    value: T,
    next: u32,
}

impl<T: Default> Cell for Numbered<T> {
    fn link(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl<T: Default> Pool<T> {
    /// Keeps a value and returns its number.
    pub fn add(&mut self, value: T) -> u32 {
        let number = self.cells.take();
        self.cells[number].value = value;
        number
    }

    /// Takes a value out. Its number may be given to another value.
    pub fn remove(&mut self, number: u32) -> T {
        let value = std::mem::take(&mut self.cells[number].value);
        self.cells.give_back(number);
        value
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.cells.used()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Default> std::ops::Index<u32> for Pool<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.cells[number].value
    }
}

impl<T: Default> std::ops::IndexMut<u32> for Pool<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.cells[number].value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_back_the_room_of_elements_that_have_gone() {
        let mut list: Vec<u8> = vec![0; 100_000];
        list.give_back_slack();
        assert_eq!(list.capacity(), 100_000, "a full list keeps its room");
        list.truncate(25_000);
        list.give_back_slack();
        assert_eq!(list.capacity(), 100_000, "a quarter is used");
        list.truncate(24_999);
        list.give_back_slack();
        assert_eq!((list.len(), list.capacity()), (24_999, 49_998));
        list.clear();
        list.give_back_slack();
        assert_eq!(list.capacity(), 1024);
        list.give_back_slack();
        assert_eq!(list.capacity(), 1024, "so much room is kept");
        let mut queue: VecDeque<u32> = VecDeque::with_capacity(5000);
        queue.give_back_slack();
        assert!((1024..5000).contains(&queue.capacity()), "{}", queue.capacity());
    }
    use proptest::prelude::*;

    /// A cell so large that a chunk has few of them.
    #[derive(Default)]
    struct Number {
        link: u32,
        value: u64,
        _rest: [[u64; 32]; 4],
    }

    impl Cell for Number {
        fn link(&mut self) -> &mut u32 {
            &mut self.link
        }
    }

    #[test]
    fn a_chunk_has_as_many_cells_as_fit_and_their_number_is_a_power_of_two() {
        assert_eq!([1, 2, 80, 14_336, 14_337, 28_672, 100_000].map(chunk), [16_384, 8_192, 256, 2, 1, 1, 1]);
    }

    #[test]
    fn chunks_of_whole_pages_waste_nothing() {
        assert!(wastes_nothing::<[u8; 80]>() && wastes_nothing::<[u8; 4096]>());
        assert!(!wastes_nothing::<[u8; 3000]>() && !wastes_nothing::<[u8; 4097]>());
    }

    #[test]
    fn a_number_is_given_again_once_its_value_is_taken_back() {
        let mut pool = Pool::<Vec<u8>>::default();
        let [a, b, c] = [1, 2, 9].map(|value| pool.add(vec![value]));
        assert_eq!((&pool[a], &pool[b], pool.len(), pool.is_empty()), (&vec![1], &vec![2], 3, false));
        assert_eq!(pool.remove(c), [9]);
        assert_eq!(pool.remove(a), [1]);
        assert_eq!(pool.add(vec![3]), a);
        assert_eq!((&pool[a], &pool[b]), (&vec![3], &vec![2]));
        pool[b].push(4);
        assert_eq!((pool.remove(b), pool.remove(a)), (vec![2, 4], vec![3]));
        assert!(pool.is_empty());
    }

    proptest! {
        #[test]
        fn a_used_cell_is_nobody_elses(takes in proptest::collection::vec(any::<bool>(), 0..2000)) {
            let mut cells = Cells::<Number>::new();
            let mut used = Vec::new();
            let mut used_max = 0;
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
                used_max = used_max.max(used.len());
                prop_assert_eq!(cells.capacity() as usize, used_max.next_multiple_of(Cells::<Number>::CHUNK));
                prop_assert!((0..cells.capacity()).all(|index| cells.get(index).is_some()));
                prop_assert!(cells.get(cells.capacity()).is_none());
            }
            for (index, value) in used {
                prop_assert_eq!((cells[index].value, cells.get(index).map(|cell| cell.value)), (value, Some(value)));
            }
        }
    }
}
