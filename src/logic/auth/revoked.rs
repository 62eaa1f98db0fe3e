//! Revocations: tokens that are refused although they verify.

use std::collections::HashMap;

use arcstr::ArcStr;

/// The most revoked tokens that are remembered. The one that expires first makes room for another.
const REVOKED_MAX: usize = 1_000_000;

/// Revoked tokens by their ids (`jti`, RFC 7519 §4.1.7), with the times until which they are refused, in seconds
/// since
/// 1970.
#[derive(Clone, Debug, Default)]
pub struct Revoked(HashMap<ArcStr, u64>);

impl Revoked {
    /// Revokes a token until `until_s`, or for longer if an earlier revocation lasts longer.
    pub fn add(&mut self, id: ArcStr, until_s: u64) {
        self.add_within(REVOKED_MAX, id, until_s);
    }

    fn add_within(&mut self, count_max: usize, id: ArcStr, until_s: u64) {
        if self.0.len() >= count_max
            && !self.0.contains_key(&id)
            && let Some(first) = self.0.iter().min_by_key(|(_, until)| **until).map(|(id, _)| id.clone())
        {
            self.0.remove(&first);
        }
        let until = self.0.entry(id).or_default();
        *until = (*until).max(until_s);
    }

    /// Whether a token is revoked at `now_s`.
    pub fn contains(&self, id: &str, now_s: u64) -> bool {
        self.0.get(id).is_some_and(|until| *until > now_s)
    }

    /// Forgets revocations that are over at `now_s`.
    pub fn tidy(&mut self, now_s: u64) {
        self.0.retain(|_, until| *until > now_s);
    }

    /// The number of remembered tokens.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no token is remembered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All remembered tokens, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&ArcStr, u64)> {
        self.0.iter().map(|(id, until)| (id, *until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_token_stays_so_until_it_expires() {
        let mut revoked = Revoked::default();
        revoked.add("t".into(), 100);
        revoked.add("t".into(), 50);
        assert!(revoked.contains("t", 99) && !revoked.contains("t", 100) && !revoked.contains("x", 0));
        revoked.tidy(99);
        assert_eq!(revoked.len(), 1);
        revoked.tidy(100);
        assert!(revoked.is_empty());
    }

    #[test]
    fn the_one_that_expires_first_makes_room_for_another() {
        let mut revoked = Revoked::default();
        let ids = |revoked: &Revoked| {
            let mut all: Vec<_> = revoked.iter().map(|(id, until)| (id.to_string(), until)).collect();
            all.sort();
            all
        };
        for (id, until_s) in [("a", 30), ("b", 10), ("c", 20), ("b", 11)] {
            revoked.add_within(3, id.into(), until_s);
        }
        assert_eq!(ids(&revoked), [("a".into(), 30), ("b".into(), 11), ("c".into(), 20)]);
        revoked.add_within(3, "d".into(), 40);
        assert_eq!(ids(&revoked), [("a".into(), 30), ("c".into(), 20), ("d".into(), 40)]);
        assert!(!revoked.is_empty() && revoked.len() == 3);
    }
}
