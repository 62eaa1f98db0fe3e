//! Revocations: tokens that are refused although they verify.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;

/// The most revoked tokens that are remembered. The one that expires first makes room for another.
const REVOKED_MAX: usize = 1_000_000;
/// Revocations that one call of [`Revoked::tidy`] forgets, so that it does not take long.
const FORGOTTEN_MAX: usize = 1000;

/// Revoked tokens by their ids (`jti`, RFC 7519 §4.1.7), with the times until which they are refused, in seconds since
/// 1970.
///
/// Both orders are trees: adding one to a million costs no more than some comparisons, and nothing is copied at once.
#[derive(Clone, Debug, Default)]
pub struct Revoked {
    untils: BTreeMap<ArcStr, u64>,
    by_end: BTreeSet<(u64, ArcStr)>,
}

impl Revoked {
    /// All of `tokens` that are not over at `now_s`; of too many, those that last longest. This is quicker than adding one
    /// after the other.
    pub fn collect(tokens: impl IntoIterator<Item = (ArcStr, u64)>, now_s: u64) -> Revoked {
        Revoked::collect_within(REVOKED_MAX, tokens, now_s)
    }

    fn collect_within(count_max: usize, tokens: impl IntoIterator<Item = (ArcStr, u64)>, now_s: u64) -> Revoked {
        let mut all: Vec<(ArcStr, u64)> = tokens.into_iter().filter(|(_, until_s)| *until_s > now_s).collect();
        // The last of several revocations of one token is the longest.
        all.sort_unstable();
        all.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same {
                earlier.1 = later.1;
            }
            is_same
        });
        let mut by_end: Vec<(u64, ArcStr)> = all.iter().map(|(id, until_s)| (*until_s, id.clone())).collect();
        by_end.sort_unstable();
        let over = by_end.len().saturating_sub(count_max);
        by_end.drain(..over);
        let by_end: BTreeSet<(u64, ArcStr)> = by_end.into_iter().collect();
        if over > 0 {
            all.retain(|(id, until_s)| by_end.contains(&(*until_s, id.clone())));
        }
        Revoked { untils: all.into_iter().collect(), by_end }
    }

    /// Revokes a token until `until_s`, or for longer if an earlier revocation lasts longer.
    pub fn add(&mut self, id: ArcStr, until_s: u64) {
        self.add_within(REVOKED_MAX, id, until_s);
    }

    fn add_within(&mut self, count_max: usize, id: ArcStr, until_s: u64) {
        match self.untils.get(&id).copied() {
            Some(known) if known >= until_s => return,
            Some(known) => {
                self.by_end.remove(&(known, id.clone()));
            }
            None if self.untils.len() >= count_max => {
                if let Some((_, first)) = self.by_end.pop_first() {
                    self.untils.remove(&first);
                }
            }
            None => {}
        }
        self.by_end.insert((until_s, id.clone()));
        self.untils.insert(id, until_s);
    }

    /// Whether a token is revoked at `now_s`.
    pub fn contains(&self, id: &str, now_s: u64) -> bool {
        self.untils.get(id).is_some_and(|until| *until > now_s)
    }

    /// Forgets some of the revocations that are over at `now_s`; returns whether none of them is left.
    pub fn tidy(&mut self, now_s: u64) -> bool {
        for _ in 0..FORGOTTEN_MAX {
            if self.by_end.first().is_none_or(|(until_s, _)| *until_s > now_s) {
                return true;
            }
            if let Some((_, id)) = self.by_end.pop_first() {
                self.untils.remove(&id);
            }
        }
        false
    }

    /// The number of remembered tokens.
    pub fn len(&self) -> usize {
        self.untils.len()
    }

    /// Whether no token is remembered.
    pub fn is_empty(&self) -> bool {
        self.untils.is_empty()
    }

    /// All remembered tokens in the order of their ends, after the one named if there is one.
    pub fn after(&self, last: Option<&(u64, ArcStr)>) -> impl Iterator<Item = &(u64, ArcStr)> {
        use std::ops::Bound;
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_end.range((start, Bound::Unbounded))
    }

    /// All remembered tokens, in the order of their ends.
    pub fn iter(&self) -> impl Iterator<Item = (&ArcStr, u64)> {
        self.by_end.iter().map(|(until_s, id)| (id, *until_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(revoked: &Revoked) -> Vec<(String, u64)> {
        let mut all: Vec<_> = revoked.iter().map(|(id, until)| (id.to_string(), until)).collect();
        all.sort();
        assert_eq!(all.len(), revoked.len());
        all
    }

    #[test]
    fn a_revoked_token_stays_so_until_it_expires() {
        let mut revoked = Revoked::default();
        revoked.add("t".into(), 100);
        revoked.add("t".into(), 50);
        assert!(revoked.contains("t", 99) && !revoked.contains("t", 100) && !revoked.contains("x", 0));
        assert!(revoked.tidy(99));
        assert_eq!(revoked.len(), 1);
        assert!(revoked.tidy(100));
        assert!(revoked.is_empty());
    }

    #[test]
    fn the_one_that_expires_first_makes_room_for_another() {
        let mut revoked = Revoked::default();
        for (id, until_s) in [("a", 30), ("b", 10), ("c", 20), ("b", 11)] {
            revoked.add_within(3, id.into(), until_s);
        }
        assert_eq!(ids(&revoked), [("a".into(), 30), ("b".into(), 11), ("c".into(), 20)]);
        revoked.add_within(3, "d".into(), 40);
        assert_eq!(ids(&revoked), [("a".into(), 30), ("c".into(), 20), ("d".into(), 40)]);
        assert!(!revoked.is_empty() && revoked.len() == 3);
    }

    #[test]
    fn many_that_are_over_are_forgotten_bit_by_bit() {
        let mut revoked = Revoked::default();
        for n in 0..FORGOTTEN_MAX + 1 {
            revoked.add(n.to_string().into(), 10);
        }
        revoked.add("later".into(), 11);
        assert!(!revoked.tidy(10));
        assert_eq!(revoked.len(), 2);
        assert!(revoked.tidy(10));
        assert_eq!(ids(&revoked), [("later".into(), 11)]);
    }

    #[test]
    fn tokens_come_in_the_order_of_their_ends_from_any_place_on() {
        let mut revoked = Revoked::default();
        for (id, until_s) in [("a", 30), ("b", 10), ("c", 20)] {
            revoked.add(id.into(), until_s);
        }
        let names = |last: Option<&(u64, ArcStr)>| revoked.after(last).map(|(_, id)| id.as_str()).collect::<Vec<_>>();
        assert_eq!((names(None), names(Some(&(10, "b".into())))), (vec!["b", "c", "a"], vec!["c", "a"]));
    }

    proptest! {
        #[test]
        fn tokens_collected_at_once_are_those_added_one_after_the_other(
            tokens in prop::collection::vec((0u8..20, 1u64..30), 0..60), now_s in 0u64..30, count_max in 20usize..30,
        ) {
            let tokens: Vec<(ArcStr, u64)> = tokens.iter().map(|(id, until)| (id.to_string().into(), *until)).collect();
            let mut added = Revoked::default();
            tokens.iter().for_each(|(id, until_s)| added.add_within(count_max, id.clone(), *until_s));
            added.tidy(now_s);
            let collected = Revoked::collect_within(count_max, tokens.iter().cloned(), now_s);
            prop_assert_eq!(ids(&collected), ids(&added));
            prop_assert_eq!(ids(&Revoked::collect(tokens, now_s)), ids(&added));
        }

        #[test]
        fn of_too_many_those_that_last_longest_are_kept(untils in prop::collection::vec(1u64..100, 0..60)) {
            let tokens = untils.iter().enumerate().map(|(n, until_s)| (n.to_string().into(), *until_s));
            let kept = Revoked::collect_within(10, tokens, 0);
            let mut expected = untils.clone();
            expected.sort_unstable();
            expected.drain(..expected.len().saturating_sub(10));
            prop_assert_eq!(kept.len(), expected.len());
            prop_assert_eq!(kept.iter().map(|(_, until_s)| until_s).collect::<Vec<_>>(), expected);
        }
    }
}
