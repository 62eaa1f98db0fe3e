//! The channel log: the events that a shard keeps of one channel in one protocol and coding, as framed bytes.
//!
//! Events are framed once and appended, and every subscriber reads the same bytes. A position is an offset in the
//! endless stream of frames since the log began, so a cursor is one number and stays valid while the oldest frames are
//! dropped. A frame lies in one piece in memory.

use std::collections::VecDeque;

use super::id::Id;

/// The bytes after which a chunk is closed and the next one begun.
pub const CHUNK_BYTES: usize = 128 * 1024;

/// The mark of a log that does not know yet since which id it is complete.
const UNKNOWN: Id = Id::MAX;

/// A position in a log's stream of frames, in bytes since the log began.
pub type Position = u64;

/// The framed events of one channel in one protocol and coding.
///
/// # Invariants
/// - Frames are contiguous: the first kept one starts at the tail, the last one ends at the head.
/// - `since` is the id of the newest event that is *not* kept any more (or the one before the log began).
#[derive(Debug)]
pub struct Log {
    head: Position,
    since: Id,
    /// The kept frames; `None` if there are none, so that an idle channel costs little.
    kept: Option<Box<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    chunks: VecDeque<Chunk>,
    marks: VecDeque<Mark>,
    tail: Position,
    /// The capacities of all chunks together.
    allocated: usize,
}

#[derive(Debug)]
struct Chunk {
    base: Position,
    bytes: Vec<u8>,
}

/// The end of an event's frame in the log.
#[derive(Clone, Copy, Debug)]
struct Mark {
    id: Id,
    end: Position,
}

impl Log {
    /// An empty log. `since` is the newest id before its first event, if that is known already.
    pub fn new(since: Option<Id>) -> Log {
        Log { head: 0, since: since.unwrap_or(UNKNOWN), kept: None }
    }

    /// An empty log whose next frame begins at `head`.
    pub fn at(head: Position, since: Option<Id>) -> Log {
        Log { head, ..Log::new(since) }
    }

    /// The id since which the log is complete, if the log knows it.
    pub fn since(&self) -> Option<Id> {
        (self.since != UNKNOWN).then_some(self.since)
    }

    /// The kept frames from the one on that holds `position`, each with its event's id, and the position at which the first one
    /// begins.
    pub fn frames_from(&self, position: Position) -> (Position, impl Iterator<Item = (Id, &[u8])>) {
        let marks = self.kept.iter().flat_map(move |kept| {
            let first = Self::marks_until(kept, position);
            let start =
                first.checked_sub(1).and_then(|before| kept.marks.get(before)).map_or(kept.tail, |mark| mark.end);
            let ends = kept.marks.range(first..);
            ends.scan(start, |start, mark| Some((std::mem::replace(start, mark.end), *mark)))
        });
        let mut frames = marks.map(|(start, mark)| (start, mark.id, self.bytes(start, mark.end))).peekable();
        let start = frames.peek().map_or(self.head, |(start, ..)| *start);
        (start, frames.map(|(_, id, bytes)| (id, bytes)))
    }

    /// Sets the id since which the log is complete, if the log does not know it yet.
    pub fn set_since(&mut self, since: Id) {
        if self.since == UNKNOWN {
            self.since = since;
        }
    }

    /// The position after the newest frame, where a new subscriber starts.
    pub fn head(&self) -> Position {
        self.head
    }

    /// The position of the oldest kept frame; the head if nothing is kept.
    pub fn tail(&self) -> Position {
        self.kept.as_ref().map_or(self.head, |kept| kept.tail)
    }

    /// Appends the frame that `write` writes for the event `id`.
    pub fn append(&mut self, id: Id, write: impl FnOnce(&mut Vec<u8>)) {
        let head = self.head;
        let kept = self.kept.get_or_insert_with(|| Box::new(Kept { tail: head, ..Kept::default() }));
        debug_assert!(kept.marks.back().is_none_or(|mark| mark.id < id), "events come in order");
        if kept.chunks.back().is_none_or(|chunk| chunk.bytes.len() >= CHUNK_BYTES) {
            kept.chunks.push_back(Chunk { base: head, bytes: Vec::new() });
        }
        let Some(chunk) = kept.chunks.back_mut() else { return };
        let allocated = chunk.bytes.capacity();
        write(&mut chunk.bytes);
        kept.allocated += chunk.bytes.capacity() - allocated;
        self.head = chunk.base + chunk.bytes.len() as u64;
        debug_assert!(self.head > head, "no frame is empty");
        kept.marks.push_back(Mark { id, end: self.head });
    }

