//! The census of channels: how many there are of each kind, how much memory their names take, and how many there may be.

use crate::logic::protocol::feed::FeedError;

/// The bytes of a name beside its text: the channel's cell, the text's header, and the places in the indexes.
const NAME_OVERHEAD: u64 = 96;

/// The bounds of all channels together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChannelLimits {
    /// The most channels of publishers.
    pub(super) published_max: usize,
    /// The most channels that clients follow or publish to and that no publisher has published to.
    pub(super) followed_max: usize,
    /// The bytes of the hub's budget. Names of either kind may take a quarter, and names and histories together three
    /// quarters.
    pub(super) memory_max: u64,
}

/// The kinds of peers that publish, by which a channel is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A publisher on the feed.
    Publisher,
    /// A client, or the server on a client's behalf.
    Client,
}

/// A number of channels, and the bytes of their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    channels: usize,
    bytes: u64,
}

impl Count {
    fn add(&mut self, name: &str) {
        self.channels += 1;
        self.bytes += name_cost(name);
    }

    fn remove(&mut self, name: &str) {
        self.channels -= 1;
        self.bytes -= name_cost(name);
    }
}

/// The numbers of channels of each kind, and their bounds.
#[derive(Debug)]
pub(super) struct Census {
    limits: ChannelLimits,
    /// The channels of publishers.
    published: Count,
    /// The channels that no publisher has published to.
    followed: Count,
}

impl Default for Census {
    fn default() -> Census {
        let limits = ChannelLimits { published_max: usize::MAX, followed_max: usize::MAX, memory_max: u64::MAX };
        Census { limits, published: Count::default(), followed: Count::default() }
    }
}

/// The bytes that a channel's name counts for.
pub(super) fn name_cost(name: &str) -> u64 {
    NAME_OVERHEAD + name.len() as u64
}

impl Census {
    /// Sets the bounds.
    pub(super) fn limit_to(&mut self, limits: ChannelLimits) {
        self.limits = limits;
    }

    /// Counts a new channel, which no publisher has published to.
    pub(super) fn add(&mut self, name: &str) {
        self.followed.add(name);
    }

    /// Stops counting a channel that is not among those of publishers.
    pub(super) fn remove(&mut self, name: &str) {
        self.followed.remove(name);
    }

    /// Moves a channel to those of publishers, or away from them.
    pub(super) fn count_as(&mut self, name: &str, is_published: bool) {
        let (from, to) = match is_published {
            true => (&mut self.followed, &mut self.published),
            false => (&mut self.published, &mut self.followed),
        };
        from.remove(name);
        to.add(name);
    }

    /// Whether publishers may have `new` channels more.
    pub(super) fn has_room_for_published(&self, new: usize) -> bool {
        let ChannelLimits { published_max, memory_max, .. } = self.limits;
        self.published.channels.saturating_add(new) <= published_max && self.published.bytes <= memory_max / 4
    }

    /// Whether clients may bring one more channel into being.
    pub(super) fn has_room_for_followed(&self) -> bool {
        let ChannelLimits { followed_max, memory_max, .. } = self.limits;
        self.followed.channels < followed_max && self.followed.bytes <= memory_max / 4
    }

    /// The error for a channel that is refused to peers of this kind, `"publishers"` or `"clients"`.
    pub(super) fn no_room(&self, kind: &str) -> FeedError {
        FeedError::new("channels", format!("the channels of {kind} are as many as [limits] allows"))
    }

    /// The number of channels of publishers.
    #[cfg(test)]
    pub(super) fn published(&self) -> usize {
        self.published.channels
    }

    /// The number of channels that no publisher has published to.
    pub(super) fn followed(&self) -> usize {
        self.followed.channels
    }

    /// The bytes of all names.
    pub(super) fn bytes(&self) -> u64 {
        self.published.bytes + self.followed.bytes
    }

    /// The bytes that all histories may take.
    pub(super) fn history_bytes_max(&self) -> u64 {
        (self.limits.memory_max / 4 * 3).saturating_sub(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_either_kind_have_a_quarter_of_the_budget() {
        let mut census = Census::default();
        census.limit_to(ChannelLimits { published_max: 100, followed_max: 100, memory_max: 4 * 300 });
        for name in ["a", "b", "c", "d"] {
            assert!(census.has_room_for_followed());
            census.add(name);
        }
        assert!(!census.has_room_for_followed());
        assert!(census.has_room_for_published(100) && !census.has_room_for_published(101));
        for name in ["a", "b", "c", "d"] {
            census.count_as(name, true);
        }
        assert!(census.has_room_for_followed() && !census.has_room_for_published(1));
        assert_eq!((census.published(), census.followed(), census.bytes()), (4, 0, 4 * 97));
        assert_eq!(census.history_bytes_max(), 900 - 4 * 97);
        census.count_as("a", false);
        census.remove("a");
        assert_eq!((census.published(), census.followed(), census.bytes()), (3, 0, 3 * 97));
    }
}
