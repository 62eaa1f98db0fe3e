//! The identities of connections, which come from a token or from the backend. They are kept beside the slots, so that
//! a connection without an identity takes no memory for one.

use std::hash::RandomState;

use arcstr::ArcStr;

use crate::logic::auth::{Grants, GrantsPool, Revoked};
use crate::logic::cells::NONE;
use crate::logic::names::Names;
use crate::logic::sparse::Sparse;
use crate::logic::wheel::Tick;

/// The identity of one connection.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) user: Option<ArcStr>,
    pub(super) token: Option<ArcStr>,
    pub(super) grants: Grants,
    pub(super) expires: Tick,
    /// Whether the identity comes from the backend's decision instead of a token.
    pub(super) is_asked: bool,
}

impl Known {
    /// Whether the identity allows subscribing to a channel.
    pub(super) fn may_subscribe(&self, channel: &str) -> bool {
        self.grants.may_subscribe(channel, self.user.as_deref())
    }

    /// Whether the identity allows publishing to a channel.
    pub(super) fn may_publish(&self, channel: &str) -> bool {
        self.grants.may_publish(channel, self.user.as_deref())
    }
}

#[derive(Debug)]
struct Entry {
    known: Known,
    /// For each [`Index`] the next connection with the same user or token, or [`NONE`].
    next: [u32; 2],
    /// For each [`Index`] the connection before. The list is linked both ways, so that the cost of removing an entry
    /// does not depend on how many connections share a token.
    before: [u32; 2],
}

const _: () = assert!(size_of::<Option<Entry>>() == 48, "what each connection with a token costs");

/// The indexes by which connections are found.
#[derive(Clone, Copy, Debug)]
enum Index {
    User,
    Token,
}

/// The identities of all connections of a shard, by slot, user and token.
#[derive(Debug)]
pub(super) struct Identities {
    entries: Sparse<Entry>,
    /// For each [`Index`] the first connection of each user or token, which leads to the others.
    first: [Names; 2],
    pool: GrantsPool,
    /// The tokens that are refused although they verify.
    pub(super) revoked: Revoked,
}

/// A connection's user or token, under which the index names the connection.
fn name(entries: &Sparse<Entry>, index: Index, slot: u32) -> &str {
    let known = entries.get(slot).map(|entry| &entry.known);
    let name = known.and_then(|known| match index {
        Index::User => known.user.as_ref(),
        Index::Token => known.token.as_ref(),
    });
    name.map_or("", ArcStr::as_str)
}

impl Identities {
    /// An empty table of identities, with the tokens that were revoked before the start.
    pub(super) fn new(revoked: Revoked) -> Identities {
        let hasher = RandomState::new();
        Identities {
            entries: Sparse::default(),
            first: [Names::new(hasher.clone()), Names::new(hasher)],
            pool: GrantsPool::default(),
            revoked,
        }
    }

    /// A connection's identity, if it has one.
    pub(super) fn get(&self, slot: u32) -> Option<&Known> {
        self.entries.get(slot).map(|entry| &entry.known)
    }

    /// The number of connections with an identity.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Sets a connection's identity, in place of an earlier one.
    pub(super) fn insert(&mut self, slot: u32, mut known: Known) {
        self.remove(slot);
        known.grants = self.pool.share(known.grants);
        let is_named = [known.user.is_some(), known.token.is_some()];
        self.entries.insert(slot, Entry { known, next: [NONE; 2], before: [NONE; 2] });
        for index in [Index::User, Index::Token] {
            if is_named[index as usize] {
                self.enter(index, slot);
            }
        }
    }

