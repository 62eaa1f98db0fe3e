//! Traces: publishers that get a copy of a channel's events.

use std::collections::HashMap;

use crate::logic::event::ChannelName;
use crate::logic::protocol::feed::FeedError;

/// The most channels that one publisher traces.
const TRACES_MAX: usize = 100;

/// All traces. A publish costs one look here, however many channels are traced.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// The numbers of the publishers that trace a channel.
    by_channel: HashMap<ChannelName, Vec<usize>>,
    /// By publisher, the channels that it traces.
    by_publisher: HashMap<usize, Vec<ChannelName>>,
}

impl Traces {
    /// Adds a publisher to a channel's traces, unless it is among them.
    ///
    /// # Errors
    /// If the publisher traces too many channels.
    pub(super) fn add(&mut self, channel: ChannelName, publisher: usize) -> Result<(), FeedError> {
        if self.of(&channel).contains(&publisher) {
            return Ok(());
        }
        let own = self.by_publisher.entry(publisher).or_default();
        if own.len() >= TRACES_MAX {
            let message = format!("a connection traces at most {TRACES_MAX} channels");
            return Err(FeedError::new("traces", message));
        }
        own.push(channel.clone());
        self.by_channel.entry(channel).or_default().push(publisher);
        Ok(())
    }

    /// The channels that a publisher traces.
    pub(super) fn by(&self, publisher: usize) -> &[ChannelName] {
        self.by_publisher.get(&publisher).map_or(&[], Vec::as_slice)
    }

    /// Ends a publisher's trace of a channel, if there is one.
    pub(super) fn end(&mut self, channel: &ChannelName, publisher: usize) {
        let Some(own) = self.by_publisher.get_mut(&publisher) else { return };
        own.retain(|traced| traced != channel);
        if own.is_empty() {
            self.by_publisher.remove(&publisher);
        }
        self.take_off(channel, publisher);
    }

    /// Ends a publisher's traces, if it has any.
    pub(super) fn remove(&mut self, publisher: usize) {
        for channel in self.by_publisher.remove(&publisher).into_iter().flatten() {
            self.take_off(&channel, publisher);
        }
    }

    fn take_off(&mut self, channel: &ChannelName, publisher: usize) {
        let Some(publishers) = self.by_channel.get_mut(channel) else { return };
        publishers.retain(|other| *other != publisher);
        if publishers.is_empty() {
            self.by_channel.remove(channel);
        }
    }

    /// The publishers that get a copy of a channel's events.
    pub(super) fn of(&self, channel: &ChannelName) -> &[usize] {
        if self.by_channel.is_empty() {
            return &[];
        }
        self.by_channel.get(channel).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_traced_once_and_so_many_at_most() {
        let mut traces = Traces::default();
        let (a, more) = ("a".into(), "more".into());
        for _ in 0..1000 {
            traces.add("a".into(), 1).unwrap();
        }
        traces.add("a".into(), 2).unwrap();
        assert_eq!((traces.of(&a), traces.of(&more)), (&[1, 2][..], &[][..]));
        for n in 1..TRACES_MAX {
            traces.add(format!("c{n}").as_str().into(), 1).unwrap();
        }
        assert_eq!(traces.add("more".into(), 1).unwrap_err().code, "traces");
        traces.add("a".into(), 1).unwrap();
        traces.add("more".into(), 2).unwrap();
        traces.remove(1);
        assert_eq!((traces.of(&a), traces.of(&more)), (&[2][..], &[2][..]));
        // What a publisher does not trace ends nothing.
        traces.end(&a, 3);
        traces.end(&"other".into(), 2);
        assert_eq!((traces.of(&a), traces.of(&more)), (&[2][..], &[2][..]));
        traces.end(&a, 2);
        assert_eq!((traces.of(&a), traces.of(&more)), (&[][..], &[2][..]));
        traces.remove(2);
        assert!(traces.by_channel.is_empty() && traces.by_publisher.is_empty());
        traces.add("a".into(), 3).unwrap();
        traces.end(&a, 3);
        assert!(traces.by_channel.is_empty() && traces.by_publisher.is_empty());
    }
}
