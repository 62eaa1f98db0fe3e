//! The limits on the messages of WebSocket clients.

use std::collections::HashMap;

/// The messages that each WebSocket client may send in a second; 0 stands for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TalkLimits {
    /// The most messages.
    pub(super) messages_max: u32,
    /// The most bytes of messages.
    pub(super) bytes_max: u64,
}

/// The messages of each client in the present second. A silent client takes no memory here.
#[derive(Debug, Default)]
pub(super) struct Talk {
    second: u32,
    /// The numbers of messages and bytes, by the client's slot.
    said: HashMap<u32, (u32, u64)>,
}

impl Talk {
    /// Counts a message of the client in a slot, in the second since the start that is given; returns whether the client is
    /// still within its limits.
    pub(super) fn count(&mut self, slot: u32, bytes: usize, limits: &TalkLimits, second: u32) -> bool {
        if limits.messages_max == 0 && limits.bytes_max == 0 {
            return true;
        }
        if second != self.second {
            self.second = second;
            self.said.clear();
            self.said.shrink_to(1024);
        }
        let (messages, sum) = self.said.entry(slot).or_default();
        *messages += 1;
        *sum += bytes as u64;
        (limits.messages_max == 0 || *messages <= limits.messages_max)
            && (limits.bytes_max == 0 || *sum <= limits.bytes_max)
    }

    /// Forgets the messages of the client in a slot, because the slot may get another client.
    pub(super) fn forget(&mut self, slot: u32) {
        self.said.remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_may_say_so_much_in_a_second() {
        let mut talk = Talk::default();
        let limits = TalkLimits { messages_max: 2, bytes_max: 100 };
        assert!(talk.count(1, 10, &limits, 1) && talk.count(1, 10, &limits, 1));
        assert!(!talk.count(1, 10, &limits, 1));
        assert!(talk.count(2, 100, &limits, 1) && !talk.count(3, 101, &limits, 1));
        assert!(talk.count(1, 10, &limits, 2), "the next second");
        talk.forget(1);
        assert!(talk.count(1, 10, &limits, 2) && talk.count(1, 10, &limits, 2));
        assert!((0..100).all(|_| talk.count(9, 1000, &TalkLimits::default(), 2)));
    }
}
