//! What a token lets its bearer do: patterns of channel names.

/// A pattern of channel names: `*` stands for any characters, everything else for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What stands between the stars; there is always at least one.
    parts: Vec<String>,
}

/// What stands for the token's user in a pattern.
const USER: &str = "{sub}";

impl Pattern {
    /// Reads a pattern; `{sub}` becomes the user, whose name is taken literally. `None` if it needs a user and
    /// there is none: it matches nothing.
    pub fn new(text: &str, user: Option<&str>) -> Option<Pattern> {
        if text.contains(USER) && user.is_none() {
            return None;
        }
        let parts = text.split('*').map(|part| part.replace(USER, user.unwrap_or_default())).collect();
        Some(Pattern { parts })
    }

    /// Whether a channel's name fits.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, others)) = self.parts.split_first() else { return false };
        let Some((last, middle)) = others.split_last() else { return name == first };
        let Some(mut rest) = name.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            let Some(at) = rest.find(part.as_str()) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last.as_str())
    }
}

/// The channels a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    subscribe: Vec<Pattern>,
    publish: Vec<Pattern>,
}

impl Grants {
    /// From the claims `channels` and `publish` of a token for `user`.
    pub fn new(subscribe: &[String], publish: &[String], user: Option<&str>) -> Grants {
        let read = |patterns: &[String]| patterns.iter().filter_map(|text| Pattern::new(text, user)).collect();
        Grants { subscribe: read(subscribe), publish: read(publish) }
    }

    /// Grants subscribing to channels of exactly these names.
    pub fn allow(&mut self, channels: &[String]) {
        let exactly = |name: &String| Pattern { parts: vec![name.clone()] };
        self.subscribe.extend(channels.iter().map(exactly));
    }

    /// Whether its bearer may subscribe to a channel.
    pub fn may_subscribe(&self, channel: &str) -> bool {
        self.subscribe.iter().any(|pattern| pattern.matches(channel))
    }

    /// Whether its bearer may publish to a channel.
    pub fn may_publish(&self, channel: &str) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern, Some("u*1")).is_some_and(|pattern| pattern.matches(name))
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
        assert_eq!(Pattern::new("user:{sub}", None), None);
        assert!(Pattern::new("user:*", None).is_some());
    }

    #[test]
    fn subscribing_and_publishing_are_granted_apart() {
        let grants = Grants::new(&["a".into()], &["b:*".into(), "{sub}".into()], None);
        assert!(grants.may_subscribe("a") && !grants.may_subscribe("b:1"));
        assert!(grants.may_publish("b:1") && !grants.may_publish("a") && !grants.may_publish(""));
    }

    #[test]
    fn a_name_is_granted_exactly() {
        let mut grants = Grants::default();
        grants.allow(&["a*".into()]);
        assert!(grants.may_subscribe("a*") && !grants.may_subscribe("ab"));
    }

    proptest! {
        /// The same as a regular expression would say.
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
            prop_assert_eq!(Pattern::new(&pattern, None).unwrap().matches(&name), expected);
        }
    }
}