    /// The bytes from `position` to the end of its chunk or to `end`, whichever comes first; empty at the head.
    ///
    /// `position` must not lie before the tail.
    pub fn bytes(&self, position: Position, end: Position) -> &[u8] {
        let Some(kept) = &self.kept else { return &[] };
        debug_assert!(position >= kept.tail && position <= self.head);
        let index = kept.chunks.partition_point(|chunk| chunk.base <= position);
        let Some(chunk) = index.checked_sub(1).and_then(|index| kept.chunks.get(index)) else { return &[] };
        let start = (position - chunk.base) as usize;
        let end = ((end - chunk.base) as usize).min(chunk.bytes.len());
        chunk.bytes.get(start..end).unwrap_or_default()
    }

    /// The number of marks whose frame ends at or before `position`.
    fn marks_until(kept: &Kept, position: Position) -> usize {
        kept.marks.partition_point(|mark| mark.end <= position)
    }

    /// The end of the frame that `position` lies in; `position` itself if it is a boundary between frames.
    pub fn frame_boundary(&self, position: Position) -> Position {
        let Some(kept) = &self.kept else { return position };
        if position <= kept.tail {
            return position;
        }
        let index = kept.marks.partition_point(|mark| mark.end < position);
        kept.marks.get(index).map_or(position, |mark| mark.end)
    }

    /// The id of the event whose frame starts at or holds `position`; `None` at the head.
    pub fn id_at(&self, position: Position) -> Option<Id> {
        let kept = self.kept.as_ref()?;
        kept.marks.get(Self::marks_until(kept, position)).map(|mark| mark.id)
    }

    /// The id of the newest event, kept or not, that ends at or before `position`; `None` if the log does not know
    /// it.
    pub fn id_until(&self, position: Position) -> Option<Id> {
        self.id_before(position).or_else(|| (self.since != UNKNOWN).then_some(self.since))
    }

    /// The id of the newest kept event that ends at or before `position`.
    pub fn id_before(&self, position: Position) -> Option<Id> {
        let kept = self.kept.as_ref()?;
        let index = Self::marks_until(kept, position).checked_sub(1)?;
        kept.marks.get(index).map(|mark| mark.id)
    }

    /// The number of events that end within `from..to`, which must be kept.
    pub fn events_between(&self, from: Position, to: Position) -> usize {
        let Some(kept) = &self.kept else { return 0 };
        Self::marks_until(kept, to).saturating_sub(Self::marks_until(kept, from))
    }

    /// The end of the run of events from `position` on whose ids are below `limit`.
    pub fn end_before(&self, position: Position, limit: Id) -> Position {
        let Some(kept) = &self.kept else { return position };
        let index = kept.marks.partition_point(|mark| mark.id < limit);
        index.checked_sub(1).and_then(|index| kept.marks.get(index)).map_or(position, |mark| mark.end.max(position))
    }

    /// The position right after the event `id`, if everything after that id is still kept.
    pub fn position_after(&self, id: Id) -> Option<Position> {
        if self.since == UNKNOWN || id < self.since {
            return None;
        }
        Some(self.start_after(id))
    }

    fn start_after(&self, id: Id) -> Position {
        let Some(kept) = &self.kept else { return self.head };
        let index = kept.marks.partition_point(|mark| mark.id <= id);
        index.checked_sub(1).and_then(|index| kept.marks.get(index)).map_or(kept.tail, |mark| mark.end)
    }

    /// The start of the newest event's frame; the head if nothing is kept.
    pub fn newest_start(&self) -> Position {
        let Some(kept) = &self.kept else { return self.head };
        match kept.marks.len() {
            0 | 1 => kept.tail,
            count => kept.marks[count - 2].end,
        }
    }

    /// The oldest frame boundary that a subscriber may lag behind to: at most `bytes` from the head, but never
    /// past the start of the newest event.
    pub fn floor(&self, bytes: u64) -> Position {
        let limit = self.head.saturating_sub(bytes);
        if limit <= self.tail() {
            return self.tail();
        }
        self.frame_boundary(limit).min(self.newest_start())
    }

