//! Listeners: backends on the feed that hear clients' messages, connects and disconnects, or decide about clients.

use crate::link::Listening;

/// All listeners, by their numbers as publishers, in the order of their last `listen`.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    list: Vec<(Listening, usize)>,
}

impl Listeners {
    /// Adds a listener, or changes what it listens to; returns whether shards must know.
    pub(super) fn set(&mut self, publisher: usize, what: Listening) -> bool {
        let before = self.any();
        self.list.retain(|(_, other)| *other != publisher);
        self.list.push((what, publisher));
        before != self.any()
    }

    /// Takes a listener out, if it is one; returns whether shards must know.
    pub(super) fn remove(&mut self, publisher: usize) -> bool {
        let before = self.any();
        self.list.retain(|(_, other)| *other != publisher);
        before != self.any()
    }

    /// The kinds of lines that at least one backend listens to.
    pub(super) fn any(&self) -> Listening {
        self.list.iter().fold(Listening::default(), |any, (what, _)| Listening {
            messages: any.messages || what.messages,
            connections: any.connections || what.connections,
            authorize: any.authorize || what.authorize,
        })
    }

    /// The listeners that hear clients' messages.
    pub(super) fn of_messages(&self) -> impl Iterator<Item = usize> {
        self.list.iter().filter(|(what, _)| what.messages).map(|(_, publisher)| *publisher)
    }

    /// The listeners that hear of connects and disconnects.
    pub(super) fn of_connections(&self) -> impl Iterator<Item = usize> {
        self.list.iter().filter(|(what, _)| what.connections).map(|(_, publisher)| *publisher)
    }

    /// The listener that is asked about clients without a token: the last one that has offered to decide.
    pub(super) fn who_decides(&self) -> Option<usize> {
        self.list.iter().rev().find(|(what, _)| what.authorize).map(|(_, publisher)| *publisher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(messages: bool, connections: bool, authorize: bool) -> Listening {
        Listening { messages, connections, authorize }
    }

    #[test]
    fn shards_must_know_when_something_is_listened_to_first_or_no_more() {
        let mut listeners = Listeners::default();
        assert!(listeners.set(1, listening(true, false, false)));
        assert!(!listeners.set(2, listening(true, false, false)));
        assert!(listeners.set(2, listening(true, true, false)));
        assert_eq!(listeners.of_messages().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(listeners.of_connections().collect::<Vec<_>>(), [2]);
        assert!(listeners.remove(2));
        assert!(!listeners.remove(2));
        assert!(listeners.remove(1));
        assert_eq!(listeners.any(), Listening::default());
    }

    #[test]
    fn the_last_one_that_offers_to_decide_is_asked() {
        let mut listeners = Listeners::default();
        assert_eq!(listeners.who_decides(), None);
        listeners.set(1, listening(false, false, true));
        listeners.set(2, listening(false, false, true));
        listeners.set(3, listening(true, true, false));
        assert_eq!(listeners.who_decides(), Some(2));
        listeners.set(1, listening(false, false, true));
        assert_eq!(listeners.who_decides(), Some(1));
        listeners.remove(1);
        assert_eq!(listeners.who_decides(), Some(2));
    }
}
