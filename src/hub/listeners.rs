//! Listeners: publishers that hear of clients' messages, connects and disconnects, or decide about clients without a token.

use crate::link::Listening;

/// The listeners of this node.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// What each listens to, and its number as a publisher; the newest `listen` command comes last.
    list: Vec<(Listening, usize)>,
}

impl Listeners {
    /// Adds a listener, or changes what it listens to. Returns whether [`Listeners::any`] has changed.
    pub(super) fn set(&mut self, publisher: usize, what: Listening) -> bool {
        let before = self.any();
        self.list.retain(|(_, other)| *other != publisher);
        self.list.push((what, publisher));
        before != self.any()
    }

    /// Takes a publisher out, if it is a listener. Returns whether [`Listeners::any`] has changed.
    pub(super) fn remove(&mut self, publisher: usize) -> bool {
        let before = self.any();
        self.list.retain(|(_, other)| *other != publisher);
        before != self.any()
    }

    /// Everything that at least one listener listens to.
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

    /// The listener that is asked about clients without a token: the one whose offer to decide is the newest.
    pub(super) fn authorizer(&self) -> Option<usize> {
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
    fn a_change_of_what_all_listen_to_is_reported() {
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
    fn the_listener_with_the_newest_offer_to_decide_is_asked() {
        let mut listeners = Listeners::default();
        assert_eq!(listeners.authorizer(), None);
        listeners.set(1, listening(false, false, true));
        listeners.set(2, listening(false, false, true));
        listeners.set(3, listening(true, true, false));
        assert_eq!(listeners.authorizer(), Some(2));
        listeners.set(1, listening(false, false, true));
        assert_eq!(listeners.authorizer(), Some(1));
        listeners.remove(1);
        assert_eq!(listeners.authorizer(), Some(2));
    }
}