    fn enter(&mut self, index: Index, slot: u32) {
        let Identities { entries, first, .. } = self;
        let names = &mut first[index as usize];
        let head = names.find(name(entries, index, slot), |other| name(entries, index, other));
        let Some(head) = head else {
            names.add(slot, |other| name(entries, index, other));
            return;
        };
        // The entry is put behind the head, so that the index, which names the head, need not change.
        let second = entries.get_mut(head).map(|head| std::mem::replace(&mut head.next[index as usize], slot));
        let second = second.unwrap_or(NONE);
        if let Some(entry) = entries.get_mut(slot) {
            (entry.before[index as usize], entry.next[index as usize]) = (head, second);
        }
        if let Some(entry) = entries.get_mut(second) {
            entry.before[index as usize] = slot;
        }
    }

    fn leave(&mut self, index: Index, slot: u32) {
        let Identities { entries, first, .. } = self;
        let names = &mut first[index as usize];
        let links = entries.get(slot).map(|entry| (entry.before[index as usize], entry.next[index as usize]));
        let Some((before, next)) = links else { return };
        if before == NONE {
            // The index names this entry and must name the next one instead.
            names.remove(slot, |other| name(entries, index, other));
            if next != NONE {
                names.add(next, |other| name(entries, index, other));
            }
        }
        if let Some(entry) = entries.get_mut(before) {
            entry.next[index as usize] = next;
        }
        if let Some(entry) = entries.get_mut(next) {
            entry.before[index as usize] = before;
        }
    }

    /// Takes a connection's identity away.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Known> {
        let known = self.get(slot)?;
        let is_named = [known.user.is_some(), known.token.is_some()];
        for index in [Index::User, Index::Token] {
            if is_named[index as usize] {
                self.leave(index, slot);
            }
        }
        self.entries.remove(slot).map(|entry| entry.known)
    }

    fn all(&self, index: Index, text: &str) -> impl Iterator<Item = u32> {
        let head = self.first[index as usize].find(text, |slot| name(&self.entries, index, slot));
        let next =
            move |slot: &u32| self.entries.get(*slot).map(|entry| entry.next[index as usize]).filter(|n| *n != NONE);
        std::iter::successors(head, next)
    }

    /// The connections of one user. They may be many.
    pub(super) fn of_user(&self, user: &str) -> impl Iterator<Item = u32> {
        self.all(Index::User, user)
    }

    /// The connections that came with one token. They may be many.
    pub(super) fn of_token(&self, id: &str) -> impl Iterator<Item = u32> {
        self.all(Index::Token, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(user: Option<&str>, token: Option<&str>) -> Known {
        let (user, token) = (user.map(Into::into), token.map(Into::into));
        Known { user, token, grants: Grants::default(), expires: 5, is_asked: false }
    }

    fn sorted(slots: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut slots: Vec<u32> = slots.collect();
        slots.sort_unstable();
        slots
    }

    proptest! {
        /// Compares the indexes with a plain model: a list of slots with their users and tokens.
        #[test]
        fn connections_are_found_by_user_and_by_token_until_they_go(
            steps in prop::collection::vec((0u32..300, prop::option::of(0u8..4), prop::option::of(0u8..4), any::<bool>()), 0..200)
        ) {
            let mut identities = Identities::new(Revoked::default());
            let mut model: Vec<(u32, Option<String>, Option<String>)> = Vec::new();
            for (slot, user, token, comes) in steps {
                let (user, token) = (user.map(|n| format!("u{n}")), token.map(|n| format!("t{n}")));
                model.retain(|(other, ..)| *other != slot);
                if comes {
                    identities.insert(slot, known(user.as_deref(), token.as_deref()));
                    model.push((slot, user, token));
                } else {
                    identities.remove(slot);
                }
                prop_assert_eq!(identities.len(), model.len());
                for number in 0..4 {
                    let (user, token) = (format!("u{number}"), format!("t{number}"));
                    let of_user = model.iter().filter(|row| row.1.as_ref() == Some(&user)).map(|row| row.0);
                    let of_token = model.iter().filter(|row| row.2.as_ref() == Some(&token)).map(|row| row.0);
                    prop_assert_eq!(sorted(identities.of_user(&user)), sorted(of_user));
                    prop_assert_eq!(sorted(identities.of_token(&token)), sorted(of_token));
                }
            }
        }
    }
}
