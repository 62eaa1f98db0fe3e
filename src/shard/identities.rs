//! Who the connections are that came with a token: beside the slots, so that those without one pay nothing.

use std::collections::HashMap;

use arcstr::ArcStr;

use crate::logic::auth::Identity;
use crate::logic::wheel::Tick;

/// Revoked tokens that are remembered at most; the one that expires first makes room.
const REVOKED_MAX: usize = 1_000_000;

/// An identity and when it ends.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) identity: Identity,
    pub(super) expires: Tick,
    /// Whether it is by the backend's word, not by a token.
    pub(super) is_asked: bool,
}

/// All of a shard.
#[derive(Debug, Default)]
pub(super) struct Identities {
    by_slot: HashMap<u32, Known>,
    by_user: HashMap<ArcStr, Vec<u32>>,
    by_token: HashMap<ArcStr, Vec<u32>>,
    /// Tokens that are refused, and until when, in seconds since 1970.
    revoked: HashMap<ArcStr, u64>,
}

fn enter(index: &mut HashMap<ArcStr, Vec<u32>>, name: Option<&ArcStr>, slot: u32) {
    if let Some(name) = name {
        index.entry(name.clone()).or_default().push(slot);
    }
}

fn leave(index: &mut HashMap<ArcStr, Vec<u32>>, name: Option<&ArcStr>, slot: u32) {
    let Some(name) = name else { return };
    let Some(slots) = index.get_mut(name) else { return };
    slots.retain(|other| *other != slot);
    if slots.is_empty() {
        index.remove(name);
    }
}

impl Identities {
    /// Whom a connection belongs to, if it came with a token.
    pub(super) fn get(&self, slot: u32) -> Option<&Known> {
        self.by_slot.get(&slot)
    }

    /// How many connections came with a token.
    pub(super) fn len(&self) -> usize {
        self.by_slot.len()
    }

    /// Says whom a connection belongs to; whom it belonged to before is forgotten.
    pub(super) fn insert(&mut self, slot: u32, known: Known) {
        self.remove(slot);
        enter(&mut self.by_user, known.identity.user.as_ref(), slot);
        enter(&mut self.by_token, known.identity.token.as_ref(), slot);
        self.by_slot.insert(slot, known);
    }

    /// Forgets whom a connection belonged to.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Known> {
        let known = self.by_slot.remove(&slot)?;
        leave(&mut self.by_user, known.identity.user.as_ref(), slot);
        leave(&mut self.by_token, known.identity.token.as_ref(), slot);
        Some(known)
    }

    /// The connections of a user.
    pub(super) fn of_user(&self, user: &str) -> Vec<u32> {
        self.by_user.get(user).cloned().unwrap_or_default()
    }

    /// The connections that came with a token.
    pub(super) fn of_token(&self, id: &str) -> Vec<u32> {
        self.by_token.get(id).cloned().unwrap_or_default()
    }

    /// Refuses a token until `until_s`.
    pub(super) fn revoke(&mut self, id: ArcStr, until_s: u64) {
        if self.revoked.len() >= REVOKED_MAX
            && let Some(first) = self.revoked.iter().min_by_key(|(_, until)| **until).map(|(id, _)| id.clone())
        {
            self.revoked.remove(&first);
        }
        let until = self.revoked.entry(id).or_default();
        *until = (*until).max(until_s);
    }

    /// Whether a token is refused.
    pub(super) fn is_revoked(&self, id: &str, now_s: u64) -> bool {
        self.revoked.get(id).is_some_and(|until| *until > now_s)
    }

    /// Forgets revocations of tokens that have expired since.
    pub(super) fn tidy(&mut self, now_s: u64) {
        self.revoked.retain(|_, until| *until > now_s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(user: &str, token: &str) -> Known {
        let identity =
            Identity { user: Some(user.into()), token: Some(token.into()), expires_s: 9, grants: Default::default() };
        Known { identity, expires: 5, is_asked: false }
    }

    #[test]
    fn connections_are_found_by_user_and_by_token_until_they_go() {
        let mut identities = Identities::default();
        identities.insert(1, known("u", "a"));
        identities.insert(2, known("u", "b"));
        assert_eq!((identities.of_user("u"), identities.of_token("b")), (vec![1, 2], vec![2]));
        identities.insert(1, known("v", "c"));
        assert_eq!((identities.of_user("u"), identities.of_user("v")), (vec![2], vec![1]));
        assert!(identities.of_token("a").is_empty());
        for slot in [1, 2, 3] {
            identities.remove(slot);
        }
        assert_eq!(identities.len(), 0);
        assert!(identities.by_user.is_empty() && identities.by_token.is_empty());
    }

    #[test]
    fn a_revoked_token_stays_so_until_it_expires() {
        let mut identities = Identities::default();
        identities.revoke("t".into(), 100);
        identities.revoke("t".into(), 50);
        assert!(identities.is_revoked("t", 99) && !identities.is_revoked("t", 100) && !identities.is_revoked("x", 0));
        identities.tidy(100);
        assert!(identities.revoked.is_empty());
    }
}
