//! What the driver's two connections share: the entries that wait or are under way, and the position.

use std::collections::VecDeque;
use std::time::Instant;

use crate::link::backplane::Unordered;
use crate::logic::id::Id;

/// Entries that are appended together.
pub(super) struct Batch {
    pub(super) entries: Vec<Unordered>,
    /// The number of the first entry, if all of them are appended or none.
    pub(super) whole: Option<u64>,
    pub(super) is_lasting: bool,
    /// The time at which the hub has handed them over.
    pub(super) since: Instant,
}

/// An entry that was sent and not read back.
pub(super) struct Sent {
    pub(super) entry: Unordered,
    pub(super) is_lasting: bool,
    /// The number of the first entry of its batch, if that was appended as a whole.
    pub(super) whole: Option<u64>,
    pub(super) since: Instant,
    /// The time at which the broker has said that it has the entry.
    pub(super) taken: Option<Instant>,
}

/// What both connections share.
pub(super) struct State {
    pub(super) queue: VecDeque<Batch>,
    pub(super) sent: VecDeque<Sent>,
    /// The newest entry that was read.
    pub(super) position: Id,
    /// Whether the position is that of an entry.
    pub(super) is_entry: bool,
    /// Whether a hole was told since the last look at the log.
    pub(super) has_told_hole: bool,
    /// The time at which an entry was read last.
    pub(super) read_at: Instant,
    /// The newest number of this node's own that was read.
    pub(super) newest_own: u64,
    pub(super) has_begun: bool,
    /// The time since which the broker is away.
    pub(super) away_since: Option<Instant>,
}

impl State {
    /// The state before anything was read.
    pub(super) fn new() -> State {
        State {
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            position: Id::ZERO,
            is_entry: false,
            has_told_hole: false,
            read_at: Instant::now(),
            newest_own: 0,
            has_begun: false,
            away_since: None,
        }
    }

    /// Puts an entry that is surely not in the log before all that wait. Entries come here from the last one on, so that
    /// they keep their order, and those of a whole batch come together again.
    pub(super) fn send_again(&mut self, sent: Sent) {
        let Sent { entry, is_lasting, whole, since, .. } = sent;
        match self.queue.front_mut() {
            Some(batch) if whole.is_some() && batch.whole == whole => batch.entries.insert(0, entry),
            _ => self.queue.push_front(Batch { entries: vec![entry], whole, is_lasting, since }),
        }
    }
}
