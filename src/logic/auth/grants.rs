//! A token's grants: patterns of the channel names that a client may subscribe or publish to.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

/// A pattern of channel names: `*` stands for any characters, `{sub}` for the user, and other text for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

/// The text that stands for the token's user in a pattern.
const USER: &str = "{sub}";

impl Pattern {
    /// Reads a pattern from its text.
    pub fn new(text: &str) -> Pattern {
        Pattern(text.into())
    }

    /// Whether a channel's name fits the pattern for a user. The user's name is taken literally. Without a user, a
    /// pattern that needs one fits no name.
    pub fn matches(&self, name: &str, user: Option<&str>) -> bool {
        let user = match (self.0.contains(USER), user) {
            (true, None) => return false,
            (true, user) => user,
            (false, _) => None,
        };
        let literal = |part| match user {
            Some(user) => Cow::Owned(str::replace(part, USER, user)),
            None => Cow::Borrowed(part),
        };
        let mut parts = self.0.split('*').map(literal).peekable();
        let Some(first) = parts.next() else { return false };
        if parts.peek().is_none() {
            return name == first;
        }
        let Some(mut rest) = name.strip_prefix(&*first) else { return false };
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(&*part);
            }
            let Some(at) = rest.find(&*part) else { return false };
            rest = &rest[at + part.len()..];
        }
        false
    }
}

/// The channels that a token names. The type is one pointer, and equal grants can share their memory
/// ([`GrantsPool`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grants(Option<Arc<Lists>>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Lists {
    subscribe: Box<[Pattern]>,
    publish: Box<[Pattern]>,
    /// The exact names of channels that the client may subscribe to.
    names: Box<[Box<str>]>,
}

impl Grants {
    /// The grants of a token's claims `channels` and `publish`.
    pub fn new(subscribe: &[String], publish: &[String]) -> Grants {
        let read = |patterns: &[String]| patterns.iter().map(|text| Pattern::new(text)).collect();
        Grants(Some(Arc::new(Lists { subscribe: read(subscribe), publish: read(publish), names: Box::default() })))
    }

    /// The patterns of channels to subscribe to, those to publish to, and the exact names.
    pub fn parts(&self) -> [Vec<String>; 3] {
        let Some(lists) = &self.0 else { return Default::default() };
        let texts = |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.0.to_string()).collect();
        let names = lists.names.iter().map(|name| name.to_string()).collect();
        [texts(&lists.subscribe), texts(&lists.publish), names]
    }

    /// The grants of these parts.
    pub fn of_parts([subscribe, publish, names]: [Vec<String>; 3]) -> Grants {
        let mut grants = Grants::new(&subscribe, &publish);
        if !names.is_empty() {
            grants.allow(&names, usize::MAX);
        }
        grants
    }

    /// Adds exact names of channels to subscribe to. Only the last `names_max` names of the grants are kept.
    pub fn allow(&mut self, channels: &[String], names_max: usize) {
        let mut lists = self.0.take().map_or_else(Lists::default, Arc::unwrap_or_clone);
        let kept = lists.names.into_iter().filter(|name| !channels.iter().any(|other| **other == **name));
        let mut names: Vec<Box<str>> = kept.chain(channels.iter().map(|name| name.as_str().into())).collect();
        names.drain(..names.len().saturating_sub(names_max));
        lists.names = names.into();
        self.0 = Some(Arc::new(lists));
    }

    /// Whether the grants allow the user to subscribe to a channel.
    pub fn may_subscribe(&self, channel: &str, user: Option<&str>) -> bool {
        self.0.as_ref().is_some_and(|lists| {
            lists.names.iter().any(|name| **name == *channel)
                || lists.subscribe.iter().any(|pattern| pattern.matches(channel, user))
        })
    }

    /// Whether the grants allow the user to publish to a channel.
    pub fn may_publish(&self, channel: &str, user: Option<&str>) -> bool {
        self.0.as_ref().is_some_and(|lists| lists.publish.iter().any(|pattern| pattern.matches(channel, user)))
    }
}

/// A pool in which equal grants share their memory, because most tokens of a backend differ only in the user.
#[derive(Debug, Default)]
pub struct GrantsPool(HashSet<Arc<Lists>>);

/// The number of grants from which the pool looks for unused ones before it grows.
const POOL_TIDIED: usize = 64;

