//! Presence: the users on each channel whose users are counted, over all shards.

use std::collections::BTreeMap;

use arcstr::ArcStr;

use crate::logic::protocol::feed::{PresenceAnswer, PresentUser};

/// The connections on one channel.
#[derive(Debug, Default)]
struct Present {
    /// By user, the number of the user's connections. A tree, because a hash table grows by copying all of it at once.
    users: BTreeMap<ArcStr, u32>,
    /// Connections of clients whose token names no user.
    anonymous: u32,
    /// The sum of the users' connections.
    of_users: u64,
}

/// All channels whose users are counted and that have a connection.
#[derive(Debug, Default)]
pub(super) struct Presence {
    channels: BTreeMap<u32, Present>,
}

impl Presence {
    /// Counts a connection on a channel; returns whether it is the user's first one there.
    pub(super) fn join(&mut self, channel: u32, user: Option<&ArcStr>) -> bool {
        let present = self.channels.entry(channel).or_default();
        let count = match user {
            Some(user) => {
                present.of_users += 1;
                present.users.entry(user.clone()).or_default()
            }
            None => &mut present.anonymous,
        };
        *count += 1;
        *count == 1 && user.is_some()
    }

    /// Stops counting a connection on a channel; returns whether it was the user's last one there.
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
                present.of_users -= 1;
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

    /// The number of a user's connections on a channel.
    pub(super) fn connections_of(&self, channel: Option<u32>, user: &str) -> u32 {
        let present = channel.and_then(|channel| self.channels.get(&channel));
        present.and_then(|present| present.users.get(user)).copied().unwrap_or(0)
    }

    /// The answer to the command `presence`, with at most `users_max` users. A channel that does not exist has no number.
    pub(super) fn answer(&self, channel: Option<u32>, users_max: usize) -> PresenceAnswer<'_> {
        let Some(Present { users, anonymous, of_users }) = channel.and_then(|channel| self.channels.get(&channel))
        else {
            return PresenceAnswer { connections: 0, count: 0, users: Vec::new() };
        };
        let connections = of_users + u64::from(*anonymous);
        let shown = users.iter().take(users_max);
        PresenceAnswer {
            connections,
            count: users.len(),
            users: shown.map(|(user, connections)| PresentUser { user, connections: *connections }).collect(),
        }
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
        let answer = presence.answer(Some(7), 10);
        assert_eq!((answer.connections, answer.count), (4, 1));
        assert_eq!((answer.users[0].user, answer.users[0].connections), ("u", 3));
        assert_eq!([Some(7), Some(8), None].map(|channel| presence.connections_of(channel, "u")), [3, 0, 0]);
        assert_eq!((presence.answer(Some(7), 0).count, presence.answer(Some(7), 0).users.len()), (1, 0));
        assert_eq!([0; 3].map(|_| presence.leave(7, Some(&user))), [false, false, true]);
        assert!(!presence.leave(7, Some(&user)));
        assert!(!presence.leave(7, None));
        assert_eq!(presence.answer(Some(7), 10).connections, 0);
        assert!(presence.channels.is_empty());
    }
}
