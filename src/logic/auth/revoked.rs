//! Tokens that are refused although they verify.

use std::collections::HashMap;

use arcstr::ArcStr;

/// Revoked tokens that are remembered at most; the one that expires first makes room.
const REVOKED_MAX: usize = 1_000_000;

/// Revoked tokens by their ids (`jti`, RFC 7519 section 4.1.7), and until when they are refused, in seconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct Revoked(HashMap<ArcStr, u64>);

impl Revoked {
    /// Refuses a token until `until_s`, or longer if it is refused for longer.
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

    /// Whether a token is refused.
    pub fn contains(&self, id: &str, now_s: u64) -> bool {
        self.0.get(id).is_some_and(|until| *until > now_s)
    }

    /// Forgets tokens that have expired since.
    pub fn tidy(&mut self, now_s: u64) {
        self.0.retain(|_, until| *until > now_s);
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in no order.
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