    /// Drops the frames before `position`, which is a frame's boundary. Returns how many bytes that freed.
    pub fn trim(&mut self, position: Position) -> u64 {
        if position >= self.head {
            return self.clear();
        }
        let Some(kept) = &mut self.kept else { return 0 };
        let before = kept.tail;
        while kept.marks.front().is_some_and(|mark| mark.end <= position) {
            if let Some(mark) = kept.marks.pop_front() {
                kept.tail = mark.end;
                // All events after this one are kept, so the log knows since when it is complete, even if it did not
                // before.
                self.since = mark.id;
            }
        }
        while kept.chunks.front().is_some_and(|chunk| chunk.base + chunk.bytes.len() as u64 <= kept.tail) {
            let chunk = kept.chunks.pop_front();
            kept.allocated -= chunk.map_or(0, |chunk| chunk.bytes.capacity());
        }
        kept.tail - before
    }

    /// Gives back memory that the kept frames do not need: the part of the oldest chunk that is dropped already, and the
    /// room at the ends of chunks. The call copies up to all kept bytes.
    pub fn compact(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        let Some(first) = kept.chunks.front_mut() else { return };
        first.bytes.drain(..(kept.tail - first.base) as usize);
        first.base = kept.tail;
        kept.chunks.iter_mut().for_each(|chunk| chunk.bytes.shrink_to_fit());
        kept.chunks.shrink_to_fit();
        kept.marks.shrink_to_fit();
        kept.allocated = kept.chunks.iter().map(|chunk| chunk.bytes.capacity()).sum::<usize>();
    }

    /// Drops all kept frames and returns the number of their bytes.
    pub fn clear(&mut self) -> u64 {
        let Some(kept) = self.kept.take() else { return 0 };
        if let Some(mark) = kept.marks.back() {
            self.since = mark.id;
        }
        self.head - kept.tail
    }

    /// The framed bytes that are kept.
    pub fn kept_bytes(&self) -> u64 {
        self.head - self.tail()
    }

    /// The bytes of memory that the kept frames take, with their marks and with room that is not used yet.
    pub fn memory_bytes(&self) -> u64 {
        let Some(kept) = &self.kept else { return 0 };
        let marks = kept.marks.capacity() * size_of::<Mark>() + kept.chunks.capacity() * size_of::<Chunk>();
        (size_of::<Kept>() + kept.allocated + marks) as u64
    }

