//! The ends of channels: for each channel that a publisher has ended, the id of its end.
//!
//! An end has an id of its own, so that a position says whether a client was told of it. Few channels are ended at a time,
//! so these ids are kept beside the channels, in a tree that gives its memory back as it shrinks.

use std::collections::BTreeMap;

use super::id::Id;

/// The ends of channels, by the channels' numbers.
#[derive(Debug, Default)]
pub struct Ends(BTreeMap<u32, Id>);

impl Ends {
    /// Notes that a channel has ended.
    pub fn insert(&mut self, channel: u32, id: Id) {
        self.0.insert(channel, id);
    }

    /// Forgets the end of a channel that goes on or is given up.
    pub fn remove(&mut self, channel: u32) {
        self.0.remove(&channel);
    }

    /// The id of a channel's end; the least id if none is known.
    pub fn of(&self, channel: u32) -> Id {
        self.0.get(&channel).copied().unwrap_or(Id::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_until_the_channel_goes_on() {
        let mut ends = Ends::default();
        (0..1000).for_each(|channel| ends.insert(channel, Id::new(channel.into(), 7)));
        assert_eq!((ends.of(999), ends.of(1000)), (Id::new(999, 7), Id::ZERO));
        (0..990).for_each(|channel| ends.remove(channel));
        assert_eq!((ends.of(989), ends.of(990)), (Id::ZERO, Id::new(990, 7)));
        assert_eq!(ends.0.len(), 10, "nothing is kept of a channel that goes on");
    }
}
