//! Who is on which channel, counted over all shards.

use std::collections::HashMap;

use arcstr::ArcStr;

/// Who is on one channel.
#[derive(Debug, Default)]
pub(super) struct Present {
    users: HashMap<ArcStr, u32>,
    anonymous: u32,
}

impl Present {
    /// How many connections there are.
    pub(super) fn connections(&self) -> u64 {
        self.users.values().map(|count| u64::from(*count)).sum::<u64>() + u64::from(self.anonymous)
    }

    /// The users and how many connections each has.
    pub(super) fn users(&self) -> impl Iterator<Item = (&str, u32)> {
        self.users.iter().map(|(user, count)| (user.as_str(), *count))
    }
}

/// All channels that anyone is on whose coming and going counts.
#[derive(Debug, Default)]
pub(super) struct Presence {
    channels: HashMap<u32, Present>,
}

impl Presence {
    /// Counts a connection; returns whether it is its user's first.
    pub(super) fn join(&mut self, channel: u32, user: Option<&ArcStr>) -> bool {
        let present = self.channels.entry(channel).or_default();
        let count = match user {
            Some(user) => present.users.entry(user.clone()).or_default(),
            None => &mut present.anonymous,
        };
        *count += 1;
        *count == 1 && user.is_some()
    }

    /// Counts a connection no more; returns whether it was its user's last.
    pub(super) fn leave(&mut self, channel: u32, user: Option<&ArcStr>) -> bool {
        let Some(present) = self.channels.get_mut(&channel) else { return false };
        let is_last = match user {
            None => {
                present.anonymous = present.anonymous.saturating_sub(1);
                false
            }
            Some(user) => {
                let Some(count) = present.users.get_mut(user) else { return false };
                *count -= 1;
                let is_last = *count == 0;
                if is_last {
                    present.users.remove(user);
                }
                is_last
            }
        };
        if present.users.is_empty() && present.anonymous == 0 {
            self.channels.remove(&channel);
        }
        is_last
    }

    /// Who is on a channel.
    pub(super) fn on(&self, channel: u32) -> Option<&Present> {
        self.channels.get(&channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_comes_with_the_first_connection_and_goes_with_the_last() {
        let mut presence = Presence::default();
        let user = ArcStr::from("u");
        assert_eq!([0; 3].map(|_| presence.join(7, Some(&user))), [true, false, false]);
        assert!(!presence.join(7, None));
        let present = presence.on(7).unwrap();
        assert_eq!((present.connections(), present.users().collect::<Vec<_>>()), (4, vec![("u", 3)]));
        assert_eq!([0; 3].map(|_| presence.leave(7, Some(&user))), [false, false, true]);
        assert!(!presence.leave(7, Some(&user)));
        assert!(!presence.leave(7, None));
        assert!(presence.on(7).is_none());
    }
}