impl GrantsPool {
    /// The shared copy of equal grants.
    pub fn share(&mut self, grants: Grants) -> Grants {
        let Some(lists) = grants.0 else { return grants };
        if let Some(known) = self.0.get(&lists) {
            return Grants(Some(known.clone()));
        }
        if self.0.len() >= POOL_TIDIED && self.0.len() == self.0.capacity() {
            self.0.retain(|lists| Arc::strong_count(lists) > 1);
        }
        self.0.insert(lists.clone());
        Grants(Some(lists))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).matches(name, Some("u*1"))
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name) in [
            ("news", "news"),
            ("*", "anything:at-all"),
            ("orders:*", "orders:"),
            ("orders:*", "orders:1:2"),
            ("*:public", "a:public"),
            ("a*b*c", "a-b-b-c"),
            ("a**b", "ab"),
            ("user:{sub}", "user:u*1"),
            ("user:{sub}:*", "user:u*1:x"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("news", "newsx"),
            ("news", "News"),
            ("", "a"),
            ("orders:*", "order:1"),
            ("orders:*", "xorders:1"),
            ("ab*ba", "aba"),
            ("a*b*c", "acb"),
            ("user:{sub}", "user:u1"),
            ("user:{sub}", "user:uxx1"),
            ("user:{sub}", "user:{sub}"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(!Pattern::new("user:{sub}").matches("user:", None));
        assert!(!Pattern::new("user:{sub}").matches("user:{sub}", None));
        assert!(Pattern::new("user:*").matches("user:x", None));
    }

    #[test]
    fn subscribing_and_publishing_are_granted_apart() {
        let grants = Grants::new(&["a".into()], &["b:*".into(), "{sub}".into()]);
        assert!(grants.may_subscribe("a", None) && !grants.may_subscribe("b:1", None));
        assert!(grants.may_publish("b:1", None) && !grants.may_publish("a", None) && !grants.may_publish("", None));
        assert!(grants.may_publish("u", Some("u")) && !grants.may_publish("v", Some("u")));
    }

    #[test]
    fn a_name_is_granted_exactly() {
        let mut grants = Grants::default();
        grants.allow(&["a*".into()], 2);
        assert!(grants.may_subscribe("a*", None) && !grants.may_subscribe("ab", None));
    }

    #[test]
    fn names_come_beside_patterns_and_the_last_ones_are_kept() {
        let mut grants = Grants::new(&["p:*".into()], &["q".into()]);
        let allowed = |grants: &Grants| ["a", "b", "c", "d", "p:1", "q"].map(|name| grants.may_subscribe(name, None));
        grants.allow(&["a".into(), "b".into()], 2);
        assert_eq!(allowed(&grants), [true, true, false, false, true, false]);
        // A name that is added again takes no second place and becomes the last one.
        grants.allow(&["b".into()], 2);
        assert_eq!(allowed(&grants), [true, true, false, false, true, false]);
        grants.allow(&["a".into()], 2);
        grants.allow(&["c".into()], 2);
        assert_eq!(allowed(&grants), [true, false, true, false, true, false]);
        assert!(grants.may_publish("q", None) && !grants.may_publish("a", None));
    }

    #[test]
    fn equal_grants_are_the_same_and_unused_ones_go_before_the_pool_grows() {
        let mut pool = GrantsPool::default();
        let grants = |number: usize| Grants::new(&[format!("c:{number}")], &[]);
        let is_shared = |a: &Grants, b: &Grants| Arc::ptr_eq(a.0.as_ref().unwrap(), b.0.as_ref().unwrap());
        let held = pool.share(grants(0));
        assert!(is_shared(&held, &pool.share(grants(0))));
        let mut unused = 0;
        while pool.0.len() < POOL_TIDIED || pool.0.len() < pool.0.capacity() {
            unused += 1;
            pool.share(grants(unused));
            assert_eq!(pool.0.len(), 1 + unused, "it is not looked for unused ones while there is room");
        }
        let other = pool.share(grants(unused + 1));
        assert_eq!(pool.0.len(), 2);
        assert!(is_shared(&held, &pool.share(grants(0))) && is_shared(&other, &pool.share(grants(unused + 1))));
        assert_eq!(pool.share(Grants::default()), Grants::default());
    }

    proptest! {
        /// Compares patterns with a regular expression of the same meaning.
        #[test]
        fn agrees_with_a_simple_matcher(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            fn simple(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|at| simple(rest, &name[at..])),
                    Some((byte, rest)) => name.first() == Some(byte) && simple(rest, &name[1..]),
                }
            }
            let expected = simple(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(Pattern::new(&pattern).matches(&name, None), expected);
        }
    }
}
