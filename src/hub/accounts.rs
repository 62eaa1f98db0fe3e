//! Accounts: the bytes that a shard's clients have said or published and that the hub has not passed on yet.
//!
//! A shard whose account is full stops reading clients that have more to say. So a slow backend slows its clients down, and
//! costs no memory.

use slab::Slab;

/// A client's message that waits for listeners.
#[derive(Debug)]
struct Entry {
    shard: u16,
    bytes: usize,
    /// Listeners that do not have the message yet.
    holders: usize,
}

/// The accounts of all shards.
#[derive(Debug)]
pub(super) struct Accounts {
    messages: Slab<Entry>,
    /// By shard, bytes that are off its account since it was last told.
    repaid: Vec<usize>,
    /// By shard, bytes of publishes that stay on its account while some shard's queue is full.
    held: Vec<usize>,
}

impl Accounts {
    /// Empty accounts for `shards` shards.
    pub(super) fn new(shards: usize) -> Accounts {
        Accounts { messages: Slab::new(), repaid: vec![0; shards], held: vec![0; shards] }
    }

    /// Keeps a message of `bytes` on its shard's account until `holders` listeners have released it; returns its
    /// number.
    pub(super) fn keep(&mut self, shard: u16, bytes: usize, holders: usize) -> usize {
        self.messages.insert(Entry { shard, bytes, holders })
    }

    /// The messages that wait: each one's number, its shard, its bytes, and the number of listeners that do not have it.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, u16, usize, usize)> {
        self.messages.iter().map(|(number, entry)| (number, entry.shard, entry.bytes, entry.holders))
    }

    /// Notes that one holder of a message has let it go.
    pub(super) fn release(&mut self, number: usize) {
        let Some(entry) = self.messages.get_mut(number) else { return };
        entry.holders -= 1;
        if entry.holders == 0 {
            let Entry { shard, bytes, .. } = self.messages.remove(number);
            self.repay(shard, bytes);
        }
    }

    /// Takes bytes off a shard's account.
    pub(super) fn repay(&mut self, shard: u16, bytes: usize) {
        add(&mut self.repaid, shard, bytes);
    }

    /// Leaves bytes on a shard's account until [`Accounts::release_held`].
    pub(super) fn hold(&mut self, shard: u16, bytes: usize) {
        add(&mut self.held, shard, bytes);
    }

    /// Whether bytes wait for [`Accounts::release_held`].
    pub(super) fn has_held(&self) -> bool {
        self.held.iter().any(|bytes| *bytes > 0)
    }

    /// Takes all bytes off the accounts that [`Accounts::hold`] has left there.
    pub(super) fn release_held(&mut self) {
        for (repaid, held) in self.repaid.iter_mut().zip(&mut self.held) {
            *repaid += std::mem::take(held);
        }
    }

    /// The shards that are to be told how many bytes are off their account.
    pub(super) fn take_repaid(&mut self) -> impl Iterator<Item = (u16, usize)> {
        let repaid = self.repaid.iter_mut().map(std::mem::take);
        (0..).zip(repaid).filter(|(_, bytes)| *bytes > 0)
    }
}

fn add(account: &mut [usize], shard: u16, bytes: usize) {
    if let Some(sum) = account.get_mut(usize::from(shard)) {
        *sum += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaid(accounts: &mut Accounts) -> Vec<(u16, usize)> {
        accounts.take_repaid().collect()
    }

    #[test]
    fn a_message_is_repaid_when_its_last_holder_has_let_it_go() {
        let mut accounts = Accounts::new(3);
        let (one, two) = (accounts.keep(2, 100, 2), accounts.keep(2, 10, 1));
        accounts.release(one);
        assert_eq!(repaid(&mut accounts), []);
        accounts.release(two);
        accounts.release(one);
        accounts.repay(0, 1);
        assert_eq!(repaid(&mut accounts), [(0, 1), (2, 110)]);
        assert_eq!(repaid(&mut accounts), []);
        assert!(accounts.messages.is_empty(), "numbers can be used again");
    }

    #[test]
    fn held_bytes_stay_until_they_are_released() {
        let mut accounts = Accounts::new(2);
        accounts.hold(1, 5);
        accounts.hold(1, 6);
        assert_eq!((accounts.has_held(), repaid(&mut accounts)), (true, vec![]));
        accounts.release_held();
        assert_eq!((accounts.has_held(), repaid(&mut accounts)), (false, vec![(1, 11)]));
    }
}
