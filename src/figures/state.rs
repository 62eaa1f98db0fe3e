//! What holds for the server as a whole: whether new clients are welcome, and how many connections there are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The server's state, which all threads share. A connection touches it when it comes and when it goes, a delivery never.
#[derive(Debug, Default)]
pub struct ServerState {
    connections: AtomicUsize,
    is_started: AtomicBool,
    is_leaving: AtomicBool,
    is_paused: AtomicBool,
    is_feed_lost: AtomicBool,
    is_broker_lost: AtomicBool,
}

impl ServerState {
    /// Counts a connection, unless there are `connections_max` already; returns whether it was counted.
    pub fn add_connection(&self, connections_max: usize) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if before >= connections_max {
            self.remove_connection();
            return false;
        }
        true
    }

    /// Stops counting a connection.
    pub fn remove_connection(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many connections there are now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Notes that every thread is up.
    pub fn set_started(&self) {
        self.is_started.store(true, Ordering::Relaxed);
    }

    /// Notes that the server is going away.
    pub fn set_leaving(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the server is going away.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// Notes whether an operator keeps new clients away for now; returns what held before.
    pub fn set_paused(&self, is_paused: bool) -> bool {
        self.is_paused.swap(is_paused, Ordering::Relaxed)
    }

    /// Whether an operator keeps new clients away for now.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    /// Notes whether publishers cannot connect, because the feed's socket file is gone.
    pub fn set_feed_lost(&self, is_lost: bool) {
        self.is_feed_lost.store(is_lost, Ordering::Relaxed);
    }

    /// Notes whether the broker of the cluster's log has been away for so long that clients are better off elsewhere.
    pub fn set_broker_lost(&self, is_lost: bool) {
        self.is_broker_lost.store(is_lost, Ordering::Relaxed);
    }

    /// Whether the broker of the cluster's log has been away for so long that clients are better off elsewhere.
    pub fn is_broker_lost(&self) -> bool {
        self.is_broker_lost.load(Ordering::Relaxed)
    }

    /// Whether new clients are welcome: the server has started, is not going away and is not paused, publishers can
    /// connect, and the log of a cluster can be read.
    pub fn is_ready(&self) -> bool {
        if self.is_feed_lost.load(Ordering::Relaxed) || self.is_broker_lost() {
            return false;
        }
        let is_leaving = self.is_leaving.load(Ordering::Relaxed) || self.is_paused();
        self.is_started.load(Ordering::Relaxed) && !is_leaving
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_welcome_between_start_and_end_and_not_in_a_pause() {
        let state = ServerState::default();
        assert!(!state.is_ready());
        state.set_started();
        assert!(state.is_ready());
        assert!(!state.set_paused(true));
        assert!(!state.is_ready() && state.is_paused());
        assert!(state.set_paused(false));
        assert!(state.is_ready());
        state.set_feed_lost(true);
        assert!(!state.is_ready());
        state.set_feed_lost(false);
        assert!(state.is_ready());
        state.set_broker_lost(true);
        assert!(!state.is_ready() && state.is_broker_lost());
        state.set_broker_lost(false);
        assert!(state.is_ready());
        state.set_leaving();
        assert!(!state.is_ready());
    }

    #[test]
    fn connections_are_counted_up_to_the_limit() {
        let state = ServerState::default();
        assert_eq!([2, 2, 2].map(|most| state.add_connection(most)), [true, true, false]);
        assert_eq!(state.connections(), 2);
        state.remove_connection();
        assert!(state.add_connection(2));
    }
}
