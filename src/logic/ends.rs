//! The ends of channels: for each channel that a publisher has ended, the id of its end.
//!
//! An end has an id of its own, so that a position says whether a client was told of it. Few channels are ended at a time,
//! so these ids are kept beside the channels.

use std::collections::HashMap;

use super::id::Id;

/// The ends of channels, by the channels' numbers.
#[derive(Debug, Default)]
pub struct Ends(HashMap<u32, Id>);

impl Ends {
    /// Notes that a channel has ended.
    pub fn insert(&mut self, channel: u32, id: Id) {
        self.0.insert(channel, id);
    }

    /// Forgets the end of a channel that goes on or is given up.
    pub fn remove(&mut self, channel: u32) {
        self.0.remove(&channel);
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to_fit();
        }
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
        // Removals may make the capacity a little smaller by themselves.
        (500..1000).for_each(|channel| ends.remove(channel));
        assert_eq!((ends.of(500), ends.of(499)), (Id::ZERO, Id::new(499, 7)));
        assert!(ends.0.capacity() >= 1500, "more than a quarter is in use");
        (350..500).for_each(|channel| ends.remove(channel));
        assert!(ends.0.capacity() < 1000, "the memory is given back");
    }
}