    /// Whether no frame is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(sizes: &[usize]) -> Log {
        let mut log = Log::new(Some(Id::ZERO));
        for (i, size) in sizes.iter().enumerate() {
            log.append(Id::new(i as u64 + 1, 0), |out| out.extend(std::iter::repeat_n(i as u8, *size)));
        }
        log
    }

    #[test]
    fn one_cursor_reads_everything_pending_in_one_piece() {
        let log = filled(&[10, 20, 30]);
        assert_eq!(log.bytes(10, log.head()).len(), 50);
        assert_eq!(log.bytes(60, log.head()), &[] as &[u8]);
        assert_eq!(log.frame_boundary(10), 10);
        assert_eq!(log.frame_boundary(11), 30);
        assert_eq!(log.id_at(10), Some(Id::new(2, 0)));
        assert_eq!(log.id_before(10), Some(Id::new(1, 0)));
        assert_eq!(log.id_at(60), None);
        assert_eq!(log.events_between(0, 60), 3);
        assert_eq!(log.events_between(10, 30), 1);
    }

    #[test]
    fn resuming_within_the_log_needs_only_a_position() {
        let mut log = filled(&[10, 20, 30]);
        assert_eq!(log.position_after(Id::new(1, 0)), Some(10));
        assert_eq!(log.position_after(Id::new(1, 5)), Some(10));
        assert_eq!(log.position_after(Id::new(3, 0)), Some(60));
        assert_eq!(log.position_after(Id::ZERO), Some(0));
        log.trim(10);
        assert_eq!(log.position_after(Id::ZERO), None);
        assert_eq!(log.position_after(Id::new(1, 0)), Some(10));
        log.clear();
        assert_eq!(log.position_after(Id::new(2, 0)), None);
        assert_eq!(log.position_after(Id::new(3, 0)), Some(60));
        assert_eq!(log.position_after(Id::new(4, 0)), Some(60));
    }

    #[test]
    fn a_log_that_does_not_know_its_beginning_serves_no_resume() {
        let mut log = Log::new(None);
        assert_eq!(log.position_after(Id::new(9, 9)), None);
        log.set_since(Id::new(5, 0));
        assert_eq!(log.position_after(Id::new(5, 0)), Some(0));
        assert_eq!(log.position_after(Id::new(4, 0)), None);
    }

    #[test]
    fn the_floor_is_a_boundary_and_spares_the_newest_event() {
        let log = filled(&[10, 20, 30]);
        assert_eq!(log.floor(1000), 0);
        assert_eq!(log.floor(60), 0);
        assert_eq!(log.floor(55), 10);
        assert_eq!(log.floor(30), 30);
        assert_eq!(log.floor(1), 30);
        assert_eq!(log.newest_start(), 30);
    }

    #[test]
    fn big_logs_are_read_chunk_by_chunk() {
        let log = filled(&[CHUNK_BYTES - 1, 2, 5, CHUNK_BYTES, 7]);
        let mut position = 0;
        let mut pieces = 0;
        while position < log.head() {
            let piece = log.bytes(position, log.head());
            assert!(!piece.is_empty());
            position += piece.len() as u64;
            pieces += 1;
        }
        assert_eq!(pieces, 3);
        // This is twice as much as a socket's send buffer takes at first, so a subscriber that resumes gets it in one
        // send.
        assert_eq!(filled(&[1000; 131]).bytes(0, 131_000).len(), 131_000);
    }

    #[test]
    fn the_memory_of_a_log_is_that_of_its_frames_and_marks() {
        let mut log = Log::new(Some(Id::ZERO));
        assert_eq!(log.memory_bytes(), 0);
        log.append(Id::new(1, 0), |out| *out = vec![1; 1000]);
        let one = log.memory_bytes();
        let beside = size_of::<Kept>() + 4 * (size_of::<Mark>() + size_of::<Chunk>());
        assert_eq!(one, 1000 + beside as u64);
        log.append(Id::new(2, 0), |out| {
            out.reserve_exact(500_000 - out.len());
            out.push(2);
        });
        assert_eq!(log.memory_bytes(), one - 1000 + 500_000);
        log.clear();
        assert_eq!(log.memory_bytes(), 0);
    }

    #[test]
    fn a_compact_log_has_no_room_for_frames_that_are_dropped() {
        let mut log = filled(&[50_000; 5]);
        log.trim(200_000);
        assert!(log.memory_bytes() > 99_000, "the chunk of two frames is kept for the last one's sake");
        let kept = log.bytes(200_000, log.head()).to_vec();
        log.compact();
        assert!(log.memory_bytes() < 50_000 + 1000, "{}", log.memory_bytes());
        assert_eq!(log.bytes(200_000, log.head()), kept);
        assert_eq!((log.tail(), log.head(), log.kept_bytes()), (200_000, 250_000, 50_000));
        log.append(Id::new(6, 0), |out| out.extend_from_slice(b"more"));
        assert_eq!(log.bytes(250_000, log.head()), b"more");
        let mut empty = Log::new(None);
        empty.compact();
        assert!(empty.is_empty());
    }

    /// A plain model of a log: all frames that were ever appended, and the number of those that are dropped.
    struct Model {
        frames: Vec<Frame>,
        dropped: usize,
        since: Option<Id>,
    }

    struct Frame {
        id: Id,
        bytes: std::ops::Range<Position>,
    }

    impl Model {
        fn append(&mut self, id: Id, size: usize) {
            let start = self.head();
            self.frames.push(Frame { id, bytes: start..start + size as u64 });
        }

        /// Drops the frames before `position`; returns their bytes.
        fn drop_until(&mut self, position: Position) -> u64 {
            let before = self.tail();
            while let Some(frame) = self.kept().first().filter(|frame| frame.bytes.end <= position) {
                self.since = Some(frame.id);
                self.dropped += 1;
            }
            self.tail() - before
        }

        fn kept(&self) -> &[Frame] {
            &self.frames[self.dropped..]
        }

        fn head(&self) -> Position {
            self.frames.last().map_or(0, |frame| frame.bytes.end)
        }

        fn tail(&self) -> Position {
            self.kept().first().map_or(self.head(), |frame| frame.bytes.start)
        }

        fn ended_by(&self, position: Position) -> impl DoubleEndedIterator<Item = &Frame> {
            self.kept().iter().filter(move |frame| frame.bytes.end <= position)
        }

        fn boundaries(&self) -> impl Iterator<Item = Position> {
            [self.tail()].into_iter().chain(self.kept().iter().map(|frame| frame.bytes.end))
        }

        fn newest_start(&self) -> Position {
            self.kept().last().map_or(self.head(), |frame| frame.bytes.start)
        }

        fn floor(&self, bytes: u64) -> Position {
            self.boundaries().find(|at| self.head() - at <= bytes).unwrap().min(self.newest_start())
        }

        /// Compares all answers about a position between tail and head.
        fn check_at(&self, log: &Log, position: Position) {
            let holds = |frame: &&Frame| frame.bytes.contains(&position);
            let before = self.ended_by(position).next_back().map(|frame| frame.id);
            assert_eq!(Some(log.frame_boundary(position)), self.boundaries().find(|at| *at >= position));
            assert_eq!(log.id_at(position), self.kept().iter().find(holds).map(|frame| frame.id));
            assert_eq!(log.id_before(position), before);
            assert_eq!(log.id_until(position), before.or(self.since));
            for to in self.boundaries().filter(|to| *to >= position) {
                let events = self.ended_by(to).count() - self.ended_by(position).count();
                assert_eq!(log.events_between(position, to), events);
            }
        }

        /// Compares all answers about an id.
        fn check_of(&self, log: &Log, id: Id) {
            let after = self.frames.iter().rfind(|frame| frame.id <= id).map_or(0, |frame| frame.bytes.end);
            assert_eq!(log.position_after(id), self.since.filter(|since| *since <= id).map(|_| after));
            let end = self.kept().iter().rfind(|frame| frame.id < id).map(|frame| frame.bytes.end);
            for position in self.boundaries() {
                assert_eq!(log.end_before(position, id), end.unwrap_or(position).max(position));
            }
        }

        /// Reads from a position to an end, piece by piece, and compares the bytes with those that were appended.
        fn check_read(&self, log: &Log, from: Position, to: Position) {
            let mut position = from;
            while position < to {
                let piece = log.bytes(position, to);
                assert!(!piece.is_empty());
                for byte in piece {
                    let frame = self.frames.partition_point(|frame| frame.bytes.end <= position);
                    assert_eq!(*byte, frame as u8);
                    position += 1;
                }
            }
            assert_eq!((position, log.bytes(to, to)), (to, &[] as &[u8]));
        }

        fn check(&self, log: &Log) {
            assert_eq!((log.head(), log.tail(), log.newest_start()), (self.head(), self.tail(), self.newest_start()));
            assert_eq!((log.kept_bytes(), log.is_empty()), (self.head() - self.tail(), self.kept().is_empty()));
            for boundary in self.boundaries() {
                let inside = (boundary + 1).min(self.head());
                self.check_at(log, boundary);
                self.check_at(log, inside);
            }
            for id in self.frames.iter().map(|frame| frame.id) {
                self.check_of(log, Id::new(id.ms() - 1, 0));
                self.check_of(log, id);
            }
            self.check_of(log, Id::ZERO);
            let ends = log.kept.iter().flat_map(|kept| &kept.chunks).map(|c| c.base + c.bytes.len() as u64);
            assert!(ends.into_iter().all(|end| end > self.tail()), "no chunk is held for dropped frames only");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_as_the_model(
            since in any::<bool>(), steps in prop::collection::vec((0u8..7, 1usize..40_000, any::<prop::sample::Index>()), 1..40),
        ) {
            let since = since.then(|| Id::new(3, 0));
            let mut log = Log::new(since);
            let mut model = Model { frames: Vec::new(), dropped: 0, since };
            for (step, (what, size, place)) in steps.into_iter().enumerate() {
                match what {
                    0..3 => {
                        // Every second millisecond has no event.
                        let (id, byte) = (Id::new(10 + 2 * step as u64, 0), model.frames.len() as u8);
                        log.append(id, |out| out.extend(std::iter::repeat_n(byte, size)));
                        model.append(id, size);
                    }
                    3 => {
                        let floor = log.floor(size as u64);
                        prop_assert_eq!(floor, model.floor(size as u64));
                        prop_assert_eq!(log.trim(floor), model.drop_until(floor));
                    }
                    4 => {
                        let all: Vec<_> = [0].into_iter().chain(model.frames.iter().map(|frame| frame.bytes.end)).collect();
                        let position = *place.get(&all);
                        prop_assert_eq!(log.trim(position), model.drop_until(position));
                    }
                    5 => log.compact(),
                    _ => prop_assert_eq!(log.clear(), model.drop_until(model.head())),
                }
                model.check(&log);
                let is_exact = |kept: &Kept| kept.allocated == kept.chunks.iter().map(|chunk| chunk.bytes.capacity()).sum::<usize>();
                prop_assert!(log.kept.as_deref().is_none_or(is_exact));
            }
            model.check_read(&log, model.tail(), model.head());
            let boundaries: Vec<_> = model.boundaries().collect();
            for pair in boundaries.windows(2) {
                model.check_read(&log, pair[0], pair[1]);
            }
        }
    }
}
